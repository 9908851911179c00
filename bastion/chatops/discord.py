"""Discord: ``POST /chat/discord`` for everything, signed with Ed25519 over the time and the body as it arrived.

https://discord.com/developers/docs/interactions/receiving-and-responding. The workspace is the guild; a direct message
has none and is not listened to. Discord sets no age for a signature; five minutes are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any, assert_never

import aiohttp
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bastion.access.linking import Account
from bastion.chatops.board import Board
from bastion.chatops.calls import call
from bastion.chatops.cards import Button, Card, Deed
from bastion.chatops.commands import wire_text
from bastion.chatops.counter import Counter
from bastion.chatops.desk import Announcement, Private, Reply
from bastion.chatops.errands import Errands
from bastion.chatops.escaping import markdown
from bastion.chatops.form import BLANKS
from bastion.chatops.guard import MAX_INTERACTION, MAX_SKEW, Guard, body_of, header_once, read_object, refusal
from bastion.core.errors import Unauthenticated
from bastion.core.target import printable

PLATFORM = "discord"
DISCORD = "https://discord.com/api/v10"

MAX_INPUTS = 5
"""Of a modal; the blanks that come later are left out."""

MAX_CONTENT = 2000
"""Characters of one message, Discord's limit."""

EPHEMERAL, NO_PREVIEWS = 64, 4
"""Message flags: for one person's eyes; no pictures of linked pages."""

_PONG, _MESSAGE, _UPDATE, _OPEN_MODAL = 1, 4, 7, 9
"""Kinds of answer."""


class Kind(IntEnum):
    """Of an interaction."""

    PING = 1
    COMMAND = 2
    COMPONENT = 3
    MODAL = 5


_SIGNATURE = re.compile(r"[0-9a-f]{128}", re.ASCII)
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_ID = re.compile(r"[0-9]{15,20}", re.ASCII)
_MENTION = re.compile(r"<@!?([0-9]{15,20})>", re.ASCII)
_STYLES = {Deed.APPROVE: 3, Deed.REFUSE: 4}


def verify(raw: bytes, *, timestamp: str, unverified_signature: str, key: Ed25519PublicKey, now: datetime) -> None:
    """That Discord signed ``raw``, within `MAX_SKEW` of ``now``.

    Raises:
        Unauthenticated: it did not, or not then; nothing of ``raw`` was read.
    """
    if not (_TIMESTAMP.fullmatch(timestamp) and _SIGNATURE.fullmatch(unverified_signature)):
        raise Unauthenticated("The request has no usable X-Signature-Timestamp and X-Signature-Ed25519.")
    try:
        key.verify(bytes.fromhex(unverified_signature), timestamp.encode() + raw)
    except InvalidSignature:
        raise Unauthenticated("The request is not signed by Discord for the configured application.") from None
    if abs(now.timestamp() - int(timestamp)) > MAX_SKEW.total_seconds():
        raise Unauthenticated("The request was signed more than five minutes from now; check the clock of this host.")


def message(card: Card, row: str = "card") -> dict[str, Any]:
    """A card as Discord shows it. Nobody is notified by anything in its text."""
    users = [card.to.user] if card.to is not None else []
    called = "@everyone " * card.loud + "".join(f"<@{user}> " for user in users)
    text = (called + markdown(card.text))[:MAX_CONTENT]
    buttons = [_button(button, row) for button in card.buttons]
    if card.link is not None:
        buttons.append({"type": 2, "style": 5, "label": card.link.label, "url": card.link.url})
    return {
        "content": text,
        "components": [{"type": 1, "components": buttons}] if buttons else [],
        "allowed_mentions": {"parse": ["everyone"] if card.loud else [], "users": users},
        "flags": NO_PREVIEWS,
    }


def answer(reply: Reply, card: Card | None = None) -> dict[str, Any]:
    """A reply as a message. The one real mention is made from an id that Discord sent."""
    match reply:
        case Private(text, link):
            content = markdown(text)[:MAX_CONTENT] + (f"\n{link}" if link is not None else "")
            body = {"content": content, "allowed_mentions": {"parse": []}, "flags": EPHEMERAL | NO_PREVIEWS}
            return {"type": _MESSAGE, "data": body}
        case Announcement(text, to, _):
            data = message(Card(text, card.buttons if card is not None else (), to=to))
            return {"type": _MESSAGE, "data": data}
        case _:
            assert_never(reply)


