"""Login pages, and the part of the API that the command line's login uses."""

from __future__ import annotations

import re
from html import escape
from urllib.parse import quote

from aiohttp import web

from bastion.access.handover import Handover
from bastion.access.login import Answer, Destination, Login, ToCommandLine, ToPage, command_line
from bastion.access.pkce import CHALLENGE, new_secret
from bastion.access.tokens import Audience
from bastion.console.body import read_strings
from bastion.console.caller import CALLERS, Caller, Callers, caller_of, check_same_origin, peer_address
from bastion.console.pages import page
from bastion.core.errors import NotFound, Refused, TooOften, Unauthenticated
from bastion.core.identity import Identity
from bastion.core.remedy import Remedy

BINDING_SECONDS = 15 * 60
"""A little longer than a login may take."""

_NEXT = re.compile(
    r"/(?:welcome|review|grants/g-[0-9a-z]{4,40}|requests/q-[0-9a-z]{4,40}|device(?:/[A-Za-z-]{8,9})?|link/[a-z]{1,20}/[A-Za-z0-9_-]{1,128})",
    re.ASCII,
)
"""Where a login may lead on to: these pages of ours. Anything else is `/welcome`, whatever it looks like."""


def routes(*, login: Login, handover: Handover) -> list[web.RouteDef]:
    """Login in the browser, the hand-over to a command line, and what the command line asks."""
    pages = _Pages(login, handover)
    return [
        web.get("/login", pages.begin, allow_head=False),
        web.get("/login/cli", pages.begin_command_line, allow_head=False),
        web.get("/login/callback", pages.finish, allow_head=False),
        web.get("/login/callback/{number:[2-9]}", pages.finish, allow_head=False),
        web.post("/login/cli/confirm", pages.confirm),
        web.get("/login/closed", _closed),
        web.get("/welcome", _welcome),
        web.post("/api/v1/token", pages.token),
        web.get("/api/v1/whoami", _whoami),
    ]


async def browser_caller(request: web.Request) -> Caller:
    """Who is logged in in this browser, and where it is.

    Raises:
        HTTPFound: nobody; to the login, and from there back to the page that was asked for.
        Refused: the browser is outside every fence.
    """
    try:
        caller = await request.app[CALLERS].of(request)
    except (Unauthenticated, TooOften):  # a browser sends an old cookie along; it is nobody's until they log in
        raise web.HTTPFound(f"/login?next={quote(local_page(request.path), safe='')}") from None
    return caller


async def browser_identity(request: web.Request) -> Identity:
    """Who is logged in in this browser. Raises as `browser_caller`."""
    return (await browser_caller(request)).identity


def local_page(path: str) -> str:
    """``path``, when it is one of the pages that a login may lead on to, else the welcome page."""
    return path if _NEXT.fullmatch(path) else "/welcome"


def _remedy(request: web.Request) -> Remedy | None:
    try:
        return Remedy.of_query(request.query)
    except ValueError as error:
        raise Refused("Nobody can be asked for such a login.", detail=str(error)) from None


