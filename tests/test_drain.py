"""A bastion that is told to stop lets sessions end by themselves, for as long as its configuration says."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bastion.adapters.store import open_store
from bastion.core.session import End
from bastion.demo.stage import LOGIN, STAGING_WEB, Stage, serving, staged
from tests.letin import let_in

NOTICE = b"UTC. What is not done by then will be cut off."
RESTARTS = "The bastion is about to restart. Connect again in a moment."


@asynccontextmanager
async def draining(folder: Path, drain: str) -> AsyncIterator[Stage]:
    """A stage with a contractor who may connect; its bastion is another one, which ``drain`` is for."""
    async with staged(folder / "stage") as stage:
        await let_in(stage)
        stage.process.terminate()
        await stage.process.wait()
        stage.config.write_text(stage.config.read_text().replace("drain: 0s", f"drain: {drain}"))
        yield stage


async def visiting(stage: Stage, *flags: str) -> asyncio.subprocess.Process:
    """Somebody who is inside and stays until they say that they are done."""
    client = await stage.start(
        "contractor", "ssh", "-F", str(stage.ssh_config("contractor")), *flags, f"{LOGIN}@{STAGING_WEB}@bastion",
        f"echo inside; until [ -e {stage.folder}/done ]; do sleep 0.02; done; echo done at last",
    )  # fmt: skip
    assert await heard(client, b"inside\n")
    return client


async def heard(client: asyncio.subprocess.Process, what: bytes) -> bytes:
    """All that was said until ``what`` was."""
    assert client.stdout is not None
    said = b""
    async with asyncio.timeout(20):
        while what not in said:
            more = await client.stdout.read(4096)
            assert more, said
            said += more
    return said


async def test_sessions_end_by_themselves_or_in_time_or_at_a_second_word(tmp_path: Path) -> None:
    """One stage for all of it: what costs here is logging in."""
    async with draining(tmp_path, "1h") as stage:
        await who_is_inside_may_finish_and_nobody_new_comes_in(stage)
        await who_says_it_twice_means_at_once(stage)
        stage.config.write_text(stage.config.read_text().replace("drain: 1h", "drain: 1s"))
        await who_does_not_finish_in_time_is_cut_off(stage)
        store = await open_store(f"sqlite:///{stage.folder}/data/bastion.db")
        ends = [session.end for session in await store.sessions()]
        await store.close()
        assert ends == [End.SHUTDOWN, End.SHUTDOWN, End.TARGET]


async def who_is_inside_may_finish_and_nobody_new_comes_in(stage: Stage) -> None:
    async with serving(stage.config) as bastion:
        shared = ["-o", "ControlMaster=auto", "-o", f"ControlPath={stage.folder}/control"]
        client = await visiting(stage, *shared)
        bastion.send_signal(signal.SIGTERM)
        await heard(client, NOTICE)
        config, name = str(stage.ssh_config("contractor")), f"{LOGIN}@{STAGING_WEB}@bastion"
        new = await stage.run("contractor", "ssh", "-F", config, name, "true")
        assert (new.status, RESTARTS in new.said) == (255, True), new.said
        more = await stage.run("contractor", "ssh", "-F", config, *shared, name, "true")
        assert (more.status, RESTARTS in more.said) == (254, True), more.said
        assert bastion.returncode is None
        (stage.folder / "done").touch()
        said, _ = await client.communicate()
        assert (client.returncode, said) == (0, b"done at last\n")
        assert await asyncio.wait_for(bastion.wait(), 20) == 0
    (stage.folder / "done").unlink()


async def who_says_it_twice_means_at_once(stage: Stage) -> None:
    async with serving(stage.config) as bastion:
        client = await visiting(stage)
        bastion.send_signal(signal.SIGTERM)
        await heard(client, NOTICE)
        bastion.send_signal(signal.SIGTERM)
        await heard(client, b"The bastion is stopping.")
        assert await asyncio.wait_for(bastion.wait(), 20) == 0


async def who_does_not_finish_in_time_is_cut_off(stage: Stage) -> None:
    async with serving(stage.config) as bastion:
        client = await visiting(stage)
        bastion.send_signal(signal.SIGTERM)
        assert NOTICE in await heard(client, b"The bastion is stopping.")
        assert await asyncio.wait_for(bastion.wait(), 20) == 0
