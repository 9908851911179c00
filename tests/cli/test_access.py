"""``bastion grant`` and its family, against a real console, as a script sees them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from bastion.cli import access, exits, saved
from bastion.core.identity import Identity
from tests.access.test_life import GLASS, ONA
from tests.fakes import FakeClock
from tests.office import CARLA, NARROW, OTTO, PROD, SAM, SIA, WEB, narrowed, open_office, wish
from tests.office_console import OfficeConsole, open_console

WISH = ("--as", "deploy", "--for", "2h", "--because", "deploy the fix")


def run(*words: str) -> Result:
    app = typer.Typer()
    access.register(app)
    return CliRunner().invoke(app, words)


@dataclass(frozen=True, slots=True)
class Terminal:
    """Somebody's shell, one after the other's."""

    console: OfficeConsole

    async def log_in(self, who: Identity) -> None:
        token = await self.console.token(who)
        saved.save(saved.SavedLogin(self.console.url, token, datetime.now(UTC) + timedelta(hours=1), who.display))

    async def run(self, who: Identity, *words: str) -> Result:
        await self.log_in(who)
        return await asyncio.to_thread(run, *words)


@pytest.fixture
async def terminal(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Terminal]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    async with open_office(tmp_path, clock) as office, open_console(office) as console:
        with capture_logs():  # the console is in this process, and its log is not the command's output
            yield Terminal(console)


async def test_grant_says_what_was_granted(terminal: Terminal) -> None:
    result = await terminal.run(SAM, "grant", "carla@example.com", WEB, *WISH)
    (grant,) = await terminal.console.office.store.grants()
    assert (result.exit_code, result.stderr) == (exits.OK, "")
    assert result.stdout == (
        "carla@example.com may use web-1.staging.eu as deploy until 2026-03-02 11:00 UTC (2h).\n"
        "Reason: deploy the fix\n"
        f"Grant {grant.id}, approved by sam@example.com.\n"
    )


async def test_who_may_be_written_as_issuer_and_subject(terminal: Terminal) -> None:
    result = await terminal.run(SAM, "grant", str(CARLA.id), WEB, "db-1", *WISH, "--as", "admin", "--json")
    answer = json.loads(result.stdout)
    assert answer["status"] == "granted"
    assert answer["grant"]["targets"] == ["db-1.staging.eu", WEB]
    assert answer["grant"]["logins"] == ["admin", "deploy"]
    assert "text" not in answer


async def test_request_approve_access_revoke(terminal: Terminal) -> None:
    asked = await terminal.run(CARLA, "request", PROD, *WISH, "--json")
    request_id = json.loads(asked.stdout)["request"]["id"]
    listed = await terminal.run(SAM, "requests")
    assert listed.stdout == (
        f"{request_id}: carla@example.com asks for web-1.production.eu as deploy for 2h. "
        "Reason: deploy the fix. It waits for your answer.\n"
    )
    first = await terminal.run(SAM, "approve", request_id)
    assert "carla@example.com needs one more approval" in first.stdout
    second = await terminal.run(SIA, "approve", request_id, "--json")
    grant_id = json.loads(second.stdout)["grant"]["id"]

    mine = await terminal.run(CARLA, "access")
    assert mine.stdout == (
        f"You may use:\n  web-1.production.eu as deploy until 2026-03-02 11:00 UTC (2h left), {grant_id}\n"
    )
    ended = await terminal.run(CARLA, "revoke", grant_id)
    assert ended.exit_code == exits.OK
    assert "may not use web-1.production.eu as deploy any more" in ended.stdout
    assert (await terminal.run(CARLA, "access")).stdout == "You have no live grant.\n"
    assert json.loads((await terminal.run(CARLA, "access", "--json")).stdout) == {"grants": []}


async def test_revoke_by_person_and_target(terminal: Terminal) -> None:
    await terminal.console.office.approval.grant(SAM, CARLA, wish(), None)
    result = await terminal.run(SIA, "revoke", "carla@example.com", WEB)
    assert result.exit_code == exits.OK
    (grant,) = await terminal.console.office.store.grants()
    assert grant.revoked_at is not None


async def test_deny_closes_a_request(terminal: Terminal) -> None:
    request = await terminal.console.office.approval.request(CARLA, CARLA, wish(), None)
    result = await terminal.run(SAM, "deny", request.id)
    assert result.stdout.startswith(f"{request.id} is closed, it was refused by sam@example.com")


async def test_a_crossing_is_asked_for_by_name(terminal: Terminal) -> None:
    result = await terminal.run(SAM, "grant", "carla@example.com", WEB, *WISH, "--crossing")
    assert result.exit_code == exits.REFUSED
    assert result.stderr == "A crossing is approved only by those who administer staging/eu.\n"


NARROWER = ("--action", "ssh:sftp_read", "--path", "/var/log/", "--network", "192.0.2.0/24")


async def test_a_request_and_what_is_granted_are_as_narrow_as_they_were_asked_for(terminal: Terminal) -> None:
    office, words = terminal.console.office, (WEB, "--as", "admin", "--for", "2h", "--because", "look", *NARROWER)
    asked = await terminal.run(CARLA, "request", *words, "--json")
    listed = await terminal.run(SAM, "requests")
    assert f"{WEB} as admin, only ssh:sftp_read within /var/log/, for 2h, only from 192.0.2.0/24." in listed.stdout
    assert narrowed(await office.store.request(json.loads(asked.stdout)["request"]["id"])) == NARROW
    await terminal.run(SAM, "grant", "carla@example.com", *words)
    (grant,) = await office.store.grants()
    assert narrowed(grant) == NARROW
    mine = await terminal.run(CARLA, "access")
    assert f"{WEB} as admin, only ssh:sftp_read within /var/log/, from 192.0.2.0/24 until" in mine.stdout


async def test_what_is_opened_by_break_glass_is_as_narrow_as_it_was_asked_for(terminal: Terminal) -> None:
    office = terminal.console.office
    await office.know(ONA)
    async with open_console(replace(office, approval=office.under(GLASS))) as console:
        words = (WEB, "--as", "admin", "--for", "1h", "--because", "it is down", *NARROWER)
        assert (await Terminal(console).run(ONA, "break-glass", *words)).exit_code == exits.OK
    (grant,) = await office.store.grants()
    assert narrowed(grant) == NARROW


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        pytest.param(("request", WEB, *WISH), "No policy permits otto@example.com to request", id="policy"),
        pytest.param(("request", "nowhere", *WISH), "There is no target 'nowhere'.", id="unknown target"),
        pytest.param(("request", WEB, "--as", "deploy", "--for", "NaN", "--because", "x"), "not a duration", id="NaN"),
        pytest.param(("grant", "sam@example.com", WEB, *WISH), "Only those who review or administer", id="who"),
        pytest.param(("approve", "q-000000000000"), "There is no request 'q-000000000000'.", id="no request"),
    ],
)
async def test_a_refusal_is_one_sentence_and_status_one(
    terminal: Terminal, words: tuple[str, ...], sentence: str
) -> None:
    result = await terminal.run(OTTO, *words)
    assert (result.exit_code, result.stdout) == (exits.REFUSED, "")
    assert sentence in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "words",
    [
        ("approve", "../grants"),
        ("approve", "g-000000000000"),
        ("revoke", "carla@example.com"),
        ("revoke", "g-0000/../../x"),
        ("deny", "q-0000?x"),
        ("grant", "carla@example.com", WEB),
        ("request",),
    ],
    ids=" ".join,
)
async def test_a_wrong_command_line_asks_nothing_of_the_bastion(terminal: Terminal, words: tuple[str, ...]) -> None:
    result = await terminal.run(SAM, *words)
    assert result.exit_code == exits.USAGE
    assert result.stderr
    assert await terminal.console.office.events() == []


async def test_without_a_login_it_says_so(terminal: Terminal) -> None:
    result = await asyncio.to_thread(run, "access")
    assert result.exit_code == exits.NOT_LOGGED_IN
    assert "bastion login" in result.stderr


async def test_a_bastion_that_is_not_there_has_its_own_status(terminal: Terminal) -> None:
    saved.save(saved.SavedLogin("http://127.0.0.1:1", "x", datetime.now(UTC) + timedelta(hours=1), "x"))
    assert (await asyncio.to_thread(run, "access")).exit_code == exits.UNREACHABLE


# ----------------------------------------------------------------------------------------- the rest of a request's life


async def test_more_time_is_asked_for_and_given(terminal: Terminal) -> None:
    given = await terminal.console.office.approval.grant(SAM, CARLA, wish(), None)
    grant_id = f"g-{given.request.id[2:]}"
    asked = await terminal.run(CARLA, "extend", grant_id, "--for", "1h", "--because", "not done yet", "--json")
    answer = json.loads(asked.stdout)
    assert (answer["status"], answer["request"]["extends"]) == ("waiting", grant_id)
    longer = await terminal.run(SIA, "approve", answer["request"]["id"])
    assert longer.stdout == (
        f"carla@example.com may use web-1.staging.eu as deploy until 2026-03-02 12:00 UTC now. {grant_id}, "
        "approved by sia@example.com.\n"
    )


async def test_a_request_is_taken_back(terminal: Terminal) -> None:
    request = await terminal.console.office.approval.request(CARLA, CARLA, wish(), None)
    others = await terminal.run(SAM, "withdraw", request.id)
    assert (others.exit_code, others.stderr) == (exits.REFUSED, f"{request.id} is not yours to withdraw.\n")
    taken = await terminal.run(CARLA, "withdraw", request.id)
    assert taken.stdout == f"{request.id} is withdrawn: nobody can answer it any more.\n"
    late = await terminal.run(SAM, "approve", request.id)
    assert (late.exit_code, "it was withdrawn" in late.stderr) == (exits.REFUSED, True)


async def test_glass_is_broken_chased_and_answered_for(terminal: Terminal) -> None:
    office = terminal.console.office
    await office.know(ONA)
    async with open_console(replace(office, approval=office.under(GLASS))) as console:
        there = Terminal(console)
        opened = await there.run(ONA, "break-glass", WEB, "--as", "deploy", "--for", "1h", "--because", "it is down")
        (request,) = await office.store.broken_glass()
        assert opened.stdout == (
            "ona@example.com may use web-1.staging.eu as deploy until 2026-03-02 10:00 UTC (1h).\n"
            "Reason: it is down\n"
            f"Grant g-{request.id[2:]}, opened by break-glass.\n"
        )
        owed = await there.run(SAM, "break-glass")
        assert owed.stdout == (
            f"{request.id}: ona@example.com opened web-1.staging.eu as deploy for 1h by break-glass. "
            "Reason: it is down. It waits for your answer.\n"
        )
        right = await there.run(SAM, "break-glass", "--confirm", request.id, "--note", "it was")
        assert right.stdout == (
            f"{request.id}: your answer counts. ona@example.com's break-glass was right. One more must answer.\n"
        )
        wrong = await there.run(SIA, "break-glass", "--object", request.id)
        assert wrong.stdout == (
            f"{request.id}: your answer counts. ona@example.com's access by break-glass is over; "
            "open sessions are cut.\n"
        )
        assert (await there.run(SAM, "break-glass")).stdout == "Nobody owes an answer for a break-glass.\n"


async def test_standing_access_is_reviewed_narrowed_and_exported(terminal: Terminal) -> None:
    office = terminal.console.office
    old = await office.approval.grant(SAM, CARLA, wish(duration=timedelta(hours=8), reason="=HYPERLINK(1)"), None)
    office.clock.advance(timedelta(hours=7, minutes=50))
    new = await office.approval.grant(SAM, CARLA, wish("db-1"), None)
    first, second = (f"g-{each.request.id[2:]}" for each in (old, new))
    lines = [
        f"carla@example.com, web-1.staging.eu as deploy: {first}, until 2026-03-02 17:00 UTC, never used, ending soon",
        f"carla@example.com, db-1.staging.eu as deploy: {second}, until 2026-03-02 18:50 UTC, never used",
    ]
    every = await terminal.run(SIA, "access", "--review")
    assert every.stdout.splitlines() == lines
    unused = await terminal.run(SIA, "access", "--unused", "1h")
    assert unused.stdout.splitlines() == [lines[0].replace("never used", "never used, unused")]
    none = await terminal.run(SIA, "access", "--unused", "1d")
    assert none.stdout == "There is no such grant.\n"
    ending = await terminal.run(SIA, "access", "--ending", "30m", "--json")
    assert [grant["id"] for grant in json.loads(ending.stdout)["grants"]] == [first]
    table = list(csv.DictReader(io.StringIO((await terminal.run(SIA, "access", "--unused", "1h", "--csv")).stdout)))
    assert [(row["id"], row["display"], row["reason"], row["ending_soon"]) for row in table] == [
        (first, "carla@example.com", "'=HYPERLINK(1)", "True")
    ]
    theirs = await terminal.run(OTTO, "access", "--review")
    assert theirs.stdout == "There is no such grant.\n"
    wrong = await terminal.run(SIA, "access", "--unused", "long")
    assert (wrong.exit_code, "is not a duration" in wrong.stderr) == (exits.REFUSED, True)
