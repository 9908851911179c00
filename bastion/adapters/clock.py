"""The machine's clock, and one that never goes back (docs/adr/0013)."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from bastion.ports import Clock


class SystemClock:
    """The wall clock of this machine, in UTC."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class SteadyClock:
    """A clock that goes on at its own pace when the wall clock is set back, and at once with it when set forward.

    So what was over stays over, and what lasts an hour lasts no longer. Not safe for several threads.

    Args:
        wall: what time it is said to be.
        monotonic: seconds that nobody sets.
    """

    def __init__(self, wall: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._last = wall.now()
        self._beat = monotonic()

    def now(self) -> datetime:
        # The wall is read first: time that passes between the two readings then never counts twice.
        wall, beat = self._wall.now(), self._monotonic()
        self._last = max(wall, self._last + timedelta(seconds=beat - self._beat))
        self._beat = beat
        return self._last

    def not_before(self, moment: datetime) -> None:
        """From now on it is at least ``moment``: something is known to have happened then."""
        self._last = max(self.now(), moment)

    @property
    def ahead(self) -> timedelta:
        """How far this clock is ahead of the wall clock, because that was set back."""
        return max(self.now() - self._wall.now(), timedelta())
