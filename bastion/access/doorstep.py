"""What is asked before anybody may even begin to say who they are: where from, and how often (law 2)."""

from __future__ import annotations

import ipaddress
from datetime import timedelta

from bastion.core.audit import Event, Kind
from bastion.core.errors import Refused
from bastion.core.geofence import Address, Place, is_inside
from bastion.core.target import Catalogue
from bastion.ports import Clock, Coordination, Locator, Store

WINDOW = timedelta(minutes=10)

MAX_TRIES = 120
"""Steps of logins from one address in `WINDOW`: an office behind one address logs in, a guesser does not get far."""


class Doorstep:
    """Admits an address to the login, and records that it was refused."""

    def __init__(
        self,
        *,
        locator: Locator,
        catalogue: Catalogue,
        coordination: Coordination,
        store: Store,
        clock: Clock,
        node: str,
    ) -> None:
        self._locator = locator
        self._catalogue = catalogue
        self._coordination = coordination
        self._store = store
        self._clock = clock
        self._node = node

    def locate(self, address: Address) -> Place:
        """The place of ``address``, when some region may be reached from there.

        Raises:
            Refused: it is inside no region's fence. A bastion without regions refuses everybody.
        """
        place = self._locator.locate(address)
        if any(is_inside(region.fence, place) for region in self._catalogue.regions.values()):
            return place
        raise Refused(
            "Nothing here can be reached from where you are, so you cannot log in from there either. "
            f"You come from {place.address} ({place.country or 'country unknown'}).",
            detail=str(place),
        )

    async def admit(self, address: Address) -> Place:
        """One step of a login from ``address``.

        Raises:
            Refused: it is outside every fence, or tries too often; the audit log says so, and nothing else was done.
            Unavailable: the audit log or the coordination did not answer.
        """
        tries = await self._coordination.count(f"login-tries:{counted(address)}", WINDOW)
        if tries > MAX_TRIES:
            refusal = Refused("Too many logins from your address. Wait ten minutes, then try again.")
            if tries == MAX_TRIES + 1:  # once a window: a flood must not fill the audit log
                await self.record_failure(self._locator.locate(address), refusal.public)
            raise refusal
        try:
            return self.locate(address)
        except Refused as error:
            await self.record_failure(self._locator.locate(address), error.public)
            raise

    async def record_failure(self, place: Place, reason: str, detail: str = "") -> None:
        """Write that a login from ``place`` failed.

        Raises:
            Unavailable: it could not be written.
        """
        event = Event(
            kind=Kind.LOGIN_FAILED,
            at=self._clock.now(),
            node=self._node,
            address=str(place.address),
            country=place.country,
            reasons=(reason,),
            details={"detail": detail[:500]} if detail else {},
        )
        async with self._store.transaction() as transaction:
            await transaction.append(event)


def counted(address: Address) -> str:
    """What counts as one address: of IPv6 the /64, which one machine has all of (RFC 4291, section 2.5.4)."""
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network(f"{address}/64", strict=False))
