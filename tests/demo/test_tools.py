"""Where programs are found."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bastion.demo.tools import MissingTool, find_library, find_tool, tool_environment


@pytest.mark.parametrize(
    "name", ["ssh", "ssh-keygen", "sshd", "redis-server", "initdb", "postgres", "rsync", "git", "mosh-client"]
)
def test_every_program_that_tests_need_is_found_and_starts(name: str) -> None:
    flag = {"ssh": "-V", "sshd": "-t", "ssh-keygen": "-?"}.get(name, "--version")
    run = subprocess.run([find_tool(name), flag], env=tool_environment(), capture_output=True, text=True, check=False)
    assert "error while loading shared libraries" not in run.stderr
    assert run.returncode != 127


def test_a_program_on_the_path_goes_before_an_unpacked_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sshd").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_tool("sshd") == tmp_path / "sshd"


def test_a_file_that_cannot_be_executed_is_not_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no-such-program").touch(mode=0o644)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match="run make tools"):
        find_tool("no-such-program")


def test_a_missing_library_says_what_to_do() -> None:
    with pytest.raises(MissingTool, match=r"library libnothing\.so is not on this machine.*run make tools"):
        find_library("libnothing.so")
