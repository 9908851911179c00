"""The contents that pass through one open file in one direction, as digests.

A transfer that is one run of bytes has the SHA-256 of that run, in the order of the file, so that it can be compared
with `sha256sum`. Pieces that come early wait in a bounded buffer for those before them. What does not fit into one run
(seeking, overlaps, gaps) is digested in the order of delivery, each piece as ``uint64 offset, uint32 length, data``.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable

MAX_EARLY = 2 * 1024 * 1024
"""Bytes that early pieces of a whole session may hold: what OpenSSH's client has in flight, 64 times 32 KiB."""

_PIECE_COST = 256
"""Bytes charged for a waiting piece beside its data, so that many tiny ones are bounded too."""

_PLACE = struct.Struct(">QI")


class Room:
    """What early pieces may still hold; shared by the transfers of a session."""

    def __init__(self, size: int = MAX_EARLY) -> None:
        self._left = size

    def take(self, length: int) -> bool:
        """Reserve room for a piece; whether there was enough."""
        if length + _PIECE_COST > self._left:
            return False
        self._left -= length + _PIECE_COST
        return True

    def give(self, length: int) -> None:
        """Return what `take` reserved."""
        self._left += length + _PIECE_COST


class _Scattered:
    """Pieces in the order in which they came."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._bytes = 0
        self.pieces = 0

    def begin(self, offset: int, length: int) -> None:
        self._sha256.update(_PLACE.pack(offset, length))
        self.pieces += 1

    def take(self, data: memoryview | bytearray) -> None:
        self._sha256.update(data)
        self._bytes += len(data)

    def __str__(self) -> str:
        digest = self._sha256.hexdigest()
        return f"{self.pieces} pieces, {self._bytes} bytes, sha256 of offsets, lengths and data {digest}"


class Transfer:
    """Pieces are announced by `begin` and then fed in parts, one piece after the other.

    ``reorders`` is False where the offset does not say where the data goes (a file opened to append): there only the
    order of delivery means anything.
    """

    def __init__(self, room: Room, *, reorders: bool = True) -> None:
        self._room = room
        self._reorders = reorders
        self._start: int | None = None
        self._next = 0
        self._ordered = hashlib.sha256()
        self._ordered_bytes = 0
        self._early: dict[int, bytearray] = {}
        self._ahead = _Scattered()
        """Of the early pieces, all that came since none was waiting."""
        self._strays = _Scattered()
        self._left = 0
        self._advance = 0
        self._take: Callable[[memoryview], object] = self._ordered.update

    @property
    def is_empty(self) -> bool:
        return not (self._ordered_bytes or self._early or self._strays.pieces)

    def expect(self, offset: int) -> None:
        """The first piece asked for is at ``offset``, whichever comes first."""
        if self._start is None:
            self._start = self._next = offset

    def begin(self, offset: int, length: int) -> None:
        """``length`` bytes at ``offset`` come next. None at all are no piece."""
        if length == 0:
            return
        self.expect(offset)
        self._left, self._advance = length, 0
        if self._strays.pieces == 0 and offset == self._next:
            self._advance = length
            self._take = self._take_ordered
        elif self._strays.pieces == 0 and self._can_wait(offset, length):
            self._wait(offset, length)
        else:
            self._scatter()
            self._strays.begin(offset, length)
            self._take = self._strays.take

    def feed(self, data: memoryview) -> None:
        """A part of the piece that began; never more than the rest of it."""
        self._take(data)
        self._left -= len(data)
        if self._left == 0 and self._advance:
            self._next += self._advance
            self._catch_up()

    def so_far(self) -> str:
        """What `summary` says, while more may come: pieces that still wait have a digest of their own in it."""
        words = []
        if self._ordered_bytes or not (self._strays.pieces or self._early):
            where = f" from offset {self._start}" if self._start else ""
            words.append(f"{self._ordered_bytes} bytes sha256 {self._ordered.hexdigest()} in order{where}")
        if self._early:
            words.append(f"ahead of its turn: {self._ahead}")
        if self._strays.pieces:
            words.append(f"not sequential: {self._strays}")
        return ", then ".join(words)

    def summary(self) -> str:
        """``1048576 bytes sha256 … in order``; nothing may be fed afterwards."""
        self._scatter()
        return self.so_far()

    def _can_wait(self, offset: int, length: int) -> bool:
        return self._reorders and offset > self._next and offset not in self._early and self._room.take(length)

    def _wait(self, offset: int, length: int) -> None:
        if not self._early:
            self._ahead = _Scattered()
        piece = self._early[offset] = bytearray()
        ahead = self._ahead
        ahead.begin(offset, length)

        def take(data: memoryview) -> None:
            piece.extend(data)
            ahead.take(data)

        self._take = take

    def _take_ordered(self, data: memoryview) -> None:
        self._ordered.update(data)
        self._ordered_bytes += len(data)

    def _catch_up(self) -> None:
        while (piece := self._early.pop(self._next, None)) is not None:
            self._take_ordered(memoryview(piece))
            self._next += len(piece)
            self._room.give(len(piece))

    def _scatter(self) -> None:
        """There is no one run: what waits is digested in the order in which it came."""
        for offset, piece in self._early.items():
            self._strays.begin(offset, len(piece))
            self._strays.take(piece)
            self._room.give(len(piece))
        self._early.clear()
