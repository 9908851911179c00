"""The life of a request, as stages and the steps between them.

    asked ─► granted ─► (extended) ─► ended | expired
      │        └ break-glass: granted at once, closed by an answer afterwards
      └► refused | withdrawn | timed out

A stage is never stored: it follows from what is, so that whatever a crash left behind is a stage, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from bastion.core.errors import Conflict
from bastion.core.grant import (
    MAX_DURATION,
    Approved,
    Basis,
    Closed,
    Grant,
    Request,
    Review,
    Verdict,
    Waiting,
    can_review,
    outcome,
)
from bastion.core.identity import Identity


class Stage(StrEnum):
    """Where a request is in its life."""

    ASKED = "asked"
    """It waits; some may have approved already."""
    AGREED = "agreed"
    """Granted, and its start is still to come."""
    GRANTED = "granted"
    ENDED = "ended"
    """Revoked, or given back."""
    EXPIRED = "expired"
    DONE = "done"
    """More time was given, which is all that an extension asks for."""
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    TIMED_OUT = "timed out"


class Step(StrEnum):
    """What people do to a request. Time does the rest."""

    REVIEW = "review"
    WITHDRAW = "withdraw"
    EXTEND = "extend"
    END = "end"


STEPS: dict[Stage, frozenset[Step]] = {
    Stage.ASKED: frozenset({Step.REVIEW, Step.WITHDRAW}),
    Stage.AGREED: frozenset({Step.END}),
    Stage.GRANTED: frozenset({Step.EXTEND, Step.END}),
    Stage.ENDED: frozenset(),
    Stage.EXPIRED: frozenset(),
    Stage.DONE: frozenset(),
    Stage.REFUSED: frozenset(),
    Stage.WITHDRAWN: frozenset(),
    Stage.TIMED_OUT: frozenset(),
}
"""What can be done at each stage; nothing leads back from an end."""

ENDS = frozenset(stage for stage, steps in STEPS.items() if not steps)


@dataclass(frozen=True, slots=True)
class Life:
    """A request, who it is for, what was answered, and the grant it became, if any."""

    request: Request
    beneficiary: Identity
    reviews: tuple[Review, ...] = ()
    grant: Grant | None = None

    def stage(self, now: datetime) -> Stage:
        """Where it is at ``now``."""
        if self.grant is not None:
            return stage_of_grant(self.grant, now)
        if self.request.withdrawn_at is not None:
            return Stage.WITHDRAWN
        if self.request.closed_at is not None:
            return Stage.DONE
        standing = outcome(self.request, self.beneficiary, self.reviews, now)
        match standing:
            case Approved() if now >= self.request.times_out_at:
                return Stage.TIMED_OUT
            case Approved() | Waiting():
                # Approved and without a grant: enough by a policy that has become milder since; the next answer grants.
                return Stage.ASKED
            case Closed():
                refused = any(self._counts(review) and review.verdict is Verdict.REFUSE for review in self.reviews)
                return Stage.REFUSED if refused else Stage.TIMED_OUT
            case _:
                assert_never(standing)

    def check(self, step: Step, now: datetime) -> None:
        """That ``step`` can be taken now.

        Raises:
            Conflict: it cannot; the sentence says what the request is instead.
        """
        stage = self.stage(now)
        if step not in STEPS[stage]:
            raise Conflict(f"{self.request.id} cannot be changed so any more: it is {stage}.")

    def _counts(self, review: Review) -> bool:
        in_time = review.request_id == self.request.id and review.at < self.request.times_out_at
        return in_time and can_review(self.request, self.beneficiary, review.reviewer) is None


def stage_of_grant(grant: Grant, now: datetime) -> Stage:
    """Where a grant is at ``now``. One that was revoked stays so, also when its time has passed."""
    if grant.revoked_at is not None:
        return Stage.ENDED
    if now >= grant.ends_at:
        return Stage.EXPIRED
    return Stage.GRANTED if now >= grant.starts_at else Stage.AGREED


def answers_owed(request: Request, beneficiary: Identity, reviews: Iterable[Review]) -> int:
    """How many people still have to answer for a break-glass; a refusal is an answer and ends it."""
    if not request.break_glass:
        return 0
    voters: list[Identity] = []
    for review in sorted(reviews, key=lambda r: r.at):
        if can_review(request, beneficiary, review.reviewer) is not None:
            continue
        if any(review.reviewer.is_same_person_as(voter) for voter in voters):
            continue
        if review.verdict is Verdict.REFUSE:
            return 0
        voters.append(review.reviewer)
    return max(0, request.demands.approvals - len(voters))


def basis_of(request: Request) -> Basis:
    """Why the grant exists that ``request`` becomes."""
    if request.break_glass:
        return Basis.BREAK_GLASS
    return Basis.AUTOMATIC if request.demands.automatic else Basis.REVIEWED


def grant_id_of(request: Request) -> str:
    """The id of the one grant that ``request`` can become: the same letters, so a second could not even be named."""
    return f"g-{request.id.removeprefix('q-')}"


def grant_from(request: Request, by: tuple[Identity, ...], now: datetime) -> Grant:
    """The grant that ``request`` becomes when it is approved ``now``.

    Raises:
        Conflict: what was agreed on is over, or it would begin outside the hours that a policy demands.
    """
    starts_at, ends_at = request.span(now)
    for hours in request.demands.hours:
        if not hours.holds(starts_at):
            raise Conflict(f"Access begins here within {hours} only: approve it then.")
        ends_at = min(ends_at, hours.close_after(starts_at))
    if ends_at <= starts_at:
        raise Conflict(f"{request.id} is closed: the time that was agreed on is over.")
    return Grant(
        id=grant_id_of(request),
        request_id=request.id,
        identity=request.beneficiary,
        scope=request.scope,
        targets=request.targets,
        logins=request.logins,
        actions=request.actions,
        starts_at=starts_at,
        ends_at=ends_at,
        approved_by=tuple(voter.id for voter in by),
        reason=request.reason,
        crossing=request.crossing,
        network=request.network,
        paths=request.paths,
        basis=basis_of(request),
    )


def later_end(grant: Grant, extension: Request, now: datetime) -> datetime:
    """When ``grant`` ends with ``extension``: so much later, as long as a new grant could last from now at most.

    Raises:
        Conflict: the grant is not live, or cannot last any longer.
    """
    stage = stage_of_grant(grant, now)
    if stage is not Stage.GRANTED:
        raise Conflict(f"{grant.id} cannot be extended: it is {stage}. Ask for a new one.")
    longest = extension.demands.max_duration or MAX_DURATION
    limits = [grant.ends_at + extension.duration, now + longest, grant.starts_at + MAX_DURATION]
    limits += [hours.close_after(now) if hours.holds(now) else now for hours in extension.demands.hours]
    if (end := min(limits)) <= grant.ends_at:
        raise Conflict(f"{grant.id} lasts as long as it may already.")
    return end
