"""The API of ``bastion login --device``: begin (RFC 8628, section 3.1) and ask (section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, assert_never

from aiohttp import web

from bastion.access.clilogin import INTERVAL, CommandLineLogins, Done, NotYet
from bastion.access.devicelogin import LIFETIME
from bastion.console.body import read_object, read_strings
from bastion.console.caller import peer_address
from bastion.console.login import identity_as_json
from bastion.core.remedy import Remedy


def routes(*, logins: CommandLineLogins, public_url: str) -> list[web.RouteDef]:
    """The two routes. ``public_url`` is what people's browsers reach the console as."""
    page = f"{public_url.rstrip('/')}/device"

    async def begin(request: web.Request) -> web.Response:
        wish = await read_object(request, required=["client"], optional=["step_up"])
        begun = await logins.begin(peer_address(request), client=_client(wish), remedy=_remedy(wish))
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


def _client(wish: Mapping[str, Any]) -> str:
    if not isinstance(wish["client"], str):
        raise web.HTTPBadRequest(text="client is not a string.")
    return str(wish["client"])


def _remedy(wish: Mapping[str, Any]) -> Remedy | None:
    if "step_up" not in wish:
        return None
    if not isinstance(said := wish["step_up"], str):
        raise web.HTTPBadRequest(text="step_up is not a string.")
    try:
        return Remedy.parse(said)
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"step_up: {error}.") from None
