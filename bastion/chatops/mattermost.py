"""Mattermost: ``POST /chat/mattermost`` for the slash command, ``/chat/mattermost/interactive`` for buttons.

Mattermost signs no body. What proves a command is its token; what proves a button is an HMAC of ours in its context,
which the server keeps from people; and what proves *who* it was, in both, is the trigger id: the server signs the user
and the time into it with a key whose public half it publishes (ECDSA P-256 over SHA-256). So a stolen token or context
alone presses nothing in anybody's name, and nothing can be used twice or late.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, assert_never
from urllib.parse import parse_qsl

import aiohttp
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key

from bastion.access.linking import Account
from bastion.chatops.calls import call
from bastion.chatops.cards import Button, Card
from bastion.chatops.commands import wire_text
from bastion.chatops.counter import Counter
from bastion.chatops.desk import Announcement, Private, Reply
from bastion.chatops.escaping import markdown
from bastion.chatops.guard import (
    MAX_BODY,
    MAX_INTERACTION,
    MAX_SKEW,
    Guard,
    body_of,
    header_once,
    read_object,
    refusal,
)
from bastion.core.errors import Unauthenticated
from bastion.core.target import printable

PLATFORM = "mattermost"

_FORM, _JSON = "application/x-www-form-urlencoded", "application/json"
_ID = re.compile(r"[a-z0-9]{26}", re.ASCII)
"""Every id of Mattermost."""

_NAME = re.compile(r"(?<!\w)@([a-z0-9][a-z0-9._-]*)")


@dataclass(frozen=True, slots=True)
class Trigger:
    """Who did something, and when, as the server signed it."""

    id: str
    user: str
    at: datetime


class Proofs:
    """Checks what Mattermost sends, and makes what it will bring back.

    Args:
        command_token: of the slash command.
        signing_key: ``AsymmetricSigningPublicKey`` of ``/api/v4/config/client?format=old``.

    Raises:
        ValueError: the token is empty, or the key is none of P-256.
    """

    def __init__(self, *, command_token: str, signing_key: str) -> None:
        if not command_token:
            raise ValueError("the Mattermost command token is empty")
        key = load_der_public_key(base64.b64decode(signing_key, validate=True))
        if not isinstance(key, EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise ValueError("the Mattermost signing key is not an ECDSA key of P-256")
        self._token = command_token
        self._key = key
        self._seal = hmac.new(command_token.encode(), b"bastion: context of buttons", hashlib.sha256).digest()

    def check_token(self, unverified: str) -> None:
        """Raises `Unauthenticated`."""
        if not hmac.compare_digest(self._token.encode(), unverified.encode(errors="replace")):
            raise Unauthenticated("The command does not carry the configured token.")

    def context(self, button: Button, row: str) -> dict[str, str]:
        """What a button brings back."""
        return {"code": button.code, "row": row, "mac": self._mac(button.code, row)}

    def button(self, context: Any) -> tuple[Button, str]:
        """The button of a context of ours, and its row. Raises `Unauthenticated`."""
        fields = context if isinstance(context, dict) else {}
        code, row, mac = (str(fields.get(key, "")) for key in ("code", "row", "mac"))
        if not hmac.compare_digest(self._mac(code, row).encode(), mac.encode(errors="replace")):
            raise Unauthenticated("This button was not made here.")
        return Button.parse(code), row

    def trigger(self, unverified: str, user: str, now: datetime) -> Trigger:
        """Who did it, by the server's signature. Raises `Unauthenticated`."""
        try:
            inside = base64.b64decode(unverified, validate=True).decode("ascii")
            signed, _, signature = inside.rpartition(":")
            number, who, millis = signed.split(":")
            self._key.verify(base64.b64decode(signature, validate=True), f"{signed}:".encode(), ECDSA(SHA256()))
            at = datetime.fromtimestamp(int(millis) / 1000, UTC)
        except (ValueError, binascii.Error, InvalidSignature, OverflowError):
            raise Unauthenticated("The trigger is not signed by the configured Mattermost.") from None
        if who != user:
            raise Unauthenticated("The trigger is somebody else's.")
        if abs(now - at) > MAX_SKEW:
            raise Unauthenticated("The trigger is more than five minutes from now; check the clock of this host.")
        return Trigger(number, who, at)

    def _mac(self, code: str, row: str) -> str:
        return hmac.new(self._seal, f"{row}\n{code}".encode(errors="replace"), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Drawing:
    """How Mattermost shows our cards."""

    proofs: Proofs
    action_url: str

    def message(self, card: Card, row: str) -> dict[str, Any]:
        """A post: its text, and its buttons as props."""
        text = "@channel " * card.loud + markdown(card.text)
        if card.link is not None:
            text += f"\n[{markdown(card.link.label)}]({card.link.url})"
        actions = [self._action(button, row) for button in card.buttons]
        attachments = [{"actions": actions, "fallback": ""}] if actions else []
        return {"message": text, "props": {"attachments": attachments, "mentionHighlightDisabled": True}}

    def answer(self, reply: Reply, card: Card | None = None) -> dict[str, Any]:
        """The answer to a slash command."""
        match reply:
            case Private(text, link):
                shown = markdown(text) + (f"\n{link}" if link is not None else "")
                return {"response_type": "ephemeral", "text": shown, "skip_slack_parsing": True}
            case Announcement(text, _, _):
                post = self.message(Card(text, card.buttons if card is not None else ()), "card")
                body = {"response_type": "in_channel", "text": post["message"], "skip_slack_parsing": True}
                return body | {"attachments": post["props"]["attachments"], "props": {"mentionHighlightDisabled": True}}
            case _:
                assert_never(reply)

    def _action(self, button: Button, row: str) -> dict[str, Any]:
        return {
            "id": button.deed.value,
            "name": button.deed.label,
            "type": "button",
            "integration": {"url": self.action_url, "context": self.proofs.context(button, row)},
        }


class MattermostBoard:
    """The channel in which requests are told. A message's name is its post id."""

    platform = PLATFORM

    def __init__(self, *, session: aiohttp.ClientSession, url: str, token: str, channel: str, drawing: Drawing) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"}
        self._channel = channel
        self._drawing = drawing

    async def post(self, card: Card, row: str, under: str | None = None) -> str:
        """Raises `Unavailable`."""
        body = {"channel_id": self._channel, "root_id": under or "", **self._drawing.message(card, row)}
        made = await call(self._session, "POST", f"{self._url}/api/v4/posts", headers=self._headers, body=body)
        return str(made["id"])

    async def update(self, message: str, card: Card, row: str) -> None:
        """Raises `Unavailable`."""
        url = f"{self._url}/api/v4/posts/{message}/patch"
        await call(self._session, "PUT", url, headers=self._headers, body=self._drawing.message(card, row))


def routes(*, counter: Counter, guard: Guard, drawing: Drawing, told_elsewhere: bool) -> list[web.RouteDef]:
    """The routes. ``told_elsewhere``: a board tells everybody, so that answers are for the one who asked."""
    mattermost = _Mattermost(counter, guard, drawing, told_elsewhere)
    return [
        web.post("/chat/mattermost", mattermost.command),
        web.post("/chat/mattermost/interactive", mattermost.interactive),
    ]


@dataclass(frozen=True, slots=True)
class _Mattermost:
    counter: Counter
    guard: Guard
    drawing: Drawing
    told_elsewhere: bool

    async def command(self, request: web.Request) -> web.Response:
        raw = await self._raw(request, _FORM, MAX_BODY)
        if isinstance(raw, web.Response):
            return raw
        try:
            fields = _read_form(raw)
            self.drawing.proofs.check_token(_token(request, fields))
            account = _account(fields)
            trigger = self._trigger(fields, account)
        except Unauthenticated as error:
            return await self._not_them(request, error)
        except ValueError as error:
            return refusal(400, f"This is not a slash command: {error}.")
        if (no := await self._objection(request, account, trigger)) is not None:
            return no
        reply = await self.counter.command(_with_mentions(raw, fields.get("text", "")), account, trigger.id)
        if isinstance(reply, Announcement) and reply.subject is not None and not self.told_elsewhere:
            return web.json_response(self.drawing.answer(reply, await self.counter.card(reply.subject)))
        told = isinstance(reply, Announcement) and reply.subject is not None
        return web.json_response(self.drawing.answer(Private(reply.text) if told else reply))

    async def interactive(self, request: web.Request) -> web.Response:
        raw = await self._raw(request, _JSON, MAX_INTERACTION)
        if isinstance(raw, web.Response):
            return raw
        try:
            fields = read_object(raw)
            button, row = self.drawing.proofs.button(fields.get("context"))
            account = _account(fields)
            trigger = self._trigger(fields, account)
        except Unauthenticated as error:
            return await self._not_them(request, error)
        except ValueError as error:
            return refusal(400, f"This is no button: {error}.")
        if (no := await self._objection(request, account, trigger)) is not None:
            return no
        reply = await self.counter.press(button, account, trigger.id)
        body: dict[str, Any] = {}
        if isinstance(reply, Private):
            body["ephemeral_text"] = self.drawing.answer(reply)["text"]
        if not (isinstance(reply, Private) and reply.link is not None):
            body["update"] = self.drawing.message(await self.counter.card_again(button, row), row)
        return web.json_response(body | {"skip_slack_parsing": True})

    async def _raw(self, request: web.Request, content_type: str, limit: int) -> bytes | web.Response:
        if request.content_type != content_type or "Content-Encoding" in request.headers:
            return refusal(415, f"This is {content_type}, not encoded further.")
        raw = await body_of(request, limit)
        return raw if raw is not None else refusal(413, f"This has at most {limit} bytes.")

    def _trigger(self, fields: Mapping[str, Any], account: Account) -> Trigger:
        unverified = fields.get("trigger_id")
        if not isinstance(unverified, str):
            raise Unauthenticated("The trigger is missing.")
        return self.drawing.proofs.trigger(unverified, account.user, self.guard.now())

    async def _not_them(self, request: web.Request, error: Unauthenticated) -> web.Response:
        await self.guard.note(request, error.public)
        return refusal(401, error.public)

    async def _objection(self, request: web.Request, account: Account, trigger: Trigger) -> web.Response | None:
        if not await self.guard.is_fresh(trigger.id):
            await self.guard.note(request, "the same signed trigger came twice", account)
            return refusal(401, "This request has been received before.")
        if not self.counter.listens_to(account):
            await self.guard.note(request, "the team is not listed", account)
            return refusal(403, "This team is not one that the bastion listens to.")
        return None


def _read_form(raw: bytes) -> dict[str, str]:
    """The fields, each once, but for the lists of mentions."""
    pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=200)
    single = [(key, value) for key, value in pairs if not key.startswith(("user_mentions", "channel_mentions"))]
    fields = dict(single)
    if len(fields) != len(single):
        raise ValueError("a field is there twice")
    if not fields.get("command"):
        raise ValueError("command is missing")
    return fields


