"""``POST /api/v1/certificates``: a contractor's key in, a certificate for one scope out."""

from __future__ import annotations

from aiohttp import web

from bastion.access.certification import Certification
from bastion.console.body import read_strings
from bastion.console.caller import caller_of


def routes(*, certification: Certification, ssh_address: str, ssh_host_key: str) -> list[web.RouteDef]:
    """The route. ``ssh_address`` is ``host:port`` as clients reach it, ``ssh_host_key`` the bastion's own key line."""

    async def issue(request: web.Request) -> web.Response:
        caller = await caller_of(request)
        public_key, target = await read_strings(request, "public_key", "target")
        line, certificate = await certification.issue(caller.identity, caller.place, public_key, target)
        body = {
            "certificate": line,
            "serial": str(certificate.serial),
            "principal": certificate.principals[0],
            "valid_before": certificate.valid_before.isoformat(),
            "ssh_address": ssh_address,
            "ssh_host_key": ssh_host_key,
        }
        return web.json_response(body, status=201)

    return [web.post("/api/v1/certificates", issue)]
