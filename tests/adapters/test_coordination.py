"""One contract for both coordinations, and what each has besides."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from bastion.adapters.coordination import LOCK, open_coordination
from bastion.adapters.coordination.ear import decode
from bastion.adapters.coordination.fanout import MAX_PENDING
from bastion.adapters.coordination.memory import MemoryCoordination
from bastion.adapters.coordination.redis import RedisCoordination
from bastion.adapters.coordination.shelf import Shelf
from bastion.core.errors import ConfigError, Unavailable
from bastion.core.identity import IdentityId
from bastion.core.policy import Occupied
from bastion.ports import Coordination, Revocation
from tests.fakes import FakeClock
from tests.services.ports import free_port
from tests.services.redis import RedisServer, redis_server

ANN = IdentityId("https://login.example.com", "ann")
BEN = IdentityId("https://login.example.com", "ben")
LONG = timedelta(seconds=30)
BRIEF = timedelta(milliseconds=150)
"""Short enough to be waited for where the server's own clock decides."""

STAGING = Occupied("s-staging", "staging", "nonproduction")
DEV = Occupied("s-dev", "dev", "nonproduction")
PRODUCTION = Occupied("s-production", "production", "production")


@dataclass
class Nodes:
    """Two nodes that coordinate, and the time they go by."""

    one: Coordination
    other: Coordination
    clock: FakeClock | None

    def pass_by(self, span: timedelta) -> None:
        """Where the clock is a server's, `eventually` waits instead."""
        if self.clock is not None:
            self.clock.advance(span)


async def eventually(holds: Callable[[], Awaitable[bool]], *, within: float = 5.0) -> None:
    give_up_at = time.monotonic() + within
    while not await holds():
        assert time.monotonic() < give_up_at, "it did not come to pass"
        await asyncio.sleep(0.01)


async def next_of(revocations: AsyncIterator[Revocation | None], within: float = 5.0) -> Revocation | None:
    async with asyncio.timeout(within):
        return await anext(revocations)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        server.settle()
        yield server


@pytest.fixture(params=["memory", "redis"])
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[Nodes]:
    if request.param == "memory":
        clock = FakeClock()
        only = MemoryCoordination(clock=clock)
        yield Nodes(only, only, clock)
        await only.close()
        return
    server: RedisServer = request.getfixturevalue("server")
    one, other = await joined(server, "one"), await joined(server, "other")
    yield Nodes(one, other, None)
    await one.close()
    await other.close()


async def joined(server: RedisServer, node: str) -> RedisCoordination:
    coordination = RedisCoordination(server.url, node=node)
    await coordination.start(patience=timedelta(0))
    return coordination


# ----------------------------------------------------------------------------------------------- contract: once


async def test_a_key_is_put_once_and_keeps_its_first_value(nodes: Nodes) -> None:
    assert await nodes.one.put_once("state", b"first", LONG)
    assert not await nodes.other.put_once("state", b"second", LONG)
    assert await nodes.other.take("state") == b"first"


async def test_of_fifty_that_take_at_the_same_time_one_gets_it(nodes: Nodes) -> None:
    await nodes.one.put_once("code", b"\x00\xff", LONG)
    taken = await asyncio.gather(*(node.take("code") for node in [nodes.one, nodes.other] * 25))
    assert sorted(taken, key=lambda value: value is None) == [b"\x00\xff"] + [None] * 49


async def test_of_fifty_that_put_at_the_same_time_one_succeeds(nodes: Nodes) -> None:
    put = await asyncio.gather(*(node.put_once("nonce", b"", LONG) for node in [nodes.one, nodes.other] * 25))
    assert sorted(put) == [False] * 49 + [True]


async def test_asking_whether_a_key_is_held_does_not_take_it(nodes: Nodes) -> None:
    assert not await nodes.one.holds("token")
    await nodes.one.put_once("token", b"", LONG)
    assert await nodes.other.holds("token")
    assert await nodes.other.take("token") == b""
    assert not await nodes.one.holds("token")


