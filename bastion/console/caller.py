"""Who asks: the identity that a request proves, and the place that its connection really comes from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from bastion.access.apitokens import PREFIX, ApiTokens
from bastion.access.doorstep import Doorstep
from bastion.access.tokens import LIFETIME, Audience, Token, TokenClaims, Tokens
from bastion.console.uses import uses_of
from bastion.core.errors import Refused, Unauthenticated
from bastion.core.geofence import Address, Place, parse_address
from bastion.core.identity import Identity


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with a good token, inside at least one region's fence."""

    identity: Identity
    place: Place
    until: datetime
    """When what proved it is over, if nothing ends it before."""


class Callers:
    """Turns requests into callers.

    Args:
        tokens: judges logins that requests carry.
        api_tokens: judges tokens for scripts.
        doorstep: locates where it comes from.
        public_url: what browsers reach this console as; cookies are for it alone.
    """

    def __init__(self, *, tokens: Tokens, api_tokens: ApiTokens, doorstep: Doorstep, public_url: str) -> None:
        self.tokens = tokens
        self._api_tokens = api_tokens
        self.doorstep = doorstep
        self.public_url = public_url.rstrip("/")
        self.secure = urlsplit(public_url).scheme == "https"
        self.origin = origin_of(public_url)

    def cookie_name(self, what: str) -> str:
        """``__Host-`` keeps other hosts of the domain from setting it (RFC 6265bis, section 4.1.3.2); it needs TLS."""
        return f"__Host-{what}" if self.secure else what

    def set_cookie(self, response: web.StreamResponse, what: str, value: str, max_age: int) -> None:
        """Give the browser a cookie that no script reads and no other site's form sends."""
        response.set_cookie(
            self.cookie_name(what), value, max_age=max_age, path="/", secure=self.secure, httponly=True, samesite="Lax"
        )

    def remember(self, response: web.StreamResponse, token: Token) -> None:
        """Log the browser in."""
        self.set_cookie(response, "bastion", token.text, int(LIFETIME.total_seconds()))

    def forget(self, response: web.StreamResponse) -> None:
        """Log the browser out, as far as the browser does it."""
        self.set_cookie(response, "bastion", "", 0)

    async def of(self, request: web.Request) -> Caller:
        """The caller, by a login or by a token that is for what the request does.

        Raises:
            Refused: as `login_of`; or it comes with a token that is not for this, or not for there.
            Unauthenticated: neither a good login nor a good token.
        """
        text = _bearer(request)
        if text is None or not text.startswith(PREFIX):
            return (await self.login_of(request))[0]
        place, path = self.doorstep.locate(peer_address(request)), _route(request)
        needed, what = uses_of(request.method, path), f"{request.method} {path}"
        identity, token = await self._api_tokens.judge(text, needed, place, what)
        return Caller(identity, place, token.ends_at)

    async def login_of(self, request: web.Request) -> tuple[Caller, TokenClaims]:
        """The caller, and the claims of the login that proved it; no token for scripts does.

        Raises:
            Refused: the connection comes from outside every fence (law 2); no token was looked at.
            Unauthenticated: no good login. A cookie is one only for reading: with it alone, another site could change
                something in its owner's name.
            TooOften: no good login, as too many from there.
        """
        place = self.doorstep.locate(peer_address(request))
        text, cookie = _bearer(request), request.cookies.get(self.cookie_name("bastion"))
        if text is not None:
            return await self._holder(text, Audience.API, place)
        if cookie and request.method in ("GET", "HEAD"):
            return await self._holder(cookie, Audience.BROWSER, place)
        raise Unauthenticated("You are not logged in. Log in: bastion login")

    async def of_form(self, request: web.Request) -> tuple[Caller, TokenClaims]:
        """The caller who sent a form from one of our own pages. Raises as `of`, and `Refused` for another site's."""
        check_same_origin(request, self.origin)
        place = self.doorstep.locate(peer_address(request))
        cookie = request.cookies.get(self.cookie_name("bastion"))
        if not cookie:
            raise Unauthenticated("You are not logged in.")
        return await self._holder(cookie, Audience.BROWSER, place)

    async def _holder(self, text: str, audience: Audience, place: Place) -> tuple[Caller, TokenClaims]:
        async with self.doorstep.throttle.watching(place):
            identity, claims = await self.tokens.identity(text, audience)
        return Caller(identity, place, claims.expires_at), claims


CALLERS = web.AppKey("callers", Callers)


async def caller_of(request: web.Request) -> Caller:
    """Whose request it is. Raises `Unauthenticated`, and `Refused` from outside every fence."""
    return await request.app[CALLERS].of(request)


def _bearer(request: web.Request) -> str | None:
    """The one bearer token of a request, or None where it has no such header.

    Raises:
        Unauthenticated: there is more than one, or something else.
    """
    headers = request.headers.getall("Authorization", [])
    if not headers:
        return None
    scheme, _, text = headers[0].partition(" ")
    if len(headers) != 1 or scheme.lower() != "bearer":
        raise Unauthenticated("The Authorization header is not one Bearer token. Log in: bastion login")
    return text.strip()


def _route(request: web.Request) -> str:
    """The pattern of the route that answers, as it was registered."""
    resource = request.match_info.route.resource
    return "" if resource is None else resource.canonical


def peer_address(request: web.Request) -> Address:
    """The address of the connection itself. What headers say about it is hearsay and is not read.

    Raises:
        Refused: the connection is gone, or has no address.
    """
    peer: Any = request.transport.get_extra_info("peername") if request.transport is not None else None
    try:
        return parse_address(peer[0])
    except (TypeError, IndexError, ValueError) as error:
        raise Refused("It cannot be told where this connection comes from.", detail=f"peer {peer!r}") from error


def origin_of(url: str) -> str:
    """The origin of a URL as browsers write it (RFC 6454, section 6.2): lower case, without the default port."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    is_default = parts.port in (None, 443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{host}" + ("" if is_default else f":{parts.port}")


def check_same_origin(request: web.Request, origin: str) -> None:
    """That a form was sent by a page of this console (Fetch Metadata, section 2; RFC 6454, section 7).

    Raises:
        Refused: it was sent by another site, or nothing says by whom.
    """
    site, said = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if (site is None and said is None) or site not in (None, "same-origin") or said not in (None, origin):
        raise Refused("This form was not sent by a page of the bastion.", detail=f"{site=} {said=}")
