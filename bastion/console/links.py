"""The page where somebody who is logged in says that a chat account is theirs.

The danger here is a link that somebody else sends: whoever confirms it lends their identity to the sender's account.
So the page names the account first, and nothing is linked before a button of this page was pressed.
"""

from __future__ import annotations

from html import escape

from aiohttp import web

from bastion.access.linking import Account, Linking, Question
from bastion.console.caller import CALLERS
from bastion.console.login import browser_caller
from bastion.console.pages import page
from bastion.core.errors import NotFound, Refused
from bastion.core.identity import Identity

PLATFORMS = {"slack": "Slack", "mattermost": "Mattermost", "teams": "Teams", "discord": "Discord"}


def routes(*, linking: Linking) -> list[web.RouteDef]:
    """The page of a code, and the form on it."""
    pages = _Pages(linking)
    return [
        web.get("/link/{platform}/{code}", pages.ask, allow_head=False),
        web.post("/link", pages.confirm),
    ]


class _Pages:
    def __init__(self, linking: Linking) -> None:
        self._linking = linking

    async def ask(self, request: web.Request) -> web.Response:
        # Nobody's code is used up by a look at it without a login, as chats do to show a preview.
        caller = await browser_caller(request)
        if request.match_info["platform"] not in PLATFORMS:
            raise NotFound("There is nothing here.")
        async with request.app[CALLERS].doorstep.throttle.watching(caller.place, caller.identity.id):
            question = await self._linking.open(request.match_info["code"], caller.identity)
        return _question(question, caller.identity)

    async def confirm(self, request: web.Request) -> web.Response:
        callers = request.app[CALLERS]
        caller, _ = await callers.of_form(request)
        token = (await request.post()).get("token")
        if not isinstance(token, str):
            raise Refused("This form was not sent by a page of the bastion.")
        async with callers.doorstep.throttle.watching(caller.place, caller.identity.id):
            account = await self._linking.confirm(token, caller.identity, caller.place)
        body = (
            f"<p>{_named(account)} is linked to <strong>{escape(caller.identity.display)}</strong>.</p>"
            "<p>Go back to the chat and try <code>/bastion who</code>. You can close this window.</p>"
        )
        return page("Linked", body)


def _question(question: Question, identity: Identity) -> web.Response:
    body = (
        f"<p>{_named(question.account)} asks to act as you here, <strong>{escape(identity.display)}</strong> "
        f"(<code>{escape(str(identity.id))}</code>): to request, to approve, to grant and to revoke.</p>"
        "<p>Is this account yours, and did you type <code>/bastion link</code> yourself, just now?</p>"
        f'<form method="post" action="/link"><input type="hidden" name="token" value="{escape(question.token)}">'
        '<button type="submit">Yes, this account is mine</button></form>'
        "<p><small>If somebody sent you this link, close this window: they would act in your name.</small></p>"
    )
    return page("Is this your account?", body)


def _named(account: Account) -> str:
    """The account as HTML: the names that people know, and the ids that count."""
    return (
        f"{escape(PLATFORMS[account.platform])} account <strong>{escape(account.user_name or account.user)}</strong> "
        f"(<code>{escape(account.user)}</code>) in the workspace "
        f"<strong>{escape(account.workspace_name or account.workspace)}</strong> "
        f"(<code>{escape(account.workspace)}</code>)"
    )
