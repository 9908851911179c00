"""How often somebody may be wrong about who they are, over every protocol and node.

What is counted is an identity and the real address together: a stranger's attempts elsewhere never hinder a person, and
a neighbour's behind the same address hinder nobody else's. Where nothing of ours says whose attempt it is, the address
alone counts; a name that somebody merely claims would be a new counter for each guess.

A proof that is right is never refused for the wrong ones: what cannot be guessed is judged first, and counted only
where it fails. What can be guessed (the codes that people type) is counted before it is looked up.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from ipaddress import ip_network

from bastion.core.audit import Event, Kind
from bastion.core.errors import Refused, TooOften, Unauthenticated
from bastion.core.geofence import Address, Network, Place
from bastion.core.grant import spell
from bastion.core.identity import IdentityId
from bastion.core.limits import Limits
from bastion.ports import Clock, Coordination, Store

DEFAULT = Limits()

NEIGHBOURS = 16
"""Networks of IPv6 whose attempts are borne of one site, which has 65,536 of them to guess from (RFC 6177): each would
be a counter more, and one guesser could fill the coordination with them, so that nobody logs in."""


class Throttle:
    """Counts in the coordination, and writes once a window that it was too much."""

    def __init__(
        self, *, coordination: Coordination, store: Store, clock: Clock, node: str, limits: Limits = DEFAULT
    ) -> None:
        self._coordination = coordination
        self._store = store
        self._clock = clock
        self._node = node
        self._limits = limits

    async def failed(self, place: Place, who: IdentityId | None = None) -> TooOften | None:
        """Count a proof that failed; what to say in place of why, when there were too many.

        Args:
            place: of the connection itself.
            who: whose proof it was, as far as something that the bastion made says so.

        Raises:
            Unavailable: the coordination or the audit log did not answer.
        """
        limit = self._limits.strangers if who is None else self._limits.failures
        what = "Too many wrong attempts to prove who you are" + ("" if who is None else ", from this address")
        return await self._count("failed", limit, what, place, who)

    async def forgive(self, place: Place, who: IdentityId | None = None) -> None:
        """What was counted beforehand did not fail."""
        await self._forgive("failed", place.address, who)

    async def begun(self, place: Place, kind: str) -> None:
        """Count a login of ``kind`` that begins; it costs memory before anything is proven.

        Raises:
            TooOften: too many were begun and not finished; this one shall not be.
            Unavailable: the coordination or the audit log did not answer.
        """
        what = "Too many logins were begun from your address and not finished"
        if (refusal := await self._count(f"begun {kind}", self._limits.begun, what, place)) is not None:
            raise refusal

    async def finished(self, address: Address, kind: str) -> None:
        """A login that was begun has come to its end: whoever finishes what they begin is not held up."""
        await self._forgive(f"begun {kind}", address)

    @asynccontextmanager
    async def watching(self, place: Place, who: IdentityId | None = None) -> AsyncIterator[None]:
        """Count a `Refused` that leaves the block.

        Raises:
            TooOften: in its place, when there were too many.
        """
        try:
            yield
        except TooOften:
            raise
        except Refused as refusal:
            claimed = refusal.claimed if isinstance(refusal, Unauthenticated) else None
            if (too_often := await self.failed(place, who or claimed)) is not None:
                raise too_often from refusal
            raise

    async def _count(
        self, counter: str, limit: int, what: str, place: Place, who: IdentityId | None = None
    ) -> TooOften | None:
        for network, factor in counted(place.address):  # the widest first: beyond its limit no more counters are made
            tally = await self._coordination.count(_key(counter, network, who), self._limits.window)
            if tally.number <= limit * factor:
                continue
            if tally.number == limit * factor + 1:  # once a window: a flood must not fill the audit log
                await self._write(what, limit * factor, tally.left, place, who)
            minutes = max(1, -(-tally.left // timedelta(minutes=1)))
            return TooOften(f"{what}. Try again in {spell(timedelta(minutes=minutes))}.", retry_after=tally.left)
        return None

    async def _forgive(self, counter: str, address: Address, who: IdentityId | None = None) -> None:
        for network, _ in counted(address):
            await self._coordination.forgive(_key(counter, network, who))

    async def _write(self, what: str, limit: int, left: timedelta, place: Place, who: IdentityId | None) -> None:
        now = self._clock.now()
        event = Event(
            kind=Kind.LOGIN_THROTTLED,
            at=now,
            node=self._node,
            identity=who,
            address=str(place.address),
            country=place.country,
            reasons=(f"{what}.",),
            details={"limit": limit, "until": (now + left).isoformat()},
        )
        async with self._store.transaction() as transaction:
            await transaction.append(event)


def counted(address: Address) -> list[tuple[Network, int]]:
    """What counts as one address, and how many of it as one site: of IPv6 the /64, which one machine has all of
    (RFC 4291, section 2.5.4), and the /48.
    """
    if address.version == 4:
        return [(ip_network(address), 1)]
    return [(ip_network((address, 48), strict=False), NEIGHBOURS), (ip_network((address, 64), strict=False), 1)]


def _key(counter: str, network: Network, who: IdentityId | None) -> str:
    """Of one length whatever it stands for, and nobody's name lies in the coordination."""
    whose = str(network) if who is None else f"{network} {who}"
    return f"{counter}:{hashlib.sha256(whose.encode()).hexdigest()}"
