"""Asking, answering, and the permission that results: request → review → grant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from bastion.core.errors import Refused
from bastion.core.geofence import Address, Network
from bastion.core.identity import Identity, IdentityId, IdentityKind
from bastion.core.policy import FILE_ACTIONS, Action, Demands
from bastion.core.target import Scope

MIN_DURATION = timedelta(minutes=1)
MAX_DURATION = timedelta(days=30)
"""No policy can allow more: what lasts longer than a month is not just-in-time."""

REQUEST_LIFETIME = timedelta(hours=24)
"""How long an unanswered request waits before it times out."""

MIN_APPROVALS = 1
"""No number in a policy can ask for less: a request that nobody has to answer approves itself (law 10). That a policy
answers instead of people is said otherwise: `Demands.automatic`."""

MAX_BREAK_GLASS = timedelta(hours=4)
"""What is opened without anybody's answer is short, whatever the policies say; and it is never extended."""

MAX_REASON = 500
"""Characters."""

_DURATION = re.compile(r"(?:(\d{1,3})d)?(?:(\d{1,3})h)?(?:(\d{1,4})m)?", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Read ``2h``, ``90m``, ``1h30m``, ``1d``.

    Raises:
        Refused: it is not written so, or is shorter than a minute or longer than thirty days.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or not any(match.groups()):
        raise Refused(f"{text[:20]!r} is not a duration. Write it like 2h, 90m or 1h30m.")
    days, hours, minutes = (int(part or 0) for part in match.groups())
    return check_duration(timedelta(days=days, hours=hours, minutes=minutes))


def check_duration(duration: timedelta) -> timedelta:
    """``duration`` itself, when it is between `MIN_DURATION` and `MAX_DURATION`.

    Raises:
        Refused: it is not.
    """
    if not MIN_DURATION <= duration <= MAX_DURATION:
        raise Refused(f"{spell(duration)} is not possible: a grant lasts from 1 minute to 30 days.")
    return duration


def spell(duration: timedelta) -> str:
    """``1h30m``, as `parse_duration` reads it; seconds are shown only below a minute."""
    seconds = int(duration.total_seconds())
    if abs(seconds) < 60:
        return f"{seconds}s"
    sign, minutes = ("-" if seconds < 0 else ""), abs(seconds) // 60
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    parts = ((days, "d"), (hours, "h"), (minutes, "m"))
    return sign + "".join(f"{n}{unit}" for n, unit in parts if n)


def check_reason(text: str) -> str:
    """The reason without surrounding space.

    Raises:
        Refused: it is empty, too long, or has control characters.
    """
    reason = text.strip()
    if not reason:
        raise Refused('A reason is needed: … because "what this is for".')
    if len(reason) > MAX_REASON:
        raise Refused(f"The reason is longer than {MAX_REASON} characters.")
    if not reason.isprintable():
        raise Refused("The reason has control characters; write it in one line of plain text.")
    return reason


def check_note(text: str) -> str:
    """A remark on an answer, which may be empty.

    Raises:
        Refused: it is too long, or has control characters.
    """
    return check_reason(text) if text.strip() else ""


class Basis(StrEnum):
    """Why there is a grant."""

    REVIEWED = "reviewed"
    """People other than its holder answered for it."""
    AUTOMATIC = "automatic"
    """A policy did."""
    BREAK_GLASS = "break-glass"
    """Its holder opened it at once; people answer for it afterwards."""


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody asks that ``beneficiary`` may use ``targets`` as ``logins`` for ``duration``.

    ``demands`` is what policy asked for when the request was made; a review is judged by it, and once more by the
    policy of its own moment. With ``extends`` it asks that this grant may end so much later. ``beside`` are the
    environments in which the beneficiary had a session when a crossing was asked for.
    """

    id: str
    asker: IdentityId
    beneficiary: IdentityId
    scope: Scope
    targets: frozenset[str]
    logins: frozenset[str]
    actions: frozenset[Action]
    duration: timedelta
    reason: str
    asked_at: datetime
    demands: Demands
    crossing: bool = False
    withdrawn_at: datetime | None = None
    starts_at: datetime | None = None
    """The agreed start; without one the clock starts when it is approved."""
    network: Network | None = None
    """Narrows from where it may be used; None leaves it to the region's fence."""
    paths: frozenset[str] = frozenset()
    """Narrows it to files of the target, see `Grant.paths`."""
    ticket: str = ""
    extends: str | None = None
    break_glass: bool = False
    closed_at: datetime | None = None
    """When people had answered for a break-glass, or more time was given; a grant of its own closes others."""
    beside: frozenset[str] = frozenset()

    @property
    def times_out_at(self) -> datetime:
        """A day after it was asked, or when what was agreed on would be over."""
        latest = self.asked_at + REQUEST_LIFETIME
        return latest if self.starts_at is None else min(latest, self.starts_at + self.duration)

    def span(self, now: datetime) -> tuple[datetime, datetime]:
        """From when until when a grant lasts that is approved ``now``, before working hours are asked.

        An agreed start that has passed shortens it: the end stays the agreed one.
        """
        if self.starts_at is None:
            return now, now + self.duration
        return max(now, self.starts_at), self.starts_at + self.duration


class Verdict(StrEnum):
    APPROVE = "approve"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Review:
    """One person's answer to one request. A second answer of the same person does not count."""

    request_id: str
    reviewer: Identity
    verdict: Verdict
    at: datetime
    note: str = ""


@dataclass(frozen=True, slots=True)
class Approved:
    by: tuple[Identity, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    missing: int


@dataclass(frozen=True, slots=True)
class Closed:
    reason: str


Outcome = Approved | Waiting | Closed


def can_review(request: Request, beneficiary: Identity, reviewer: Identity) -> str | None:
    """Why ``reviewer`` may not answer ``request``, or None when the laws do not mind (law 10).

    The policy is asked besides; this holds whatever it says.
    """
    if reviewer.id == request.beneficiary or reviewer.is_same_person_as(beneficiary):
        return "Nobody approves themselves. Ask a colleague to review this request."
    if reviewer.kind is IdentityKind.WORKLOAD:
        return "A workload cannot review."
    if request.demands.reviewers and not request.demands.reviewers & reviewer.groups:
        return f"Reviewers of this request are in: {', '.join(sorted(request.demands.reviewers))}."
    return None


def outcome(request: Request, beneficiary: Identity, reviews: Iterable[Review], now: datetime) -> Outcome:
    """Where ``request`` stands, by the reviews that count.

    One person is one vote whatever groups and aliases they have; any refusal is a veto; a review of oneself, or from
    outside the demanded groups, or after the request timed out, is not a vote.
    """
    if request.withdrawn_at is not None:
        return Closed("it was withdrawn")
    if request.demands.automatic:
        return Approved(())
    voters: list[Identity] = []
    for review in sorted(reviews, key=lambda r: r.at):
        if review.request_id != request.id or review.at >= request.times_out_at:
            continue
        if can_review(request, beneficiary, review.reviewer) is not None:
            continue
        if any(review.reviewer.is_same_person_as(voter) for voter in voters):
            continue
        if review.verdict is Verdict.REFUSE:
            return Closed(f"it was refused by {review.reviewer.display}")
        voters.append(review.reviewer)
    missing = max(request.demands.approvals, MIN_APPROVALS) - len(voters)
    if missing <= 0:
        return Approved(tuple(voters))
    if now >= request.times_out_at:
        return Closed(f"nobody answered within {spell(REQUEST_LIFETIME)}")
    return Waiting(missing)


@dataclass(frozen=True, slots=True)
class Grant:
    """The permission: one identity, one scope, named targets and logins, from–until, approved by, reason.

    Empty ``targets``, ``logins`` or ``actions`` cover nothing.
    """

    id: str
    request_id: str
    identity: IdentityId
    scope: Scope
    targets: frozenset[str]
    logins: frozenset[str]
    actions: frozenset[Action]
    starts_at: datetime
    ends_at: datetime
    approved_by: tuple[IdentityId, ...]
    reason: str
    crossing: bool = False
    revoked_at: datetime | None = None
    network: Network | None = None
    paths: frozenset[str] = frozenset()
    """As `bastion.core.files.parse_paths` returns them. With any, it covers reading and writing files in them and
    nothing else; with none it is not narrowed."""
    basis: Basis = Basis.REVIEWED

    def is_live(self, now: datetime) -> bool:
        """Whether ``now`` is within the grant. It starts on its first instant and is over on its last."""
        return self.revoked_at is None and self.starts_at <= now < self.ends_at

    def covers(
        self,
        identity: IdentityId,
        scope: Scope,
        target: str,
        login: str,
        action: Action,
        now: datetime,
        *,
        address: Address | None = None,
    ) -> bool:
        """Whether this grant, and nothing but this grant, permits exactly that (law 1)."""
        return self.shortfall(identity, scope, target, login, action, now, address=address) is None

    def shortfall(
        self,
        identity: IdentityId,
        scope: Scope,
        target: str,
        login: str,
        action: Action,
        now: datetime,
        *,
        address: Address | None = None,
    ) -> str | None:
        """The first thing that keeps this grant from covering it, as the end of a sentence; None when it covers.

        A grant for one network covers nothing that comes from an address that is not known.
        """
        if identity != self.identity:
            return "is somebody else's"
        if scope != self.scope:
            return f"is for {self.scope}, not {scope}"
        if target not in self.targets:
            return f"is for {_listed(self.targets)}, not {target}"
        if login not in self.logins:
            return f"is for the login {_listed(self.logins)}, not {login}"
        if action not in self.actions:
            return f"does not include {action}"
        if self.paths and action not in FILE_ACTIONS:
            return f"is for files in {_listed(self.paths)}, not for {action}"
        if self.network is not None and not _is_within(address, self.network):
            return f"may be used from {self.network} only"
        if self.revoked_at is not None:
            return f"was revoked at {_clock(self.revoked_at)}"
        if now < self.starts_at:
            return f"begins at {_clock(self.starts_at)}"
        if now >= self.ends_at:
            return f"ended at {_clock(self.ends_at)}"
        return None


def _is_within(address: Address | None, network: Network) -> bool:
    return address is not None and address.version == network.version and address in network


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _clock(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
