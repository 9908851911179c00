"""Hundreds of live sessions at once, in processes beside the one that measures: `crowd` starts them.

Each child is this very module. It opens its sessions, says so, and then does what it reads, a JSON line at a time:
type for some seconds, wait for the end of every session, or leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncssh

from bastion.demo.stage import INSIDE, LOGIN, STAGING_WEB
from tests.benchmarks.bench import Bench

CHILDREN = 2
AT_ONCE = 4
"""Logins under way in one child; a key exchange costs it as much as the bastion."""

PACE = 1.0
"""Seconds between the keystrokes of one session, on average."""

PATIENCE = 30.0
"""Seconds without an echo after which a keystroke counts as lost."""

DIRECT = "direct"
"""The number of the session that goes around the bastion, for comparison; it types ten times as fast."""

CAT = "stty raw -echo; printf R; exec cat"
"""Gives back each keystroke, on a terminal that does not add an echo of its own."""


@dataclass
class Typed:
    """What a crowd typed: for each session how many bytes came back, and how long each took, in milliseconds."""

    echoed: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    echo_ms: list[float] = field(default_factory=list)
    direct_ms: list[float] = field(default_factory=list)


class Crowd:
    """Live sessions through the bastion, in other processes."""

    def __init__(self, children: list[asyncio.subprocess.Process]) -> None:
        self._children = children

    async def type(self, seconds: float) -> Typed:
        """Let everybody type."""
        typed = Typed()
        for said in await self._ask({"type": seconds}):
            typed.echoed.update(said["echoed"])
            typed.lost += said["lost"]
            typed.echo_ms += said["echo_ms"]
            typed.direct_ms += said["direct_ms"]
        return typed

    async def wait(self) -> list[float]:
        """When each session was closed, on the monotonic clock that all processes of a machine share."""
        return [at for said in await self._ask({"wait": True}) for at in said["closed"]]

    async def leave(self) -> None:
        """Close every session from the clients' side."""
        await self._ask({"leave": True})

    async def _ask(self, what: dict[str, Any]) -> list[Any]:
        return list(await asyncio.gather(*(_ask(child, what) for child in self._children)))


async def _ask(child: asyncio.subprocess.Process, what: dict[str, Any]) -> Any:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(json.dumps(what).encode() + b"\n")
    return json.loads(await child.stdout.readline())


@asynccontextmanager
async def crowd(bench: Bench, sessions: int) -> AsyncIterator[Crowd]:
    """So many live, recorded sessions; when the block is left, their clients are gone."""
    folder = bench.stage.ssh_config("contractor").parent
    children = []
    try:
        for number in range(CHILDREN):
            mine = [str(session) for session in range(number, sessions, CHILDREN)]
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.benchmarks.crowd",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 28,
            )  # fmt: skip
            children.append(child)
            through = [str(folder / "id_ed25519"), str(folder / "staging.eu-cert.pub")]
            sshd, around = bench.stage.staging, bench.direct[2]
            direct = [str(sshd.port), around.replace("around", "direct"), around.replace("around", "direct-cert.pub")]
            await _begin(child, {"sessions": mine, "port": bench.stage.ssh_port, "through": through, "direct": direct})
        ready = [await child.stdout.readline() for child in children if child.stdout is not None]
        if ready != [b"ready\n"] * CHILDREN:
            raise RuntimeError("not every session could be opened")
        yield Crowd(children)
    finally:
        for child in children:
            if child.returncode is None:
                child.kill()
                await child.wait()


async def _begin(child: asyncio.subprocess.Process, what: dict[str, Any]) -> None:
    assert child.stdin is not None
    child.stdin.write(json.dumps(what).encode() + b"\n")
    await child.stdin.drain()


# ------------------------------------------------------------------------------------------------------- in the child


class _Session:
    """One session, its number, and what it has typed."""

    def __init__(self, number: str, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self.number = number
        self.process = process
        self.echoed = 0
        self.lost = 0
        self.echo_ms: list[float] = []
        self._text = keystrokes(number)

    async def type(self, until: float, pace: float, chance: random.Random) -> None:
        """A keystroke, its echo, and a pause, again and again."""
        await asyncio.sleep(chance.uniform(0, pace))
        while (began := time.perf_counter()) < until:
            key = next(self._text)
            self.process.stdin.write(key)
            try:
                echo = await asyncio.wait_for(self.process.stdout.readexactly(1), PATIENCE)
            except (TimeoutError, asyncio.IncompleteReadError):
                self.lost += 1
                return
            self.echo_ms.append(round((time.perf_counter() - began) * 1000, 3))
            self.lost += echo != key
            self.echoed += 1
            await asyncio.sleep(chance.uniform(0, 2 * pace))


def keystrokes(number: str) -> Iterator[bytes]:
    """What the session of that number types; no other session types the same."""
    for count in itertools.count():
        yield from (bytes([byte]) for byte in f"{number}:{count} ".encode())


async def _open(number: str, port: int, username: str, key: str, certificate: str) -> _Session:
    connection = await asyncssh.connect(
        INSIDE, port, username=username, known_hosts=None, config=None, agent_path=None,
        client_keys=[(asyncssh.read_private_key(key), asyncssh.read_certificate(certificate))],
    )  # fmt: skip
    process: asyncssh.SSHClientProcess[bytes] = await connection.create_process(CAT, term_type="xterm", encoding=None)
    await process.stdout.readuntil(b"R")
    return _Session(number, process)


async def _child() -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    wanted = json.loads(await orders.readline())
    turn = asyncio.Semaphore(AT_ONCE)

    async def opened(number: str) -> _Session:
        async with turn:
            return await _open(number, wanted["port"], f"{LOGIN}@{STAGING_WEB}", *wanted["through"])

    sessions = list(await asyncio.gather(*map(opened, wanted["sessions"])))
    port, *credentials = wanted["direct"]
    direct = await _open(DIRECT, int(port), LOGIN, *credentials)
    gc.freeze()
    _say("ready")
    while line := await orders.readline():
        match json.loads(line):
            case {"type": seconds}:
                _say(json.dumps(await _typed(sessions, direct, seconds)))
            case {"wait": _}:
                _say(json.dumps({"closed": await asyncio.gather(*map(_closed, sessions))}))
            case _:
                for session in sessions:
                    session.process.channel.get_connection().close()
                await asyncio.gather(*map(_closed, sessions))
                _say("{}")


async def _typed(sessions: list[_Session], direct: _Session, seconds: float) -> dict[str, Any]:
    until = time.perf_counter() + seconds
    chance = random.Random(sessions[0].number)  # the same pauses in every run
    await asyncio.gather(
        direct.type(until, PACE / 10, chance), *(session.type(until, PACE, chance) for session in sessions)
    )
    return {
        "echoed": {session.number: session.echoed for session in sessions},
        "lost": sum(session.lost for session in sessions),
        "echo_ms": [took for session in sessions for took in session.echo_ms],
        "direct_ms": direct.echo_ms,
    }


async def _closed(session: _Session) -> float:
    with contextlib.suppress(asyncssh.Error):
        await session.process.wait_closed()
    return time.monotonic()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_child())
