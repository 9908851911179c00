"""A contractor's desk in front of a real bastion with a real target, and what their visits must leave behind.

One desk serves every cell of the matrix. A cell runs a program, says whether it did what it should, and gives back what
the bastion must have kept of it; `Desk.check` then looks into the audit log and the recordings.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shlex
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bastion.adapters.clock import SystemClock
from bastion.adapters.recordings import FileRecordings
from bastion.adapters.store import SqlStore, open_store
from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.policy import Action
from bastion.core.recording import Code
from bastion.core.session import End, Session
from bastion.demo.browser import ScriptedBrowser
from bastion.demo.stage import LOGIN, STAGING_WEB
from bastion.demo.tools import UNPACKED, find_tool, tool_environment
from tests.cli.contractor import Contractor, contractor
from tests.recorded import read

HOST = STAGING_WEB
"""As people name the target: the configuration that `bastion cert` wrote knows the login, and the way."""

STRAIGHT = f"{LOGIN}@{STAGING_WEB}@bastion"
"""The same without a jump, as clients need it that have none."""

NAME = f"{LOGIN}@{STAGING_WEB}"
"""The user name of such a client."""

BY_NAME = ("+ssh:forward_remote", "+ssh:forward_socket", "+ssh:forward_remote_socket", "+ssh:agent")
"""What a grant includes only where it is asked for, and some clients do."""

Environment = Mapping[str, str]
NOTHING: Environment = {}

Running = asyncio.subprocess.Process

SECONDS = 60.0
"""Until a program that does not end has failed; the slowest takes ten on an idle machine."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A program that has ended."""

    status: int
    out: bytes
    err: str


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that went through a session: the recording has them, or their size and digest."""

    data: bytes

    def __repr__(self) -> str:
        return f"{len(self.data)} bytes"

    def is_in(self, stream: bytes, marks: str) -> bool:
        return self.data in stream or hashlib.sha256(self.data).hexdigest() in marks


@dataclass(frozen=True, slots=True)
class Kept:
    """What one session must have left: in the store, in the audit log, and in its recording.

    ``out``, ``err`` and ``into`` are everything that went that way, or `Content` that must be among it.
    """

    action: Action
    command: str | None = None
    """How it begins; None where the client chooses."""
    status: int | None = 0
    out: bytes | Content | None = None
    err: bytes | None = None
    into: bytes | Content | None = None
    files: Sequence[bytes] = field(default=(), repr=False)
    """Each has a line with its SHA-256."""
    marks: Sequence[str] = ()
    several: bool = False
    """One or more of this kind; else it is exactly one."""
    may_leave: bool = False
    """Whether the client may close before the target's process has ended; else it waits for its status."""

    def missing_in(self, left: Left) -> str:
        """What ``left`` lacks of this; empty when it is this."""
        session, marks = left.session, left.stream(Code.MARKER).decode()
        digests = [hashlib.sha256(content).hexdigest() for content in self.files]
        checks = {
            f"action {self.action}": session.action is self.action,
            f"command {self.command}": self.command is None or (session.command or "").startswith(self.command),
            f"status {self.status}": (session.end is End.TARGET and session.exit_status == self.status)
            or (session.end is End.CLIENT and self.may_leave),
            "out": self._holds(self.out, left.stream(Code.OUTPUT), marks),
            "err": self._holds(self.err, left.stream(Code.ERROR), marks),
            "into": self._holds(self.into, left.stream(Code.INPUT), marks),
            "files": all(digest in marks for digest in digests),
            "marks": all(mark in marks for mark in self.marks),
        }
        return ", ".join(name for name, holds in checks.items() if not holds)

    @staticmethod
    def _holds(wanted: bytes | Content | None, stream: bytes, marks: str) -> bool:
        if isinstance(wanted, Content):
            return wanted.is_in(stream, marks)
        return wanted is None or wanted == stream


@dataclass(frozen=True, slots=True)
class Refused:
    """A visit that was not let in: the audit log has the reason, and there is no session."""

    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """A session that is over, and its recording."""

    session: Session
    entries: dict[Code, bytes]

    def stream(self, code: Code) -> bytes:
        return self.entries.get(code, b"")

    def __str__(self) -> str:
        """For a failed test."""
        shown = {code.name: data[:300] for code, data in self.entries.items()}
        session = self.session
        return f"{session.action} {session.command!r} {session.exit_status} {session.end} {shown}"


