"""What the IDEs that people work in do over SSH."""

from __future__ import annotations

import asyncio
import json
import random
import shlex
import sys
from pathlib import Path

from bastion.core.policy import Action
from tests.clients.desk import HOST, NAME, Desk, Kept
from tests.clients.files import SFTP, content
from tests.clients.forwards import carried
from tests.clients.web import SERVE, get, port_of
from tests.services.ports import free_port

CHANNELS = 12


async def vscode(desk: Desk) -> list[Kept]:
    """Remote-SSH: a shell that is fed a script, which starts a server on the target's loopback; all else goes to that
    through the SOCKS port of the same connection."""
    data = random.Random(4).randbytes(3_000_000)
    (desk.home / "vscode").write_bytes(data)
    socks = free_port()
    ssh = await desk.start(*desk.ssh, "-T", "-D", str(socks), "-o", "ConnectTimeout=15", HOST, "bash")
    assert ssh.stdin is not None
    ssh.stdin.write(f"{shlex.join(SERVE)} & server=$!\n".encode())
    port = await port_of(ssh)
    assert await asyncio.gather(*(get(port, "vscode", socks=socks) for _ in range(3))) == [data] * 3
    ran = await desk.end(ssh, b"kill $server; echo bye; exit 0\n")
    assert (ran.status, ran.out) == (0, b"bye\n"), ran
    return [Kept(Action.SSH_EXEC, "bash"), *carried(Action.SSH_FORWARD_LOOPBACK, 3, f"127.0.0.1:{port}")]


async def jetbrains(desk: Desk) -> list[Kept]:
    data = content(desk)
    said = await desk.must(
        sys.executable, Path(__file__).with_name("jetbrains_visit.py"), str(desk.port), NAME, desk.host_key, desk.key,
        desk.certificate, str(CHANNELS),
    )  # fmt: skip
    assert json.loads(said) == {
        "ran": [[str(number), number] for number in range(CHANNELS)],
        "reached": ["from the desk\n", 0],
    }
    assert (desk.folder / "back").read_bytes() == (desk.home / "from-jetbrains").read_bytes() == data
    commands = [Kept(Action.SSH_EXEC, f"cat; exit {n}", n, out=b"%d" % n, into=b"%d" % n) for n in range(CHANNELS)]
    return [
        *commands,
        Kept(Action.SSH_EXEC, sys.executable, out=b"from the desk\n"),
        Kept(SFTP, files=[data], marks=["from-jetbrains"], may_leave=True),
        Kept(Action.SSH_FORWARD_REMOTE, "from 127.0.0.1:0", status=None, may_leave=True, files=[b"from the desk"]),
    ]
