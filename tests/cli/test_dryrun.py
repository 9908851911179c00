"""An ssh that connects to nothing is told from one that does, by its own command line."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bastion.cli import dryrun


@pytest.mark.parametrize(
    "line",
    ["ssh -G web", "/usr/bin/ssh -vG web", "ssh web -G", "ssh -F x -o A=b -p 22 -G -- web", "ssh -l deploy web -tG ls"],
)
def test_it_only_prints(line: str) -> None:
    assert dryrun.only_prints(shlex.split(line))


@pytest.mark.parametrize(
    "line",
    [
        "ssh web",
        "ssh -l -G web",
        "ssh -i-G web",
        "ssh web ls -G",
        "ssh web -t ls -G",
        "ssh -Z -G web",
        "bash -G",
        "ssh",
        "",
    ],
)
def test_it_connects(line: str) -> None:
    assert not dryrun.only_prints(shlex.split(line))


ASKS = "import sys; from bastion.cli import dryrun; print(dryrun.is_dry_run(), file=sys.stderr); sys.exit(1)"


@pytest.mark.parametrize("shell", ["exec {}", "{}; exit 1"], ids=["in place of the shell", "under a shell"])
@pytest.mark.parametrize(("option", "is_dry"), [("-G", True), ("-T", False)])
def test_openssh_is_seen_through_its_shell(tmp_path: Path, shell: str, option: str, is_dry: bool) -> None:
    script = tmp_path / "asks"
    script.write_text(f"#!/bin/sh\n{shell.format(shlex.join([sys.executable, '-c', ASKS]))}\n")
    script.chmod(0o700)
    config = tmp_path / "config"
    config.write_text(f'Match originalhost web exec "{script}"\nHost *\nProxyCommand false\n')
    command = ["ssh", "-F", str(config), option, "web"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert ran.stderr.splitlines()[0] == str(is_dry)


@pytest.mark.parametrize("read", [dryrun._linux, dryrun._elsewhere], ids=["proc", "ps"])
def test_a_process_is_read_with_its_parent(read: Callable[[int], tuple[int, list[str]]]) -> None:
    code = "import os, sys; print(os.getpid(), os.getppid(), flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        pid, parent = map(int, child.stdout.readline().split())
        found = read(pid)
        child.communicate("")
    assert found[0] == parent
    assert found[1][:2] == [sys.executable, "-c"]


def test_what_is_not_there_is_no_dry_run() -> None:
    assert dryrun._linux(2**22 + 1) is None
    assert dryrun._elsewhere(2**22 + 1) == (0, ())
