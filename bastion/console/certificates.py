"""``POST /api/v1/certificates``: a contractor's key in, a certificate for one scope out."""

from __future__ import annotations

from aiohttp import web

from bastion.access.certification import Certification
from bastion.console.app import json_body
from bastion.console.caller import caller_of


def routes(*, certification: Certification, ssh_address: str, ssh_host_key: str) -> list[web.RouteDef]:
    """The route. ``ssh_address`` is ``host:port`` as clients reach it, ``ssh_host_key`` the bastion's own key line."""

    async def issue(request: web.Request) -> web.Response:
        caller = await caller_of(request)
        body = await json_body(request, {"public_key": str, "target": str})
        line, certificate = await certification.issue(caller.identity, caller.place, body["public_key"], body["target"])
        return web.json_response(
            {
                "certificate": line,
                "serial": str(certificate.serial),
                "principal": certificate.principals[0],
                "valid_before": certificate.valid_before.isoformat(),
                "ssh_address": ssh_address,
                "ssh_host_key": ssh_host_key,
            },
            status=201,
        )

    return [web.post("/api/v1/certificates", issue)]