class DiscordBoard:
    """The channel in which requests are told. A message's name is its id; what goes under it answers it."""

    platform = PLATFORM

    def __init__(self, *, session: aiohttp.ClientSession, token: str, channel: str, url: str = DISCORD) -> None:
        self._session = session
        self._headers = {"Authorization": f"Bot {token}"}
        self._messages = f"{url}/channels/{channel}/messages"

    async def post(self, card: Card, row: str, under: str | None = None) -> str:
        """Raises `Unavailable`."""
        body = message(card, row)
        if under is not None:
            body["message_reference"] = {"message_id": under, "fail_if_not_exists": False}
        made = await call(self._session, "POST", self._messages, headers=self._headers, body=body)
        return str(made["id"])

    async def update(self, message_id: str, card: Card, row: str) -> None:
        """Raises `Unavailable`."""
        url = f"{self._messages}/{message_id}"
        await call(self._session, "PATCH", url, headers=self._headers, body=message(card, row))


def routes(
    *, counter: Counter, guard: Guard, public_key: str, board: Board | None, errands: Errands
) -> list[web.RouteDef]:
    """The route. With a ``board`` everybody reads there, and answers are for the one who asked.

    Raises:
        ValueError: the public key is none.
    """
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key))
    return [web.post("/chat/discord", _Discord(counter, guard, key, board, errands).receive)]


