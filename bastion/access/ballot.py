"""Counting the answers to one request, inside the transaction that may make its grant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

from bastion.access.attempt import Attempt
from bastion.access.endings import is_disowned
from bastion.access.powers import Powers
from bastion.access.whereabouts import place_of
from bastion.access.wish import Asked
from bastion.core import notice
from bastion.core.audit import Kind
from bastion.core.errors import Conflict, NotFound
from bastion.core.grant import (
    MIN_APPROVALS,
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
from bastion.core.request import basis_of, grant_from, later_end
from bastion.core.request import grant_id_of as grant_id_of
from bastion.ports import Store, Transaction


@dataclass(frozen=True, slots=True)
class Granted:
    """There is a grant now, or with ``request.extends`` it lasts longer; ``by`` are the people whose votes did it.

    Nobody's did where a policy answered, or the glass was broken: ``grant.basis`` says so.
    """

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
        mine = answer_of(review.reviewer, reviews)
        if mine is not None and mine.verdict is not review.verdict:
            raise Conflict(f"You have answered {self.request.id} already: {mine.verdict}.")
        grant = await self._carried_out(tx)
        if grant is not None:
            return self._granted_before(grant, mine, reviews, attempt.now)
        counted = await self._counted(reviews, review.reviewer, powers, store)
        self._check_open(counted, attempt.now)
        if mine is None:
            await tx.add_review(review)
            await tx.append(attempt.event(Kind.REQUEST_REVIEWED, verdict=review.verdict.value))
            counted.append(review)
        standing = outcome(self.request, self.beneficiary, counted, attempt.now)
        match standing:
            case Approved(by):
                return await self.seal(tx, by, attempt)
            case Waiting(missing):
                if mine is None:
                    await tx.add_notice(self._reviewed(review, missing), attempt.now)
                return WaitingForOthers(self.request, self.beneficiary, missing)
            case Closed(reason):
                await tx.add_notice(self._reviewed(review, 0), attempt.now)
                return TurnedDown(self.request, self.beneficiary, reason)
            case _:
                assert_never(standing)

    async def open(self, tx: Transaction, attempt: Attempt) -> Granted | WaitingForOthers:
        """Where the request stands before anybody has answered: a policy may have done so already.

        Raises:
            Conflict: its time cannot begin, or what it extends is over; nothing is to be kept of ``tx``.
        """
        if self.request.demands.automatic:
            return await self.seal(tx, (), attempt)
        await tx.add_notice(notice.Asked(self.request.id, attempt.now), attempt.now)
        return WaitingForOthers(self.request, self.beneficiary, max(self.request.demands.approvals, MIN_APPROVALS))

    async def again(self, tx: Transaction, now: datetime) -> Granted | WaitingForOthers:
        """Where a request stands that was asked before, in the same words.

        Raises:
            Conflict: it is closed.
        """
        reviews = await tx.reviews(self.request.id)
        if (grant := await self._carried_out(tx)) is not None:
            return Granted(self.request, self.beneficiary, grant, ())
        standing = outcome(self.request, self.beneficiary, reviews, now)
        match standing:
            case Waiting(missing):
                return WaitingForOthers(self.request, self.beneficiary, missing)
            case Approved():
                return WaitingForOthers(self.request, self.beneficiary, 1)
            case Closed(reason):
                raise Conflict(f"{self.request.id} asked for the same and is closed: {reason}. Give another reason.")
            case _:
                assert_never(standing)

    async def seal(self, tx: Transaction, by: tuple[Identity, ...], attempt: Attempt) -> Granted:
        """Make the grant, or let the one last longer that the request extends.

        Raises:
            Conflict: its time cannot begin, or what it extends is over; nothing is to be kept of ``tx``.
        """
        if self.request.extends is not None:
            return await self._extend(tx, self.request.extends, by, attempt)
        grant = grant_from(self.request, by, attempt.now)
        await tx.add_grant(grant)
        attempt.concerns(grant)
        is_glass = self.request.break_glass
        told = (notice.BrokenGlass if is_glass else notice.Granted)(self.request.id, attempt.now, grant.id)
        await tx.add_notice(told, attempt.now)
        await self._write(tx, Kind.GLASS_BROKEN if is_glass else Kind.GRANT_APPROVED, grant, by, attempt)
        return Granted(self.request, self.beneficiary, grant, by)

    async def _extend(self, tx: Transaction, grant_id: str, by: tuple[Identity, ...], attempt: Attempt) -> Granted:
        grant = await tx.grant(grant_id)
        extended = await tx.extend_grant(grant_id, later_end(grant, self.request, attempt.now))
        await tx.close_request(self.request.id, attempt.now)
        attempt.concerns(extended)
        told = notice.Extended(self.request.id, attempt.now, grant_id, extended.ends_at)
        await tx.add_notice(told, attempt.now)
        await self._write(tx, Kind.GRANT_EXTENDED, extended, by, attempt)
        return Granted(self.request, self.beneficiary, extended, by)

    def _reviewed(self, review: Review, missing: int) -> notice.Reviewed:
        return notice.Reviewed(self.request.id, review.at, review.reviewer.id, review.verdict, missing)

    async def _write(
        self, tx: Transaction, kind: Kind, grant: Grant, by: tuple[Identity, ...], attempt: Attempt
    ) -> None:
        request = self.request
        await tx.append(
            attempt.event(
                kind,
                approved_by=", ".join(voter.display for voter in by),
                until=grant.ends_at.isoformat(),
                duration=spell(request.duration),
                reason=request.reason,
                crossing=request.crossing,
                basis=basis_of(request).value,
                asked_by=request.id if request.extends else None,
            )
        )

    async def _carried_out(self, tx: Transaction) -> Grant | None:
        """The grant that this request has become already, or has made longer."""
        if self.request.extends is None:
            return await _existing(tx, grant_id_of(self.request))
        return None if self.request.closed_at is None else await tx.grant(self.request.extends)

    def _granted_before(self, grant: Grant, mine: Review | None, reviews: Sequence[Review], now: datetime) -> Answer:
        if mine is None or not grant.is_live(now):
            raise Conflict(f"{self.request.id} was approved already, as {grant.id}.")
        approving = [review.reviewer for review in reviews if review.verdict is Verdict.APPROVE]
        by = tuple(who for who in approving if self.request.extends or who.id in grant.approved_by)
        return Granted(self.request, self.beneficiary, grant, by)

    def _check_open(self, counted: Sequence[Review], now: datetime) -> None:
        # Asked before the votes are: enough of them may have come together by a policy that has changed since.
        if now >= self.request.times_out_at and self.request.withdrawn_at is None:
            raise Conflict(f"{self.request.id} is closed: nobody answered within {spell(REQUEST_LIFETIME)}.")
        standing = outcome(self.request, self.beneficiary, counted, now)
        if isinstance(standing, Closed):
            raise Conflict(f"{self.request.id} is closed: {standing.reason}.")

    async def _counted(
        self, reviews: Sequence[Review], present: Identity, powers: Powers, store: Store
    ) -> list[Review]:
        """Earlier answers, by people as they are now: the approval of who has lost the right since, or whom their
        issuer has disowned, does not count.

        How they had logged in is what it was then, as old as it was then: no later login makes it weaker or stronger. A
        refusal stays what it was.
        """
        counted = []
        for review in reviews:
            if review.verdict is Verdict.APPROVE:
                known = present if review.reviewer.id == present.id else await store.identity(review.reviewer.id)
                place = await place_of(store, Kind.REQUEST_REVIEWED, self.request, known.id)
                known = known.proven_by(review.reviewer.strength)
                if powers.objection_to_review(known, self.asked, place, review.at) is not None:
                    continue
                if known.id != present.id and await is_disowned(store, known.id, review.at):
                    continue
                review = replace(review, reviewer=known)
            counted.append(review)
        return counted


def answer_of(reviewer: Identity, reviews: Sequence[Review]) -> Review | None:
    """The same person's, under whatever alias."""
    return next((review for review in reviews if review.reviewer.is_same_person_as(reviewer)), None)


async def _existing(tx: Transaction, grant_id: str) -> Grant | None:
    try:
        return await tx.grant(grant_id)
    except NotFound:
        return None
