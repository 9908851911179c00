"""What somebody may choose at a terminal: the logins of one scope that they may use now, or could ask for.

It is an offer, not a permission: whatever is chosen is decided as if its name had been typed.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from bastion.access.approval import Approval
from bastion.access.ballot import Granted
from bastion.access.certification import Proven
from bastion.access.wish import Wish
from bastion.core.geofence import Address, Place, is_inside
from bastion.core.grant import check_reason, parse_duration
from bastion.core.identity import Identity
from bastion.core.menu import Ask, Offer
from bastion.core.policy import Permitted, Power
from bastion.core.target import Catalogue, Scope
from bastion.ports import Clock, Locator, Policies, Store

MAX_ASKED = 200
"""Logins that the policies are asked about, at a quarter of a millisecond each; for further ones names are typed."""

MAY_BE_ASKED = "may be requested"


class Offering:
    """Makes lists of offers, and requests from them."""

    def __init__(
        self,
        *,
        store: Store,
        policies: Policies,
        catalogue: Catalogue,
        locator: Locator,
        approval: Approval,
        clock: Clock,
    ) -> None:
        self._store = store
        self._policies = policies
        self._catalogue = catalogue
        self._locator = locator
        self._approval = approval
        self._clock = clock

    async def offers(self, proven: Proven, address: Address) -> list[Offer]:
        """Of the certificate's scope, those that are open first; none outside its region's fence (law 2)."""
        now, place, scope = self._clock.now(), self._locator.locate(address), proven.scope
        if not is_inside(self._catalogue.regions[scope.region].fence, place):
            return []
        identity = await self._identity(proven)
        ends: dict[tuple[str, str], datetime] = {}
        for grant in await self._store.grants_of(identity.id, ended_after=now):
            if grant.is_live(now) and grant.scope == scope and (grant.network is None or address in grant.network):
                for name in [(target, login) for target in grant.targets for login in grant.logins]:
                    ends[name] = max(grant.ends_at, ends.get(name, grant.ends_at))
        usable = [name for name in self._names(scope) if name in ends]
        askable = [name for name in self._names(scope) if name not in ends][:MAX_ASKED]
        return [
            *(Offer(target, login, f"until {ends[target, login]:%H:%M} UTC", True) for target, login in usable),
            *(Offer(*name, MAY_BE_ASKED, False) for name in askable if self._may_ask(identity, *name, place, now)),
        ]

    async def ask(self, proven: Proven, address: Address, asked: Ask) -> str:
        """Request what was filled in, for whoever did it; what has become of it.

        Raises:
            Refused: policy, place or the words themselves forbid it; an event says so.
        """
        identity = await self._identity(proven)
        offer = asked.offer
        wish = Wish((offer.target,), (offer.login,), parse_duration(asked.duration), check_reason(asked.reason))
        result = await self._approval.ask(identity, identity, wish, self._locator.locate(address))
        if isinstance(result, Granted):
            return f"{offer.target} as {offer.login} is granted."
        return f"{offer.target} as {offer.login} is requested: {result.request.id}."

    async def _identity(self, proven: Proven) -> Identity:
        """Who they are now, by the login that got them here."""
        return (await self._store.identity(proven.identity)).proven_by(proven.strength)

    def _names(self, scope: Scope) -> Iterator[tuple[str, str]]:
        for _, target in sorted(self._catalogue.targets.items()):
            if target.scope == scope:
                yield from ((target.full_name, login) for login in sorted(target.logins))

    def _may_ask(self, identity: Identity, target: str, login: str, place: Place, now: datetime) -> bool:
        ruling = self._policies.may(
            Power.REQUEST, identity, place, now, target=self._catalogue.targets[target], login=login
        )
        return isinstance(ruling, Permitted)
