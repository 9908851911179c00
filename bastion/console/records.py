"""Sessions, recordings and the audit log over the JSON API.

Lists are JSON. Recordings and followed events are streams of lines: what goes wrong before the first line is an
ordinary error answer, what goes wrong later is said in a last line, ``# error: …``, and the connection is cut.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Any, Literal

import structlog
from aiohttp import web

from bastion.access.replay import Replay, Viewer
from bastion.console.caller import caller_of
from bastion.console.filters import read_filter, read_flag, read_limit, read_query
from bastion.core.audit import Event, EventFilter
from bastion.core.errors import BastionError, Refused
from bastion.core.recording import Export, Header, Lines
from bastion.core.session import Session
from bastion.core.target import printable
from bastion.ports import Clock

POLL_SECONDS = 0.2
"""Between looks for new events; what is written is seen within half a second."""

HEARTBEAT_SECONDS = 10
"""Between empty lines on a silent stream: they find out that the other side is gone."""

FOLLOW_LIMIT = timedelta(hours=1)
"""A login lasts as long; whoever follows for longer asks again with a new one."""

CHUNK = 64 * 1024
"""Bytes that are collected before they are sent."""

log = structlog.get_logger("bastion.console")

ERROR_LINE = b"# error: "
"""Begins the last line of a stream that could not be finished; a comment, to an asciicast player."""


def routes(*, replay: Replay, clock: Clock) -> list[web.RouteDef]:
    """The routes under ``/api/v1``. What a caller may see is decided by `Replay`."""
    api = _Api(replay, clock)
    return [
        web.get("/api/v1/sessions", api.sessions, allow_head=False),
        web.get("/api/v1/sessions/{id}", api.session, allow_head=False),
        web.get("/api/v1/sessions/{id}/recording", api.recording, allow_head=False),
        web.get("/api/v1/events", api.events, allow_head=False),
    ]


class _Api:
    def __init__(self, replay: Replay, clock: Clock) -> None:
        self._replay = replay
        self._clock = clock

    async def sessions(self, request: web.Request) -> web.Response:
        viewer = await _viewer(request)
        query = read_query(request, "live", "identity", "target", "limit")
        found = await self._replay.sessions(
            viewer,
            live=read_flag(query, "live"),
            identity=query.get("identity"),
            target=query.get("target"),
            limit=read_limit(query, 200),
        )
        return web.json_response({"sessions": [_session(session) for session in found]})

    async def session(self, request: web.Request) -> web.Response:
        viewer = await _viewer(request)
        read_query(request)
        return web.json_response(_session(await self._replay.session(viewer, request.match_info["id"])))

    async def recording(self, request: web.Request) -> web.StreamResponse:
        viewer = await _viewer(request)
        query = read_query(request, "format", "follow")
        style = request.query.get("format", "v3")
        if style not in ("v2", "v3", "raw"):
            raise web.HTTPBadRequest(text="format is v2, v3 or raw.")
        follow = read_flag(query, "follow") or False
        session = await self._replay.session(viewer, request.match_info["id"])
        lines = await self._replay.transcript(viewer, session.id, follow=follow)
        if follow:
            until = self._clock.now() + FOLLOW_LIMIT
            lines = _while(lines, lambda: self._clock.now() < until and self._replay.may_go_on(viewer, session))
        if style != "raw":
            lines = _exported(lines, 2 if style == "v2" else 3)
        name = f'attachment; filename="{session.id}.cast"'
        headers = {"Content-Type": "application/x-asciicast", "Content-Disposition": name}
        return await _send(request, lines, headers, at_once=follow)

    async def events(self, request: web.Request) -> web.StreamResponse:
        viewer = await _viewer(request)
        query = read_query(
            request, "kind", "identity", "target", "scope", "session", "grant", "since", "after_seq", "limit", "follow"
        )
        wanted = read_filter(query, self._clock.now())
        follow = read_flag(query, "follow") or False
        lines = self._events(viewer, wanted, follow=follow)
        return await _send(request, lines, {"Content-Type": "application/jsonl"}, at_once=follow)

    async def _events(self, viewer: Viewer, wanted: EventFilter, *, follow: bool) -> AsyncIterator[bytes]:
        until = self._clock.now() + FOLLOW_LIMIT
        silence = HEARTBEAT_SECONDS if follow else 0.0  # so that a stream begins at once, with whatever it has
        while True:
            seen = await self._replay.events(viewer, wanted)  # what the viewer may see is asked each time
            for event in seen.events:
                yield _event(event)
                silence = 0.0
            if not follow or self._clock.now() >= until:
                return
            if silence >= HEARTBEAT_SECONDS:
                yield b"\n"
                silence = 0.0
            wanted = replace(wanted, after_seq=seen.upto)
            await asyncio.sleep(POLL_SECONDS)
            silence += POLL_SECONDS


async def _send(
    request: web.Request, lines: AsyncIterator[bytes], headers: dict[str, str], *, at_once: bool
) -> web.StreamResponse:
    """Stream ``lines``. Nothing is answered before the first of them is there."""
    response = web.StreamResponse(headers=headers)
    waiting = bytearray()
    try:
        async for line in lines:
            waiting += line
            if at_once or len(waiting) >= CHUNK or not response.prepared:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(bytes(waiting))
                waiting.clear()
        if not response.prepared:
            await response.prepare(request)
        await response.write(bytes(waiting))
        await response.write_eof()
    except BastionError as error:
        if not response.prepared:
            raise
        log.warning("stream cut short", error=printable(str(error), 500))
        await response.write(bytes(waiting) + ERROR_LINE + printable(error.public, 1000).encode() + b"\n")
        if request.transport is not None:
            request.transport.close()  # what was written still goes out; the end of the stream does not
    except ConnectionError:
        pass  # nobody listens any more
    finally:
        with suppress(AttributeError):
            await lines.aclose()  # type: ignore[attr-defined]  # every iterator here is a generator
    return response


async def _while(lines: AsyncIterator[bytes], allowed: Callable[[], bool]) -> AsyncIterator[bytes]:
    """``lines`` as long as it is allowed, with an empty one now and then in silence."""
    coming: asyncio.Future[bytes] | None = None
    try:
        while True:
            coming = coming or asyncio.ensure_future(anext(lines))
            done, _ = await asyncio.wait({coming}, timeout=HEARTBEAT_SECONDS)
            if not allowed():
                raise Refused("You may not follow this session any longer.")
            if not done:
                yield b"\n"
                continue
            line, coming = coming, None
            try:
                yield line.result()
            except StopAsyncIteration:
                return
    finally:
        if coming is not None:
            coming.cancel()
            await asyncio.wait({coming})
        await lines.aclose()  # type: ignore[attr-defined]


async def _exported(lines: AsyncIterator[bytes], version: Literal[2, 3]) -> AsyncIterator[bytes]:
    export, reader = None, Lines()
    try:
        async for line in lines:
            if export is None:
                export = Export(version, Header.parse(line))
                yield export.begin()
            elif (entry := reader.read(line)) is not None:
                yield export.add(entry)
            else:
                yield b"\n"
        if export is not None:
            yield export.end()
    finally:
        await lines.aclose()  # type: ignore[attr-defined]


async def _viewer(request: web.Request) -> Viewer:
    caller = await caller_of(request)
    return Viewer(caller.identity, caller.place)


def _session(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "state": session.state,
        "node": session.node,
        "identity": str(session.identity),
        "display": session.display,
        "target": session.target,
        "scope": str(session.scope),
        "login": session.login,
        "action": session.action.value,
        "command": session.command,
        "grant": session.grant_id,
        "certificate": str(session.certificate_serial),
        "address": session.address,
        "country": session.country,
        "started_at": session.started_at.astimezone(UTC).isoformat(),
        "until": session.until.astimezone(UTC).isoformat(),
        "ended_at": session.ended_at.astimezone(UTC).isoformat() if session.ended_at else None,
        "end": session.end.value if session.end else None,
        "exit_status": session.exit_status,
    }


def _event(event: Event) -> bytes:
    return json.dumps({"seq": event.seq, **json.loads(event.to_json())}, ensure_ascii=False).encode() + b"\n"
