"""Two nodes on one PostgreSQL and one Redis: what happens on one is so on the other."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from pathlib import Path

import redis

from bastion.adapters.coordination.link import PREFIX
from bastion.adapters.coordination.redis import BORN
from bastion.demo.stage import INSIDE, LOGIN, STAGING_WEB, Stage, serving, staged
from bastion.demo.tools import free_port
from tests.letin import let_in
from tests.services.postgres import running_postgres
from tests.services.redis import running_redis

SECONDS = 1.0
"""Law 7: on every node."""


def second_node(stage: Stage) -> tuple[Path, int]:
    """The configuration of another node: its own name, listeners and data, the same keys; and its SSH port."""
    ssh, http = free_port(INSIDE), free_port(INSIDE)
    text = stage.config.read_text().replace("node: demo", "node: demo-2").replace("data: data", "data: data-2")
    text = re.sub(r"listen: .*", f'listen: {{ssh: "{INSIDE}:{ssh}", http: "{INSIDE}:{http}"}}', text)
    shutil.copytree(stage.folder / "data/keys", stage.folder / "data-2/keys")
    (stage.folder / "data-2").chmod(0o700)
    config = stage.folder / "second.yaml"
    config.write_text(text)
    return config, ssh


async def test_a_grant_revoked_on_one_node_cuts_a_session_on_the_other(tmp_path: Path) -> None:
    with running_postgres() as store, running_redis() as coordination:
        # A server that remembers for an hour already: a new one lets nobody in until it can know who is connected.
        redis.Redis.from_url(coordination).set(PREFIX + BORN, int((time.time() - 3600) * 1000))
        more = f"store: {{url: {store}}}\ncoordination: {{url: {coordination}}}\n"
        async with staged(tmp_path / "stage", more=more) as stage:
            await let_in(stage, "auditor")
            config, port = second_node(stage)
            async with serving(config):
                client = await stage.start(
                    "contractor", "ssh", "-F", str(stage.ssh_config("contractor")), "-p", str(port),
                    f"{LOGIN}@{STAGING_WEB}@bastion", "echo on; sleep 60",
                )  # fmt: skip
                assert client.stdout is not None
                assert await asyncio.wait_for(client.stdout.readline(), 20) == b"on\n"
                revoking = await stage.start("admin", "bastion", "revoke", "contractor@example.com", STAGING_WEB)
                (said, cut), (_, revoked) = await asyncio.gather(_rest(client), _rest(revoking))
                assert "Your grant was revoked" in said
                assert cut - revoked < SECONDS
            audit = await stage.run("auditor", "bastion", "audit", "--json")
            assert '"node": "demo-2"' in audit.said
            assert '"end": "grant revoked"' in audit.said


async def _rest(process: asyncio.subprocess.Process) -> tuple[str, float]:
    """What a program still says, and when it had ended."""
    said, _ = await asyncio.wait_for(process.communicate(), 20)
    return said.decode(), time.monotonic()
