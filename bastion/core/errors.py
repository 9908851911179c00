"""One exception class per reaction: refuse the request, end the session, do not start.

Every error speaks to two audiences. ``public`` is for the peer and says what to do next; ``str(error)`` is for the log
and may say more. A denial is not an error: it is a value (`bastion.core.policy.Deny`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bastion.core.identity import IdentityId


class BastionError(Exception):
    """The root of everything raised on purpose."""

    def __init__(self, public: str, *, detail: str = "") -> None:
        super().__init__(f"{public} ({detail})" if detail else public)
        self.public = public


class Refused(BastionError):
    """This one request is refused; nothing was opened, written or changed, and the peer may try again."""


class NotFound(Refused):
    """What the request names does not exist, or not for this identity."""


class Conflict(Refused):
    """The request was right when it was made, and something else has changed since."""


class Unauthenticated(Refused):
    """Nobody has proven who they are; nothing was looked up on their behalf.

    ``claimed`` is whom a proof was made for that counts no more; None where nothing that we made says so.
    """

    def __init__(self, public: str, *, detail: str = "", claimed: IdentityId | None = None) -> None:
        super().__init__(public, detail=detail)
        self.claimed = claimed


class TooOften(Refused):
    """It was tried too often; after ``retry_after`` it may be tried again."""

    def __init__(self, public: str, *, retry_after: timedelta) -> None:
        super().__init__(public)
        self.retry_after = retry_after


class Unavailable(BastionError):
    """A part that the laws need (audit log, geo data, recorder) did not answer, so the door stays shut."""


class SessionEnded(BastionError):
    """The session is over; both sides are closed and the recording is complete up to here."""


class ConfigError(BastionError):
    """The configuration cannot be used; nothing was started. ``problems`` has one line per mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
