"""A program of somebody's that runs and says things meanwhile."""

from __future__ import annotations

import asyncio


class Waiting:
    """A program, and what it has said on standard error so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.said += line.decode()

    async def end(self) -> tuple[int, str]:
        assert self.process.stdout is not None
        out = await asyncio.wait_for(self.process.stdout.read(), 60)
        await self._reading
        return await self.process.wait(), out.decode()
