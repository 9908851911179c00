"""Showing a recording in a terminal: in its own time, or as lines. Escape sequences are made harmless, always."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from bastion.core.recording import Code, Entry, Header
from bastion.core.screen import RESTORE, Display, Reading, plain_text

if TYPE_CHECKING:
    from re import Pattern

SPEEDS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)
"""What + and - step through."""

_SHOWN = (Code.OUTPUT, Code.ERROR)


class Quit(Exception):
    """The one who watches has seen enough."""


@dataclass(slots=True)
class Player:
    """Plays entries in their own time.

    Args:
        write: shows text, at once.
        wait: sleeps so many seconds (None: until a key), and gives the key that ended it early, if one did.
        speed: 2 is twice as fast.
        skip_idle: the longest pause, in seconds of the recording; None keeps them all.
    """

    write: Callable[[str], object]
    wait: Callable[[float | None], str | None]
    speed: float = 1.0
    skip_idle: float | None = None

    def play(self, entries: Iterable[Entry]) -> None:
        """Show them all. Raises `Quit`: somebody pressed q. The terminal is left as it was found either way."""
        displays = {code: Display() for code in _SHOWN}
        before = 0.0
        try:
            for entry in entries:
                self._pause(entry.seconds - before)
                before = entry.seconds
                if (display := displays.get(entry.code)) is not None:
                    self.write(display.feed(entry.data))
            for display in displays.values():
                self.write(display.end())
        finally:
            self.write(RESTORE)

    def _pause(self, seconds: float) -> None:
        left = seconds if self.skip_idle is None else min(seconds, self.skip_idle)
        while left > 0:
            began, speed = time.monotonic(), self.speed
            key = self.wait(left / speed)
            if key is None:
                return
            left -= (time.monotonic() - began) * speed
            self._press(key)

    def _press(self, key: str) -> None:
        if key == " ":
            while (key := self.wait(None) or " ") not in " q\x03":
                self._press(key)
        if key in "q\x03":
            raise Quit
        if key in "+=-":
            step = 1 if key in "+=" else -1
            nearest = min(range(len(SPEEDS)), key=lambda i: abs(SPEEDS[i] - self.speed))
            self.speed = SPEEDS[max(0, min(len(SPEEDS) - 1, nearest + step))]


@contextmanager
def keyboard(stdin: TextIO | None = None) -> Iterator[Callable[[float | None], str | None]]:
    """A ``wait`` for `Player` that reads single keys; without a terminal to read from, one that only sleeps."""
    stdin = stdin or sys.stdin
    if not stdin.isatty():
        yield lambda seconds: time.sleep(seconds or 0)
        return
    import os
    import select
    import termios
    import tty

    descriptor = stdin.fileno()
    found = termios.tcgetattr(descriptor)

    def wait(seconds: float | None) -> str | None:
        if not select.select([descriptor], [], [], seconds)[0]:
            return None
        return os.read(descriptor, 1).decode("ascii", "replace") or "q"  # nothing to read is a terminal that is gone

    try:
        tty.setcbreak(descriptor)
        yield wait
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, found)


def shown_lines(header: Header, entries: Iterable[Entry]) -> Iterator[tuple[float, str]]:
    """What could be read, line by line, each with the second it appeared. Input is part of it where nothing echoed it,
    markers are lines of their own."""
    streams = {code: (Display(), Reading()) for code in (_SHOWN if header.term else (*_SHOWN, Code.INPUT))}
    last = 0.0
    for entry in entries:
        last = entry.seconds
        if entry.code in streams:
            display, reading = streams[entry.code]
            yield from reading.feed(last, plain_text(display.feed(entry.data)))
        elif entry.code is Code.MARKER:
            for _, reading in streams.values():
                yield from reading.end()
            yield last, f"[{one_line(entry.data)}]"
    for display, reading in streams.values():
        yield from reading.feed(last, plain_text(display.end()))
        yield from reading.end()


@dataclass(frozen=True, slots=True)
class Match:
    """A line found, and its neighbours."""

    at: float
    line: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def find(lines: Iterable[tuple[float, str]], wanted: Pattern[str], context: int) -> Iterator[Match]:
    """Every line that ``wanted`` is in, with ``context`` lines on either side."""
    from collections import deque

    before: deque[str] = deque(maxlen=context)
    open_matches: list[tuple[float, str, tuple[str, ...], list[str]]] = []
    for at, line in lines:
        for match in open_matches:
            match[3].append(line)
        while open_matches and len(open_matches[0][3]) >= context:
            yield _closed(open_matches.pop(0))
        if wanted.search(line):
            open_matches.append((at, line, tuple(before), []))
            if context == 0:
                yield _closed(open_matches.pop())
        before.append(line)
    yield from map(_closed, open_matches)


def _closed(match: tuple[float, str, tuple[str, ...], list[str]]) -> Match:
    at, line, before, after = match
    return Match(at, line, before, tuple(after))


def one_line(data: bytes) -> str:
    """A marker as text of one line."""
    display = Display()
    return " ".join(plain_text(display.feed(data) + display.end()).split())


def clock(seconds: float) -> str:
    """``01:02:03.456``, as a player shows it."""
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}.{int((seconds - whole) * 1000):03}"
