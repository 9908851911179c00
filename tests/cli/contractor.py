"""A contractor's machine in front of a whole real bastion: their home, OpenSSH's own programs, perhaps an ssh-agent."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bastion.demo.stage import LOGIN, STAGING_WEB, Stage, staged


@dataclass(frozen=True, slots=True)
class Done:
    """A program that has ended."""

    status: int
    out: str
    err: str


@dataclass(slots=True)
class Contractor:
    """Who they are on the stage, and what their environment has besides."""

    stage: Stage
    who: str = "contractor"
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.stage.folder / "people" / self.who

    @property
    def ssh_files(self) -> Path:
        return self.home / ".config/bastion/ssh"

    @property
    def certificate(self) -> Path:
        return self.ssh_files / "staging.eu-cert.pub"

    @property
    def config(self) -> Path:
        """``~/.ssh/config``; OpenSSH looks for it where /etc/passwd says, so tests name it."""
        return self.home / ".ssh" / "config"

    async def start(self, *argv: str) -> asyncio.subprocess.Process:
        """Start a program; ``bastion`` is this very one."""
        if argv[0] == "bastion":
            argv = (sys.executable, "-m", *argv)
        return await asyncio.create_subprocess_exec(
            *argv,
            env=self.stage.environment(self.who) | self.extra,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *argv: str, seconds: float = 30) -> Done:
        """Run a program to its end."""
        process = await self.start(*argv)
        try:
            out, err = await asyncio.wait_for(process.communicate(), seconds)
        except TimeoutError:
            process.kill()
            out, err = await process.communicate()
            raise AssertionError(f"{argv} hung: {out!r} {err!r}") from None
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())

    async def ssh(self, *words: str) -> Done:
        """Plain ssh, with what ``~/.ssh/config`` says."""
        return await self.run("ssh", "-F", str(self.config), *words)

    async def log_in(self) -> None:
        done = await self.run("bastion", "login", self.stage.url)
        assert done.status == 0, done.err

    async def events(self, kind: str) -> list[dict[str, object]]:
        """As the admin sees them in the audit log."""
        admin = Contractor(self.stage, "admin")
        done = await admin.run("bastion", "audit", "--kind", kind, "--json")
        assert done.status == 0, done.err
        return [json.loads(line) for line in done.out.splitlines()]


@asynccontextmanager
async def contractor(
    folder: Path, *, granted: bool = True, actions: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> AsyncIterator[Contractor]:
    """One who is logged in and may use the staging target as one login for an hour, unless not ``granted``.

    ``actions`` are what the grant is asked for by name, ``environment`` what sessions at the targets have besides.
    """
    async with staged(folder, environment=environment) as stage:
        them = Contractor(stage)
        await them.log_in()
        if granted:
            await grant(them, actions)
        yield them


async def grant(them: Contractor, actions: Sequence[str] = ()) -> str:
    """Have the admin grant it; the grant's id."""
    admin = Contractor(them.stage, "admin")
    await admin.log_in()
    done = await admin.run(
        "bastion", "grant", "contractor@example.com", STAGING_WEB, "--as", LOGIN, "--for", "1h", "--because", "a test",
        *(word for action in actions for word in ("--action", action)), "--json",
    )  # fmt: skip
    assert done.status == 0, done.err
    return str(json.loads(done.out)["grant"]["id"])


@asynccontextmanager
async def ssh_agent(folder: Path) -> AsyncIterator[dict[str, str]]:
    """OpenSSH's own agent, and the environment that names it; it ends with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "agent.sock"
    process = await asyncio.create_subprocess_exec(
        "ssh-agent", "-D", "-a", str(path), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            while not await _answers(path):
                await asyncio.sleep(0.01)
        yield {"SSH_AUTH_SOCK": str(path)}
    finally:
        process.terminate()
        await process.wait()


async def _answers(path: Path) -> bool:
    """Whether somebody listens on the socket, which is there a moment before."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
