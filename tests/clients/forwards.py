"""OpenSSH's forwards: ports and sockets there and here, and the agent."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from bastion.core.policy import Action
from tests.cli.contractor import ssh_agent
from tests.clients.desk import HOST, Desk, Kept, Running
from tests.clients.web import get, serving
from tests.services.ports import free_port
from tests.services.sockets import ask

SIZE = 3_000_000
"""Bytes of what is fetched; more than a window."""

COMMAND = "echo ready; cat"

AROUND = Kept(Action.SSH_EXEC, COMMAND, out=b"ready\n")


def something(desk: Desk) -> bytes:
    """A file to fetch."""
    data = random.Random(5).randbytes(SIZE)
    (desk.folder / "file").write_bytes(data)
    return data


@asynccontextmanager
async def forwarding(desk: Desk, *options: str) -> AsyncIterator[Running]:
    """`ssh` with forwards, which are there when its command runs; until the block is left."""
    ssh = await desk.start(*desk.ssh, "-o", "ExitOnForwardFailure=yes", *options, HOST, COMMAND)
    assert ssh.stdout is not None
    assert await ssh.stdout.readline() == b"ready\n", await desk.end(ssh)
    try:
        yield ssh
    finally:
        ran = await desk.end(ssh)
    assert ran.status == 0, ran


def carried(action: Action, times: int, to: str) -> list[Kept]:
    """The streams of a client, each a session of its own."""
    return [Kept(action, f"to {to}", status=None, may_leave=True, marks=["sha256"])] * times


async def local(desk: Desk) -> list[Kept]:
    data, here = something(desk), free_port()
    async with serving(desk.folder) as there, forwarding(desk, "-L", f"127.0.0.1:{here}:127.0.0.1:{there}"):
        assert await asyncio.gather(*(get(here, "file") for _ in range(3))) == [data] * 3
    return [AROUND, *carried(Action.SSH_FORWARD_LOOPBACK, 3, f"127.0.0.1:{there}")]


async def socket(desk: Desk) -> list[Kept]:
    """A socket there by a socket here, as for docker.sock."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    asked = b"abc" * 50_000
    async with (
        await asyncio.start_unix_server(answer, desk.home / "there.sock"),
        forwarding(desk, "-L", f"{desk.folder}/here.sock:{desk.home}/there.sock"),
    ):
        reader, writer = await asyncio.open_unix_connection(desk.folder / "here.sock")
        writer.write(asked)
        writer.write_eof()
        assert await reader.read() == asked.upper()
        writer.close()
    (forward,) = carried(Action.SSH_FORWARD_SOCKET, 1, "socket")
    return [AROUND, replace(forward, files=[asked, asked.upper()])]


async def dynamic(desk: Desk) -> list[Kept]:
    data, socks = something(desk), free_port()
    async with serving(desk.folder) as there, forwarding(desk, "-D", f"127.0.0.1:{socks}"):
        assert await get(there, "file", socks=socks) == data
    return [AROUND, *carried(Action.SSH_FORWARD_LOOPBACK, 1, f"127.0.0.1:{there}")]


async def remote(desk: Desk) -> list[Kept]:
    """A port that the target chooses (0), through which the target reaches the desk."""
    data = something(desk)
    async with serving(desk.folder) as here, forwarding(desk, "-R", f"127.0.0.1:0:127.0.0.1:{here}") as ssh:
        assert ssh.stderr is not None
        said = await ssh.stderr.readline()
        allocated = re.search(rb"Allocated port (\d+)", said)
        assert allocated is not None, said
        assert await get(int(allocated[1]), "file") == data
    return [AROUND, Kept(Action.SSH_FORWARD_REMOTE, "from 127.0.0.1:0", status=None, may_leave=True, marks=["sha256"])]


async def remote_socket(desk: Desk) -> list[Kept]:
    """A socket at the target, through which the target reaches the desk; it goes with the forward."""
    there, asked = desk.home / "back.sock", b"abc" * 50_000

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    async with (
        await asyncio.start_unix_server(answer, desk.folder / "here.sock"),
        forwarding(desk, "-R", f"{there}:{desk.folder}/here.sock"),
    ):
        assert await ask(there, asked) == asked.upper()
    forward = Kept(
        Action.SSH_FORWARD_REMOTE_SOCKET,
        f"from socket {there}",
        status=None,
        may_leave=True,
        files=[asked, asked.upper()],
    )
    return [AROUND, forward]


async def agent(desk: Desk) -> list[Kept]:
    async with ssh_agent(desk.folder) as environment:
        await desk.must("ssh-add", "-q", desk.key, more=environment)
        wanted = await desk.must("ssh-add", "-L", more=environment)
        said = await desk.must(*desk.ssh, "-A", HOST, "ssh-add -L", more=environment)
        assert said == wanted
    return [
        Kept(Action.SSH_EXEC, "ssh-add -L", out=wanted),
        Kept(Action.SSH_AGENT, status=None, may_leave=True, marks=["sha256"]),
    ]
