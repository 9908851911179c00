"""One live connection inside a grant, and every way it can end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from bastion.core.identity import IdentityId
from bastion.core.policy import Action
from bastion.core.target import Scope

CHANNELS = 256
"""Of one SSH client at a time, unless configured: a browser over ``-D`` opens a hundred, Ansible one for each fork."""

WARNINGS = (timedelta(minutes=5), timedelta(minutes=1))
"""Before the end of a grant, the client is told so."""


class End(StrEnum):
    """Why a session is over. The value is stored; `sentence` is what the client reads."""

    CLIENT = "client left"
    TARGET = "target closed"
    EXPIRED = "grant ended"
    REVOKED = "grant revoked"
    IDENTITY = "identity disabled"
    POLICY = "policy changed"
    FENCE = "left the fence"
    RECORDER = "recorder failed"
    AUDIT = "audit log failed"
    PRESENCE = "presence lost"
    """The other nodes no longer see this session, and might open another environment beside it (law 4)."""
    SHUTDOWN = "node stopped"
    INTERRUPTED = "interrupted"
    """The node died; found when it, or another, started again."""

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    End.CLIENT: "You closed the connection.",
    End.TARGET: "The target closed the connection.",
    End.EXPIRED: "Your grant has ended. Ask for a new one if there is more to do.",
    End.REVOKED: "Your grant was revoked.",
    End.IDENTITY: "Your login is over: you logged out, or your identity was disabled.",
    End.POLICY: "The policy changed and no longer permits this session.",
    End.FENCE: "Your address is no longer inside the region's fence.",
    End.RECORDER: "The recording could not be written, and nothing goes unrecorded here.",
    End.AUDIT: "The audit log could not be written, and nothing goes unlogged here.",
    End.PRESENCE: "The bastion's nodes lost sight of each other. Connect again in a moment.",
    End.SHUTDOWN: "The bastion is stopping. Connect again in a moment.",
    End.INTERRUPTED: "The bastion stopped unexpectedly.",
}


@dataclass(frozen=True, slots=True)
class Session:
    """What is known of a session. While ``ended_at`` is None it is live, or its node died without saying so."""

    id: str
    node: str
    identity: IdentityId
    display: str
    target: str
    scope: Scope
    login: str
    action: Action
    command: str | None
    grant_id: str
    certificate_serial: int
    address: str
    country: str | None
    started_at: datetime
    until: datetime
    ended_at: datetime | None = None
    end: End | None = None
    exit_status: int | None = None

    @property
    def state(self) -> str:
        """``live``, ``ended`` or ``interrupted``."""
        if self.ended_at is None:
            return "live"
        return "interrupted" if self.end is End.INTERRUPTED else "ended"


def warnings_due(until: datetime, previously: datetime, now: datetime) -> Sequence[timedelta]:
    """Which of `WARNINGS` fell due after ``previously`` and not after ``now``."""
    return [before for before in WARNINGS if previously < until - before <= now < until]
