"""The command as a whole: what it imports for what it is asked, and where it prints what."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from bastion.cli import command, fresh

HEAVY = ("rich", "pydantic", "asyncssh", "aiohttp", "sqlalchemy", "structlog", "cryptography", "cedarpy")
"""Each costs a good part of what somebody waits for `--help`, or more."""


def imported(*words: str, **environment: str) -> set[str]:
    """The modules that one run of the command has imported when it ends."""
    code = (
        "import sys, atexit\n"
        "sys.argv = ['bastion', *sys.argv[1:]]\n"
        "atexit.register(lambda: print(sorted(sys.modules), file=sys.stderr))\n"
        "from bastion.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return set(ast.literal_eval(done.stderr.splitlines()[-1]))


def loaded(modules: set[str]) -> set[str]:
    """The command's own modules among them."""
    return {name.removeprefix("bastion.cli.") for name in modules if name.startswith("bastion.cli.")}


def test_help_imports_nothing_heavy_and_lists_every_command() -> None:
    modules = imported("--help")
    assert not [name for name in HEAVY if name in modules]
    assert {"login", "config_ssh", "operate"} <= loaded(modules)


@pytest.mark.parametrize("words", [["whoami"], ["logout"], ["cert", "x"], ["ssh", "--help"], ["audit", "--help"]])
def test_a_command_starts_without_the_others(words: list[str]) -> None:
    modules = imported(*words, XDG_CONFIG_HOME="/nonexistent")
    assert "operate" not in loaded(modules)
    assert not [name for name in ("rich", "asyncssh", "aiohttp", "sqlalchemy", "structlog") if name in modules]


def test_every_command_is_known_to_the_module_that_is_loaded_for_it() -> None:
    def names(app: typer.Typer) -> set[str | None]:
        commands = {info.name or info.callback.__name__ for info in app.registered_commands if info.callback}
        return commands | {group.name for group in app.registered_groups}

    everything = names(command.build())
    for name in command._CLIENTS:
        assert name in everything
        assert name in names(command.build(name))


@pytest.mark.parametrize(
    ("words", "left", "is_fresh"),
    [
        pytest.param(["web-1.staging.eu"], 600, True, id="good"),
        pytest.param(["WEB-1.Staging.EU"], 600, True, id="capitals"),
        pytest.param(["web-1.staging.eu"], 70, True, id="a minute and a bit"),
        pytest.param(["web-1.staging.eu"], 50, False, id="about to end"),
        pytest.param(["web-1.staging.eu"], -50, False, id="over"),
        pytest.param(["web-1.production.eu"], 600, False, id="another scope"),
        pytest.param(["--key", "{key}", "web-1.staging.eu"], 600, True, id="this key"),
        pytest.param(["--key", "/other", "web-1.staging.eu"], 600, False, id="another key"),
        pytest.param(["--no-agent", "web-1.staging.eu"], 600, True, id="not in the agent anyway"),
        pytest.param(["web-1.staging.eu", "more"], 600, False, id="two words"),
        pytest.param(["staging.eu"], 600, False, id="no target"),
        pytest.param(["../../x.staging.eu"], 600, False, id="a path"),
        pytest.param(["-x.staging.eu"], 600, False, id="an option"),
        pytest.param([".staging.eu"], 600, False, id="an empty label"),
        pytest.param([], 600, False, id="nothing"),
    ],
)
def test_with_a_good_certificate_there_is_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], left: int, is_fresh: bool
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    key = tmp_path / "id"
    key.touch()
    path = fresh.certificate_of("staging.eu")
    path.parent.mkdir(parents=True)
    path.write_text(f"ssh-ed25519-cert-v01@openssh.com AAAA {fresh.note(time.time() + left, str(key))}\n")
    words = [word.format(key=key) for word in words]
    assert fresh.is_fresh(words) is is_fresh
    if is_fresh:  # and the whole command says so, without having looked at itself
        modules = imported("cert", "--refresh", *words, XDG_CONFIG_HOME=str(tmp_path))
        assert not [name for name in ("typer", "http", "json", "dataclasses", *HEAVY) if name in modules]
        key.unlink()
        assert "--key" in words or not fresh.is_fresh(words)


@pytest.mark.parametrize(
    "text",
    ["", "x", "ssh-ed25519 AAAA me@host\n", "a b bastion until=soon key=/x\n", "a b bastion until=9e99\n", "\xff"],
)
def test_what_cannot_be_read_is_not_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = fresh.certificate_of("staging.eu")
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("latin-1"))
    assert not fresh.is_fresh(["web-1.staging.eu"])


def test_logs_go_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    import structlog

    before = structlog.get_config()
    try:
        command._log_to_stderr()
        structlog.get_logger("bastion").info("something happened")
    finally:
        structlog.configure(**before)
    out, err = capfd.readouterr()
    assert (out, "something happened" in err) == ("", True)
