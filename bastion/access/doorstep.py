"""What is asked before anybody may even begin to say who they are: where from (law 2), and how often."""

from __future__ import annotations

from bastion.access.throttle import Throttle
from bastion.core.audit import Event, Kind
from bastion.core.errors import BastionError, Refused
from bastion.core.geofence import Address, Place, is_inside
from bastion.core.target import Catalogue
from bastion.ports import Clock, Locator, Store


class Doorstep:
    """Admits an address to the login, and records that it was refused."""

    def __init__(
        self,
        *,
        locator: Locator,
        catalogue: Catalogue,
        throttle: Throttle,
        store: Store,
        clock: Clock,
        node: str,
    ) -> None:
        self._locator = locator
        self._catalogue = catalogue
        self.throttle = throttle
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
            Refused: it is outside every fence; the audit log says so, and nothing else was done.
            Unavailable: the audit log or the coordination did not answer.
        """
        try:
            return self.locate(address)
        except Refused as error:
            await self.record_failure(self._locator.locate(address), error)
            raise

    async def admit_beginner(self, address: Address, kind: str) -> Place:
        """The first step of a login of ``kind``. Raises as `admit`, and `TooOften`."""
        place = await self.admit(address)
        await self.throttle.begun(place, kind)
        return place

    async def record_failure(self, place: Place, error: BastionError) -> None:
        """Count that a login from ``place`` failed, and write it, unless there were too many already.

        Raises:
            TooOften: there were; say so in place of a refusal.
            Unavailable: it could not be counted or written.
        """
        if (too_often := await self.throttle.failed(place)) is not None:
            if isinstance(error, Refused):
                raise too_often from error
            return
        reason, detail = error.public, str(error)
        event = Event(
            kind=Kind.LOGIN_FAILED,
            at=self._clock.now(),
            node=self._node,
            address=str(place.address),
            country=place.country,
            reasons=(reason,),
            details={"detail": detail[:500]} if detail != reason else {},
        )
        async with self._store.transaction() as transaction:
            await transaction.append(event)
