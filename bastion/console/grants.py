"""Requests, reviews, grants and revocations over the JSON API.

Every answer has ``text``, the same sentences that the chat says, for a command line to print. What may be done is
decided in `bastion.access`; bodies become wishes, and values become JSON, in `bastion.console.shapes`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import timedelta

from aiohttp import web

from bastion.access.approval import Approval, Holding, Revoked
from bastion.access.ballot import WaitingForOthers
from bastion.access.standing import Reviewable, Standing, Told
from bastion.chatops import messages
from bastion.console import shapes
from bastion.console.body import read_object, read_strings
from bastion.console.caller import Caller, caller_of
from bastion.console.filters import MAX_LIMIT, read_number, read_query, read_span
from bastion.core.identity import Identity
from bastion.core.request import Stage
from bastion.ports import Clock

MAX_WAIT = 20
"""Seconds that a caller may wait for the next answer; then they ask again."""

COLUMNS = ("id", "display", "identity", "scope", "targets", "logins", "basis", "starts_at", "ends_at", "last_used",
           "unused", "ending_soon", "approved_by", "reason")  # fmt: skip
"""Of the review of access as a table."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def routes(*, approval: Approval, standing: Standing, clock: Clock) -> list[web.RouteDef]:
    """The routes under ``/api/v1``. Each asks the fence of its region; lists show regions that hold the caller."""
    api = _Api(approval, standing, clock)
    return [
        web.post("/api/v1/grants", api.grant),
        web.get("/api/v1/grants", api.grants, allow_head=False),
        web.post("/api/v1/grants/revoke", api.revoke_target),
        web.post("/api/v1/grants/{id}/revoke", api.revoke),
        web.post("/api/v1/grants/{id}/extend", api.extend),
        web.post("/api/v1/requests", api.request),
        web.get("/api/v1/requests", api.requests, allow_head=False),
        web.get("/api/v1/requests/{id}", api.one_request, allow_head=False),
        web.post("/api/v1/requests/{id}/review", api.review),
        web.post("/api/v1/requests/{id}/withdraw", api.withdraw),
        web.post("/api/v1/requests/{id}/acknowledge", api.acknowledge),
        web.post("/api/v1/break-glass", api.break_glass),
        web.get("/api/v1/break-glass", api.owed, allow_head=False),
        web.get("/api/v1/access", api.access, allow_head=False),
        web.get("/api/v1/access/review", api.review_of_access, allow_head=False),
    ]


