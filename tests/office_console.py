"""A real console in front of an office: tokens, fences, HTTP on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bastion.access.apitokens import ApiTokens
from bastion.access.doorstep import Doorstep
from bastion.access.tokens import Audience, Tokens, TokenSigner
from bastion.adapters.geo import MaxMindLocator
from bastion.console import grants, links, openapi
from bastion.console import tokens as console_tokens
from bastion.console.app import build, serve
from bastion.console.caller import Callers
from bastion.core.geofence import Network
from bastion.core.identity import Identity
from tests.office import NODE, Office, catalogue
from tests.services.ports import free_port

BERLIN_ADDRESS, BOSTON_ADDRESS, NOWHERE_ADDRESS = "127.0.0.1", "127.0.0.66", "127.0.0.99"
"""Loopback addresses that the console locates in the EU's fence, in the United States', and nowhere."""


@dataclass(frozen=True, slots=True)
class OfficeConsole:
    """Where it listens, and what tests need to speak with it."""

    office: Office
    url: str
    tokens: Tokens

    async def token(self, identity: Identity, audience: Audience = Audience.API) -> str:
        """What ``identity`` has after logging in."""
        return (await self.tokens.issue(identity, audience)).text

    async def call(
        self, who: Identity | str | None, method: str, path: str, body: Any = None, *, source: str = BERLIN_ADDRESS
    ) -> tuple[int, Any]:
        """One API request as ``who``, or with the token that is given, from ``source``: the status, and the JSON of the
        answer."""
        text = await self.token(who) if isinstance(who, Identity) else who
        headers = {} if text is None else {"Authorization": f"Bearer {text}"}
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(source, 0))) as session,
            session.request(method, f"{self.url}/api/v1{path}", json=body, headers=headers) as response,
        ):
            return response.status, await response.json()


@asynccontextmanager
async def open_console(
    office: Office, *more: web.RouteDef, balancers: Sequence[Network] = ()
) -> AsyncIterator[OfficeConsole]:
    """The console of ``office``, with the routes of grants, links and ``more``, until the block is left."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    networks = {ip_network("127.0.0.0/29"): "DE", ip_network(f"{BOSTON_ADDRESS}/32"): "US"}
    doorstep = Doorstep(
        locator=MaxMindLocator(None, networks, clock=office.clock),
        catalogue=catalogue(),
        throttle=office.throttle,
        store=office.store,
        clock=office.clock,
        node=NODE,
    )
    signer = TokenSigner(key=Ed25519PrivateKey.generate(), issuer=url, clock=office.clock)
    tokens = Tokens(signer=signer, store=office.store, coordination=office.coordination, clock=office.clock)
    api_tokens = ApiTokens(throttle=office.throttle, store=office.store, clock=office.clock, node=NODE)
    app = build(
        routes=[
            *grants.routes(approval=office.approval, standing=office.standing, clock=office.clock),
            *links.routes(linking=office.linking),
            *console_tokens.routes(tokens=api_tokens, clock=office.clock),
            *openapi.routes(),
            *more,
        ],
        callers=Callers(tokens=tokens, api_tokens=api_tokens, doorstep=doorstep, public_url=url),
    )
    runner = await serve(app, "127.0.0.1", port, None, balancers=balancers)
    try:
        yield OfficeConsole(office, url, tokens)
    finally:
        await runner.cleanup()
