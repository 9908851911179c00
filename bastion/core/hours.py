"""Working hours: days of the week and times of the day at one place on earth."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MIDNIGHT = 24 * 60
"""Minutes: ``24:00`` is the end of a day."""

_WRITTEN = re.compile(r"(\S+) (\d\d):(\d\d)-(\d\d):(\d\d) ([A-Za-z][A-Za-z0-9_+/-]{0,63})", re.ASCII)
_LONGEST = 40
"""Days that are looked at for the end of a time that spans midnights; no grant lasts as long."""


@dataclass(frozen=True, slots=True)
class Hours:
    """``Mon-Fri 08:00-18:00 Europe/Berlin``: on each of ``days`` (0 is Monday) from ``opens`` until ``closes``.

    Both are minutes of the local day. Where a clock change makes a time happen twice, the later one opens and the
    earlier one closes; one that does not happen is taken by the offset from before the change.
    """

    days: frozenset[int]
    opens: int
    closes: int
    zone: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read days, times and a zone of the IANA database.

        Raises:
            ValueError: it is not written so, the times are not in order, or there is no such zone.
        """
        match = _WRITTEN.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text[:60]!r} are not hours; write them like Mon-Fri 08:00-18:00 Europe/Berlin")
        opens, closes = (int(match[n]) * 60 + int(match[n + 1]) for n in (2, 4))
        if int(match[3]) > 59 or int(match[5]) > 59 or not 0 <= opens < closes <= MIDNIGHT:
            raise ValueError(f"{text[:60]!r} are not hours of one day: they go from 00:00 to 24:00 at most")
        _zone(match[6])
        return cls(_days(match[1]), opens, closes, match[6])

    def __str__(self) -> str:
        days = ",".join(DAYS[day] for day in sorted(self.days))
        return f"{days} {_spell(self.opens)}-{_spell(self.closes)} {self.zone}"

    def holds(self, moment: datetime) -> bool:
        """Whether ``moment`` is within; the first instant is, the last is not."""
        return self._window(self._local_date(moment), moment) is not None

    def close_after(self, moment: datetime) -> datetime:
        """When the hours that hold ``moment`` end, in UTC; hours that meet at midnight are one.

        Raises:
            ValueError: they do not hold it.
        """
        day = self._local_date(moment)
        end = self._window(day, moment)
        if end is None:
            raise ValueError(f"{moment} is not within {self}")
        for _ in range(_LONGEST):
            day += timedelta(days=1)
            if (later := self._window(day, end)) is None:
                break
            end = later
        return end

    def _window(self, day: date, moment: datetime) -> datetime | None:
        """The end of that day's hours when they hold ``moment``."""
        if day.weekday() not in self.days:
            return None
        opens, closes = self._instant(day, self.opens, fold=1), self._instant(day, self.closes, fold=0)
        return closes if opens <= moment < closes else None

    def _local_date(self, moment: datetime) -> date:
        return moment.astimezone(_zone(self.zone)).date()

    def _instant(self, day: date, minutes: int, *, fold: int) -> datetime:
        if minutes == MIDNIGHT:
            day, minutes = day + timedelta(days=1), 0
        local = datetime.combine(day, time(minutes // 60, minutes % 60, fold=fold), _zone(self.zone))
        before = local.replace(fold=0)
        exists = local.astimezone(UTC).astimezone(local.tzinfo).replace(tzinfo=None) == local.replace(tzinfo=None)
        return (local if exists else before).astimezone(UTC)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"there is no time zone {name!r}") from error


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ValueError(f"{part[:20]!r} is not a day or days; write Mon-Fri or Mon,Wed")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        if begin > end:
            raise ValueError(f"{part!r} goes backwards; a week goes from Mon to Sun")
        days.update(range(begin, end + 1))
    return frozenset(days)


def _spell(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"
