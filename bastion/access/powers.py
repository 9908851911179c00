"""What the policies let somebody do to access itself, asked anew each time it matters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import chain
from typing import assert_never

from bastion.access.wish import Asked, strictest
from bastion.core.errors import Refused
from bastion.core.geofence import Outside, Place
from bastion.core.grant import MAX_BREAK_GLASS, spell
from bastion.core.identity import MFA, Identity
from bastion.core.policy import SSH_ACTIONS, Demands, NotPermitted, Permitted, Power, Ruling
from bastion.core.target import Catalogue, Scope, printable
from bastion.ports import Policies

DEFAULT_BREAK_GLASS = timedelta(hours=1)
"""Where the policies say nothing."""


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

        A crossing takes a permit of its own besides, with its own demands. Actions that no grant includes by itself
        are never given automatically.

        Raises:
            Refused: one of them is not permitted, or what was asked or the beneficiary's last login is not enough.
        """
        powers = (Power.REQUEST, Power.CROSS) if asked.crossing else (Power.REQUEST,)
        rulings = (self._rulings(power, beneficiary, asked, place, now) for power in powers)
        demanded = strictest(_permitted(chain.from_iterable(rulings)))
        if not asked.actions <= SSH_ACTIONS:
            demanded = replace(demanded, automatic=False)
        check_demands(demanded, beneficiary, asked, now)
        return demanded

    def demands_of_break_glass(self, actor: Identity, asked: Asked, place: Place | None, now: datetime) -> Demands:
        """What the policies demand of opening ``asked`` at once. Without `max_duration` it is `DEFAULT_BREAK_GLASS`.

        Raises:
            Refused: one of them is not permitted, or what was asked or the actor's last login is not enough.
        """
        powers = (Power.BREAK_GLASS, Power.CROSS) if asked.crossing else (Power.BREAK_GLASS,)
        rulings = (self._rulings(power, actor, asked, place, now) for power in powers)
        demanded = strictest(_permitted(chain.from_iterable(rulings)))
        longest = min(demanded.max_duration or DEFAULT_BREAK_GLASS, MAX_BREAK_GLASS)
        demanded = replace(demanded, max_duration=longest, automatic=False)
        check_demands(demanded, actor, asked, now)
        return demanded

    def objection_to_review(
        self, reviewer: Identity, asked: Asked, place: Place | None, now: datetime
    ) -> NotPermitted | None:
        """Why the policies do not let ``reviewer`` answer, and which login would do, if that alone is it; or None.

        A crossing takes the power to administer, too.
        """
        objections = [
            ruling
            for ruling in self._rulings(Power.REVIEW, reviewer, asked, place, now)
            if isinstance(ruling, NotPermitted)
        ]
        if asked.crossing:
            ruling = self._policies.may(Power.ADMINISTER, reviewer, place, now, scope=asked.scope)
            if isinstance(ruling, NotPermitted):
                reason = f"A crossing is approved only by those who administer {asked.scope}."
                reasons = (reason,) if ruling.remedy is None else (reason, ruling.remedy.sentence)
                objections.append(NotPermitted(reasons, ruling.remedy))
        # What no login would change is said first: nobody is sent to log in anew for nothing.
        return min(objections, key=lambda each: each.remedy is not None, default=None)

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


def check_demands(demands: Demands, beneficiary: Identity, asked: Asked, now: datetime) -> None:
    """That ``asked`` gives what is demanded of it, apart from the answers of others.

    Raises:
        Refused: it does not; the sentence says what is missing.
    """
    if demands.max_duration is not None and asked.duration > demands.max_duration:
        raise Refused(f"{spell(asked.duration)} is too long: here a grant lasts {spell(demands.max_duration)} at most.")
    if demands.mfa and MFA not in beneficiary.amr:
        raise Refused(f"{beneficiary.display} has to log in with a second factor first: bastion login --mfa")
    if len(asked.reason) < demands.min_reason:
        raise Refused(f"The reason is too short: here it takes {demands.min_reason} characters at least.")
    ticket_of(demands, asked)
    for hours in demands.hours:
        if not hours.holds(asked.starts_at or now):
            raise Refused(f"Access begins here within {hours} only.")


def ticket_of(demands: Demands, asked: Asked) -> str:
    """The ticket that ``asked`` is for: the one that was named, else where one is demanded the first in the reason.

    Raises:
        Refused: one is demanded, and none that fits is there.
    """
    wanted = " and ".join(sorted(map(str, demands.tickets)))
    if asked.ticket:
        if not all(pattern.matches(asked.ticket) for pattern in demands.tickets):
            raise Refused(f"The ticket {printable(asked.ticket, 40)} is not one of {wanted}.")
        return asked.ticket
    found = [pattern.find(asked.reason) for pattern in demands.tickets]
    if None in found or len(set(found)) > 1:
        raise Refused(f"Name the ticket that this is for, written like {wanted}.")
    return found[0] or "" if found else ""


def _permitted(rulings: Iterable[Ruling]) -> Iterator[Demands]:
    for ruling in rulings:
        match ruling:
            case Permitted(_, demand):
                yield demand
            case NotPermitted(reasons):
                raise Refused(" ".join(reasons))
            case _:
                assert_never(ruling)