def _token(request: web.Request, fields: Mapping[str, str]) -> str:
    scheme, _, token = (header_once(request, "Authorization") or "").partition(" ")
    return token if scheme == "Token" else fields.get("token", "")


def _with_mentions(raw: bytes, text: str) -> str:
    """``@name`` as a mention where the server says whose name it is; any other stays a name."""
    pairs = parse_qsl(raw.decode("ascii"), max_num_fields=200)
    names = [value for key, value in pairs if key == "user_mentions"]
    ids = [value for key, value in pairs if key == "user_mentions_ids"]
    known = dict(zip(names, ids, strict=False)) if len(names) == len(ids) else {}
    pieces, last = [], 0
    for match in _NAME.finditer(text):
        user = known.get(match.group(1), "")
        if _ID.fullmatch(user):
            pieces += [wire_text(text[last : match.start()]), f"<@{user}|{match.group(1)}>"]
            last = match.end()
    return "".join([*pieces, wire_text(text[last:])])


def _account(fields: Mapping[str, Any]) -> Account:
    team, user = str(fields.get("team_id", "")), str(fields.get("user_id", ""))
    if not (_ID.fullmatch(team) and _ID.fullmatch(user)):
        raise ValueError("team_id or user_id is missing")
    names = [printable(str(fields.get(key, ""))) for key in ("team_domain", "user_name")]
    return Account(PLATFORM, team, user, names[0], names[1])
