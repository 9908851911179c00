"""A stream between a client and a target, of which the bytes are counted and digested before they are delivered.

What forwards carry is not kept: the transcript declares each stream with its peers before its first byte, and with size
and SHA-256 of each direction while it lasts and when it ends (law 6).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from enum import Enum

import asyncssh

from bastion.core.errors import Unavailable
from bastion.core.session import End

DECLARED = 16 * 1024 * 1024
"""Bytes of a direction between its lines in the transcript: what a killed bastion may leave without a digest."""


class Side(Enum):
    CLIENT = "from the client"
    TARGET = "from the target"

    @property
    def other(self) -> Side:
        return Side.TARGET if self is Side.CLIENT else Side.CLIENT


class _Tally:
    """One direction."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._declared = 0

    def add(self, data: bytes) -> bool:
        """Count ``data``; whether it is time to declare."""
        self._digest.update(data)
        self._bytes += len(data)
        if self._bytes - self._declared < DECLARED:
            return False
        self._declared = self._bytes
        return True

    def __str__(self) -> str:
        return f"{self._bytes} bytes sha256 {self._digest.hexdigest()}"


class Pipe:
    """Two channels, joined. Synchronous: what comes is digested, and handed on.

    Args:
        name: what the transcript calls it.
        mark: writes a line of the transcript. Raises `Unavailable`.
        failed: is called when a line could not be written; whoever is asked cuts this pipe.
    """

    def __init__(self, name: str, *, mark: Callable[[str], None], failed: Callable[[], None]) -> None:
        self._name = name
        self._mark = mark
        self._failed = failed
        self._tallies = {side: _Tally() for side in Side}
        self._channels: dict[Side, asyncssh.SSHTCPChannel[bytes] | asyncssh.SSHUNIXChannel[bytes]] = {}
        self._left: list[Side] = []
        self.ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        """Resolved once; from then on nothing is handed on in either direction."""

    def open(self) -> None:
        """Declare it, before anything may flow. Raises `Unavailable`."""
        self._mark(f"{self._name} opened")

    def side(self, side: Side) -> PipeEnd:
        """What a channel is given to."""
        return PipeEnd(self, side)

    def attach(self, side: Side, channel: asyncssh.SSHTCPChannel[bytes]) -> None:
        """A channel is open. It does not flow before the other one is, too."""
        self._channels[side] = channel
        if self.ended.done():
            channel.abort()
        elif (other := self._channels.get(side.other)) is None:
            channel.pause_reading()
        else:
            other.resume_reading()

    def received(self, side: Side, data: bytes) -> None:
        if self.ended.done():
            return
        tally = self._tallies[side]
        if tally.add(data) and not self._declare(f"{self._name} so far {tally} {side.value}"):
            return
        self._channels[side.other].write(data)

    def eof(self, side: Side) -> None:
        if not self.ended.done() and (other := self._channels.get(side.other)) is not None:
            other.write_eof()

    def closed(self, side: Side) -> None:
        """One side is gone; what is still on its way to the other gets there."""
        self._left.append(side)
        if (other := self._channels.get(side.other)) is not None:
            other.close()
        if other is None or len(self._left) > 1:
            self._end(End.CLIENT if self._left[0] is Side.CLIENT else End.TARGET)

    def pause(self, side: Side) -> None:
        """``side`` takes no more for now."""
        if (source := self._channels.get(side.other)) is not None:
            source.pause_reading()

    def resume(self, side: Side) -> None:
        if (source := self._channels.get(side.other)) is not None:
            source.resume_reading()

    def cut(self, end: End) -> None:
        """End it now, in both directions. Idempotent."""
        self._end(end)
        for channel in self._channels.values():
            channel.abort()

    def _end(self, end: End) -> None:
        if self.ended.done():
            return
        self.ended.set_result(end)
        sent, came = self._tallies[Side.CLIENT], self._tallies[Side.TARGET]
        self._declare(f"{self._name} closed: {sent} {Side.CLIENT.value}, {came} {Side.TARGET.value}")

    def _declare(self, line: str) -> bool:
        try:
            self._mark(line)
        except Unavailable:
            self._failed()
            return False
        return True


class PipeEnd(asyncssh.SSHTCPSession[bytes]):
    """One end, as the library wants to call it; of sockets and agents just as well."""

    def __init__(self, pipe: Pipe, side: Side) -> None:
        self._pipe = pipe
        self._side = side

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._pipe.attach(self._side, chan)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._pipe.received(self._side, data)

    def eof_received(self) -> bool:
        self._pipe.eof(self._side)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._pipe.closed(self._side)

    def pause_writing(self) -> None:
        self._pipe.pause(self._side)

    def resume_writing(self) -> None:
        self._pipe.resume(self._side)
