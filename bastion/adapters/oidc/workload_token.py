"""Whether a workload's token is what it says: a CI job's or a Kubernetes service account's (RFC 7519, RFC 8725)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from bastion.adapters.oidc.fetch import Fetcher
from bastion.adapters.oidc.issuer import SigningIssuer
from bastion.adapters.oidc.metadata import SigningMetadata, discovery_url, read_workload_metadata
from bastion.adapters.oidc.signature import WORKLOAD_TOKEN, check_audience, check_times, seconds, text
from bastion.core.identity import VerifiedClaims
from bastion.ports import Clock

MAX_LIFETIME = timedelta(days=1)
"""A token that is good for longer is a shared secret by another name."""


class WorkloadIssuer:
    """An issuer of workload tokens.

    Args:
        issuer: its identifier, as its metadata and tokens say it.
        fetcher: asks for its metadata and keys.
        clock: what token times are compared with.
    """

    def __init__(self, *, issuer: str, fetcher: Fetcher, clock: Clock) -> None:
        self.issuer = issuer
        self._clock = clock
        self._signing: SigningIssuer[SigningMetadata] = SigningIssuer(
            issuer=issuer, document=discovery_url(issuer), read=read_workload_metadata, fetcher=fetcher, clock=clock
        )

    async def claims(self, unverified_token: str, audiences: Collection[str]) -> VerifiedClaims:
        """What the token says, when it was made for exactly one of ``audiences`` and for nobody else.

        Raises:
            Unauthenticated: it is not a workload's token of this issuer for us.
            Unavailable: the issuer's keys cannot be had.
        """
        signed = await self._signing.open(unverified_token, WORKLOAD_TOKEN)
        return check(signed.claims, issuer=self.issuer, audiences=audiences, now=self._clock.now())


def check(claims: Mapping[str, Any], *, issuer: str, audiences: Collection[str], now: datetime) -> VerifiedClaims:
    """The claims, when they are a workload's for us. Raises `Unauthenticated`."""
    if claims.get("iss") != issuer:
        raise WORKLOAD_TOKEN.bad(f"iss {claims.get('iss')!r}")
    said = claims.get("aud")
    # One that others are meant to have as well is one that each of them could use here.
    audience = said[0] if isinstance(said, list) and len(said) == 1 else said
    if not isinstance(audience, str) or audience not in audiences:
        raise WORKLOAD_TOKEN.bad(f"aud {str(said)[:200]!r}")
    check_audience(claims, audience, WORKLOAD_TOKEN)
    check_times(claims, now, WORKLOAD_TOKEN)
    if seconds(claims, "exp", WORKLOAD_TOKEN) - seconds(claims, "iat", WORKLOAD_TOKEN) > MAX_LIFETIME.total_seconds():
        raise WORKLOAD_TOKEN.bad("it is good for more than a day")
    # A person's ID token and an issuer's word about somebody are no workload's, whatever they are typed.
    if "nonce" in claims or "events" in claims:
        raise WORKLOAD_TOKEN.bad("it has nonce or events, so it is another kind of token")
    return VerifiedClaims(issuer, text(claims, "sub", WORKLOAD_TOKEN), {**claims, "aud": audience}, now)
