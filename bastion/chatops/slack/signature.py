"""Slack's signature over a request (https://docs.slack.dev/authentication/verifying-requests-from-slack)."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import datetime

from bastion.chatops.guard import MAX_SKEW
from bastion.core.errors import Unauthenticated

_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)


def verify(raw: bytes, *, timestamp: str, unverified_signature: str, secret: str, now: datetime) -> None:
    """That Slack signed ``raw``, within `MAX_SKEW` of ``now``.

    Raises:
        Unauthenticated: it did not, or not then; nothing of ``raw`` was read.
    """
    if not _TIMESTAMP.fullmatch(timestamp):
        raise Unauthenticated("The request has no usable X-Slack-Request-Timestamp.")
    expected = "v0=" + hmac.new(secret.encode(), b"v0:%b:%b" % (timestamp.encode(), raw), hashlib.sha256).hexdigest()
    # As bytes: compare_digest raises on text that is not ASCII.
    if not hmac.compare_digest(expected.encode(), unverified_signature.encode(errors="replace")):
        raise Unauthenticated("The request is not signed by Slack with the configured signing secret.")
    if abs(now.timestamp() - int(timestamp)) > MAX_SKEW.total_seconds():
        raise Unauthenticated("The request was signed more than five minutes from now; check the clock of this host.")
