"""Slack's slash commands over HTTP: ``POST /chat/slack``.

Checked, in this order: size, content type and encoding; the signature over the body as it arrived; its time; that it
was not seen before; the workspace; and only then what it says (https://docs.slack.dev/authentication/verifying-requests-from-slack).

Not checked, because a slash command does not say it: whether the user is a guest of the workspace, and where they are.
It does not matter who they are to Slack: an account counts for the identity that linked it, and for nothing before.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never
from urllib.parse import parse_qsl

from aiohttp import web

from bastion.access.linking import Account
from bastion.chatops import messages
from bastion.chatops.desk import Announcement, Desk, Private, Reply
from bastion.console.caller import peer_address
from bastion.core.audit import Event, Kind
from bastion.core.errors import Refused, Unauthenticated, Unavailable
from bastion.core.target import printable
from bastion.ports import Clock, Coordination, Locator, Store

MAX_BODY = 16 * 1024
"""Bytes; a command has at most 4,000 characters, and the fields beside it are short."""

READ_SECONDS = 3
"""For the whole body to arrive; Slack waits no longer than this for the answer."""

MAX_SKEW = timedelta(minutes=5)
"""Slack's own recommendation."""

REMEMBERED = 2 * MAX_SKEW + timedelta(minutes=1)
"""A signature may come from five minutes ahead and count until five minutes behind; a minute for the edges."""

MAX_REFUSALS = 20
"""Events a minute for requests that Slack did not sign: strangers must not fill the audit log."""

_FORM = "application/x-www-form-urlencoded"
_SIGNATURE = re.compile(rb"v0=[0-9a-f]{64}")
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_ACCOUNT = re.compile(r"[A-Z0-9]{1,40}", re.ASCII)
_MENTION = re.compile(r"(?<!\w)@(?=\w)")


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """A command that Slack signed. Only `read` makes one, from a body that `verify` has let pass."""

    account: Account
    text: str
    trigger: str
    """Slack's id of this one invocation; its retries have the same."""


def verify(raw: bytes, *, timestamp: str, unverified_signature: str, secret: str, now: datetime) -> None:
    """That Slack signed ``raw``, within `MAX_SKEW` of ``now``.

    Raises:
        Unauthenticated: it did not, or not then; nothing of ``raw`` was read.
    """
    if not _TIMESTAMP.fullmatch(timestamp):
        raise Unauthenticated("The request has no usable X-Slack-Request-Timestamp.")
    expected = "v0=" + hmac.new(secret.encode(), b"v0:%b:%b" % (timestamp.encode(), raw), hashlib.sha256).hexdigest()
    # As bytes: compare_digest raises on text that is not ASCII.
    if not hmac.compare_digest(expected.encode(), unverified_signature.encode(errors="replace")):
        raise Unauthenticated("The request is not signed by Slack with the configured signing secret.")
    if abs(now.timestamp() - int(timestamp)) > MAX_SKEW.total_seconds():
        raise Unauthenticated("The request was signed more than five minutes from now; check the clock of this host.")


def read(raw: bytes) -> SlashCommand:
    """The command in a verified body.

    Raises:
        ValueError: it is not one: not a form, a field twice, or one missing.
    """
    pairs = parse_qsl(
        raw.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=40
    )
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    if not (_ACCOUNT.fullmatch(fields.get("team_id", "")) and _ACCOUNT.fullmatch(fields.get("user_id", ""))):
        raise ValueError("team_id or user_id is missing")
    if not fields.get("trigger_id") or not fields.get("command"):
        raise ValueError("command or trigger_id is missing")
    account = Account(
        platform="slack",
        workspace=fields["team_id"],
        user=fields["user_id"],
        workspace_name=printable(fields.get("team_domain", "")),
        user_name=printable(fields.get("user_name", "")),
    )
    return SlashCommand(account, fields.get("text", ""), fields["trigger_id"])


def escape(text: str) -> str:
    """``text`` so that Slack shows it and obeys nothing in it: no mention pings, no control character passes."""
    shown = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # "@here" without brackets pings only where an app asks Slack to look for names; a word joiner stops that, too.
    return _MENTION.sub("@\N{WORD JOINER}", shown)


def answer(reply: Reply) -> dict[str, str]:
    """A reply as Slack wants it. The one real mention is made here, from an id that Slack sent."""
    match reply:
        case Private(text):
            return {"response_type": "ephemeral", "text": escape(text)}
        case Announcement(text, to):
            mention = f"<@{to.user}> " if to is not None else ""
            return {"response_type": "in_channel", "text": mention + escape(text)}
        case _:
            assert_never(reply)


