"""What will be tried against every chat, each on every platform, over real HTTP with real signatures."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from bastion.access.linking import LOGIN_WITHIN
from bastion.chatops import discord
from bastion.chatops.cards import Button, Deed
from bastion.chatops.desk import Announcement, Private
from bastion.chatops.escaping import markdown
from bastion.core.ending import Cause
from tests.chatops.counter import PUBLIC_URL
from tests.chatops.platforms import NAMES, Chat, Forgery, Sent, TeamsPlatform, chat_on
from tests.fakes import FakeClock
from tests.office import CARLA, LEA, NARROW, OTTO, SAM, WEB, Office, narrowed, open_office, wish

GRANT = 'grant {who} web-1.staging.eu as deploy for 2h because "fix the queue"'


@pytest.fixture
async def office(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Office]:
    async with open_office(tmp_path, clock) as office:
        yield office


@pytest.fixture(params=NAMES)
async def chat(request: pytest.FixtureRequest, office: Office) -> AsyncIterator[Chat]:
    async with chat_on(request.param, office) as chat:
        yield chat


async def request_id(chat: Chat, who: Any = CARLA) -> str:
    return (await chat.office.approval.request(who, who, wish(), None)).id


async def grants(chat: Chat) -> int:
    return len(await chat.office.store.grants())


async def refusals(chat: Chat) -> list[str]:
    return [reason for event in await chat.office.events("chat:refused") for reason in event.reasons]


def granting(chat: Chat, who: str, how: Forgery = Forgery.NOTHING) -> Sent:
    sent: Sent = chat.platform.command(who, GRANT.format(who=chat.platform.mention("carla")), how)
    return sent


# --------------------------------------------------------------------------------------------------- what works at all


async def test_a_command_grants_and_tells_who_typed_it(chat: Chat) -> None:
    said = await chat.read(granting(chat, "sam"))
    assert "carla@example.com may use web-1.staging.eu as deploy until 2026-03-02 11:00 UTC (2h)." in said
    (grant,) = await chat.office.store.grants()
    assert grant.identity == CARLA.id


async def test_a_request_is_as_narrow_as_it_was_asked_for(chat: Chat) -> None:
    """By login, action, path and network; and whoever is to answer reads so."""
    narrow = f'request {WEB} as admin only ssh:sftp_read within /var/log/ from 192.0.2.0/24 for 2h because "look"'
    said = await chat.read(chat.platform.command("carla", narrow))
    assert f"{WEB} as admin, only ssh:sftp_read within /var/log/, for 2h, only from 192.0.2.0/24." in said
    (request,) = await chat.office.store.waiting_requests(asked_after=chat.office.clock.now() - timedelta(hours=1))
    assert narrowed(request) == NARROW


@pytest.mark.parametrize(("deed", "granted"), [(Deed.APPROVE, 1), (Deed.REFUSE, 0)], ids=["approve", "refuse"])
async def test_a_button_answers_a_request(chat: Chat, deed: Deed, granted: int) -> None:
    await chat.send(chat.platform.press("sam", Button(deed, await request_id(chat))))
    assert await grants(chat) == granted
    assert (await chat.office.kinds())[1:2] == ["request:reviewed"]


async def test_an_answer_that_lacks_another_says_so(chat: Chat) -> None:
    made = await chat.office.approval.request(CARLA, CARLA, wish("web-1.production.eu"), None)
    said = await chat.read(chat.platform.press("sam", Button(Deed.APPROVE, made.id)))
    assert "your approval counts" in said


# ------------------------------------------------------------------------------------------------------- who it is not


@pytest.mark.parametrize(
    "how", [Forgery.UNSIGNED, Forgery.WRONG_KEY, Forgery.OLD, Forgery.ALTERED], ids=lambda h: h.name
)
@pytest.mark.parametrize("kind", ["command", "button"])
async def test_nothing_happens_without_the_platforms_own_proof(chat: Chat, kind: str, how: Forgery) -> None:
    """Altered: the body was changed on its way, to name somebody who may."""
    if kind == "command":
        sent = granting(chat, "otto", how)
    else:
        sent = chat.platform.press("otto", Button(Deed.APPROVE, await request_id(chat)), how)
    status, body = await chat.send(sent)
    assert (status, set(body)) == (401, {"error"})
    assert await grants(chat) == 0
    assert len(await refusals(chat)) == 1


@pytest.mark.parametrize("kind", ["command", "button"])
async def test_another_workspace_is_not_listened_to(chat: Chat, kind: str) -> None:
    if kind == "command":
        sent = granting(chat, "sam", Forgery.ELSEWHERE)
    else:
        sent = chat.platform.press("sam", Button(Deed.APPROVE, await request_id(chat)), Forgery.ELSEWHERE)
    status, body = await chat.send(sent)
    assert (status, set(body)) == (403, {"error"})
    assert await grants(chat) == 0
    assert len(await refusals(chat)) == 1


@pytest.mark.parametrize("kind", ["command", "button"])
async def test_what_is_replayed_is_refused(chat: Chat, kind: str) -> None:
    sent = granting(chat, "sam")
    if kind == "button":
        sent = chat.platform.press("sam", Button(Deed.APPROVE, await request_id(chat)))
    assert (await chat.send(sent))[0] == 200
    chat.office.clock.advance(timedelta(minutes=4))
    status, body = await chat.send(sent)
    assert (status, set(body)) == (401, {"error"})
    assert await grants(chat) == 1
    assert len(await refusals(chat)) == 1


async def test_the_same_request_many_times_at_once_is_done_once(chat: Chat) -> None:
    sent = granting(chat, "sam")
    answers = await asyncio.gather(*(chat.send(sent) for _ in range(6)))
    assert sorted(status for status, _ in answers) == [200] + [401] * 5
    assert await grants(chat) == 1


async def test_a_body_without_end_is_refused(chat: Chat) -> None:
    sent = granting(chat, "sam")
    status, _ = await chat.send(replace(sent, body=sent.body + b" " * 70_000))
    assert status in (401, 413)
    assert await grants(chat) == 0


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x"])
async def test_another_kind_of_body_is_not_read(chat: Chat, kind: str) -> None:
    sent = granting(chat, "sam")
    status, _ = await chat.send(replace(sent, headers={**sent.headers, "Content-Type": kind}))
    assert status == 415
    assert await grants(chat) == 0


# ---------------------------------------------------------------------------------------------------------- who is who


@pytest.mark.parametrize("kind", ["command", "button", "help"])
async def test_a_stranger_gets_the_link_and_nothing_else(chat: Chat, kind: str) -> None:
    button = Button(Deed.APPROVE, await request_id(chat))
    sent = {
        "command": granting(chat, "new"),
        "help": chat.platform.command("new", "help"),
        "button": chat.platform.press("new", button),
    }[kind]
    said = (await chat.read(sent)).splitlines()
    assert said[0].startswith("This account belongs to nobody here yet.")
    assert said[1].startswith(f"https://bastion.example.com/link/{chat.platform.name}/")
    assert len(said) == 2
    assert await grants(chat) == 0
    assert await refusals(chat) == ["the account is not linked"]


async def ended(chat: Chat) -> None:
    await chat.office.end(SAM, Cause.REFUSED)


async def grown_old(chat: Chat) -> None:
    chat.office.clock.advance(LOGIN_WITHIN)


@pytest.mark.parametrize("happened", [ended, grown_old], ids=lambda happened: happened.__name__)
@pytest.mark.parametrize("kind", ["command", "button"])
async def test_an_account_counts_only_while_its_owner_is_vouched_for(
    chat: Chat, kind: str, happened: Callable[[Chat], Awaitable[None]]
) -> None:
    """Whoever was disabled, or has not been seen for long, is stopped in every chat at once; logging in helps."""
    await happened(chat)
    button = Button(Deed.APPROVE, await request_id(chat))

    def sent() -> Sent:
        return granting(chat, "sam") if kind == "command" else chat.platform.press("sam", button)

    said = await chat.read(sent())
    assert "Nothing was done. Open this, log in, and try again:" in said
    assert f"{PUBLIC_URL}/login" in said
    assert await grants(chat) == 0
    (event,) = await chat.office.events("chat:refused")
    assert (event.identity, event.details["platform"]) == (SAM.id, chat.platform.name)
    chat.office.clock.advance(timedelta(seconds=1))
    await chat.office.know(SAM)
    await chat.send(sent())
    assert await grants(chat) == 1


async def test_the_link_ties_the_account_that_asked_for_it(chat: Chat) -> None:
    said = await chat.read(chat.platform.command("new", "who"))
    question = await chat.office.linking.open(said.rsplit("/", 1)[1], OTTO)
    assert (question.account.platform, question.account.workspace, question.account.user) == (
        chat.platform.name,
        chat.platform.workspace,
        chat.platform.ids["new"],
    )


async def test_a_button_of_a_request_of_ones_own_grants_nothing(chat: Chat) -> None:
    said = await chat.read(chat.platform.press("lea", Button(Deed.APPROVE, await request_id(chat, LEA))))
    assert "Nobody approves themselves." in said
    assert await grants(chat) == 0


async def test_another_users_button_does_what_the_one_who_presses_may(chat: Chat) -> None:
    said = await chat.read(chat.platform.press("otto", Button(Deed.APPROVE, await request_id(chat))))
    assert "No policy permits otto@example.com to review" in said
    assert await grants(chat) == 0


async def test_a_button_on_an_old_message_says_that_it_is_over(chat: Chat) -> None:
    button = Button(Deed.APPROVE, await request_id(chat))
    chat.office.clock.advance(timedelta(hours=25))
    await chat.office.know(SAM)
    said = await chat.read(chat.platform.press("sam", button))
    assert "nobody answered within 1d" in said
    assert await grants(chat) == 0


async def test_a_button_for_what_does_not_exist_says_so(chat: Chat) -> None:
    said = await chat.read(chat.platform.press("sam", Button(Deed.APPROVE, "q-000000000000")))
    assert "There is no request 'q-000000000000'." in said
    assert await grants(chat) == 0


async def test_a_name_is_no_mention(chat: Chat) -> None:
    said = await chat.read(chat.platform.command("sam", GRANT.format(who="@stranger")))
    assert "@stranger is only a name, and names decide nothing here." in said
    assert await grants(chat) == 0


# ------------------------------------------------------------------------------------------------------------ mentions

HOSTILE = "@everyone @channel <!here> &lt;!channel&gt; **bold** `x` [a](https://evil.example) :fire: ~town ~~x~~ # h"


async def test_nothing_that_somebody_chose_pings_or_formats(chat: Chat) -> None:
    """`plain` refuses an unescaped mark; what a person reads is what was written."""
    text = f'request {WEB} as deploy for 2h because "{HOSTILE}"'
    status, body = await chat.send(chat.platform.command("carla", text))
    assert status == 200
    said = [*chat.platform.texts(body), *(t for call in chat.api.calls for t in chat.platform.texts(call[2]))]
    shown = "\n".join(chat.platform.plain(each) for each in said)
    if chat.platform.name != "teams":  # runs of text in a card mention nobody
        assert "@everyone" not in shown
        assert "@channel" not in shown
        assert "@here" not in shown
    assert "everyone" in shown
    assert "**bold**" in shown


@given(text=st.text())
def test_escaped_markdown_has_no_mark_and_no_control_character_left(text: str) -> None:
    shown = markdown(text)
    bare = re.sub(r"\\.", "", shown)
    assert not set(bare) & set("*_`[]()<>#|~^$:&=!+-.{}\\")
    assert shown.replace("\n", "").replace("\N{WORD JOINER}", "").isprintable()
    assert not re.search(r"@\w", shown)


# --------------------------------------------------------------------------------------------------- of one platform

TOKENS: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://evil.example"},
    "another bot": {"aud": "another"},
    "a list of bots": {"aud": ["00000000-aaaa-bbbb-cccc-000000000000", "another"]},
    "no end": {"exp": None},
    "an end that is none": {"exp": "soon"},
    "another address": {"serviceurl": "https://evil.example"},
    "no address": {"serviceurl": None},
    "a key for another channel": {"kid": "two"},
    "an unknown key": {"kid": "three"},
    "not begun": {"nbf": 2**33, "exp": 2**33 + 9},
}


@pytest.mark.parametrize("case", TOKENS)
async def test_a_token_of_the_framework_is_for_this_bot_address_and_time(office: Office, case: str) -> None:
    async with chat_on("teams", office) as chat:
        changes = TOKENS[case]
        platform: TeamsPlatform = chat.platform
        token = platform.token(**changes)
        status, _ = await chat.send(platform.command("sam", GRANT.format(who=platform.mention("carla")), token=token))
        assert status == 401
        assert await grants(chat) == 0


OTHER_TENANT = {"channelData": {"tenant": {"id": "99999999-2222-3333-4444-555555555555"}}}
ACTIVITIES: dict[str, tuple[dict[str, Any], int]] = {
    "another channel": ({"channelId": "webchat"}, 401),
    "a tenant that is none": ({"conversation": {"id": "c", "tenantId": "../x"}}, 400),
    "no tenant": ({"conversation": {"id": "c"}}, 400),
    "two tenants": (OTHER_TENANT, 400),
    "a sender that is none": ({"from": {"id": "sam"}}, 400),
}


@pytest.mark.parametrize("case", ACTIVITIES)
async def test_an_activity_is_of_teams_and_of_one_tenant(office: Office, case: str) -> None:
    async with chat_on("teams", office) as chat:
        changes, status = ACTIVITIES[case]
        sent = chat.platform.command("sam", GRANT.format(who=chat.platform.mention("carla")), **changes)
        assert (await chat.send(sent))[0] == status
        assert await grants(chat) == 0


async def test_answers_of_teams_go_to_no_address_without_tls(office: Office) -> None:
    """Even where the framework's own token says so: what we send there carries a token of ours."""
    async with chat_on("teams", office) as chat:
        plain = "http://192.0.2.1/"
        token = chat.platform.token(serviceurl=plain)
        assert (await chat.send(chat.platform.command("sam", "who", token=token, serviceUrl=plain)))[0] == 401