async def test_a_look_at_a_value_does_not_take_it(nodes: Nodes) -> None:
    assert await nodes.one.peek("code") is None
    await nodes.one.put_once("code", b"\x00\xff", BRIEF)
    assert (await nodes.other.peek("code"), await nodes.one.peek("code")) == (b"\x00\xff", b"\x00\xff")
    assert await nodes.other.take("code") == b"\x00\xff"
    assert await nodes.one.peek("code") is None
    await nodes.one.put_once("code", b"", BRIEF)
    nodes.pass_by(BRIEF)
    await eventually(lambda: _is_gone(nodes.other, "code"))


async def _is_gone(node: Coordination, key: str) -> bool:
    return await node.peek(key) is None


async def test_a_value_lapses_and_its_key_can_be_put_again(nodes: Nodes) -> None:
    await nodes.one.put_once("state", b"old", BRIEF)
    nodes.pass_by(BRIEF)
    await eventually(lambda: nodes.other.put_once("state", b"new", LONG))
    assert await nodes.one.take("state") == b"new"


# ----------------------------------------------------------------------------------------------- contract: law 4


async def test_sessions_of_one_tier_are_live_together(nodes: Nodes) -> None:
    assert await nodes.one.enter(ANN, STAGING, LONG, crossing=False) == []
    assert await nodes.other.enter(ANN, DEV, LONG, crossing=False) == []
    assert set(await nodes.one.occupied(ANN)) == {STAGING, DEV}


async def test_a_session_in_another_tier_stands_in_the_way_and_is_named(nodes: Nodes) -> None:
    await nodes.one.enter(ANN, STAGING, LONG, crossing=False)
    assert await nodes.other.enter(ANN, PRODUCTION, LONG, crossing=False) == [STAGING]
    assert await nodes.other.occupied(ANN) == [STAGING]


async def test_one_identity_does_not_stand_in_the_way_of_another(nodes: Nodes) -> None:
    await nodes.one.enter(ANN, STAGING, LONG, crossing=False)
    assert await nodes.other.enter(BEN, PRODUCTION, LONG, crossing=False) == []
    assert await nodes.one.occupied(BEN) == [PRODUCTION]


async def test_a_crossing_is_registered_whatever_is_live_and_stands_in_the_way_itself(nodes: Nodes) -> None:
    await nodes.one.enter(ANN, STAGING, LONG, crossing=False)
    assert await nodes.other.enter(ANN, PRODUCTION, LONG, crossing=True) == []
    assert await nodes.one.enter(ANN, DEV, LONG, crossing=False) == [PRODUCTION]
    assert set(await nodes.one.occupied(ANN)) == {STAGING, PRODUCTION}


async def test_leaving_frees_the_identity_and_leaving_twice_is_nothing(nodes: Nodes) -> None:
    await nodes.one.enter(ANN, STAGING, LONG, crossing=False)
    for _ in range(2):
        await nodes.one.leave(ANN, STAGING.session_id)
    assert await nodes.other.enter(ANN, PRODUCTION, LONG, crossing=False) == []


async def test_a_dead_node_frees_its_identities_when_their_registrations_lapse(nodes: Nodes) -> None:
    await nodes.one.enter(ANN, STAGING, BRIEF, crossing=False)
    nodes.pass_by(BRIEF)

    async def let_in() -> bool:
        return not await nodes.other.enter(ANN, PRODUCTION, LONG, crossing=False)

    await eventually(let_in)
    assert await nodes.one.occupied(ANN) == [PRODUCTION]


async def test_a_registration_that_is_kept_outlives_its_first_lifetime(nodes: Nodes) -> None:
    await nodes.one.enter(ANN, STAGING, BRIEF, crossing=False)
    await nodes.one.enter(ANN, DEV, BRIEF, crossing=False)
    assert await nodes.one.keep(ANN, STAGING.session_id, LONG)
    nodes.pass_by(BRIEF)

    async def only_kept_one_is_left() -> bool:
        return await nodes.other.occupied(ANN) == [STAGING]

    await eventually(only_kept_one_is_left)