@dataclass
class Desk:
    """``folder`` is the current cell's own."""

    them: Contractor
    store: SqlStore
    recordings: FileRecordings
    folder: Path
    patience: float = SECONDS
    _seen: set[str] = field(default_factory=set)
    _seq: int = 0

    @property
    def home(self) -> Path:
        """The login's home at the target, seen from the target."""
        return self.them.stage.staging.home(LOGIN)

    @property
    def data(self) -> Path:
        """Where the bastion keeps everything."""
        return self.them.stage.folder / "data"

    @property
    def port(self) -> int:
        return self.them.stage.ssh_port

    @property
    def config(self) -> Path:
        """The ssh_config that `bastion cert` wrote."""
        return self.them.stage.ssh_config(self.them.who)

    @property
    def key(self) -> Path:
        return self.them.ssh_files / "id_ed25519"

    @property
    def certificate(self) -> Path:
        return self.them.certificate

    @property
    def host_key(self) -> str:
        """The bastion's, as an OpenSSH line without a comment."""
        return (self.them.ssh_files / "known_hosts").read_text().split(" ", 1)[1].strip()

    @property
    def ssh(self) -> list[str]:
        return ["ssh", "-F", str(self.config)]

    @property
    def remote_shell(self) -> str:
        """The same, for programs that take a command line."""
        return shlex.join(self.ssh)

    def environment(self, more: Environment) -> dict[str, str]:
        """What a program gets: a home, no agent, no configuration but ours, and the programs that were unpacked."""
        home = str(self.them.home)
        return {"HOME": home, "LANG": "C.UTF-8", "TERM": "xterm", "GIT_CONFIG_NOSYSTEM": "1"} | programs() | dict(more)

    async def start(self, *argv: str | Path, more: Environment = NOTHING) -> Running:
        return await asyncio.create_subprocess_exec(
            *argv, env=self.environment(more), cwd=self.folder, limit=2**20, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def run(self, *argv: str | Path, stdin: bytes = b"", more: Environment = NOTHING) -> Ran:
        """Run a program to its end."""
        return await self.end(await self.start(*argv, more=more), stdin)

    async def end(self, process: Running, stdin: bytes = b"") -> Ran:
        """Give a program its last input, and wait."""
        try:
            async with asyncio.timeout(self.patience):
                out, err = await process.communicate(stdin)
        except TimeoutError:
            process.kill()
            out, err = await process.communicate()
            raise AssertionError(f"it hung: {out[-2000:]!r} {err.decode()}") from None
        assert process.returncode is not None
        return Ran(process.returncode, out, err.decode(errors="replace"))

    async def must(self, *argv: str | Path, stdin: bytes = b"", more: Environment = NOTHING) -> bytes:
        """Run a program that must succeed; what it wrote."""
        ran = await self.run(*argv, stdin=stdin, more=more)
        assert ran.status == 0, (argv, ran.status, ran.out[-2000:], ran.err)
        return ran.out

    async def certify(self) -> None:
        """Fetch a certificate, which is good for ten minutes."""
        done = await self.them.run("bastion", "cert", STAGING_WEB)
        assert done.status == 0, done.err

    async def confirm(self, code: str) -> None:
        """Finish the login that a client without a certificate shows a code for, in a browser."""
        await asyncio.to_thread(self._confirm, code)

    def _confirm(self, code: str) -> None:
        browser = ScriptedBrowser()
        page = browser.submit(browser.log_in(f"{self.them.stage.url}/device/{code}", self.them.who), answer="approve")
        assert page.status == 200, page.text

    async def begin(self, folder: Path) -> None:
        """A new cell: what is there already is another's."""
        self.folder = folder
        self._seen = {session.id for session in await self.store.sessions(limit=10_000)}
        self._seq = max((event.seq for event in await self.store.events(EventFilter(limit=1))), default=0)

    async def check(self, expected: Sequence[Kept | Refused]) -> None:
        """Whether the sessions that this cell left are exactly ``expected``, in any order."""
        left = [await self._left(session) for session in await self.ended()]
        refused = [reason for event in await self._events(Kind.ACCESS_DENIED) for reason in event.reasons]
        for item in expected:
            if isinstance(item, Refused):
                assert any(item.reason in reason for reason in refused), refused
                continue
            found = [one for one in left if not item.missing_in(one)][: None if item.several else 1]
            assert found, "\n".join([f"none of these is {item}:", *(f"{item.missing_in(o)}: {o}" for o in left)])
            left = [one for one in left if one not in found]
        assert not left, "\n".join(["nobody expected:", *map(str, left)])
        assert bool(refused) == any(isinstance(item, Refused) for item in expected), refused

    async def ended(self) -> list[Session]:
        """The sessions of this cell, newest first, once every one is over."""
        async with asyncio.timeout(self.patience):
            while True:
                sessions = [s for s in await self.store.sessions(limit=10_000) if s.id not in self._seen]
                if all(session.ended_at for session in sessions):
                    return sessions
                await asyncio.sleep(0.01)

    async def _events(self, kind: Kind) -> list[Event]:
        return list(await self.store.events(EventFilter(kind=kind.value, after_seq=self._seq, limit=10_000)))

    async def _left(self, session: Session) -> Left:
        """Its recording, which is whole and signed, or this fails; and its events, in their order."""
        events = await self.store.events(EventFilter(session_id=session.id))
        kinds = [event.kind for event in sorted(events, key=lambda event: event.seq)]
        assert kinds == [Kind.ACCESS_ALLOWED, Kind.SESSION_STARTED, Kind.SESSION_ENDED], kinds
        streams: dict[Code, bytearray] = {}
        for entry in await read(self.recordings.transcript(session)):
            streams.setdefault(entry.code, bytearray()).extend(
                entry.data + (b"\n" if entry.code is Code.MARKER else b"")
            )
        return Left(session, {code: bytes(data) for code, data in streams.items()})


def programs() -> dict[str, str]:
    """Variables with which everything that `make tools` unpacked is found and runs, at the desk and at the target."""
    path = os.pathsep.join([os.environ["PATH"], str(UNPACKED / "usr/bin")])
    found = {"PATH": path, **tool_environment()}
    if find_tool("git").is_relative_to(UNPACKED):
        found["GIT_EXEC_PATH"] = str(UNPACKED / "usr/lib/git-core")
    return found


@asynccontextmanager
async def desk(folder: Path) -> AsyncIterator[Desk]:
    """A contractor who has a grant and has fetched a certificate."""
    async with contractor(folder / "stage", actions=BY_NAME, environment=programs()) as them, seated(them) as desk:
        await desk.certify()
        yield desk


@asynccontextmanager
async def seated(them: Contractor) -> AsyncIterator[Desk]:
    """The desk of one who is there already."""
    data = them.stage.folder / "data"
    store = await open_store(f"sqlite:///{data}/bastion.db")
    recordings = FileRecordings(data / "recordings", data / "keys", ["eu"], clock=SystemClock())
    try:
        yield Desk(them, store, recordings, data.parent)
    finally:
        recordings.close()
        await store.close()
