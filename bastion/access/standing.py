"""Where things stand: what somebody may reach, waits for, and may answer. Nothing is changed here."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bastion.access.ballot import grant_id_of
from bastion.access.patience import MAX_WAITING, TURN
from bastion.access.powers import Powers
from bastion.access.sweeping import MAX_GRANTS, SOON, UNUSED
from bastion.access.wish import recall
from bastion.core.errors import NotFound, Refused
from bastion.core.geofence import Place
from bastion.core.grant import REQUEST_LIFETIME, Grant, Request, can_review
from bastion.core.identity import Identity, IdentityId
from bastion.core.policy import NotPermitted
from bastion.core.remedy import Remedy
from bastion.core.request import Life, Stage
from bastion.core.target import Catalogue, printable
from bastion.ports import Clock, Policies, Store

__all__ = ["UNUSED", "Held", "Inspected", "Pending", "Reviewable", "Standing", "Told"]


@dataclass(frozen=True, slots=True)
class Held:
    """A grant and who holds it."""

    grant: Grant
    holder: Identity


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that waits, who it is for, and whether the one who looks may answer it."""

    request: Request
    beneficiary: Identity
    answerable: bool


@dataclass(frozen=True, slots=True)
class Told:
    """One request, where it is in its life, and what the one who looks may do about it."""

    life: Life
    stage: Stage
    answerable: bool
    step_up: Remedy | None
    """The login that answering takes, where theirs is not enough."""


@dataclass(frozen=True, slots=True)
class Reviewable:
    """A live grant, as whoever reviews standing access wants to see it."""

    grant: Grant
    holder: Identity
    last_used: datetime | None
    is_unused: bool
    """Longer than was asked about; of one that was never used, since it began."""
    is_ending_soon: bool


@dataclass(frozen=True, slots=True)
class Inspected:
    """One grant, live or over."""

    grant: Grant
    holder: Identity
    approvers: tuple[str, ...]
    """What they are called; of whom nothing is known, their ids."""
    last_used: datetime | None


