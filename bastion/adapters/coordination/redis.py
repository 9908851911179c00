"""Coordination of several nodes through one Redis server.

A server that does not answer denies: everything that decides raises `Unavailable`, and nothing is tried twice, since a
command whose answer was lost may have been done. What a server forgets denies too (`scripts`).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from bastion.adapters.coordination import scripts
from bastion.adapters.coordination.ear import Ear, encode
from bastion.adapters.coordination.fanout import Fanout
from bastion.core.errors import ConfigError, Unavailable
from bastion.core.identity import IdentityId
from bastion.core.policy import Occupied
from bastion.ports import Revocation

PREFIX = "bastion:"

SOCKET_TIMEOUT = 1.0
"""Seconds. redis-py's own five would keep a person at a closed door, and a frozen server unnoticed."""

DEADLINE = 1.5
"""Seconds for one call with everything: a free connection, TLS, login, the command."""

CONNECTIONS = 32
"""At most, beside the one that listens. A flood waits here for `DEADLINE`, and then is refused."""

NODE_LEASE = timedelta(seconds=6)
"""How long a node's name stays taken after the node was killed."""

RENEWAL = 1.5
"""Seconds between renewals of the node's lease: three may fail."""

URL_OPTIONS = frozenset({"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
"""What a url's query may set. Not among them: the timeouts above, and whether a TLS server is verified."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Presence:
    """A registration of this node. Until ``until`` (seconds, monotonic) the server cannot have let it lapse."""

    held: Occupied
    until: float


class RedisCoordination:
    """Keeps `bastion.ports.Coordination` for every node that names the same server; `start` it before use.

    Args:
        url: ``redis://``, ``rediss://`` (TLS, verified) or ``unix://``.
        node: this node's name, which no other may have.

    Raises:
        ConfigError: the url cannot be used; nothing was connected.
    """

    def __init__(self, url: str, *, node: str) -> None:
        self._node = node
        self._owner = secrets.token_hex(8)
        self._client = _client(url, CONNECTIONS)
        self._fanout = Fanout()
        self._ear = Ear(_client(url, 1), PREFIX + "revocations", self._fanout, ignore=self._owner)
        self._mine: dict[str, _Presence] = {}
        self._leases: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._usurped = False
        self._closed = False

    async def start(self, *, patience: timedelta = NODE_LEASE + timedelta(seconds=1)) -> None:
        """Take the node's name, and begin to listen.

        Args:
            patience: how long to wait for the name: a node that was killed keeps it for `NODE_LEASE`.

        Raises:
            ConfigError: the server does not answer, may forget, or another node has the name; nothing is held.
        """
        try:
            await self._check_memory()
            await self._run(scripts.BIRTH, ["born"])
            await self._take_name(patience)
        except Unavailable as error:
            await self.close()
            raise ConfigError([f"coordination.url: the Redis server cannot be used: {error.__cause__}"]) from error
        except BaseException:
            await self.close()
            raise
        self._tasks = [asyncio.create_task(self._ear.listen()), asyncio.create_task(self._hold_name())]
        await self._ear.listening(within=DEADLINE)

    async def put_once(self, key: str, value: bytes, lifetime: timedelta) -> bool:
        return bool(await self._decide("SET", PREFIX + f"once:{key}", value, "NX", "PX", _ms(lifetime)))

    async def take(self, key: str) -> bytes | None:
        value: bytes | None = await self._decide("GETDEL", PREFIX + f"once:{key}")
        return value

    async def holds(self, key: str) -> bool:
        return bool(await self._decide("EXISTS", PREFIX + f"once:{key}"))

    async def enter(
        self, identity: IdentityId, held: Occupied, lifetime: timedelta, *, crossing: bool
    ) -> Sequence[Occupied]:
        """Raises `Unavailable` besides while the server settles: it has just started and knows nobody yet."""
        self._forget_lapsed()
        sent = time.monotonic()
        args = (*_fields(held, lifetime), int(crossing))
        self._check_standing()
        verdict, *rest = await self._run(scripts.ENTER, [_live(identity), "born"], args)
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
        try:
            stands = bool(await self._run(scripts.KEEP, [_live(identity), "born"], _fields(presence.held, lifetime)))
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
            await self._do("HDEL", PREFIX + _live(identity), session_id)
        except Unavailable as error:
            log.warning(
                "a registration could not be removed and lapses by itself", session=session_id, error=str(error)
            )

    async def occupied(self, identity: IdentityId) -> Sequence[Occupied]:
        self._check_standing()
        return _occupied(await self._run(scripts.OCCUPIED, [_live(identity)]))

    async def count(self, key: str, window: timedelta) -> int:
        self._check_standing()
        return int(await self._run(scripts.COUNT, [f"count:{key}"], [_ms(window)]))

    async def revoke(self, revocation: Revocation) -> None:
        """Tell this node at once and the others through the server.

        Raises:
            Unavailable: this node was told. The others, deaf like us, read the store again until they hear.
        """
        self._fanout.tell(revocation)
        try:
            await self._do("PUBLISH", PREFIX + "revocations", encode(revocation, self._owner))
        except Unavailable:
            self._ear.owe_a_warning()
            raise

    def revocations(self) -> AsyncIterator[Revocation | None]:
        return self._fanout.subscribe()

    async def lease(self, name: str, owner: str, lifetime: timedelta) -> bool:
        """Raises `Unavailable` when the server does not answer: nobody knows who has it."""
        has_it = bool(await self._run(scripts.LEASE, [f"lease:{name}"], [owner, _ms(lifetime)]))
        if has_it:
            self._leases[name] = owner
        return has_it

    async def close(self) -> None:
        """Give up every lease this node took and disconnect; from now on everything that decides is `Unavailable`."""
        if self._closed:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for name, owner in self._leases.items():
            try:
                await self._run(scripts.GIVE_UP, [f"lease:{name}"], [owner])
            except Unavailable:
                break  # it does not answer; leases lapse by themselves
        self._closed = True
        self._fanout.close()
        await self._client.aclose()
        await self._ear.close()

    async def _take_name(self, patience: timedelta) -> None:
        give_up_at = time.monotonic() + patience.total_seconds()
        while not await self.lease(f"node:{self._node}", self._owner, NODE_LEASE):
            if time.monotonic() >= give_up_at:
                raise ConfigError([_NAME_TAKEN.format(node=self._node)])
            await asyncio.sleep(0.2)

    async def _hold_name(self) -> None:
        while True:
            await asyncio.sleep(RENEWAL)
            try:
                usurped = not await self.lease(f"node:{self._node}", self._owner, NODE_LEASE)
            except Unavailable:
                continue
            if usurped and not self._usurped:
                log.error("another node has taken this node's name; nothing is opened here", node=self._node)
            self._usurped = usurped

    async def _check_memory(self) -> None:
        """Refuse a server that drops keys when it is full: a dropped registration would let somebody in."""
        memory = await self._do("INFO", "memory")
        if memory.get("maxmemory") and memory.get("maxmemory_policy") != "noeviction":
            raise ConfigError(
                ["coordination.url: the Redis server evicts keys; set its maxmemory-policy to noeviction."]
            )

    def _check_standing(self) -> None:
        if self._usurped:
            raise Unavailable("This bastion is misconfigured: tell its operator.", detail="another node has its name")

    def _forget_lapsed(self) -> None:
        """Sessions that ended without leaving must not be remembered for ever."""
        now = time.monotonic()
        for session_id in [key for key, presence in self._mine.items() if presence.until <= now]:
            del self._mine[session_id]

    async def _decide(self, *command: str | bytes | int) -> Any:
        self._check_standing()
        return await self._do(*command)

    async def _do(self, *command: str | bytes | int) -> Any:
        return await self._ask(self._client.execute_command(*command))  # type: ignore[no-untyped-call]  # redis-py's

    async def _run(self, lua: str, keys: Sequence[str], args: Sequence[str | int] = ()) -> Any:
        script = self._client.register_script(lua)
        return await self._ask(script(keys=[PREFIX + key for key in keys], args=list(args)))

    async def _ask(self, command: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(DEADLINE):
                return await command
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable(_NO_ANSWER, detail=f"Redis: {error!r}") from error


_NO_ANSWER = "The bastion cannot reach its coordination server, so nothing is opened. Try again in a moment."
_SETTLING = "The coordination server has just started and does not know yet who is connected. Try again in {seconds} s."
_NAME_TAKEN = "node: a bastion named {node} is running. Give every node a name of its own, or stop the other one first."


def _client(url: str, connections: int) -> Redis:
    """Raises `ConfigError`; the url, which may hold a password, is not repeated in it."""
    try:
        unknown = parse_qs(urlsplit(url).query).keys() - URL_OPTIONS
        if unknown:
            raise ConfigError([f"coordination.url: the option {sorted(unknown)[0]} cannot be set here; take it out."])
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=DEADLINE,
            socket_timeout=SOCKET_TIMEOUT,
            socket_connect_timeout=SOCKET_TIMEOUT,
            retry=Retry(NoBackoff(), 0),
            protocol=2,  # 3 would let the server change our timeouts (maintenance notifications)
        )
    except ValueError:
        raise ConfigError(
            ["coordination.url: write redis://host:6379/0, rediss://… (TLS) or unix:///socket."]
        ) from None
    return Redis(connection_pool=pool)


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
