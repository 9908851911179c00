"""Token exchange for workloads (RFC 8693): a platform's token in, a bastion's token out."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from bastion.access.workload import Workloads
from bastion.console.body import read_form
from bastion.console.caller import peer_address
from bastion.core.errors import Refused, TooOften, Unauthenticated
from bastion.ports import Clock

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"

TOKEN_TYPES = {"urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"}
"""What is taken: both are signed tokens, and are judged alike (section 3)."""

ISSUED_TYPE = "urn:ietf:params:oauth:token-type:access_token"


def routes(*, workloads: Workloads, unverified_issuer: Callable[[str], str | None], clock: Clock) -> list[web.RouteDef]:
    """The exchange, for our command line and for anything that speaks RFC 8693."""

    async def exchange(request: web.Request) -> web.Response:
        form = await read_form(
            request, required=["grant_type", "subject_token", "subject_token_type"], optional=["requested_token_type"]
        )
        if form["grant_type"] != GRANT_TYPE:
            return _error("unsupported_grant_type", "Only token exchange is done here.")
        if form["subject_token_type"] not in TOKEN_TYPES:
            return _error("invalid_request", "The subject token is a JWT or an ID token.")
        if form.get("requested_token_type", ISSUED_TYPE) != ISSUED_TYPE:
            return _error("invalid_request", "What is given is an access token.")
        token = form["subject_token"]
        try:
            issued, identity = await workloads.exchange(peer_address(request), unverified_issuer(token), token)
        except Unauthenticated as error:
            return _error("invalid_request", error.public)  # RFC 8693, section 2.2.2
        except TooOften:
            raise
        except Refused as error:
            return _error("access_denied", error.public, status=403)
        answer = {
            "access_token": issued.text,
            "issued_token_type": ISSUED_TYPE,
            "token_type": "Bearer",
            "expires_in": max(0, int((issued.claims.expires_at - clock.now()).total_seconds())),
            "expires_at": issued.claims.expires_at.isoformat(),
            "identity": {"id": str(identity.id), "display": identity.display, "kind": identity.kind.value},
        }
        return web.json_response(answer)

    return [web.post("/api/v1/token/exchange", exchange)]


def _error(code: str, sentence: str, status: int = 400) -> web.Response:
    return web.json_response({"error": code, "error_description": sentence}, status=status)
