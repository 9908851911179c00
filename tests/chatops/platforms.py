"""Each chat as the bastion meets it: its signatures, its bodies, its ids, and a small API of it that takes what comes.

A `Platform` makes requests like the real one, and with `Forgery` like somebody who is not.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import itertools
import json
import re
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum, auto
from typing import Any, Protocol
from urllib.parse import urlencode

import aiohttp
import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bastion.chatops import discord, mattermost, slack, teams
from bastion.chatops.cards import Button
from bastion.chatops.counter import Counter
from bastion.chatops.errands import Errands
from bastion.chatops.guard import Guard
from bastion.core.identity import Identity
from bastion.ports import ChatLink
from tests.chatops.counter import desk_of, parts_of, serving
from tests.fakes import FakeClock
from tests.office import CARLA, LEA, OTTO, SAM, SIA, Office

PEOPLE = {"carla": CARLA, "sam": SAM, "sia": SIA, "lea": LEA, "otto": OTTO}
"""Who has linked an account; ``new`` has one and has not."""

WORD_JOINER = "\N{WORD JOINER}"


class Forgery(Enum):
    """What is wrong with a request."""

    NOTHING = auto()
    UNSIGNED = auto()
    WRONG_KEY = auto()
    OLD = auto()
    ALTERED = auto()
    """The body was changed on its way: another person, or another address."""
    ELSEWHERE = auto()
    """From a workspace that is not listed, signed as it should be."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request over HTTP."""

    path: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(slots=True)
class Api:
    """The chat's own API: it takes every call that carries its token, and remembers it."""

    token: str = "the bot's token"
    refusing: bool = False
    calls: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    url: str = ""
    documents: dict[str, Any] = field(default_factory=dict)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def take(self, request: web.Request) -> web.Response:
        if request.method == "GET":
            return web.json_response(self.documents[request.path])
        if request.path.endswith("/token"):
            return web.json_response({"access_token": self.token, "expires_in": 3600})
        if self.refusing:
            return web.json_response({"id": "1" * 26, "access_token": "x", "expires_in": 1}, status=503)
        assert request.headers["Authorization"].split()[1:] == self.token.split(), request.headers
        self.calls.append((request.method, request.path, await request.json()))
        return web.json_response({"id": f"{next(self.numbers):026}", "ok": True, "channel": "C0OPS", "ts": "1.1"})


class Platform(Protocol):
    """One chat. ``ids`` are the accounts of people there."""

    name: str
    ids: Mapping[str, str]
    workspace: str

    def command(self, who: str, text: str, how: Forgery = Forgery.NOTHING) -> Sent: ...

    def press(self, who: str, button: Button, how: Forgery = Forgery.NOTHING) -> Sent: ...

    def mention(self, who: str) -> str:
        """How somebody is mentioned in what is typed."""
        ...

    def texts(self, body: Any) -> list[str]:
        """Every text in an answer or a call, as the platform was told to show it."""
        ...

    def plain(self, text: str) -> str:
        """What a person reads where the platform was told ``text``."""
        ...


class _Base:
    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.numbers = itertools.count(1)

    def seconds(self, how: Forgery) -> int:
        late = timedelta(minutes=20) if how is Forgery.OLD else timedelta()
        return int((self.clock.now() - late).timestamp())


