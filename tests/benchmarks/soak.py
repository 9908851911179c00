"""Five hundred people typing for ten minutes on one bastion: what is lost, how slow it gets, and what it grows to."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator
from datetime import timedelta

from bastion.adapters.clock import SystemClock
from bastion.adapters.recordings import FileRecordings
from bastion.adapters.store import open_store
from bastion.core.recording import Code
from bastion.core.session import Session
from tests.benchmarks.bench import Bench, percentile
from tests.benchmarks.crowd import crowd, keystrokes
from tests.recorded import read

SESSIONS = 500
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
"""How long they type: `make bench BENCH=ssh_soak SOAK_SECONDS=180`."""


async def soak(bench: Bench) -> AsyncIterator[tuple[str, float]]:
    """Nothing is lost: every keystroke comes back, and every recording is whole, signed, and has each of them.

    Raises:
        AssertionError: a recording is not what its session was given.
    """
    before = bench.resident_kib()
    async with crowd(bench, SESSIONS) as people:
        at_start, cpu = bench.resident_kib(), bench.cpu_seconds()
        yield "ssh_soak_sessions", SESSIONS
        yield "ssh_soak_session_kib_start", (at_start - before) / SESSIONS
        typed = await people.type(SECONDS)
        yield "ssh_soak_session_kib_end", (bench.resident_kib() - before) / SESSIONS
        yield "ssh_soak_cpu_percent", (bench.cpu_seconds() - cpu) / SECONDS * 100
        await people.leave()
    yield "ssh_soak_keystrokes", len(typed.echo_ms)
    yield "ssh_soak_lost", typed.lost
    for percent in (50, 99):
        through, direct = percentile(typed.echo_ms, percent), percentile(typed.direct_ms, percent)
        yield f"ssh_soak_echo_ms_p{percent}", through
        yield f"ssh_soak_echo_added_ms_p{percent}", through - direct
    yield "ssh_soak_recordings_whole", await _whole_recordings(bench, typed.echoed)


async def _whole_recordings(bench: Bench, echoed: dict[str, int]) -> int:
    """How many recordings were held against what their sessions were given: as many as there were sessions."""
    data = bench.data
    recordings = FileRecordings(data / "recordings", data / "keys", ["eu"], clock=SystemClock())
    store = await open_store(f"sqlite:///{data}/bastion.db", patience=timedelta(minutes=1))
    try:
        found = [session for session in await store.sessions(limit=2 * SESSIONS) if session.command != "true"]
        given = [await _given(recordings, session) for session in found]
    finally:
        await store.close()
        recordings.close()
    wanted = {b"R" + b"".join(itertools.islice(keystrokes(number), count)) for number, count in echoed.items()}
    missing = wanted - set(given)
    assert not missing, f"{len(missing)} recordings are not what was echoed: {sorted(missing)[:3]}"
    return len(wanted)


async def _given(recordings: FileRecordings, session: Session) -> bytes:
    """What the recording says that the client was given. Reading it checks its seals, its order and its signed end."""
    entries = await read(recordings.transcript(session))
    return b"".join(entry.data for entry in entries if entry.code is Code.OUTPUT)