async def test_a_registration_that_has_lapsed_is_not_revived(nodes: Nodes) -> None:
    await nodes.one.enter(ANN, STAGING, BRIEF, crossing=False)
    nodes.pass_by(BRIEF)

    async def lapsed() -> bool:
        return not await nodes.one.occupied(ANN)

    await eventually(lapsed)
    assert not await nodes.one.keep(ANN, STAGING.session_id, LONG)
    assert await nodes.other.enter(ANN, PRODUCTION, LONG, crossing=False) == []
    assert not await nodes.one.keep(ANN, STAGING.session_id, LONG)


async def test_what_was_left_or_never_entered_cannot_be_kept(nodes: Nodes) -> None:
    await nodes.one.enter(ANN, STAGING, LONG, crossing=False)
    await nodes.one.leave(ANN, STAGING.session_id)
    assert not await nodes.one.keep(ANN, STAGING.session_id, LONG)
    assert not await nodes.one.keep(ANN, "s-unknown", LONG)
    assert await nodes.other.occupied(ANN) == []


@pytest.mark.parametrize("round_", range(5))
async def test_of_fifty_that_enter_two_tiers_at_once_only_one_tier_is_registered(nodes: Nodes, round_: int) -> None:
    wishes = [
        Occupied(f"s-{n}", *("production",) * 2) if n % 2 else Occupied(f"s-{n}", "dev", "low") for n in range(50)
    ]
    wishes = wishes[round_:] + wishes[:round_]
    answers = await asyncio.gather(
        *(
            node.enter(ANN, wish, LONG, crossing=False)
            for node, wish in zip([nodes.one, nodes.other] * 25, wishes, strict=True)
        )
    )
    registered = await nodes.one.occupied(ANN)
    assert len({held.tier for held in registered}) == 1
    assert {wish for wish, answer in zip(wishes, answers, strict=True) if not answer} == set(registered)
    assert len(registered) == 25


# ----------------------------------------------------------------------------------------- contract: counts, leases


async def test_counting_at_the_same_time_counts_every_one(nodes: Nodes) -> None:
    counted = await asyncio.gather(*(node.count("address", LONG) for node in [nodes.one, nodes.other] * 25))
    assert sorted(tally.number for tally in counted) == list(range(1, 51))
    assert (await nodes.one.count("another address", LONG)).number == 1


async def test_a_window_is_opened_by_its_first_and_not_by_later_ones(nodes: Nodes) -> None:
    window = BRIEF * 2
    assert (await nodes.one.count("address", window)).number == 1
    nodes.pass_by(window / 2)
    assert (await nodes.one.count("address", LONG)).number == 2
    nodes.pass_by(window / 2)

    async def began_again() -> bool:
        return (await nodes.other.count("address", LONG)).number == 1

    await eventually(began_again)


async def test_what_is_forgiven_was_not_counted_and_its_window_stays(nodes: Nodes) -> None:
    first = await nodes.one.count("address", LONG)
    await nodes.one.count("address", LONG)
    await nodes.other.forgive("address")
    assert (await nodes.one.count("address", LONG * 2)).number == 2
    for _ in range(5):  # more than were counted: nobody can save up
        await nodes.other.forgive("address")
    last = await nodes.one.count("address", LONG * 2)
    assert (last.number, timedelta(0) < last.left <= first.left <= LONG) == (1, True)
    await nodes.one.forgive("never counted")
    assert (await nodes.one.count("never counted", LONG)).number == 1


async def test_a_lease_has_one_owner_until_it_lapses(nodes: Nodes) -> None:
    assert await nodes.one.lease("sweeper", "a", LONG)
    assert not await nodes.other.lease("sweeper", "b", LONG)
    assert await nodes.one.lease("sweeper", "a", BRIEF)
    nodes.pass_by(BRIEF)
    await eventually(lambda: nodes.other.lease("sweeper", "b", LONG))
    assert not await nodes.one.lease("sweeper", "a", LONG)


