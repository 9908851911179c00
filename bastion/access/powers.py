"""What the policies let somebody do to access itself, asked anew each time it matters."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import assert_never

from bastion.access.wish import Asked, strictest
from bastion.core.errors import Refused
from bastion.core.geofence import Outside, Place
from bastion.core.grant import spell
from bastion.core.identity import MFA, Identity
from bastion.core.policy import Demands, NotPermitted, Permitted, Power, Ruling
from bastion.core.target import Catalogue, Scope
from bastion.ports import Policies


class Powers:
    """The policies' answers about requests, reviews and revocations. Empty policies permit nothing."""

    def __init__(self, *, policies: Policies, catalogue: Catalogue) -> None:
        self._policies = policies
        self._catalogue = catalogue

    def check_fence(self, scope: Scope, place: Place | None) -> None:
        """Law 2, where the place is known. A chat relays commands from its own servers: ``place`` is None then.

        Raises:
            Refused: the fence of the scope's region does not hold ``place``.
        """
        if place is None:
            return
        region = self._catalogue.regions.get(scope.region)
        if region is None:
            raise Refused(f"Region {scope.region} is not configured any more.")
        judgement = region.fence.judge(place)
        if isinstance(judgement, Outside):
            raise Refused(f"{judgement.reason}: region {scope.region} cannot be reached from there.")

    def holds(self, scope: Scope, place: Place | None) -> bool:
        """Whether lists shown at ``place`` may speak of ``scope``; of a scope that is gone they do not."""
        if scope.region not in self._catalogue.regions or scope.environment not in self._catalogue.environments:
            return False
        try:
            self.check_fence(scope, place)
        except Refused:
            return False
        return True

    def demands_of(self, beneficiary: Identity, asked: Asked, place: Place | None, now: datetime) -> Demands:
        """What the policies demand in return for ``asked``, for every target and login of it.

        Raises:
            Refused: one of them is not permitted, or the duration or the beneficiary's last login is not enough.
        """
        demands = []
        for ruling in self._rulings(Power.REQUEST, beneficiary, asked, place, now):
            match ruling:
                case Permitted(_, demand):
                    demands.append(demand)
                case NotPermitted(reasons):
                    raise Refused(" ".join(reasons))
                case _:
                    assert_never(ruling)
        demanded = strictest(demands)
        if demanded.max_duration is not None and asked.duration > demanded.max_duration:
            raise Refused(
                f"{spell(asked.duration)} is too long: here a grant lasts {spell(demanded.max_duration)} at most."
            )
        if demanded.mfa and MFA not in beneficiary.amr:
            raise Refused(f"{beneficiary.display} has to log in with a second factor first: bastion login --mfa")
        return demanded

    def objection_to_review(self, reviewer: Identity, asked: Asked, place: Place | None, now: datetime) -> str | None:
        """Why the policies do not let ``reviewer`` answer, or None. A crossing takes the power to administer, too."""
        for ruling in self._rulings(Power.REVIEW, reviewer, asked, place, now):
            if isinstance(ruling, NotPermitted):
                return " ".join(ruling.reasons)
        if asked.crossing and not self._over_scope(Power.ADMINISTER, reviewer, asked.scope, place, now):
            return f"A crossing is approved only by those who administer {asked.scope}."
        return None

    def oversees(self, actor: Identity, scope: Scope, place: Place | None, now: datetime) -> bool:
        """Whether ``actor`` reviews or administers the whole of ``scope``."""
        return any(self._over_scope(power, actor, scope, place, now) for power in (Power.REVIEW, Power.ADMINISTER))

    def oversees_any(self, actor: Identity, place: Place | None, now: datetime) -> bool:
        """Whether there is any scope that ``actor`` oversees, from a place its fence holds."""
        scopes = (scope for scope in self._catalogue.scopes() if self.holds(scope, place))
        return any(self.oversees(actor, scope, place, now) for scope in scopes)

    def _over_scope(self, power: Power, actor: Identity, scope: Scope, place: Place | None, now: datetime) -> bool:
        return isinstance(self._policies.may(power, actor, place, now, scope=scope), Permitted)

    def _rulings(
        self, power: Power, identity: Identity, asked: Asked, place: Place | None, now: datetime
    ) -> Iterator[Ruling]:
        for target in asked.targets:
            for login in asked.logins:
                yield self._policies.may(power, identity, place, now, target=target, login=login)