def routes(
    *,
    desk: Desk,
    coordination: Coordination,
    store: Store,
    locator: Locator,
    clock: Clock,
    node: str,
    signing_secret: str,
    workspaces: Collection[str],
) -> list[web.RouteDef]:
    """The route. Empty ``workspaces`` listen to nobody.

    Raises:
        ValueError: the signing secret is empty, and anybody could sign.
    """
    if not signing_secret:
        raise ValueError("the Slack signing secret is empty")
    slack = _Slack(desk, coordination, store, locator, clock, node, signing_secret, frozenset(workspaces))
    return [web.post("/chat/slack", slack.receive)]


@dataclass(frozen=True, slots=True)
class _Slack:
    desk: Desk
    coordination: Coordination
    store: Store
    locator: Locator
    clock: Clock
    node: str
    secret: str
    workspaces: frozenset[str]

    async def receive(self, request: web.Request) -> web.Response:
        """Answered with 200 once Slack and the workspace are certain; people read nothing else."""
        if request.content_type != _FORM or "Content-Encoding" in request.headers:
            return _no(415, f"A slash command is {_FORM}, not encoded further.")
        raw = await _body(request)
        if raw is None:
            return _no(413, f"A slash command has at most {MAX_BODY} bytes.")
        try:
            signature = self._verified(request, raw)
            fresh = await self._is_fresh(signature)
            command = read(raw)
        except Unauthenticated as refusal:
            await self._note(request, refusal.public)
            return _no(401, refusal.public)
        except ValueError as error:
            return _no(400, f"This is not a slash command: {error}.")
        retry = "X-Slack-Retry-Num" in request.headers
        if not fresh and not retry:
            await self._note(request, "the same signed request came twice", command.account)
            return _no(401, "This request has been received before.")
        if command.account.workspace not in self.workspaces:
            await self._note(request, "the workspace is not listed", command.account)
            return _no(403, "This workspace is not one that the bastion listens to.")
        if not fresh or not await self._is_first(command):
            # Never the first answer again: it may hold a link that is for one person, and the retry header is unsigned.
            return web.json_response(answer(Private(messages.RECEIVED_BEFORE)))
        return web.json_response(answer(await self._carry_out(command)))

    def _verified(self, request: web.Request, raw: bytes) -> str:
        timestamps = request.headers.getall("X-Slack-Request-Timestamp", [])
        signatures = request.headers.getall("X-Slack-Signature", [])
        if len(timestamps) != 1 or len(signatures) != 1:
            raise Unauthenticated("The request is not signed: X-Slack-Signature and X-Slack-Request-Timestamp, once.")
        verify(
            raw,
            timestamp=timestamps[0],
            unverified_signature=signatures[0],
            secret=self.secret,
            now=self.clock.now(),
        )
        return signatures[0]

    async def _is_fresh(self, signature: str) -> bool:
        return await self.coordination.put_once(f"slack-signature:{signature}", b"", REMEMBERED)

    async def _is_first(self, command: SlashCommand) -> bool:
        """Slack signs its retries anew; the invocation is the same. What was begun once is not begun again."""
        trigger = hashlib.sha256(f"{command.account.workspace} {command.trigger}".encode()).hexdigest()
        return await self.coordination.put_once(f"slack-trigger:{trigger}", b"", REMEMBERED)

    async def _carry_out(self, command: SlashCommand) -> Reply:
        try:
            return await self.desk.carry_out(command.text, command.account)
        except Refused as refusal:
            return Private(refusal.public)
        except Unavailable:
            return Private(messages.OUT_OF_ORDER)

    async def _note(self, request: web.Request, reason: str, account: Account | None = None) -> None:
        place = self.locator.locate(peer_address(request))
        if await self.coordination.count(f"slack-refusals:{place.address}", timedelta(minutes=1)) > MAX_REFUSALS:
            return
        details = {"platform": "slack"}
        if account is not None:
            details |= {"workspace": account.workspace, "user": account.user}
        async with self.store.transaction() as tx:
            await tx.append(
                Event(
                    Kind.CHAT_REFUSED,
                    at=self.clock.now(),
                    node=self.node,
                    address=str(place.address),
                    country=place.country,
                    reasons=(reason,),
                    details=details,
                )
            )


async def _body(request: web.Request) -> bytes | None:
    """The body as it arrived, or None when it is too large; no more than `MAX_BODY` is ever kept."""
    if (request.content_length or 0) > MAX_BODY:
        return None
    raw = bytearray()
    async with asyncio.timeout(READ_SECONDS):
        async for chunk in request.content.iter_any():
            raw += chunk
            if len(raw) > MAX_BODY:
                return None
    return bytes(raw)


def _no(status: int, sentence: str) -> web.Response:
    return web.json_response({"error": sentence}, status=status)
