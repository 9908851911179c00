"""A node's name belongs to one running node: two of one name would each end the other's sessions."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from bastion.core.errors import ConfigError, Unavailable

LIFETIME = timedelta(seconds=6)
"""How long a name stays taken after its node was killed."""

RENEWAL = 1.5
"""Seconds between renewals: three may fail."""

log = structlog.get_logger(__name__)


class NodeName:
    """The lease of one node on its name.

    Args:
        node: the name.
        lease: `bastion.ports.Coordination.lease`.
    """

    def __init__(self, node: str, *, lease: Callable[[str, str, timedelta], Awaitable[bool]]) -> None:
        self._node = node
        self._lease = lease
        self.owner = secrets.token_hex(8)
        """This run of this node; another run of it is somebody else."""
        self._usurped = False

    def check(self) -> None:
        """Raises `Unavailable` while somebody else has the name: which of the two is meant, nobody can tell."""
        if self._usurped:
            raise Unavailable("This bastion is misconfigured: tell its operator.", detail="another node has its name")

    async def take(self, patience: timedelta) -> None:
        """Take the name, waiting for it as long as ``patience``.

        Raises:
            ConfigError: another node has it.
            Unavailable: nobody can say.
        """
        give_up_at = time.monotonic() + patience.total_seconds()
        while not await self._try():
            if time.monotonic() >= give_up_at:
                raise ConfigError([_TAKEN.format(node=self._node)])
            await asyncio.sleep(0.2)

    async def hold(self) -> None:
        """Renew it until cancelled."""
        while True:
            await asyncio.sleep(RENEWAL)
            try:
                usurped = not await self._try()
            except Unavailable:
                continue  # whoever decides hears the same
            if usurped and not self._usurped:
                log.error("another node has taken this node's name; nothing is opened here", node=self._node)
            self._usurped = usurped

    async def _try(self) -> bool:
        return await self._lease(f"node:{self._node}", self.owner, LIFETIME)


_TAKEN = "node: a bastion named {node} is running. Give every node a name of its own, or stop the other one first."
