"""Law 10, by every way there is to answer: over the wire, from chats and terminals, by aliases, and all at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bastion.chatops.cards import Button, Deed
from bastion.core.grant import Request
from bastion.core.identity import Identity
from bastion.ports import ChatLink
from tests.chatops.platforms import NAMES, Chat, chat_on
from tests.cli.test_access import Terminal
from tests.fakes import FakeClock
from tests.office import BERLIN, OTHER_ISSUER, POLICY, SAM, SIA, WEB, Office, open_office, person, wish
from tests.office_console import OfficeConsole, open_console

ME = replace(SAM, groups=frozenset({"sre", "leads", "solo"}))
ALIAS = person("sam-2", "sre", "leads", "solo", email="SAM@Example.com", issuer=OTHER_ISSUER)
"""The same person under another issuer, which has verified the same e-mail."""

ONLY_ME = (
    POLICY.replace('@id("own-servers") @approvals("1")', '@id("own-servers") @approvals("1") @reviewers("solo")')
    + '@id("mine") permit (principal in Group::"solo", action == Action::"break_glass", resource);'
)
"""A group is to answer of which nobody but the one who asks is a member."""

REFUSED = "Nobody approves themselves"


@dataclass(frozen=True, slots=True)
class Ways:
    """One office with everything in front of it, and a request of mine that waits there."""

    office: Office
    console: OfficeConsole
    terminal: Terminal
    request: Request

    async def api(self, who: Identity | str) -> str:
        """What the API says when ``who`` approves."""
        answer = await self.console.call(who, "POST", f"/requests/{self.request.id}/review", {"verdict": "approve"})
        return str(answer)


@pytest.fixture
async def ways(tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ways]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    async with open_office(tmp_path, clock) as plain:
        office = replace(plain, approval=plain.under(ONLY_ME))
        await office.know(ME, ALIAS)
        async with open_console(office) as console:
            request = await office.approval.request(ME, ME, wish(), BERLIN)
            with capture_logs():
                yield Ways(office, console, Terminal(console), request)


async def the_api(ways: Ways) -> str:
    return await ways.api(ME)


async def the_api_as_an_alias(ways: Ways) -> str:
    return await ways.api(ALIAS)


async def a_token_for_scripts(ways: Ways) -> str:
    body = {"name": "mine", "uses": ["review"], "duration": "1h"}
    _, made = await ways.console.call(ME, "POST", "/tokens", body)
    return await ways.api(made["secret"])


async def the_command_line(ways: Ways) -> str:
    return str((await ways.terminal.run(ME, "approve", ways.request.id)).stderr)


async def the_command_line_as_an_alias(ways: Ways) -> str:
    return str((await ways.terminal.run(ALIAS, "approve", ways.request.id)).stderr)


async def giving_it_to_oneself(ways: Ways) -> str:
    words = (str(ME.id), WEB, "--as", "deploy", "--for", "1h", "--because", "mine")
    return str((await ways.terminal.run(ME, "grant", *words)).stderr)


async def giving_it_to_oneself_as_an_alias(ways: Ways) -> str:
    words = (str(ME.id), WEB, "--as", "deploy", "--for", "1h", "--because", "mine")
    return str((await ways.terminal.run(ALIAS, "grant", *words)).stderr)


async def asking_for_the_alias_and_answering_as_oneself(ways: Ways) -> str:
    request = await ways.office.approval.request(ALIAS, ALIAS, wish(), BERLIN)
    return await replace(ways, request=request).api(ME)


@pytest.mark.parametrize(
    "way",
    [
        the_api,
        the_api_as_an_alias,
        a_token_for_scripts,
        the_command_line,
        the_command_line_as_an_alias,
        giving_it_to_oneself,
        giving_it_to_oneself_as_an_alias,
        asking_for_the_alias_and_answering_as_oneself,
    ],
    ids=lambda way: way.__name__.replace("_", " "),
)
async def test_not_by(ways: Ways, way: Callable[[Ways], Awaitable[str]]) -> None:
    assert REFUSED in await way(ways)
    await nothing_came_of_it(ways)


@pytest.mark.parametrize("account", ["ones own account", "a second account", "an account of an alias"])
@pytest.mark.parametrize("platform", NAMES)
async def test_not_from_a_chat_by(ways: Ways, platform: str, account: str) -> None:
    async with chat_on(platform, ways.office) as chat:
        user = "sam" if account == "ones own account" else "new"
        await link(chat, user, ALIAS if account == "an account of an alias" else ME)
        for sent in (
            chat.platform.press(user, Button(Deed.APPROVE, ways.request.id)),
            chat.platform.command(user, f"approve {ways.request.id}"),
        ):
            assert REFUSED in await chat.read(sent)
    await nothing_came_of_it(ways)


async def link(chat: Chat, user: str, identity: Identity) -> None:
    platform, now = chat.platform, chat.office.clock.now()
    async with chat.office.store.transaction() as tx:
        await tx.link_chat(ChatLink(platform.name, platform.workspace, platform.ids[user], identity.id, now))


async def test_not_by_a_race(ways: Ways) -> None:
    """Two are needed, and one honest answer comes amid twenty of one's own: it stays one."""
    strict = POLICY.replace('@id("own-servers") @approvals("1")', '@id("own-servers") @approvals("2")')
    office = replace(ways.office, approval=ways.office.under(strict))
    request = await office.approval.request(ME, ME, wish(), BERLIN)
    async with open_console(office) as console, chat_on("slack", office) as chat:
        here = Ways(office, console, Terminal(console), request)
        mine, alias = await console.token(ME), await console.token(ALIAS)
        pressed = [chat.platform.press("sam", Button(Deed.APPROVE, request.id)) for _ in range(6)]
        answers = await asyncio.gather(
            *(here.api(text) for text in (mine, alias) * 7), here.api(SIA), *(chat.read(each) for each in pressed)
        )
    assert sum(REFUSED in answer for answer in answers) == 20
    assert [review.reviewer.id for review in await office.store.reviews(request.id)] == [SIA.id]
    assert await office.store.grants() == []


@pytest.mark.parametrize("who", [ME, ALIAS], ids=["oneself", "an alias"])
async def test_not_more_time_and_not_ones_own_broken_glass(ways: Ways, who: Identity) -> None:
    opened = await ways.office.approval.break_glass(ME, wish(duration=timedelta(minutes=30)), BERLIN)
    path = f"/requests/{opened.request.id}/acknowledge"
    status, body = await ways.console.call(who, "POST", path, {"verdict": "approve"})
    assert (status, REFUSED in body["error"]) == (403, True)
    assert [request.id for request in await ways.office.store.broken_glass()] == [opened.request.id]

    sias = await ways.office.under(POLICY).grant(SIA, ME, wish(), BERLIN)
    grant_id = f"g-{sias.request.id[2:]}"
    before = (await ways.office.store.grant(grant_id)).ends_at
    status, body = await ways.console.call(who, "POST", f"/grants/{grant_id}/extend",
                                           {"duration": "1h", "reason": "longer"})  # fmt: skip
    assert status == (200 if who is ME else 403)  # of oneself it is a request, which somebody else answers
    if who is ME:
        assert REFUSED in await replace(ways, request=replace(ways.request, id=body["request"]["id"])).api(ME)
    assert (await ways.office.store.grant(grant_id)).ends_at == before


async def nothing_came_of_it(ways: Ways) -> None:
    assert await ways.office.store.grants() == []
    assert await ways.office.store.reviews(ways.request.id) == []
    refusals = await ways.office.events("grant:refused")
    assert refusals
    assert all(REFUSED in reason for event in refusals for reason in event.reasons)