# ------------------------------------------------------------------------------------------- contract: revocations


async def test_a_revocation_reaches_every_subscriber_of_every_node_once_and_in_order(nodes: Nodes) -> None:
    subscriptions = [nodes.one.revocations(), nodes.other.revocations(), nodes.other.revocations()]
    sent = [Revocation(grant_id="g-1"), Revocation(identity=ANN), Revocation(grant_id="g-2", identity=BEN)]
    for revocation in sent:
        await nodes.one.revoke(revocation)
    for subscription in subscriptions:
        assert [await next_of(subscription) for _ in sent] == sent


async def test_a_slow_subscriber_is_told_that_it_missed_some_and_hears_the_next(nodes: Nodes) -> None:
    slow, quick = nodes.other.revocations(), nodes.other.revocations()
    for n in range(MAX_PENDING + 1):
        await nodes.one.revoke(Revocation(grant_id=f"g-{n}"))
        assert await next_of(quick) == Revocation(grant_id=f"g-{n}")
    await nodes.one.revoke(Revocation(grant_id="g-last"))
    await next_of(quick)
    assert await next_of(slow) is None
    assert await next_of(slow) == Revocation(grant_id="g-last")


DECISIONS: dict[str, Callable[[Coordination], Awaitable[object]]] = {
    "put_once": lambda c: c.put_once("k", b"", LONG),
    "take": lambda c: c.take("k"),
    "peek": lambda c: c.peek("k"),
    "holds": lambda c: c.holds("k"),
    "enter": lambda c: c.enter(ANN, STAGING, LONG, crossing=False),
    "cross": lambda c: c.enter(ANN, STAGING, LONG, crossing=True),
    "occupied": lambda c: c.occupied(ANN),
    "count": lambda c: c.count("k", LONG),
    "forgive": lambda c: c.forgive("k"),
}


async def test_a_closed_coordination_decides_nothing_and_ends_its_subscriptions(nodes: Nodes) -> None:
    subscription = nodes.one.revocations()
    await nodes.one.close()
    await nodes.one.close()
    with pytest.raises(StopAsyncIteration):
        await next_of(subscription)
    with pytest.raises(StopAsyncIteration):
        await next_of(nodes.one.revocations())
    for decide in DECISIONS.values():
        with pytest.raises(Unavailable):
            await decide(nodes.one)


# ----------------------------------------------------------------------------------------------------------- memory

MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.sampled_from([STAGING, DEV, PRODUCTION])),
        st.tuples(st.just("keep"), st.sampled_from([STAGING, DEV, PRODUCTION])),
        st.tuples(st.just("leave"), st.sampled_from([STAGING, DEV, PRODUCTION])),
        st.tuples(st.just("wait"), st.integers(1, 40)),
    ),
    max_size=30,
)


@given(MOVES)
def test_no_order_of_moves_brings_an_identity_into_two_tiers(moves: list[tuple[str, Occupied | int]]) -> None:
    async def play() -> None:
        clock = FakeClock()
        coordination = MemoryCoordination(clock=clock)
        for move, what in moves:
            match move, what:
                case "wait", int(seconds):
                    clock.advance(timedelta(seconds=seconds))
                case "enter", Occupied() as held:
                    await coordination.enter(ANN, held, LONG, crossing=False)
                case "keep", Occupied(session_id):
                    await coordination.keep(ANN, session_id, LONG)
                case _, Occupied(session_id):
                    await coordination.leave(ANN, session_id)
                case _:
                    raise AssertionError(move)
            assert len({held.tier for held in await coordination.occupied(ANN)}) <= 1

    asyncio.run(play())


