"""Coordination of several nodes through one Redis server.

A server that does not answer denies: everything that decides raises `Unavailable`. What a server forgets denies too
(`scripts`).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog

from bastion.adapters.coordination import scripts
from bastion.adapters.coordination.ear import Ear, encode
from bastion.adapters.coordination.fanout import Fanout
from bastion.adapters.coordination.link import DEADLINE, PREFIX, Link
from bastion.adapters.coordination.name import LIFETIME, NodeName
from bastion.core.errors import ConfigError, Unavailable
from bastion.core.identity import IdentityId
from bastion.core.policy import Occupied
from bastion.ports import Revocation, Tally

CONNECTIONS = 32
"""At most, beside the one that listens."""

PATIENCE = LIFETIME + timedelta(seconds=1)
"""How long a start waits for the node's name: a node that was killed may be started again at once."""

CHANNEL = PREFIX + "revocations"
BORN = "born"
"""The key that says since when the server remembers."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Presence:
    """A registration of this node. Before ``until`` (seconds, monotonic) the server cannot have let it lapse."""

    held: Occupied
    until: float


class RedisCoordination:
    """Keeps `bastion.ports.Coordination` for every node that names the same server; `start` it before use.

    Args:
        url: as `Link` takes it.
        node: this node's name, which no other may have.

    Raises:
        ConfigError: the url cannot be used; nothing was connected.
    """

    def __init__(self, url: str, *, node: str) -> None:
        self._link = Link(url, connections=CONNECTIONS)
        self._fanout = Fanout()
        self._name = NodeName(node, lease=self.lease)
        self._ear = Ear(Link(url, connections=2), CHANNEL, self._fanout, ignore=self._name.owner)
        self._mine: dict[str, _Presence] = {}
        self._leases: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    async def start(self, *, patience: timedelta = PATIENCE) -> None:
        """Take the node's name, and begin to listen.

        Raises:
            ConfigError: the server cannot be used, or another node still has the name after ``patience``; nothing is
                held.
        """
        try:
            await self._check_memory()
            await self._link.run(scripts.BIRTH, [BORN])
            await self._name.take(patience)
        except Unavailable as error:
            await self.close()
            raise ConfigError([f"coordination.url: the Redis server cannot be used: {error.__cause__}"]) from error
        except BaseException:
            await self.close()
            raise
        self._tasks = [asyncio.create_task(self._ear.listen()), asyncio.create_task(self._name.hold())]
        await self._ear.listening(within=DEADLINE)

    async def put_once(self, key: str, value: bytes, lifetime: timedelta) -> bool:
        self._check_standing()
        return bool(await self._link.do("SET", _kept(key), value, "NX", "PX", _ms(lifetime)))

    async def take(self, key: str) -> bytes | None:
        self._check_standing()
        value: bytes | None = await self._link.do("GETDEL", _kept(key))
        return value

    async def peek(self, key: str) -> bytes | None:
        self._check_standing()
        value: bytes | None = await self._link.do("GET", _kept(key))
        return value

    async def holds(self, key: str) -> bool:
        self._check_standing()
        return bool(await self._link.do("EXISTS", _kept(key)))

    async def enter(
        self, identity: IdentityId, held: Occupied, lifetime: timedelta, *, crossing: bool
    ) -> Sequence[Occupied]:
        """Raises `Unavailable` also while the server settles: it has just started and may not know everybody yet."""
        self._check_standing()
        self._forget_lapsed()
        sent = time.monotonic()
        args = (*_fields(held, lifetime), int(crossing))
        verdict, *rest = await self._link.run(scripts.ENTER, [_live(identity), BORN], args)
        if verdict == b"settling":
            raise Unavailable(_SETTLING.format(seconds=int(rest[0]) // 1000 + 1))
        if verdict == b"entered":
            self._mine[held.session_id] = _Presence(held, sent + lifetime.total_seconds())
        return _occupied(rest)

    async def keep(self, identity: IdentityId, session_id: str, lifetime: timedelta) -> bool:
        """Does not raise: while the server does not answer, a registration stands until it may have lapsed there."""
        sent = time.monotonic()
        presence = self._mine.get(session_id)
        if presence is None or presence.until <= sent:
            self._mine.pop(session_id, None)
            return False
        fields = _fields(presence.held, lifetime)
        try:
            stands = bool(await self._link.run(scripts.KEEP, [_live(identity), BORN], fields))
        except Unavailable:
            return True
        if stands:
            presence.until = sent + lifetime.total_seconds()
        else:
            self._mine.pop(session_id, None)
        return stands

    async def leave(self, identity: IdentityId, session_id: str) -> None:
        """Does not raise: where the server does not answer, the registration lapses by itself."""
        self._mine.pop(session_id, None)
        try:
            await self._link.do("HDEL", PREFIX + _live(identity), session_id)
        except Unavailable as error:
            log.warning("a registration could not be removed and will lapse", session=session_id, error=str(error))

    async def occupied(self, identity: IdentityId) -> Sequence[Occupied]:
        self._check_standing()
        return _occupied(await self._link.run(scripts.OCCUPIED, [_live(identity)]))

    async def count(self, key: str, window: timedelta) -> Tally:
        self._check_standing()
        number, left = await self._link.run(scripts.COUNT, [f"count:{key}"], [_ms(window)])
        return Tally(int(number), timedelta(milliseconds=int(left)))

    async def forgive(self, key: str) -> None:
        self._check_standing()
        await self._link.run(scripts.FORGIVE, [f"count:{key}"])

    async def revoke(self, revocation: Revocation) -> None:
        """Tell this node at once, and the others through the server.

        Raises:
            Unavailable: only this node was told. The others read the store again: those that are deaf too all the
                time, the rest as soon as this node reaches the server.
        """
        self._fanout.tell(revocation)
        try:
            await self._link.do("PUBLISH", CHANNEL, encode(revocation, self._name.owner))
        except Unavailable:
            self._ear.owe_a_warning()
            raise

    def revocations(self) -> AsyncIterator[Revocation | None]:
        return self._fanout.subscribe()

    async def lease(self, name: str, owner: str, lifetime: timedelta) -> bool:
        """Raises `Unavailable`: nobody can say who has it."""
        has_it = bool(await self._link.run(scripts.LEASE, [f"lease:{name}"], [owner, _ms(lifetime)]))
        if has_it:
            self._leases[name] = owner
        return has_it

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            for name, owner in self._leases.items():
                await self._link.run(scripts.GIVE_UP, [f"lease:{name}"], [owner])
        except Unavailable:
            pass  # leases lapse by themselves
        self._fanout.close()
        await self._ear.close()
        await self._link.close()

    def _check_standing(self) -> None:
        if self._closed:
            raise Unavailable("The bastion is stopping. Try again in a moment.")
        self._name.check()

    async def _check_memory(self) -> None:
        """Refuse a server that drops keys when it is full: a dropped registration would let somebody in."""
        memory = await self._link.do("INFO", "memory")
        if memory["maxmemory"] and memory["maxmemory_policy"] != "noeviction":
            raise ConfigError(
                ["coordination.url: the Redis server drops keys; set its maxmemory-policy to noeviction."]
            )

    def _forget_lapsed(self) -> None:
        """Sessions that ended without leaving must not be remembered for ever."""
        now = time.monotonic()
        for session_id in [key for key, presence in self._mine.items() if presence.until <= now]:
            del self._mine[session_id]


_SETTLING = "The coordination server has just started and does not know yet who is connected. Try again in {seconds} s."


def _kept(key: str) -> str:
    return f"{PREFIX}once:{key}"


def _live(identity: IdentityId) -> str:
    return f"live:{hashlib.sha256(str(identity).encode()).hexdigest()}"


def _fields(held: Occupied, lifetime: timedelta) -> tuple[str | int, ...]:
    return (held.session_id, held.environment, held.tier, _ms(lifetime))


def _occupied(flat: Sequence[bytes]) -> list[Occupied]:
    """Read session, environment, tier, session, environment, tier…"""
    values = [value.decode() for value in flat]
    return [Occupied(*values[i : i + 3]) for i in range(0, len(values), 3)]


def _ms(span: timedelta) -> int:
    """Whole milliseconds, at least one: Redis takes no zero, and what lapses at once is never an allow."""
    return max(1, span // timedelta(milliseconds=1))
