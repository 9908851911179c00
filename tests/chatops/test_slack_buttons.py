"""Slack's buttons, form and home, over HTTP and over Socket Mode, in front of a small Slack that answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import pytest

from bastion.chatops import slack
from bastion.chatops.cards import Card
from bastion.chatops.errands import Errands
from bastion.chatops.slack import blocks
from bastion.chatops.slack.face import Face
from bastion.chatops.slack.socket import Socket
from bastion.core.errors import Unavailable
from tests.access.test_life import GLASS, ONA
from tests.chatops.counter import NAMES, USERS, desk_of, parts_of, serving
from tests.chatops.fake_slack import APP_TOKEN, BOT_TOKEN, OPS, SECRET, TEAM, FakeSlack, Said, running_slack, until
from tests.fakes import FakeClock
from tests.office import CARLA, NARROW, PROD, SAM, WEB, Office, narrowed, open_office, wish

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
ASKED = f'request {WEB} as deploy for 2h because "fix the queue"'
STRANGER = "This account belongs to nobody here yet."


@pytest.fixture
async def office(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Office]:
    async with open_office(tmp_path, clock) as office:
        for user, identity in USERS.items():
            await office.link(user, identity)
        yield office


@pytest.fixture
async def fake(clock: FakeClock) -> AsyncIterator[FakeSlack]:
    async with running_slack(clock, dict(NAMES)) as fake:
        yield fake


@pytest.fixture(params=["http", "socket"])
async def chat(request: pytest.FixtureRequest, office: Office, fake: FakeSlack) -> AsyncIterator[FakeSlack]:
    """The same Slack, which reaches the bastion in one way or the other."""
    errands = Errands()
    api = slack.SlackApi(token=BOT_TOKEN, channel=None, base_url=fake.base_url)
    try:
        if request.param == "http":
            routes = slack.routes(
                desk=desk_of(office),
                signing_secret=SECRET,
                workspaces=[TEAM],
                api=api,
                errands=errands,
                **parts_of(office),
            )
            async with serving(routes) as fake.bastion:
                yield fake
        else:
            guard = slack.guard_of(**parts_of(office))
            face = Face(desk=desk_of(office), guard=guard, workspaces=[TEAM], api=api, errands=errands)
            async with aiohttp.ClientSession() as session:
                socket = Socket(face=face, guard=guard, api=api, app_token=APP_TOKEN, session=session)
                listening = asyncio.create_task(socket.run())
                await until(lambda: fake.has_socket or listening.done())
                yield fake
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
    finally:
        await errands.close()


async def asked(chat: FakeSlack) -> Said:
    """Carla has asked; the message of it."""
    await chat.type("U0CARLA", ASKED)
    return chat.channel()[-1]


async def grants(office: Office) -> int:
    return len(await office.store.grants())


async def refusals(office: Office) -> list[str]:
    return [reason for event in await office.events("chat:refused") for reason in event.reasons]


# ------------------------------------------------------------------------------------------------------------- buttons


async def test_a_request_has_buttons_and_loses_them_when_it_is_answered(chat: FakeSlack, office: Office) -> None:
    said = await asked(chat)
    assert list(said.buttons) == ["Approve", "Refuse"]

    await chat.press("U0SAM", said, "Approve")

    await until(lambda: "Approve" not in said.buttons)
    (grant,) = await office.store.grants()
    assert list(said.buttons) == ["Extend"]
    assert chat.shown(said).splitlines()[-2] == (
        f"Approved by sam@example.com. May be used until 2026-03-02 11:00 UTC, {grant.id}."
    )


async def test_refusing_by_button_closes_the_request(chat: FakeSlack, office: Office) -> None:
    said = await asked(chat)
    await chat.press("U0SIA", said, "Refuse")
    await until(lambda: "Approve" not in said.buttons)
    assert chat.shown(said).endswith("Closed: it was refused by sia@example.com.")
    assert await grants(office) == 0


async def test_two_people_are_needed_where_policy_says_so_and_one_is_told_so(chat: FakeSlack, office: Office) -> None:
    await chat.type("U0CARLA", ASKED.replace(WEB, PROD))
    said = chat.channel()[-1]
    await chat.press("U0SAM", said, "Approve")
    await until(lambda: "Approved by sam@example.com. It needs one more approval" in chat.shown(said))
    assert list(said.buttons) == ["Approve", "Refuse"]
    assert "your approval counts" in chat.whispers("U0SAM")[-1]
    await chat.press("U0SIA", said, "Approve")
    await until(lambda: "Approve" not in said.buttons)
    assert await grants(office) == 1


@pytest.mark.parametrize(
    ("user", "sentence"),
    [
        ("U0LEA", "Nobody approves themselves."),
        ("U0OTTO", "No policy permits otto@example.com to review"),
        ("U0CARLA", "No policy permits carla@example.com to review"),
    ],
    ids=["who asked", "a stranger to the policies", "a contractor"],
)
async def test_a_button_is_no_permission(chat: FakeSlack, office: Office, user: str, sentence: str) -> None:
    await chat.type("U0LEA", ASKED)
    said = chat.channel()[-1]
    await chat.press(user, said, "Approve")
    await until(lambda: len(chat.whispers(user)) == 1)
    assert sentence in chat.whispers(user)[0]
    assert await grants(office) == 0


async def test_a_stranger_who_presses_gets_the_link_and_nothing_else(chat: FakeSlack, office: Office) -> None:
    said = await asked(chat)
    before = chat.shown(said)
    await chat.press("U0NEW", said, "Approve")
    await until(lambda: bool(chat.whispers("U0NEW")))
    first, link = chat.whispers("U0NEW")[0].split("\n")
    assert first.startswith(STRANGER)
    assert "/link/slack/" in link
    assert chat.shown(said) == before
    assert await grants(office) == 0


async def test_a_button_on_an_old_message_says_so_and_vanishes(chat: FakeSlack, office: Office) -> None:
    said = await asked(chat)
    office.clock.advance(timedelta(hours=25))
    await office.know(SAM)
    await chat.press("U0SAM", said, "Approve")
    await until(lambda: "Approve" not in said.buttons)
    assert "is closed: nobody answered within 1d." in chat.whispers("U0SAM")[-1]
    assert chat.shown(said).endswith("Closed: nobody answered within 1d.")
    assert await grants(office) == 0


async def test_a_button_that_comes_after_the_answer_changes_nothing(chat: FakeSlack, office: Office) -> None:
    said = await asked(chat)
    stale = Said(said.channel, said.ts, said.body)
    await chat.press("U0SAM", said, "Refuse")
    await until(lambda: "Approve" not in said.buttons)
    await chat.press("U0SIA", stale, "Approve")
    await until(lambda: bool(chat.whispers("U0SIA")))
    assert "is closed: it was refused by sam@example.com." in chat.whispers("U0SIA")[0]
    assert await grants(office) == 0


async def test_another_workspace_in_a_shared_channel_presses_nothing(chat: FakeSlack, office: Office) -> None:
    """The channel is ours; the user is not, whatever id their own workspace gave them."""
    said = await asked(chat)
    await chat.press("U0SAM", said, "Approve", user_team="T0OTHER")
    assert await grants(office) == 0
    assert await refusals(office) == ["the workspace is not listed"]


async def test_many_presses_at_once_make_one_grant(chat: FakeSlack, office: Office) -> None:
    said = await asked(chat)
    stale = [Said(said.channel, said.ts, said.body) for _ in range(6)]
    users = ["U0SAM", "U0SIA", "U0LEA"] * 2
    await asyncio.gather(*(chat.press(user, each, "Approve") for user, each in zip(users, stale, strict=True)))
    await until(lambda: "Approve" not in said.buttons)
    assert await grants(office) == 1


async def test_no_name_in_a_message_pings_or_formats(chat: FakeSlack) -> None:
    await chat.type("U0CARLA", ASKED.replace("fix the queue", "<!channel> *bold* <@U0LEA|lea> &lt;!here&gt; `x`"))
    said = chat.channel()[-1]
    shown = [b["text"] for b in said.body["blocks"] if b["type"] == "section"]
    assert {text["type"] for text in shown} == {"plain_text"}
    assert all(not set(text["text"]) & set("<>") for text in shown)
    assert "Reason: @\N{WORD JOINER}channel *bold* @\N{WORD JOINER}lea <!here> `x`" in chat.shown(said)


async def test_the_same_extend_button_extends_once(chat: FakeSlack, office: Office) -> None:
    said = await asked(chat)
    await chat.press("U0SAM", said, "Approve")
    await until(lambda: "Extend" in said.buttons)
    stale = Said(said.channel, said.ts, said.body)
    await chat.press("U0SIA", said, "Extend")
    (grant,) = await office.store.grants()
    assert grant.ends_at == grant.starts_at + timedelta(hours=3)
    await chat.press("U0LEA", stale, "Extend")
    await until(lambda: bool(chat.whispers("U0LEA")))
    assert f"{grant.id} was extended already; it has 3h left." in chat.whispers("U0LEA")[0]
    assert (await office.store.grant(grant.id)).ends_at == grant.ends_at


@pytest.mark.parametrize("over", ["expired", "revoked"])
async def test_what_is_over_is_not_extended_by_an_old_button(chat: FakeSlack, office: Office, over: str) -> None:
    said = await asked(chat)
    await chat.press("U0SAM", said, "Approve")
    await until(lambda: "Extend" in said.buttons)
    (grant,) = await office.store.grants()
    if over == "revoked":
        await office.approval.revoke(grant.id, USERS["U0SAM"], None)
    else:
        office.clock.advance(timedelta(hours=2))
    await chat.press("U0SIA", said, "Extend")
    await until(lambda: said.buttons == {})
    assert "cannot be extended" in chat.whispers("U0SIA")[0]
    assert (await office.store.grant(grant.id)).ends_at == grant.ends_at


# ---------------------------------------------------------------------------------------------------------------- form


async def test_a_bare_command_opens_a_form_and_the_form_asks(chat: FakeSlack, office: Office) -> None:
    assert await chat.type("U0CARLA", "") == ""
    assert chat.shown(chat.views[-1]).splitlines() == [
        "Target: ____ (db-1.staging.eu) (web-1.production.eu) (web-1.staging.eu) (web-9.staging.us)",
        "Login: ____",
        "For how long: ____",
        "Reason: ____",
        "Crossing: ____ (May be used beside other environments)",
        "Only files in: ____",
        "Actions: ____",
        "Only from: ____",
    ]
    said = await chat.submit("U0CARLA", target=WEB, login="deploy", duration="2 h", reason="fix the queue")
    assert said["response_action"] == "update"
    assert "carla@example.com asks for web-1.staging.eu as deploy for 2h." in chat.shown(said["view"])
    assert await office.kinds() == ["request:made"]


async def test_a_form_asks_for_as_little_as_is_filled_in(chat: FakeSlack, office: Office) -> None:
    await chat.type("U0CARLA", "")
    narrow = {"actions": "SSH:sftp_read", "paths": "/var/log/", "network": "192.0.2.0/24"}
    said = await chat.submit("U0CARLA", target=WEB, login="admin", duration="2h", reason="look", **narrow)
    assert "only ssh:sftp_read within /var/log/, for 2h, only from 192.0.2.0/24." in chat.shown(said["view"])
    (request,) = await office.store.waiting_requests(asked_after=office.clock.now() - timedelta(hours=1))
    assert narrowed(request) == NARROW


@pytest.mark.parametrize(
    ("change", "blank", "sentence"),
    [
        ({"duration": "NaN"}, "duration", "'NaN' is not a duration. Write it like 2h, 90m or 1h30m."),
        ({"duration": ""}, "duration", "For how long is needed."),
        ({"reason": "\x1b[2J"}, "reason", "The reason has control characters"),
        ({"login": "root"}, "target", "web-1.staging.eu has no login root"),
        ({"duration": "9h"}, "target", "9h is too long"),
        ({"paths": "log"}, "paths", "'log' is not a path."),
        ({"actions": "everything"}, "actions", "'everything' is not an action"),
        ({"network": "home"}, "network", "'home' is not a network."),
    ],
    ids=["no duration", "empty", "control characters", "no such login", "too long", "path", "action", "network"],
)
async def test_what_is_wrong_in_a_form_is_said_in_the_form(
    chat: FakeSlack, office: Office, change: dict[str, str], blank: str, sentence: str
) -> None:
    await chat.type("U0CARLA", "")
    filled = {"target": WEB, "login": "deploy", "duration": "2h", "reason": "x"} | change
    said = await chat.submit("U0CARLA", **filled)
    assert said["response_action"] == "errors"
    assert sentence in said["errors"][blank]
    assert "request:made" not in await office.kinds()


async def test_who_is_not_linked_any_more_gets_the_link_where_the_form_was(chat: FakeSlack, office: Office) -> None:
    await chat.type("U0CARLA", "")
    said = await chat.submit("U0NEW", target=WEB, login="deploy", duration="2h", reason="x")
    shown = chat.shown(said["view"]).split("\n")
    assert shown[0].startswith(STRANGER)
    assert "/link/slack/" in shown[1]
    assert "request:made" not in await office.kinds()


async def test_who_may_ask_for_nothing_gets_no_form(chat: FakeSlack) -> None:
    assert await chat.type("U0OTTO", "") == "No policy lets you ask for anything here. Ask the people who write them."
    assert chat.views == []


async def test_a_stranger_gets_the_link_instead_of_a_form(chat: FakeSlack) -> None:
    assert (await chat.type("U0NEW", "")).startswith(STRANGER)
    assert chat.views == []


# ---------------------------------------------------------------------------------------------------------------- home


async def test_the_home_shows_what_one_has_and_what_waits_and_its_buttons_work(chat: FakeSlack, office: Office) -> None:
    await office.approval.grant(USERS["U0SAM"], USERS["U0CARLA"], wish(), None)
    request = await office.approval.request(CARLA, CARLA, wish(PROD), None)
    (grant,) = await office.store.grants()

    await chat.open_home("U0CARLA")
    await until(lambda: "U0CARLA" in chat.homes)
    assert chat.shown(chat.homes["U0CARLA"]).splitlines() == [
        "You are carla@example.com (https://login.example.com#carla).",
        "What you have",
        f"web-1.staging.eu as deploy until 2026-03-02 11:00 UTC (2h left), {grant.id}",
        "[Extend] [Recordings]",
        "What waits",
        f"{request.id}: carla@example.com asks for web-1.production.eu as deploy for 2h. Reason: deploy the fix. "
        "It waits for others.",
    ]

    await chat.open_home("U0SAM")
    await until(lambda: "U0SAM" in chat.homes)
    assert chat.shown(chat.homes["U0SAM"]).splitlines()[-1] == "[Approve] [Refuse]"
    await chat.press_at_home("U0SAM", "Refuse")
    await until(lambda: chat.shown(chat.homes["U0SAM"]).endswith("No request waits."))
    assert "is closed, it was refused by sam@example.com" in chat.whispers("U0SAM")[-1]


async def test_a_break_glass_waits_at_the_home_of_those_who_may_answer_for_it(chat: FakeSlack, office: Office) -> None:
    await office.know(ONA)
    opened = await office.under(GLASS).break_glass(ONA, wish(duration=timedelta(hours=1)), None)
    await chat.open_home("U0SAM")
    await until(lambda: "U0SAM" in chat.homes)
    assert chat.shown(chat.homes["U0SAM"]).splitlines()[-2:] == [
        f"{opened.request.id}: ona@example.com opened web-1.staging.eu as deploy for 1h by break-glass. "
        "Reason: deploy the fix. It waits for your answer.",
        "[Approve] [Refuse]",
    ]
    assert f"{opened.request.id}: ona@example.com opened" in await chat.type("U0SAM", "who")
    await chat.press_at_home("U0SAM", "Refuse")
    await until(lambda: chat.shown(chat.homes["U0SAM"]).endswith("No request waits."))
    assert (await office.store.grant(opened.grant.id)).revoked_at is not None


async def test_a_strangers_home_has_the_link_and_nothing_else(chat: FakeSlack) -> None:
    await chat.open_home("U0NEW")
    await until(lambda: "U0NEW" in chat.homes)
    first, link = chat.shown(chat.homes["U0NEW"]).split("\n")
    assert first.startswith(STRANGER)
    assert "/link/slack/" in link


# -------------------------------------------------------------------------------------------- Slack is slow, or away


async def test_a_slack_that_refuses_changes_nothing_of_what_was_decided(chat: FakeSlack, office: Office) -> None:
    said = await asked(chat)
    chat.said.remove(said)  # somebody deleted the message
    await chat.press("U0SAM", said, "Approve")
    await until(lambda: "message_not_found" in chat.refused)
    assert await grants(office) == 1


async def test_a_socket_that_slack_closes_is_opened_again(chat: FakeSlack, request: pytest.FixtureRequest) -> None:
    if "http" in request.node.callspec.id:
        return
    await chat.hang_up()
    await until(lambda: chat.sockets == 2 and chat.has_socket)
    assert "You are sam@example.com" in await chat.type("U0SAM", "who")


async def test_an_envelope_that_slack_sends_again_is_not_carried_out_again(
    chat: FakeSlack, office: Office, request: pytest.FixtureRequest
) -> None:
    if "http" in request.node.callspec.id:
        return
    await asked(chat)
    assert "arrived before" in (await chat.send_again())["text"]
    assert len(await office.store.waiting_requests(asked_after=office.clock.now() - timedelta(hours=1))) == 1


@pytest.mark.parametrize("url", ["ws://wss.slack.example/x", "http://127.0.0.1/x", "ws://127.0.0.1.example/x", ""])
async def test_a_socket_without_tls_is_not_opened(office: Office, fake: FakeSlack, url: str) -> None:
    """What comes over it is believed, so whoever answers for that address would be Slack."""
    guard = slack.guard_of(**parts_of(office))
    api = slack.SlackApi(token=BOT_TOKEN, channel=None, base_url=fake.base_url)
    face = Face(desk=desk_of(office), guard=guard, workspaces=[TEAM], api=api, errands=Errands())
    async with aiohttp.ClientSession() as session:
        socket = Socket(face=face, guard=guard, api=api, app_token=APP_TOKEN, session=session)
        with pytest.raises(Unavailable, match="not behind TLS"):
            await socket.listen(url)


# ----------------------------------------------------------------------------------------------------- who is not Slack


@pytest.fixture
async def http(office: Office, fake: FakeSlack) -> AsyncIterator[FakeSlack]:
    """Over HTTP only: a socket is Slack's own."""
    errands = Errands()
    api = slack.SlackApi(token=BOT_TOKEN, channel=None, base_url=fake.base_url)
    routes = slack.routes(
        desk=desk_of(office), signing_secret=SECRET, workspaces=[TEAM], api=api, errands=errands, **parts_of(office)
    )
    async with serving(routes) as fake.bastion:
        yield fake
    await errands.close()


