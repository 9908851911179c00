"""A clock that never goes back: whatever is done to the wall clock, no grant lasts longer and none comes back."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from bastion.adapters.clock import SteadyClock
from tests.core.values import NOW, grant
from tests.fakes import FakeClock

HOUR = timedelta(hours=1)


class Machine:
    """A wall clock that anybody may set, and the seconds that nobody can."""

    def __init__(self) -> None:
        self.wall = FakeClock(NOW)
        self.seconds = 0.0

    def pass_(self, time: timedelta) -> None:
        self.wall.advance(time)
        self.seconds += time.total_seconds()

    def clock(self) -> SteadyClock:
        return SteadyClock(self.wall, lambda: self.seconds)


def test_it_is_the_wall_clock_while_nobody_touches_that() -> None:
    machine = Machine()
    clock = machine.clock()
    for _ in range(100):
        machine.pass_(timedelta(seconds=37))
        assert clock.now() == machine.wall.now()
    assert clock.ahead == timedelta()


def test_set_back_it_goes_on_at_its_pace_until_the_wall_has_caught_up() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.pass_(HOUR)
    machine.wall.advance(-2 * HOUR)
    assert clock.now() == NOW + HOUR
    assert clock.ahead == 2 * HOUR
    machine.pass_(HOUR / 2)
    assert clock.now() == NOW + 1.5 * HOUR
    machine.wall.advance(2 * HOUR)
    assert clock.now() == NOW + 1.5 * HOUR == machine.wall.now()


def test_it_is_never_before_what_is_known_to_have_happened() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.not_before(NOW + HOUR)
    assert clock.now() == NOW + HOUR
    clock.not_before(NOW)
    machine.pass_(HOUR / 2)
    assert clock.now() == NOW + 1.5 * HOUR


STEPS = st.lists(
    st.tuples(st.timedeltas(timedelta(0), 3 * HOUR), st.timedeltas(-48 * HOUR, 48 * HOUR), st.booleans()), max_size=12
)


@given(steps=STEPS)
def test_however_the_wall_clock_jumps_a_grant_is_not_lengthened_and_not_revived(
    steps: list[tuple[timedelta, timedelta, bool]],
) -> None:
    """Time passes, the clock is set to anything, and now and then the bastion starts again."""
    machine, given_ = Machine(), grant()
    clock, over, newest = machine.clock(), False, NOW
    passed = timedelta(0)
    for elapsed, jump, restarts in steps:
        machine.pass_(elapsed)
        passed += elapsed
        machine.wall.advance(jump)
        if restarts:
            clock = machine.clock()
            clock.not_before(newest)
        now = clock.now()
        assert now >= newest
        newest = now
        live = given_.is_live(now)
        assert not (live and over)
        over = over or not live
        if not restarts_after_unseen_time(steps):
            assert not (live and passed >= given_.ends_at - given_.starts_at)


def restarts_after_unseen_time(steps: list[tuple[timedelta, timedelta, bool]]) -> bool:
    """While no process runs, nobody counts; then only the log's newest instant is known."""
    return any(restarts for _, _, restarts in steps)


def test_what_the_clocks_differ_by_never_adds_up() -> None:
    """The two are read one after the other; a process that is stopped between them must not gain time each time."""
    wall, seconds = FakeClock(NOW), [0.0]

    class Stopped:
        def now(self) -> datetime:
            said = wall.now()
            wall.advance(timedelta(milliseconds=10))
            seconds[0] += 0.01
            return said

    clock = SteadyClock(Stopped(), lambda: seconds[0])
    for _ in range(1000):
        clock.now()
    assert abs(clock.now() - wall.now()) < timedelta(milliseconds=50)
