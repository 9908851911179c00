"""Slack's commands over real HTTP with real signatures, and everybody who is not Slack."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from bastion.adapters.geo import MaxMindLocator
from bastion.chatops import slack
from bastion.chatops.commands import Mention
from bastion.chatops.desk import Announcement, Desk, Private
from bastion.core.errors import NotFound, Refused
from bastion.core.grant import REQUEST_LIFETIME
from tests.fakes import FakeClock
from tests.office import BERLIN, CARLA, LEA, NODE, OTTO, PROD, SAM, SIA, WEB, WORKSPACE, Office, open_office, wish

SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
PUBLIC_URL = "https://bastion.example.com"
USERS = {"U0CARLA": CARLA, "U0SAM": SAM, "U0SIA": SIA, "U0LEA": LEA, "U0OTTO": OTTO}
GRANT = f'grant <@U0CARLA|carla> {WEB} as deploy for 2h because "fix the queue"'

_trigger = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: Mapping[str, Any]

    @property
    def text(self) -> str:
        return str(self.body["text"])

    @property
    def is_public(self) -> bool:
        return bool(self.body["response_type"] == "in_channel")


def form(text: str, user: str, **changes: str) -> bytes:
    """The body of a slash command, as Slack writes it; every one has a trigger of its own."""
    fields = {
        "token": "gIkuvaNzQIHg97ATvDxqgjtO",
        "team_id": WORKSPACE,
        "team_domain": "example",
        "channel_id": "C2147483705",
        "channel_name": "ops",
        "user_id": user,
        "user_name": "whatever",
        "command": "/bastion",
        "text": text,
        "response_url": "https://hooks.slack.com/commands/1234/5678",
        "trigger_id": f"13345224609.738474920.{next(_trigger)}",
    }
    return urlencode(fields | changes).encode()


@dataclass(frozen=True, slots=True)
class Slack:
    """Signs as Slack does and sends over a real connection."""

    office: Office
    http: aiohttp.ClientSession
    url: str

    def sign(self, body: bytes, *, secret: str = SECRET, late: timedelta = timedelta()) -> dict[str, str]:
        timestamp = str(int((self.office.clock.now() - late).timestamp()))
        digest = hmac.new(secret.encode(), f"v0:{timestamp}:".encode() + body, hashlib.sha256).hexdigest()
        return {
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Slack-Request-Timestamp": timestamp,
            "X-Slack-Signature": f"v0={digest}",
        }

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        async with self.http.post(self.url, data=body, headers=headers) as response:
            return Answer(response.status, await response.json())

    async def type(self, text: str, user: str, **changes: str) -> Answer:
        """What happens when ``user`` types ``/bastion text``."""
        body = form(text, user, **changes)
        return await self.send(body, self.sign(body))

    async def grants(self) -> int:
        return len(await self.office.store.grants())


@asynccontextmanager
async def serving(office: Office, *, secret: str = SECRET) -> AsyncIterator[str]:
    desk = Desk(
        approval=office.approval,
        standing=office.standing,
        choice=office.choice,
        linking=office.linking,
        store=office.store,
        clock=office.clock,
        node=NODE,
        public_url=PUBLIC_URL,
    )
    app = web.Application()
    app.add_routes(
        slack.routes(
            desk=desk,
            coordination=office.coordination,
            store=office.store,
            locator=MaxMindLocator(None, {ip_network("127.0.0.0/8"): "DE"}, clock=office.clock),
            clock=office.clock,
            node=NODE,
            signing_secret=secret,
            workspaces=[WORKSPACE],
        )
    )
    # aiohttp reads on for ten seconds after it has answered a body that was not read to its end.
    runner = web.AppRunner(app, lingering_time=0.1, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/chat/slack"
    finally:
        await runner.cleanup()


@pytest.fixture
async def office(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Office]:
    async with open_office(tmp_path, clock) as office:
        for user, identity in USERS.items():
            await office.link(user, identity)
        yield office


@pytest.fixture
async def chat(office: Office) -> AsyncIterator[Slack]:
    async with serving(office) as url, aiohttp.ClientSession() as http:
        yield Slack(office, http, url)


async def refusals(chat: Slack) -> list[str]:
    return [reason for event in await chat.office.events("chat:refused") for reason in event.reasons]


# ------------------------------------------------------------------------------------------------- what people see


async def test_granting_is_announced_to_the_channel_and_to_the_beneficiary(chat: Slack) -> None:
    answer = await chat.type(GRANT, "U0SAM")

    (grant,) = await chat.office.store.grants()
    assert answer.is_public
    assert answer.text == (
        "<@U0CARLA> carla@example.com may use web-1.staging.eu as deploy until 2026-03-02 11:00 UTC (2h).\n"
        "Reason: fix the queue\n"
        f"Grant {grant.id}, approved by sam@example.com."
    )
    assert (grant.identity, grant.approved_by) == (CARLA.id, (SAM.id,))


async def test_revoking_by_target_and_by_id_is_announced(chat: Slack) -> None:
    await chat.type(GRANT, "U0SAM")
    (grant,) = await chat.office.store.grants()
    sentence = (
        f"Grant {grant.id} is revoked: carla@example.com may not use web-1.staging.eu as deploy any more. "
        "Open sessions are being cut."
    )
    by_target = await chat.type(f"revoke <@U0CARLA> {WEB}", "U0SIA")
    assert (by_target.is_public, by_target.text) == (True, f"<@U0CARLA> {sentence}")
    by_id = await chat.type(f"revoke {grant.id}", "U0SIA")
    assert (by_id.is_public, by_id.text) == (True, sentence)
    assert (await chat.office.store.grant(grant.id)).revoked_at == chat.office.clock.now()


async def test_a_request_is_approved_by_others_until_there_are_enough(chat: Slack) -> None:
    asked = await chat.type(f'request {PROD} as deploy for 1h30m because "a & b"', "U0CARLA")
    (request,) = await chat.office.store.waiting_requests(chat.office.clock.now() - REQUEST_LIFETIME)
    assert asked.is_public
    assert asked.text == (
        f"{request.id}: carla@example.com asks for web-1.production.eu as deploy for 1h30m.\n"
        "Reason: a &amp; b\n"
        "It needs 2 approvals by sre before 2026-03-03 09:00 UTC."
    )

    first = await chat.type(f"approve {request.id}", "U0SAM")
    assert not first.is_public
    assert first.text == (
        f"{request.id}: your approval counts. carla@example.com needs one more approval for web-1.production.eu as "
        "deploy before 2026-03-03 09:00 UTC."
    )

    second = await chat.type(f"approve {request.id}", "U0SIA")
    assert second.is_public
    assert second.text.splitlines()[-1].endswith("approved by sam@example.com and sia@example.com.")


async def test_a_denied_request_is_closed(chat: Slack) -> None:
    request = await chat.office.approval.request(CARLA, CARLA, wish(), None)
    answer = await chat.type(f"deny {request.id}", "U0SAM")
    assert answer.text == (
        f"{request.id} is closed, it was refused by sam@example.com: carla@example.com does not get "
        "web-1.staging.eu as deploy."
    )
    assert "is closed: it was refused by sam@example.com." in (await chat.type(f"approve {request.id}", "U0SIA")).text


async def test_who_tells_people_who_they_are_and_what_waits(chat: Slack) -> None:
    await chat.type(GRANT, "U0SAM")
    request = await chat.office.approval.request(CARLA, CARLA, wish(PROD), None)
    (grant,) = await chat.office.store.grants()
    answer = await chat.type("who", "U0CARLA")
    assert not answer.is_public
    assert answer.text == (
        "You are carla@example.com (https://login.example.com#carla).\n"
        "You may use:\n"
        f"  web-1.staging.eu as deploy until 2026-03-02 11:00 UTC (2h left), {grant.id}\n"
        f"{request.id}: carla@example.com asks for web-1.production.eu as deploy for 2h. "
        "Reason: deploy the fix. It waits for others."
    )
    assert "It waits for your answer." in (await chat.type("who", "U0SAM")).text


async def test_refusals_are_for_the_one_who_typed(chat: Slack) -> None:
    for text, user, sentence in (
        (GRANT, "U0OTTO", "No policy permits otto@example.com to review"),
        (GRANT.replace("CARLA", "SAM"), "U0SAM", "Nobody approves themselves."),
        ("grant @carla web-1 as deploy for 2h because x", "U0SAM", "names decide nothing here"),
        (GRANT.replace("2h", "NaN"), "U0SAM", "is not a duration"),
        ("approve q-000000000000", "U0SAM", "There is no request"),
    ):
        answer = await chat.type(text, user)
        assert (answer.status, answer.is_public) == (200, False)
        assert sentence in answer.text
    assert await chat.grants() == 0


# ---------------------------------------------------------------------------------------------------------- who is who


async def test_a_stranger_gets_a_private_link_and_nothing_else(chat: Slack) -> None:
    for text in (GRANT, "who", "help", "link", "nonsense", "grant @carla"):
        answer = await chat.type(text, "U0STRANGER")
        assert not answer.is_public
        first, url = answer.text.split("\n")
        assert first.startswith("This account belongs to nobody here yet.")
        assert url.startswith(f"{PUBLIC_URL}/link/slack/")
    assert await chat.grants() == 0
    assert set(await refusals(chat)) == {"the account is not linked"}


async def test_a_stranger_gets_no_endless_row_of_links(chat: Slack) -> None:
    texts = [(await chat.type("link", "U0STRANGER")).text for _ in range(12)]
    assert "Too many links were asked for." in texts[-1]
    assert len(await refusals(chat)) == 10


async def test_a_contractor_who_is_not_linked_is_told_what_to_do(chat: Slack) -> None:
    answer = await chat.type(GRANT.replace("U0CARLA", "U0NEW"), "U0SAM")
    assert not answer.is_public
    assert answer.text == ("U0NEW has not linked their account yet: they type /bastion link first, then try again.")
    assert await chat.grants() == 0


async def test_names_shown_in_the_chat_decide_nothing(chat: Slack) -> None:
    await chat.type(GRANT.replace("|carla", "|sam"), "U0SAM", user_name="carla", user_id="U0OTTO")
    assert await chat.grants() == 0
    await chat.type(GRANT.replace("|carla", "|sam"), "U0SAM", user_name="carla")
    (grant,) = await chat.office.store.grants()
    assert grant.identity == CARLA.id


async def test_the_same_account_id_in_another_workspace_is_somebody_else(chat: Slack) -> None:
    with pytest.raises(NotFound):
        await chat.office.linking.identity_of("slack", "T0OTHER", "U0SAM")


async def test_groups_are_those_of_the_last_login(chat: Slack) -> None:
    await chat.office.know(replace(SAM, groups=frozenset()))
    assert "No policy permits sam@example.com to review" in (await chat.type(GRANT, "U0SAM")).text
    assert await chat.grants() == 0


# ----------------------------------------------------------------------------------------------------- who is not Slack


async def test_nothing_happens_without_the_signature(chat: Slack) -> None:
    body = form(GRANT, "U0SAM")
    good = chat.sign(body)
    cases: dict[str, dict[str, str]] = {
        "none": {"Content-Type": good["Content-Type"]},
        "no timestamp": {k: v for k, v in good.items() if k != "X-Slack-Request-Timestamp"},
        "wrong secret": chat.sign(body, secret="guessed"),
        "empty secret": chat.sign(body, secret=""),
        "another body": chat.sign(body + b"&x=1"),
        "upper case": good | {"X-Slack-Signature": good["X-Slack-Signature"].upper()},
        "not hexadecimal": good | {"X-Slack-Signature": "v0=" + "ß" * 64},
        "empty": good | {"X-Slack-Signature": ""},
        "another version": good | {"X-Slack-Signature": good["X-Slack-Signature"].replace("v0", "v1")},
        "another time": good | {"X-Slack-Request-Timestamp": str(int(good["X-Slack-Request-Timestamp"]) + 1)},
        "no number": good | {"X-Slack-Request-Timestamp": "NaN"},
        "negative": good | {"X-Slack-Request-Timestamp": "-1"},
        "with a space": good | {"X-Slack-Request-Timestamp": "+" + good["X-Slack-Request-Timestamp"]},
    }
    for case, headers in cases.items():
        answer = await chat.send(body, headers)
        assert answer.status == 401, case
        assert set(answer.body) == {"error"}, case
    assert await chat.grants() == 0
    events = await chat.office.events()
    assert {event.kind.value for event in events} == {"chat:refused"}
    assert len(events) == len(cases)
    assert {(event.address, event.country) for event in events} == {("127.0.0.1", "DE")}


@pytest.mark.parametrize("twice", [("X-Slack-Signature", "v0=" + "0" * 64), ("X-Slack-Request-Timestamp", "1")])
async def test_two_signatures_are_none(chat: Slack, twice: tuple[str, str]) -> None:
    body = form(GRANT, "U0SAM")
    headers = [*chat.sign(body).items(), twice]
    async with chat.http.post(chat.url, data=body, headers=headers) as response:
        assert response.status == 401
    assert await chat.grants() == 0


@pytest.mark.parametrize(("late", "status"), [(299, 200), (301, 401), (3600, 401), (-299, 200), (-301, 401)], ids=str)
async def test_a_signature_counts_for_five_minutes(chat: Slack, late: int, status: int) -> None:
    body = form("help", "U0SAM")
    assert (await chat.send(body, chat.sign(body, late=timedelta(seconds=late)))).status == status


async def test_a_body_that_was_re_encoded_on_its_way_is_not_what_was_signed(chat: Slack) -> None:
    body = form(GRANT, "U0SAM")
    re_encoded = body.replace(b"+", b"%20")
    assert re_encoded != body
    assert (await chat.send(re_encoded, chat.sign(body))).status == 401
    assert await chat.grants() == 0


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"Content-Type": "application/json"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
    ],
    ids=["json", "multipart", "compressed"],
)
async def test_only_a_plain_form_is_read(chat: Slack, change: dict[str, str], status: int) -> None:
    body = form(GRANT, "U0SAM")
    headers = chat.sign(body) | change
    if "Content-Encoding" in change:
        async with chat.http.post(chat.url, data=gzip.compress(body), headers=headers, compress=False) as response:
            assert response.status == status
    else:
        assert (await chat.send(body, headers)).status == status
    assert await chat.grants() == 0


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_a_body_without_end_is_not_read_to_its_end(chat: Slack, declared: bool) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 64 * 1024 * 1024:
            sent += 4096
            yield b"x" * 4096

    data: Any = b"x" * (slack.MAX_BODY + 1) if declared else endless()
    try:
        async with chat.http.post(chat.url, data=data, headers=chat.sign(b"")) as response:
            assert response.status == 413
    except aiohttp.ClientConnectionError:
        assert not declared  # the server may hang up while we still send
    assert sent < 64 * 1024 * 1024


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(form(GRANT, "U0SAM") + b"&user_id=U0LEA", id="a field twice"),
        pytest.param(form(GRANT, "U0SAM", team_id=""), id="no workspace"),
        pytest.param(form(GRANT, "../U0SAM"), id="no user id"),
        pytest.param(form(GRANT, "U0SAM", trigger_id=""), id="no trigger"),
        pytest.param(form(GRANT, "U0SAM") + b"&x=%ff", id="not UTF-8"),
        pytest.param(form(GRANT, "U0SAM") + b"&x=\xff", id="not ASCII"),
        pytest.param(b"{}", id="json"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"&".join(b"a%d=1" % n for n in range(100)), id="too many fields"),
    ],
)
async def test_a_signed_body_that_is_no_command_is_refused(chat: Slack, body: bytes) -> None:
    assert (await chat.send(body, chat.sign(body))).status == 400
    assert await chat.grants() == 0


async def test_another_workspace_is_not_listened_to(chat: Slack) -> None:
    answer = await chat.type(GRANT, "U0SAM", team_id="T0OTHER")
    assert (answer.status, set(answer.body)) == (403, {"error"})
    assert await chat.grants() == 0
    assert await refusals(chat) == ["the workspace is not listed"]


async def test_a_replayed_request_is_refused(chat: Slack) -> None:
    body = form(GRANT, "U0SAM")
    headers = chat.sign(body)
    assert (await chat.send(body, headers)).status == 200
    chat.office.clock.advance(timedelta(minutes=4))
    answer = await chat.send(body, headers)
    assert (answer.status, answer.body) == (401, {"error": "This request has been received before."})
    assert await chat.grants() == 1
    assert await refusals(chat) == ["the same signed request came twice"]


async def test_a_request_signed_ahead_of_time_cannot_be_replayed_when_its_time_has_come(chat: Slack) -> None:
    body = form(GRANT, "U0SAM")
    headers = chat.sign(body, late=timedelta(minutes=-5))
    assert (await chat.send(body, headers)).status == 200
    chat.office.clock.advance(timedelta(minutes=10))
    assert (await chat.send(body, headers)).status == 401
    assert await chat.grants() == 1


async def test_slacks_own_retries_do_nothing_twice_and_reveal_nothing(chat: Slack) -> None:
    body = form(GRANT, "U0SAM")
    first = chat.sign(body)
    assert (await chat.send(body, first)).is_public
    retry = {"X-Slack-Retry-Num": "1", "X-Slack-Retry-Reason": "http_timeout"}
    chat.office.clock.advance(timedelta(seconds=3))
    for headers in (first | retry, chat.sign(body) | retry, chat.sign(body, late=timedelta(seconds=1))):
        answer = await chat.send(body, headers)
        assert (answer.status, answer.body["response_type"]) == (200, "ephemeral")
        assert answer.text == (
            "This command has arrived before and is not done twice. See what came of it: /bastion who"
        )
    assert await chat.grants() == 1


async def test_a_strangers_link_is_not_given_again_to_who_repeats_the_request(chat: Slack) -> None:
    body = form("link", "U0STRANGER")
    headers = chat.sign(body)
    assert "/link/slack/" in (await chat.send(body, headers)).text
    assert "/link/slack/" not in (await chat.send(body, headers | {"X-Slack-Retry-Num": "1"})).text


async def test_the_same_request_many_times_at_once_is_done_once(chat: Slack) -> None:
    body = form(GRANT, "U0SAM")
    answers = await asyncio.gather(
        *(chat.send(body, chat.sign(body, late=timedelta(seconds=n)) | {"X-Slack-Retry-Num": "1"}) for n in range(8))
    )
    assert await chat.grants() == 1
    assert sum(answer.is_public for answer in answers) == 1


async def test_strangers_do_not_fill_the_audit_log(chat: Slack) -> None:
    for _ in range(slack.MAX_REFUSALS + 5):
        assert (await chat.send(b"x", {"Content-Type": "application/x-www-form-urlencoded"})).status == 401
    assert len(await chat.office.events()) == slack.MAX_REFUSALS


async def test_no_secret_is_no_secret(office: Office) -> None:
    with pytest.raises(ValueError, match="empty"):
        async with serving(office, secret=""):
            pass


# ------------------------------------------------------------------------------------------------------------- mentions


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("&lt;!channel&gt; look", "&lt;!channel&gt; look"),
        ("<!here> look", "@\N{WORD JOINER}here look"),
        ("<@U0LEA|lea> look", "@\N{WORD JOINER}lea look"),
        ("&lt;@U0LEA&gt; look", "&lt;@\N{WORD JOINER}U0LEA&gt; look"),
        ("&amp;lt;!channel&amp;gt;", "&amp;lt;!channel&amp;gt;"),
        ("@everyone and a@b.example", "@\N{WORD JOINER}everyone and a@b.example"),
        ("&lt;https://evil.example|fine&gt;", "&lt;https://evil.example|fine&gt;"),
    ],
    ids=["channel", "here", "mention", "typed mention", "twice escaped", "everyone", "link"],
)
async def test_mentions_in_a_reason_reach_nobody(chat: Slack, reason: str, shown: str) -> None:
    answer = await chat.type(GRANT.replace("fix the queue", reason), "U0SAM")
    assert answer.text.splitlines()[1] == f"Reason: {shown}"
    assert answer.text.count("<") == 1  # the one mention that is meant


@given(text=st.text())
def test_nothing_in_a_text_is_obeyed(text: str) -> None:
    for reply in (Private(text), Announcement(text, None), Announcement(text, Mention("U1"))):
        shown = slack.answer(reply)["text"].removeprefix("<@U1> ")
        assert not set(shown) & set("<>\r\x1b\u202e\u2028")
        assert shown.replace("\n", "").replace("\N{WORD JOINER}", "").isprintable()


# -------------------------------------------------------------------------------------------------------------- linking


async def test_an_account_is_linked_by_its_code_and_a_login(chat: Slack) -> None:
    linking = chat.office.linking
    url = (await chat.type("who", "U0NEW", team_domain="acme", user_name="new.person")).text.split("\n")[1]
    question = await linking.open(url.rsplit("/", 1)[1], OTTO)
    assert (question.account.workspace, question.account.user) == (WORKSPACE, "U0NEW")

    await linking.confirm(question.token, OTTO, BERLIN)

    assert (await chat.type("who", "U0NEW")).text.startswith("You are otto@example.com")
    (event,) = await chat.office.events("chat:linked")
    assert (event.identity, event.address, event.country) == (OTTO.id, "192.0.2.1", "DE")
    assert dict(event.details) == {"platform": "slack", "workspace": WORKSPACE, "user": "U0NEW"}


async def test_a_code_works_once_and_for_ten_minutes(chat: Slack) -> None:
    linking = chat.office.linking
    codes = [(await chat.type("link", "U0NEW")).text.rsplit("/", 1)[1] for _ in range(3)]
    await linking.open(codes[0], OTTO)
    with pytest.raises(NotFound, match="used or older than ten minutes"):
        await linking.open(codes[0], OTTO)
    question = await linking.open(codes[1], OTTO)
    chat.office.clock.advance(timedelta(minutes=10))
    with pytest.raises(NotFound):
        await linking.open(codes[2], OTTO)
    with pytest.raises(NotFound):
        await linking.confirm(question.token, OTTO, BERLIN)
    for guess in ("", "x", "../x", "a" * 27, "é" * 27, codes[2] + "\n"):
        with pytest.raises(NotFound):
            await linking.open(guess, OTTO)


async def test_a_question_put_to_one_person_is_not_answered_by_another(chat: Slack) -> None:
    linking = chat.office.linking
    code = (await chat.type("link", "U0NEW")).text.rsplit("/", 1)[1]
    question = await linking.open(code, OTTO)
    with pytest.raises(Refused, match="put to somebody else"):
        await linking.confirm(question.token, SAM, BERLIN)
    with pytest.raises(NotFound):
        await linking.confirm(question.token, OTTO, BERLIN)
    with pytest.raises(NotFound):
        await linking.identity_of("slack", WORKSPACE, "U0NEW")


async def test_a_changed_e_mail_changes_nobodys_link(chat: Slack) -> None:
    """Somebody whose address becomes that of an approver is still who they were."""
    await chat.office.know(replace(OTTO, email="sam@example.com"))
    assert "No policy permits" in (await chat.type(GRANT, "U0OTTO")).text
    assert await chat.grants() == 0