async def pressing(http: FakeSlack) -> bytes:
    said = await asked(http)
    return urlencode({"payload": json.dumps(http.pressing("U0SAM", said, said.buttons["Approve"]))}).encode()


async def test_slack_is_told_to_look_for_no_names_and_links_in_what_is_posted(fake: FakeSlack) -> None:
    await slack.SlackApi(token=BOT_TOKEN, channel=None, base_url=fake.base_url).post(OPS, blocks.message(Card("x")))
    (said,) = fake.channel()
    assert {name: said.body[name] for name in ("parse", "link_names", "unfurl_links", "unfurl_media")} == {
        "parse": "none", "link_names": False, "unfurl_links": False, "unfurl_media": False,
    }  # fmt: skip


async def test_no_button_works_without_the_signature(http: FakeSlack, office: Office) -> None:
    body = await pressing(http)
    good = http.sign(body)
    cases = {
        "none": {},
        "wrong secret": http.sign(body, secret="guessed"),
        "another body": http.sign(body + b"&x=1"),
        "old": http.sign(body, late=timedelta(seconds=301)),
        "re-encoded": http.sign(body.replace(b"%22", b'"')),
        "no timestamp": {"X-Slack-Signature": good["X-Slack-Signature"]},
    }
    for case, headers in cases.items():
        status, said = await http.send("/interactive", body, headers | FORM)
        assert (status, set(said)) == (401, {"error"}), case
    assert await grants(office) == 0
    assert len(await refusals(office)) == len(cases)