@dataclass(frozen=True, slots=True)
class _Discord:
    counter: Counter
    guard: Guard
    key: Ed25519PublicKey
    board: Board | None
    errands: Errands

    async def receive(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json" or "Content-Encoding" in request.headers:
            return refusal(415, "An interaction is application/json, not encoded further.")
        raw = await body_of(request, MAX_INTERACTION)
        if raw is None:
            return refusal(413, f"An interaction has at most {MAX_INTERACTION} bytes.")
        try:
            signature = self._verified(request, raw)
        except Unauthenticated as error:
            await self.guard.note(request, error.public)
            return refusal(401, error.public)
        try:
            payload = read_object(raw)
            if payload.get("type") == Kind.PING:
                return web.json_response({"type": _PONG})
            account, invocation = _account(payload), _id(payload, "id")
            if (no := await self._objection(request, account, signature)) is not None:
                return no
            return web.json_response(await self._carry_out(payload, account, invocation))
        except ValueError as error:
            return refusal(400, f"This is no interaction of ours: {error}.")

    def _verified(self, request: web.Request, raw: bytes) -> str:
        timestamp = header_once(request, "X-Signature-Timestamp")
        signature = header_once(request, "X-Signature-Ed25519")
        if timestamp is None or signature is None:
            raise Unauthenticated("The request is not signed: X-Signature-Ed25519 and X-Signature-Timestamp, once.")
        verify(raw, timestamp=timestamp, unverified_signature=signature, key=self.key, now=self.guard.now())
        return signature

    async def _objection(self, request: web.Request, account: Account, signature: str) -> web.Response | None:
        if not await self.guard.is_fresh(signature):
            await self.guard.note(request, "the same signed request came twice", account)
            return refusal(401, "This request has been received before.")
        if not self.counter.listens_to(account):
            await self.guard.note(request, "the guild is not listed", account)
            return refusal(403, "This guild is not one that the bastion listens to.")
        return None

    async def _carry_out(self, payload: Mapping[str, Any], account: Account, invocation: str) -> dict[str, Any]:
        match payload.get("type"):
            case Kind.COMMAND:
                return await self._command(payload, account, invocation)
            case Kind.COMPONENT:
                return await self._press(payload, account, invocation)
            case Kind.MODAL:
                fields = _modal_fields(payload)
                return await self._shown(await self.counter.submit(fields, account, invocation))
            case _:
                raise ValueError("it is neither a command, a button nor a form")

    async def _command(self, payload: Mapping[str, Any], account: Account, invocation: str) -> dict[str, Any]:
        text = _text(payload)
        if text.strip():
            return await self._shown(await self.counter.command(_parsed_form(text), account, invocation))
        form = await self.counter.form(account)
        if isinstance(form, Private):
            return answer(form)
        return {"type": _OPEN_MODAL, "data": _modal()}

    async def _press(self, payload: Mapping[str, Any], account: Account, invocation: str) -> dict[str, Any]:
        code, _, row = str(_object(payload, "data").get("custom_id", "")).partition(" ")
        button = Button.parse(code)
        reply = await self.counter.press(button, account, invocation)
        if isinstance(reply, Private):
            if reply.link is None and self.board is not None:
                self.errands.run(self._redraw(self.board, button, row, _id(_object(payload, "message"), "id")))
            return answer(reply)
        return {"type": _UPDATE, "data": message(await self.counter.card_again(button, row), row)}

    async def _redraw(self, board: Board, button: Button, row: str, message_id: str) -> None:
        await board.update(message_id, await self.counter.card_again(button, row), row)

    async def _shown(self, reply: Reply) -> dict[str, Any]:
        if isinstance(reply, Private) or reply.subject is None:
            return answer(reply)
        if self.board is not None:
            return answer(Private(reply.text))
        return answer(reply, await self.counter.card(reply.subject))


def _parsed_form(text: str) -> str:
    """The text as our parser reads it: Discord's mentions are ids, everything else is what was typed."""
    pieces, last = [], 0
    for match in _MENTION.finditer(text):
        pieces += [wire_text(text[last : match.start()]), f"<@{match.group(1)}>"]
        last = match.end()
    return "".join([*pieces, wire_text(text[last:])])


def _text(payload: Mapping[str, Any]) -> str:
    """What was typed after ``/bastion``: its one option, ``text``."""
    data = _object(payload, "data")
    options = data.get("options", [])
    if data.get("name") != "bastion" or not isinstance(options, list) or len(options) > 1:
        raise ValueError("it is another command")
    for option in options:
        if isinstance(option, dict) and option.get("name") == "text" and isinstance(option.get("value"), str):
            return str(option["value"])
        raise ValueError("it has another option than text")
    return ""


def _modal() -> dict[str, Any]:
    inputs = [
        {
            "type": 4,
            "custom_id": blank.name,
            "label": blank.label,
            "style": 1,
            "required": not blank.optional,
            "max_length": blank.longest,
            "placeholder": blank.hint,
        }
        for blank in BLANKS[:MAX_INPUTS]
    ]
    rows = [{"type": 1, "components": [field]} for field in inputs]
    return {"custom_id": "request", "title": "Ask for access", "components": rows}


def _modal_fields(payload: Mapping[str, Any]) -> dict[str, str]:
    rows = _object(payload, "data").get("components")
    found: dict[str, str] = {}
    for row in rows if isinstance(rows, list) else []:
        fields = row.get("components") if isinstance(row, dict) else None
        for field in fields if isinstance(fields, list) else []:
            if not isinstance(field, dict) or not isinstance(field.get("value"), str):
                raise ValueError("the form is not ours")
            found[str(field.get("custom_id"))] = field["value"]
    return found


def _account(payload: Mapping[str, Any]) -> Account:
    """The member who acts, in the guild where they do; a message that the button is on has no say in it."""
    guild = payload.get("guild_id")
    member = payload.get("member")
    user = member.get("user") if isinstance(member, dict) else payload.get("user")
    if not isinstance(user, dict):
        raise ValueError("the user is missing")
    if not isinstance(guild, str) or not _ID.fullmatch(guild):
        guild = "direct"
    return Account(PLATFORM, guild, _id(user, "id"), "", printable(str(user.get("username", ""))))


def _button(button: Button, row: str) -> dict[str, Any]:
    return {
        "type": 2,
        "style": _STYLES.get(button.deed, 2),
        "label": button.deed.label,
        "custom_id": f"{button.code} {row}",
    }


def _object(payload: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = payload.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{key} is missing")
    return value


def _id(payload: Mapping[str, Any], key: str) -> str:
    value = payload.get(key)
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError(f"{key} is missing")
    return value
