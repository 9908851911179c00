"""What nodes tell each other: in process for one node, through Redis for several."""

from __future__ import annotations

from pathlib import Path

from bastion.core.errors import ConfigError
from bastion.ports import Clock, Coordination

LOCK = "node.lock"
"""In the data directory: held by the only node that runs on it."""


async def open_coordination(url: str, *, clock: Clock, node: str, data: Path) -> Coordination:
    """The coordination that ``url`` names: ``memory``, or a Redis server's ``redis://``, ``rediss://``, ``unix://``.

    Raises:
        ConfigError: the url is neither, the server does not answer, or another node has this data directory or this
            name; nothing is held.
    """
    scheme = url.partition("://")[0]
    if url == "memory":
        from bastion.adapters.coordination.memory import MemoryCoordination

        return MemoryCoordination(clock=clock, lock_path=data / LOCK)
    if scheme in ("redis", "rediss", "unix"):
        from bastion.adapters.coordination.redis import RedisCoordination

        coordination = RedisCoordination(url, node=node)
        await coordination.start()
        return coordination
    raise ConfigError(["coordination.url: write memory, or redis://host:6379/0, rediss://… (TLS) or unix:///socket."])
