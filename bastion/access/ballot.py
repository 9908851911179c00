"""Counting the answers to one request, inside the transaction that may make its grant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

from bastion.access.attempt import Attempt
from bastion.access.powers import Powers
from bastion.access.whereabouts import place_of
from bastion.access.wish import Asked
from bastion.core.audit import Kind
from bastion.core.errors import Conflict, NotFound
from bastion.core.grant import (
    REQUEST_LIFETIME,
    Approved,
    Closed,
    Grant,
    Request,
    Review,
    Verdict,
    Waiting,
    outcome,
    spell,
)
from bastion.core.identity import Identity
from bastion.ports import Store, Transaction


@dataclass(frozen=True, slots=True)
class Granted:
    """There is a grant now; ``by`` are the people whose votes made it."""

    request: Request
    beneficiary: Identity
    grant: Grant
    by: tuple[Identity, ...]


@dataclass(frozen=True, slots=True)
class WaitingForOthers:
    """The answer counted, and ``missing`` more are needed."""

    request: Request
    beneficiary: Identity
    missing: int


@dataclass(frozen=True, slots=True)
class TurnedDown:
    """One refusal is enough: the request is closed."""

    request: Request
    beneficiary: Identity
    reason: str


Answer = Granted | WaitingForOthers | TurnedDown


def grant_id_of(request: Request) -> str:
    """The id of the one grant that ``request`` can become: the same letters, so a second could not even be named."""
    return f"g-{request.id.removeprefix('q-')}"


@dataclass(frozen=True, slots=True)
class Ballot:
    """One request and who it is for, as the policies see both now: ``request.demands`` are the strictest known."""

    request: Request
    beneficiary: Identity
    asked: Asked

    async def cast(self, tx: Transaction, review: Review, *, attempt: Attempt, powers: Powers, store: Store) -> Answer:
        """Add ``review`` and say where the request stands. An answer given again is not added again.

        Raises:
            Conflict: the request is closed, or this person has answered otherwise; nothing is to be kept of ``tx``.
        """
        reviews = await tx.reviews(self.request.id)
        mine = _answer_of(review.reviewer, reviews)
        if mine is not None and mine.verdict is not review.verdict:
            raise Conflict(f"You have answered {self.request.id} already: {mine.verdict}.")
        grant = await _existing(tx, grant_id_of(self.request))
        if grant is not None:
            return self._granted_before(grant, mine, reviews, attempt.now)
        counted = await self._counted(reviews, review.reviewer, powers, store, attempt.now)
        self._check_open(counted, attempt.now)
        if mine is None:
            await tx.add_review(review)
            await tx.append(attempt.event(Kind.REQUEST_REVIEWED, verdict=review.verdict.value))
            counted.append(review)
        standing = outcome(self.request, self.beneficiary, counted, attempt.now)
        match standing:
            case Approved(by):
                return await self._seal(tx, by, attempt)
            case Waiting(missing):
                return WaitingForOthers(self.request, self.beneficiary, missing)
            case Closed(reason):
                return TurnedDown(self.request, self.beneficiary, reason)
            case _:
                assert_never(standing)

    async def _seal(self, tx: Transaction, by: tuple[Identity, ...], attempt: Attempt) -> Granted:
        request = self.request
        grant = Grant(
            id=grant_id_of(request),
            request_id=request.id,
            identity=request.beneficiary,
            scope=request.scope,
            targets=request.targets,
            logins=request.logins,
            actions=request.actions,
            starts_at=attempt.now,
            ends_at=attempt.now + request.duration,
            approved_by=tuple(voter.id for voter in by),
            reason=request.reason,
            crossing=request.crossing,
        )
        await tx.add_grant(grant)
        attempt.concerns(grant)
        await tx.append(
            attempt.event(
                Kind.GRANT_APPROVED,
                approved_by=", ".join(voter.display for voter in by),
                until=grant.ends_at.isoformat(),
                duration=spell(request.duration),
                reason=request.reason,
                crossing=request.crossing,
            )
        )
        return Granted(request, self.beneficiary, grant, by)

    def _granted_before(self, grant: Grant, mine: Review | None, reviews: Sequence[Review], now: datetime) -> Answer:
        if mine is None or not grant.is_live(now):
            raise Conflict(f"{self.request.id} was approved already, as {grant.id}.")
        by = tuple(review.reviewer for review in reviews if review.reviewer.id in grant.approved_by)
        return Granted(self.request, self.beneficiary, grant, by)

    def _check_open(self, counted: Sequence[Review], now: datetime) -> None:
        # Asked before the votes are: enough of them may have come together by a policy that has changed since.
        if now >= self.request.times_out_at:
            raise Conflict(f"{self.request.id} is closed: nobody answered within {spell(REQUEST_LIFETIME)}.")
        standing = outcome(self.request, self.beneficiary, counted, now)
        if isinstance(standing, Closed):
            raise Conflict(f"{self.request.id} is closed: {standing.reason}.")

    async def _counted(
        self, reviews: Sequence[Review], present: Identity, powers: Powers, store: Store, now: datetime
    ) -> list[Review]:
        """Earlier answers, by people as they are now: the approval of who has lost the right since does not count.

        A refusal stays what it was.
        """
        counted = []
        for review in reviews:
            if review.verdict is Verdict.APPROVE:
                known = present if review.reviewer.id == present.id else await store.identity(review.reviewer.id)
                place = await place_of(store, Kind.REQUEST_REVIEWED, self.request, known.id)
                if powers.objection_to_review(known, self.asked, place, now) is not None:
                    continue
                review = replace(review, reviewer=known)
            counted.append(review)
        return counted


def _answer_of(reviewer: Identity, reviews: Sequence[Review]) -> Review | None:
    """The same person's, under whatever alias."""
    return next((review for review in reviews if review.reviewer.is_same_person_as(reviewer)), None)


async def _existing(tx: Transaction, grant_id: str) -> Grant | None:
    try:
        return await tx.grant(grant_id)
    except NotFound:
        return None
