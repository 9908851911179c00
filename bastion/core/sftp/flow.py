"""One direction of the relay: cuts a stream into packets, has each judged, and gathers what passes.

The head of a bulk packet (WRITE, DATA) is judged as soon as it is complete, and its data then passes as it comes; any
other packet is judged whole. A buffer in which everything passes is passed on as it is, without a copy.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from bastion.core.sftp.packets import MAX_HANDLE, MAX_PACKET, Kind, SftpViolation

Sink = Callable[[memoryview], object]
"""Takes the data of a bulk packet that passes, in the parts that it comes in."""

Ruling = Sink | bytes
"""A sink: the packet passes. Bytes: they are passed on instead of it; none, and it is dropped."""

_UINT32 = struct.Struct(">I")
_DATA_HEAD = 13
"""Bytes: length, type, id, length of the data (section 7), or of a WRITE's handle."""
_WRITE_HEAD = 25
"""Bytes beside the handle: length, type, id, length of the handle, offset, length of the data (section 6.4)."""


class Flow:
    """The packets of one direction.

    ``judge`` gets each packet, or its head; it may raise `SftpViolation`. ``between`` is asked at the end of each
    packet for bytes of our own to put there.
    """

    def __init__(self, *, judge: Callable[[bytes], Ruling], between: Callable[[], bytes]) -> None:
        self._judge = judge
        self._between = between
        self._held = bytearray()
        self._needed = 0
        self._ruling: Ruling = b""
        self._left = 0
        self._out: list[bytes | memoryview] = []

    @property
    def is_within_a_packet(self) -> bool:
        """Whether a packet has passed in part: nothing may be put in before the rest."""
        return self._left > 0

    def put(self, packet: bytes) -> None:
        """Add a packet of our own after what passed; only when not within another."""
        self._out.append(packet)

    def drain(self) -> bytes:
        """What passed since the last time."""
        out, self._out = self._out, []
        if len(out) == 1 and isinstance(out[0], bytes):
            return out[0]
        return b"".join(out)

    def feed(self, data: bytes) -> None:
        """Judge what ``data`` completes.

        Raises:
            SftpViolation: a packet is out of bounds. What came before it waits in `drain`; nothing of it passed.
        """
        if self._held:
            self._held += data
            if len(self._held) < self._needed:
                return
            data = bytes(self._held)
            self._held.clear()
        # From ``start`` to ``at`` everything passes and is not in ``_out`` yet. One loop: it runs for every 32 KiB.
        view, size, at, start = memoryview(data), len(data), 0, 0
        try:
            while at < size:
                if self._left:
                    part = min(self._left, size - at)
                    self._left -= part
                    if isinstance(self._ruling, bytes):
                        start = at + part
                    else:
                        self._ruling(view[at : at + part])
                else:
                    part = _head_size(data, at)
                    if part > size - at:
                        self._held += view[at:]
                        self._needed = part
                        break
                    self._ruling = self._judge(data[at : at + part])
                    self._left = _UINT32.unpack_from(data, at)[0] + 4 - part
                    if isinstance(self._ruling, bytes):
                        self._out += (view[start:at], self._ruling)
                        start = at + part
                at += part
                if not self._left and (own := self._between()):
                    self._out += (view[start:at], own)
                    start = at
        finally:
            # Also after a violation: then ``at`` is where the bad packet begins.
            self._out.append(data if start == 0 and at == size else view[start:at])


def _head_size(data: bytes, at: int) -> int:
    """How many bytes of the packet at ``at`` must be there to judge it.

    While that cannot be told yet: how many are needed to tell, which is more than there are.

    Raises:
        SftpViolation: its length, or that of a WRITE's handle, is out of bounds; the rest was not waited for.
    """
    there = len(data) - at
    if there < 4:
        return 4
    total: int = _UINT32.unpack_from(data, at)[0] + 4
    if not 4 < total <= MAX_PACKET + 4:
        raise SftpViolation(f"An SFTP packet of {total - 4} bytes came; 1 to {MAX_PACKET} are allowed.")
    if there < 5:
        return 5
    match data[at + 4]:
        case Kind.DATA:
            return min(_DATA_HEAD, total)
        case Kind.WRITE if total >= _WRITE_HEAD:
            if there < _DATA_HEAD:
                return _DATA_HEAD
            handle: int = _UINT32.unpack_from(data, at + 9)[0]
            if handle > MAX_HANDLE:
                raise SftpViolation(f"An SFTP handle has {handle} bytes; {MAX_HANDLE} are allowed.")
            return min(_WRITE_HEAD + handle, total)
        case _:
            return total
