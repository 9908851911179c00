"""Coordination of one node, in process: nothing to install, and nothing to lose that its end does not end anyway."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from bastion.adapters.coordination.fanout import Fanout
from bastion.adapters.coordination.shelf import Shelf
from bastion.core.errors import ConfigError, Unavailable
from bastion.core.identity import IdentityId
from bastion.core.policy import Occupied
from bastion.ports import Clock, Revocation, Tally

ROOM = 32 * 1024 * 1024
"""Bytes for each of: values kept once, counts, registrations. About 80,000 entries; a flood ends there."""


@dataclass(frozen=True, slots=True)
class _Presence:
    held: Occupied
    until: datetime


@dataclass(slots=True)
class _Count:
    value: int
    until: datetime


class MemoryCoordination:
    """Keeps `bastion.ports.Coordination` for the only node on a data directory.

    Every method does its work without awaiting in between, which makes it atomic on one event loop.

    Args:
        clock: by which things lapse.
        lock_path: the file whose lock says that this node is the only one; None takes no lock.

    Raises:
        ConfigError: another process holds the lock, or the file cannot be used; nothing was started.
    """

    def __init__(self, *, clock: Clock, lock_path: Path | None = None) -> None:
        self._clock = clock
        self._lock = None if lock_path is None else _take_lock(lock_path)
        self._closed = False
        self._values: Shelf[bytes] = Shelf(room=ROOM)
        self._counts: Shelf[_Count] = Shelf(room=ROOM)
        self._present: Shelf[dict[str, _Presence]] = Shelf(room=ROOM)
        self._leases: dict[str, tuple[str, datetime]] = {}
        self._fanout = Fanout()

    async def put_once(self, key: str, value: bytes, lifetime: timedelta) -> bool:
        """Raises `Unavailable` when too much is kept already: forgetting a key would let it be used twice."""
        now = self._now()
        if self._values.get(key, now) is not None:
            return False
        self._values.put(key, value, now + lifetime, now, size=len(value))
        return True

    async def take(self, key: str) -> bytes | None:
        return self._values.pop(key, self._now())

    async def peek(self, key: str) -> bytes | None:
        return self._values.get(key, self._now())

    async def holds(self, key: str) -> bool:
        return self._values.get(key, self._now()) is not None

    async def enter(
        self, identity: IdentityId, held: Occupied, lifetime: timedelta, *, crossing: bool
    ) -> Sequence[Occupied]:
        now = self._now()
        live = self._live(identity, now)
        in_the_way = [] if crossing else [other.held for other in live.values() if other.held.tier != held.tier]
        if not in_the_way:
            self._register(identity, {**live, held.session_id: _Presence(held, now + lifetime)}, now)
        return in_the_way

    async def keep(self, identity: IdentityId, session_id: str, lifetime: timedelta) -> bool:
        now = self._now()
        live = self._live(identity, now)
        if (presence := live.get(session_id)) is None:
            return False
        self._register(identity, {**live, session_id: replace(presence, until=now + lifetime)}, now)
        return True

    async def leave(self, identity: IdentityId, session_id: str) -> None:
        now = self._clock.now()
        live = self._live(identity, now)
        live.pop(session_id, None)
        self._register(identity, live, now)

    async def occupied(self, identity: IdentityId) -> Sequence[Occupied]:
        return [presence.held for presence in self._live(identity, self._now()).values()]

    async def count(self, key: str, window: timedelta) -> Tally:
        """Raises `Unavailable` when too many keys are counted: forgetting one would forgive it."""
        now = self._now()
        count = self._counts.get(key, now)
        if count is None:
            count = _Count(0, now + window)
            self._counts.put(key, count, count.until, now)
        count.value += 1
        return Tally(count.value, count.until - now)

    async def forgive(self, key: str) -> None:
        count = self._counts.get(key, self._now())
        if count is not None and count.value > 0:
            count.value -= 1

    async def revoke(self, revocation: Revocation) -> None:
        self._fanout.tell(revocation)

    def revocations(self) -> AsyncIterator[Revocation | None]:
        return self._fanout.subscribe()

    async def lease(self, name: str, owner: str, lifetime: timedelta) -> bool:
        now = self._now()
        holder, until = self._leases.get(name, (owner, now))
        if holder != owner and now < until:
            return False
        self._leases[name] = (owner, now + lifetime)
        return True

    async def close(self) -> None:
        """Give up the lock and end every subscription; from now on everything that decides is `Unavailable`."""
        self._closed = True
        self._fanout.close()
        self._leases.clear()
        if self._lock is not None:
            os.close(self._lock)  # and with it the lock; the file stays, since removing it would race with a new holder
            self._lock = None

    def _now(self) -> datetime:
        if self._closed:
            raise Unavailable("The bastion is stopping. Try again in a moment.")
        return self._clock.now()

    def _live(self, identity: IdentityId, now: datetime) -> dict[str, _Presence]:
        present = self._present.get(str(identity), now) or {}
        return {session_id: presence for session_id, presence in present.items() if now < presence.until}

    def _register(self, identity: IdentityId, live: dict[str, _Presence], now: datetime) -> None:
        if not live:
            self._present.pop(str(identity), now)
            return
        until = max(presence.until for presence in live.values())
        self._present.put(str(identity), live, until, now, size=len(live) * 400)


def _take_lock(path: Path) -> int:
    """An open file whose lock is ours until it is closed or the process ends, however it ends (flock(2)).

    Raises:
        ConfigError: another process has the lock, or the file cannot be opened.
    """
    try:
        # Not inherited by the programs we start: the lock would outlive us in them.
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(
            [f"data: {path} cannot be opened ({error.strerror}); the bastion must own its folder."]
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.truncate(file, 0)
        os.write(file, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        holder = os.read(file, 20).decode(errors="replace").strip()
        os.close(file)
        raise ConfigError([_IN_USE.format(path=path, holder=holder or "unknown")]) from error
    except OSError as error:
        os.close(file)
        raise ConfigError([f"data: {path} cannot be locked ({error.strerror}); put `data` on a local disk."]) from error
    return file


_IN_USE = (
    "data: another bastion (process {holder}) holds {path}. Stop it first, or, to run several nodes, give each its own "
    "`data` and all of them one `coordination: {{url: redis://…}}`."
)