async def test_a_token_of_the_framework_is_short_and_comes_once_as_a_bearer(office: Office) -> None:
    async with chat_on("teams", office) as chat:
        sent, token = chat.platform.command("sam", "who"), chat.platform.token()
        twice = CIMultiDict(sent.headers)
        twice.add("Authorization", "Bearer x")
        long = chat.platform.token(more="x" * 4096)
        for headers in (
            twice,
            {**sent.headers, "Authorization": f"Basic {token}"},
            {**sent.headers, "Authorization": token},
            {**sent.headers, "Authorization": f"Bearer {long}"},
        ):
            assert (await chat.send(replace(sent, headers=headers)))[0] == 401
        assert (await chat.send(sent))[0] == 200


async def test_a_mention_that_was_only_typed_is_none_in_teams(office: Office) -> None:
    async with chat_on("teams", office) as chat:
        said = await chat.read(chat.platform.command("sam", GRANT.format(who=f"<@{chat.platform.ids['carla']}>")))
        assert "Mention the person first." in said
        assert await grants(chat) == 0


def urlsafe(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize("alg", ["none", "HS256"])
async def test_no_other_algorithm_signs_for_the_framework(office: Office, alg: str) -> None:
    async with chat_on("teams", office) as chat:
        platform: TeamsPlatform = chat.platform
        now = platform.seconds(Forgery.NOTHING)
        claims = {"iss": "https://api.botframework.com", "aud": platform.app_id, "nbf": now, "exp": now + 600}
        der = platform.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        parts = ({"alg": alg, "kid": "one"}, claims | {"serviceurl": chat.api.url})
        signed = ".".join(urlsafe(json.dumps(part).encode()) for part in parts)
        signature = hmac.new(der, signed.encode(), hashlib.sha256).digest() if alg == "HS256" else b""
        token = f"{signed}.{urlsafe(signature)}"
        assert (await chat.send(platform.command("sam", "who", token=token)))[0] == 401


async def test_discord_is_answered_when_it_pings_and_only_when_it_signs(office: Office) -> None:
    async with chat_on("discord", office) as chat:
        assert await chat.send(chat.platform.interaction("sam", {"type": 1})) == (200, {"type": 1})
        for how in (Forgery.UNSIGNED, Forgery.WRONG_KEY):
            assert (await chat.send(chat.platform.interaction("sam", {"type": 1}, how)))[0] == 401


async def test_what_discord_signed_is_the_body_as_it_was_sent(office: Office) -> None:
    """And not what it means: the same JSON with other spaces is another body."""
    async with chat_on("discord", office) as chat:
        sent = granting(chat, "sam")
        re_encoded = json.dumps(json.loads(sent.body), indent=1).encode()
        assert (await chat.send(replace(sent, body=re_encoded)))[0] == 401
        assert await grants(chat) == 0
        assert (await chat.send(sent))[0] == 200


def test_nothing_in_an_answer_of_discords_notifies_anybody() -> None:
    assert discord.answer(Private("@everyone"))["data"]["allowed_mentions"] == {"parse": []}
    assert discord.answer(Announcement("@everyone", None))["data"]["allowed_mentions"] == {"parse": [], "users": []}


async def test_discords_direct_messages_have_no_guild_and_are_not_listened_to(office: Office) -> None:
    async with chat_on("discord", office) as chat:
        what = {"type": 2, "guild_id": None, "data": {"name": "bastion"}}
        assert (await chat.send(chat.platform.interaction("sam", what)))[0] == 403


async def test_discords_form_asks(office: Office) -> None:
    async with chat_on("discord", office) as chat:
        _, opened = await chat.send(chat.platform.command("carla", ""))
        assert [row["components"][0]["label"] for row in opened["data"]["components"]] == [
            "Target", "Login", "For how long", "Reason", "Crossing",
        ]  # fmt: skip
        filled = {"target": WEB, "login": "deploy", "duration": "2h", "reason": "fix it", "crossing": ""}
        rows = [{"type": 1, "components": [{"custom_id": k, "value": v}]} for k, v in filled.items()]
        sent = chat.platform.interaction("carla", {"type": 5, "data": {"custom_id": "request", "components": rows}})
        assert "carla@example.com asks for web-1.staging.eu as deploy for 2h." in await chat.read(sent)


async def test_mattermosts_context_is_sealed(office: Office) -> None:
    """The button that is shown decides, and nobody writes one of their own."""
    async with chat_on("mattermost", office) as chat:
        made, another = await request_id(chat), await request_id(chat)
        sent = chat.platform.press("sam", Button(Deed.REFUSE, made))
        for old, new in (("refuse:", "approve:"), (made, another), ('"row": "card"', '"row": "warning"')):
            body = json.loads(sent.body) | {
                "trigger_id": chat.platform.trigger(chat.platform.ids["sam"], Forgery.NOTHING)
            }
            changed = json.dumps(body).replace(old, new)
            assert changed != json.dumps(body)
            assert (await chat.send(replace(sent, body=changed.encode())))[0] == 401
        assert await chat.office.kinds() == ["request:made"] * 2 + ["chat:refused"] * 3
