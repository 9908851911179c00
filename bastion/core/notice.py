"""What people are told: each thing that happens in the life of a request, once, whoever carries it to them.

A notice names what it is about by id, and keeps only what would be lost later: whoever shows it reads the rest as it
is then. Its own ``id`` says the same thing about the same subject in the same words, so that it is written once however
often, and on however many nodes, it is noticed; and whoever tells it can tell twice from once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import get_args

from bastion.core.grant import Verdict
from bastion.core.identity import IdentityId


class Why(StrEnum):
    """Why a grant is over."""

    EXPIRED = "expired"
    REVOKED = "revoked"
    GIVEN_BACK = "given back"
    """Its holder ended it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request waits for answers; ``Request.extends`` says whether it is for more time."""

    request_id: str
    at: datetime

    @property
    def id(self) -> str:
        return f"asked:{self.request_id}"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """Somebody answered, and the request is still open or was closed by it."""

    request_id: str
    at: datetime
    reviewer: IdentityId
    verdict: Verdict
    missing: int
    """Approvals that are still needed; 0 after a refusal, which closes."""

    @property
    def id(self) -> str:
        return f"reviewed:{self.request_id}:{self.reviewer}"


@dataclass(frozen=True, slots=True)
class Withdrawn:
    request_id: str
    at: datetime
    by: IdentityId

    @property
    def id(self) -> str:
        return f"withdrawn:{self.request_id}"


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Nobody, or not enough people, answered in time."""

    request_id: str
    at: datetime

    @property
    def id(self) -> str:
        return f"timed-out:{self.request_id}"


@dataclass(frozen=True, slots=True)
class Granted:
    """There is a grant; ``Grant.basis`` says by whom."""

    request_id: str
    at: datetime
    grant_id: str

    @property
    def id(self) -> str:
        return f"granted:{self.grant_id}"


@dataclass(frozen=True, slots=True)
class FirstConnected:
    """The grant was used for the first time."""

    request_id: str
    at: datetime
    grant_id: str
    session_id: str

    @property
    def id(self) -> str:
        return f"first-connected:{self.grant_id}"


@dataclass(frozen=True, slots=True)
class EndingSoon:
    """Its holder may want an extension, by a button."""

    request_id: str
    at: datetime
    grant_id: str
    ends_at: datetime

    @property
    def id(self) -> str:
        return f"ending-soon:{self.grant_id}:{self.ends_at.timestamp()}"


@dataclass(frozen=True, slots=True)
class Extended:
    """``request_id`` is the request that asked for more time."""

    request_id: str
    at: datetime
    grant_id: str
    ends_at: datetime

    @property
    def id(self) -> str:
        return f"extended:{self.grant_id}:{self.request_id}"


@dataclass(frozen=True, slots=True)
class Ended:
    request_id: str
    at: datetime
    grant_id: str
    why: Why
    by: IdentityId | None = None
    """Who ended it; nobody does when it expires."""

    @property
    def id(self) -> str:
        return f"ended:{self.grant_id}"


@dataclass(frozen=True, slots=True)
class BrokenGlass:
    """Somebody opened access for themselves, at once. For every reviewer, and loud: they owe a review."""

    request_id: str
    at: datetime
    grant_id: str

    @property
    def id(self) -> str:
        return f"broken-glass:{self.grant_id}"


@dataclass(frozen=True, slots=True)
class ReviewOverdue:
    """A break-glass that nobody has answered for; ``turn`` is 1, 2, 3… as it is told again until it is done."""

    request_id: str
    at: datetime
    grant_id: str
    turn: int

    @property
    def id(self) -> str:
        return f"review-overdue:{self.grant_id}:{self.turn}"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A break-glass was answered for, which closes it; with a refusal its grant is over, too."""

    request_id: str
    at: datetime
    grant_id: str
    reviewer: IdentityId
    verdict: Verdict

    @property
    def id(self) -> str:
        return f"acknowledged:{self.grant_id}"


@dataclass(frozen=True, slots=True)
class Unused:
    """A live grant that nobody has used for a while; for those who may end it."""

    request_id: str
    at: datetime
    grant_id: str
    since: datetime

    @property
    def id(self) -> str:
        return f"unused:{self.grant_id}:{self.since.timestamp()}"


Notice = (
    Asked
    | Reviewed
    | Withdrawn
    | TimedOut
    | Granted
    | FirstConnected
    | EndingSoon
    | Extended
    | Ended
    | BrokenGlass
    | ReviewOverdue
    | Acknowledged
    | Unused
)

_KINDS = {kind.__name__: kind for kind in get_args(Notice)}


def to_json(notice: Notice) -> str:
    """One line that `from_json` reads."""
    body: dict[str, object] = {"is": type(notice).__name__}
    for field in fields(notice):
        match getattr(notice, field.name):
            case datetime() as moment:
                body[field.name] = moment.isoformat()
            case IdentityId() as identity:
                body[field.name] = str(identity)
            case value:
                body[field.name] = value
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def from_json(line: str) -> Notice:
    """Read back what `to_json` wrote."""
    body = json.loads(line)
    kind = _KINDS[body.pop("is")]
    notice: Notice = kind(**{name: _READ.get(name, _same)(value) for name, value in body.items()})
    return notice


def _same(value: object) -> object:
    return value


def _moment(value: str) -> datetime:
    return datetime.fromisoformat(value)


def _identity(value: str | None) -> IdentityId | None:
    return None if value is None else IdentityId.parse(value)


_READ = {
    "at": _moment, "ends_at": _moment, "since": _moment, "by": _identity, "reviewer": _identity,
    "verdict": Verdict, "why": Why,
}  # fmt: skip
"""How the fields are read that JSON has no type for, by name."""
