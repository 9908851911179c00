"""The small Slack of these tests is one that Slack's own framework takes for Slack.

The bastion does without Bolt (docs/adr/0014), so Bolt is a judge that knows nothing of the bastion: it listens in its
place, checks the signatures, reads what people do, and calls the Web API, over HTTP and over Socket Mode.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from slack_bolt.adapter.aiohttp import to_aiohttp_response, to_bolt_request
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_bolt.authorization import AuthorizeResult
from slack_sdk.web.async_client import AsyncWebClient

from bastion.chatops.cards import Button, Card, Deed
from bastion.chatops.desk import Form, Home
from bastion.chatops.slack import blocks
from tests.chatops.counter import NAMES, serving
from tests.chatops.fake_slack import APP_TOKEN, BOT_TOKEN, OPS, SECRET, TEAM, FakeSlack, running_slack, until
from tests.fakes import FakeClock

APPROVE = Button(Deed.APPROVE, "q-4t9z2m0wq7xh")


class Bolt:
    """An app that answers the least there is, and keeps what it was told."""

    def __init__(self, fake: FakeSlack) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.client = AsyncWebClient(token=BOT_TOKEN, base_url=fake.base_url)

        async def authorize() -> AuthorizeResult:
            return AuthorizeResult(
                enterprise_id=None, team_id=TEAM, bot_token=BOT_TOKEN, bot_id="B0", bot_user_id="U0B"
            )

        self.app = AsyncApp(signing_secret=SECRET, authorize=authorize, client=self.client)
        self.app.command("/bastion")(self._command)
        self.app.action("approve")(self._press)
        self.app.view("request")(self._form)
        self.app.event("app_home_opened")(self._home)

    async def _command(self, ack: Any, command: dict[str, Any], client: AsyncWebClient) -> None:
        self.told.append(("command", command["text"], command["user_id"], command["team_id"]))
        await ack(response_type="ephemeral", blocks=blocks.sections("understood"), text="understood")
        if not command["text"]:
            await client.views_open(
                trigger_id=command["trigger_id"], view=blocks.form_view(Form(("web-1.staging.eu",)))
            )

    async def _press(self, ack: Any, action: dict[str, Any], body: dict[str, Any]) -> None:
        self.told.append(("press", action["value"], body["user"]["id"], body["container"]["message_ts"]))
        await ack()

    async def _form(self, ack: Any, view: dict[str, Any], body: dict[str, Any]) -> None:
        values = {name: state["value"] for name, state in view["state"]["values"].items()}
        self.told.append(("form", values["login"]["value"], values["target"]["selected_option"]["value"]))
        await ack(response_action="errors", errors={"login": f"not for {body['user']['id']}"})

    async def _home(self, event: dict[str, Any], client: AsyncWebClient) -> None:
        self.told.append(("home", event["user"]))
        await client.views_publish(user_id=event["user"], view=blocks.home_view(Home("you", (), ())))

    async def receive(self, request: web.Request) -> web.Response:
        """What comes over HTTP."""
        return await to_aiohttp_response(await self.app.async_dispatch(await to_bolt_request(request)))


@pytest.fixture
async def fake() -> AsyncIterator[FakeSlack]:
    """Bolt looks at the machine's clock."""
    async with running_slack(FakeClock(datetime.now(UTC)), dict(NAMES)) as fake:
        yield fake


async def by_http(bolt: Bolt, fake: FakeSlack, stack: AsyncExitStack) -> None:
    paths = ("/chat/slack", "/chat/slack/interactive", "/chat/slack/events")
    fake.bastion = await stack.enter_async_context(serving([web.post(path, bolt.receive) for path in paths]))


async def by_socket(bolt: Bolt, fake: FakeSlack, stack: AsyncExitStack) -> None:
    handler: Any = AsyncSocketModeHandler(bolt.app, APP_TOKEN, web_client=bolt.client)
    stack.push_async_callback(handler.close_async)
    await handler.connect_async()
    await until(lambda: fake.has_socket)


Way = Callable[[Bolt, FakeSlack, AsyncExitStack], Awaitable[None]]


@pytest.mark.parametrize("by", [by_http, by_socket], ids=["http", "socket"])
async def test_what_people_do_is_what_bolt_is_told(fake: FakeSlack, by: Way) -> None:
    async with AsyncExitStack() as stack:
        bolt = Bolt(fake)
        await by(bolt, fake, stack)
        await everything(bolt, fake)


async def everything(bolt: Bolt, fake: FakeSlack) -> None:
    assert await fake.type("U0CARLA", "who") == "understood"
    await fake.type("U0CARLA", "")
    await until(lambda: bool(fake.views))
    said = await fake.submit("U0CARLA", target="web-1.staging.eu", login="deploy", duration="2h", reason="x")
    assert said == {"response_action": "errors", "errors": {"login": "not for U0CARLA"}}
    posted = await bolt.client.chat_postMessage(channel=OPS, **blocks.message(Card("a request", (APPROVE,))))
    (message,) = fake.channel()
    assert posted["ts"] == message.ts
    await fake.press("U0SAM", message, "Approve")
    await fake.open_home("U0LEA")
    await until(lambda: "U0LEA" in fake.homes)
    assert bolt.told == [
        ("command", "who", "U0CARLA", TEAM),
        ("command", "", "U0CARLA", TEAM),
        ("form", "deploy", "web-1.staging.eu"),
        ("press", APPROVE.code, "U0SAM", message.ts),
        ("home", "U0LEA"),
    ]
    assert fake.refused == []


async def test_a_signature_of_another_secret_is_refused_by_bolt_as_by_us(fake: FakeSlack) -> None:
    async with AsyncExitStack() as stack:
        bolt = Bolt(fake)
        await by_http(bolt, fake, stack)
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        status, _ = await fake.send("", b"command=/bastion", headers | fake.sign(b"command=/bastion", secret="x"))
    assert (status, bolt.told) == (401, [])
