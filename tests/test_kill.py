"""`kill -9` of a real bastion in the middle of four sessions: nothing that somebody received is unaccounted for.

One says lines, which are all in the recording; one floods, and there is the digest of as much as was let through; two
copy a file, one way each, and there is the digest of what of it had passed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import re
import shlex
import signal
from pathlib import Path

from bastion.core.recording import Code, Entry, Lines, Passed
from bastion.demo.stage import LOGIN, STAGING_WEB, Stage, serving, staged
from tests.letin import let_in

LINES = 2_000

FULL_UNTIL = "1MiB"
FLOOD = 4 * 2**20
"""Bytes."""

FILE = 64 * 2**20
"""Bytes; at `RATE` they take a minute."""

RATE = 8 * 1024
"""Kbit/s, as scp counts."""


async def test_every_byte_the_client_received_is_in_the_recording_and_it_still_replays(tmp_path: Path) -> None:
    async with staged(tmp_path / "stage", more=f"recordings: {{full_until: {FULL_UNTIL}}}\n") as stage:
        await let_in(stage, "auditor")
        flood = await start(stage, "yes")
        flooded = b""
        while len(flooded) < FLOOD:
            flooded += await asyncio.wait_for(flood.read(2**20), 20)
        there, here, sent = tmp_path / "there", tmp_path / "here", tmp_path / "sent"
        there.write_bytes(random.Random(1).randbytes(FILE))
        copies = [
            await copying(stage, f"{LOGIN}@{STAGING_WEB}:{there}", str(here)),
            await copying(stage, "-O", str(there), f"{LOGIN}@{STAGING_WEB}:{sent}"),
        ]
        lines = await start(stage, f"i=0; while [ $i -lt {2 * LINES} ]; do i=$((i+1)); echo line $i; done; sleep 60")
        received = b""
        while received.count(b"\n") < LINES:
            received += await asyncio.wait_for(lines.read(65536), 20)
        async with asyncio.timeout(20):
            while not all(file.exists() and file.stat().st_size for file in (here, sent)):
                await asyncio.sleep(0.05)
        stage.process.send_signal(signal.SIGKILL)
        received += await asyncio.wait_for(lines.read(), 20)
        flooded += await asyncio.wait_for(flood.read(), 20)
        for copy in copies:
            assert await asyncio.wait_for(copy.wait(), 20) != 0
        await stage.process.wait()

        async with serving(stage.config):
            assert (await stage.run("auditor", "bastion", "login")).status == 0
            listed = await stage.run("auditor", "bastion", "sessions", "--json")
            sessions = [json.loads(line) for line in listed.said.splitlines()]
            assert [session["state"] for session in sessions] == ["interrupted"] * 4
            ids = {(session["command"] or "sftp").split()[0]: session["id"] for session in sessions}
            await every_line_is_there(stage, ids["i=0;"], received)
            await the_flood_is_accounted_for(stage, ids["yes"], flooded)
            await the_file_is_accounted_for(stage, ids["sftp"], there, here)
            await the_file_is_accounted_for(stage, ids["scp"], there, sent)
            assert "session:interrupted" in (await stage.run("auditor", "bastion", "audit")).said


async def start(stage: Stage, command: str) -> asyncio.StreamReader:
    """What the contractor's ssh gives of ``command`` on the target, without a terminal."""
    config = str(stage.ssh_config("contractor"))
    ssh = shlex.join(["ssh", "-F", config, f"{LOGIN}@{STAGING_WEB}", command])
    client = await stage.start("contractor", "sh", "-c", f"exec {ssh} 2>/dev/null")
    assert client.stdout is not None
    return client.stdout


async def copying(stage: Stage, *what: str) -> asyncio.subprocess.Process:
    """The contractor's scp, which does not hurry."""
    return await stage.start("contractor", "scp", "-F", str(stage.ssh_config("contractor")), "-l", str(RATE), *what)


async def every_line_is_there(stage: Stage, session: str, received: bytes) -> None:
    replayed = await stage.run("auditor", "bastion", "replay", session, "--plain", "--speed", "1000")
    assert replayed.status == 0, replayed.said
    assert f"line {LINES}\n" in replayed.said
    assert "interrupted" in replayed.said.splitlines()[-1]
    assert output_of(await raw(stage, session)).startswith(received)


async def the_flood_is_accounted_for(stage: Stage, session: str, received: bytes) -> None:
    """The beginning in full, and the digest of a prefix of the flood that is at least what the client got."""
    entries = await raw(stage, session)
    kept = output_of(entries)
    assert 0 < len(kept) <= FLOOD / 2
    assert received.startswith(kept)
    assert received.count(b"y\n") * 2 == len(received) - len(received) % 2
    last = Passed.parse([entry.data for entry in entries if entry.code is Code.DIGEST][-1])
    assert last.size >= len(received)
    flood = b"y\n" * (last.size // 2 + 1)
    assert last.sha256 == hashlib.sha256(flood[: last.size]).hexdigest()
    *_, so_far, interrupted = [entry.data.decode() for entry in entries if entry.code is Code.MARKER]
    assert so_far == f"{last} up to here"
    assert interrupted.startswith("interrupted: ")


async def the_file_is_accounted_for(stage: Stage, session: str, whole: Path, part: Path) -> None:
    """There is the digest of a beginning of the file that is at least what of it has arrived."""
    *_, so_far, _ = [entry.data.decode() for entry in await raw(stage, session) if entry.code is Code.MARKER]
    said = re.search(r"(?:read|written) (\d+) (?:of \d+ )?bytes sha256 ([0-9a-f]{64})\b.* up to here", so_far)
    assert said is not None, so_far
    size, sha256 = int(said[1]), said[2]
    assert part.stat().st_size <= size < FILE
    assert sha256 == hashlib.sha256(whole.read_bytes()[:size]).hexdigest()


async def raw(stage: Stage, session: str) -> list[Entry]:
    printed = await stage.run("auditor", "bastion", "replay", session, "--raw")
    assert printed.status == 0, printed.said
    lines = Lines()
    read = [lines.read(line.encode()) for line in printed.said.splitlines()[1:] if line.startswith("[")]
    return [entry for entry in read if entry is not None]


def output_of(entries: list[Entry]) -> bytes:
    return b"".join(entry.data for entry in entries if entry.code is Code.OUTPUT)
