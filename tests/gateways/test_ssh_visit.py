"""A visit by OpenSSH's own client: what works at the target works through the bastion, and is in the recording."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import pty
import re
from pathlib import Path

import pytest

from bastion.core.audit import Kind
from bastion.core.session import End, Session
from tests.world import WEB_STAGING, World, person, until

ADA = person("ada")

NAMES = [
    pytest.param(f"deploy@{WEB_STAGING}@bastion", id="login@target@bastion"),
    pytest.param(f"deploy%{WEB_STAGING}@bastion", id="login%target@bastion"),
    pytest.param(f"deploy@{WEB_STAGING}", id="through ProxyJump"),
]


async def ready(bastion: World) -> Path:
    """Ada with a grant and a certificate; her key."""
    await bastion.grant(ADA)
    return await bastion.certify(ADA)


def recorded(transcript: bytes, code: str) -> bytes:
    """The bytes of every event ``code``, exactly as they were delivered."""
    lines = [json.loads(line) for line in transcript.splitlines()[1:]]
    return b"".join(text.encode("utf-8", "surrogateescape") for _, kind, text in lines if kind == code)


async def ended(bastion: World) -> Session:
    """The one session, when its end was written down."""

    async def over() -> bool:
        return all(session.ended_at for session in await bastion.store.sessions())

    await until(over)
    return await bastion.only_session()


@pytest.mark.parametrize("name", NAMES)
async def test_output_errors_and_exit_status_arrive_and_are_recorded(bastion: World, name: str) -> None:
    key = await ready(bastion)
    ran = await bastion.ssh(key, name, "printf out; printf err >&2; exit 7")
    assert (ran.status, ran.out) == (7, b"out")
    assert ran.err.startswith("err")
    session = await ended(bastion)
    assert (session.end, session.exit_status, session.command) == (End.TARGET, 7, "printf out; printf err >&2; exit 7")
    transcript = await bastion.transcript(session)
    assert (recorded(transcript, "o"), recorded(transcript, "e")) == (b"out", b"err")


async def test_bytes_that_are_not_text_arrive_exactly_and_are_recorded_exactly(bastion: World) -> None:
    key = await ready(bastion)
    sent = os.urandom(3_000_000)
    ran = await bastion.ssh(key, f"deploy@{WEB_STAGING}@bastion", "cat", stdin=sent)
    assert hashlib.sha256(ran.out).digest() == hashlib.sha256(sent).digest()
    transcript = await bastion.transcript(await ended(bastion))
    assert recorded(transcript, "o") == sent
    assert recorded(transcript, "i") == sent


async def test_many_sessions_share_one_connection_and_each_has_its_own_exit_status(bastion: World) -> None:
    key = await ready(bastion)
    name, socket = f"deploy@{WEB_STAGING}@bastion", str(bastion.folder / "mux")
    master = await asyncio.create_subprocess_exec(
        "ssh", *bastion.ssh_options(key), "-M", "-N", "-S", socket, name, stdin=asyncio.subprocess.DEVNULL
    )
    try:
        await until(Path(socket).exists, 10)
        for status in range(6):
            ran = await bastion.ssh(key, "-S", socket, name, f"echo {status}; exit {status}")
            assert (ran.status, ran.out) == (status, f"{status}\n".encode()), ran.err
    finally:
        master.terminate()
        await master.wait()


async def test_a_process_that_is_killed_is_reported_so(bastion: World) -> None:
    key = await ready(bastion)
    ran = await bastion.ssh(key, f"deploy@{WEB_STAGING}@bastion", "kill -KILL $$")
    assert ran.status == 255  # what OpenSSH's client makes of exit-signal
    assert b'"ended by signal KILL"' in await bastion.transcript(await bastion.only_session())


async def test_the_targets_log_names_the_session_and_the_person(bastion: World) -> None:
    key = await ready(bastion)
    await bastion.ssh(key, f"deploy@{WEB_STAGING}@bastion", "true")
    session = await ended(bastion)
    assert f"ID {session.id} ada@example.com" in bastion.staging.wait_for_log("Accepted publickey")


async def test_sftp_puts_and_gets_and_each_file_is_a_line(bastion: World, tmp_path: Path) -> None:
    key = await ready(bastion)
    content = os.urandom(500_000)
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_bytes(content)
    batch = tmp_path / "batch"
    batch.write_text(f"put {local} there\nget there {back}\nrm there\n")
    ran = await bastion.ssh(key, "-b", str(batch), f"deploy@{WEB_STAGING}", program="sftp")
    assert ran.status == 0, ran.err
    assert back.read_bytes() == content
    marks = recorded(await bastion.transcript(await ended(bastion)), "m").decode()
    digest = hashlib.sha256(content).hexdigest()
    assert marks.count(digest) == 2
    assert "there" in marks


@pytest.mark.parametrize("protocol", [[], ["-O"]], ids=["over sftp", "the old protocol"])
async def test_scp_copies_both_ways(bastion: World, tmp_path: Path, protocol: list[str]) -> None:
    key = await ready(bastion)
    content = os.urandom(300_000)
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_bytes(content)
    there = await bastion.ssh(key, *protocol, str(local), f"deploy@{WEB_STAGING}:file", program="scp")
    assert there.status == 0, there.err
    assert (bastion.staging.home("deploy") / "file").read_bytes() == content
    again = await bastion.ssh(key, *protocol, f"deploy@{WEB_STAGING}:file", str(back), program="scp")
    assert again.status == 0, again.err
    assert back.read_bytes() == content


class Terminal:
    """`ssh` on a pseudo-terminal of its own, as a person has it."""

    def __init__(self, bastion: World, key: Path, *arguments: str, columns: int = 91, rows: int = 33) -> None:
        self._bastion, self._key, self._arguments = bastion, key, arguments
        self._size = (columns, rows)
        self.seen = b""

    async def __aenter__(self) -> Terminal:
        import termios

        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (self._size[1], self._size[0]))
        self.process = await asyncio.create_subprocess_exec(
            "ssh", *self._bastion.ssh_options(self._key), *self._arguments,
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, termios.TIOCSCTTY, 0),
            env={"PATH": os.environ["PATH"], "HOME": str(self._bastion.folder), "TERM": "xterm-256color"},
        )  # fmt: skip
        os.close(theirs)
        os.set_blocking(self._ours, False)
        asyncio.get_running_loop().add_reader(self._ours, self._read)
        return self

    async def __aexit__(self, *error: object) -> None:
        asyncio.get_running_loop().remove_reader(self._ours)
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        os.close(self._ours)

    def _read(self) -> None:
        try:
            self.seen += os.read(self._ours, 65536)
        except OSError:
            asyncio.get_running_loop().remove_reader(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        import termios

        termios.tcsetwinsize(self._ours, (rows, columns))

    async def sees(self, text: str, seconds: float = 30) -> None:
        await until(lambda: text.encode() in self.seen, seconds)

    async def sees_in_answer_to(self, command: str, text: str) -> None:
        """Ask until it is so: `ssh` may send what is typed before it has heard of the window's new size."""
        async with asyncio.timeout(30):
            while text.encode() not in self.seen:
                self.type(f"{command}\n")
                await asyncio.sleep(0.2)


