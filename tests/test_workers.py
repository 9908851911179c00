"""Several processes on one port, with a real Redis between them: each connection is somebody's, and none is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import redis

from bastion.adapters.coordination.link import PREFIX
from bastion.adapters.coordination.redis import BORN
from bastion.adapters.store import SqlStore, open_store
from bastion.core.audit import EventFilter, Kind
from bastion.core.session import End
from bastion.demo.stage import INSIDE, LOGIN, STAGING_WEB, Stage, staged
from tests.letin import let_in
from tests.services.redis import running_redis
from tests.world import until

NODES = {"demo", "demo.2", "demo.3"}
PATIENCE = 30.0
"""Seconds for a process to start, or for a name to be free again, on a busy machine."""


@asynccontextmanager
async def working(folder: Path) -> AsyncIterator[tuple[Stage, SqlStore]]:
    """A stage whose bastion is three workers, and the store that they share."""
    with running_redis() as coordination:
        # A server that remembers for an hour already: a new one lets nobody in until it can know who is connected.
        redis.Redis.from_url(coordination).set(PREFIX + BORN, int((time.time() - 3600) * 1000))
        async with staged(folder, more=f"workers: 3\ncoordination: {{url: {coordination}}}\n") as stage:
            store = await open_store(f"sqlite:///{stage.folder}/data/bastion.db")
            try:
                yield stage, store
            finally:
                await store.close()


async def up(store: SqlStore, times: int = 1) -> bool:
    started = [event.node for event in await store.events(EventFilter(kind=Kind.NODE_STARTED.value))]
    return set(started) == NODES and len(started) >= len(NODES) - 1 + times


async def visit(stage: Stage) -> asyncio.subprocess.Process:
    """Somebody who is inside until they are told to leave."""
    client = await stage.start(
        "contractor", "ssh", "-F", str(stage.ssh_config("contractor")), f"{LOGIN}@{STAGING_WEB}@bastion",
        f"echo inside; until [ -e {stage.folder}/done ]; do sleep 0.05; done",
    )  # fmt: skip
    assert client.stdout is not None
    assert await asyncio.wait_for(client.stdout.readline(), PATIENCE) == b"inside\n"
    return client


def workers(stage: Stage) -> dict[str, int]:
    """The process of each worker, by its number."""
    pid = stage.process.pid
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        found[words[words.index(b"--worker") + 1].decode()] = int(child)
    return found


async def test_workers_share_a_port_are_replaced_and_stop_together(tmp_path: Path) -> None:
    """In one: what costs here is starting, and logging in."""
    async with working(tmp_path / "stage") as (stage, store):
        await until(lambda: up(store), PATIENCE)
        await let_in(stage)

        await every_worker_gets_its_part(stage, store)
        await one_that_dies_is_replaced_and_cleans_up_after_itself(stage, store)
        await all_are_told_to_read_again(stage, store)
        await one_that_cannot_start_is_the_end_of_all(stage)

        stage.process.terminate()
        assert await asyncio.wait_for(stage.process.wait(), PATIENCE) == 0
        stopped = await store.events(EventFilter(kind=Kind.NODE_STOPPED.value))
        assert {event.node for event in stopped} == NODES
        live = await store.sessions(live=True)
        assert not live, live


async def every_worker_gets_its_part(stage: Stage, store: SqlStore) -> None:
    """The kernel chooses by the client's port, so this many visits leave one worker out once in a million times."""
    first = await visit(stage)
    clients = [first, *await asyncio.gather(*(visit(stage) for _ in range(2)))]
    tried = 0
    while {session.node for session in await store.sessions()} != NODES:
        tried += 1
        assert tried < 40, await store.sessions()
        ran = await stage.run(
            "contractor", "ssh", "-F", str(stage.ssh_config("contractor")), f"{LOGIN}@{STAGING_WEB}@bastion", "true"
        )
        assert ran.status == 0, ran.said
    (stage.folder / "done").touch()
    assert [await client.wait() for client in clients] == [0, 0, 0]
    (stage.folder / "done").unlink()


async def one_that_dies_is_replaced_and_cleans_up_after_itself(stage: Stage, store: SqlStore) -> None:
    client = await visit(stage)
    (session,) = await store.sessions(live=True)
    before = workers(stage)
    worker = session.node.partition(".")[2] or "1"
    os.kill(before[worker], signal.SIGKILL)
    assert await asyncio.wait_for(client.wait(), PATIENCE) == 255
    await until(lambda: up(store, times=2), PATIENCE)

    async def is_over() -> bool:
        return (await store.session(session.id)).end is End.INTERRUPTED

    await until(is_over, PATIENCE)
    after = workers(stage)
    assert after.keys() == before.keys()
    assert {n for n in after if after[n] != before[n]} == {worker}


async def all_are_told_to_read_again(stage: Stage, store: SqlStore) -> None:
    stage.process.send_signal(signal.SIGHUP)

    async def all_have() -> bool:
        loaded = await store.events(EventFilter(kind=Kind.CONFIG_LOADED.value))
        return {event.node for event in loaded} == NODES

    await until(all_have, PATIENCE)


async def one_that_cannot_start_is_the_end_of_all(stage: Stage) -> None:
    """Another node, whose port is somebody's who does not share it."""
    with socket.create_server((INSIDE, 0)) as taken:
        other = stage.folder / "other.yaml"
        http = f"{INSIDE}:{taken.getsockname()[1]}"
        text = re.sub(r"listen: .*", f'listen: {{ssh: "{INSIDE}:0", http: "{http}"}}', stage.config.read_text())
        other.write_text(text.replace("node: demo", "node: other"))
        ran = await stage.run("admin", "bastion", "serve", "--config", str(other))
    assert (ran.status, "cannot listen" in ran.said) == (2, True), ran.said
