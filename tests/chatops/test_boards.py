"""The thread of a request on every platform: one message, what happened under it, and no button that is stale."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bastion.access.outbox import Outbox
from bastion.access.sweeping import Sweeping
from bastion.chatops import discord, mattermost, slack, teams
from bastion.chatops.board import Board
from bastion.chatops.cards import Card
from bastion.chatops.commands import Mention
from bastion.chatops.threads import Threads
from bastion.core.errors import Unavailable
from bastion.core.grant import Verdict
from tests.chatops.counter import PUBLIC_URL
from tests.chatops.platforms import NAMES, WORD_JOINER, Api, Chat, chat_on
from tests.fakes import FakeClock
from tests.office import CARLA, NODE, POLICY, SAM, Office, open_office, wish

GLASS = POLICY + '@id("glass") permit (principal in Group::"contractors", action == Action::"break_glass", resource);'


@dataclass(frozen=True, slots=True)
class Told:
    """One call to the platform's API: what it does, under which message, and what people read."""

    verb: str
    under: str
    text: str
    buttons: int
    body: Any


@dataclass(frozen=True, slots=True)
class Boarded:
    chat: Chat
    board: Board
    outbox: Outbox

    async def told(self) -> list[Told]:
        """What was told since the last look."""
        before = len(self.chat.api.calls)
        while await self.outbox.tell_due():
            pass
        return [self._told(*call) for call in self.chat.api.calls[before:]]

    def _told(self, method: str, path: str, body: dict[str, Any]) -> Told:
        updates = method in ("PUT", "PATCH") or path.endswith("chat.update")
        under = body.get("thread_ts") or body.get("root_id") or body.get("message_reference", {}).get("message_id", "")
        if ";messageid=" in path:
            under = path.partition(";messageid=")[2].partition("/")[0]
        text = "\n".join(self.chat.platform.plain(each) for each in self.chat.platform.texts(body))
        buttons = str(body).count("'approve'") + str(body).count("approve:q-") + str(body).count("refuse:q-")
        return Told("update" if updates else "post", under, text.replace(WORD_JOINER, ""), buttons, body)


@pytest.fixture
async def office(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Office]:
    async with open_office(tmp_path, clock) as office:
        yield office


@pytest.fixture(params=NAMES)
async def boarded(request: pytest.FixtureRequest, office: Office) -> AsyncIterator[Boarded]:
    async with chat_on(request.param, office) as chat, aiohttp.ClientSession() as session:
        board = board_of(chat, session)
        threads = Threads(board=board, store=office.store, clock=office.clock, public_url=PUBLIC_URL)
        ways = {chat.platform.name: threads}
        outbox = Outbox(store=office.store, coordination=office.coordination, ways=ways, clock=office.clock, node=NODE)
        yield Boarded(chat, board, outbox)


def board_of(chat: Chat, session: aiohttp.ClientSession) -> Board:
    api: Api = chat.api
    match chat.platform.name:
        case "slack":
            outgoing = slack.SlackApi(token=api.token, channel="C0OPS", base_url=f"{api.url}/api/")
            return slack.SlackBoard(api=outgoing, channel="C0OPS")
        case "mattermost":
            drawing = mattermost.Drawing(chat.platform.proofs, "https://bastion.example.com/x")
            return mattermost.MattermostBoard(
                session=session, url=api.url, token=api.token, channel="c" * 26, drawing=drawing
            )
        case "discord":
            return discord.DiscordBoard(session=session, token=api.token, channel="5" * 18, url=api.url)
        case _:
            connector = teams.Connector(
                session=session, app_id="a", password="x", tenant="t", clock=chat.office.clock, login=api.url
            )
            return teams.TeamsBoard(connector=connector, service_url=api.url, channel="19:ops@thread.tacv2")


