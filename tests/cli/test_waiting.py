"""Who has asked and not been answered yet waits: plain ssh by itself, and the command line where it is told to."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bastion.cli import exits, waiting
from bastion.demo.stage import LOGIN, STAGING_WEB
from tests.cli.contractor import Contractor, contractor
from tests.running import Waiting
from tests.world import until

ASKING = ("bastion", "request", STAGING_WEB, "--as", LOGIN, "--for", "1h", "--because", "a test")


@asynccontextmanager
async def started(them: Contractor, *argv: str, said: str) -> AsyncIterator[Waiting]:
    """Their program, when it has said so much."""
    running = Waiting(await them.start(*argv))
    try:
        await until(lambda: said in running.said, 60)
        yield running
    finally:
        if running.process.returncode is None:
            running.process.kill()
        await running.process.wait()


async def ask(them: Contractor) -> str:
    done = await them.run(*ASKING, "--json")
    assert done.status == exits.OK, done.err
    return str(json.loads(done.out)["request"]["id"])


async def test_whoever_waits_goes_on_when_they_are_answered(tmp_path: Path) -> None:
    async with contractor(tmp_path / "stage", granted=False) as them:
        admin = Contractor(them.stage, "admin")
        await admin.log_in()
        them.config.parent.mkdir(mode=0o700)
        assert (await them.run("bastion", "config-ssh")).status == exits.OK

        refused = await ask(them)
        async with started(them, "bastion", "cert", STAGING_WEB, "--wait", said=f"{refused} (0 of 1)") as client:
            assert (await admin.run("bastion", "deny", refused)).status == exits.OK
            status, out = await client.end()
        assert (status, out) == (exits.REFUSED, "")
        assert f"{refused} is refused." in client.said
        assert "has no live grant on web-1.staging.eu" in client.said

        async with started(them, *ASKING, "--wait", "--json", said="Waiting for approval of q-") as client:
            (waits,) = json.loads((await admin.run("bastion", "requests", "--json")).out)["requests"]
            assert (await them.run("bastion", "withdraw", waits["id"])).status == exits.OK
            status, out = await client.end()
        assert (status, json.loads(out)["stage"]) == (exits.REFUSED, "withdrawn")

        # Asked what it would do, ssh says so, and nobody waits.
        withdrawn = await ask(them)
        shown = await them.run("ssh", "-F", str(them.config), "-G", STAGING_WEB)
        assert (shown.status, "proxyjump bastion-staging-eu" in shown.out, "Waiting" in shown.err) == (0, True, False)
        assert (await them.run("bastion", "withdraw", withdrawn)).status == exits.OK

        # Plain ssh, with neither certificate nor grant: `Match exec` waits, shows the state, and ssh goes on.
        asked = await ask(them)
        plain = ("ssh", "-F", str(them.config), STAGING_WEB, "echo I am $LOGNAME")
        async with (
            started(them, *plain, said=f"Waiting for approval of {asked} (0 of 1). Ctrl-C to give up.") as one,
            started(them, "bastion", "cert", STAGING_WEB, "--wait", said=f"{asked} (0 of 1)") as other,
        ):
            assert (await admin.run("bastion", "approve", asked)).status == exits.OK
            assert await one.end() == (0, f"I am {LOGIN}\n"), one.said
            assert (await other.end())[0] == exits.OK, other.said
        assert f"{asked} is granted." in one.said

        # With a grant, nothing is waited for, whatever else was asked.
        await ask(them)
        done = await them.ssh(STAGING_WEB, "true")
        assert (done.status, "Waiting" in done.err) == (0, False), done.err


class Bastion:
    """Answers as the API does; one answer after the other, the last again and again."""

    def __init__(self, *stages: tuple[str, int]) -> None:
        self.stages = list(stages)
        self.queries: list[dict[str, str] | None] = []

    def call(self, method: str, path: str, body: object = None, query: dict[str, str] | None = None) -> object:
        self.queries.append(query)
        stage, answers = self.stages.pop(0) if len(self.stages) > 1 else self.stages[0]
        return {"stage": stage, "approvals": 2, "reviews": [{"verdict": "approve"}] * answers}


def test_each_answer_is_said_once_and_no_bastion_is_pressed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("bastion.cli.waiting.time.sleep", slept.append)
    bastion = Bastion(("asked", 0), ("asked", 0), ("asked", 1), ("granted", 2))
    assert waiting.until_answered(bastion, "q-1")["stage"] == "granted"  # type: ignore[arg-type]  # all that it asks of it
    assert capsys.readouterr().err.splitlines() == [
        "Waiting for approval of q-1 (0 of 2). Ctrl-C to give up.",
        "Waiting for approval of q-1 (1 of 2). Ctrl-C to give up.",
    ]
    assert [query and query["answers"] for query in bastion.queries] == [None, "0", "0", "1"]
    assert slept == [waiting.PAUSE]


def test_an_ssh_gives_up_and_the_request_stays_open(capsys: pytest.CaptureFixture[str]) -> None:
    told = waiting.until_answered(Bastion(("asked", 0)), "q-1", longest=0)  # type: ignore[arg-type]  # as above
    assert told["stage"] == "asked"
    assert "q-1 was not answered in time. It stays open" in capsys.readouterr().err
