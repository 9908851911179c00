"""A service on this machine that waits for whom the bastion should not have let through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass
class Trap:
    """A service on this machine that nobody should reach through the bastion."""

    port: int
    visits: int = 0


@asynccontextmanager
async def trap() -> AsyncIterator[Trap]:
    caught = Trap(0)

    def visited(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        caught.visits += 1
        writer.close()

    server = await asyncio.start_server(visited, ["127.0.0.1", "::1"], 0)
    caught.port = server.sockets[0].getsockname()[1]
    try:
        yield caught
    finally:
        server.close()