class Standing:
    """Lists for one person at one place: only of regions whose fence holds that place, when it is known (law 2).

    ``unused_after`` is how long a grant is used by nobody until it is marked so, where nobody asks about another span.
    """

    def __init__(
        self,
        *,
        store: Store,
        policies: Policies,
        catalogue: Catalogue,
        clock: Clock,
        unused_after: timedelta = UNUSED,
    ) -> None:
        self._store = store
        self._powers = Powers(policies=policies, catalogue=catalogue)
        self._catalogue = catalogue
        self._clock = clock
        self._unused_after = unused_after
        self._waiting = 0

    async def access_of(self, identity: Identity, place: Place | None) -> Sequence[Held]:
        """The live grants of ``identity``, latest end first."""
        now = self._clock.now()
        grants = await self._store.grants_of(identity.id, ended_after=now)
        return [Held(g, identity) for g in grants if g.is_live(now) and self._powers.holds(g.scope, place)]

    async def grants(self, viewer: Identity, place: Place | None) -> Sequence[Held]:
        """Live grants in the scopes that ``viewer`` oversees, and their own; newest first."""
        now = self._clock.now()
        found = await self._store.grants(live_at=now, limit=MAX_GRANTS)
        scopes = {grant.scope for grant in found if self._powers.holds(grant.scope, place)}
        overseen = {scope for scope in scopes if self._powers.oversees(viewer, scope, place, now)}
        theirs = [g for g in found if g.scope in overseen or (g.scope in scopes and g.identity == viewer.id)]
        holders = {identity: await self._store.identity(identity) for identity in {g.identity for g in theirs}}
        return [Held(grant, holders[grant.identity]) for grant in theirs]

    async def pending(self, viewer: Identity, place: Place | None) -> Sequence[Pending]:
        """Requests that wait and that ``viewer`` may answer or made or would profit from; oldest first."""
        now = self._clock.now()
        found = []
        for request in await self._store.waiting_requests(asked_after=now - REQUEST_LIFETIME):
            if not self._powers.holds(request.scope, place):
                continue
            beneficiary = await self._store.identity(request.beneficiary)
            answerable = self._may_answer(viewer, request, beneficiary, place)
            if answerable or viewer.id in (request.asker, request.beneficiary):
                found.append(Pending(request, beneficiary, answerable))
        return found

    async def owed(self, viewer: Identity, place: Place | None) -> Sequence[Pending]:
        """Break-glass that waits for an answer and that ``viewer`` may answer for, or opened; oldest first."""
        found = []
        for request in await self._store.broken_glass():
            if not self._powers.holds(request.scope, place):
                continue
            beneficiary = await self._store.identity(request.beneficiary)
            answerable = self._may_answer(viewer, request, beneficiary, place)
            if answerable or viewer.id == request.beneficiary:
                found.append(Pending(request, beneficiary, answerable))
        return found

    async def one_request(self, viewer: Identity, request_id: str, place: Place | None) -> Told:
        """A request that ``viewer`` made, would profit from, may answer, or oversees.

        Raises:
            NotFound: there is none, or not for them.
        """
        request = await self._store.request(request_id)
        beneficiary = await self._store.identity(request.beneficiary)
        theirs = viewer.id in (request.asker, request.beneficiary)
        answerable = self._may_answer(viewer, request, beneficiary, place)
        if not self._powers.holds(request.scope, place) or not (
            theirs or answerable or self._powers.oversees(viewer, request.scope, place, self._clock.now())
        ):
            raise NotFound(f"There is no request {printable(request_id)!r}.")
        try:
            grant = await self._store.grant(grant_id_of(request))
        except NotFound:
            grant = None
        life = Life(request, beneficiary, tuple(await self._store.reviews(request_id)), grant)
        objection = self._objection(viewer, request, place)
        step_up = objection.remedy if answerable and objection is not None else None
        return Told(life, life.stage(self._clock.now()), answerable, step_up)

    async def news_of(self, request_id: str, seen: int, longest: timedelta) -> None:
        """Return when an open request has more than ``seen`` answers, is withdrawn, or after ``longest``; at once where
        `MAX_WAITING` wait already.
        """
        if self._waiting >= MAX_WAITING:
            return
        self._waiting += 1
        try:
            async with asyncio.timeout(longest.total_seconds()):
                while True:
                    if await self._has_news(request_id, seen):
                        return
                    await asyncio.sleep(TURN)
        except TimeoutError:
            return
        finally:
            self._waiting -= 1

    async def _has_news(self, request_id: str, seen: int) -> bool:
        if len(await self._store.reviews(request_id)) > seen:
            return True
        return (await self._store.request(request_id)).withdrawn_at is not None

    async def review(
        self, viewer: Identity, place: Place | None, unused_for: timedelta | None, ending_within: timedelta | None
    ) -> Sequence[Reviewable]:
        """Live grants in the scopes that ``viewer`` oversees, and their own; those that nobody used for longest first.

        With ``unused_for``, those alone that nobody has used for so long; with ``ending_within``, those that end so
        soon; with both, those of which both is true.
        """
        now, held = self._clock.now(), await self.grants(viewer, place)
        used = await self._store.last_used([each.grant.id for each in held])

        def reviewable(each: Held) -> Reviewable:
            last = used.get(each.grant.id)
            idle = now - (last or each.grant.starts_at) >= (unused_for or self._unused_after)
            return Reviewable(each.grant, each.holder, last, idle, each.grant.ends_at - now <= (ending_within or SOON))

        found = sorted(map(reviewable, held), key=lambda each: each.last_used or each.grant.starts_at)
        return [
            each
            for each in found
            if (unused_for is None or each.is_unused) and (ending_within is None or each.is_ending_soon)
        ]

    async def inspect(self, viewer: Identity, grant_id: str, place: Place | None) -> Inspected:
        """A grant that `viewer` holds, or of a scope that they oversee, whether it is over or not.

        Raises:
            NotFound: there is none, or not for them.
        """
        # One sentence for both, or it would tell a stranger which of the ids they try exist.
        absent = NotFound(f"There is no grant {printable(grant_id)!r} that you may see.")
        try:
            grant = await self._store.grant(grant_id)
        except NotFound:
            raise absent from None
        overseen = grant.identity == viewer.id or self._powers.oversees(viewer, grant.scope, place, self._clock.now())
        if not (overseen and self._powers.holds(grant.scope, place)):
            raise absent
        approvers = [await self._called(voter) for voter in grant.approved_by]
        used = await self._store.last_used([grant.id])
        return Inspected(grant, await self._store.identity(grant.identity), tuple(approvers), used.get(grant.id))

    async def _called(self, identity: IdentityId) -> str:
        try:
            return (await self._store.identity(identity)).display
        except NotFound:
            return str(identity)

    async def look_up(self, viewer: Identity, who: str, place: Place | None) -> Identity:
        """The identity that ``who`` means: ``issuer#subject``, or an e-mail that exactly one identity verified.

        Raises:
            NotFound: nobody is called so.
            Refused: several are; or ``viewer`` oversees no scope, and so may not find out who exists.
        """
        if who in (str(viewer.id), viewer.email):
            return viewer
        if not self._powers.oversees_any(viewer, place, self._clock.now()):
            raise Refused("Only those who review or administer a scope may name somebody else.")
        return await self._store.find_identity(who)

    def _may_answer(self, viewer: Identity, request: Request, beneficiary: Identity, place: Place | None) -> bool:
        """Now, or once they have logged in as a policy demands, which is theirs to do."""
        objection = self._objection(viewer, request, place)
        if objection is not None and objection.remedy is None:
            return False
        return can_review(request, beneficiary, viewer) is None

    def _objection(self, viewer: Identity, request: Request, place: Place | None) -> NotPermitted | None:
        try:
            asked = recall(request, self._catalogue)
        except (NotFound, Refused) as error:
            return NotPermitted((error.public,))
        return self._powers.objection_to_review(viewer, asked, place, self._clock.now())
