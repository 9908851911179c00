"""Tokens for scripts: made, listed and revoked by the person who is logged in, and judged at every use.

A use is located, decided and written before anything is done with it. What was revoked, or whose owner's login was
ended, opens nothing from that moment on every node, since each use asks the store.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_network

from bastion.access.ids import new_id
from bastion.access.throttle import Throttle
from bastion.core.apitoken import ApiToken, Use, check_lifetime, check_name
from bastion.core.audit import Event, Kind
from bastion.core.errors import NotFound, Refused, Unauthenticated
from bastion.core.geofence import Network, Place
from bastion.core.identity import Identity, IdentityKind
from bastion.core.target import printable
from bastion.ports import Clock, Store

PREFIX = "bastion_"
"""By which scanners of repositories can know one, and we tell it from a login."""

MAX_LIVE = 20
"""Of one person."""

REMEMBERED = timedelta(days=30)
"""How long a token that is over is still listed."""

_SECRET_BYTES = 32
_TEXT = re.compile(r"bastion_([0-9a-z]{12})_([A-Za-z0-9_-]{43})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Made:
    """A new token; ``text`` is kept nowhere and shown once."""

    token: ApiToken
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class WishedToken:
    """What somebody wants of a token. Without ``network`` it is for the address that it is made from."""

    name: str
    uses: frozenset[Use]
    lifetime: timedelta
    network: Network | None = None


class ApiTokens:
    """The tokens of everybody."""

    def __init__(self, *, throttle: Throttle, store: Store, clock: Clock, node: str) -> None:
        self._throttle = throttle
        self._store = store
        self._clock = clock
        self._node = node

    async def make(self, owner: Identity, wished: WishedToken, place: Place) -> Made:
        """A token of ``owner``, who is logged in at ``place``.

        Raises:
            Refused: a workload asks, it would be for nothing or for too long, or there are `MAX_LIVE` already.
        """
        if owner.kind is not IdentityKind.PERSON:
            raise Refused("A workload has no tokens: it exchanges its platform's for each login.")
        if not wished.uses:
            raise Refused(f"Say what the token may be used for: {', '.join(Use)}.")
        now, secret = self._clock.now(), _encoded(secrets.token_bytes(_SECRET_BYTES))
        token = ApiToken(
            id=new_id("t"),
            owner=owner.id,
            name=check_name(wished.name),
            uses=wished.uses,
            network=wished.network or ip_network(place.address),
            digest=_digest(secret),
            strength=owner.strength,
            made_at=now,
            ends_at=now + check_lifetime(wished.lifetime),
        )
        if sum(each.is_live(now) for each in await self._store.api_tokens_of(owner.id)) >= MAX_LIVE:
            raise Refused(f"You have {MAX_LIVE} tokens already: revoke one.")
        async with self._store.transaction() as tx:
            await tx.forget_api_tokens(now - REMEMBERED)
            await tx.add_api_token(token)
            await tx.append(self._event(Kind.TOKEN_MADE, token, owner, place, until=token.ends_at.isoformat()))
        return Made(token, f"{PREFIX}{token.id.removeprefix('t-')}_{secret}")

    async def of(self, owner: Identity) -> Sequence[ApiToken]:
        """Theirs, newest first; those that are over, too."""
        return await self._store.api_tokens_of(owner.id)

    async def revoke(self, token_id: str, owner: Identity, place: Place) -> ApiToken:
        """End one before its time; twice is once.

        Raises:
            NotFound: they have none that is called so.
        """
        missing = NotFound(f"You have no token {printable(token_id, 40)!r}.")
        try:
            token = await self._store.api_token(token_id)
        except NotFound:
            raise missing from None
        if token.owner != owner.id:
            raise missing
        if token.revoked_at is not None:
            return token
        async with self._store.transaction() as tx:
            revoked = await tx.revoke_api_token(token_id, self._clock.now())
            await tx.append(self._event(Kind.TOKEN_REVOKED, token, owner, place))
        return revoked

    async def judge(
        self, unverified_text: str, needed: Collection[Use], place: Place, what: str
    ) -> tuple[Identity, ApiToken]:
        """Who acts by which token, for ``what``, which takes all of ``needed``; as they are known now, and as they had
        logged in when they made it.

        Raises:
            Unauthenticated: it is none, or over; or its owner was logged out since.
            Refused: it is not for this, or not for there. An event says so.
            TooOften: in place of either, when too many were refused from there.
        """
        async with self._throttle.watching(place):
            token = await self._known(unverified_text)
        owner = await self._store.identity(token.owner)
        refusal = await self._refusal(token, needed, place)
        if refusal is None:
            await self._write(self._event(Kind.TOKEN_USED, token, owner, place, what=what))
            return owner.proven_by(token.strength), token
        if (too_often := await self._throttle.failed(place, token.owner)) is not None:
            raise too_often from refusal
        await self._write(self._event(Kind.TOKEN_REFUSED, token, owner, place, refusal.public, what=what))
        raise refusal

    async def _refusal(self, token: ApiToken, needed: Collection[Use], place: Place) -> Refused | None:
        ended_at = await self._store.ended_at(token.owner)
        if not token.is_live(self._clock.now()) or (ended_at is not None and token.made_at <= ended_at):
            return Unauthenticated(f"The token {token.id} is over. Make another: bastion token create")
        objection = token.objection(frozenset(needed), place.address)
        return None if objection is None else Refused(objection)

    async def _known(self, unverified_text: str) -> ApiToken:
        match = _TEXT.fullmatch(unverified_text)
        if match is not None:
            try:
                token = await self._store.api_token(f"t-{match[1]}")
            except NotFound:
                token = None
            if token is not None and hmac.compare_digest(token.digest, _digest(match[2])):
                return token
        raise Unauthenticated("This is no token of this bastion.")

    async def _write(self, event: Event) -> None:
        async with self._store.transaction() as tx:
            await tx.append(event)

    def _event(
        self, kind: Kind, token: ApiToken, owner: Identity, place: Place, *reasons: str, **details: str
    ) -> Event:
        uses = ", ".join(sorted(token.uses))
        return Event(
            kind=kind,
            at=self._clock.now(),
            node=self._node,
            identity=owner.id,
            display=owner.display,
            address=str(place.address),
            country=place.country,
            reasons=reasons,
            details={"token": token.id, "name": token.name, "uses": uses, "network": str(token.network), **details},
        )


def _encoded(secret: bytes) -> str:
    return base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
