"""Whether a logout token is what it says (OpenID Connect Back-Channel Logout 1.0, section 2.6)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from bastion.adapters.oidc.signature import LOGOUT_TOKEN, check_audience, check_times, seconds, text
from bastion.core.ending import LogoutNotice

EVENT = "http://schemas.openid.net/event/backchannel-logout"

MAX_LIFETIME = timedelta(hours=1)
"""Its ``jti`` is remembered until it is over; the specification asks for two minutes at most (section 4)."""


def check(claims: Mapping[str, Any], *, issuer: str, client_id: str, now: datetime) -> LogoutNotice:
    """What the token says, when its issuer may say it to us. That its ``jti`` is new, the caller checks.

    Raises:
        Unauthenticated: it is not a logout token for us.
    """
    if claims.get("iss") != issuer:
        raise LOGOUT_TOKEN.bad(f"iss {claims.get('iss')!r}")
    check_audience(claims, client_id, LOGOUT_TOKEN)
    check_times(claims, now, LOGOUT_TOKEN)
    expires_at = datetime.fromtimestamp(seconds(claims, "exp", LOGOUT_TOKEN), tz=UTC)
    if expires_at - now > MAX_LIFETIME:
        raise LOGOUT_TOKEN.bad(f"exp is {expires_at}")
    events = claims.get("events")
    if not (isinstance(events, dict) and isinstance(events.get(EVENT), dict)):
        raise LOGOUT_TOKEN.bad("it is not about a logout")
    if "nonce" in claims:  # an ID token that was taken for one
        raise LOGOUT_TOKEN.bad("it has a nonce")
    if "sub" not in claims and "sid" not in claims:
        raise LOGOUT_TOKEN.bad("it says neither sub nor sid")
    return LogoutNotice(
        issuer=issuer,
        subject=text(claims, "sub", LOGOUT_TOKEN) if "sub" in claims else None,
        sid=text(claims, "sid", LOGOUT_TOKEN) if "sid" in claims else None,
        jti=text(claims, "jti", LOGOUT_TOKEN),
        expires_at=expires_at,
    )
