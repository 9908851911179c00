"""A disk that is full, under a real bastion: the kernel itself refuses to let a recording grow."""

from __future__ import annotations

import resource
from pathlib import Path

from bastion.core.session import End
from tests.clients.desk import HOST, desk
from tests.recorded import output, read

FULL = 8_000_000
"""Bytes that any file of the bastion may have; its database has a tenth of that."""

MORE = 3 * FULL


async def test_a_full_disk_ends_the_session_and_everything_that_was_delivered_is_recorded(tmp_path: Path) -> None:
    async with desk(tmp_path) as at_desk:
        pid, unlimited = at_desk.them.stage.process.pid, resource.getrlimit(resource.RLIMIT_FSIZE)
        await at_desk.begin(tmp_path)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FULL, unlimited[1]))
        ran = await at_desk.run(*at_desk.ssh, "-tt", HOST, f"head -c {MORE} /dev/urandom | base64; echo whole")
        assert (ran.status, b"whole" in ran.out) == (254, False)
        assert "nothing goes unrecorded here" in ran.err
        session = (await at_desk.ended())[0]
        assert session.end is End.RECORDER
        entries = await read(at_desk.recordings.transcript(session))
        assert output(entries).startswith(ran.out)
        assert len(ran.out) > FULL / 2

        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
        assert await at_desk.must(*at_desk.ssh, HOST, "echo again") == b"again\n"
