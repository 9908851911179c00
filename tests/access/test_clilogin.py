"""The command line's side of a device login: what each question gets, and whom a code is good for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from bastion.access.clilogin import INTERVAL, MEMORY, Begun, CommandLineLogins, Done, NotYet, Reason
from bastion.access.confirmation import Confirmation
from bastion.access.devicelogin import LIFETIME, DeviceLogins, answer_key, login_key
from bastion.access.doorstep import Doorstep
from bastion.access.pkce import new_secret
from bastion.access.throttle import DEFAULT
from bastion.access.tokens import Audience, Tokens, TokenSigner
from bastion.adapters.geo import MaxMindLocator
from bastion.adapters.keyfile import load_or_create_key
from bastion.core.audit import Kind
from bastion.core.errors import Refused, TooOften
from bastion.core.geofence import Address, Place, parse_address
from bastion.core.identity import MFA, Identity
from bastion.core.remedy import Remedy, StepUpNeeded
from tests.fakes import FakeClock
from tests.office import CARLA, NODE, SAM, Office, catalogue, open_office

HOME, OFFICE_ADDRESS, NOWHERE = map(parse_address, ("127.0.0.1", "127.0.0.2", "127.0.0.99"))
CLIENT = "bastion 0.1.0 on build-7"


@dataclass(frozen=True)
class Desk:
    office: Office
    clock: FakeClock
    command_lines: CommandLineLogins
    confirmation: Confirmation
    tokens: Tokens

    async def begin(self, address: Address = HOME) -> Begun:
        return await self.command_lines.begin(address, client=CLIENT)

    async def ask(self, begun: Begun, address: Address = HOME) -> Done | NotYet:
        """As a command line that waits as long as it was told."""
        self.clock.advance(INTERVAL)
        return await self.command_lines.redeem(address, begun.device_code)

    async def reason(self, begun: Begun, address: Address = HOME) -> Reason:
        answer = await self.ask(begun, address)
        assert isinstance(answer, NotYet), answer
        return answer.reason

    async def approve(self, begun: Begun, who: Identity = CARLA, address: Address = HOME) -> None:
        place = Place(address, "DE", "test")
        await self.confirmation.approve(begun.pending.code, begun.pending.code, who, place)

    async def leaves(self, begun: Begun) -> list[str]:
        """What is still kept of it."""
        keys = login_key(begun.pending.code), answer_key(begun.pending.connection)
        return [key for key in keys if await self.office.coordination.holds(key)]


@pytest.fixture
async def desk(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Desk]:
    async with open_office(tmp_path, clock) as office:
        parts: dict[str, Any] = {"store": office.store, "coordination": office.coordination, "clock": clock}
        locator = MaxMindLocator(None, {ip_network("127.0.0.0/29"): "DE"}, clock=clock)
        doorstep = Doorstep(
            throttle=office.throttle, locator=locator, catalogue=catalogue(), store=office.store, clock=clock, node=NODE
        )
        logins = DeviceLogins(doorstep=doorstep, catalogue=catalogue(), node=NODE, **parts)
        signer = TokenSigner(key=load_or_create_key(tmp_path / "token"), issuer="https://bastion.test", clock=clock)
        tokens = Tokens(signer=signer, **parts)
        yield Desk(
            office,
            clock,
            CommandLineLogins(logins=logins, doorstep=doorstep, tokens=tokens, coordination=office.coordination),
            office.confirmation(),
            tokens,
        )


async def test_the_token_is_that_of_whoever_said_yes_and_comes_once(desk: Desk) -> None:
    begun = await desk.begin()
    assert await desk.reason(begun) is Reason.PENDING
    await desk.approve(begun)
    done = await desk.ask(begun)
    assert isinstance(done, Done)
    identity, _ = await desk.tokens.identity(done.token.text, Audience.API)
    assert identity.id == done.identity.id == CARLA.id
    (event,) = await desk.office.events(Kind.LOGIN_SUCCEEDED)
    assert (event.identity, event.target, event.address) == (CARLA.id, None, "127.0.0.1")
    assert event.details["for"] == "command line"
    assert event.details["client"] == CLIENT
    assert await desk.reason(begun) is Reason.OVER
    assert await desk.leaves(begun) == []


async def test_a_command_line_that_asked_for_a_second_factor_gets_no_other_login(desk: Desk) -> None:
    strong = replace(CARLA, amr=frozenset({MFA}))
    desk.clock.advance(timedelta(minutes=4))
    begun = await desk.command_lines.begin(HOME, client=CLIENT, remedy=Remedy.MFA)
    fresh = replace(CARLA, authenticated_at=desk.clock.now())
    for weak_or_old in (CARLA, strong, fresh):
        with pytest.raises(StepUpNeeded):
            await desk.approve(begun, weak_or_old)
        assert await desk.reason(begun) is Reason.PENDING
    await desk.approve(begun, replace(fresh, amr=frozenset({MFA})))
    done = await desk.ask(begun)
    assert isinstance(done, Done)
    assert MFA in done.identity.amr


async def test_a_no_ends_it(desk: Desk) -> None:
    begun = await desk.begin()
    await desk.confirmation.refuse(begun.pending.code, SAM, Place(HOME, "DE", "test"))
    assert await desk.reason(begun) is Reason.DENIED
    assert await desk.reason(begun) is Reason.OVER


async def test_whoever_asks_too_often_is_told_so_and_may_go_on(desk: Desk) -> None:
    begun = await desk.begin()
    assert await desk.reason(begun) is Reason.PENDING
    await desk.approve(begun)
    hasty = await desk.command_lines.redeem(HOME, begun.device_code)
    assert isinstance(hasty, NotYet)
    assert hasty.reason is Reason.TOO_FAST
    assert isinstance(await desk.ask(begun), Done)


async def test_a_code_lapses_and_the_audit_log_has_it(desk: Desk) -> None:
    begun = await desk.begin()
    desk.clock.advance(LIFETIME - INTERVAL)
    assert await desk.reason(begun) is Reason.OVER
    (event,) = await desk.office.events(Kind.LOGIN_FAILED)
    assert "within five minutes" in event.reasons[0]
    assert "bastion login --device" in event.reasons[0]
    desk.clock.advance(MEMORY)
    assert await desk.reason(begun) is Reason.OVER


async def test_a_yes_that_came_in_time_is_not_lost_by_asking_late(desk: Desk) -> None:
    begun = await desk.begin()
    desk.clock.advance(LIFETIME - timedelta(seconds=5))
    await desk.approve(begun)
    desk.clock.advance(timedelta(seconds=10))
    assert isinstance(await desk.ask(begun), Done)


async def test_a_stolen_device_code_is_no_use_elsewhere_and_ends(desk: Desk) -> None:
    begun = await desk.begin()
    await desk.approve(begun)
    assert await desk.reason(begun, OFFICE_ADDRESS) is Reason.DENIED
    (event,) = await desk.office.events(Kind.LOGIN_FAILED)
    assert event.address == "127.0.0.2"
    assert "begun from 127.0.0.1" in str(event.details["detail"])
    assert await desk.reason(begun) is Reason.OVER
    assert await desk.leaves(begun) == []


async def test_outside_every_fence_nothing_begins_and_nothing_is_answered(desk: Desk) -> None:
    with pytest.raises(Refused, match=r"127\.0\.0\.99"):
        await desk.begin(NOWHERE)
    begun = await desk.begin()
    await desk.approve(begun)
    with pytest.raises(Refused, match=r"127\.0\.0\.99"):
        await desk.command_lines.redeem(NOWHERE, begun.device_code)
    assert isinstance(await desk.ask(begun), Done)


@pytest.mark.parametrize("code", ["", "x", "\0" * 43, "A" * 43, "device-login:"], ids=repr)
async def test_what_is_no_device_code_gets_nothing(desk: Desk, code: str) -> None:
    answer = await desk.command_lines.redeem(HOME, code)
    assert isinstance(answer, NotYet)
    assert answer.reason is Reason.OVER


async def test_the_code_that_people_see_is_not_the_device_code(desk: Desk) -> None:
    begun = await desk.begin()
    await desk.approve(begun)
    answer = await desk.command_lines.redeem(HOME, begun.pending.code)
    assert isinstance(answer, NotYet)
    assert begun.pending.code not in begun.device_code


async def test_guessing_is_throttled(desk: Desk) -> None:
    for _ in range(DEFAULT.strangers):
        await desk.command_lines.redeem(HOME, new_secret())
    with pytest.raises(TooOften, match="Too many"):
        await desk.command_lines.redeem(HOME, new_secret())


async def test_beginning_is_throttled(desk: Desk) -> None:
    for _ in range(DEFAULT.begun):
        await desk.begin()
    with pytest.raises(TooOften, match="Too many"):
        await desk.begin()


async def test_patience_is_not_throttled(desk: Desk) -> None:
    """Two people in one office who each need the whole five minutes."""
    first, second = await desk.begin(), await desk.begin()
    while desk.clock.now() + 2 * INTERVAL < first.pending.until:
        assert await desk.reason(first) is Reason.PENDING
        assert await desk.reason(second) is Reason.PENDING
    await desk.approve(second)
    assert isinstance(await desk.ask(second), Done)


async def test_logging_out_everywhere_takes_back_a_yes_that_nobody_fetched(desk: Desk) -> None:
    begun = await desk.begin()
    await desk.approve(begun)
    desk.clock.advance(timedelta(seconds=1))
    async with desk.office.store.transaction() as transaction:
        await transaction.end_identity(CARLA.id, desk.clock.now())
    assert await desk.reason(begun) is Reason.DENIED
