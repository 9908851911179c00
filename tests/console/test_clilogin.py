"""The API of ``bastion login --device`` and of ``bastion config-ssh``, as a stranger may send it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bastion.access.apitokens import ApiTokens
from bastion.access.clilogin import CommandLineLogins
from bastion.access.devicelogin import DeviceLogins, Pending, login_key
from bastion.access.doorstep import Doorstep
from bastion.access.reach import Reach
from bastion.access.standing import Standing
from bastion.access.tokens import Audience
from bastion.adapters.geo import MaxMindLocator
from bastion.adapters.policy import CedarPolicies
from bastion.console import clients, clilogin
from bastion.console.app import build, serve
from bastion.console.caller import Callers
from bastion.core.identity import Identity
from tests.fakes import FakeClock
from tests.office import CARLA, NODE, POLICY, Office, catalogue, open_office
from tests.office_console import BERLIN_ADDRESS, BOSTON_ADDRESS, NOWHERE_ADDRESS, OfficeConsole, open_console
from tests.services.ports import free_port


@asynccontextmanager
async def console(office: Office) -> AsyncIterator[OfficeConsole]:
    """The office's console, and beside it one with our routes and the same tokens."""
    async with open_console(office) as first:
        url = f"http://127.0.0.1:{free_port()}"
        parts: dict[str, Any] = {"store": office.store, "coordination": office.coordination, "clock": office.clock}
        networks = {ip_network("127.0.0.0/29"): "DE", ip_network(f"{BOSTON_ADDRESS}/32"): "US"}
        locator = MaxMindLocator(None, networks, clock=office.clock)
        doorstep = Doorstep(
            throttle=office.throttle, locator=locator, catalogue=catalogue(), store=office.store, clock=office.clock,
            node=NODE,
        )  # fmt: skip
        logins = CommandLineLogins(
            logins=DeviceLogins(doorstep=doorstep, catalogue=catalogue(), node=NODE, **parts),
            doorstep=doorstep, tokens=first.tokens, coordination=office.coordination,
        )  # fmt: skip
        policies = CedarPolicies(POLICY, catalogue())
        standing = Standing(store=office.store, policies=policies, catalogue=catalogue(), clock=office.clock)
        reach = Reach(standing=standing, policies=policies, catalogue=catalogue(), clock=office.clock)
        api_tokens = ApiTokens(throttle=office.throttle, store=office.store, clock=office.clock, node=NODE)
        app = build(
            routes=[
                *clilogin.routes(logins=logins, public_url=f"{url}/"),
                *clients.routes(reach=reach, ssh_address="bastion.test:22", ssh_host_key="ssh-ed25519 AAAA"),
            ],
            callers=Callers(tokens=first.tokens, api_tokens=api_tokens, doorstep=doorstep, public_url=url),
        )
        runner = await serve(app, "127.0.0.1", int(url.rpartition(":")[2]), None)
        try:
            yield OfficeConsole(office, url, first.tokens)
        finally:
            await runner.cleanup()


@pytest.fixture
async def ours(tmp_path: Path, clock: FakeClock) -> AsyncIterator[OfficeConsole]:
    async with open_office(tmp_path, clock) as office, console(office) as running:
        await office.know(CARLA)
        yield running


async def test_what_a_command_line_gets_to_begin_with(ours: OfficeConsole) -> None:
    status, body = await ours.call(None, "POST", "/device", {"client": "bastion 0.1.0 on build-7"})
    assert status == 200
    assert body.keys() == {
        "device_code", "user_code", "verification_uri", "verification_uri_complete", "expires_in", "interval"
    }  # fmt: skip
    assert body["verification_uri"] == f"{ours.url}/device"
    assert body["verification_uri_complete"] == f"{ours.url}/device/{body['user_code']}"
    assert (body["expires_in"], body["interval"]) == (300, 2)
    status, body = await ours.call(None, "POST", "/token/device", {"device_code": body["device_code"]})
    assert (status, body["error"]) == (400, "authorization_pending")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        pytest.param("/device", {}, 400, id="nothing"),
        pytest.param("/device", {"client": 7}, 400, id="not text"),
        pytest.param("/device", {"client": "x", "interval": 0}, 400, id="more than is asked"),
        pytest.param("/device", {"client": "x" * 70_000}, 413, id="too long"),
        pytest.param("/token/device", {"device_code": ["x"]}, 400, id="a list"),
        pytest.param("/token/device", {"device_code": "x"}, 400, id="no code"),
        pytest.param("/token/device", {"device_code": "\ud800" * 43}, 400, id="half a surrogate pair"),
    ],
)
async def test_what_is_malformed_is_refused(ours: OfficeConsole, path: str, body: object, status: int) -> None:
    assert (await ours.call(None, "POST", path, body))[0] == status


@pytest.mark.parametrize(("path", "body"), [("/device", {"client": "x"}), ("/token/device", {"device_code": "x" * 43})])
async def test_outside_every_fence_nothing_is_answered(ours: OfficeConsole, path: str, body: object) -> None:
    status, answer = await ours.call(None, "POST", path, body, source=NOWHERE_ADDRESS)
    assert (status, NOWHERE_ADDRESS in answer["error"]) == (403, True)


async def test_no_answer_is_kept_by_anything_on_the_way(ours: OfficeConsole) -> None:
    """RFC 8628, section 3.5, by RFC 6749, section 5.1."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{ours.url}/api/v1/device", json={"client": "x"}) as response,
    ):
        assert response.headers["Cache-Control"] == "no-store"


async def test_a_client_name_is_cut_and_cannot_act_on_a_terminal(ours: OfficeConsole) -> None:
    _, begun = await ours.call(None, "POST", "/device", {"client": "\x1b[2J\u202e" + "x" * 500})
    kept = await ours.office.coordination.peek(login_key(begun["user_code"]))
    assert kept is not None
    client = Pending.from_bytes(kept).knock.client
    assert client.isprintable()
    assert len(client) == 100


@pytest.mark.parametrize(
    ("who", "source", "status", "scopes"),
    [
        pytest.param(CARLA, BERLIN_ADDRESS, 200, ["production/eu", "staging/eu"], id="here"),
        pytest.param(CARLA, BOSTON_ADDRESS, 200, ["staging/us"], id="elsewhere"),
        pytest.param(CARLA, NOWHERE_ADDRESS, 403, None, id="outside"),
        pytest.param(None, BERLIN_ADDRESS, 401, None, id="nobody"),
    ],
)
async def test_how_to_reach_what_is_said_to_those_who_may_know(
    ours: OfficeConsole, who: Identity | None, source: str, status: int, scopes: list[str] | None
) -> None:
    answered, body = await ours.call(who, "GET", "/ssh", source=source)
    assert (answered, body.get("scopes")) == (status, scopes)
    if scopes is not None:
        assert (body["ssh_address"], body["ssh_host_key"]) == ("bastion.test:22", "ssh-ed25519 AAAA")


async def test_a_browsers_cookie_is_no_token_for_a_command_line(ours: OfficeConsole) -> None:
    token = await ours.token(CARLA, Audience.BROWSER)
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
        session.get(f"{ours.url}/api/v1/ssh") as response,
    ):
        assert response.status == 401
