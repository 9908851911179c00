"""The bastion's own tokens: who logged in and when, signed, good for an hour and for one use of two.

A token proves a login; it opens no target. It counts as long as the coordination knows its id: logging out forgets
the id, and so does losing the coordination, which asks everybody to log in again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bastion.access.ids import new_id
from bastion.core.errors import NotFound, Unauthenticated, Unavailable
from bastion.core.identity import Identity, IdentityId, Strength
from bastion.ports import Clock, Coordination, Store

LIFETIME = timedelta(hours=1)
"""No token is good for longer, whoever asks."""

MAX_TOKEN = 16 * 1024
"""Characters; a header line is shorter still (aiohttp: 8190 bytes)."""

_CLAIMS = ("iss", "aud", "sub", "idp", "groups", "amr", "auth_time", "jti", "iat", "exp")


class Audience(StrEnum):
    """What a token is for. One kind is never accepted for the other."""

    API = "bastion-api"
    """Sent by the command line in the Authorization header."""
    BROWSER = "bastion-browser"
    """Sent by a browser as a cookie, on its own: never enough to change something."""


@dataclass(frozen=True, slots=True)
class TokenClaims:
    """What a token says after its signature, audience and times were verified. Only `TokenSigner.verify` makes one."""

    identity: IdentityId
    groups: frozenset[str]
    strength: Strength
    jti: str
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """A signed token, for its owner alone."""

    text: str
    claims: TokenClaims

    def __repr__(self) -> str:
        return f"Token({self.claims!r})"


class TokenSigner:
    """Signs and verifies tokens with the bastion's key (EdDSA, RFC 8037).

    Args:
        key: the bastion's; every node that is to accept the tokens has the same one.
        issuer: the bastion's public URL, so that another bastion's token is not taken here.
        clock: what expiry is judged by.
    """

    def __init__(self, *, key: Ed25519PrivateKey, issuer: str, clock: Clock) -> None:
        self._key = key
        self._public = key.public_key()
        self._issuer = issuer
        self._clock = clock

    def sign(self, identity: Identity, audience: Audience, until: datetime | None = None) -> Token:
        """A token that says ``identity`` logged in, good for `LIFETIME` from now, and not past ``until``."""
        now = self._clock.now()
        latest = now.replace(microsecond=0) + LIFETIME
        claims = TokenClaims(
            identity=identity.id,
            groups=identity.groups,
            strength=identity.strength,
            jti=new_id("t"),
            issued_at=now,
            expires_at=latest if until is None else min(latest, until.replace(microsecond=0)),
        )
        body = {
            "iss": self._issuer,
            "aud": audience.value,
            "sub": identity.id.subject,
            "idp": identity.id.issuer,
            "groups": sorted(identity.groups),
            "amr": sorted(identity.amr),
            "acr": identity.acr,
            "auth_time": identity.authenticated_at.timestamp(),
            "jti": claims.jti,
            "iat": now.timestamp(),  # to the microsecond: whoever is logged out and in within a second has two
            "exp": int(claims.expires_at.timestamp()),
        }
        return Token(jwt.encode(body, self._key, algorithm="EdDSA"), claims)

    def verify(self, unverified_token: str, audience: Audience) -> TokenClaims:
        """What the token says.

        Raises:
            Unauthenticated: it is not ours, not for ``audience``, altered, or over; nothing was looked up.
        """
        if len(unverified_token) > MAX_TOKEN:
            raise _not_ours("too long")
        try:
            body = jwt.decode(
                unverified_token,
                self._public,
                algorithms=["EdDSA"],
                audience=audience.value,
                issuer=self._issuer,
                # PyJWT would read the machine's clock; times are judged below, by ours.
                options={
                    "require": list(_CLAIMS),
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                    "strict_aud": True,
                },
            )
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise _not_ours(type(error).__name__) from None
        try:
            claims = _read(body)
        except (TypeError, ValueError, OverflowError) as error:
            raise _not_ours(f"signed by us, but not written so: {error}") from None
        # The length is judged too: no token is good for longer than an hour, even one that our key did sign.
        now, issued_at = self._clock.now(), claims.issued_at
        if claims.expires_at - issued_at > LIFETIME or issued_at > now + timedelta(seconds=1):
            raise _not_ours(f"from {issued_at} until {claims.expires_at}")
        if now >= claims.expires_at:
            raise _over("Your login is over. Log in again: bastion login", claims, f"at {claims.expires_at}")
        return claims


class Tokens:
    """Issues tokens, turns them back into the identity they prove, and ends them."""

    def __init__(self, *, signer: TokenSigner, store: Store, coordination: Coordination, clock: Clock) -> None:
        self._signer = signer
        self._store = store
        self._coordination = coordination
        self._clock = clock

    async def issue(self, identity: Identity, audience: Audience, until: datetime | None = None) -> Token:
        """A token for somebody who has just proven who they are, over at ``until`` if not before.

        Raises:
            Unavailable: the coordination did not keep its id, so it would not be accepted anyway.
        """
        token = self._signer.sign(identity, audience, until)
        lifetime = token.claims.expires_at - self._clock.now()
        if not await self._coordination.put_once(_key(token.claims), b"live", lifetime):
            raise Unavailable("The login could not be completed. Try again.", detail="token id is taken")
        return token

    async def identity(self, unverified_token: str, audience: Audience) -> tuple[Identity, TokenClaims]:
        """Whose token it is, as they are known now; how they authenticated is the token's, not a later login's.

        Raises:
            Unauthenticated: not a good token, ended by logging out, or the identity is not what it was.
        """
        claims = self._signer.verify(unverified_token, audience)
        if not await self._coordination.holds(_key(claims)):
            raise _over("You are logged out. Log in again: bastion login", claims, claims.jti)
        try:
            known = await self._store.identity(claims.identity)
        except NotFound:
            raise _over("You are not known here any more. Log in again: bastion login", claims) from None
        ended_at = await self._store.ended_at(claims.identity)
        if ended_at is not None and claims.issued_at <= ended_at:
            raise _over("You are logged out. Log in again: bastion login", claims, f"since {ended_at}")
        # Stale groups are how somebody keeps what was taken from them; the newest login decides, both ways.
        if known.groups != claims.groups:
            raise _over("Your groups have changed since you logged in. Log in again: bastion login", claims)
        return known.proven_by(claims.strength), claims

    async def end(self, claims: TokenClaims) -> None:
        """Log out: the token is refused from now on, on every node. Idempotent."""
        await self._coordination.take(_key(claims))


def _over(sentence: str, claims: TokenClaims, detail: str = "") -> Unauthenticated:
    return Unauthenticated(sentence, detail=detail, claimed=claims.identity)


def _key(claims: TokenClaims) -> str:
    return f"token:{claims.jti}"


def _read(body: Mapping[str, Any]) -> TokenClaims:
    """The claims as `TokenSigner.sign` writes them. Raises ValueError, TypeError or OverflowError for others."""
    acr = body.get("acr")
    texts = [body["idp"], body["sub"], body["jti"], *body["groups"], *body["amr"], acr or ""]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a claim is not text")
    return TokenClaims(
        identity=IdentityId(body["idp"], body["sub"]),
        groups=frozenset(body["groups"]),
        strength=Strength(_moment(body["auth_time"]), frozenset(body["amr"]), acr),
        jti=body["jti"],
        issued_at=_moment(body["iat"]),
        expires_at=_moment(body["exp"]),
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)


def _not_ours(detail: str) -> Unauthenticated:
    return Unauthenticated("This is not a login of this bastion. Log in: bastion login", detail=detail)
