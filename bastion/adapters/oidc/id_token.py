"""Whether an ID token is what it says (OpenID Connect Core 1.0, section 3.1.3.7), as a function of values."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bastion.adapters.oidc.signature import ID_TOKEN, check_audience, check_times
from bastion.core.identity import MAX_SUBJECT, VerifiedClaims

_HASHES = {
    "256": hashlib.sha256,
    "384": hashlib.sha384,
    "512": hashlib.sha512,
    "DSA": hashlib.sha512,
    "519": hashlib.sha512,
}
"""By the end of the algorithm's name; Ed25519 hashes with SHA-512 (RFC 8032, section 5.1)."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the token of this login, and of no other, must say."""

    issuer: str
    client_id: str
    nonce: str
    access_token: str | None


def check(claims: Mapping[str, Any], alg: str, expected: Expected, now: datetime) -> VerifiedClaims:
    """The claims, when everything that they say is right for this login. ``alg`` is what signed them.

    Raises:
        Unauthenticated: something is not; the detail says what, the sentence does not help to try again.
    """
    verified = _check_common(claims, expected.issuer, expected.client_id, now)
    nonce = claims.get("nonce")
    if not (isinstance(nonce, str) and hmac.compare_digest(nonce.encode(), expected.nonce.encode())):
        raise ID_TOKEN.bad("nonce")
    _check_access_token_hash(claims, alg, expected.access_token)
    return verified


def check_renewed(
    claims: Mapping[str, Any], *, issuer: str, client_id: str, subject: str, now: datetime
) -> VerifiedClaims:
    """The claims of the ID token in a refresh answer (OpenID Connect Core 1.0, section 12.2).

    Raises:
        Unauthenticated: it is not right, or somebody else's.
    """
    verified = _check_common(claims, issuer, client_id, now)
    if verified.subject != subject:
        raise ID_TOKEN.bad("sub is another than that of the login")
    return verified


def _check_common(claims: Mapping[str, Any], issuer: str, client_id: str, now: datetime) -> VerifiedClaims:
    subject, party = claims.get("sub"), claims.get("azp")
    if claims.get("iss") != issuer:
        raise ID_TOKEN.bad(f"iss {claims.get('iss')!r}")
    if not (isinstance(subject, str) and subject and len(subject) <= MAX_SUBJECT and subject.isascii()):
        raise ID_TOKEN.bad("sub is missing or cannot be one")
    audiences = check_audience(claims, client_id, ID_TOKEN)
    # Several audiences: it must say that it was made for us, and not for one of the others (steps 3 to 5).
    if len(audiences) > 1 and party is None:
        raise ID_TOKEN.bad("several aud without azp")
    if party is not None and party != client_id:
        raise ID_TOKEN.bad(f"azp {party!r}")
    check_times(claims, now, ID_TOKEN)
    # A logout token of an issuer that types nothing, or a security event: neither is ever a login.
    if "events" in claims:
        raise ID_TOKEN.bad("it has events")
    return VerifiedClaims(issuer=issuer, subject=subject, claims=claims, verified_at=now)


def _check_access_token_hash(claims: Mapping[str, Any], alg: str, access_token: str | None) -> None:
    """Section 3.1.3.8: ``at_hash`` is optional in this flow, and right when it is there."""
    if "at_hash" not in claims:
        return
    if access_token is None:
        raise ID_TOKEN.bad("at_hash without an access token")
    digest = _HASHES[alg[-3:]](access_token.encode()).digest()
    half = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=")
    if not hmac.compare_digest(half, str(claims["at_hash"]).encode()):
        raise ID_TOKEN.bad("at_hash")
