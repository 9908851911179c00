"""A small Slack on loopback: the Web API calls that the bastion makes, a real WebSocket, and what people would see.

It signs as Slack's own SDK does, and refuses what Slack refuses: an unknown token, a used or late trigger, blocks that
the SDK would not make. It shows messages as Slack would: ``plain_text`` literally, ``mrkdwn`` with mentions and links.
"""

from __future__ import annotations

import asyncio
import html
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import aiohttp
from aiohttp import web
from slack_sdk.signature import SignatureVerifier

from tests.chatops.block_kit import problems
from tests.fakes import FakeClock

BOT_TOKEN, APP_TOKEN = "xoxb-of-the-bot", "xapp-of-the-app"
SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
TEAM, OPS = "T012AB3CD", "C0OPS"


@dataclass(slots=True)
class Said:
    """One message of the bot."""

    channel: str
    ts: str
    body: dict[str, Any]
    thread: str | None = None
    only_for: str | None = None

    @property
    def buttons(self) -> dict[str, dict[str, Any]]:
        return {e["text"]["text"]: e | {"block_id": b["block_id"]} for b, e in _elements(self.body["blocks"])}


@dataclass(slots=True)
class FakeSlack:
    """What was said so far, and ways to be a person in it."""

    clock: FakeClock
    names: dict[str, str]
    base_url: str = ""
    said: list[Said] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    homes: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    """What is wrong with blocks that the bastion sent or answered; a test in which there is any fails at its end."""
    bastion: str = ""
    """Where HTTP requests go, when no socket is open."""
    down: bool = False
    """Answers nothing of use."""
    sockets: int = 0
    """How many were opened so far."""
    _triggers: dict[str, bool] = field(default_factory=dict)
    _sockets: list[web.WebSocketResponse] = field(default_factory=list)
    _answers: dict[str, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _latest: dict[str, Any] = field(default_factory=dict)
    """The envelope that went through the socket last."""

    # ------------------------------------------------------------------------------------------------ what people do

    async def type(self, user: str, text: str, *, channel: str = OPS, team: str = TEAM) -> str:
        """``/bastion text``: what the user then sees, or "" when nothing."""
        fields = {
            "command": "/bastion",
            "text": text,
            "team_id": team,
            "team_domain": "example",
            "user_id": user,
            "user_name": self.names.get(user, "somebody"),
            "channel_id": channel,
            "trigger_id": self.trigger(),
        }
        body = await self.deliver("slash_commands", fields)
        if not body:
            return ""
        private = user if body["response_type"] == "ephemeral" else None
        said = Said(channel, self._ts(), body, only_for=private)
        self.said.append(said)
        return self.shown(said)

    async def press(self, user: str, said: Said, label: str, *, team: str = TEAM, user_team: str | None = None) -> None:
        """Press a button of a message."""
        await self.deliver("interactive", self.pressing(user, said, said.buttons[label], team, user_team))

    def pressing(
        self, user: str, said: Said, button: Mapping[str, Any], team: str = TEAM, user_team: str | None = None
    ) -> dict[str, Any]:
        """The payload of a press."""
        return self._payload("block_actions", user, team, user_team) | {
            "container": {"type": "message", "message_ts": said.ts, "channel_id": said.channel},
            "message": {"user": "U0BOT", "ts": said.ts, "text": said.body["text"]},
            "channel": {"id": said.channel},
            "actions": [{"type": "button", **{key: button[key] for key in ("action_id", "block_id", "value")}}],
        }

    async def press_at_home(self, user: str, label: str) -> None:
        """Press the first such button in the app's home."""
        block, element = next((b, e) for b, e in _elements(self.homes[user]["blocks"]) if e["text"]["text"] == label)
        action = {"action_id": element["action_id"], "block_id": block["block_id"], "value": element["value"]}
        payload = self._payload("block_actions", user, TEAM, None)
        payload |= {"container": {"type": "view", "view_id": "V1"}, "actions": [action]}
        await self.deliver("interactive", payload)

    async def submit(self, user: str, **filled: str) -> dict[str, Any]:
        """Send the form that was opened last; the answer as Slack reads it."""
        values: dict[str, Any] = {}
        for block in self.views[-1]["blocks"]:
            value = filled.get(block["block_id"])
            match block["element"]["type"]:
                case "static_select":
                    options = [o["value"] for o in block["element"]["options"]]
                    assert value in options, (value, options)
                    state: dict[str, Any] = {"selected_option": {"value": value}}
                case "checkboxes":
                    state = {"selected_options": [{"value": value}] if value else []}
                case _:
                    state = {"value": value}
            values[block["block_id"]] = {"value": state}
        view = {"id": "V1", "type": "modal", "callback_id": "request", "state": {"values": values}}
        return await self.deliver("interactive", self._payload("view_submission", user, TEAM, None) | {"view": view})

    async def open_home(self, user: str) -> None:
        event = {"type": "app_home_opened", "user": user, "tab": "home"}
        await self.deliver(
            "events_api",
            {"type": "event_callback", "team_id": TEAM, "event_id": f"Ev{next(self._numbers)}", "event": event},
        )

    # ------------------------------------------------------------------------------------------------ what they see

    def channel(self, name: str = OPS) -> list[Said]:
        """The messages that everybody sees, without threads."""
        return [said for said in self.said if said.channel == name and said.thread is None and said.only_for is None]

    def thread(self, root: Said) -> list[Said]:
        return [said for said in self.said if said.thread == root.ts]

    def whispers(self, user: str) -> list[str]:
        """What this user alone was told."""
        return [self.shown(said) for said in self.said if user in (said.only_for, said.channel)]

    def shown(self, said: Said | dict[str, Any]) -> str:
        """A message, or a view, as a person reads it."""
        body = said.body if isinstance(said, Said) else said
        return "\n".join(line for block in body["blocks"] for line in self._lines(block))

    def _lines(self, block: Mapping[str, Any]) -> list[str]:
        match block["type"]:
            case "section" | "header":
                return self.read(block["text"]).split("\n")
            case "context":
                return [self.read(element) for element in block["elements"]]
            case "actions":
                return [" ".join(f"[{element['text']['text']}]" for element in block["elements"])]
            case "input":
                choices = "".join(f" ({o['text']['text']})" for o in block["element"].get("options", ()))
                return [f"{block['label']['text']}: ____{choices}"]
            case other:
                raise AssertionError(other)

    def read(self, text: Mapping[str, Any]) -> str:
        """One text, as a person reads it."""
        if text["type"] == "plain_text":
            return html.unescape(text["text"])
        shown = re.sub(r"<@(\w+)>", lambda m: "@" + self.names[m.group(1)], text["text"])
        return html.unescape(re.sub(r"<(https?://[^>|]+)>", r"\1", shown))

    # ------------------------------------------------------------------------------------------------ on the wire

    def trigger(self) -> str:
        trigger = f"13345224609.738474920.{next(self._numbers)}"
        self._triggers[trigger] = True
        return trigger

    async def deliver(self, kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """Send it as Slack does: through the socket if one is open, otherwise signed over HTTP."""
        said = await (self._through_socket if self._sockets else self._through_http)(kind, payload)
        self._check(said.get("view", said))
        return said

    async def _through_http(self, kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        path, body, content_type = {
            "slash_commands": ("", urlencode(payload), "application/x-www-form-urlencoded"),
            "interactive": (
                "/interactive", urlencode({"payload": json.dumps(payload)}), "application/x-www-form-urlencoded"
            ),
            "events_api": ("/events", json.dumps(payload), "application/json"),
        }[kind]  # fmt: skip
        status, said = await self.send(path, body.encode(), self.sign(body.encode()) | {"Content-Type": content_type})
        if status == 403:
            assert set(said) == {"error"}
            return {}
        assert status == 200, (status, said)
        return said

    def sign(self, body: bytes, *, secret: str = SECRET, late: timedelta = timedelta()) -> dict[str, str]:
        timestamp = str(int((self.clock.now() - late).timestamp()))
        signature = SignatureVerifier(secret).generate_signature(timestamp=timestamp, body=body)
        assert signature is not None
        return {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": signature}

    async def send(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.bastion}/chat/slack{path}", data=body, headers=headers) as response,
        ):
            text = await response.text()
            return response.status, json.loads(text) if text.startswith("{") else {}

    async def _through_socket(self, kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        self._latest = {"type": kind, "envelope_id": f"e-{next(self._numbers)}", "payload": payload}
        return await self.send_again()

    async def send_again(self) -> dict[str, Any]:
        """The latest envelope, as Slack does when it was not answered in time."""
        answered = self._answers[self._latest["envelope_id"]] = asyncio.get_running_loop().create_future()
        await self._sockets[-1].send_json(self._latest)
        return await asyncio.wait_for(answered, 5)

    def _payload(self, kind: str, user: str, team: str, user_team: str | None) -> dict[str, Any]:
        return {
            "type": kind,
            "team": {"id": team, "domain": "example"},
            "user": {"id": user, "username": self.names.get(user, "somebody"), "team_id": user_team or team},
            "trigger_id": self.trigger(),
        }

    def _ts(self) -> str:
        return f"{int(self.clock.now().timestamp())}.{next(self._numbers):06}"

    # ------------------------------------------------------------------------------------------------ the Web API

    async def _call(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        if self.down:
            return web.Response(status=503)
        raw = await request.post() if request.content_type.startswith("application/x-www") else await request.json()
        fields = {key: _value(value) for key, value in raw.items()}
        if self._check(fields.get("view", fields)):
            return self._no("invalid_blocks")
        wanted = APP_TOKEN if method == "apps.connections.open" else BOT_TOKEN
        if request.headers.get("Authorization") != f"Bearer {wanted}":
            return self._no("invalid_auth")
        match method:
            case "apps.connections.open":
                return web.json_response({"ok": True, "url": self.base_url.replace("http", "ws", 1) + "socket"})
            case "chat.postMessage" | "chat.postEphemeral":
                return self._post(fields)
            case "chat.update":
                return self._update(fields)
            case "views.open":
                if not self._triggers.pop(fields["trigger_id"], False):
                    return self._no("expired_trigger_id")
                self.views.append(fields["view"])
                return web.json_response({"ok": True, "view": fields["view"]})
            case "views.publish":
                self.homes[fields["user_id"]] = fields["view"]
                return web.json_response({"ok": True})
            case _:
                return self._no("unknown_method")

    def _check(self, shown: Mapping[str, Any]) -> bool:
        found = list(problems(shown)) if "blocks" in shown else []
        self.malformed += found
        return bool(found)

    def _post(self, fields: dict[str, Any]) -> web.Response:
        said = Said(fields["channel"], self._ts(), fields, fields.get("thread_ts"), fields.get("user"))
        self.said.append(said)
        return web.json_response({"ok": True, "channel": said.channel, "ts": said.ts})

    def _update(self, fields: dict[str, Any]) -> web.Response:
        for said in self.said:
            if (said.channel, said.ts) == (fields["channel"], fields["ts"]) and said.only_for is None:
                said.body = fields
                return web.json_response({"ok": True, "channel": said.channel, "ts": said.ts})
        return self._no("message_not_found")

    def _no(self, error: str) -> web.Response:
        self.refused.append(error)
        return web.json_response({"ok": False, "error": error})

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "hello", "num_connections": 1})
        self._sockets.append(socket)
        self.sockets += 1
        try:
            async for message in socket:
                said = json.loads(message.data)
                self._answers.pop(said["envelope_id"]).set_result(said.get("payload") or {})
        finally:
            self._sockets.remove(socket)
        return socket

    async def hang_up(self) -> None:
        """Close the socket as Slack does every few hours."""
        await self._sockets[-1].send_json({"type": "disconnect", "reason": "refresh_requested"})

    @property
    def has_socket(self) -> bool:
        return bool(self._sockets)


@asynccontextmanager
async def running_slack(clock: FakeClock, names: dict[str, str]) -> AsyncIterator[FakeSlack]:
    """A Slack that listens on loopback while the block runs."""
    slack = FakeSlack(clock, names)
    app = web.Application()
    app.add_routes([web.post("/api/{method}", slack._call), web.get("/api/socket", slack._socket)])
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        slack.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/api/"
        yield slack
    finally:
        await runner.cleanup()
    assert slack.malformed == []


async def until(true: Callable[[], bool]) -> None:
    """Poll for a condition that another task brings about."""
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.005)


def _elements(blocks: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(b, e) for b in blocks if b["type"] == "actions" for e in b["elements"] if "value" in e]


def _value(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "["):
        return json.loads(value)
    return value
