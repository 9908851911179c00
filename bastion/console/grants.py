"""Requests, reviews, grants and revocations over the JSON API.

Every answer has ``text``, the same sentences that the chat says, for a command line to print. What may be done is
decided in `bastion.access`; here bodies become wishes, and values become JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from aiohttp import web

from bastion.access.approval import Approval, Holding, Revoked
from bastion.access.ballot import Answer, Granted, TurnedDown, WaitingForOthers
from bastion.access.standing import Held, Pending, Standing
from bastion.access.wish import Wish
from bastion.chatops import messages
from bastion.console.body import read_object, read_strings
from bastion.console.caller import Caller, caller_of
from bastion.core.grant import Grant, Request, Verdict, parse_duration, spell
from bastion.core.identity import Identity
from bastion.ports import Clock

_WISH = ("targets", "logins", "duration", "reason")


def routes(*, approval: Approval, standing: Standing, clock: Clock) -> list[web.RouteDef]:
    """The routes under ``/api/v1``. Each asks the fence of its region; lists show regions that hold the caller."""
    api = _Api(approval, standing, clock)
    return [
        web.post("/api/v1/grants", api.grant),
        web.get("/api/v1/grants", api.grants, allow_head=False),
        web.post("/api/v1/grants/revoke", api.revoke_target),
        web.post("/api/v1/grants/{id}/revoke", api.revoke),
        web.post("/api/v1/requests", api.request),
        web.get("/api/v1/requests", api.requests, allow_head=False),
        web.post("/api/v1/requests/{id}/review", api.review),
        web.get("/api/v1/access", api.access, allow_head=False),
    ]


class _Api:
    def __init__(self, approval: Approval, standing: Standing, clock: Clock) -> None:
        self._approval = approval
        self._standing = standing
        self._clock = clock

    async def grant(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        body = await read_object(request, required=("who", *_WISH), optional=("crossing",))
        beneficiary = await self._who(caller, body["who"])
        answer = await self._approval.grant(caller.identity, beneficiary, _wish(body), caller.place)
        return web.json_response(_answer(answer), status=201)

    async def grants(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        held = await self._standing.grants(caller.identity, caller.place)
        return web.json_response(_held(held, messages.grants(held, now=self._clock.now())))

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

    async def request(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        wish = _wish(await read_object(request, required=_WISH, optional=("crossing",)))
        made = await self._approval.request(caller.identity, caller.identity, wish, caller.place)
        body = {"request": _request(made, caller.identity), "text": messages.asked(made, caller.identity)}
        return web.json_response(body, status=201)

    async def requests(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        waiting = await self._standing.pending(caller.identity, caller.place)
        return web.json_response({"requests": [_pending(each) for each in waiting], "text": messages.pending(waiting)})

    async def review(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        (word,) = await read_strings(request, "verdict")
        if word not in (verdict.value for verdict in Verdict):
            raise web.HTTPBadRequest(text="verdict is approve or refuse.")
        answer = await self._approval.review(request.match_info["id"], caller.identity, Verdict(word), caller.place)
        return web.json_response(_answer(answer))

    async def access(self, request: web.Request) -> web.Response:
        caller = await caller_of(request)
        held = await self._standing.access_of(caller.identity, caller.place)
        return web.json_response(_held(held, messages.access(held, now=self._clock.now())))

    async def _who(self, caller: Caller, who: object) -> Identity:
        if not isinstance(who, str):
            raise web.HTTPBadRequest(text="who is not a string.")
        return await self._standing.look_up(caller.identity, who, caller.place)


def _wish(body: dict[str, Any]) -> Wish:
    """A wish from a body that has the keys; their types are checked here.

    Raises:
        HTTPBadRequest: a value is not of its type.
        Refused: the duration cannot be read.
    """
    for name in ("targets", "logins"):
        if not isinstance(body[name], list) or not all(isinstance(each, str) for each in body[name]):
            raise web.HTTPBadRequest(text=f"{name} is not a list of strings.")
    for name in ("duration", "reason"):
        if not isinstance(body[name], str):
            raise web.HTTPBadRequest(text=f"{name} is not a string.")
    crossing = body.get("crossing", False)
    if not isinstance(crossing, bool):
        raise web.HTTPBadRequest(text="crossing is neither true nor false.")
    return Wish(
        tuple(body["targets"]), tuple(body["logins"]), parse_duration(body["duration"]), body["reason"], crossing
    )


def _answer(answer: Answer) -> dict[str, Any]:
    body: dict[str, Any] = {"request": _request(answer.request, answer.beneficiary), "text": messages.answered(answer)}
    match answer:
        case Granted(_, beneficiary, grant, _):
            return body | {"status": "granted", "grant": _grant(grant, beneficiary)}
        case WaitingForOthers(_, _, missing):
            return body | {"status": "waiting", "missing": missing}
        case TurnedDown(_, _, reason):
            return body | {"status": "refused", "reason": reason}
        case _:
            assert_never(answer)


def _revoked(ended: Revoked) -> dict[str, Any]:
    grants = [_grant(grant, ended.beneficiary) for grant in ended.grants]
    return {"grants": grants, "text": messages.revoked(ended)}


def _held(held: Sequence[Held], text: str) -> dict[str, Any]:
    return {"grants": [_grant(each.grant, each.holder) for each in held], "text": text}


def _pending(each: Pending) -> dict[str, Any]:
    return _request(each.request, each.beneficiary) | {"answerable": each.answerable}


def _request(request: Request, beneficiary: Identity) -> dict[str, Any]:
    return _common(request, beneficiary) | {
        "asker": str(request.asker),
        "duration": spell(request.duration),
        "approvals": request.demands.approvals,
        "reviewers": sorted(request.demands.reviewers),
        "asked_at": request.asked_at.isoformat(),
        "times_out_at": request.times_out_at.isoformat(),
    }


def _grant(grant: Grant, holder: Identity) -> dict[str, Any]:
    return _common(grant, holder) | {
        "request": grant.request_id,
        "starts_at": grant.starts_at.isoformat(),
        "ends_at": grant.ends_at.isoformat(),
        "approved_by": [str(voter) for voter in grant.approved_by],
        "revoked_at": grant.revoked_at.isoformat() if grant.revoked_at else None,
    }


def _common(subject: Request | Grant, person: Identity) -> dict[str, Any]:
    return {
        "id": subject.id,
        "identity": str(person.id),
        "display": person.display,
        "scope": str(subject.scope),
        "targets": sorted(subject.targets),
        "logins": sorted(subject.logins),
        "actions": sorted(subject.actions),
        "reason": subject.reason,
        "crossing": subject.crossing,
    }