async def test_a_request_has_one_message_and_its_news_under_it(boarded: Boarded, office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), None)
    (posted,) = await boarded.told()
    assert (posted.verb, posted.under) == ("post", "")
    assert posted.text.startswith(f"{request.id}: carla@example.com asks for web-1.staging.eu as deploy for 2h.")
    assert posted.buttons >= 2

    await office.approval.review(request.id, SAM, Verdict.APPROVE, None)
    told = await boarded.told()
    assert [each.verb for each in told] == ["update", "post"]
    drawn, line = told
    assert "Approved by sam@example.com. May be used until" in drawn.text
    assert drawn.buttons == 0
    assert line.under
    assert "carla@example.com may use web-1.staging.eu as deploy until" in line.text

    (grant,) = await office.store.grants()
    await office.approval.revoke(grant.id, SAM, None)
    drawn, line = await boarded.told()
    assert "Ended early at" in drawn.text
    assert line.text == (
        "carla@example.com's access was revoked by sam@example.com. Open sessions are cut.\nIt was not used."
    )


async def test_the_same_notice_told_twice_posts_no_second_message(boarded: Boarded, office: Office) -> None:
    await office.approval.request(CARLA, CARLA, wish(), None)
    (kept,) = await office.store.due_notices(office.clock.now())
    await boarded.told()
    threads = Threads(board=boarded.board, store=office.store, clock=office.clock, public_url=PUBLIC_URL)
    before = len(boarded.chat.api.calls)
    await threads.tell(kept.notice)
    assert [boarded._told(*call).verb for call in boarded.chat.api.calls[before:]] == ["update"]


async def test_the_card_of_a_grant_and_the_reminder_of_it_have_the_way_to_its_page(
    boarded: Boarded, office: Office
) -> None:
    await office.approval.grant(SAM, CARLA, wish(), None)
    (grant,) = await office.store.grants()
    page = f"{PUBLIC_URL}/grants/{grant.id}"
    assert page in str((await boarded.told())[0].body)
    office.clock.advance(timedelta(hours=1))
    unused = Sweeping(store=office.store, clock=office.clock, node=NODE, unused_after=timedelta(hours=1))
    await unused.sweep()
    drawn, line = await boarded.told()
    assert page in str(drawn.body)
    assert page in str(line.body)
    assert line.text.startswith("carla@example.com has not used this access since 2026-03-02 09:00 UTC.")


async def test_break_glass_is_loud_and_asks_for_an_answer(boarded: Boarded, office: Office) -> None:
    await office.under(GLASS).break_glass(CARLA, wish(duration=timedelta(hours=1)), None)
    told = await boarded.told()
    card, line = told[0], told[-1]
    assert card.buttons >= 2
    assert "by break-glass, before anybody was asked." in line.text
    loud = {"slack": "<!channel>", "mattermost": "@channel ", "discord": "everyone", "teams": "urgent"}
    assert loud[boarded.chat.platform.name] in str(line.body)

    (request,) = await office.store.broken_glass()
    await office.under(GLASS).acknowledge(request.id, SAM, Verdict.APPROVE, None)
    card, line = await boarded.told()
    assert line.text == "sam@example.com agreed with the break-glass afterwards."
    assert (card.buttons, str(card.body).count("extend:g-")) == (0, 0)  # it is short, and stays so


async def test_whoever_a_grant_is_for_is_notified_by_their_id_and_nobody_by_their_name(
    boarded: Boarded, office: Office
) -> None:
    if boarded.chat.platform.name in ("mattermost", "teams"):
        return  # there a mention is made of a name, and names are not kept
    mine = boarded.chat.platform.ids["carla"]
    message = await boarded.board.post(Card("@carla @everyone", to=Mention(mine)), "line")
    assert message
    body = boarded.chat.api.calls[-1][2]
    assert f"<@{mine}>" in str(body)
    assert "@everyone" not in str(body)


async def test_a_chat_that_refuses_is_told_later(boarded: Boarded, office: Office) -> None:
    boarded.chat.api.refusing = True
    with pytest.raises(Unavailable):
        await boarded.board.post(Card("x"), "card")
    request = await office.approval.request(CARLA, CARLA, wish(), None)
    assert await boarded.told() == []
    boarded.chat.api.refusing = False
    office.clock.advance(timedelta(seconds=5))
    (posted,) = await boarded.told()
    assert request.id in posted.text
