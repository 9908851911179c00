"""Slack by Socket Mode: the bastion opens the connection, and nothing has to reach it.

https://docs.slack.dev/apis/events-api/using-socket-mode

Nothing that comes over it is signed; that it is Slack is proven by TLS and by the app token that asked for the address.
The workspace, the account and everything after it are judged as over HTTP.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Mapping
from typing import Any, assert_never
from urllib.parse import urlsplit

import aiohttp
import structlog

from bastion.access.linking import Account
from bastion.chatops.guard import MAX_INTERACTION, Guard, read_object
from bastion.chatops.slack.face import Face
from bastion.chatops.slack.outgoing import SlackApi
from bastion.chatops.slack.wire import (
    Challenge,
    Followed,
    HomeOpened,
    OtherEvent,
    Pressed,
    SlashCommand,
    Submitted,
    read_command,
    read_event,
    read_interaction,
)
from bastion.core.errors import BastionError, Unavailable

MAX_MESSAGE = 4 * MAX_INTERACTION
"""Bytes; what Slack wraps around an interaction is small."""

HEARTBEAT = 20
"""Seconds between pings; half of it without an answer is a dead connection."""

MAX_PAUSE = 30
"""Seconds before the next try, after several that failed."""

MAX_AT_ONCE = 20
"""Envelopes that are being answered; the next waits in the connection."""

Wanted = SlashCommand | Pressed | Followed | Submitted | HomeOpened | Challenge | OtherEvent

log = structlog.get_logger(__name__)


class Socket:
    """One connection after the other, until `run` is cancelled. Slack closes each after some hours, and says so."""

    def __init__(
        self, *, face: Face, guard: Guard, api: SlackApi, app_token: str, session: aiohttp.ClientSession
    ) -> None:
        self._face = face
        self._guard = guard
        self._api = api
        self._app_token = app_token
        self._session = session

    async def run(self) -> None:
        """Listen for ever. An unreachable Slack is tried again, ever less often; the rest of the node works on."""
        pause = 1
        while True:
            try:
                await self.listen(await self._api.socket_url(self._app_token))
                pause = 1
            except (BastionError, aiohttp.ClientError, OSError, TimeoutError) as error:
                log.warning("no socket to Slack", error=str(error), pause=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_PAUSE)

    async def listen(self, url: str) -> None:
        """Answer what comes over one connection, until Slack closes it.

        Raises:
            Unavailable: the address is not behind TLS; nothing was opened.
        """
        _check_address(url)
        waiting = asyncio.Semaphore(MAX_AT_ONCE)
        async with (
            self._session.ws_connect(url, heartbeat=HEARTBEAT, max_msg_size=MAX_MESSAGE) as socket,
            asyncio.TaskGroup() as answering,
        ):
            log.info("Slack's socket is open")
            async for message in socket:
                envelope = _envelope(message)
                if envelope is None:
                    continue
                if envelope.get("type") == "disconnect":
                    break
                await waiting.acquire()
                task = answering.create_task(self._answer(socket, envelope))
                task.add_done_callback(lambda _: waiting.release())

    async def _answer(self, socket: aiohttp.ClientWebSocketResponse, envelope: Mapping[str, Any]) -> None:
        """One envelope. Its failure is its own: the log has it, and the connection goes on."""
        number = envelope.get("envelope_id")
        if not isinstance(number, str) or not number:
            return
        try:
            said = await self._carry_out(envelope, number)
        except ValueError as error:
            log.warning("Slack sent what cannot be read", error=str(error))
            said = {}
        except BastionError as error:
            log.warning("an envelope of Slack was not answered", error=str(error))
            return
        except Exception:
            log.exception("an envelope of Slack failed")
            return
        try:
            await socket.send_str(json.dumps({"envelope_id": number} | ({"payload": said} if said else {})))
        except ConnectionError:
            log.info("Slack's socket closed before an answer")

    async def _carry_out(self, envelope: Mapping[str, Any], number: str) -> dict[str, Any]:
        wanted = _read(envelope)
        if isinstance(wanted, Followed | Challenge | OtherEvent):
            return {}
        if not self._face.listens_to(wanted.account):
            await self._guard.note_account("the workspace is not listed", wanted.account)
            return {}
        fresh = await self._is_fresh(wanted.account, number)
        match wanted:
            case SlashCommand():
                return await self._face.command(wanted, fresh=fresh)
            case HomeOpened():
                await self._face.home(wanted)
                return {}
            case Pressed() | Submitted():
                return await self._face.interaction(wanted) if fresh else {}
            case _:
                assert_never(wanted)

    async def _is_fresh(self, account: Account, number: str) -> bool:
        return await self._guard.is_first(account.workspace, f"envelope {number}")


def _envelope(message: aiohttp.WSMessage) -> Mapping[str, Any] | None:
    if message.type is not aiohttp.WSMsgType.TEXT:
        return None
    try:
        envelope = read_object(message.data)
    except ValueError:
        return None
    return None if envelope.get("type") == "hello" else envelope


def _read(envelope: Mapping[str, Any]) -> Wanted:
    payload = envelope.get("payload")
    if not isinstance(payload, dict):
        raise ValueError("an envelope without payload")
    match envelope.get("type"):
        case "slash_commands":
            return read_command(payload)
        case "interactive":
            return read_interaction(payload)
        case "events_api":
            return read_event(payload)
        case _:
            return OtherEvent()


def _check_address(url: str) -> None:
    """Only TLS proves who is at the other end. Raises `Unavailable`."""
    parts = urlsplit(url)
    if parts.scheme != "wss" and not (parts.scheme == "ws" and _is_loopback(parts.hostname)):
        raise Unavailable("Slack's socket is not behind TLS.")


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
