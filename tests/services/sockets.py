"""Unix sockets that somebody is about to listen at."""

from __future__ import annotations

import asyncio
from pathlib import Path

SECONDS = 30.0


async def ask(path: Path, data: bytes) -> bytes:
    """What comes back for ``data`` and an end; sshd's socket is there before it, and the bastion, take connections."""
    async with asyncio.timeout(SECONDS):
        while True:
            if came := await _asked(path, data):
                return came
            await asyncio.sleep(0.02)


async def _asked(path: Path, data: bytes) -> bytes:
    try:
        reader, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return b""
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read(-1)
    except OSError:
        return b""
    finally:
        writer.close()
