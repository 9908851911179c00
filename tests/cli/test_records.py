"""`bastion sessions`, `replay` and `audit` as real processes against a real console."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from bastion.cli import exits, saved
from bastion.core.audit import Kind
from bastion.core.screen import RESTORE
from bastion.core.session import End
from tests.archive import AUDITOR, OTHERS, SHELL, Archive, open_archive, serving
from tests.fakes import FakeClock
from tests.office import PRODUCTION, STAGING
from tests.recorded import file_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A shell starts what it puts in the background with SIGINT ignored, and a test run may be in the background.
COMMAND = (
    "import signal, typer; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from bastion.cli import records; app = typer.Typer(); records.register(app); app()"
)
EVIL = b"\x1b]52;c;cm0gLXJmIC8=\x07\x1b]0;root@production\x07\x1b[6n"
OUTPUT = (
    b"deploy@web-1:~$ ",
    b"cat se",
    b"cret.txt\r\nthe pass",
    b"word is \x1b[31mhunter2\x1b[0m\r\n" + EVIL,
    b"deploy@web-1:~$ exit\r\n",
)


@dataclass(frozen=True, slots=True)
class Done:
    status: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Shell:
    """Somebody's own machine, logged in as an auditor."""

    archive: Archive
    home: Path

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "XDG_CONFIG_HOME": str(self.home), "TERM": "xterm", "COLUMNS": "80"}

    async def run(self, *arguments: str) -> Done:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", COMMAND, *arguments),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=self.environment(),
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return Done(process.returncode or 0, out.decode(), err.decode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shell(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> AsyncIterator[Shell]:
    folder = tmp_path_factory.mktemp("cli")
    patched = pytest.MonkeyPatch()
    request.addfinalizer(patched.undo)
    patched.setattr("bastion.console.records.HEARTBEAT_SECONDS", 0.2)  # soon finds out who has gone
    async with open_archive(folder, FakeClock()) as archive, serving(archive) as served:
        await served.recorded(SHELL, *OUTPUT)
        await served.began(OTHERS)
        recorder = served.recordings.start(OTHERS, columns=80, rows=24, term="xterm", at=OTHERS.started_at)
        recorder.output(0, b"half a li")
        recorder.abandon()
        served.recordings.seal_interrupted(await served.ended(OTHERS, End.INTERRUPTED))
        await served.write(STAGING, PRODUCTION)
        home = folder / "home"
        patched.setenv("XDG_CONFIG_HOME", str(home))
        until = datetime.now(UTC) + timedelta(hours=1)
        saved.save(saved.SavedLogin(served.url, await served.token(AUDITOR), until, "aud"))
        yield Shell(served, home)


async def test_sessions_are_a_table_that_fits_a_terminal(shell: Shell) -> None:
    def run() -> str:
        main, sub = pty.openpty()
        fcntl.ioctl(sub, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        command = [sys.executable, "-c", COMMAND, "sessions"]
        subprocess.run(command, stdout=sub, env=shell.environment(), timeout=60, check=True)
        out = os.read(main, 65536).decode()
        os.close(sub)
        os.close(main)
        return out

    out = await asyncio.to_thread(run)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in out.splitlines()]
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].split() == ["SESSION", "STARTED", "WHO", "TARGET", "STATE"]
    assert [(line.split()[0], line.split()[-1]) for line in lines[1:]] == [
        ("s-others", "interrupted"),
        ("s-shell", "ended"),
    ]
    assert lines[2].startswith("s-shell         Mar 02 09:00  carla@")
    piped = await shell.run("sessions")
    assert re.search(r"s-shell +Mar 02 09:00  carla@example.com  deploy@web-1.staging.eu  ended *\n", piped.out)


async def test_sessions_as_json_are_one_a_line(shell: Shell) -> None:
    done = await shell.run("sessions", "--json", "--identity", "carl@")
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == ["s-others"]


async def test_no_sessions_are_said_to_be_none(shell: Shell) -> None:
    assert (await shell.run("sessions", "--live")).out == "No sessions.\n"
    assert (await shell.run("sessions", "--live", "--json")).out == ""


async def test_a_replay_into_a_pipe_shows_all_at_once_and_does_nothing(shell: Shell) -> None:
    began = time.monotonic()
    done = await shell.run("replay", "s-shell")
    assert done.status == exits.OK, done.err
    assert "word is \x1b[31mhunter2\x1b[0m" in done.out
    assert done.out.endswith(RESTORE)
    for harm in ("\x1b]", "\x07", "[6n"):
        assert harm not in done.out
    assert "s-shell  deploy@web-1.staging.eu  carla@example.com  2026-03-02 09:00 UTC" in done.err
    assert "end at 00:00:05.000, exit status 0" in done.err
    assert time.monotonic() - began < 5  # the session took longer


async def test_plain_replay_is_what_could_be_read(shell: Shell) -> None:
    assert (await shell.run("replay", "s-shell", "--plain")).out == (
        "deploy@web-1:~$ cat secret.txt\nthe password is hunter2\ndeploy@web-1:~$ exit\n"
    )


async def test_raw_replay_is_the_transcript(shell: Shell) -> None:
    done = await shell.run("replay", "s-shell", "--raw")
    wanted = b"".join([line async for line in shell.archive.recordings.transcript(SHELL)])
    assert done.out.encode() == wanted
    assert "\x1b" not in done.out  # JSON escapes what a terminal would obey


async def test_search_finds_what_was_displayed_across_chunks(shell: Shell) -> None:
    done = await shell.run("replay", "s-shell", "--search", "PASSWORD is hunter", "--context", "1")
    assert done.out == (
        "              deploy@web-1:~$ cat secret.txt\n"
        "00:00:02.000  the password is hunter2\n"
        "              deploy@web-1:~$ exit\n"
    )
    assert (await shell.run("replay", "s-shell", "--search", "PASSWORD", "--match-case")).out == ""
    done = await shell.run("replay", "s-shell", "--search", "secret", "--json", "--context", "0")
    assert json.loads(done.out) == {"at": 0.0, "line": "deploy@web-1:~$ cat secret.txt", "before": [], "after": []}


async def test_an_interrupted_recording_says_so_at_its_end(shell: Shell) -> None:
    done = await shell.run("replay", "s-others")
    assert done.status == exits.OK
    assert "interrupted: the bastion stopped here; everything it had delivered is above" in done.err
    done = await shell.run("replay", "s-others", "--plain")
    assert done.out.splitlines() == [
        "half a li",
        "[interrupted: the bastion stopped here; everything it had delivered is above]",
    ]


@pytest.mark.parametrize("style", ["v2", "v3"])
async def test_an_export_is_a_file_of_its_owner_alone(shell: Shell, tmp_path: Path, style: str) -> None:
    file = tmp_path / "out.cast"
    done = await shell.run("replay", "s-shell", "--export", style, "--output", str(file))
    assert done.status == exits.OK, done.err
    assert file.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0]["version"] == int(style[1])
    assert "".join(event[2] for event in lines[1:] if event[1] == "o").encode() == b"".join(OUTPUT)
    again = await shell.run("replay", "s-shell", "--export", style, "--output", str(file))
    assert (again.status, "Nothing was written" in again.err) == (exits.USAGE, True)


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["replay", "s-nothing"], exits.REFUSED, "There is no session 's-nothing' that you may see."),
        (["replay", "../../etc"], exits.REFUSED, "There is no session '../../etc' that you may see."),
        (["replay", "s-shell", "--plain", "--raw"], exits.USAGE, "Choose one of --search, --plain, --raw"),
        (["replay", "s-shell", "--export", "v2"], exits.USAGE, "--export v2 or --export v3 goes with --output FILE."),
        (["replay", "s-shell", "--search", ""], exits.USAGE, "--search needs some text."),
        (["audit", "--kind", "nothing"], exits.REFUSED, "There is no kind of event 'nothing'"),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_one_sentence(
    shell: Shell, arguments: list[str], status: int, sentence: str
) -> None:
    done = await shell.run(*arguments)
    assert done.status == status
    assert done.err.startswith(sentence)
    assert "Traceback" not in done.err