async def test_a_replayed_press_is_refused_even_when_it_calls_itself_a_retry(http: FakeSlack, office: Office) -> None:
    body = await pressing(http)
    headers = http.sign(body) | FORM
    assert (await http.send("/interactive", body, headers))[0] == 200
    for extra in ({}, {"X-Slack-Retry-Num": "1"}):
        assert (await http.send("/interactive", body, headers | extra))[0] == 401
    assert await grants(office) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"type": "message_action"},
        {"actions": []},
        {"actions": [{"action_id": "approve", "block_id": "card", "value": "approve:g-000000000000"}]},
        {"actions": [{"action_id": "approve", "block_id": "card", "value": "drop:q-000000000000"}]},
        {"actions": [{"action_id": "extend", "block_id": "card", "value": "extend:g-000000000000"}]},
        {"actions": [{"action_id": "approve", "block_id": "card", "value": "approve:q-000000000000:1"}]},
        {"actions": [{"action_id": "approve", "block_id": "card", "value": ["approve:q-000000000000"]}]},
        {"user": "U0SAM"},
        {"user": {"id": "../U0SAM", "team_id": TEAM}},
        {"team": None},
        {"container": {"type": "message", "channel_id": "C1", "message_ts": "../1"}},
        {"trigger_id": ""},
    ],
    ids=[
        "another kind", "no action", "a grant", "no such deed", "no time", "a time", "a list", "no user",
        "no user id", "no team", "no message", "no trigger",
    ],
)  # fmt: skip
async def test_a_signed_press_that_is_none_of_ours_is_refused(
    http: FakeSlack, office: Office, change: dict[str, object]
) -> None:
    said = await asked(http)
    payload = http.pressing("U0SAM", said, said.buttons["Approve"]) | change
    body = urlencode({"payload": json.dumps(payload)}).encode()
    assert (await http.send("/interactive", body, http.sign(body) | FORM))[0] == 400
    assert await grants(office) == 0


