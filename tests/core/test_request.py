"""The life of a request: played at random, step by step, against what may follow what."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bastion.core.errors import Conflict
from bastion.core.grant import Approved, Basis, Grant, Review, Verdict, outcome
from bastion.core.policy import Demands
from bastion.core.request import (
    ENDS,
    STEPS,
    Life,
    Stage,
    Step,
    answers_owed,
    basis_of,
    grant_from,
    later_end,
    stage_of_grant,
)
from tests.core.values import CARLA, NOW, TICK, grant, person, request

SAM, SUE, LEA = (person(name, "sre", email=f"{name}@example.com") for name in ("sam", "sue", "lea"))
ALIAS = person("s.sam", "sre", email="SAM@example.com", issuer="https://other.example.com")
CARLA_TOO = person("carla2", "sre", email="carla@example.com")
OTTO = person("otto", "contractors")
HOUR = timedelta(hours=1)

FOLLOWS: dict[Stage, frozenset[Stage]] = {
    Stage.ASKED: frozenset({Stage.AGREED, Stage.GRANTED, Stage.REFUSED, Stage.WITHDRAWN, Stage.TIMED_OUT}),
    Stage.AGREED: frozenset({Stage.GRANTED, Stage.ENDED, Stage.EXPIRED}),
    Stage.GRANTED: frozenset({Stage.ENDED, Stage.EXPIRED}),
}


class Lives(RuleBasedStateMachine):
    """One request, pulled at by everybody, while time goes on by anything from an instant to a day."""

    def __init__(self) -> None:
        super().__init__()
        self.now: datetime = NOW
        self.life = Life(request(), CARLA)
        self.before = Stage.ASKED
        self.ended_at: datetime | None = None

    @initialize(approvals=st.integers(1, 3), ahead=st.none() | st.timedeltas(timedelta(0), timedelta(days=2)))
    def agree_on_demands_and_a_start(self, approvals: int, ahead: timedelta | None) -> None:
        demands = Demands(approvals, frozenset({"sre"}), timedelta(hours=3))
        starts_at = None if ahead is None else NOW + ahead
        self.life = Life(request(demands=demands, starts_at=starts_at), CARLA)

    @rule(seconds=st.integers(1, 90_000))
    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(who=st.sampled_from([SAM, SUE, LEA, ALIAS, CARLA, CARLA_TOO, OTTO]), verdict=st.sampled_from(Verdict))
    def review(self, who: object, verdict: Verdict) -> None:
        answer = Review("r-1", who, verdict, self.now)  # type: ignore[arg-type]
        try:
            self.life.check(Step.REVIEW, self.now)
        except Conflict:
            return
        if any(review.reviewer == who for review in self.life.reviews):
            return
        self.life = replace(self.life, reviews=(*self.life.reviews, answer))
        if isinstance(standing := outcome(self.life.request, CARLA, self.life.reviews, self.now), Approved):
            self.life = replace(self.life, grant=grant_from(self.life.request, standing.by, self.now))

    @rule()
    def withdraw(self) -> None:
        try:
            self.life.check(Step.WITHDRAW, self.now)
        except Conflict:
            return
        self.life = replace(self.life, request=replace(self.life.request, withdrawn_at=self.now))

    @rule(more=st.integers(1, 300))
    def extend(self, more: int) -> None:
        asked = request(duration=timedelta(minutes=more), demands=self.life.request.demands, extends="g-1")
        if self.life.grant is None:
            return
        before = self.life.grant
        try:
            self.life.check(Step.EXTEND, self.now)
            end = later_end(before, asked, self.now)
        except Conflict:
            return
        assert before.is_live(self.now)
        assert before.ends_at < end <= before.ends_at + asked.duration
        assert end <= self.now + (asked.demands.max_duration or timedelta.max)
        self.life = replace(self.life, grant=replace(before, ends_at=end))

    @rule()
    def end(self) -> None:
        try:
            self.life.check(Step.END, self.now)
        except Conflict:
            return
        assert self.life.grant is not None
        self.life = replace(self.life, grant=replace(self.life.grant, revoked_at=self.now))

    @invariant()
    def what_follows_is_in_the_table_and_nothing_follows_an_end(self) -> None:
        stage = self.life.stage(self.now)
        path = {self.before}
        for _ in STEPS:  # time may have passed over stages that nobody saw
            path |= {after for each in path for after in FOLLOWS.get(each, frozenset())}
        assert stage in path if self.before not in ENDS else stage is self.before
        self.before = stage

    @invariant()
    def a_grant_is_live_exactly_at_its_stage(self) -> None:
        live = self.life.grant is not None and self.life.grant.is_live(self.now)
        assert live == (self.life.stage(self.now) is Stage.GRANTED)

    @invariant()
    def a_grant_has_enough_different_people_and_never_its_holder(self) -> None:
        if self.life.grant is not None:
            by = self.life.grant.approved_by
            assert len(by) >= self.life.request.demands.approvals
            assert not {CARLA.id, CARLA_TOO.id, OTTO.id} & set(by)
            assert not {SAM.id, ALIAS.id} <= set(by)

    @invariant()
    def a_grant_begins_and_ends_when_it_was_agreed(self) -> None:
        if (given := self.life.grant) is not None:
            start = self.life.request.starts_at
            assert given.starts_at >= (start or NOW)
            assert given.ends_at - given.starts_at <= max(self.life.request.duration, timedelta(hours=300))
            if start is not None and given.ends_at == start + self.life.request.duration:
                assert given.starts_at < given.ends_at


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("stage", list(Stage))
def test_every_stage_says_what_can_be_done(stage: Stage) -> None:
    assert STEPS[stage] <= set(Step)
    assert (stage in ENDS) == (STEPS[stage] == frozenset())


@pytest.mark.parametrize(
    ("changes", "at", "stage"),
    [
        ({}, NOW, Stage.GRANTED),
        ({}, NOW - TICK, Stage.AGREED),
        ({}, NOW + 2 * HOUR - TICK, Stage.GRANTED),
        ({}, NOW + 2 * HOUR, Stage.EXPIRED),
        ({"revoked_at": NOW}, NOW, Stage.ENDED),
        ({"revoked_at": NOW}, NOW + 9 * HOUR, Stage.ENDED),
    ],
)
def test_a_grant_is_at_one_stage_at_each_instant(changes: dict[str, object], at: datetime, stage: Stage) -> None:
    assert stage_of_grant(grant(**changes), at) is stage


def test_an_agreed_start_that_has_passed_shortens_the_grant_and_not_its_end() -> None:
    asked = request(starts_at=NOW + HOUR)
    given = grant_from(asked, (SAM, SUE), NOW + 2 * HOUR)
    assert (given.starts_at, given.ends_at) == (NOW + 2 * HOUR, NOW + 3 * HOUR)
    with pytest.raises(Conflict, match="the time that was agreed on is over"):
        grant_from(asked, (SAM, SUE), NOW + 3 * HOUR)


LEAP, SPRING = datetime.fromisoformat("2028-02-28T23:00:00+00:00"), datetime.fromisoformat("2026-03-29T00:30:00+00:00")


@pytest.mark.parametrize("start", [LEAP, SPRING], ids=["leap day", "daylight saving"])
def test_a_grant_lasts_as_long_on_every_day(start: datetime) -> None:
    for duration in (timedelta(hours=2), timedelta(days=2)):
        given: Grant = grant_from(request(duration=duration), (SAM, SUE), start)
        assert given.ends_at - given.starts_at == duration


def test_a_break_glass_owes_answers_of_different_people_until_one_refuses() -> None:
    asked = request(break_glass=True, demands=Demands(2, frozenset({"sre"})))
    assert basis_of(asked) is Basis.BREAK_GLASS
    answers = [Review("r-1", who, Verdict.APPROVE, NOW) for who in (CARLA, CARLA_TOO, OTTO, SAM, ALIAS)]
    assert answers_owed(asked, CARLA, answers) == 1
    assert answers_owed(asked, CARLA, [*answers, Review("r-1", SUE, Verdict.APPROVE, NOW)]) == 0
    assert answers_owed(asked, CARLA, [Review("r-1", SUE, Verdict.REFUSE, NOW)]) == 0
    assert answers_owed(asked, CARLA, [Review("r-1", CARLA_TOO, Verdict.REFUSE, NOW)]) == 2
    assert answers_owed(request(), CARLA, []) == 0
