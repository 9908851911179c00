"""What somebody's login is good for at a target, before anything is opened: asked for a certificate, and by a page."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from bastion.access.admission import NEAR_MISSES
from bastion.core.errors import Refused
from bastion.core.geofence import Address, Outside, Place
from bastion.core.grant import Grant
from bastion.core.identity import Identity
from bastion.core.policy import Access, Action, Allow, Decision, Deny, decide
from bastion.core.remedy import StepUpNeeded, least
from bastion.core.target import Catalogue, Target
from bastion.ports import Clock, Coordination, Locator, Policies, Store


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a login is good for, as it is."""

    opens: bool
    """Whether something would open now."""
    step_up: StepUpNeeded | None = None
    """What would open more."""


class Prospects:
    """Decides ahead. Nothing is written, since nothing is opened."""

    def __init__(
        self,
        *,
        store: Store,
        coordination: Coordination,
        policies: Policies,
        locator: Locator,
        catalogue: Catalogue,
        clock: Clock,
    ) -> None:
        self._store = store
        self._coordination = coordination
        self._policies = policies
        self._locator = locator
        self._catalogue = catalogue
        self._clock = clock

    async def of(self, identity: Identity, address: Address, target_name: str, login: str) -> Prospect:
        """What the login of ``identity`` is good for at a target, so that they can better it before they use it."""
        now, place = self._clock.now(), self._locator.locate(address)
        try:
            target = self._catalogue.find(target_name)
            grants = await self._store.grants_of(identity.id, now - NEAR_MISSES)
            decisions = list(await self.decisions(identity, place, target, {login}, grants, now))
        except Refused:  # what stands in the way then is said when it is asked for
            return Prospect(opens=False)
        return Prospect(any(isinstance(decision, Allow) for decision in decisions), step_up(decisions))

    async def decisions(
        self,
        identity: Identity,
        place: Place,
        target: Target,
        logins: Collection[str],
        grants: Sequence[Grant],
        now: datetime,
    ) -> Iterator[Decision]:
        """One for each of ``logins`` and each action, made as they are asked for.

        Raises:
            Refused: from outside the fence.
        """
        fence = self._catalogue.regions[target.scope.region].fence
        judgement = fence.judge(place)
        if isinstance(judgement, Outside):
            raise Refused(f"{judgement.reason}: region {target.scope.region} cannot be reached from there.")
        occupied = await self._coordination.occupied(identity.id)

        def decided(login: str, action: Action) -> Decision:
            access = Access(identity, target.scope, target, login, action, place)
            covering = [
                g
                for g in grants
                if g.covers(identity.id, target.scope, target.full_name, login, action, now, address=place.address)
            ]
            return decide(
                access,
                fence=fence,
                tier=self._catalogue.tier_of(target.scope),
                occupied=occupied,
                grants=covering,
                rulings={g.id: self._policies.may_connect(access, g, now) for g in covering},
                now=now,
            )

        return (decided(login, action) for login in sorted(logins) for action in Action)


def step_up(decisions: Collection[Decision]) -> StepUpNeeded | None:
    """The least that would turn one of these denials into an allow."""
    denials = [decision for decision in decisions if isinstance(decision, Deny)]
    if (remedy := least(denial.remedy for denial in denials)) is None:
        return None
    reasons = next(denial.reasons for denial in denials if denial.remedy == remedy)
    return StepUpNeeded(" ".join(reasons), remedy)
