"""A desk with every chat in front of it, over real HTTP, for the tests of chats."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

from aiohttp import web

from bastion.adapters.geo import MaxMindLocator
from bastion.chatops.desk import Desk
from tests.office import CARLA, LEA, NODE, OTTO, SAM, SIA, Office

PUBLIC_URL = "https://bastion.example.com"
USERS = {"U0CARLA": CARLA, "U0SAM": SAM, "U0SIA": SIA, "U0LEA": LEA, "U0OTTO": OTTO}
NAMES = {user: identity.display.partition("@")[0] for user, identity in USERS.items()} | {"U0NEW": "new.person"}


def desk_of(office: Office) -> Desk:
    return Desk(
        approval=office.approval,
        standing=office.standing,
        choice=office.choice,
        linking=office.linking,
        store=office.store,
        clock=office.clock,
        node=NODE,
        public_url=PUBLIC_URL,
    )


def parts_of(office: Office) -> dict[str, Any]:
    """What every chat's routes need of an office."""
    return {
        "coordination": office.coordination,
        "store": office.store,
        "locator": MaxMindLocator(None, {ip_network("127.0.0.0/8"): "DE"}, clock=office.clock),
        "clock": office.clock,
        "node": NODE,
    }


@asynccontextmanager
async def serving(routes: Sequence[web.RouteDef]) -> AsyncIterator[str]:
    """The routes on loopback; their URL without a slash at its end."""
    app = web.Application()
    app.add_routes(routes)
    # aiohttp reads on for ten seconds after it has answered a body that was not read to its end.
    runner = web.AppRunner(app, lingering_time=0.1, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
