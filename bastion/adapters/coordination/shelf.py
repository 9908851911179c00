"""Things that are kept for a while, in bounded memory and without a background task."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from bastion.core.errors import Unavailable

V = TypeVar("V")

ENTRY_COST = 400
"""Bytes an entry takes besides the text of its key and its value, measured on CPython 3.11, rounded up."""

GLANCE = 2
"""Entries looked at on each `Shelf.put`, oldest look first. More than one, so that what has lapsed is removed faster
than new things come: the shelf never holds more than twice what is live."""

HARD_LOOK = 64
"""Entries looked at when there is no room; few enough that a flood cannot make refusing it expensive."""


@dataclass(slots=True)
class _Entry(Generic[V]):
    value: V
    until: datetime
    cost: int


class Shelf(Generic[V]):
    """A mapping whose entries lapse. Full means refused: dropping a live entry would forget a used key or a count.

    Args:
        room: bytes it may take, about.
    """

    def __init__(self, *, room: int) -> None:
        self._room = room
        self._taken = 0
        self._entries: OrderedDict[str, _Entry[V]] = OrderedDict()

    def __len__(self) -> int:
        """Entries in memory, lapsed ones that nobody has noticed yet included."""
        return len(self._entries)

    def get(self, key: str, now: datetime) -> V | None:
        """The value, unless it has lapsed."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until <= now:
            self._drop(key)
            return None
        return entry.value

    def put(self, key: str, value: V, until: datetime, now: datetime, *, size: int = 0) -> None:
        """Keep ``value``, of ``size`` bytes, in place of what ``key`` held.

        Raises:
            Unavailable: there is no room; the shelf is as it was.
        """
        cost = ENTRY_COST + len(key) + size
        self._sweep(now, GLANCE)
        if not self._has_room(key, cost):
            self._sweep(now, HARD_LOOK)
            if not self._has_room(key, cost):
                raise Unavailable("Too much is going on at once. Try again in a few minutes.", detail="a shelf is full")
        self._drop(key)
        self._entries[key] = _Entry(value, until, cost)
        self._taken += cost

    def pop(self, key: str, now: datetime) -> V | None:
        """The value, unless it has lapsed; afterwards it is gone."""
        value = self.get(key, now)
        self._drop(key)
        return value

    def _has_room(self, key: str, cost: int) -> bool:
        replaced = self._entries.get(key)
        return self._taken - (replaced.cost if replaced else 0) + cost <= self._room

    def _sweep(self, now: datetime, looks: int) -> None:
        for _ in range(min(looks, len(self._entries))):
            key, entry = next(iter(self._entries.items()))
            if entry.until <= now:
                self._drop(key)
            else:
                self._entries.move_to_end(key)

    def _drop(self, key: str) -> None:
        if (entry := self._entries.pop(key, None)) is not None:
            self._taken -= entry.cost
