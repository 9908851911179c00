"""From a wish to a request that policies, place and laws would let be answered: what asking, granting and extending
have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from bastion.access.attempt import Attempt
from bastion.access.ballot import Ballot
from bastion.access.ids import derived_id, new_id
from bastion.access.powers import Powers, ticket_of
from bastion.access.whereabouts import place_of
from bastion.access.wish import Asked, Wish, check_start, recall, resolve, strictest
from bastion.core.audit import Kind
from bastion.core.errors import Conflict, Refused
from bastion.core.geofence import Place
from bastion.core.grant import Basis, Grant, Request, check_duration, check_reason, spell
from bastion.core.identity import Identity
from bastion.core.policy import Demands
from bastion.core.request import Stage, stage_of_grant
from bastion.core.target import Catalogue, Scope
from bastion.ports import Coordination, Store


@dataclass(frozen=True, slots=True)
class MoreTime:
    """What an extension asks for. ``seen_end`` is the end of the grant that the asker was looking at, so that a button
    pressed again after it has worked changes nothing."""

    duration: timedelta
    reason: str
    ticket: str = ""
    seen_end: datetime | None = None

    def check(self, grant: Grant, now: datetime) -> None:
        """That ``grant`` can have more time.

        Raises:
            Conflict: it is over, was opened by break-glass, or ends at another time than was seen.
        """
        if grant.basis is Basis.BREAK_GLASS:
            raise Conflict(f"{grant.id} was opened by break-glass and is short: request what is still needed.")
        if (stage := stage_of_grant(grant, now)) is not Stage.GRANTED:
            raise Conflict(f"{grant.id} cannot be extended: it is {stage}. Ask for a new one.")
        if self.seen_end not in (None, grant.ends_at):
            raise Conflict(f"{grant.id} was extended already; it has {spell(grant.ends_at - now)} left.")


class Drafting:
    """Makes ballots that nobody has voted in yet; nothing is written here."""

    def __init__(self, *, store: Store, powers: Powers, coordination: Coordination, catalogue: Catalogue) -> None:
        self._store = store
        self._powers = powers
        self._coordination = coordination
        self._catalogue = catalogue

    async def draft(
        self,
        attempt: Attempt,
        asker: Identity,
        beneficiary: Identity,
        wish: Wish,
        place: Place | None,
        *,
        break_glass: bool = False,
    ) -> Ballot:
        """A request for ``wish``, with what the policies demand of it. It is a crossing when it says so, and when the
        beneficiary has a session in another tier and it is to begin at once (law 4).

        Raises:
            Refused: place, policy or the wish itself forbid it.
        """
        attempt.helps(beneficiary)
        attempt.names(wish.targets, wish.logins, None)
        asked = resolve(wish, self._catalogue)
        attempt.names((target.full_name for target in asked.targets), asked.logins, asked.scope)
        self._powers.check_fence(asked.scope, place)
        if asked.starts_at is not None:
            check_start(asked.starts_at, attempt.now)
        beside = await self._beside(beneficiary, asked)
        asked = replace(asked, crossing=asked.crossing or bool(beside))
        # The asker's place says nothing about somebody else's.
        own_place = place if asker.id == beneficiary.id else None
        demands = self._demands(beneficiary, asked, own_place, attempt.now, break_glass=break_glass)
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
            starts_at=asked.starts_at,
            network=asked.network,
            paths=asked.paths,
            ticket=ticket_of(demands, asked),
            break_glass=break_glass,
            beside=beside,
        )
        attempt.concerns(request)
        return Ballot(request, beneficiary, asked)

    def more_time(
        self, attempt: Attempt, asker: Identity, holder: Identity, grant: Grant, more: MoreTime, place: Place | None
    ) -> Ballot:
        """A request that ``grant`` may end later, by the duration and for the reason of ``more``; what may be used is
        the grant's, and a crossing stays one.

        Raises:
            Refused: place or policy forbid it.
        """
        self._powers.check_fence(grant.scope, place)
        request = Request(
            id=derived_id("q", grant.id, grant.ends_at.isoformat(), str(more)),
            asker=asker.id,
            beneficiary=holder.id,
            scope=grant.scope,
            targets=grant.targets,
            logins=grant.logins,
            actions=grant.actions,
            duration=check_duration(more.duration),
            reason=check_reason(more.reason),
            asked_at=attempt.now,
            demands=Demands(),
            crossing=grant.crossing,
            network=grant.network,
            paths=grant.paths,
            ticket=more.ticket,
            extends=grant.id,
        )
        asked = recall(request, self._catalogue)
        own_place = place if asker.id == holder.id else None
        demands = self._powers.demands_of(holder, asked, own_place, attempt.now)
        request = replace(request, demands=demands, ticket=ticket_of(demands, asked))
        attempt.concerns(request)
        return Ballot(request, holder, asked)

    async def demands_of_now(self, ballot: Ballot, now: datetime) -> Demands:
        """What is demanded of a request that was made earlier: then and now, the strictest of each.

        Raises:
            Conflict: nobody could answer both.
            Refused: it would not be permitted any more.
        """
        place = await place_of(self._store, Kind.REQUEST_MADE, ballot.request, ballot.beneficiary.id)
        present = self._powers.demands_of(ballot.beneficiary, ballot.asked, place, now)
        try:
            return strictest([ballot.request.demands, present])
        except Refused:
            raise Conflict("The policy names other reviewers since this was asked: ask again.") from None

    async def _beside(self, beneficiary: Identity, asked: Asked) -> frozenset[str]:
        """The environments of other tiers in which the beneficiary has a session now."""
        if asked.starts_at is not None:
            return frozenset()
        tier = self._catalogue.tier_of(asked.scope)
        return frozenset(
            held.environment for held in await self._coordination.occupied(beneficiary.id) if held.tier != tier
        )

    def _demands(
        self, beneficiary: Identity, asked: Asked, place: Place | None, now: datetime, *, break_glass: bool
    ) -> Demands:
        try:
            if break_glass:
                return self._powers.demands_of_break_glass(beneficiary, asked, place, now)
            return self._powers.demands_of(beneficiary, asked, place, now)
        except Refused as refused:
            raise self._explained(refused, asked.scope) if asked.crossing else refused from None

    def _explained(self, refused: Refused, scope: Scope) -> Refused:
        sentence = f"Used beside another environment, {scope} is a crossing. End the other session first, or: "
        return Refused(sentence + refused.public)
