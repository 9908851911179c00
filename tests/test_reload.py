"""SIGHUP: new policies without a restart, checked first, and only what they forbid is cut."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

from bastion.demo.stage import LOGIN, STAGING_WEB, Stage, staged
from tests.letin import let_in
from tests.world import until

FORBID = '@id("freeze")\nforbid (principal, action in Action::"connect", resource);\n'


async def test_a_changed_policy_is_taken_over_and_cuts_what_it_forbids(tmp_path: Path) -> None:
    async with staged(tmp_path / "stage") as stage:
        await let_in(stage)
        command = ["ssh", "-F", str(stage.ssh_config("contractor")), f"{LOGIN}@{STAGING_WEB}", "echo on; sleep 60"]
        client = await stage.start("contractor", *command)
        assert client.stdout is not None
        assert await asyncio.wait_for(client.stdout.readline(), 20) == b"on\n"
        policy = stage.folder / "policy.cedar"
        written = policy.read_text()

        policy.write_text(written + "permit (principal, action, resource")
        stage.process.send_signal(signal.SIGHUP)
        await until(lambda: _logged(stage, "config:refused"), 10)
        assert client.returncode is None

        policy.write_text(written + FORBID)
        began = time.monotonic()
        stage.process.send_signal(signal.SIGHUP)
        said = (await asyncio.wait_for(client.stdout.read(), 10)).decode()
        await client.wait()
        assert time.monotonic() - began < 2, "one second to cut, and the time that reading the files takes"
        assert "policy changed" in said
        denied = await stage.run("contractor", *command)
        assert "Forbidden by policy freeze" in denied.said


async def _logged(stage: Stage, kind: str) -> bool:
    return kind in (await stage.run("admin", "bastion", "audit", "--kind", kind)).said
