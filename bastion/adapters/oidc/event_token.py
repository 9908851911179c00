"""Whether a security event token is what it says (RFC 8417; Shared Signals Framework 1.0; CAEP 1.0)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from bastion.adapters.oidc.fetch import Fetcher
from bastion.adapters.oidc.issuer import SigningIssuer
from bastion.adapters.oidc.metadata import SigningMetadata, read_transmitter_metadata, transmitter_url
from bastion.adapters.oidc.signature import EVENT_TOKEN, check_audience, check_times, read_header, seconds, text
from bastion.core.ending import ByEmail, Cause, Signal, SignalRefused, Subject
from bastion.core.errors import Unauthenticated
from bastion.core.identity import MAX_SUBJECT, IdentityId
from bastion.core.target import printable
from bastion.ports import Clock

MAX_AGE = timedelta(days=1)
"""Of a token: it has no end of its own, and its ``jti`` cannot be remembered for ever."""

MAX_EVENTS = 16

CAUSES = {
    "https://schemas.openid.net/secevent/caep/event-type/session-revoked": Cause.SESSION_REVOKED,
    "https://schemas.openid.net/secevent/caep/event-type/credential-change": Cause.CREDENTIAL_CHANGED,
}
"""What ends a login (CAEP 1.0, sections 3.1 and 3.3). Other events are taken, and nothing comes of them."""

VERIFICATION = "https://schemas.openid.net/secevent/ssf/event-type/verification"


class EventTransmitter:
    """One transmitter of security events.

    Args:
        issuer: its identifier, as its metadata and tokens say it.
        audience: what its stream calls us.
        fetcher: asks for its metadata and keys.
        clock: what token times are compared with.
    """

    def __init__(self, *, issuer: str, audience: str, fetcher: Fetcher, clock: Clock) -> None:
        self.issuer = issuer
        self._audience = audience
        self._clock = clock
        self._signing: SigningIssuer[SigningMetadata] = SigningIssuer(
            issuer=issuer,
            document=transmitter_url(issuer),
            read=read_transmitter_metadata,
            fetcher=fetcher,
            clock=clock,
        )

    async def signal(self, unverified_token: str) -> Signal:
        """What the token says.

        Raises:
            SignalRefused: it is not one of this transmitter's for us.
            Unavailable: the transmitter's keys cannot be had.
        """
        algorithms = (await self._signing.metadata()).algorithms
        try:
            read_header(unverified_token, algorithms, EVENT_TOKEN)
        except Unauthenticated as error:
            raise SignalRefused(error.public, "invalid_request", detail=str(error)) from None
        try:
            signed = await self._signing.open(unverified_token, EVENT_TOKEN)
        except Unauthenticated as error:
            raise SignalRefused(error.public, "invalid_key", detail=str(error)) from None
        return check(signed.claims, issuer=self.issuer, audience=self._audience, now=self._clock.now())


def check(claims: Mapping[str, Any], *, issuer: str, audience: str, now: datetime) -> Signal:
    """What signed claims say, when they are a security event for us. That the ``jti`` is new, the caller checks.

    Raises:
        SignalRefused: they are not, or are about somebody in a way that is not understood.
    """
    if claims.get("iss") != issuer:
        raise SignalRefused("This security event is another issuer's.", "invalid_issuer")
    try:
        check_audience(claims, audience, EVENT_TOKEN)
    except Unauthenticated as error:
        raise SignalRefused(
            "This security event is not for this bastion.", "invalid_audience", detail=str(error)
        ) from None
    try:
        return _read(claims, issuer, now)
    except Unauthenticated as error:
        raise SignalRefused(error.public, "invalid_request", detail=str(error)) from None


def _read(claims: Mapping[str, Any], issuer: str, now: datetime) -> Signal:
    check_times(claims, now, EVENT_TOKEN, expires=False)
    if now.timestamp() - seconds(claims, "iat", EVENT_TOKEN) > MAX_AGE.total_seconds():
        raise EVENT_TOKEN.bad("iat is more than a day ago")
    # An ID token or an access token that was taken for one (Shared Signals Framework 1.0, section 4.1.6).
    if "nonce" in claims or "sub" in claims:
        raise EVENT_TOKEN.bad("it has sub or nonce, so it is another kind of token")
    events = claims.get("events")
    if not (isinstance(events, dict) and events and len(events) <= MAX_EVENTS):
        raise EVENT_TOKEN.bad("it has no events, or too many")
    if not all(isinstance(payload, dict) for payload in events.values()):
        raise EVENT_TOKEN.bad("an event is not an object")
    ending = {name: payload for name, payload in events.items() if name in CAUSES}
    return Signal(
        issuer=issuer,
        jti=text(claims, "jti", EVENT_TOKEN),
        subject=_subject(claims, ending) if ending else None,
        causes=tuple(CAUSES[name] for name in ending),
        is_verification=VERIFICATION in events,
    )


def _subject(claims: Mapping[str, Any], events: Mapping[str, Mapping[str, Any]]) -> Subject:
    """Of the token (``sub_id``), or as CAEP's drafts have it of each event (``subject``); all must be the same."""
    said = [claims["sub_id"]] if "sub_id" in claims else []
    said += [payload["subject"] for payload in events.values() if "subject" in payload]
    if not said or any(one != said[0] for one in said):
        raise SignalRefused("This security event does not say whom it is about, or says two.", "invalid_request")
    return _read_subject(said[0])


def _read_subject(said: object) -> Subject:
    """RFC 9493; of a complex subject (Shared Signals Framework 1.0, section 3.2) the user."""
    match said:
        case {"format": "complex", "user": {"format": "iss_sub" | "email"} as user}:
            return _read_subject(user)
        case {"format": "iss_sub", "iss": str(iss), "sub": str(sub)} if _is_subject(sub) and iss and "#" not in iss:
            return IdentityId(iss, sub)
        case {"format": "email", "email": str(email)} if _is_subject(email) and email.count("@") == 1:
            return ByEmail(email)
        case {"format": str(other)}:
            sentence = "This bastion knows people by iss_sub, or by an e-mail address that one of them has verified."
            raise SignalRefused(sentence, "invalid_request", detail=f"subject format {printable(other, 40)}")
        case _:
            raise SignalRefused("The subject of this security event cannot be read.", "invalid_request")


def _is_subject(text: str) -> bool:
    return 0 < len(text) <= MAX_SUBJECT and text.isprintable()
