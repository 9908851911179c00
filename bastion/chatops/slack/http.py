"""Slack over HTTP: ``POST /chat/slack``, ``/chat/slack/interactive`` and ``/chat/slack/events``.

Checked, in this order: size, content type and encoding; the signature over the body as it arrived; its time; that it
was not seen before; the workspace; and only then what it says.

Not checked, because Slack does not say it: whether the user is a guest of the workspace, and where they are.
It does not matter who they are to Slack: an account counts for the identity that linked it, and for nothing before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from bastion.access.linking import Account
from bastion.chatops.desk import Desk
from bastion.chatops.errands import Errands
from bastion.chatops.guard import MAX_BODY, MAX_INTERACTION, Guard, body_of, header_once, read_object, refusal
from bastion.chatops.slack.face import Face
from bastion.chatops.slack.outgoing import SlackApi
from bastion.chatops.slack.signature import verify
from bastion.chatops.slack.wire import (
    Challenge,
    Followed,
    HomeOpened,
    read_command,
    read_event,
    read_form,
    read_interaction,
)
from bastion.core.errors import Unauthenticated
from bastion.ports import Clock, Coordination, Locator, Store

_FORM, _JSON = "application/x-www-form-urlencoded", "application/json"

T = TypeVar("T")


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
    api: SlackApi | None = None,
    errands: Errands | None = None,
) -> list[web.RouteDef]:
    """The routes. Empty ``workspaces`` listen to nobody; without ``api`` there are commands alone.

    Raises:
        ValueError: the signing secret is empty, and anybody could sign.
    """
    if not signing_secret:
        raise ValueError("the Slack signing secret is empty")
    guard = guard_of(coordination=coordination, store=store, locator=locator, clock=clock, node=node)
    face = Face(desk=desk, guard=guard, workspaces=workspaces, api=api, errands=errands or Errands())
    slack = _Slack(face, guard, signing_secret)
    found = [web.post("/chat/slack", slack.command)]
    if api is not None:
        found += [
            web.post("/chat/slack/interactive", slack.interactive),
            web.post("/chat/slack/events", slack.events),
        ]
    return found


def guard_of(*, coordination: Coordination, store: Store, locator: Locator, clock: Clock, node: str) -> Guard:
    """Slack's guard; over HTTP and over a socket it remembers the same things."""
    return Guard(platform="slack", coordination=coordination, store=store, locator=locator, clock=clock, node=node)


@dataclass(frozen=True, slots=True)
class _Verified:
    """A body that Slack signed, and whether it came for the first time."""

    raw: bytes
    fresh: bool
    retry: bool


@dataclass(frozen=True, slots=True)
class _Slack:
    face: Face
    guard: Guard
    secret: str

    async def command(self, request: web.Request) -> web.Response:
        """Answered with 200 once Slack and the workspace are certain; people read nothing else."""
        verified = await self._verified(request, _FORM, MAX_BODY, "A slash command")
        if isinstance(verified, web.Response):
            return verified
        command = _read(lambda: read_command(read_form(verified.raw)), "a slash command")
        if isinstance(command, web.Response):
            return command
        if (no := await self._objection(request, verified, command.account)) is not None:
            return no
        said = await self.face.command(command, fresh=verified.fresh)
        return web.json_response(said) if said else web.Response()

    async def interactive(self, request: web.Request) -> web.Response:
        """Buttons and forms. Slack does not repeat them, so whoever does is not Slack."""
        verified = await self._verified(request, _FORM, MAX_INTERACTION, "An interaction")
        if isinstance(verified, web.Response):
            return verified
        read = lambda: read_interaction(read_object(read_form(verified.raw).get("payload", "")))  # noqa: E731
        interaction = _read(read, "an interaction")
        if isinstance(interaction, web.Response):
            return interaction
        if isinstance(interaction, Followed):
            return web.Response()
        verified = _Verified(verified.raw, verified.fresh, retry=False)
        if (no := await self._objection(request, verified, interaction.account)) is not None:
            return no
        said = await self.face.interaction(interaction)
        return web.json_response(said) if said else web.Response()

    async def events(self, request: web.Request) -> web.Response:
        verified = await self._verified(request, _JSON, MAX_INTERACTION, "An event")
        if isinstance(verified, web.Response):
            return verified
        event = _read(lambda: read_event(read_object(verified.raw)), "an event")
        match event:
            case web.Response():
                return event
            case Challenge(text):
                return web.json_response({"challenge": text})
            case HomeOpened(account):
                if (no := await self._objection(request, verified, account)) is not None:
                    return no
                if verified.fresh:
                    await self.face.home(event)
                return web.Response()
            case _:
                return web.Response()

    async def _verified(
        self, request: web.Request, content_type: str, limit: int, what: str
    ) -> _Verified | web.Response:
        if request.content_type != content_type or "Content-Encoding" in request.headers:
            return refusal(415, f"{what} is {content_type}, not encoded further.")
        raw = await body_of(request, limit)
        if raw is None:
            return refusal(413, f"{what} has at most {limit} bytes.")
        try:
            signature = self._signature(request, raw)
        except Unauthenticated as error:
            await self.guard.note(request, error.public)
            return refusal(401, error.public)
        return _Verified(raw, await self.guard.is_fresh(signature), "X-Slack-Retry-Num" in request.headers)

    def _signature(self, request: web.Request, raw: bytes) -> str:
        timestamp = header_once(request, "X-Slack-Request-Timestamp")
        signature = header_once(request, "X-Slack-Signature")
        if timestamp is None or signature is None:
            raise Unauthenticated("The request is not signed: X-Slack-Signature and X-Slack-Request-Timestamp, once.")
        verify(raw, timestamp=timestamp, unverified_signature=signature, secret=self.secret, now=self.guard.now())
        return signature

    async def _objection(self, request: web.Request, verified: _Verified, account: Account) -> web.Response | None:
        if not verified.fresh and not verified.retry:
            await self.guard.note(request, "the same signed request came twice", account)
            return refusal(401, "This request has been received before.")
        if not self.face.listens_to(account):
            await self.guard.note(request, "the workspace is not listed", account)
            return refusal(403, "This workspace is not one that the bastion listens to.")
        return None


def _read(reader: Callable[[], T], what: str) -> T | web.Response:
    try:
        return reader()
    except ValueError as error:
        return refusal(400, f"This is not {what}: {error}.")
