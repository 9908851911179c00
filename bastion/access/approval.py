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
from bastion.access.ids import new_id
from bastion.access.powers import Powers
from bastion.access.whereabouts import place_of
from bastion.access.wish import Asked, Wish, recall, resolve, strictest
from bastion.core.audit import Kind
from bastion.core.errors import Conflict, NotFound, Refused
from bastion.core.geofence import Place
from bastion.core.grant import Grant, Request, Review, Verdict, can_review, spell
from bastion.core.identity import Identity
from bastion.core.policy import Demands
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
        self._coordination = coordination
        self._catalogue = catalogue
        self._clock = clock
        self._node = node

    async def request(self, asker: Identity, beneficiary: Identity, wish: Wish, place: Place | None) -> Request:
        """Ask that ``beneficiary`` may have ``wish``. Asking for somebody else takes the power to review it.

        Raises:
            Refused: place, policy or the wish itself forbid it; there is no request, and an event says so.
        """
        async with self._attempt("request", Kind.REQUEST_REFUSED, asker, place) as attempt:
            ballot = self._draft(attempt, asker, beneficiary, wish, place)
            if asker.id != beneficiary.id:
                self._check_policy(asker, ballot.asked, place, attempt.now)
            async with self._store.transaction() as tx:
                await _add(tx, ballot.request, attempt)
            return ballot.request

    async def grant(
        self, actor: Identity, beneficiary: Identity, wish: Wish, place: Place | None
    ) -> Granted | WaitingForOthers:
        """A request for ``beneficiary`` and the actor's own review of it, together or not at all.

        Raises:
            Refused: place, policy, laws or the wish itself forbid it; there is neither request nor grant, and an event
                says so.
        """
        async with self._attempt("grant", Kind.GRANT_REFUSED, actor, place) as attempt:
            ballot = self._draft(attempt, actor, beneficiary, wish, place)
            self._check_policy(actor, ballot.asked, place, attempt.now)
            _check_law(ballot, actor)
            review = Review(ballot.request.id, actor, Verdict.APPROVE, attempt.now)
            async with self._store.transaction() as tx:
                await _add(tx, ballot.request, attempt)
                answer = await ballot.cast(tx, review, attempt=attempt, powers=self._powers, store=self._store)
                if isinstance(answer, TurnedDown):
                    raise Refused(f"This cannot be granted: {answer.reason}.")
            return answer

    async def review(self, request_id: str, reviewer: Identity, verdict: Verdict, place: Place | None) -> Answer:
        """Answer a request. The policies are asked again for both people, as they are now; the stricter demands hold.

        The same answer given twice changes nothing. The grant's time starts now.

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
            ballot = Ballot(request, beneficiary, recall(request, self._catalogue))
            self._check_policy(reviewer, ballot.asked, place, attempt.now)
            demands = await self._demands_of_now(ballot, attempt.now) if verdict is Verdict.APPROVE else request.demands
            async with self._store.transaction() as tx:
                stored = await tx.request(request_id)
                ballot = replace(ballot, request=replace(stored, demands=demands))
                _check_law(ballot, reviewer)
                review = Review(request_id, reviewer, verdict, attempt.now)
                return await ballot.cast(tx, review, attempt=attempt, powers=self._powers, store=self._store)

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
                ended = [await _end(tx, grant, attempt) for grant in grants]
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

    def _attempt(self, verb: str, refusal: Kind, actor: Identity, place: Place | None) -> Attempt:
        now = self._clock.now()
        return Attempt(
            store=self._store, node=self._node, now=now, actor=actor, place=place, refusal=refusal, verb=verb
        )

    def _draft(
        self, attempt: Attempt, asker: Identity, beneficiary: Identity, wish: Wish, place: Place | None
    ) -> Ballot:
        attempt.helps(beneficiary)
        attempt.names(wish.targets, wish.logins, None)
        asked = resolve(wish, self._catalogue)
        attempt.names((target.full_name for target in asked.targets), asked.logins, asked.scope)
        self._powers.check_fence(asked.scope, place)
        # The asker's place says nothing about somebody else's.
        demands = self._powers.demands_of(
            beneficiary, asked, place if asker.id == beneficiary.id else None, attempt.now
        )
        request = Request(
            id=new_id("q"),
            asker=asker.id,
            beneficiary=beneficiary.id,
            scope=asked.scope,
            targets=frozenset(target.full_name for target in asked.targets),
            logins=frozenset(asked.logins),
            actions=asked.actions,
            duration=asked.duration,
            reason=asked.reason,
            asked_at=attempt.now,
            demands=demands,
            crossing=asked.crossing,
        )
        attempt.concerns(request)
        return Ballot(request, beneficiary, asked)

    async def _demands_of_now(self, ballot: Ballot, now: datetime) -> Demands:
        place = await place_of(self._store, Kind.REQUEST_MADE, ballot.request, ballot.beneficiary.id)
        present = self._powers.demands_of(ballot.beneficiary, ballot.asked, place, now)
        try:
            return strictest([ballot.request.demands, present])
        except Refused:
            raise Conflict("The policy names other reviewers since this was asked: ask again.") from None

    def _check_policy(self, reviewer: Identity, asked: Asked, place: Place | None, now: datetime) -> None:
        if (objection := self._powers.objection_to_review(reviewer, asked, place, now)) is not None:
            raise Refused(objection)

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
            Kind.REQUEST_MADE, duration=spell(request.duration), reason=request.reason, crossing=request.crossing
        )
    )


async def _end(tx: Transaction, grant: Grant, attempt: Attempt) -> Grant:
    if (await tx.grant(grant.id)).revoked_at is not None:
        return await tx.grant(grant.id)
    attempt.concerns(grant)
    ended = await tx.revoke_grant(grant.id, attempt.now)
    await tx.append(attempt.event(Kind.GRANT_REVOKED))
    return ended
