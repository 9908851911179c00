"""Several processes of one node on the same ports: started, told what this one is told, started again when they die.

Each is a whole bastion with a name of its own, and the kernel gives each new connection to one of them (SO_REUSEPORT,
socket(7)). What they have to know of one another goes through coordination, as it does between nodes.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

import structlog

from bastion.cli import exits

FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds before a worker that has died is started again; twice as long each time, until one lasts."""

LASTING = 60.0
"""Seconds after which a worker is no longer taken for one that dies at once."""

log = structlog.get_logger(__name__)


def supervise(config: Path, count: int) -> int:
    """Run ``count`` workers until this process is told to stop; the exit status."""
    return asyncio.run(Workers(config, count).run())


class Workers:
    """The workers of one node, by number from 1."""

    def __init__(self, config: Path, count: int) -> None:
        self._config = config
        self._count = count
        self._live: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._status = exits.OK

    async def run(self) -> int:
        """Until every worker has ended; a failed start of one is the end of all."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._tell, signal.SIGHUP)
        async with asyncio.TaskGroup() as tasks:
            for worker in range(1, self._count + 1):
                tasks.create_task(self._keep(worker))
        return self._status

    def _stop(self) -> None:
        """A second time is passed on like the first: it ends what still waits for sessions."""
        self._stopping.set()
        self._tell(signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for process in self._live.values():
            if process.returncode is None:
                process.send_signal(number)

    async def _keep(self, worker: int) -> None:
        wait, is_first = FIRST_WAIT, True
        while not self._stopping.is_set():
            began = time.monotonic()
            status = await self._run(worker)
            if self._stopping.is_set():
                return
            if is_first and status == exits.USAGE:
                # It said why. The others would run beside a configuration that is wrong, or a port that is taken.
                self._status = exits.USAGE
                self._stop()
                return
            is_first = False
            wait = FIRST_WAIT if time.monotonic() - began > LASTING else wait
            log.error("a worker has ended and is started again", worker=worker, status=status, seconds=wait)
            await self._pause(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    async def _run(self, worker: int) -> int:
        """Its exit status; of one that a signal ended, the signal's number below zero."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bastion", "serve", "--config", str(self._config), "--worker", str(worker),
            stdin=asyncio.subprocess.PIPE,  # whose end tells it that this process is gone
            start_new_session=True,  # a Ctrl-C at our terminal is ours to pass on
        )  # fmt: skip
        self._live[worker] = process
        if self._stopping.is_set():
            process.terminate()
        return await process.wait()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass
