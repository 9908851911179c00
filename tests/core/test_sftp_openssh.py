"""OpenSSH's own sftp, scp and sftp-server with the watcher between them."""

from __future__ import annotations

import filecmp
import hashlib
import os
import random
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bastion.demo.tools import MissingTool, find_tool, tool_environment

ROOT = Path(__file__).resolve().parents[2]
BIG = 5_000_011
"""Bytes; not a multiple of any block size."""


def find_sftp_server() -> Path:
    """Beside the machine's sshd, where Debian, Fedora and Alpine put it."""
    root = find_tool("sshd").parents[1]
    for folder in ("lib/openssh", "libexec/openssh", "lib/ssh", "libexec"):
        if (server := root / folder / "sftp-server").is_file():
            return server
    raise MissingTool("The program sftp-server is not on this machine. To bring it, run make tools.")


@dataclass
class Visit:
    """``remote`` is what the target has, ``local`` is where the client stands."""

    folder: Path

    @property
    def remote(self) -> Path:
        return self.folder / "remote"

    @property
    def local(self) -> Path:
        return self.folder / "local"

    def lines(self) -> list[str]:
        """The transcript, without the looking around that differs between versions of the client."""
        text = (self.folder / "lines").read_text(encoding="utf-8").replace(str(self.remote), "")
        aside = ("version", "stat", "lstat", "realpath", "limits", "users-groups-by-id", "expand-path")
        return [line for line in text.splitlines() if line.split()[1] not in aside]

    def sftp(self, *commands: str, rights: str = "read,write") -> subprocess.CompletedProcess[str]:
        """What the commands printed; they go on after a failed one."""
        batch = "".join(f"-{command}\n" for command in (f"lcd {self.local}", f"cd {self.remote}", *commands))
        return self._run(["sftp", "-b", "-", "-D", str(self._relay(rights))], batch)

    def scp(self, *paths: str, rights: str = "read,write") -> subprocess.CompletedProcess[str]:
        return self._run(["scp", "-q", "-D", str(self._relay(rights)), *paths], "")

    def _relay(self, rights: str) -> Path:
        """A program without arguments, as scp wants it."""
        script = self.folder / "relay"
        words = [sys.executable, "-m", "tests.core.sftp_relay", str(find_sftp_server()), str(self.folder / "lines")]
        script.write_text(f"#!/bin/sh\nexec {shlex.join([*words, rights])}\n", encoding="utf-8")
        script.chmod(0o700)
        return script

    def _run(self, words: list[str], typed: str) -> subprocess.CompletedProcess[str]:
        words[0] = str(find_tool(words[0]))
        environment = os.environ | tool_environment() | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            words, input=typed, capture_output=True, text=True, env=environment, cwd=self.local, timeout=60, check=False
        )


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    visit = Visit(tmp_path)
    visit.remote.mkdir()
    visit.local.mkdir()
    return visit


def make_file(path: Path, size: int = BIG) -> str:
    """Fill ``path`` with the same bytes each time; their SHA-256."""
    data = random.Random(size).randbytes(size)
    path.write_bytes(data)
    path.chmod(0o644)
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("options", ["", "-R 1 ", "-B 1000 "], ids=["pipelined", "one by one", "small pieces"])
def test_a_file_is_put_and_got_byte_for_byte_with_its_digest(visit: Visit, options: str) -> None:
    size = BIG if not options else 300_007
    digest = make_file(visit.local / "sent", size)
    result = visit.sftp("put sent there", "get there back")
    assert filecmp.cmp(visit.local / "sent", visit.local / "back", shallow=False)
    assert result.returncode == 0, result.stderr
    assert visit.lines() == [
        'sftp open "/there" write create truncate mode 0644',
        f'sftp close "/there" written {size} bytes sha256 {digest} in order',
        'sftp open "/there" read',
        f'sftp close "/there" read {size} bytes sha256 {digest} in order',
    ]


def test_a_tree_is_got_whole(visit: Visit) -> None:
    tree = visit.remote / "tree"
    (tree / "sub").mkdir(parents=True)
    digests = {name: make_file(tree / name, size) for name, size in (("a", 0), ("b", 1), ("sub/c", 100_000))}
    visit.sftp("get -r tree")
    for name in digests:
        assert filecmp.cmp(tree / name, visit.local / "tree" / name, shallow=False)
    lines = visit.lines()
    for name, size in (("a", 0), ("b", 1), ("sub/c", 100_000)):
        assert f'sftp close "/tree/{name}" read {size} bytes sha256 {digests[name]} in order' in lines
    assert 'sftp opendir "/tree"' in lines
    assert 'sftp close "/tree" 5 entries' in lines
    assert 'sftp close "/tree/sub" 3 entries' in lines