async def test_a_shell_has_a_terminal_of_the_clients_size_and_follows_it(bastion: World) -> None:
    key = await ready(bastion)
    async with Terminal(bastion, key, f"deploy@{WEB_STAGING}") as terminal:
        terminal.type("stty size; echo $TERM\n")
        await terminal.sees("33 91")
        await terminal.sees("xterm-256color")
        terminal.resize(100, 40)
        await terminal.sees_in_answer_to("stty size", "40 100")
        terminal.type("exit 3\n")
        assert await asyncio.wait_for(terminal.process.wait(), 10) == 3
        shown = terminal.seen
    transcript = await bastion.transcript(await ended(bastion))
    assert json.loads(transcript.splitlines()[0])["term"] == {"cols": 91, "rows": 33, "type": "xterm-256color"}
    assert recorded(transcript, "r") == b"100x40"
    assert recorded(transcript, "o") in shown


async def test_ctrl_c_interrupts_the_process_and_not_the_session(bastion: World) -> None:
    key = await ready(bastion)
    async with Terminal(bastion, key, f"deploy@{WEB_STAGING}") as terminal:
        terminal.type("echo rea''dy; sleep 60\n")
        await terminal.sees("ready")
        terminal.type("\x03")
        terminal.type("echo still $((40+2))\n")
        await terminal.sees("still 42")


