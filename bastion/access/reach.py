"""Which scopes a client should know the way to: those that somebody may use now, or could ask for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import islice

from bastion.access.standing import Standing
from bastion.core.geofence import Place, is_inside
from bastion.core.identity import Identity
from bastion.core.policy import Permitted, Power
from bastion.core.target import Catalogue, Scope
from bastion.ports import Clock, Policies

MAX_ASKED = 50
"""Targets of one scope that the policies are asked about one by one, at a quarter of a millisecond each."""


class Reach:
    """Lists scopes for one person at one place. Knowing the way opens nothing: each connection is decided anew."""

    def __init__(self, *, standing: Standing, policies: Policies, catalogue: Catalogue, clock: Clock) -> None:
        self._standing = standing
        self._policies = policies
        self._catalogue = catalogue
        self._clock = clock

    async def scopes_of(self, identity: Identity, place: Place) -> Sequence[Scope]:
        """In order; only of regions whose fence holds ``place`` (law 2)."""
        now = self._clock.now()
        used = {held.grant.scope for held in await self._standing.access_of(identity, place)}
        return [
            scope
            for scope in self._catalogue.scopes()
            if is_inside(self._catalogue.regions[scope.region].fence, place)
            and (scope in used or self._could_ask(identity, scope, place, now))
        ]

    def _could_ask(self, identity: Identity, scope: Scope, place: Place, now: datetime) -> bool:
        """By a policy about the whole scope, or else about a target's login."""
        if isinstance(self._policies.may(Power.REQUEST, identity, place, now, scope=scope), Permitted):
            return True
        targets = (target for target in self._catalogue.targets.values() if target.scope == scope)
        return any(
            isinstance(self._policies.may(Power.REQUEST, identity, place, now, target=target, login=login), Permitted)
            for target in islice(targets, MAX_ASKED)
            for login in target.logins
        )
