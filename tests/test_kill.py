"""`kill -9` of a real bastion in the middle of a session: nothing the client received is missing from the recording."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
from pathlib import Path

from bastion.demo.stage import LOGIN, STAGING_WEB, serving, staged

LINES = 2_000


async def test_every_byte_the_client_received_is_in_the_recording_and_it_still_replays(tmp_path: Path) -> None:
    async with staged(tmp_path / "stage") as stage:
        for who in ("contractor", "admin", "auditor"):
            assert (await stage.run(who, "bastion", "login", stage.url)).status == 0
        granted = await stage.run(
            "admin", "bastion", "grant", "contractor@example.com", STAGING_WEB, "--as", LOGIN, "--for", "1h",
            "--because", "a test",
        )  # fmt: skip
        assert granted.status == 0, granted.said
        assert (await stage.run("contractor", "bastion", "cert", STAGING_WEB)).status == 0
        config = str(stage.ssh_config("contractor"))
        count = "i=0; while true; do i=$((i+1)); echo line $i; done"
        ssh = shlex.join(["ssh", "-F", config, f"{LOGIN}@{STAGING_WEB}", count])
        client = await stage.start("contractor", "sh", "-c", f"exec {ssh} 2>{tmp_path}/err")
        assert client.stdout is not None
        received = b""
        while received.count(b"\n") < LINES:
            received += await asyncio.wait_for(client.stdout.read(65536), 20)
        stage.process.send_signal(signal.SIGKILL)
        received += await asyncio.wait_for(client.stdout.read(), 20)
        await client.wait()
        await stage.process.wait()

        async with serving(stage.config):
            assert (await stage.run("auditor", "bastion", "login")).status == 0
            listed = await stage.run("auditor", "bastion", "sessions", "--json")
            (session,) = [json.loads(line) for line in listed.said.splitlines()]
            assert session["state"] == "interrupted"
            replayed = await stage.run("auditor", "bastion", "replay", session["id"], "--plain", "--speed", "1000")
            assert replayed.status == 0, replayed.said
            assert f"line {LINES}\n" in replayed.said
            assert "interrupted" in replayed.said.splitlines()[-1]
            raw = await stage.run("auditor", "bastion", "replay", session["id"], "--raw")
            assert raw.status == 0, raw.said
            events = [json.loads(line) for line in raw.said.splitlines()[1:] if line.startswith("[")]
            recorded = b"".join(text.encode("utf-8", "surrogateescape") for _, code, text in events if code == "o")
            assert recorded.startswith(received)
            assert "session:interrupted" in (await stage.run("auditor", "bastion", "audit")).said
