"""Teams over HTTP: ``POST /chat/teams``, one activity at a time.

The account is the sender's id in the tenant that the activity is from. Teams has no message that one person alone sees
in a channel: private answers go to the conversation that they have with the bot, or into the answer to their press.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from bastion.access.linking import Account
from bastion.chatops.board import Board
from bastion.chatops.cards import Button, Card
from bastion.chatops.commands import wire_text
from bastion.chatops.counter import Counter
from bastion.chatops.desk import Announcement, Private, Reply
from bastion.chatops.errands import Errands
from bastion.chatops.guard import MAX_INTERACTION, Guard, body_of, header_once, read_object, refusal
from bastion.chatops.teams.connector import PLATFORM, Connector
from bastion.chatops.teams.drawing import CARD, MESSAGE, activity, adaptive, plain
from bastion.chatops.teams.token import CHANNEL, BotFramework
from bastion.core.errors import Unauthenticated
from bastion.core.target import printable

_TENANT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_USER = re.compile(r"[0-9]{1,3}:[A-Za-z0-9_-]{1,120}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Activity:
    """What one person did, where, and how they are answered."""

    account: Account
    id: str
    conversation: str
    service_url: str
    personal: bool
    payload: Mapping[str, Any]


def routes(
    *,
    counter: Counter,
    guard: Guard,
    framework: BotFramework,
    connector: Connector,
    board: Board | None,
    errands: Errands,
) -> list[web.RouteDef]:
    """The route. With a ``board`` everybody reads there."""
    return [web.post("/chat/teams", _Teams(counter, guard, framework, connector, board, errands).receive)]


@dataclass(frozen=True, slots=True)
class _Teams:
    counter: Counter
    guard: Guard
    framework: BotFramework
    connector: Connector
    board: Board | None
    errands: Errands

    async def receive(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json" or "Content-Encoding" in request.headers:
            return refusal(415, "An activity is application/json, not encoded further.")
        # The token first: it is in a header, and nothing of a stranger's body is worth reading.
        try:
            scheme, _, bearer = (header_once(request, "Authorization") or "").partition(" ")
            if scheme != "Bearer":
                raise Unauthenticated("The request carries no Bearer token.")
            token = await self.framework.verify(bearer)
            raw = await body_of(request, MAX_INTERACTION)
            if raw is None:
                return refusal(413, f"An activity has at most {MAX_INTERACTION} bytes.")
            payload = read_object(raw)
            if payload.get("serviceUrl") != token.service_url or payload.get("channelId") != CHANNEL:
                raise Unauthenticated("The token is for another address or channel than the activity.")
            kind = payload.get("type")
            if kind not in ("message", "invoke"):
                return web.Response()
            happened = _read(payload)
        except Unauthenticated as error:
            await self.guard.note(request, error.public)
            return refusal(401, error.public)
        except ValueError as error:
            return refusal(400, f"This is no activity of ours: {error}.")
        if (no := await self._objection(request, happened)) is not None:
            return no
        if kind == "invoke":
            return await self._press(happened)
        await self._command(happened)
        return web.Response()

    async def _objection(self, request: web.Request, happened: Activity) -> web.Response | None:
        account = happened.account
        if not self.counter.listens_to(account):
            await self.guard.note(request, "the tenant is not listed", account)
            return refusal(403, "This tenant is not one that the bastion listens to.")
        if not await self.guard.is_fresh(f"{happened.conversation} {happened.id}"):
            await self.guard.note(request, "the same activity came twice", account)
            return refusal(401, "This request has been received before.")
        return None

    async def _command(self, happened: Activity) -> None:
        reply = await self.counter.command(_text(happened.payload), happened.account, happened.id)
        self.errands.run(self._tell(happened, reply))

    async def _tell(self, happened: Activity, reply: Reply) -> None:
        to_all = isinstance(reply, Announcement) and (self.board is None or reply.subject is None)
        if not to_all and not happened.personal:
            await self.connector.whisper(
                happened.service_url, happened.account.user, happened.account.workspace, plain(reply)
            )
            return
        body = plain(reply)
        if to_all and isinstance(reply, Announcement) and reply.subject is not None:
            card = await self.counter.card(reply.subject)
            body = activity(Card(reply.text, card.buttons), "card")
        await self.connector.post(happened.service_url, happened.conversation, body)

    async def _press(self, happened: Activity) -> web.Response:
        try:
            button, row = _pressed(happened.payload)
        except ValueError as error:
            return refusal(400, f"This is no button of ours: {error}.")
        reply = await self.counter.press(button, happened.account, happened.id)
        if isinstance(reply, Private) and reply.link is not None:
            return _said(MESSAGE, plain(reply)["text"])
        card = await self.counter.card_again(button, row)
        message = happened.payload.get("replyToId")
        if isinstance(message, str) and message:
            self.errands.run(
                self.connector.update(happened.service_url, happened.conversation, message, activity(card, row))
            )
        if isinstance(reply, Private):
            return _said(MESSAGE, plain(reply)["text"])
        return _said(CARD, adaptive(card, row))


def _said(kind: str, value: Any) -> web.Response:
    """The answer to a press: for the one who pressed."""
    return web.json_response({"statusCode": 200, "type": kind, "value": value})


def _pressed(payload: Mapping[str, Any]) -> tuple[Button, str]:
    if payload.get("name") != "adaptiveCard/action":
        raise ValueError("it is another invoke")
    data = _object(_object(_object(payload, "value"), "action"), "data")
    return Button.parse(str(data.get("code", ""))), str(data.get("row", ""))


def _read(payload: Mapping[str, Any]) -> Activity:
    sender, conversation = _object(payload, "from"), _object(payload, "conversation")
    channel_data = payload.get("channelData")
    tenant_data = channel_data.get("tenant") if isinstance(channel_data, dict) else None
    tenant = conversation.get("tenantId") or (tenant_data.get("id") if isinstance(tenant_data, dict) else None)
    user = sender.get("id")
    if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant.lower()):
        raise ValueError("the tenant is missing")
    # In a channel that tenants share it must be clear whose the sender is; where it is not, nobody is listened to.
    if isinstance(tenant_data, dict) and tenant_data.get("id", tenant) != tenant:
        raise ValueError("two tenants are named")
    if not isinstance(user, str) or not _USER.fullmatch(user):
        raise ValueError("the sender is missing")
    if not all(isinstance(value, str) and value for value in (payload.get("id"), conversation.get("id"))):
        raise ValueError("the conversation is missing")
    return Activity(
        account=Account(PLATFORM, tenant.lower(), user, "", printable(str(sender.get("name", "")))),
        id=str(payload["id"]),
        conversation=str(conversation["id"]),
        service_url=str(payload["serviceUrl"]),
        personal=conversation.get("conversationType") == "personal",
        payload=payload,
    )


def _text(payload: Mapping[str, Any]) -> str:
    """What was typed, without the mention of the bot, and other mentions by the ids that Teams gives for them."""
    text = str(payload.get("text", ""))
    recipient = payload.get("recipient")
    bot = recipient.get("id") if isinstance(recipient, dict) else None
    pieces = [(text, False)]
    entities = payload.get("entities")
    for entity in entities if isinstance(entities, list) else []:
        mentioned = entity.get("mentioned") if isinstance(entity, dict) and entity.get("type") == "mention" else None
        shown = entity.get("text") if isinstance(entity, dict) else None
        if not isinstance(mentioned, dict) or not isinstance(shown, str) or not shown:
            continue
        user = mentioned.get("id")
        known = isinstance(user, str) and _USER.fullmatch(user)
        pieces = _replaced(pieces, shown, "" if user == bot else f"<@{user}>" if known else wire_text(shown))
    said = "".join(piece if done else wire_text(piece) for piece, done in pieces).strip()
    return said.removeprefix("/bastion").strip()


def _replaced(pieces: list[tuple[str, bool]], old: str, new: str) -> list[tuple[str, bool]]:
    """The first ``old`` in what is not done yet, replaced by what is."""
    for index, (piece, done) in enumerate(pieces):
        before, found, after = piece.partition(old)
        if found and not done:
            return [*pieces[:index], (before, False), (new, True), (after, False), *pieces[index + 1 :]]
    return pieces


def _object(payload: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = payload.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{key} is missing")
    return value
