"""``bastion token``, and the commands of a script that has one, against a real console."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner, Result

from bastion.cli import access, exits, token
from tests.cli.test_access import WISH, Terminal
from tests.cli.test_access import terminal as terminal  # the fixture
from tests.office import CARLA, SAM, WEB


@pytest.fixture(autouse=True)
def token_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*words: str) -> Result:
        app = typer.Typer()
        access.register(app)
        token.register(app)
        return CliRunner().invoke(app, words)

    monkeypatch.setattr("tests.cli.test_access.run", run)


async def test_made_used_listed_and_revoked(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await terminal.run(CARLA, "token", "create", "nightly", "--may", "read", "--may", "request", "--for", "2h")
    (found,) = await terminal.console.office.store.api_tokens_of(CARLA.id)
    assert made.exit_code == exits.OK
    assert made.stderr == (
        f"{found.id}: nightly, for read, request, from 127.0.0.1/32, until 2026-03-02 11:00 UTC\n"
        "It is shown this once, and kept nowhere:\n"
    )
    secret = made.stdout.strip()

    with monkeypatch.context() as script:
        script.setenv("BASTION_TOKEN", secret)
        asked = await terminal.run(SAM, "request", WEB, *WISH, "--json")  # whoever is logged in here
        assert json.loads(asked.stdout)["request"]["identity"] == str(CARLA.id)
        refused = await terminal.run(SAM, "approve", json.loads(asked.stdout)["request"]["id"])
        assert (refused.exit_code, refused.stderr) == (
            exits.REFUSED,
            f"The token {found.id} is not for this: it lacks review.\n",
        )
        more = await terminal.run(SAM, "token", "create", "more", "--may", "read")
        assert (more.exit_code, "takes a login" in more.stderr) == (exits.REFUSED, True)

    listed = await terminal.run(CARLA, "token", "list")
    assert listed.stdout.startswith(f"{found.id}: nightly")
    ended = await terminal.run(CARLA, "token", "revoke", found.id)
    assert ended.stdout == f"The token {found.id} is over.\n"
    assert (await terminal.run(CARLA, "token", "list")).stdout == "You have no live token.\n"
    monkeypatch.setenv("BASTION_TOKEN", secret)
    over = await terminal.run(CARLA, "access")
    assert (over.exit_code, "is over. Make another" in over.stderr) == (exits.NOT_LOGGED_IN, True)


async def test_a_token_without_a_bastion_and_an_id_that_is_none_ask_nothing(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = await terminal.run(CARLA, "token", "revoke", "../logout")
    assert (wrong.exit_code, "is not the id of a token" in wrong.stderr) == (exits.USAGE, True)
    monkeypatch.setenv("BASTION_TOKEN", "bastion_x")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")
    monkeypatch.setattr(Terminal, "log_in", _nobody)
    lost = await terminal.run(CARLA, "access")
    assert (lost.exit_code, lost.stderr) == (exits.USAGE, "BASTION_TOKEN is for which bastion? Set BASTION_URL.\n")


async def _nobody(self: Terminal, who: object) -> None:
    """Whoever has only a token has not logged in here."""
