"""OpenSSH's forwards: ports and sockets there and here, and the agent."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bastion.core.policy import Action
from tests.cli.contractor import ssh_agent
from tests.clients.desk import HOST, Desk, Kept, Running
from tests.clients.web import get, serving, until_listening
from tests.services.ports import free_port

SIZE = 3_000_000


def something(desk: Desk) -> bytes:
    """A file to fetch."""
    data = random.Random(5).randbytes(SIZE)
    (desk.folder / "file").write_bytes(data)
    return data


@asynccontextmanager
async def forwarding(desk: Desk, *options: str) -> AsyncIterator[Running]:
    """`ssh -N`, until the block is left."""
    ssh = await desk.start(*desk.ssh, "-N", "-o", "ExitOnForwardFailure=yes", *options, HOST)
    try:
        yield ssh
    finally:
        if ssh.returncode is None:
            ssh.terminate()
        await desk.end(ssh)


async def local(desk: Desk) -> list[Kept]:
    data, here = something(desk), free_port()
    async with serving(desk.folder) as there, forwarding(desk, "-L", f"127.0.0.1:{here}:127.0.0.1:{there}") as ssh:
        await until_listening(here, ssh)
        assert await asyncio.gather(*(get(here, "file") for _ in range(3))) == [data] * 3
    return [Kept(Action.SSH_FORWARD_LOOPBACK)] * 3


async def dynamic(desk: Desk) -> list[Kept]:
    data, socks = something(desk), free_port()
    async with serving(desk.folder) as there, forwarding(desk, "-D", f"127.0.0.1:{socks}") as ssh:
        await until_listening(socks, ssh)
        assert await get(there, "file", socks=socks) == data
    return [Kept(Action.SSH_FORWARD_LOOPBACK)]


async def remote(desk: Desk) -> list[Kept]:
    """A port that the target chooses (0), through which the target reaches the desk."""
    data = something(desk)
    async with serving(desk.folder) as here, forwarding(desk, "-R", f"127.0.0.1:0:127.0.0.1:{here}") as ssh:
        assert ssh.stderr is not None
        said = await ssh.stderr.readline()
        allocated = re.search(rb"Allocated port (\d+)", said)
        assert allocated is not None, said
        assert await get(int(allocated[1]), "file") == data
    return [Kept(Action.SSH_FORWARD_REMOTE)]


async def agent(desk: Desk) -> list[Kept]:
    async with ssh_agent(desk.folder) as environment:
        await desk.must("ssh-add", "-q", desk.key, more=environment)
        wanted = await desk.must("ssh-add", "-L", more=environment)
        said = await desk.must(*desk.ssh, "-A", HOST, "ssh-add -L", more=environment)
        assert said == wanted
    return [Kept(Action.SSH_EXEC, "ssh-add -L", out=wanted)]
