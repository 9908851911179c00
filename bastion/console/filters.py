"""Reading the filters in a query: known ones, each once, and a sentence for every one that means nothing.

Everything here raises `HTTPBadRequest`; nothing was looked up then.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from aiohttp import web

from bastion.core.audit import EventFilter, Kind
from bastion.core.errors import Refused
from bastion.core.grant import parse_duration
from bastion.core.target import Scope, printable

MAX_LIMIT = 5_000
"""Of one list."""


def read_query(request: web.Request, *known: str) -> dict[str, str]:
    """The query: keys that are known, each once, without empty values."""
    query: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known:
            raise web.HTTPBadRequest(
                text=f"There is no filter {printable(name)!r}; there are: {', '.join(known) or 'none'}."
            )
        if name in query:
            raise web.HTTPBadRequest(text=f"{name} is there twice.")
        query[name] = value
    return {name: value for name, value in query.items() if value}


def read_flag(query: dict[str, str], name: str) -> bool | None:
    """Yes, no, or not said."""
    match query.get(name):
        case None:
            return None
        case "1" | "true":
            return True
        case "0" | "false":
            return False
        case _:
            raise web.HTTPBadRequest(text=f"{name} is 1 or 0.")


def read_number(query: dict[str, str], name: str, default: int, *, least: int, most: int) -> int:
    """A whole number between ``least`` and ``most``, both included."""
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and least <= int(text) <= most):
        raise web.HTTPBadRequest(text=f"{name} is a number from {least} to {most}.")
    return int(text)


def read_span(query: dict[str, str], name: str) -> timedelta | None:
    """As in 7d; None where it is not said."""
    try:
        return parse_duration(query[name]) if name in query else None
    except Refused as refused:
        raise web.HTTPBadRequest(text=f"{name}: {refused.public}") from None


def read_limit(query: dict[str, str], default: int) -> int:
    """How many are wanted."""
    return read_number(query, "limit", default, least=1, most=MAX_LIMIT)


def read_filter(query: dict[str, str], now: datetime) -> EventFilter:
    """Which events are wanted. A kind may be all of one subject: ``access`` or ``access:*``."""
    kind = query.get("kind")
    subjects = {known.partition(":")[0] for known in Kind}
    if kind is not None and kind not in frozenset(Kind) and kind.removesuffix(":*") not in subjects:
        raise web.HTTPBadRequest(
            text=f"There is no kind of event {printable(kind)!r}; there are: {', '.join(Kind)}, "
            f"and all of one subject, like {Kind.ACCESS_DENIED.partition(':')[0]}:*."
        )
    try:
        scope = Scope.parse(query["scope"]) if "scope" in query else None
    except ValueError:
        raise web.HTTPBadRequest(text="scope is written environment/region, like staging/eu.") from None
    return EventFilter(
        kind=f"{kind}:*" if kind in subjects else kind,
        identity=query.get("identity"),
        target=query.get("target"),
        scope=scope,
        session_id=query.get("session"),
        grant_id=query.get("grant"),
        since=_since(query["since"], now) if "since" in query else None,
        after_seq=read_number(query, "after_seq", 0, least=0, most=2**53),
        limit=read_limit(query, 1000),
    )


def _since(text: str, now: datetime) -> datetime:
    """An instant, or a span before now."""
    with suppress(Refused, ValueError):
        return now - parse_duration(text)
    instant: datetime | None = None
    with suppress(ValueError):
        instant = datetime.fromisoformat(text)
    if instant is None or instant.tzinfo is None:
        raise web.HTTPBadRequest(text="since is a span like 2h, or an instant like 2026-03-02T09:00:00Z.")
    return instant.astimezone(UTC)