async def test_the_actor_is_who_presses_never_who_wrote_the_message(http: FakeSlack, office: Office) -> None:
    await http.type("U0LEA", ASKED)
    said = http.channel()[-1]
    payload = http.pressing("U0LEA", said, said.buttons["Approve"])
    payload["message"]["user"] = "U0SAM"
    body = urlencode({"payload": json.dumps(payload)}).encode()
    assert (await http.send("/interactive", body, http.sign(body) | FORM))[0] == 200
    await until(lambda: bool(http.whispers("U0LEA")))
    assert "Nobody approves themselves." in http.whispers("U0LEA")[0]
    assert await grants(office) == 0


async def test_slacks_question_for_the_address_is_answered_only_when_signed(http: FakeSlack) -> None:
    body = json.dumps({"type": "url_verification", "challenge": "3eZbrw1aB"}).encode()
    json_type = {"Content-Type": "application/json"}
    assert await http.send("/events", body, http.sign(body) | json_type) == (200, {"challenge": "3eZbrw1aB"})
    assert (await http.send("/events", body, json_type))[0] == 401
    re_encoded = json.dumps(json.loads(body), indent=1).encode()
    assert (await http.send("/events", re_encoded, http.sign(body) | json_type))[0] == 401


async def test_without_a_bot_token_there_are_commands_alone(office: Office, fake: FakeSlack) -> None:
    routes = slack.routes(desk=desk_of(office), signing_secret=SECRET, workspaces=[TEAM], **parts_of(office))
    async with serving(routes) as fake.bastion:
        await fake.type("U0CARLA", ASKED)
        assert fake.channel()[-1].buttons == {}
        assert "/bastion request" in await fake.type("U0CARLA", "")
        assert (await fake.send("/interactive", b"", FORM))[0] == 404
