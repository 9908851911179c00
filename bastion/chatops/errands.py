"""Calls to a chat that nobody waits for: what was decided is durable already, and the chat wants its answer at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from bastion.core.errors import BastionError

MAX_ERRANDS = 200
"""At once. Beyond it the message stays as it is; its buttons ask the store anyway."""

log = structlog.get_logger(__name__)


class Errands:
    """Owns the tasks; `close` ends them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def run(self, errand: Coroutine[Any, Any, None]) -> None:
        """Begin it. It may fail: the log says so, and nothing else depends on it."""
        if len(self._running) >= MAX_ERRANDS:
            errand.close()
            log.warning("too many calls to the chat at once; one was left out")
            return
        task = asyncio.create_task(_carefully(errand))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def settle(self) -> None:
        """Return when none is running."""
        while self._running:
            await asyncio.wait(self._running)

    async def close(self) -> None:
        """End all. Idempotent."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


async def _carefully(errand: Coroutine[Any, Any, None]) -> None:
    try:
        await errand
    except BastionError as error:
        log.warning("the chat was not told", error=str(error))
    except Exception:  # the last line of a task that nobody awaits
        log.exception("a call to the chat failed")