def test_everything_that_changes_the_target_has_its_line(visit: Visit) -> None:
    make_file(visit.remote / "a", 10)
    result = visit.sftp(
        "rename a b", "chmod 640 b", "ln b hard", "ln -s b soft", "mkdir d", "rmdir d", "rm hard", "ls -l", "rmdir none"
    )
    listed = [line.split()[-1] for line in result.stdout.splitlines() if line.startswith(("-rw", "lrwx"))]
    assert [Path(name).name for name in listed] == ["b", "soft"]
    assert sorted(path.name for path in visit.remote.iterdir()) == ["b", "soft"]
    assert (visit.remote / "b").stat().st_mode & 0o777 == 0o640
    assert visit.lines() == [
        'sftp rename "/a" to "/b"',
        'sftp setstat "/b" mode 0640',
        'sftp hardlink "/b" as "/hard"',
        'sftp symlink "b" as "/soft"',
        'sftp mkdir "/d" mode 0777',
        'sftp rmdir "/d"',
        'sftp remove "/hard"',
        'sftp opendir ""',
        'sftp close "" 4 entries',
        'sftp rmdir "/none"',
        'sftp rmdir "/none" failed: no such file (2)',
    ]


def test_without_the_right_to_write_nothing_changes_and_reading_works(visit: Visit) -> None:
    digest = make_file(visit.remote / "kept", 70_000)
    make_file(visit.local / "new", 70_000)
    visit.sftp("put new", "put new kept", "rm kept", "chmod 777 kept", "rename kept x", "get kept", rights="read")
    assert [path.name for path in visit.remote.iterdir()] == ["kept"]
    assert filecmp.cmp(visit.remote / "kept", visit.local / "kept", shallow=False)
    refused = " refused: your grant does not include ssh:sftp_write"
    assert visit.lines() == [
        'sftp open "/new" write create truncate mode 0644' + refused,
        'sftp open "/kept" write create truncate mode 0644' + refused,
        'sftp remove "/kept"' + refused,
        'sftp setstat "/kept" mode 0777' + refused,
        'sftp rename "/kept" to "/x"' + refused,
        'sftp open "/kept" read',
        f'sftp close "/kept" read 70000 bytes sha256 {digest} in order',
    ]


def test_without_the_right_to_read_nothing_is_read_and_writing_works(visit: Visit) -> None:
    make_file(visit.remote / "secret", 100)
    digest = make_file(visit.local / "new", 70_000)
    visit.sftp("get secret", "ls", "put new", rights="write")
    assert [path.name for path in visit.local.iterdir()] == ["new"]
    refused = " refused: your grant does not include ssh:sftp_read"
    lines = visit.lines()
    assert f'sftp open "/secret" read{refused}' in lines
    assert f'sftp opendir ""{refused}' in lines
    assert lines[-1] == f'sftp close "/new" written 70000 bytes sha256 {digest} in order'


def test_a_resumed_upload_says_from_where(visit: Visit) -> None:
    make_file(visit.local / "new", 70_000)
    data = (visit.local / "new").read_bytes()
    (visit.remote / "new").write_bytes(data[:30_000])
    visit.sftp("reput new")
    assert (visit.remote / "new").read_bytes() == data
    digest = hashlib.sha256(data[30_000:]).hexdigest()
    assert visit.lines()[-1] == f'sftp close "/new" written 40000 bytes sha256 {digest} in order from offset 30000'


def test_scp_passes_by_the_same_way(visit: Visit) -> None:
    digest = make_file(visit.local / "new")
    assert visit.scp("new", f"target:{visit.remote}/there").returncode == 0
    assert visit.scp("new", f"target:{visit.remote}/refused", rights="read").returncode != 0
    assert visit.scp(f"target:{visit.remote}/there", "back").returncode == 0
    assert filecmp.cmp(visit.local / "new", visit.local / "back", shallow=False)
    assert not (visit.remote / "refused").exists()
    closes = [line for line in visit.lines() if line.startswith("sftp close")]
    assert closes == [
        f'sftp close "/there" written {BIG} bytes sha256 {digest} in order',
        f'sftp close "/there" read {BIG} bytes sha256 {digest} in order',
    ]
