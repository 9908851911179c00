"""Logging out, in the browser, from the command line, and by an issuer's word (back channel)."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from aiohttp import web

from bastion.access.endings import Logouts
from bastion.console.body import read_form
from bastion.console.caller import CALLERS
from bastion.console.pages import page
from bastion.core.errors import Conflict, Unauthenticated

UnverifiedIssuer = Callable[[str], str | None]
"""Whose token a token claims to be."""


def routes(*, logouts: Logouts, unverified_issuer: UnverifiedIssuer) -> list[web.RouteDef]:
    """Every way in which people and their issuers log somebody out."""
    endpoint = _Logout(logouts, unverified_issuer)
    return [
        web.post("/logout", endpoint.in_browser),
        web.get("/logout/done", _done, allow_head=False),
        web.post("/api/v1/logout", endpoint.from_command_line),
        web.post("/logout/backchannel", endpoint.back_channel),
    ]


class _Logout:
    def __init__(self, logouts: Logouts, unverified_issuer: UnverifiedIssuer) -> None:
        self._logouts = logouts
        self._unverified_issuer = unverified_issuer

    async def in_browser(self, request: web.Request) -> web.Response:
        callers = request.app[CALLERS]
        caller, claims = await callers.of_form(request)
        url = await self._logouts.here(caller.identity.id)
        await callers.tokens.end(claims)
        onward = ""
        if url is not None:
            onward = (
                "<p>At your identity provider you are still logged in.</p>"
                f'<p><a href="{escape(url)}" rel="noreferrer">Log out there, too</a></p>'
            )
        again = '<a class="button" href="/login">Log in again</a>'
        response = page(
            "Logged out", f"<p>This browser is logged out, and your sessions have ended.</p>{onward}{again}"
        )
        callers.forget(response)
        return response

    async def from_command_line(self, request: web.Request) -> web.Response:
        callers = request.app[CALLERS]
        caller, claims = await callers.login_of(request)
        url = await self._logouts.here(caller.identity.id)
        await callers.tokens.end(claims)
        return web.json_response({"logged_out": True, "end_session_url": url})

    async def back_channel(self, request: web.Request) -> web.Response:
        """OpenID Connect Back-Channel Logout 1.0, sections 2.5, 2.7 and 2.8."""
        try:
            token = (await read_form(request, required=["logout_token"]))["logout_token"]
            await self._logouts.at_issuer(self._unverified_issuer(token), token)
        except (Unauthenticated, Conflict) as error:
            answer = {"error": "invalid_request", "error_description": error.public}
            return web.json_response(answer, status=400)
        return web.Response(status=200)


async def _done(request: web.Request) -> web.Response:
    """Where issuers send browsers back to. Anybody may come here, so it says nothing about anybody."""
    again = '<a class="button" href="/login">Log in again</a>'
    return page("Logged out", f"<p>You are logged out at your identity provider, too.</p>{again}")