async def test_a_second_node_on_the_same_data_refuses_to_start(tmp_path: Path, clock: FakeClock) -> None:
    first = await open_coordination("memory", clock=clock, node="a", data=tmp_path)
    with pytest.raises(ConfigError) as refusal:
        await open_coordination("memory", clock=clock, node="b", data=tmp_path)
    assert str(tmp_path / LOCK) in str(refusal.value)
    assert f"process {os.getpid()}" in str(refusal.value)
    assert "redis://" in str(refusal.value)
    await first.close()
    await (await open_coordination("memory", clock=clock, node="b", data=tmp_path)).close()


def test_the_lock_of_a_killed_node_is_free_at_once(tmp_path: Path, clock: FakeClock) -> None:
    lock = tmp_path / LOCK
    node = subprocess.Popen([sys.executable, "-c", HOLD_LOCK, str(lock)], stdout=subprocess.PIPE)
    with node:
        assert node.stdout is not None
        assert node.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"process {node.pid}"):
            MemoryCoordination(clock=clock, lock_path=lock)
        node.send_signal(signal.SIGKILL)
        node.wait()
    asyncio.run(MemoryCoordination(clock=clock, lock_path=lock).close())


HOLD_LOCK = """
import sys, time, pathlib
from bastion.adapters.clock import SystemClock
from bastion.adapters.coordination.memory import MemoryCoordination
coordination = MemoryCoordination(clock=SystemClock(), lock_path=pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_program_that_outlives_its_node_does_not_hold_its_lock(tmp_path: Path, clock: FakeClock) -> None:
    node = MemoryCoordination(clock=clock, lock_path=tmp_path / LOCK)
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        asyncio.run(node.close())
        try:
            asyncio.run(MemoryCoordination(clock=clock, lock_path=tmp_path / LOCK).close())
        finally:
            child.kill()


def test_a_data_directory_that_is_not_there_is_named(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path / "none" / LOCK)):
        MemoryCoordination(clock=clock, lock_path=tmp_path / "none" / LOCK)


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "precious").write_text("keep me")
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError):
        MemoryCoordination(clock=clock, lock_path=tmp_path / LOCK)
    assert (tmp_path / "precious").read_text() == "keep me"


@pytest.mark.parametrize("what", ["put_once", "put_and_take", "count", "enter"])
async def test_memory_stays_flat_under_a_flood(what: str, clock: FakeClock) -> None:
    coordination = MemoryCoordination(clock=clock)
    lifetime = timedelta(seconds=1)

    async def flood(name: str, times: int) -> None:
        for n in range(times):
            key = f"{name}-{n}"
            clock.advance(timedelta(milliseconds=2))
            match what:
                case "put_once":
                    await coordination.put_once(key, b"x" * 50, lifetime)
                case "put_and_take":
                    await coordination.put_once(key, b"x" * 50, timedelta(days=1))
                    await coordination.take(key)
                case "count":
                    await coordination.count(key, lifetime)
                case _:
                    await coordination.enter(IdentityId("https://i", key), STAGING, lifetime, crossing=False)

    await flood("first", 2_000)
    tracemalloc.start()
    await flood("second", 10_000)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 1_000_000  # bytes; a thousand live entries, not ten


def full_shelf(clock: FakeClock) -> Shelf[int]:
    """Filled with 0, 1, 2… until it refused."""
    shelf: Shelf[int] = Shelf(room=100_000)
    for n in range(1_000):
        try:
            shelf.put(f"{n}", n, clock.now() + LONG, clock.now(), size=100)
        except Unavailable:
            return shelf
    raise AssertionError("the shelf takes everything")


def test_a_full_shelf_refuses_the_new_and_forgets_nothing(clock: FakeClock) -> None:
    shelf = full_shelf(clock)
    kept = len(shelf)
    assert 100 < kept < 200
    assert [shelf.get(f"{n}", clock.now()) for n in range(kept)] == list(range(kept))
    shelf.put("0", 7, clock.now() + LONG, clock.now(), size=100)
    assert shelf.get("0", clock.now()) == 7


def test_a_full_shelf_has_room_again_when_things_have_lapsed(clock: FakeClock) -> None:
    shelf = full_shelf(clock)
    clock.advance(LONG)
    shelf.put("new", 1, clock.now() + LONG, clock.now(), size=100)
    assert shelf.get("new", clock.now()) == 1


def test_a_full_shelf_looks_behind_what_is_live_for_what_has_lapsed(clock: FakeClock) -> None:
    shelf: Shelf[int] = Shelf(room=100_000)
    for n in range(20):
        shelf.put(f"live-{n}", n, clock.now() + 2 * LONG, clock.now(), size=4_000)
    for n in range(20):
        shelf.put(f"brief-{n}", n, clock.now() + LONG, clock.now(), size=100)
    clock.advance(LONG)
    shelf.put("new", 1, clock.now() + LONG, clock.now(), size=4_000)
    assert [shelf.get(f"live-{n}", clock.now()) for n in range(20)] == list(range(20))


# ------------------------------------------------------------------------------------------------------------ redis


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[RedisCoordination]:
    coordination = await joined(server, "one")
    yield coordination
    await coordination.close()


async def hears(subscription: AsyncIterator[Revocation | None], revocation: Revocation) -> bool:
    """Whether it comes, after any number of None."""
    while (heard := await next_of(subscription)) is None:
        pass
    return heard == revocation


async def test_after_a_restart_subscribers_are_told_to_read_the_store_and_hear_again(
    server: RedisServer, redis: RedisCoordination
) -> None:
    other = await joined(server, "other")
    subscription = other.revocations()
    server.kill()
    assert await next_of(subscription, within=1.0) is None  # deaf: at once, and not only when it hears again
    server.start()
    again = Revocation(grant_id="g-again")

    async def told() -> bool:
        try:
            await redis.revoke(again)
        except Unavailable:
            return False
        return True

    await eventually(told)
    assert await next_of(subscription) is None
    # What is told while the other is still deaf is what its None stands for; once it hears, it hears everything.
    await other._ear.listening(within=5)
    await redis.revoke(again)
    assert await hears(subscription, again)
    await other.close()


async def test_a_server_that_falls_silent_is_noticed_without_a_closed_connection(
    server: RedisServer, redis: RedisCoordination
) -> None:
    subscription = redis.revocations()
    server.freeze()
    try:
        assert await next_of(subscription) is None
    finally:
        server.thaw()
    await redis._ear.listening(within=5)


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_without_its_server_nothing_is_decided_and_quickly(
    server: RedisServer, redis: RedisCoordination, how: str
) -> None:
    for decide in DECISIONS.values():
        await decide(redis)
    server.kill() if how == "killed" else server.freeze()
    began = time.monotonic()
    answers = await asyncio.gather(*(decide(redis) for decide in DECISIONS.values()), return_exceptions=True)
    assert time.monotonic() - began < 2.0
    assert {type(answer) for answer in answers} == {Unavailable}
    assert all("Try again" in str(answer) for answer in answers)
    server.kill()


async def test_a_flood_on_a_frozen_server_is_refused_in_time_too(server: RedisServer, redis: RedisCoordination) -> None:
    server.freeze()
    began = time.monotonic()
    answers = await asyncio.gather(*(redis.count("k", LONG) for _ in range(500)), return_exceptions=True)
    assert time.monotonic() - began < 2.0
    assert {type(answer) for answer in answers} == {Unavailable}
    server.kill()


async def test_a_cancelled_call_is_cancelled_and_leaves_its_answer_to_nobody(
    server: RedisServer, redis: RedisCoordination
) -> None:
    for n in range(40):
        await redis.put_once(f"k-{n}", f"v-{n}".encode(), LONG)
    for delay in (0, 0, 0.001, 0.01, 0.1):
        server.freeze()
        calls = [asyncio.create_task(redis.take("k-0")) for _ in range(40)]
        await asyncio.sleep(delay)  # at different depths of the call
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert all(call.cancelled() for call in calls)
        server.thaw()
        counted = await asyncio.gather(*(redis.count(f"c-{delay}-{n}", LONG) for n in range(10)))
        held = await asyncio.gather(*(redis.holds(f"k-{n}") for n in range(1, 40)))
        assert {tally.number for tally in counted} <= {1, 2}
        assert all(held)
    assert [await redis.take(f"k-{n}") for n in range(1, 40)] == [f"v-{n}".encode() for n in range(1, 40)]


async def test_a_live_session_stands_while_the_server_is_away_but_no_longer_than_its_lifetime(
    server: RedisServer, redis: RedisCoordination
) -> None:
    await redis.enter(ANN, STAGING, LONG, crossing=False)
    await redis.enter(BEN, DEV, BRIEF * 4, crossing=False)
    server.kill()
    assert await redis.keep(ANN, STAGING.session_id, LONG)
    assert await redis.keep(BEN, DEV.session_id, LONG)

    async def over() -> bool:
        return not await redis.keep(BEN, DEV.session_id, LONG)

    await eventually(over)
    assert await redis.keep(ANN, STAGING.session_id, LONG)
    server.start()
    server.settle()
    assert not await redis.keep(BEN, DEV.session_id, LONG)


async def test_a_server_that_forgot_lets_nobody_in_until_everybody_could_come_back(
    server: RedisServer, redis: RedisCoordination
) -> None:
    lifetime = timedelta(seconds=1)
    other = await joined(server, "other")
    await redis.enter(ANN, STAGING, lifetime, crossing=False)
    server.say("FLUSHALL")
    with pytest.raises(Unavailable, match="just started"):
        await other.enter(ANN, PRODUCTION, lifetime, crossing=False)
    assert await redis.keep(ANN, STAGING.session_id, lifetime)

    in_the_way: list[Sequence[Occupied]] = []

    async def settled() -> bool:
        assert await redis.keep(ANN, STAGING.session_id, lifetime)
        try:
            in_the_way.append(await other.enter(ANN, PRODUCTION, lifetime, crossing=False))
        except Unavailable:
            return False
        return True

    await eventually(settled)
    assert in_the_way == [[STAGING]]
    assert await other.enter(BEN, PRODUCTION, lifetime, crossing=False) == []
    await other.close()


async def test_a_settled_server_does_not_take_back_a_registration_that_it_lost(
    server: RedisServer, redis: RedisCoordination
) -> None:
    await redis.enter(ANN, STAGING, LONG, crossing=False)
    server.say("FLUSHALL")
    server.settle()
    assert not await redis.keep(ANN, STAGING.session_id, LONG)
    assert await redis.enter(ANN, PRODUCTION, LONG, crossing=False) == []


async def test_a_revocation_that_did_not_go_out_is_told_here_and_made_up_for_there(
    server: RedisServer, redis: RedisCoordination
) -> None:
    other = await joined(server, "other")
    here, there = redis.revocations(), other.revocations()
    server.say("ACL", "SETUSER", "default", "-publish")
    with pytest.raises(Unavailable):
        await redis.revoke(Revocation(grant_id="g-1"))
    assert await next_of(here) == Revocation(grant_id="g-1")
    server.say("ACL", "SETUSER", "default", "+publish")
    assert await next_of(there) is None
    await other.close()


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'"x"',
        b"null",
        b'{"sender":"x","identity":"nobody"}',
        b'{"sender":"x","identity":[]}',
    ],
)
def test_a_message_that_cannot_be_read_may_have_been_a_revocation(message: bytes) -> None:
    assert decode(message)[1] is None


async def test_strange_messages_do_not_deafen(server: RedisServer, redis: RedisCoordination) -> None:
    subscription = redis.revocations()
    server.say("PUBLISH", "bastion:revocations", "{broken")
    assert await next_of(subscription) is None
    server.say("PUBLISH", "bastion:revocations", '{"sender": "another", "grant": "g-1"}')
    assert await next_of(subscription) == Revocation(grant_id="g-1")


async def test_two_nodes_of_one_name_do_not_run(server: RedisServer, redis: RedisCoordination) -> None:
    with pytest.raises(ConfigError, match="a bastion named one is running"):
        await joined(server, "one")
    await redis.close()
    await (await joined(server, "one")).close()


async def test_a_killed_node_can_be_started_again_without_waiting_by_hand(server: RedisServer) -> None:
    server.say("SET", "bastion:lease:node:one", "the killed one", "PX", "300")
    again = RedisCoordination(server.url, node="one")
    await again.start()
    await again.close()


async def test_a_node_whose_name_was_taken_decides_nothing(server: RedisServer, redis: RedisCoordination) -> None:
    server.say("SET", "bastion:lease:node:one", "somebody else", "PX", "60000")

    async def noticed() -> bool:
        try:
            await redis.take("k")
        except Unavailable:
            return True
        return False

    await eventually(noticed)
    for decide in DECISIONS.values():
        with pytest.raises(Unavailable):
            await decide(redis)


async def test_a_server_that_drops_keys_when_full_is_refused() -> None:
    options = ["--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lru"]
    with redis_server(*options) as server, pytest.raises(ConfigError, match="noeviction"):
        await joined(server, "one")


async def test_a_full_server_refuses() -> None:
    with redis_server("--maxmemory", "3mb") as server:
        coordination = await joined(server, "one")
        puts = (coordination.put_once(f"k-{n}", b"x" * 100_000, LONG) for n in range(30))
        kept = await asyncio.gather(*puts, return_exceptions=True)
        assert {type(answer) for answer in kept} == {bool, Unavailable}
        await coordination.close()


async def test_a_server_that_is_not_there_is_a_configuration_error(tmp_path: Path, clock: FakeClock) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        await open_coordination(f"unix://{tmp_path}/none", clock=clock, node="one", data=tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@host:port/0",
        "redis://:hunter2@[::1/0",
        "redis://:hunter2@host/0?socket_timeout=600",
        "rediss://:hunter2@host/0?ssl_cert_reqs=none",
        "rediss://:hunter2@host/0?ssl_check_hostname=false",
        "http://:hunter2@host",
        "Memory",
        "",
    ],
)
async def test_a_url_that_cannot_be_used_is_refused_without_its_password(
    url: str, tmp_path: Path, clock: FakeClock
) -> None:
    with pytest.raises(ConfigError, match=r"coordination\.url") as refusal:
        await open_coordination(url, clock=clock, node="one", data=tmp_path)
    assert "hunter2" not in str(refusal.value)


async def test_over_tls_only_the_verified_server_with_the_right_password_is_used(
    tmp_path: Path, clock: FakeClock
) -> None:
    certificate = make_certificate(tmp_path)
    port = free_port()
    options = ["--tls-port", f"{port}", "--bind", "127.0.0.1", "--tls-auth-clients", "no", "--requirepass", "se:cret/"]
    files = ["--tls-cert-file", f"{certificate}", "--tls-key-file", f"{tmp_path}/key.pem", "--tls-ca-cert-file"]
    with redis_server(*options, *files, f"{certificate}"):
        good = f"rediss://:se%3Acret%2F@127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
        coordination = await open_coordination(good, clock=clock, node="one", data=tmp_path)
        assert await coordination.put_once("k", b"v", LONG)
        await coordination.close()
        for bad in (good.partition("?")[0], good.replace("cret", "kret"), good.replace("127.0.0.1", "localhost")):
            with pytest.raises(ConfigError) as refusal:
                await open_coordination(bad, clock=clock, node="one", data=tmp_path)
            assert "cret" not in str(refusal.value)


def make_certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 and nothing else."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    built = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    built = built.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    signed = built.add_extension(names, critical=False).sign(key, hashes.SHA256())
    pem, no_password = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, no_password))
    (folder / "certificate.pem").write_bytes(signed.public_bytes(pem))
    return folder / "certificate.pem"
