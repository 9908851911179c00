"""Whether an ID token is what it says (OpenID Connect Core 1.0, section 3.1.3.7), as a function of values."""

from __future__ import annotations

import base64
import hashlib
import hmac
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
from bastion.core.identity import MAX_SUBJECT, VerifiedClaims

LEEWAY = timedelta(seconds=60)
"""How far the clocks of the issuer and the bastion may be apart."""

MAX_SECONDS = 1 << 36
"""Seconds since 1970: the year 4147. Above it is not a time, and far above it Python cannot even compare."""

MAX_TOKEN = 128 * 1024
"""Characters."""

_HASHES = {
    "256": hashlib.sha256,
    "384": hashlib.sha384,
    "512": hashlib.sha512,
    "DSA": hashlib.sha512,
    "519": hashlib.sha512,
}
"""By the end of the algorithm's name; Ed25519 hashes with SHA-512 (RFC 8032, section 5.1)."""


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


@dataclass(frozen=True, slots=True)
class Expected:
    """What the token of this login, and of no other, must say."""

    issuer: str
    client_id: str
    nonce: str
    access_token: str | None


def read_header(unverified_token: str, algorithms: frozenset[str]) -> Header:
    """The header, when its algorithm is one that this issuer may use.

    Raises:
        Unauthenticated: it cannot be read, or the algorithm is another (``none`` and HS256 among them).
    """
    if len(unverified_token) > MAX_TOKEN:
        raise _bad(f"{len(unverified_token)} characters")
    try:
        header = jws.extract_compact(unverified_token.encode(), registry=_Registry(algorithms)).headers()
    except (JoseError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _bad(f"header: {error}") from None
    alg, kid = header.get("alg"), header.get("kid")
    if not isinstance(alg, str) or alg not in algorithms:
        raise _bad(f"alg {str(alg)[:40]!r} is not one of {sorted(algorithms)}")
    if kid is not None and not isinstance(kid, str):
        raise _bad("kid is not a string")
    return Header(alg, kid)


def verify(unverified_token: str, header: Header, key: PublicKey, expected: Expected, now: datetime) -> VerifiedClaims:
    """The claims of the token, when its signature and everything it says is right for this login.

    Raises:
        Unauthenticated: something is not; the detail says what, the sentence does not help to try again.
    """
    try:
        claims = jwt.decode(unverified_token, key, registry=_Registry([header.alg])).claims
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise _bad(f"signature: {type(error).__name__}") from None
    subject = claims.get("sub")
    if claims.get("iss") != expected.issuer:
        raise _bad(f"iss {claims.get('iss')!r}")
    if not (isinstance(subject, str) and subject and len(subject) <= MAX_SUBJECT and subject.isascii()):
        raise _bad("sub is missing or cannot be one")
    _check_audience(claims, expected.client_id)
    _check_times(claims, now)
    nonce = claims.get("nonce")
    if not (isinstance(nonce, str) and hmac.compare_digest(nonce.encode(), expected.nonce.encode())):
        raise _bad("nonce")
    _check_access_token_hash(claims, header.alg, expected.access_token)
    return VerifiedClaims(issuer=expected.issuer, subject=subject, claims=claims, verified_at=now)


def _check_audience(claims: Mapping[str, Any], client_id: str) -> None:
    audience, party = claims.get("aud"), claims.get("azp")
    audiences = [audience] if isinstance(audience, str) else audience
    if not (isinstance(audiences, list) and all(isinstance(a, str) for a in audiences) and client_id in audiences):
        raise _bad(f"aud {audience!r}")
    # Several audiences: it must say that it was made for us, and not for one of the others (steps 3 to 5).
    if len(audiences) > 1 and party is None:
        raise _bad("several aud without azp")
    if party is not None and party != client_id:
        raise _bad(f"azp {party!r}")


def _check_times(claims: Mapping[str, Any], now: datetime) -> None:
    moment, leeway = now.timestamp(), LEEWAY.total_seconds()
    if not moment < _seconds(claims, "exp") + leeway:
        raise _bad("exp is over")
    if not _seconds(claims, "iat") <= moment + leeway:
        raise _bad("iat is in the future")
    if "nbf" in claims and not _seconds(claims, "nbf") <= moment + leeway:
        raise _bad("nbf is in the future")
    if "auth_time" in claims and not _seconds(claims, "auth_time") <= moment + leeway:
        raise _bad("auth_time is in the future")


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    """A NumericDate (RFC 7519, section 2). JSON as Python reads it knows NaN, which passes any check for "too late"."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MAX_SECONDS:
        raise _bad(f"{name} is missing or not a time")
    return value


def _check_access_token_hash(claims: Mapping[str, Any], alg: str, access_token: str | None) -> None:
    """Section 3.1.3.8: ``at_hash`` is optional in this flow, and right when it is there."""
    if "at_hash" not in claims:
        return
    if access_token is None:
        raise _bad("at_hash without an access token")
    digest = _HASHES[alg[-3:]](access_token.encode()).digest()
    half = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=")
    if not hmac.compare_digest(half, str(claims["at_hash"]).encode()):
        raise _bad("at_hash")


def _bad(detail: str) -> Unauthenticated:
    return Unauthenticated(
        "The identity provider's answer could not be verified, so nobody was logged in. Start the login again.",
        detail=f"ID token: {detail}",
    )