async def test_an_altered_recording_is_shown_as_far_as_it_is_good(shell: Shell) -> None:
    path = file_of(shell.archive.folder, SHELL)
    whole = path.read_bytes()
    raw = bytearray(whole)
    raw[-1] ^= 1  # of the signature
    path.write_bytes(raw)
    done = await shell.run("replay", "s-shell", "--plain")
    path.write_bytes(whole)
    assert done.status == exits.REFUSED
    assert "the password is hunter2" in done.out
    assert re.search(r"The recording of s-shell was altered at byte \d+", done.err)


async def test_the_audit_log_is_a_line_for_each_event(shell: Shell) -> None:
    done = await shell.run("audit", "--kind", "access")
    assert done.out.splitlines() == [
        "2026-03-02 09:00:00Z  access:denied          in staging/eu  staging/eu",
        "2026-03-02 09:00:00Z  access:denied          in production/eu  production/eu",
    ]
    done = await shell.run("audit", "--json", "--scope", "staging/eu", "--kind", "access:denied", "--since", "1h")
    assert [json.loads(line)["scope"] for line in done.out.splitlines()] == ["staging/eu"]


async def test_the_audit_log_is_followed_until_it_is_interrupted(shell: Shell) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", COMMAND, "audit", "--follow", "--kind", "environment", "--json"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=shell.environment() | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    await shell.archive.write(STAGING, kind=Kind.ENVIRONMENT_CROSSED)
    async with asyncio.timeout(30):
        assert json.loads(await process.stdout.readline())["kind"] == "environment:crossed"
        process.send_signal(2)
        _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")


async def test_keys_pause_and_end_a_replay_and_the_terminal_is_put_back(shell: Shell) -> None:
    def run() -> tuple[int, str]:
        main, sub = pty.openpty()
        before = termios.tcgetattr(sub)
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "replay", "s-shell", "--speed", "0.1"],
            stdin=sub, stdout=sub, stderr=subprocess.STDOUT, env=shell.environment(),
        )  # fmt: skip
        seen = b""
        while b"web-1:~$" not in seen:  # the first second of the session lasts ten
            seen += os.read(main, 65536)
        os.write(main, b" +q")
        status = process.wait(60)
        assert termios.tcgetattr(sub) == before
        seen += os.read(main, 65536)
        os.close(sub)
        os.close(main)
        return status, seen.decode()

    status, seen = await asyncio.to_thread(run)
    assert status == 0
    assert "stopped at 00:00:0" in seen
    assert "hunter2" not in seen
    assert RESTORE in seen
