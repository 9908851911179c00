"""Request → review → grant → revoke, whoever asks and by whatever way.

The order is the safety argument, and the same everywhere: the place, the policies, the laws, one transaction with the
event in it, then the other nodes. What decides is read again inside that transaction, so of two people, two windows or
two tries at once exactly one makes the grant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from bastion.access.attempt import Attempt
from bastion.access.ballot import Answer, Ballot, Granted, TurnedDown, WaitingForOthers
from bastion.access.drafting import Drafting, MoreTime
from bastion.access.ending import Acknowledgement, acknowledge, end, withdraw
from bastion.access.powers import Powers
from bastion.access.wish import Asked, Wish, recall
from bastion.core import notice
from bastion.core.audit import Kind
from bastion.core.errors import Conflict, NotFound, Refused
from bastion.core.geofence import Place
from bastion.core.grant import Grant, Request, Review, Verdict, can_review, check_note, spell
from bastion.core.identity import Identity
from bastion.core.remedy import StepUpNeeded
from bastion.core.target import Catalogue, Scope
from bastion.ports import Clock, Coordination, Policies, Revocation, Store, Transaction


@dataclass(frozen=True, slots=True)
class Holding:
    """Whatever grants ``beneficiary`` has for the target called ``target``, with the other targets of such a grant."""

    beneficiary: Identity
    target: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """These are over, by this call or an earlier one."""

    beneficiary: Identity
    grants: tuple[Grant, ...]


class Approval:
    """Everything that makes or ends a grant.

    ``place`` is where the person who acts is, or None when it cannot be known (a chat): the event then says so, and no
    fence is asked here; using the grant asks it anyway. Every refusal is an event too.
    """

    def __init__(
        self,
        *,
        store: Store,
        policies: Policies,
        coordination: Coordination,
        catalogue: Catalogue,
        clock: Clock,
        node: str,
    ) -> None:
        self._store = store
        self._powers = Powers(policies=policies, catalogue=catalogue)
        self._drafting = Drafting(store=store, powers=self._powers, coordination=coordination, catalogue=catalogue)
        self._coordination = coordination
        self._catalogue = catalogue
        self._clock = clock
        self._node = node

    async def request(self, asker: Identity, beneficiary: Identity, wish: Wish, place: Place | None) -> Request:
        """As `ask`, for whoever wants to know the request and not where it stands."""
        return (await self.ask(asker, beneficiary, wish, place)).request

    async def ask(
        self, asker: Identity, beneficiary: Identity, wish: Wish, place: Place | None
    ) -> Granted | WaitingForOthers:
        """Ask that ``beneficiary`` may have ``wish``. Asking for somebody else takes the power to review it.

        It is granted at once where a policy answers by itself (``@auto``).

        Raises:
            Refused: place, policy or the wish itself forbid it; there is no request, and an event says so.
        """
        async with self._attempt("request", Kind.REQUEST_REFUSED, asker, place) as attempt:
            ballot = await self._drafting.draft(attempt, asker, beneficiary, wish, place)
            if asker.id != beneficiary.id:
                self._check_policy(asker, ballot.asked, place, attempt.now)
            async with self._store.transaction() as tx:
                await _add(tx, ballot.request, attempt)
                return await ballot.open(tx, attempt)

    async def grant(
        self, actor: Identity, beneficiary: Identity, wish: Wish, place: Place | None
    ) -> Granted | WaitingForOthers:
        """A request for ``beneficiary`` and the actor's own review of it, together or not at all.

        Raises:
            Refused: place, policy, laws or the wish itself forbid it; there is neither request nor grant, and an event
                says so.
        """
        async with self._attempt("grant", Kind.GRANT_REFUSED, actor, place) as attempt:
            ballot = await self._drafting.draft(attempt, actor, beneficiary, wish, place)
            self._check_policy(actor, ballot.asked, place, attempt.now)
            _check_law(ballot, actor)
            review = Review(ballot.request.id, actor, Verdict.APPROVE, attempt.now)
            async with self._store.transaction() as tx:
                await _add(tx, ballot.request, attempt)
                return await self._cast_own(tx, ballot, review, attempt)

    async def review(
        self, request_id: str, reviewer: Identity, verdict: Verdict, place: Place | None, note: str = ""
    ) -> Answer:
        """Answer a request. The policies are asked again for both people, as they are now; the stricter demands hold.

        The same answer given twice changes nothing. The grant's time starts now, or
        when it was agreed to.

        Raises:
            NotFound: there is no such request, or what it names is gone.
            Conflict: it is closed: answered, refused or timed out; or this person answered it otherwise.
            Refused: place, policy or law 10 forbid it. In every case the request is as it was.
        """
        async with self._attempt("review", Kind.GRANT_REFUSED, reviewer, place) as attempt:
            request = await self._store.request(request_id)
            attempt.concerns(request)
            beneficiary = await self._store.identity(request.beneficiary)
            attempt.helps(beneficiary)
            self._powers.check_fence(request.scope, place)
            if request.break_glass:
                raise Conflict(f"{request.id} was opened by break-glass: it is answered for afterwards.")
            ballot = Ballot(request, beneficiary, recall(request, self._catalogue))
            self._check_policy(reviewer, ballot.asked, place, attempt.now)
            demands = request.demands
            if verdict is Verdict.APPROVE:
                demands = await self._drafting.demands_of_now(ballot, attempt.now)
            async with self._store.transaction() as tx:
                stored = await tx.request(request_id)
                ballot = replace(ballot, request=replace(stored, demands=demands))
                _check_law(ballot, reviewer)
                review = Review(request_id, reviewer, verdict, attempt.now, check_note(note))
                answer = await ballot.cast(tx, review, attempt=attempt, powers=self._powers, store=self._store)
        await self._tell_of_more_time(answer)
        return answer

    async def extend(
        self,
        grant_id: str,
        actor: Identity,
        more: MoreTime,
        place: Place | None,
    ) -> Granted | WaitingForOthers:
        """Ask that a live grant may end later; of anybody but its holder this is also their own review of that.

        The policies demand of it what they demand of a new grant, and it lasts no longer from now than a new one could.
        Asking for the same twice is asking once.

        Raises:
            NotFound: there is no such grant, or what it names is gone.
            Conflict: it is over, ends at another time than the asker has seen, or was opened by break-glass.
            Refused: place, policy or law 10 forbid it. In every case the grant ends when it would have.
        """
        async with self._attempt("extend", Kind.GRANT_REFUSED, actor, place) as attempt:
            grant = await self._store.grant(grant_id)
            attempt.concerns(grant)
            holder = await self._store.identity(grant.identity)
            attempt.helps(holder)
            more.check(grant, attempt.now)
            ballot = self._drafting.more_time(attempt, actor, holder, grant, more, place)
            if actor.id != holder.id:
                self._check_policy(actor, ballot.asked, place, attempt.now)
                _check_law(ballot, actor)
            async with self._store.transaction() as tx:
                answer = await self._extend(tx, ballot, actor, attempt)
        await self._tell_of_more_time(answer)
        return answer

    async def withdraw(self, request_id: str, actor: Identity, place: Place | None) -> Request:
        """Take a request back that is still open. Those may who made it or would profit from it; twice is once.

        Raises:
            NotFound: there is no such request.
            Conflict: it was granted, refused or timed out; it stays so.
            Refused: it is somebody else's, or the place forbids it.
        """
        async with self._attempt("withdraw", Kind.REQUEST_REFUSED, actor, place) as attempt:
            request = await self._store.request(request_id)
            attempt.concerns(request)
            beneficiary = await self._store.identity(request.beneficiary)
            attempt.helps(beneficiary)
            self._powers.check_fence(request.scope, place)
            if actor.id not in (request.asker, request.beneficiary):
                raise Refused(f"{request_id} is not yours to withdraw.")
            async with self._store.transaction() as tx:
                return await withdraw(tx, request_id, beneficiary, actor, attempt)

    async def break_glass(self, actor: Identity, wish: Wish, place: Place | None) -> Granted:
        """Open ``wish`` for the actor at once. Policy names who may; every reviewer is told, and asked to answer for it
        until it is done (`acknowledge`). It is short, and never extended.

        Raises:
            Refused: place, policy or the wish itself forbid it; there is no grant, and an event says so.
        """
        async with self._attempt("break_glass", Kind.GRANT_REFUSED, actor, place) as attempt:
            if wish.starts_at is not None:
                raise Refused("Break-glass opens at once; for later, request it.")
            ballot = await self._drafting.draft(attempt, actor, actor, wish, place, break_glass=True)
            async with self._store.transaction() as tx:
                await _add(tx, ballot.request, attempt)
                return await ballot.seal(tx, (), attempt)

    async def acknowledge(
        self, request_id: str, reviewer: Identity, verdict: Verdict, place: Place | None, note: str = ""
    ) -> Acknowledgement:
        """Answer for a break-glass after the fact: approving says it was right, refusing that it was not, and ends its
        grant. The same answer given twice changes nothing.

        Raises:
            NotFound: there is no such request.
            Conflict: it was no break-glass, or is answered for already.
            Refused: place, policy or law 10 forbid it.
        """
        async with self._attempt("acknowledge", Kind.GRANT_REFUSED, reviewer, place) as attempt:
            request = await self._store.request(request_id)
            attempt.concerns(request)
            beneficiary = await self._store.identity(request.beneficiary)
            attempt.helps(beneficiary)
            self._powers.check_fence(request.scope, place)
            if not request.break_glass:
                raise Conflict(f"{request_id} was not opened by break-glass: approve or deny it.")
            ballot = Ballot(request, beneficiary, recall(request, self._catalogue))
            self._check_policy(reviewer, ballot.asked, place, attempt.now)
            _check_law(ballot, reviewer)
            review = Review(request_id, reviewer, verdict, attempt.now, check_note(note))
            async with self._store.transaction() as tx:
                done = await acknowledge(tx, request_id, beneficiary, review, attempt)
        if done.grant.revoked_at is not None:
            await self._coordination.revoke(Revocation(grant_id=done.grant.id))
        return done

    async def revoke(self, which: str | Holding, actor: Identity, place: Place | None) -> Revoked:
        """End a grant by its id, or all that somebody holds for a target.

        Those may who review or administer the scope, and whoever holds the grant. What is over already stays as it
        was. The other nodes are told in any case, so trying again after `Unavailable` completes what was begun.

        Raises:
            NotFound: there is no such grant or target.
            Refused: place or policy forbid it; nothing was revoked.
        """
        async with self._attempt("revoke", Kind.GRANT_REFUSED, actor, place) as attempt:
            if isinstance(which, Holding):
                beneficiary, grants = await self._held(attempt, which, actor, place)
            else:
                beneficiary, grants = await self._named(attempt, which, actor, place)
            async with self._store.transaction() as tx:
                ended = [await end(tx, grant, actor, attempt) for grant in grants]
        told = (self._coordination.revoke(Revocation(grant_id=grant.id)) for grant in ended)
        for outcome in await asyncio.gather(*told, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return Revoked(beneficiary, tuple(ended))

    async def _named(
        self, attempt: Attempt, grant_id: str, actor: Identity, place: Place | None
    ) -> tuple[Identity, Sequence[Grant]]:
        grant = await self._store.grant(grant_id)
        attempt.concerns(grant)
        beneficiary = await self._store.identity(grant.identity)
        attempt.helps(beneficiary)
        self._check_may_revoke(actor, beneficiary, grant.scope, place, attempt.now)
        return beneficiary, [grant]

    async def _held(
        self, attempt: Attempt, holding: Holding, actor: Identity, place: Place | None
    ) -> tuple[Identity, Sequence[Grant]]:
        attempt.helps(holding.beneficiary)
        attempt.names((holding.target,), (), None)
        target = self._catalogue.find(holding.target)
        attempt.names((target.full_name,), (), target.scope)
        self._check_may_revoke(actor, holding.beneficiary, target.scope, place, attempt.now)
        unended = await self._store.grants_of(holding.beneficiary.id, ended_after=attempt.now)
        if grants := [grant for grant in unended if target.full_name in grant.targets]:
            return holding.beneficiary, grants
        raise NotFound(f"{holding.beneficiary.display} has no grant for {target.full_name}.")

    async def _extend(
        self, tx: Transaction, ballot: Ballot, actor: Identity, attempt: Attempt
    ) -> Granted | WaitingForOthers:
        try:
            stored = await tx.request(ballot.request.id)
        except NotFound:
            await _add(tx, ballot.request, attempt)
            if actor.id == ballot.beneficiary.id:
                return await ballot.open(tx, attempt)
        else:
            ballot = replace(ballot, request=replace(stored, demands=ballot.request.demands))
            if actor.id == ballot.beneficiary.id:
                return await ballot.again(tx, attempt.now)
        review = Review(ballot.request.id, actor, Verdict.APPROVE, attempt.now)
        return await self._cast_own(tx, ballot, review, attempt)

    async def _cast_own(
        self, tx: Transaction, ballot: Ballot, review: Review, attempt: Attempt
    ) -> Granted | WaitingForOthers:
        """The vote of whoever gives what nobody has asked for."""
        answer = await ballot.cast(tx, review, attempt=attempt, powers=self._powers, store=self._store)
        if isinstance(answer, TurnedDown):
            raise Refused(f"This cannot be granted: {answer.reason}.")
        if isinstance(answer, WaitingForOthers):
            await tx.add_notice(notice.Asked(answer.request.id, attempt.now), attempt.now)
        return answer

    async def _tell_of_more_time(self, answer: Answer) -> None:
        """Every node looks at its sessions again. A node that does not hear of it ends them when they would have."""
        if isinstance(answer, Granted) and answer.request.extends is not None:
            await self._coordination.revoke(Revocation())

    def _attempt(self, verb: str, refusal: Kind, actor: Identity, place: Place | None) -> Attempt:
        now = self._clock.now()
        return Attempt(
            store=self._store, node=self._node, now=now, actor=actor, place=place, refusal=refusal, verb=verb
        )

    def _check_policy(self, reviewer: Identity, asked: Asked, place: Place | None, now: datetime) -> None:
        if (objection := self._powers.objection_to_review(reviewer, asked, place, now)) is None:
            return
        if objection.remedy is not None:
            raise StepUpNeeded(" ".join(objection.reasons), objection.remedy)
        raise Refused(" ".join(objection.reasons))

    def _check_may_revoke(
        self, actor: Identity, beneficiary: Identity, scope: Scope, place: Place | None, now: datetime
    ) -> None:
        self._powers.check_fence(scope, place)
        if actor.id != beneficiary.id and not self._powers.oversees(actor, scope, place, now):
            raise Refused(f"Only those who review or administer {scope}, or hold the grant, may revoke it.")


def _check_law(ballot: Ballot, reviewer: Identity) -> None:
    if (objection := can_review(ballot.request, ballot.beneficiary, reviewer)) is not None:
        raise Refused(objection)


async def _add(tx: Transaction, request: Request, attempt: Attempt) -> None:
    await tx.add_request(request)
    await tx.append(
        attempt.event(
            Kind.REQUEST_MADE,
            duration=spell(request.duration),
            reason=request.reason,
            crossing=request.crossing,
            ticket=request.ticket or None,
            extends=request.extends,
            starts_at=request.starts_at.isoformat() if request.starts_at else None,
            network=str(request.network) if request.network else None,
            paths=", ".join(sorted(request.paths)) or None,
        )
    )
    if request.crossing:
        beside = ", ".join(sorted(request.beside)) or "none yet"
        await tx.append(attempt.event(Kind.REQUEST_CROSSES, beside=beside))
