"""The page of one request: what is asked, and by whom it may be answered here, with a login as strong as that takes.

Chats link to it, since a chat can show no second factor. It is a form and links alone: no script.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from aiohttp import web

from bastion.access.approval import Approval
from bastion.access.standing import Standing, Told
from bastion.chatops import messages
from bastion.console import anew
from bastion.console.caller import CALLERS, Caller
from bastion.console.login import browser_caller
from bastion.console.pages import page
from bastion.core.errors import Conflict, Refused
from bastion.core.grant import Request, Verdict, spell
from bastion.core.remedy import StepUpNeeded
from bastion.core.request import Stage


def routes(*, standing: Standing, approval: Approval, issuers: Sequence[str]) -> list[web.RouteDef]:
    """The page, and its buttons. ``issuers`` are those of the login, in its order."""
    pages = _Pages(standing, approval, tuple(issuers))
    path = "/requests/{id:q-[0-9a-z]{4,40}}"
    return [web.get(path, pages.ask, allow_head=False), web.post(path, pages.answer)]


class _Pages:
    def __init__(self, standing: Standing, approval: Approval, issuers: Sequence[str]) -> None:
        self._standing = standing
        self._approval = approval
        self._issuers = issuers

    async def ask(self, request: web.Request) -> web.Response:
        caller = await browser_caller(request)
        told = await self._standing.one_request(caller.identity, request.match_info["id"], caller.place)
        return _page(told, caller, self._issuers)

    async def answer(self, request: web.Request) -> web.Response:
        """Back to the page, which says what has become of it."""
        caller, _ = await request.app[CALLERS].of_form(request)
        form, request_id = await request.post(), request.match_info["id"]
        if form.get("identity") != str(caller.identity.id):
            raise Conflict("You are logged in as somebody else than when this page was shown. Open it again.")
        verdict = {"approve": Verdict.APPROVE, "refuse": Verdict.REFUSE}.get(str(form.get("answer")))
        if verdict is None:
            raise Refused("This form was not sent by a page of the bastion.")
        told = await self._standing.one_request(caller.identity, request_id, caller.place)
        answer = self._approval.acknowledge if told.life.request.break_glass else self._approval.review
        try:
            await answer(request_id, caller.identity, verdict, caller.place)
        except StepUpNeeded:
            pass  # the login has become too old while they read; the page says what to do
        return web.Response(status=303, headers={"Location": f"/requests/{request_id}"})


def _page(told: Told, caller: Caller, issuers: Sequence[str]) -> web.Response:
    request, beneficiary = told.life.request, told.life.beneficiary
    facts = {
        "Who": f"<strong>{escape(beneficiary.display)}</strong><br><small>{escape(str(beneficiary.id))}</small>",
        "What": escape(messages.what(request).rstrip(",")),
        "How long": escape(_length(request)),
        "Why": escape(request.reason),
        "Ticket": escape(request.ticket),
        "Beside": escape(messages.listed(request.beside)) if request.beside else "",
        "Only from": str(request.network or ""),
        "Answered": "<br>".join(
            f"{escape(review.reviewer.display)}: {review.verdict.value}" for review in told.life.reviews
        ),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items() if value)
    choice = _choice(told, caller, issuers)
    return page(f"Request {request.id}", f"<p>It is {told.stage}.</p><dl>{listed}</dl>{choice}")


def _length(request: Request) -> str:
    more = f" more of {request.extends}" if request.extends is not None else ""
    begins = f", from {messages.moment(request.starts_at)}" if request.starts_at is not None else ""
    return f"{spell(request.duration)}{more}{begins}"


def _choice(told: Told, caller: Caller, issuers: Sequence[str]) -> str:
    request = told.life.request
    waits = told.stage is Stage.ASKED or (request.break_glass and request.closed_at is None)
    has_answered = any(review.reviewer.id == caller.identity.id for review in told.life.reviews)
    if not told.answerable or not waits or has_answered:
        return ""
    if told.step_up is not None:
        link = anew.button(told.step_up, caller.identity, f"/requests/{request.id}", issuers)
        return f"<p>To answer it takes a login {anew.demanded(told.step_up)}.</p>{link}"
    return (
        f'<form method="post" action="/requests/{request.id}">'
        f'<input type="hidden" name="identity" value="{escape(str(caller.identity.id))}"><div class="choice">'
        '<button name="answer" value="approve">Approve</button>'
        '<button name="answer" value="refuse" class="second">Refuse</button></div></form>'
    )
