"""Accepting connections: who is really calling, when a balancer stands in between.

A listed balancer must begin with a PROXY header (versions 1 and 2 of HAProxy's PROXY protocol specification); from
anybody else such a header is just bytes of a wrong protocol, and the address is the socket's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from bastion.core.geofence import Address, Network, parse_address

MAX_V1 = 107
"""Bytes of the longest version 1 header, with its CR LF (section 2.1)."""

MAX_V2 = 16 + 536
"""Bytes of a version 2 header that is read: addresses and some TLVs; the specification asks for at least 536."""

V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

HEADER_TIMEOUT = 5.0
"""Seconds a listed balancer has to send its header; it sends it at once."""


@dataclass(frozen=True, slots=True)
class Header:
    """A PROXY header: its length in bytes, and the client it names; none when the balancer speaks for itself."""

    length: int
    client: tuple[Address, int] | None


def parse_header(data: bytes) -> Header | None:
    """Read the PROXY header that ``data`` begins with; None when more bytes are needed.

    Raises:
        ValueError: it does not begin with one.
    """
    if data[:12] == V2_SIGNATURE[: len(data[:12])]:
        return _parse_v2(data)
    if data[:6] == b"PROXY "[: len(data[:6])]:
        return _parse_v1(data)
    raise ValueError("no PROXY header")


def _parse_v1(data: bytes) -> Header | None:
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1:
            raise ValueError("PROXY header without an end")
        return None
    words = data[:end].decode("ascii", "replace").split(" ")
    if words[1] == "UNKNOWN":
        return Header(end + 2, None)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6") or not words[4].isdecimal():
        raise ValueError("malformed PROXY header")
    if (":" in words[2]) != (words[1] == "TCP6"):
        raise ValueError("PROXY header with an address of another family than it says")
    return Header(end + 2, (parse_address(words[2]), _port(int(words[4]))))


def _parse_v2(data: bytes) -> Header | None:
    if len(data) < 16:
        return None
    version, command, family = data[12] >> 4, data[12] & 0xF, data[13]
    length = 16 + int.from_bytes(data[14:16], "big")
    if version != 2 or command not in (0, 1) or length > MAX_V2:
        raise ValueError("malformed PROXY header")
    if len(data) < length:
        return None
    if command == 0:
        return Header(length, None)
    size = {0x11: 4, 0x21: 16}.get(family)
    if size is None or length < 16 + 2 * size + 4:
        raise ValueError("PROXY header for another protocol than TCP")
    address = parse_address(_written(data[16 : 16 + size]))
    return Header(length, (address, int.from_bytes(data[16 + 2 * size : 18 + 2 * size], "big")))


def _written(packed: bytes) -> str:
    if len(packed) == 4:
        return ".".join(str(byte) for byte in packed)
    return ":".join(packed[i : i + 2].hex() for i in range(0, 16, 2))


def _port(port: int) -> int:
    if port > 65535:
        raise ValueError("malformed PROXY header")
    return port


def neighbours(address: Address) -> int:
    """Who shares a limit: one IPv4 address, or what a provider gives one customer of IPv6 (RFC 6177)."""
    return int(address) if address.version == 4 else int(address) >> 64


class NamedTransport:
    """A transport under another peer's name: what is asked of it besides goes to the one it wraps."""

    def __init__(self, transport: Any, peername: tuple[str, int]) -> None:
        self._transport = transport
        self._peername = peername
        # What is asked for each packet is not looked up each time.
        self.write, self.is_closing = transport.write, transport.is_closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._peername if name == "peername" else self._transport.get_extra_info(name, default)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Greeting(asyncio.Protocol):
    """The first bytes of a connection, until it is known who calls; then ``factory``'s protocol takes over."""

    def __init__(self, factory: Callable[[Address], asyncio.Protocol | None], balancers: tuple[Network, ...]) -> None:
        self._factory = factory
        self._balancers = balancers
        self._buffer = b""
        self._protocol: asyncio.Protocol | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        address = parse_address(peer[0])
        if any(address.version == n.version and address in n for n in self._balancers):
            self._timer = asyncio.get_running_loop().call_later(HEADER_TIMEOUT, self._transport.abort)
        else:
            self._hand_over(address, peer[1], b"")

    def data_received(self, data: bytes) -> None:
        if self._protocol is not None:
            self._protocol.data_received(data)
            return
        self._buffer += data
        try:
            header = parse_header(self._buffer)
        except ValueError:
            self._transport.abort()
            return
        if header is None:
            return
        if header.client is None:
            self._transport.close()
            return
        self._hand_over(*header.client, self._buffer[header.length :])

    def _hand_over(self, address: Address, port: int, rest: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._buffer = b""
        self._protocol = self._factory(address)
        if self._protocol is None:
            self._transport.abort()
            return
        self._protocol.connection_made(cast(asyncio.Transport, NamedTransport(self._transport, (str(address), port))))
        self._transport.set_protocol(self._protocol)
        if rest:
            self._protocol.data_received(rest)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received() if self._protocol is not None else None

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._protocol is not None:
            self._protocol.connection_lost(error)

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()
