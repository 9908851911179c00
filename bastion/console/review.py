"""The pages on which standing access is looked over: who holds what, used when, until when; and where a grant is ended.

They show what the API's lists show, decided in the same places, and are forms and links alone: no script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from urllib.parse import urlencode

from aiohttp import web

from bastion.access.approval import Approval
from bastion.access.replay import Replay, Viewer
from bastion.access.standing import Inspected, Reviewable, Standing
from bastion.chatops import messages
from bastion.console.caller import CALLERS, Caller
from bastion.console.filters import read_query, read_span
from bastion.console.login import browser_caller
from bastion.console.pages import page
from bastion.core.errors import Conflict
from bastion.core.grant import Basis, Grant, spell
from bastion.core.session import Session
from bastion.ports import Clock

MAX_ROWS = 200
"""Of the list; the rest is in the export."""

MAX_SESSIONS = 50
"""Of one grant."""

UNUSED_FOR, ENDING_WITHIN = ("1h", "1d", "7d", "14d"), ("1h", "1d", "7d")
"""What can be picked; the address takes any span."""


def routes(*, standing: Standing, approval: Approval, replay: Replay, clock: Clock) -> list[web.RouteDef]:
    """The list, the page of one grant, and the button on it."""
    pages = _Pages(standing, approval, replay, clock)
    return [
        web.get("/review", pages.all, allow_head=False),
        web.get("/grants/{id:g-[0-9a-z]{4,40}}", pages.one, allow_head=False),
        web.post("/grants/{id:g-[0-9a-z]{4,40}}", pages.end),
    ]


class _Pages:
    def __init__(self, standing: Standing, approval: Approval, replay: Replay, clock: Clock) -> None:
        self._standing = standing
        self._approval = approval
        self._replay = replay
        self._clock = clock

    async def all(self, request: web.Request) -> web.Response:
        caller = await browser_caller(request)
        query = read_query(request, "unused", "ending")
        spans = read_span(query, "unused"), read_span(query, "ending")
        found = await self._standing.review(caller.identity, caller.place, *spans)
        shown = _table(found[:MAX_ROWS], self._clock.now()) if found else "<p>There is no such grant.</p>"
        return page("Standing access", f"{_picker(query)}{_summary(found)}{shown}{_exports(query)}", wide=True)

    async def one(self, request: web.Request) -> web.Response:
        caller = await browser_caller(request)
        inspected = await self._standing.inspect(caller.identity, request.match_info["id"], caller.place)
        viewer = Viewer(caller.identity, caller.place)
        under = await self._replay.sessions_under(viewer, inspected.grant, MAX_SESSIONS)
        lines = [_session_line(each, may_replay=self._replay.may_go_on(viewer, each)) for each in under]
        return _grant_page(inspected, lines, caller, self._clock.now())

    async def end(self, request: web.Request) -> web.Response:
        """Back to the page, which says that it is over; loading that again ends nothing."""
        caller, _ = await request.app[CALLERS].of_form(request)
        if (await request.post()).get("identity") != str(caller.identity.id):
            raise Conflict("You are logged in as somebody else than when this page was shown. Open it again.")
        grant_id = request.match_info["id"]
        await self._approval.revoke(grant_id, caller.identity, caller.place)
        return web.Response(status=303, headers={"Location": f"/grants/{grant_id}"})


def _picker(query: Mapping[str, str]) -> str:
    unused = _choice("unused", "Unused for", UNUSED_FOR, query.get("unused", ""))
    ending = _choice("ending", "Ends within", ENDING_WITHIN, query.get("ending", ""))
    return f'<form class="picker" action="/review">{unused}{ending}<button type="submit">Show</button></form>'


def _choice(name: str, label: str, spans: Iterable[str], chosen: str) -> str:
    values = dict.fromkeys(["", *spans, chosen])
    options = "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(value) or "any"}</option>'
        for value in values
    )
    return f'<label>{label} <select name="{name}">{options}</select></label>'


def _summary(found: Sequence[Reviewable]) -> str:
    people, unused = len({each.holder.id for each in found}), sum(each.is_unused for each in found)
    soon = sum(each.is_ending_soon for each in found)
    counted = f"{_count(len(found), 'live grant')} of {_count(people, 'person', 'people')}"
    more = f" The first {MAX_ROWS} are here, all of them in the export." if len(found) > MAX_ROWS else ""
    return f"<p>{counted}; {unused} unused, {soon} ending soon.{more}</p>" if found else ""


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def _table(found: Sequence[Reviewable], now: datetime) -> str:
    rows = "".join(_row(each, now) for each in found)
    head = "".join(f'<th scope="col">{title}</th>' for title in ("Who", "What", "Last used", "Ends", "Why"))
    return f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _row(each: Reviewable, now: datetime) -> str:
    grant = each.grant
    marks = [*(["unused"] if each.is_unused else []), *(["ends soon"] if each.is_ending_soon else [])]
    marks += ["break-glass"] if grant.basis is Basis.BREAK_GLASS else []
    used = f"{spell(now - each.last_used)} ago" if each.last_used is not None else "never"
    cells = {
        "Who": f"<strong>{escape(each.holder.display)}</strong>",
        "What": f'<a href="/grants/{grant.id}">{escape(_what(grant))}</a>'
        + "".join(f' <span class="mark">{mark}</span>' for mark in marks),
        "Last used": used,
        "Ends": f"{messages.moment(grant.ends_at)}<br><small>in {spell(grant.ends_at - now)}</small>",
        "Why": escape(grant.reason),
    }
    return "<tr>" + "".join(f'<td data-label="{name}"><div>{cell}</div></td>' for name, cell in cells.items()) + "</tr>"


def _exports(query: Mapping[str, str]) -> str:
    def link(label: str, style: str) -> str:
        asked = urlencode({**query, "format": style})
        return f'<a href="/api/v1/access/review?{escape(asked)}" download="standing-access.{style}">{label}</a>'

    return f"<p>Export: {link('CSV', 'csv')} · {link('JSON', 'json')}</p>"


def _grant_page(inspected: Inspected, sessions: Sequence[str], caller: Caller, now: datetime) -> web.Response:
    grant, holder = inspected.grant, inspected.holder
    by = " and ".join(map(escape, inspected.approvers))
    facts = {
        "Who": f"<strong>{escape(holder.display)}</strong><br><small>{escape(str(holder.id))}</small>",
        "What": escape(_what(grant)),
        "Why": escape(grant.reason),
        "From": messages.moment(grant.starts_at),
        "Ends" if grant.is_live(now) else "Ended": _end(grant),
        "Approved by": by or {Basis.BREAK_GLASS: "nobody before: break-glass"}.get(grant.basis, "policy"),
        "Last used": messages.moment(inspected.last_used) if inspected.last_used is not None else "never",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    under = f"<ul>{''.join(f'<li>{line}</li>' for line in sessions)}</ul>" if sessions else ""
    title = f"Grant {grant.id}"
    return page(title, f'<dl>{listed}</dl>{under}{_button(grant, caller, now)}<p><a href="/review">All grants</a></p>')


def _end(grant: Grant) -> str:
    if grant.revoked_at is None:
        return messages.moment(grant.ends_at)
    return f"{messages.moment(grant.revoked_at)}, early"


def _button(grant: Grant, caller: Caller, now: datetime) -> str:
    """Whoever may see the page may end the grant: it is theirs, or of a scope they oversee."""
    if grant.revoked_at is not None or now >= grant.ends_at:
        return ""
    return (
        f'<form method="post" action="/grants/{grant.id}">'
        f'<input type="hidden" name="identity" value="{escape(str(caller.identity.id))}">'
        '<button type="submit" class="alarm">End it now</button></form>'
        "<p><small>Open sessions are cut within a second.</small></p>"
    )


def _session_line(session: Session, *, may_replay: bool) -> str:
    began = f"{messages.moment(session.started_at)}, {escape(session.target)} as {escape(session.login)}"
    state = "" if session.ended_at is not None else ", open"
    link = f' · <a href="/api/v1/sessions/{session.id}/recording">Recording</a>' if may_replay else ""
    return f"<code>{escape(session.id)}</code> {began}{state}{link}"


def _what(grant: Grant) -> str:
    network = f", only from {grant.network}" if grant.network is not None else ""
    return messages.what(grant).rstrip(",") + network
