"""Sessions to record, and places to keep their recordings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from bastion.adapters.recordings import FileRecordings
from bastion.core.policy import Action
from bastion.core.recording import Code, Entry, Lines
from bastion.core.session import End, Session
from bastion.ports import Clock
from tests.core.values import CARLA, NOW, STAGING, WEB_1


def session(**changes: Any) -> Session:
    """Carla's shell on web-1.staging.eu, begun at nine."""
    began = Session(
        id="s-000000000001",
        node="bastion-1",
        identity=CARLA.id,
        display=CARLA.display,
        target=WEB_1.full_name,
        scope=STAGING,
        login="deploy",
        action=Action.SSH_SHELL,
        command=None,
        grant_id="g-1",
        certificate_serial=7,
        address="192.0.2.1",
        country="DE",
        started_at=NOW,
        until=NOW + timedelta(hours=2),
    )
    return replace(began, **changes)


def ended(session: Session, end: End = End.CLIENT) -> Session:
    """The same, over for an hour."""
    return replace(session, ended_at=session.started_at + timedelta(hours=1), end=end, exit_status=0)


def keep(folder: Path, clock: Clock, *regions: str) -> FileRecordings:
    """Recordings of ``regions`` (eu and us) under ``folder``."""
    return FileRecordings(folder / "recordings", folder / "keys", regions or ("eu", "us"), clock=clock)


def file_of(folder: Path, session: Session) -> Path:
    """Where the recording is, as the documents say."""
    day = session.started_at.strftime("%Y/%m/%d")
    return folder / "recordings" / session.scope.region / day / f"{session.id}.rec"


async def read(lines: AsyncIterator[bytes], into: list[Entry] | None = None) -> list[Entry]:
    """The entries of a transcript. Where it breaks off, ``into`` has what came before."""
    entries = [] if into is None else into
    reader = Lines()
    await anext(lines)
    async for line in lines:
        if (entry := reader.read(line)) is not None:
            entries.append(entry)
    return entries


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread or task does; fails after twenty seconds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def output(entries: list[Entry]) -> bytes:
    """What the client was given."""
    return b"".join(entry.data for entry in entries if entry.code is Code.OUTPUT)
