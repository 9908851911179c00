"""Bodies of the API to wishes, and requests and grants to JSON: what `bastion.console.openapi` describes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, assert_never

from aiohttp import web

from bastion.access.ballot import Answer, Granted, TurnedDown, WaitingForOthers
from bastion.access.drafting import MoreTime
from bastion.access.ending import Acknowledgement
from bastion.access.standing import Held, Pending, Reviewable, Told
from bastion.access.wish import Wish, parse_actions, parse_network, parse_start
from bastion.chatops import messages
from bastion.core.errors import Refused
from bastion.core.files import parse_paths
from bastion.core.grant import Grant, Request, Verdict, parse_duration, spell
from bastion.core.identity import Identity

WISH = ("targets", "logins", "duration", "reason")
NARROWER = ("crossing", "actions", "starts_at", "network", "paths", "ticket")
"""What a wish may say besides."""


def text_of(body: Mapping[str, Any], name: str, absent: str = "") -> str:
    """The string under ``name``.

    Raises:
        HTTPBadRequest: it is something else.
    """
    value = body.get(name, absent)
    if not isinstance(value, str):
        raise web.HTTPBadRequest(text=f"{name} is not a string.")
    return value


def wish_of(body: Mapping[str, Any], now: datetime) -> Wish:
    """A wish from a body that has the keys of `WISH`; all types are checked here.

    Raises:
        HTTPBadRequest: a value is not of its type.
        Refused: the duration, start, network, a path or an action cannot be read.
    """
    crossing = body.get("crossing", False)
    if not isinstance(crossing, bool):
        raise web.HTTPBadRequest(text="crossing is neither true nor false.")
    targets, logins = _texts(body, "targets"), _texts(body, "logins")
    duration, reason, ticket = (text_of(body, name) for name in ("duration", "reason", "ticket"))
    wish = Wish(targets, logins, parse_duration(duration), reason, crossing, ticket=ticket)
    return _narrowed(wish, body, now)


def more_time_of(body: Mapping[str, Any]) -> MoreTime:
    """What an extension asks for.

    Raises:
        HTTPBadRequest: a value is not of its type.
        Refused: the duration cannot be read.
    """
    duration, reason, ticket = (text_of(body, name) for name in ("duration", "reason", "ticket"))
    seen = text_of(body, "seen_end")
    return MoreTime(parse_duration(duration), reason, ticket, _instant(seen, "seen_end") if seen else None)


def verdict_of(body: Mapping[str, Any]) -> Verdict:
    """Raises HTTPBadRequest: it is none."""
    try:
        return Verdict(text_of(body, "verdict"))
    except ValueError:
        raise web.HTTPBadRequest(text="verdict is approve or refuse.") from None


def answer_json(answer: Answer, text: str | None = None) -> dict[str, Any]:
    """Where a request stands after something was done to it."""
    said = messages.answered(answer) if text is None else text
    body: dict[str, Any] = {"request": request_json(answer.request, answer.beneficiary), "text": said}
    match answer:
        case Granted(_, beneficiary, grant, _):
            return body | {"status": "granted", "grant": grant_json(grant, beneficiary)}
        case WaitingForOthers(_, _, missing):
            return body | {"status": "waiting", "missing": missing}
        case TurnedDown(_, _, reason):
            return body | {"status": "refused", "reason": reason}
        case _:
            assert_never(answer)


def acknowledgement_json(done: Acknowledgement) -> dict[str, Any]:
    return {
        "request": request_json(done.request, done.beneficiary),
        "grant": grant_json(done.grant, done.beneficiary),
        "missing": done.missing,
        "text": messages.acknowledged(done),
    }


def held_json(held: Sequence[Held], text: str) -> dict[str, Any]:
    return {"grants": [grant_json(each.grant, each.holder) for each in held], "text": text}


def pending_json(each: Pending) -> dict[str, Any]:
    return request_json(each.request, each.beneficiary) | {"answerable": each.answerable}


def told_json(told: Told) -> dict[str, Any]:
    """One request with its stage and what was answered."""
    reviews = [
        {
            "reviewer": str(review.reviewer.id),
            "display": review.reviewer.display,
            "verdict": review.verdict.value,
            "at": review.at.isoformat(),
            "note": review.note,
        }
        for review in told.life.reviews
    ]
    grant = told.life.grant
    return request_json(told.life.request, told.life.beneficiary) | {
        "stage": told.stage.value,
        "reviews": reviews,
        "grant": grant_json(grant, told.life.beneficiary) if grant else None,
    }


def reviewable_json(each: Reviewable) -> dict[str, Any]:
    return grant_json(each.grant, each.holder) | {
        "last_used": each.last_used.isoformat() if each.last_used else None,
        "unused": each.is_unused,
        "ending_soon": each.is_ending_soon,
    }


def request_json(request: Request, beneficiary: Identity) -> dict[str, Any]:
    return _common(request, beneficiary) | {
        "asker": str(request.asker),
        "duration": spell(request.duration),
        "approvals": request.demands.approvals,
        "reviewers": sorted(request.demands.reviewers),
        "asked_at": request.asked_at.isoformat(),
        "times_out_at": request.times_out_at.isoformat(),
        "starts_at": request.starts_at.isoformat() if request.starts_at else None,
        "ticket": request.ticket,
        "extends": request.extends,
        "break_glass": request.break_glass,
        "beside": sorted(request.beside),
    }


def grant_json(grant: Grant, holder: Identity) -> dict[str, Any]:
    return _common(grant, holder) | {
        "request": grant.request_id,
        "starts_at": grant.starts_at.isoformat(),
        "ends_at": grant.ends_at.isoformat(),
        "approved_by": [str(voter) for voter in grant.approved_by],
        "basis": grant.basis.value,
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
        "network": str(subject.network) if subject.network else None,
        "paths": sorted(subject.paths),
    }


def _narrowed(wish: Wish, body: Mapping[str, Any], now: datetime) -> Wish:
    if "actions" in body:
        wish = replace(wish, actions=parse_actions(_texts(body, "actions")))
    if start := text_of(body, "starts_at"):
        wish = replace(wish, starts_at=parse_start(start, now))
    if network := text_of(body, "network"):
        wish = replace(wish, network=parse_network(network))
    if "paths" in body:
        if not (paths := _texts(body, "paths")):
            raise Refused("Name at least one path, or leave them out to ask for everything.")
        wish = replace(wish, paths=parse_paths(paths))
    return wish


def _texts(body: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value: Collection[Any] = body[name]
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise web.HTTPBadRequest(text=f"{name} is not a list of strings.")
    return tuple(value)


def _instant(text: str, name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Refused(f"{name} is not an instant with its offset, such as 2026-03-02T09:00:00Z.")
    return moment