class SlackPlatform(_Base):
    name, workspace = "slack", "T012AB3CD"
    ids: Mapping[str, str] = {who: f"U0{who.upper()}" for who in (*PEOPLE, "new")}
    secret = "8f742231b10e8888abcd99yyyzzz85a5"

    def command(self, who: str, text: str, how: Forgery = Forgery.NOTHING) -> Sent:
        team = "T0OTHER" if how is Forgery.ELSEWHERE else self.workspace
        fields = {"command": "/bastion", "text": text, "team_id": team, "user_id": self.ids[who]}
        return self._sent("/chat/slack", fields | {"trigger_id": f"1.{next(self.numbers)}"}, how)

    def press(self, who: str, button: Button, how: Forgery = Forgery.NOTHING) -> Sent:
        team = "T0OTHER" if how is Forgery.ELSEWHERE else self.workspace
        payload = {
            "type": "block_actions",
            "team": {"id": team},
            "user": {"id": self.ids[who], "team_id": team},
            "trigger_id": f"1.{next(self.numbers)}",
            "container": {"type": "message", "channel_id": "C0OPS", "message_ts": "1.1"},
            "actions": [{"action_id": button.deed.value, "block_id": "card", "value": button.code}],
        }
        return self._sent("/chat/slack/interactive", {"payload": json.dumps(payload)}, how)

    def _sent(self, path: str, fields: Mapping[str, str], how: Forgery) -> Sent:
        body, timestamp = urlencode(fields).encode(), str(self.seconds(how))
        secret = "guessed" if how is Forgery.WRONG_KEY else self.secret
        digest = hmac.new(secret.encode(), f"v0:{timestamp}:".encode() + body, hashlib.sha256).hexdigest()
        signed = {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": f"v0={digest}"}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        if how is Forgery.ALTERED:
            body = body.replace(b"U0CARLA", b"U0SAM").replace(b"U0OTTO", b"U0SAM")
        return Sent(path, body, headers if how is Forgery.UNSIGNED else headers | signed)

    def mention(self, who: str) -> str:
        return f"<@{self.ids[who]}|{who}>"

    def texts(self, body: Any) -> list[str]:
        sections = [b["text"] for b in body.get("blocks", []) if b["type"] == "section"]
        assert {text["type"] for text in sections} <= {"plain_text"}
        links = [e["text"] for b in body.get("blocks", []) if b["type"] == "context" for e in b["elements"]]
        return [text["text"] for text in sections] + links

    def plain(self, text: str) -> str:
        return html.unescape(re.sub(r"^<(https://bastion[^>]+)>$", r"\1", text))


class MattermostPlatform(_Base):
    name, workspace = "mattermost", "t" * 26
    ids: Mapping[str, str] = {who: f"{who:x<26}" for who in (*PEOPLE, "new")}
    token = "the command's token"

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.key, self.another = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    @property
    def signing_key(self) -> str:
        der = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(der).decode()

    @property
    def proofs(self) -> mattermost.Proofs:
        return mattermost.Proofs(command_token=self.token, signing_key=self.signing_key)

    def trigger(self, user: str, how: Forgery) -> str:
        signed = f"{next(self.numbers):026}:{user}:{self.seconds(how) * 1000}:"
        key = self.another if how is Forgery.WRONG_KEY else self.key
        signature = base64.b64encode(key.sign(signed.encode(), ec.ECDSA(SHA256()))).decode()
        return base64.b64encode((signed + signature).encode()).decode()

    def command(self, who: str, text: str, how: Forgery = Forgery.NOTHING) -> Sent:
        fields = [("command", "/bastion"), ("text", text), *self._common(who, how).items()]
        for name in re.findall(r"@(\w+)", text):
            if name in PEOPLE:
                fields += [("user_mentions", name), ("user_mentions_ids", self.ids[name])]
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": f"Token {self.token}"}
        if how is Forgery.UNSIGNED:
            del headers["Authorization"]
        return Sent("/chat/mattermost", urlencode(fields).encode(), headers)

    def press(self, who: str, button: Button, how: Forgery = Forgery.NOTHING) -> Sent:
        context = self.proofs.context(button, "card")
        if how is Forgery.UNSIGNED:
            del context["mac"]
        body = {"post_id": "p" * 26, "type": "button", "context": context, **self._common(who, how)}
        return Sent("/chat/mattermost/interactive", json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _common(self, who: str, how: Forgery) -> dict[str, str]:
        """In an altered one somebody else stands for who did it."""
        team = "o" * 26 if how is Forgery.ELSEWHERE else self.workspace
        shown = self.ids["sam"] if how is Forgery.ALTERED else self.ids[who]
        return {"team_id": team, "user_id": shown, "user_name": who, "trigger_id": self.trigger(self.ids[who], how)}

    def mention(self, who: str) -> str:
        return f"@{who}"

    def texts(self, body: Any) -> list[str]:
        found = [body.get("text", ""), body.get("ephemeral_text", ""), body.get("message", "")]
        return [text for text in [*found, body.get("update", {}).get("message", "")] if text]

    def plain(self, text: str) -> str:
        return _unmarked(text)


class DiscordPlatform(_Base):
    name, workspace = "discord", "100000000000000001"
    ids: Mapping[str, str] = {who: f"20000000000000000{n}" for n, who in enumerate((*PEOPLE, "new"))}

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.key, self.another = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()

    def command(self, who: str, text: str, how: Forgery = Forgery.NOTHING) -> Sent:
        options = [{"name": "text", "type": 3, "value": text}] if text else []
        return self.interaction(who, {"type": 2, "data": {"name": "bastion", "options": options}}, how)

    def press(self, who: str, button: Button, how: Forgery = Forgery.NOTHING) -> Sent:
        data = {"custom_id": button.code, "component_type": 2}
        return self.interaction(who, {"type": 3, "data": data, "message": {"id": "3" * 18}}, how)

    def interaction(self, who: str, what: Mapping[str, Any], how: Forgery = Forgery.NOTHING) -> Sent:
        guild = "9" * 18 if how is Forgery.ELSEWHERE else self.workspace
        body = {
            "id": f"4{next(self.numbers):017}",
            "guild_id": guild,
            "member": {"user": {"id": self.ids[who], "username": who}},
            **what,
        }
        raw, timestamp = json.dumps(body).encode(), str(self.seconds(how))
        key = self.another if how is Forgery.WRONG_KEY else self.key
        signed = {
            "X-Signature-Ed25519": key.sign(timestamp.encode() + raw).hex(),
            "X-Signature-Timestamp": timestamp,
        }
        if how is Forgery.ALTERED:
            raw = raw.replace(self.ids[who].encode(), self.ids["sam"].encode())
        headers = {"Content-Type": "application/json"}
        return Sent("/chat/discord", raw, headers if how is Forgery.UNSIGNED else headers | signed)

    def mention(self, who: str) -> str:
        return f"<@{self.ids[who]}>"

    def texts(self, body: Any) -> list[str]:
        data = body.get("data", body)
        if "content" in data:
            loud = data["content"].startswith("@everyone ")
            assert data["allowed_mentions"]["parse"] == (["everyone"] if loud else [])
        return [data["content"]] if data.get("content") else []

    def plain(self, text: str) -> str:
        return _unmarked(text)


class TeamsPlatform(_Base):
    name, workspace = "teams", "11111111-2222-3333-4444-555555555555"
    ids: Mapping[str, str] = {who: f"29:1-{who}" for who in (*PEOPLE, "new")}
    app_id = "00000000-aaaa-bbbb-cccc-000000000000"

    def __init__(self, clock: FakeClock, api: Api) -> None:
        super().__init__(clock)
        self.api = api
        self.key, self.another = (rsa.generate_private_key(65537, 2048) for _ in range(2))
        api.documents["/metadata"] = {"jwks_uri": f"{api.url}/keys"}
        api.documents["/keys"] = {"keys": [self._jwk(self.key, "one", ["msteams"]), self._jwk(self.another, "two", [])]}

    @staticmethod
    def _jwk(key: rsa.RSAPrivateKey, kid: str, endorsements: Sequence[str]) -> dict[str, Any]:
        jwk: dict[str, Any] = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
        return jwk | {"kid": kid, "use": "sig", "endorsements": list(endorsements)}

    def token(self, how: Forgery = Forgery.NOTHING, *, kid: str = "one", **changes: Any) -> str:
        now = self.seconds(how)
        claims = {"iss": "https://api.botframework.com", "aud": self.app_id, "nbf": now, "exp": now + 600}
        key = self.another if how is Forgery.WRONG_KEY or kid == "two" else self.key
        claims |= {"serviceurl": self.api.url} | changes
        return jwt.encode(claims, key, algorithm="RS256", headers={"kid": kid})

    def command(
        self, who: str, text: str, how: Forgery = Forgery.NOTHING, token: str | None = None, **changes: Any
    ) -> Sent:
        entities = [{"type": "mention", "text": "<at>Bastion</at>", "mentioned": {"id": f"28:{self.app_id}"}}]
        for name in re.findall(r"<at>(\w+)</at>", text):
            entities.append({"type": "mention", "text": f"<at>{name}</at>", "mentioned": {"id": self.ids[name]}})
        body = {"type": "message", "text": f"<at>Bastion</at> {text}", "entities": entities}
        return self.activity(who, body | changes, how, token)

    def press(self, who: str, button: Button, how: Forgery = Forgery.NOTHING) -> Sent:
        action = {"type": "Action.Execute", "verb": button.deed.value, "data": {"code": button.code, "row": "card"}}
        invoke = {"type": "invoke", "name": "adaptiveCard/action", "value": {"action": action}, "replyToId": "m1"}
        return self.activity(who, invoke, how)

    def activity(
        self, who: str, what: Mapping[str, Any], how: Forgery = Forgery.NOTHING, token: str | None = None
    ) -> Sent:
        tenant = str(uuid.UUID(int=9)) if how is Forgery.ELSEWHERE else self.workspace
        body = {
            "id": f"a{next(self.numbers)}",
            "channelId": "msteams",
            "serviceUrl": "https://evil.example.net" if how is Forgery.ALTERED else self.api.url,
            "from": {"id": self.ids[who], "name": who},
            "recipient": {"id": f"28:{self.app_id}"},
            "conversation": {"id": "19:ops@thread.tacv2", "tenantId": tenant, "conversationType": "channel"},
            **what,
        }
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token or self.token(how)}"}
        if how is Forgery.UNSIGNED:
            del headers["Authorization"]
        return Sent("/chat/teams", json.dumps(body).encode(), headers)

    def mention(self, who: str) -> str:
        return f"<at>{who}</at>"

    def texts(self, body: Any) -> list[str]:
        if body.get("type") == "message":
            if "text" in body:
                assert body["textFormat"] == "plain"
                return [body["text"]]
            return self.texts({"value": body["attachments"][0]["content"]})
        value = body.get("value", "")
        if isinstance(value, str):
            return [value] if value else []
        assert {block["type"] for block in value["body"]} == {"RichTextBlock"}
        return ["\n".join(run["text"] for block in value["body"] for run in block["inlines"])]

    def plain(self, text: str) -> str:
        return text


@dataclass(frozen=True, slots=True)
class Chat:
    """One platform in front of a running bastion."""

    office: Office
    platform: Any
    api: Api
    url: str
    errands: Errands

    async def send(self, sent: Sent) -> tuple[int, Any]:
        """The status and the JSON of the answer; calls to the API that it caused are done."""
        async with (
            aiohttp.ClientSession() as http,
            http.post(self.url + sent.path, data=sent.body, headers=sent.headers) as response,
        ):
            text = await response.text()
            await self.errands.settle()
            return response.status, json.loads(text) if text else {}

    async def read(self, sent: Sent) -> str:
        """What people read because of it: the answer, and what was said through the API."""
        before = len(self.api.calls)
        status, body = await self.send(sent)
        assert status == 200, (status, body)
        said = [body, *(call[2] for call in self.api.calls[before:])]
        texts = [self.platform.plain(text) for each in said for text in self.platform.texts(each)]
        return "\n".join(dict.fromkeys(texts)).replace(WORD_JOINER, "")


@asynccontextmanager
async def chat_on(name: str, office: Office) -> AsyncIterator[Chat]:
    """``name`` in front of ``office``, where everybody in `PEOPLE` has linked their account."""
    async with AsyncExitStack() as stack:
        api = Api()
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", api.take)
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        session = await stack.enter_async_context(aiohttp.ClientSession())
        errands = Errands()
        stack.push_async_callback(errands.close)
        platform, routes = _BUILDERS[name](office, api, session, errands)
        for who, identity in PEOPLE.items():
            await _link(office, platform, platform.ids[who], identity)
        url = await stack.enter_async_context(serving(routes))
        yield Chat(office, platform, api, url, errands)


def _slack(office: Office, api: Api, session: Any, errands: Errands) -> tuple[Any, list[web.RouteDef]]:
    platform = SlackPlatform(office.clock)
    outgoing = slack.SlackApi(token=api.token, channel=None, base_url=f"{api.url}/api/")
    routes = slack.routes(
        desk=desk_of(office),
        signing_secret=platform.secret,
        workspaces=[platform.workspace],
        api=outgoing,
        errands=errands,
        **parts_of(office),
    )
    return platform, routes


def _counter(office: Office, platform: Any) -> tuple[Counter, Guard]:
    guard = Guard(platform=platform.name, **parts_of(office))
    return Counter(desk=desk_of(office), guard=guard, workspaces=[platform.workspace]), guard


def _mattermost(office: Office, api: Api, session: Any, errands: Errands) -> tuple[Any, list[web.RouteDef]]:
    platform = MattermostPlatform(office.clock)
    counter, guard = _counter(office, platform)
    drawing = mattermost.Drawing(platform.proofs, "https://bastion.example.com/chat/mattermost/interactive")
    return platform, mattermost.routes(counter=counter, guard=guard, drawing=drawing, told_elsewhere=False)


def _discord(office: Office, api: Api, session: Any, errands: Errands) -> tuple[Any, list[web.RouteDef]]:
    platform = DiscordPlatform(office.clock)
    counter, guard = _counter(office, platform)
    key = platform.key.public_key().public_bytes_raw().hex()
    return platform, discord.routes(counter=counter, guard=guard, public_key=key, board=None, errands=errands)


def _teams(office: Office, api: Api, session: Any, errands: Errands) -> tuple[Any, list[web.RouteDef]]:
    platform = TeamsPlatform(office.clock, api)
    counter, guard = _counter(office, platform)
    framework = teams.BotFramework(
        app_id=platform.app_id, session=session, clock=office.clock, metadata=f"{api.url}/metadata"
    )
    connector = teams.Connector(
        session=session, app_id=platform.app_id, password="x", tenant="t", clock=office.clock, login=api.url
    )
    return platform, teams.routes(
        counter=counter, guard=guard, framework=framework, connector=connector, board=None, errands=errands
    )


_BUILDERS: dict[str, Callable[[Office, Api, Any, Errands], tuple[Any, list[web.RouteDef]]]] = {
    "slack": _slack,
    "mattermost": _mattermost,
    "discord": _discord,
    "teams": _teams,
}
NAMES = tuple(_BUILDERS)


async def _link(office: Office, platform: Platform, user: str, identity: Identity) -> None:
    async with office.store.transaction() as tx:
        link = ChatLink(platform.name, platform.workspace, user, identity.id, office.clock.now())
        await tx.link_chat(link)


def _unmarked(text: str) -> str:
    """Markdown as it is shown when every mark in it is escaped, which is checked."""
    bare = re.sub(r"\\.", "", text)
    bare = re.sub(r"\[[\w ,]+\]\(https://bastion\.example\.com/grants/g-\w+\)", "", bare)
    bare = re.sub(r"https://bastion\.example\.com/\S+", "", bare)
    bare = re.sub(r"^<@\d+> ", "", bare)
    assert not set(bare) & set("*_`[]()<>#|~^$"), bare
    return re.sub(r"\\(.)", r"\1", text)
