"""Who asks: the identity that a request proves, and the place that its connection really comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from bastion.access.doorstep import Doorstep
from bastion.access.tokens import LIFETIME, Audience, Token, TokenClaims, Tokens
from bastion.core.errors import Refused, Unauthenticated
from bastion.core.geofence import Address, Place, parse_address
from bastion.core.identity import Identity


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody with a good token, inside at least one region's fence."""

    identity: Identity
    place: Place


class Callers:
    """Turns requests into callers.

    Args:
        tokens: judges what the request carries.
        doorstep: locates where it comes from.
        public_url: what browsers reach this console as; cookies are for it alone.
    """

    def __init__(self, *, tokens: Tokens, doorstep: Doorstep, public_url: str) -> None:
        self.tokens = tokens
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

    async def of(self, request: web.Request) -> tuple[Caller, TokenClaims]:
        """The caller, and the claims of the token that proved it.

        Raises:
            Refused: the connection comes from outside every fence (law 2); no token was looked at.
            Unauthenticated: no good token. A cookie is one only for reading: with it alone, another site could change
                something in its owner's name.
        """
        place = self.doorstep.locate(peer_address(request))
        header, cookie = request.headers.getall("Authorization", []), request.cookies.get(self.cookie_name("bastion"))
        if header:
            scheme, _, text = header[0].partition(" ")
            if len(header) != 1 or scheme.lower() != "bearer":
                raise Unauthenticated("The Authorization header is not one Bearer token. Log in: bastion login")
            identity, claims = await self.tokens.identity(text.strip(), Audience.API)
        elif cookie and request.method in ("GET", "HEAD"):
            identity, claims = await self.tokens.identity(cookie, Audience.BROWSER)
        else:
            raise Unauthenticated("You are not logged in. Log in: bastion login")
        return Caller(identity, place), claims

    async def of_form(self, request: web.Request) -> tuple[Caller, TokenClaims]:
        """The caller who sent a form from one of our own pages. Raises as `of`, and `Refused` for another site's."""
        check_same_origin(request, self.origin)
        place = self.doorstep.locate(peer_address(request))
        cookie = request.cookies.get(self.cookie_name("bastion"))
        if not cookie:
            raise Unauthenticated("You are not logged in.")
        identity, claims = await self.tokens.identity(cookie, Audience.BROWSER)
        return Caller(identity, place), claims


CALLERS = web.AppKey("callers", Callers)


async def caller_of(request: web.Request) -> Caller:
    """Whose request it is. Raises `Unauthenticated`, and `Refused` from outside every fence."""
    caller, _ = await request.app[CALLERS].of(request)
    return caller


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
