"""The receiver of security events that are pushed (RFC 8935; Shared Signals Framework 1.0, section 6.1.1)."""

from __future__ import annotations

from aiohttp import web

from bastion.access.signals import Signals
from bastion.console.body import read_body
from bastion.core.ending import SignalRefused

CONTENT_TYPE = "application/secevent+jwt"


def routes(*, signals: Signals) -> list[web.RouteDef]:
    """One endpoint for all transmitters; each shows its own bearer token."""

    async def push(request: web.Request) -> web.Response:
        try:
            await signals.receive(_bearer(request), await _token(request))
        except SignalRefused as error:
            # RFC 8935, section 2.3; who did not authenticate is told so the way HTTP has it.
            status = 401 if error.code == "authentication_failed" else 400
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
            return web.json_response({"err": error.code, "description": error.public}, status=status, headers=headers)
        return web.Response(status=202)

    return [web.post("/events/ssf", push)]


def _bearer(request: web.Request) -> str:
    """The one bearer token (RFC 6750, section 2.1); nobody is authenticated by none."""
    headers = request.headers.getall("Authorization", [])
    scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not token.strip():
        raise SignalRefused("A transmitter shows its bearer token.", "authentication_failed")
    return token.strip()


async def _token(request: web.Request) -> str:
    if request.content_type != CONTENT_TYPE:
        raise SignalRefused(f"A security event is sent as {CONTENT_TYPE}.", "invalid_request")
    try:
        return (await read_body(request)).decode("ascii").strip()
    except UnicodeDecodeError:
        raise SignalRefused("The body is not a token.", "invalid_request") from None
