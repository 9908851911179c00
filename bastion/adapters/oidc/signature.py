"""A signed token, up to the point where its claims are its signer's: type, algorithm, key, signature, times, audience.

What a token is *for* is told by its ``typ``, so that none passes for another (RFC 8725, section 3.11).
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel
from joserfc.jws import JWSRegistry

from bastion.adapters.oidc.keys import PublicKey
from bastion.core.errors import Unauthenticated
from bastion.core.target import printable

LEEWAY = timedelta(seconds=60)
"""How far the clocks of the issuer and the bastion may be apart."""

MAX_SECONDS = 1 << 36
"""Seconds since 1970: the year 4147. Above it is not a time, and far above it Python cannot even compare."""

MAX_TOKEN = 128 * 1024
"""Characters."""


@dataclass(frozen=True, slots=True)
class TokenKind:
    """One use of signed tokens."""

    name: str
    types: frozenset[str | None]
    """What its ``typ`` may be, in lower case and without ``application/`` (RFC 7515, section 4.1.9); None: left out."""
    sentence: str

    def bad(self, detail: str) -> Unauthenticated:
        """The error for such a token. The sentence does not help to try again; the detail is for the log."""
        return Unauthenticated(self.sentence, detail=f"{self.name}: {detail}")


ID_TOKEN = TokenKind(
    "ID token",
    frozenset({None, "jwt"}),
    "The identity provider's answer could not be verified, so nobody was logged in. Start the login again.",
)
LOGOUT_TOKEN = TokenKind(
    "logout token", frozenset({"logout+jwt"}), "This logout token could not be verified, so nobody was logged out."
)
EVENT_TOKEN = TokenKind(
    "security event", frozenset({"secevent+jwt"}), "This security event could not be verified, so nothing was done."
)
WORKLOAD_TOKEN = TokenKind(
    "workload token",
    frozenset({None, "jwt", "at+jwt"}),
    "This workload token could not be verified, so nobody was logged in.",
)


class _Registry(JWSRegistry):
    max_header_length = 8192
    """Bytes: some issuers put their certificate chain into the header."""

    def __init__(self, algorithms: Collection[str]) -> None:
        # Unknown header parameters are ignored (RFC 7515, section 4); `crit` is checked all the same.
        super().__init__(algorithms=algorithms, strict_check_header=False)

    def get_alg(self, name: str) -> JWSAlgModel:
        """Without the library's warning that EdDSA has a newer name (RFC 9864): which one is used, the issuer says."""
        if self.allowed is None or name not in self.allowed:
            raise UnsupportedAlgorithmError(f"{name} is not allowed")
        return self.algorithms[name]


@dataclass(frozen=True, slots=True)
class Header:
    """What a token says about its own signature; nothing of it is trusted beyond choosing a key."""

    alg: str
    kid: str | None


def read_header(unverified_token: str, algorithms: frozenset[str], kind: TokenKind) -> Header:
    """The header, when the token's type is of ``kind`` and its algorithm one that this issuer may use.

    Raises:
        Unauthenticated: it cannot be read, is another type, or the algorithm is another (``none`` and HS256 are).
    """
    if len(unverified_token) > MAX_TOKEN:
        raise kind.bad(f"{len(unverified_token)} characters")
    try:
        header = jws.extract_compact(unverified_token.encode(), registry=_Registry(algorithms)).headers()
    except (JoseError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise kind.bad(f"header: {error}") from None
    alg, kid, typ = header.get("alg"), header.get("kid"), header.get("typ")
    if not isinstance(alg, str) or alg not in algorithms:
        raise kind.bad(f"alg {str(alg)[:40]!r} is not one of {sorted(algorithms)}")
    if kid is not None and not isinstance(kid, str):
        raise kind.bad("kid is not a string")
    if not (typ is None or isinstance(typ, str)) or _media_type(typ) not in kind.types:
        raise kind.bad(f"typ {str(typ)[:40]!r}")
    return Header(alg, kid)


def signed_claims(unverified_token: str, header: Header, key: PublicKey, kind: TokenKind) -> Mapping[str, Any]:
    """The claims, when ``key`` signed them. What they say is not judged yet.

    Raises:
        Unauthenticated: it did not.
    """
    try:
        return jwt.decode(unverified_token, key, registry=_Registry([header.alg])).claims
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise kind.bad(f"signature: {type(error).__name__}") from None


def unverified_issuer(unverified_token: str) -> str | None:
    """Whose token it claims to be, to know whose keys to try; nothing else may come of it."""
    try:
        body = unverified_token.split(".")[1] if len(unverified_token) <= MAX_TOKEN else ""
        issuer = json.loads(urlsafe_b64decode(body + "=" * (-len(body) % 4)))["iss"]
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return issuer if isinstance(issuer, str) else None


def check_audience(claims: Mapping[str, Any], audience: str, kind: TokenKind) -> list[str]:
    """All audiences, when ``audience`` is one of them (RFC 7519, section 4.1.3). Raises `Unauthenticated`."""
    said = claims.get("aud")
    audiences = [said] if isinstance(said, str) else said
    if not (isinstance(audiences, list) and all(isinstance(a, str) for a in audiences) and audience in audiences):
        raise kind.bad(f"aud {printable(repr(said), 200)}")
    return audiences


def check_times(claims: Mapping[str, Any], now: datetime, kind: TokenKind, *, expires: bool = True) -> None:
    """That it is not over, and of no time to come; without ``expires`` it need not say when it is over.

    Raises:
        Unauthenticated: it is, or its times cannot be read.
    """
    moment, leeway = now.timestamp(), LEEWAY.total_seconds()
    if (expires or "exp" in claims) and not moment < seconds(claims, "exp", kind) + leeway:
        raise kind.bad("exp is over")
    if not seconds(claims, "iat", kind) <= moment + leeway:
        raise kind.bad("iat is in the future")
    for name in ("nbf", "auth_time"):
        if name in claims and not seconds(claims, name, kind) <= moment + leeway:
            raise kind.bad(f"{name} is in the future")


def seconds(claims: Mapping[str, Any], name: str, kind: TokenKind) -> float:
    """A NumericDate (RFC 7519, section 2). JSON as Python reads it knows NaN, which passes any check for "too late"."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MAX_SECONDS:
        raise kind.bad(f"{name} is missing or not a time")
    return value


def text(claims: Mapping[str, Any], name: str, kind: TokenKind, most: int = 255) -> str:
    """A claim that is printable text of ``most`` characters at most, and not empty. Raises `Unauthenticated`."""
    value = claims.get(name)
    if not (isinstance(value, str) and 0 < len(value) <= most and value.isprintable()):
        raise kind.bad(f"{name} is missing or cannot be one")
    return value


def _media_type(typ: str | None) -> str | None:
    return None if typ is None else typ.lower().removeprefix("application/")