class _Api:
    def __init__(self, approval: Approval, standing: Standing, clock: Clock) -> None:
        self._approval = approval
        self._standing = standing
        self._clock = clock

    async def grant(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        body = await read_object(request, required=("who", *shapes.WISH), optional=shapes.NARROWER)
        wish, who = shapes.wish_of(body, self._clock.now()), shapes.text_of(body, "who")
        beneficiary = await self._who(caller, who)
        answer = await self._approval.grant(caller.identity, beneficiary, wish, caller.place)
        return web.json_response(shapes.answer_json(answer), status=201)

    async def grants(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        held = await self._standing.grants(caller.identity, caller.place)
        return web.json_response(shapes.held_json(held, messages.grants(held, now=self._clock.now())))

    async def revoke(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        await read_object(request, required=())
        ended = await self._approval.revoke(request.match_info["id"], caller.identity, caller.place)
        return web.json_response(_revoked(ended))

    async def revoke_target(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        who, target = await read_strings(request, "who", "target")
        beneficiary = await self._who(caller, who)
        ended = await self._approval.revoke(Holding(beneficiary, target), caller.identity, caller.place)
        return web.json_response(_revoked(ended))

    async def extend(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        body = await read_object(request, required=("duration", "reason"), optional=("ticket", "seen_end"))
        more = shapes.more_time_of(body)
        answer = await self._approval.extend(request.match_info["id"], caller.identity, more, caller.place)
        return web.json_response(shapes.answer_json(answer))

    async def request(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        body = await read_object(request, required=shapes.WISH, optional=shapes.NARROWER)
        wish = shapes.wish_of(body, self._clock.now())
        answer = await self._approval.ask(caller.identity, caller.identity, wish, caller.place)
        waits = isinstance(answer, WaitingForOthers)
        text = messages.asked(answer.request, caller.identity) if waits else messages.answered(answer)
        return web.json_response(shapes.answer_json(answer, text), status=201)

    async def requests(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        waiting = await self._standing.pending(caller.identity, caller.place)
        text = messages.pending(waiting)
        return web.json_response({"requests": [shapes.pending_json(each) for each in waiting], "text": text})

    async def one_request(self, request: web.Request) -> web.Response:
        """At once, or with ``wait`` when it has more than ``answers`` answers or waits for none any more."""
        query = read_query(request, "wait", "answers")
        seconds = read_number(query, "wait", 0, least=0, most=MAX_WAIT)
        seen = read_number(query, "answers", 0, least=0, most=MAX_LIMIT)
        told = await self._told(request)
        if seconds and told.stage is Stage.ASKED and len(told.life.reviews) <= seen:
            await self._standing.news_of(told.life.request.id, seen, timedelta(seconds=seconds))
            told = await self._told(request)  # whose login has ended meanwhile learns nothing more
        line = messages.asking(told.life.request, told.life.beneficiary)
        return web.json_response(shapes.told_json(told) | {"text": f"{line}\nIt is {told.stage}."})

    async def _told(self, request: web.Request) -> Told:
        caller = await caller_of(request)
        return await self._standing.one_request(caller.identity, request.match_info["id"], caller.place)

    async def review(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        body = await read_object(request, required=("verdict",), optional=("note",))
        verdict, note = shapes.verdict_of(body), shapes.text_of(body, "note")
        answer = await self._approval.review(request.match_info["id"], caller.identity, verdict, caller.place, note)
        return web.json_response(shapes.answer_json(answer))

    async def acknowledge(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        body = await read_object(request, required=("verdict",), optional=("note",))
        verdict, note = shapes.verdict_of(body), shapes.text_of(body, "note")
        done = await self._approval.acknowledge(request.match_info["id"], caller.identity, verdict, caller.place, note)
        return web.json_response(shapes.acknowledgement_json(done))

    async def withdraw(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        await read_object(request, required=())
        withdrawn = await self._approval.withdraw(request.match_info["id"], caller.identity, caller.place)
        body = {"request": shapes.request_json(withdrawn, caller.identity), "text": messages.withdrawn(withdrawn)}
        return web.json_response(body)

    async def break_glass(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        optional = [name for name in shapes.NARROWER if name != "starts_at"]
        body = await read_object(request, required=shapes.WISH, optional=optional)
        wish = shapes.wish_of(body, self._clock.now())
        answer = await self._approval.break_glass(caller.identity, wish, caller.place)
        return web.json_response(shapes.answer_json(answer), status=201)

    async def owed(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        owed = await self._standing.owed(caller.identity, caller.place)
        text = messages.pending(owed) if owed else "Nobody owes an answer for a break-glass."
        return web.json_response({"requests": [shapes.pending_json(each) for each in owed], "text": text})

    async def access(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        held = await self._standing.access_of(caller.identity, caller.place)
        return web.json_response(shapes.held_json(held, messages.access(held, now=self._clock.now())))

    async def review_of_access(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        query = read_query(request, "unused", "ending", "format")
        spans = read_span(query, "unused"), read_span(query, "ending")
        if request.query.get("format", "json") not in ("json", "csv"):
            raise web.HTTPBadRequest(text="format is json or csv.")
        found = await self._standing.review(caller.identity, caller.place, *spans)
        if query.get("format") == "csv":
            return web.Response(text=_table(found), content_type="text/csv", charset="utf-8")
        lines = [f"{messages.what(each.grant)}: {_remark(each)}" for each in found]
        text = "\n".join(f"{each.holder.display}, {line}" for each, line in zip(found, lines, strict=True))
        body = {"grants": [shapes.reviewable_json(each) for each in found], "text": text or "There is no such grant."}
        return web.json_response(body)

    async def _who(self, caller: Caller, who: str) -> Identity:
        return await self._standing.look_up(caller.identity, who, caller.place)


def _revoked(ended: Revoked) -> dict[str, object]:
    grants = [shapes.grant_json(grant, ended.beneficiary) for grant in ended.grants]
    return {"grants": grants, "text": messages.revoked(ended)}


def _remark(each: Reviewable) -> str:
    used = f"last used {messages.moment(each.last_used)}" if each.last_used else "never used"
    marks = [used, *(["unused"] if each.is_unused else []), *(["ending soon"] if each.is_ending_soon else [])]
    return f"{each.grant.id}, until {messages.moment(each.grant.ends_at)}, {', '.join(marks)}"


def _table(found: Sequence[Reviewable]) -> str:
    """CSV (RFC 4180). A spreadsheet must not take what people chose for a formula."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for each in found:
        shape = shapes.reviewable_json(each)
        writer.writerow([_cell(shape[column]) for column in COLUMNS])
    return out.getvalue()


def _cell(value: object) -> str:
    text = " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
