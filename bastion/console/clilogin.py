"""The API of ``bastion login --device``: begin (RFC 8628, section 3.1) and ask (section 3.4)."""

from __future__ import annotations

from typing import assert_never

from aiohttp import web

from bastion.access.clilogin import INTERVAL, CommandLineLogins, Done, NotYet
from bastion.access.devicelogin import LIFETIME
from bastion.console.body import read_strings
from bastion.console.caller import peer_address
from bastion.console.login import identity_as_json


def routes(*, logins: CommandLineLogins, public_url: str) -> list[web.RouteDef]:
    """The two routes. ``public_url`` is what people's browsers reach the console as."""
    page = f"{public_url.rstrip('/')}/device"

    async def begin(request: web.Request) -> web.Response:
        (client,) = await read_strings(request, "client")
        begun = await logins.begin(peer_address(request), client=client)
        body = {
            "device_code": begun.device_code,
            "user_code": begun.pending.code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}/{begun.pending.code}",
            "expires_in": int(LIFETIME.total_seconds()),
            "interval": int(INTERVAL.total_seconds()),
        }
        return web.json_response(body)

    async def ask(request: web.Request) -> web.Response:
        (device_code,) = await read_strings(request, "device_code")
        answer = await logins.redeem(peer_address(request), device_code)
        match answer:
            case Done(token, identity):
                body = {
                    "token": token.text,
                    "expires_at": token.claims.expires_at.isoformat(),
                    "identity": identity_as_json(identity),
                }
                return web.json_response(body)
            case NotYet(reason, sentence):
                return web.json_response({"error": reason.value, "error_description": sentence}, status=400)
            case _:
                assert_never(answer)

    return [web.post("/api/v1/device", begin), web.post("/api/v1/token/device", ask)]
