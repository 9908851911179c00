"""Wrong attempts are counted by identity and address together, forgotten in time, and written once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from bastion.access.throttle import NEIGHBOURS, Throttle
from bastion.core.audit import Kind
from bastion.core.errors import NotFound, TooOften, Unauthenticated, Unavailable
from bastion.core.geofence import Place, parse_address
from bastion.core.limits import Limits
from tests.fakes import FakeClock
from tests.office import CARLA, OTTO, Office, open_office

LIMITS = Limits(window=timedelta(minutes=10), failures=2, strangers=3, begun=4)


@dataclass(frozen=True, slots=True)
class Counted:
    office: Office
    throttle: Throttle


@pytest.fixture
async def counted(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Counted]:
    async with open_office(tmp_path, clock, limits=LIMITS) as office:
        yield Counted(office, office.throttle)


def at(address: str) -> Place:
    return Place(parse_address(address), "DE", "test")


HOME, ELSEWHERE = at("192.0.2.1"), at("198.51.100.7")


async def test_a_strangers_attempts_never_hinder_a_person_at_their_own_address(counted: Counted) -> None:
    for _ in range(50):
        await counted.throttle.failed(ELSEWHERE, CARLA.id)
    assert await counted.throttle.failed(HOME, CARLA.id) is None


async def test_neighbours_behind_one_address_hinder_neither_each_other_nor_whoever_is_unknown(counted: Counted) -> None:
    for _ in range(50):
        await counted.throttle.failed(HOME, OTTO.id)
    assert await counted.throttle.failed(HOME, CARLA.id) is None
    assert await counted.throttle.failed(HOME) is None


async def test_whoever_waits_as_long_as_they_were_told_may_try_again(counted: Counted, clock: FakeClock) -> None:
    for _ in range(LIMITS.failures):
        assert await counted.throttle.failed(HOME, CARLA.id) is None
        clock.advance(timedelta(minutes=1))
    refusal = await counted.throttle.failed(HOME, CARLA.id)
    assert refusal is not None
    assert "Try again in 8m." in refusal.public
    clock.advance(refusal.retry_after)
    assert await counted.throttle.failed(HOME, CARLA.id) is None


async def test_a_flood_is_one_event_in_each_window(counted: Counted, clock: FakeClock) -> None:
    for _ in range(2):
        for _ in range(50):
            await counted.throttle.failed(HOME, CARLA.id)
        clock.advance(LIMITS.window)
    events = await counted.office.events(Kind.LOGIN_THROTTLED)
    assert [(event.identity, event.address, event.country) for event in events] == [(CARLA.id, "192.0.2.1", "DE")] * 2
    assert [event.details["limit"] for event in events] == [LIMITS.failures] * 2


@pytest.mark.parametrize(
    ("one", "other", "is_shared"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
    ],
)
async def test_of_ipv6_a_whole_network_is_one_address(counted: Counted, one: str, other: str, is_shared: bool) -> None:
    for _ in range(LIMITS.strangers):
        assert await counted.throttle.failed(at(one)) is None
    assert (await counted.throttle.failed(at(other)) is not None) is is_shared


async def test_a_site_with_all_its_networks_makes_few_counters(counted: Counted) -> None:
    """Or it would fill the coordination with them, and nobody could log in."""
    kept = counted.office.coordination._counts
    for network in range(1000):
        await counted.throttle.failed(at(f"2001:db8:1:{network:x}::1"))
    assert len(kept) == 1 + LIMITS.strangers * NEIGHBOURS
    (event,) = await counted.office.events(Kind.LOGIN_THROTTLED)
    assert event.details["limit"] == LIMITS.strangers * NEIGHBOURS
    assert await counted.throttle.failed(at("2001:db8:2:1::1")) is None
    for network in range(LIMITS.begun * NEIGHBOURS + 5):
        await counted.throttle.begun(at(f"2001:db8:3:{network:x}::1"), "ssh")
        await counted.throttle.finished(parse_address(f"2001:db8:3:{network:x}::1"), "ssh")


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8:1:2::1"])
async def test_what_is_finished_was_not_begun_in_vain(counted: Counted, address: str) -> None:
    place = at(address)
    for _ in range(50):
        await counted.throttle.begun(place, "ssh")
        await counted.throttle.finished(place.address, "ssh")
    for _ in range(LIMITS.begun):
        await counted.throttle.begun(place, "ssh")
    with pytest.raises(TooOften, match="not finished"):
        await counted.throttle.begun(place, "ssh")
    await counted.throttle.begun(place, "browser")


async def test_what_is_refused_in_a_block_is_counted_as_whoever_it_claims_to_be(counted: Counted) -> None:
    async def fails() -> None:
        async with counted.throttle.watching(HOME):
            raise Unauthenticated("It is over.", claimed=CARLA.id)

    for _ in range(LIMITS.failures):
        with pytest.raises(Unauthenticated):
            await fails()
    with pytest.raises(TooOften):
        await fails()
    assert await counted.throttle.failed(HOME) is None


@pytest.mark.parametrize("error", [Unavailable("It does not answer."), TooOften("x", retry_after=timedelta(1))])
async def test_what_nobody_got_wrong_is_not_counted(counted: Counted, error: Exception) -> None:
    for _ in range(50):
        with pytest.raises(type(error)):
            async with counted.throttle.watching(HOME, CARLA.id):
                raise error
    with pytest.raises(NotFound):
        async with counted.throttle.watching(HOME, CARLA.id):
            raise NotFound("There is no such code.")


async def test_without_the_coordination_nothing_fails_in_silence(counted: Counted) -> None:
    await counted.office.coordination.close()
    with pytest.raises(Unavailable):
        await counted.throttle.failed(HOME)
