"""Which scopes somebody's client is told of: those they may use or ask for, from where they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from bastion.access.reach import Reach
from bastion.access.wish import Wish
from bastion.adapters.policy import CedarPolicies
from bastion.core.geofence import Place, parse_address
from bastion.core.identity import Identity
from bastion.core.target import Scope
from tests.fakes import FakeClock
from tests.office import AMERICA, CARLA, OTTO, POLICY, PRODUCTION, SAM, STAGING, WEB, Office, catalogue, open_office

BERLIN, BOSTON = Place(parse_address("127.0.0.1"), "DE", "test"), Place(parse_address("127.0.0.66"), "US", "test")
NOTHING = """
@id("connect-with-grant")
permit (principal == ?principal, action in Action::"connect", resource == ?resource);
"""
"""Policies that let nobody ask for anything."""

ATLANTIS = Place(parse_address("127.0.0.99"), None, "test")


@pytest.fixture
async def office(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Office]:
    async with open_office(tmp_path, clock) as office:
        yield office


def reach(office: Office, policy: str = POLICY) -> Reach:
    policies = CedarPolicies(policy, catalogue())
    return Reach(standing=office.standing, policies=policies, catalogue=catalogue(), clock=office.clock)


@pytest.mark.parametrize(
    ("who", "place", "scopes"),
    [
        pytest.param(CARLA, BERLIN, [PRODUCTION, STAGING], id="who may ask"),
        pytest.param(CARLA, BOSTON, [AMERICA], id="elsewhere"),
        pytest.param(CARLA, ATLANTIS, [], id="nowhere"),
        pytest.param(OTTO, BERLIN, [], id="who may ask for nothing"),
    ],
)
async def test_a_client_is_told_of_what_may_be_asked_for_here(
    office: Office, who: Identity, place: Place, scopes: list[Scope]
) -> None:
    assert await reach(office).scopes_of(who, place) == scopes


async def test_no_policy_and_no_grant_is_no_scope(office: Office) -> None:
    assert await reach(office, NOTHING).scopes_of(CARLA, BERLIN) == []


async def test_a_policy_about_one_login_is_enough(office: Office) -> None:
    policy = f"""{NOTHING}
    @id("deploy") @approvals("1")
    permit (principal in Group::"contractors", action == Action::"request", resource)
    when {{ resource is Login && resource.login == "deploy" && resource.environment == "staging" }};
    """
    assert await reach(office, policy).scopes_of(CARLA, BERLIN) == [STAGING]


async def test_a_live_grant_is_enough_and_one_that_has_ended_is_not(office: Office) -> None:
    await office.know(CARLA, SAM)
    wish = Wish((WEB,), ("deploy",), timedelta(hours=1), "a test", False)
    await office.approval.grant(SAM, CARLA, wish, BERLIN)
    nothing = reach(office, NOTHING)
    assert await nothing.scopes_of(CARLA, BERLIN) == [STAGING]
    assert await nothing.scopes_of(SAM, BERLIN) == []
    assert await nothing.scopes_of(CARLA, BOSTON) == []
    office.clock.advance(timedelta(hours=1))
    assert await nothing.scopes_of(CARLA, BERLIN) == []
