"""What every chat's door does before it reads anything: bounds, replays, and the events of who was refused."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web

from bastion.access.linking import Account
from bastion.console.caller import peer_address
from bastion.core.audit import Event, Kind
from bastion.core.geofence import Place
from bastion.ports import Clock, Coordination, Locator, Store

MAX_BODY = 16 * 1024
"""Bytes; a command has at most 4,000 characters, and the fields beside it are short."""

MAX_INTERACTION = 64 * 1024
"""Bytes; a pressed button brings the whole message it was on."""

READ_SECONDS = 3
"""For the whole body to arrive; chats wait no longer than this for the answer."""

MAX_SKEW = timedelta(minutes=5)
"""Between a signature's time and ours; Slack's own recommendation, and used for every platform that signs a time."""

REMEMBERED = 2 * MAX_SKEW + timedelta(minutes=1)
"""A signature may come from five minutes ahead and count until five minutes behind; a minute for the edges."""

MAX_REFUSALS = 20
"""Events a minute for requests that the chat did not sign: strangers must not fill the audit log."""


class Guard:
    """One platform's memory of what it has seen, and its voice in the audit log."""

    def __init__(
        self, *, platform: str, coordination: Coordination, store: Store, locator: Locator, clock: Clock, node: str
    ) -> None:
        self.platform = platform
        self._coordination = coordination
        self._store = store
        self._locator = locator
        self._clock = clock
        self._node = node

    def now(self) -> datetime:
        return self._clock.now()

    async def is_fresh(self, proof: str) -> bool:
        """Whether this signature was not seen before, on any node."""
        return await self._coordination.put_once(f"{self.platform}-signature:{_digest(proof)}", b"", REMEMBERED)

    async def is_first(self, workspace: str, invocation: str) -> bool:
        """Platforms sign their retries anew; the invocation is the same. What was begun once is not begun again."""
        key = f"{self.platform}-trigger:{_digest(f'{workspace} {invocation}')}"
        return await self._coordination.put_once(key, b"", REMEMBERED)

    async def note(self, request: web.Request, reason: str, account: Account | None = None) -> None:
        """Write that a request over HTTP was refused."""
        await self._write(self._locator.locate(peer_address(request)), reason, account)

    async def note_account(self, reason: str, account: Account) -> None:
        """The same, for what came over a connection that we opened."""
        await self._write(None, reason, account)

    async def _write(self, place: Place | None, reason: str, account: Account | None) -> None:
        address = str(place.address) if place is not None else None
        source = address or "socket"
        refusals = await self._coordination.count(f"{self.platform}-refusals:{source}", timedelta(minutes=1))
        if refusals.number > MAX_REFUSALS:
            return
        details = {"platform": self.platform}
        if account is not None:
            details |= {"workspace": account.workspace, "user": account.user}
        event = Event(
            Kind.CHAT_REFUSED,
            at=self._clock.now(),
            node=self._node,
            address=address,
            country=place.country if place is not None else None,
            reasons=(reason,),
            details=details,
        )
        async with self._store.transaction() as tx:
            await tx.append(event)


async def body_of(request: web.Request, limit: int) -> bytes | None:
    """The body as it arrived, or None when it is larger than ``limit``; no more than that is ever kept."""
    if (request.content_length or 0) > limit:
        return None
    raw = bytearray()
    async with asyncio.timeout(READ_SECONDS):
        async for chunk in request.content.iter_any():
            raw += chunk
            if len(raw) > limit:
                return None
    return bytes(raw)


def header_once(request: web.Request, name: str) -> str | None:
    """The value of a header that is there exactly once: of two, a proxy and we might read different ones."""
    values = request.headers.getall(name, [])
    return values[0] if len(values) == 1 else None


def without_duplicates(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    """For ``object_pairs_hook``. Raises `ValueError` when a key is there twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def read_object(text: str | bytes) -> dict[str, Any]:
    """A JSON object, each key once. Raises `ValueError`."""
    try:
        value = json.loads(text, object_pairs_hook=without_duplicates)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is not an object")
    return value


def refusal(status: int, sentence: str) -> web.Response:
    """What somebody gets who is not the chat, or speaks none of its forms."""
    return web.json_response({"error": sentence}, status=status)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