async def test_what_is_typed_without_echo_is_not_kept(bastion: World) -> None:
    key = await ready(bastion)
    async with Terminal(bastion, key, f"deploy@{WEB_STAGING}") as terminal:
        terminal.type("stty -echo; echo rea''dy; read secret; echo length=${#secret}; exit\n")
        await terminal.sees("ready")
        terminal.type("correct-horse\n")
        await terminal.sees("length=13")
        await asyncio.wait_for(terminal.process.wait(), 10)
    transcript = await bastion.transcript(await ended(bastion))
    assert b"correct-horse" not in transcript
    assert b"length=13" in recorded(transcript, "o")


async def test_a_client_may_set_its_language_and_nothing_a_loader_obeys(bastion: World) -> None:
    key = await ready(bastion)
    ran = await bastion.ssh(
        key, "-o", "SetEnv=LC_TIME=C.UTF-8 LD_PRELOAD=/tmp/x.so BASH_ENV=/tmp/x", f"deploy@{WEB_STAGING}@bastion", "env"
    )
    names = {line.split(b"=")[0] for line in ran.out.splitlines()}
    assert not names & {b"LD_PRELOAD", b"BASH_ENV"}


async def test_the_decision_is_in_the_log_before_the_session_begins(bastion: World) -> None:
    key = await ready(bastion)
    await bastion.ssh(key, f"deploy@{WEB_STAGING}@bastion", "true")
    session = await ended(bastion)
    kinds = [event.kind for event in await bastion.events() if event.session_id == session.id]
    assert kinds == [Kind.ACCESS_ALLOWED, Kind.SESSION_STARTED, Kind.SESSION_ENDED]


async def test_no_private_key_a_target_accepts_is_on_disk_or_at_the_client(bastion: World) -> None:
    """Watch everything the client receives and every file there is: target keys are in memory, for one session."""
    key = await ready(bastion)
    ran = await bastion.ssh(key, "-A", f"deploy@{WEB_STAGING}@bastion", "ssh-add -l; env; sleep 0.2")
    shown = bastion.staging.wait_for_log("Accepted publickey")
    accepted = re.search(r"ED25519-CERT (SHA256:\S+)", shown)
    assert accepted is not None
    for path in [p for p in bastion.folder.rglob("*") if p.is_file()]:
        for fingerprint in await _fingerprints(path):
            assert fingerprint != accepted[1], f"{path} holds the key that the target accepted"
    held = {line.split(b"=")[0] for line in ran.out.splitlines()}
    assert b"SSH_AUTH_SOCK" not in held
    direct = await asyncio.create_subprocess_exec(
        "ssh", "-F", "none", "-i", str(key), "-p", str(bastion.staging.port), "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes",
        "deploy@127.0.0.1", "true", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await direct.communicate()
    assert direct.returncode == 255
    assert b"Permission denied" in said


async def _fingerprints(path: Path) -> list[str]:
    """Of every private key in a file, as PEM or as raw Ed25519 seeds at any offset of small files."""
    content = path.read_bytes()
    process = await asyncio.create_subprocess_exec(
        "ssh-keygen", "-l", "-f", str(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    found = re.findall(r"SHA256:\S+", out.decode()) if b"PRIVATE KEY" in content else []
    if len(content) <= 4096:
        found += [_fingerprint_of_seed(content[i : i + 32]) for i in range(max(0, len(content) - 31))]
    return found


def _fingerprint_of_seed(seed: bytes) -> str:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0 " + public
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).rstrip(b"=").decode()
