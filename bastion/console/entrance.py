"""Accepting the console's connections: who calls (law 2), then TLS, then HTTP; and how many there may be.

A balancer's PROXY header comes before the TLS of its client, so TLS begins here and not in the listening socket.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

from aiohttp import web

from bastion.core.geofence import Address, Network
from bastion.gateways.listener import Greeting, neighbours

MAX_CONNECTIONS = 2048
"""Of one node. A browser has six at most; beyond it, whoever has most of them loses their oldest one."""

HANDSHAKE_SECONDS = 10
"""For TLS."""

BACKLOG = 512


class Secured(asyncio.Protocol):
    """TLS between a transport and ``protocol``: what the loop does for listening sockets, begun a little later.

    The one class of asyncio that does this on transports of any loop is not documented; a test guards what is used.
    """

    def __init__(self, protocol: asyncio.Protocol, context: ssl.SSLContext) -> None:
        loop, nobody_waits = asyncio.get_running_loop(), cast(Any, None)
        self._tls = SSLProtocol(
            loop, protocol, context, nobody_waits, server_side=True, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tls.connection_made(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        while data:
            room = self._tls.get_buffer(len(data))
            size = min(len(room), len(data))
            room[:size] = data[:size]
            self._tls.buffer_updated(size)
            data = data[size:]

    def eof_received(self) -> bool | None:
        self._tls.eof_received()
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self._tls.connection_lost(error)

    def pause_writing(self) -> None:
        self._tls.pause_writing()

    def resume_writing(self) -> None:
        self._tls.resume_writing()


class Entrance:
    """Every connection of a console, from its first byte on."""

    def __init__(
        self,
        *,
        handlers: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        balancers: Sequence[Network],
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._handlers = handlers
        self._tls = tls
        self._balancers = tuple(balancers)
        self._max_connections = max_connections
        self._open: dict[Arrival, Address] = {}

    @property
    def connections(self) -> int:
        """How many there are, of those whose callers are known."""
        return len(self._open)

    def arrive(self) -> Arrival:
        """The protocol of one more."""
        return Arrival(self, self._balancers)

    def admit(self, arrival: Arrival, address: Address) -> asyncio.Protocol:
        """What speaks with ``arrival``, which comes from ``address``."""
        if len(self._open) >= self._max_connections:
            self._make_room()
        self._open[arrival] = address
        handler = self._handlers()
        return handler if self._tls is None else Secured(handler, self._tls)

    def _make_room(self) -> None:
        """A flood pushes out itself."""
        most = Counter(map(neighbours, self._open.values())).most_common(1)[0][0]
        oldest = next(arrival for arrival, address in self._open.items() if neighbours(address) == most)
        del self._open[oldest]
        oldest.abort()

    def forget(self, arrival: Arrival) -> None:
        """It has gone. Idempotent."""
        self._open.pop(arrival, None)


class Arrival(Greeting):
    """One connection of an entrance."""

    def __init__(self, entrance: Entrance, balancers: tuple[Network, ...]) -> None:
        super().__init__(lambda address: entrance.admit(self, address), balancers)
        self._entrance = entrance

    def abort(self) -> None:
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._entrance.forget(self)


class Site(web.BaseSite):
    """Where a runner listens, with an entrance of our own."""

    def __init__(
        self, runner: web.BaseRunner, entrance: Entrance, host: str, port: int, *, shared: bool = False
    ) -> None:
        super().__init__(runner)
        self._entrance, self._host, self._port, self._shared = entrance, host, port, shared

    @property
    def name(self) -> str:
        return f"{self._host}:{self._port}"

    async def start(self) -> None:
        await super().start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._entrance.arrive, self._host, self._port, backlog=BACKLOG, reuse_port=self._shared or None
        )
