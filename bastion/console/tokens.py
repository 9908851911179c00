"""``/api/v1/tokens``: a person's tokens for scripts. Only a login makes, lists and revokes them."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from bastion.access.apitokens import ApiTokens, WishedToken
from bastion.access.wish import parse_network
from bastion.console.body import read_object
from bastion.console.caller import caller_of
from bastion.console.shapes import text_of
from bastion.core.apitoken import ApiToken, Use
from bastion.core.errors import Refused
from bastion.core.grant import parse_duration
from bastion.core.target import printable
from bastion.ports import Clock


def routes(*, tokens: ApiTokens, clock: Clock) -> list[web.RouteDef]:
    """Make, list, revoke."""

    async def make(request: web.Request) -> web.Response:
        caller = await caller_of(request)
        body = await read_object(request, required=("name", "uses", "duration"), optional=("network",))
        network = text_of(body, "network")
        wished = WishedToken(
            name=text_of(body, "name"),
            uses=_uses(body["uses"]),
            lifetime=parse_duration(text_of(body, "duration")),
            network=parse_network(network) if network else None,
        )
        made = await tokens.make(caller.identity, wished, caller.place)
        text = f"{_line(made.token)}\nIt is shown this once, and kept nowhere:"
        return web.json_response(_shape(made.token) | {"secret": made.text, "text": text}, status=201)

    async def listed(request: web.Request) -> web.Response:
        caller = await caller_of(request)
        found, now = await tokens.of(caller.identity), clock.now()
        live = [_line(token) for token in found if token.is_live(now)]
        body = {"tokens": [_shape(token) for token in found], "text": "\n".join(live) or "You have no live token."}
        return web.json_response(body)

    async def revoke(request: web.Request) -> web.Response:
        caller = await caller_of(request)
        await read_object(request, required=())
        revoked = await tokens.revoke(request.match_info["id"], caller.identity, caller.place)
        return web.json_response(_shape(revoked) | {"text": f"The token {revoked.id} is over."})

    return [
        web.post("/api/v1/tokens", make),
        web.get("/api/v1/tokens", listed, allow_head=False),
        web.post("/api/v1/tokens/{id}/revoke", revoke),
    ]


def _uses(named: Any) -> frozenset[Use]:
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise web.HTTPBadRequest(text="uses is not a list of strings.")
    if unknown := [each for each in named if each not in frozenset(Use)]:
        raise Refused(f"{printable(unknown[0], 40)!r} is no use of a token; there are: {', '.join(Use)}.")
    return frozenset(map(Use, named))


def _line(token: ApiToken) -> str:
    return (
        f"{token.id}: {printable(token.name)}, for {', '.join(sorted(token.uses))}, from {token.network}, "
        f"until {token.ends_at:%Y-%m-%d %H:%M} UTC"
    )


def _shape(token: ApiToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "uses": sorted(token.uses),
        "network": str(token.network),
        "made_at": token.made_at.isoformat(),
        "ends_at": token.ends_at.isoformat(),
        "revoked_at": token.revoked_at.isoformat() if token.revoked_at else None,
    }
