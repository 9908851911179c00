"""``GET /api/v1/ssh``: what a client needs to write the configuration of its ssh."""

from __future__ import annotations

from aiohttp import web

from bastion.access.reach import Reach
from bastion.console.caller import caller_of


def routes(*, reach: Reach, ssh_address: str, ssh_host_key: str) -> list[web.RouteDef]:
    """The route. ``ssh_address`` is ``host:port`` as clients reach it, ``ssh_host_key`` the bastion's own key line."""

    async def show(request: web.Request) -> web.Response:
        caller = await caller_of(request)
        scopes = await reach.scopes_of(caller.identity, caller.place)
        body = {"ssh_address": ssh_address, "ssh_host_key": ssh_host_key, "scopes": [str(scope) for scope in scopes]}
        return web.json_response(body)

    return [web.get("/api/v1/ssh", show, allow_head=False)]