class _Pages:
    """The steps that need the login and the hand-over."""

    def __init__(self, login: Login, handover: Handover) -> None:
        self._login = login
        self._handover = handover

    async def begin(self, request: web.Request) -> web.Response:
        return await self._begin(request, ToPage(local_page(request.query.get("next", ""))))

    async def begin_command_line(self, request: web.Request) -> web.Response:
        query = request.query
        wish = command_line(query.get("port", ""), query.get("challenge", ""), query.get("state", ""))
        return await self._begin(request, wish)

    async def _begin(self, request: web.Request, destination: Destination) -> web.Response:
        chosen = request.query.get("issuer")
        if chosen is None and len(self._login.issuers) > 1:
            request.app[CALLERS].doorstep.locate(peer_address(request))
            return self._choice(request)
        number = "0" if chosen is None else chosen
        if not re.fullmatch(r"[0-8]", number, re.ASCII):
            raise NotFound("There is no such identity provider here.")
        callers = request.app[CALLERS]
        binding = _binding(request, callers) or new_secret()
        url = await self._login.begin(
            peer_address(request),
            issuer=int(number),
            binding=binding,
            destination=destination,
            remedy=_remedy(request),
        )
        response = web.Response(status=302, headers={"Location": url})
        callers.set_cookie(response, "bastion-login", binding, BINDING_SECONDS)
        return response

    def _choice(self, request: web.Request) -> web.Response:
        def link(number: int) -> str:
            return escape(str(request.rel_url.update_query(issuer=str(number))))

        items = "".join(
            f'<li><a class="button" href="{link(number)}">{escape(issuer)}</a></li>'
            for number, issuer in enumerate(self._login.issuers)
        )
        return page("Who knows you?", f"<p>Choose where you log in.</p><ul>{items}</ul>")

    async def finish(self, request: web.Request) -> web.Response:
        callers = request.app[CALLERS]
        binding = _binding(request, callers)
        done = await self._login.finish(
            peer_address(request),
            issuer=int(request.match_info.get("number", "1")) - 1,
            binding=binding,
            answer=_answer(request),
        )
        match done.destination:
            case ToCommandLine() as wish:
                ticket = await self._handover.offer(done, wish, binding or "")
                return _question(done.identity, wish, ticket)
            case ToPage(path):
                token = await callers.tokens.issue(done.identity, Audience.BROWSER)
                response = web.Response(status=303, headers={"Location": path})
                callers.remember(response, token)
                return response

    async def confirm(self, request: web.Request) -> web.Response:
        callers = request.app[CALLERS]
        check_same_origin(request, callers.origin)
        form = await request.post()
        ticket = form.get("ticket")
        if not isinstance(ticket, str):
            raise Refused("This form was not sent by a page of the bastion.")
        url = await self._handover.confirm(peer_address(request), ticket, _binding(request, callers))
        return web.Response(status=303, headers={"Location": url})

    async def token(self, request: web.Request) -> web.Response:
        code, verifier = await read_strings(request, "code", "verifier")
        token, identity = await self._handover.redeem(peer_address(request), code, verifier)
        answer = {
            "token": token.text,
            "expires_at": token.claims.expires_at.isoformat(),
            "identity": identity_as_json(identity),
        }
        return web.json_response(answer)


def _answer(request: web.Request) -> Answer:
    """The parameters of the redirect back; each at most once (RFC 6749, section 3.1)."""
    values = {name: request.query.getall(name, []) for name in ("state", "code", "iss", "error")}
    if any(len(value) > 1 for value in values.values()):
        raise Refused("The identity provider's answer says something twice. Start the login again.")
    return Answer(**{name: (value[0] if value else None) for name, value in values.items()})


def _binding(request: web.Request, callers: Callers) -> str | None:
    """The secret that only this browser has, when it could be one of ours."""
    value = request.cookies.get(callers.cookie_name("bastion-login"), "")
    return value if CHALLENGE.fullmatch(value) else None


def _question(identity: Identity, wish: ToCommandLine, ticket: str) -> web.Response:
    body = (
        f"<p>Somebody ran <code>bastion login</code> on this computer and wants to work as "
        f"<strong>{escape(identity.display)}</strong>.</p><p>Was it you, just now?</p>"
        f'<form method="post" action="/login/cli/confirm"><input type="hidden" name="ticket" value="{escape(ticket)}">'
        '<button type="submit">Yes, log the command line in</button></form>'
        "<p><small>If it was not, close this window. Nothing happens then.</small></p>"
    )
    # Browsers hold form-action against the redirect that answers the form, too (CSP Level 3, section 6.4.1).
    return page("Log in the command line?", body, form_action=f"'self' http://127.0.0.1:{wish.port}")


async def _welcome(request: web.Request) -> web.Response:
    identity = await browser_identity(request)
    body = (
        f"<p>You are logged in as <strong>{escape(identity.display)}</strong>.</p>"
        "<p>On the command line, <code>bastion login</code> does the same for your terminal.</p>"
        '<p><a href="/review">What you hold, and what you oversee</a></p>'
        '<form method="post" action="/logout"><button type="submit">Log out</button></form>'
    )
    return page("Logged in", body)


async def _closed(request: web.Request) -> web.Response:
    return page("Logged in", "<p>Your command line is logged in. You can close this window.</p>")


async def _whoami(request: web.Request) -> web.Response:
    caller = await caller_of(request)
    answer = {
        "identity": identity_as_json(caller.identity),
        "address": str(caller.place.address),
        "country": caller.place.country,
        "expires_at": caller.until.isoformat(),
    }
    return web.json_response(answer)


def identity_as_json(identity: Identity) -> dict[str, object]:
    """What a command line is told of whom it works as."""
    return {
        "id": str(identity.id),
        "display": identity.display,
        "email": identity.email,
        "name": identity.name,
        "groups": sorted(identity.groups),
        "authenticated_at": identity.authenticated_at.isoformat(),
    }
