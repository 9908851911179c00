"""Asking, answering, and the permission that results."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.errors import Refused
from bastion.core.grant import (
    MAX_DURATION,
    MAX_REASON,
    MIN_DURATION,
    Approved,
    Closed,
    Outcome,
    Review,
    Verdict,
    Waiting,
    can_review,
    check_duration,
    check_reason,
    outcome,
    parse_duration,
    spell,
)
from bastion.core.identity import Identity, IdentityKind
from bastion.core.policy import SSH_ACTIONS, Action, Demands
from tests.core.values import CARLA, ISSUER, NOW, PRODUCTION, STAGING, TICK, WEB_1, grant, person, request, review

SAM = person("sam", "sre", email="sam@example.com")
SUE = person("sue", "sre", email="sue@example.com")
SAM_2 = person("s.sam", "sre", email="Sam@Example.com", issuer="https://other.example.com")
VICTOR = person("victor", "contractors", email="victor@example.com")
NO = Verdict.REFUSE


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("2h", 120),
        ("90m", 90),
        ("1h30m", 90),
        ("1d", 1440),
        ("1d2h3m", 1563),
        ("30d", 43_200),
        ("1m", 1),
        (" 2H ", 120),
    ],
)
def test_a_duration_is_read_as_people_write_it(text: str, minutes: int) -> None:
    assert parse_duration(text) == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    "text",
    ["", " ", "h", "2", "2 h", "2hours", "-2h", "+2h", "2.5h", "1e9h", "nan", "inf", "0h", "0m", "0d0h0m", "30d1m",
     "999d", "9999m9m", "1m1h", "2h\n1m", "\u0662h", "\uff12h", "2h;", "9" * 1000 + "m"],
    ids=lambda text: repr(text[:10]),
)  # fmt: skip
def test_a_duration_that_is_none_or_too_long_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(Refused) as error:
        parse_duration(text)
    assert error.value.public.isprintable()
    assert len(error.value.public) < 150


@pytest.mark.parametrize("duration", [timedelta(0), MIN_DURATION - TICK, MAX_DURATION + TICK, -MIN_DURATION], ids=str)
def test_a_duration_from_elsewhere_keeps_to_the_same_bounds(duration: timedelta) -> None:
    with pytest.raises(Refused, match="from 1 minute to 30 days"):
        check_duration(duration)
    assert check_duration(MIN_DURATION) == MIN_DURATION
    assert check_duration(MAX_DURATION) == MAX_DURATION


@given(minutes=st.integers(1, 43_200))
def test_every_possible_duration_is_read_back_as_it_is_spelled(minutes: int) -> None:
    assert parse_duration(spell(timedelta(minutes=minutes))) == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (119, "1m"), (3600, "1h"), (90_060, "1d1h1m"), (-120, "-2m")],
)
def test_a_duration_is_spelled_short(seconds: int, text: str) -> None:
    assert spell(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        pytest.param("", "A reason is needed", id="empty"),
        pytest.param(" \t\n ", "A reason is needed", id="blank"),
        pytest.param("x" * (MAX_REASON + 1), "longer than 500", id="too long"),
        pytest.param("deploy\nGRANTED", "control characters", id="two lines"),
        pytest.param("deploy\x1b[1A", "control characters", id="an escape sequence"),
        pytest.param("deploy \u202eyolped", "control characters", id="written backwards"),
    ],
)
def test_a_reason_must_be_one_plain_line(reason: str, sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        check_reason(reason)


def test_a_reason_is_kept_without_the_space_around_it() -> None:
    assert check_reason("  Störung beheben – #42 ") == "Störung beheben – #42"
    assert check_reason("x" * MAX_REASON) == "x" * MAX_REASON


def test_a_grant_covers_exactly_what_it_names() -> None:
    assert grant().covers(CARLA.id, STAGING, WEB_1.full_name, "deploy", Action.SSH_SHELL, NOW)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"identity": VICTOR.id}, id="somebody else"),
        pytest.param({"identity": person("carla", issuer="https://other").id}, id="the same subject of another issuer"),
        pytest.param({"scope": PRODUCTION}, id="another environment"),
        pytest.param({"targets": frozenset({"db-1.staging.eu"})}, id="another target"),
        pytest.param({"targets": frozenset({"web-1"})}, id="a short name"),
        pytest.param({"targets": frozenset()}, id="no target"),
        pytest.param({"logins": frozenset({"admin"})}, id="another login"),
        pytest.param({"logins": frozenset()}, id="no login"),
        pytest.param({"actions": SSH_ACTIONS - {Action.SSH_SHELL}}, id="every other action"),
        pytest.param({"actions": frozenset()}, id="no action"),
        pytest.param({"starts_at": NOW + TICK}, id="a microsecond early"),
        pytest.param({"ends_at": NOW}, id="at its end"),
        pytest.param({"starts_at": NOW + TICK, "ends_at": NOW - TICK}, id="inside out"),
        pytest.param({"revoked_at": NOW - TICK}, id="revoked"),
        pytest.param({"revoked_at": NOW + timedelta(days=1)}, id="revoked by a clock that is ahead"),
    ],
)
def test_a_grant_covers_nothing_else(changes: dict[str, object]) -> None:
    changed = grant(**changes)
    assert not changed.covers(CARLA.id, STAGING, WEB_1.full_name, "deploy", Action.SSH_SHELL, NOW)
    assert changed.shortfall(CARLA.id, STAGING, WEB_1.full_name, "deploy", Action.SSH_SHELL, NOW)


def test_instants_are_told_in_utc_wherever_they_were_written() -> None:
    ended = grant(ends_at=NOW.astimezone(timezone(timedelta(hours=2))))
    assert ended.shortfall(CARLA.id, STAGING, WEB_1.full_name, "deploy", Action.SSH_SHELL, NOW) == (
        "ended at 2026-03-02 09:00:00 UTC"
    )


@given(
    now=st.datetimes(timezones=st.just(NOW.tzinfo)),
    starts=st.datetimes(timezones=st.just(NOW.tzinfo)),
    ends=st.datetimes(timezones=st.just(NOW.tzinfo)),
    revoked=st.none() | st.datetimes(timezones=st.just(NOW.tzinfo)),
)
def test_a_grant_covers_if_and_only_if_it_is_live(
    now: datetime, starts: datetime, ends: datetime, revoked: datetime | None
) -> None:
    given_ = grant(starts_at=starts, ends_at=ends, revoked_at=revoked)
    assert given_.covers(CARLA.id, STAGING, WEB_1.full_name, "deploy", Action.SSH_SHELL, now) is given_.is_live(now)


@pytest.mark.parametrize(
    ("reviewer", "sentence"),
    [
        pytest.param(CARLA, "Nobody approves themselves", id="the beneficiary"),
        pytest.param(person("c2", "sre", email="CARLA@example.com"), "Nobody approves themselves", id="by an alias"),
        pytest.param(VICTOR, "Reviewers of this request are in: sre.", id="from no demanded group"),
    ],
)
def test_who_may_not_review_is_told_why(reviewer: Identity, sentence: str) -> None:
    assert sentence in str(can_review(request(), CARLA, reviewer))


def test_the_beneficiary_by_id_may_not_review_even_when_another_identity_is_taken_for_them() -> None:
    assert can_review(request(), VICTOR, person("carla", "sre"))


@pytest.mark.parametrize("kind", list(IdentityKind))
def test_a_workload_reviews_nothing_not_even_for_a_workload(kind: IdentityKind) -> None:
    robot = replace(person("robot", "sre"), kind=IdentityKind.WORKLOAD)
    assert can_review(request(), replace(person("ci"), kind=kind), robot) == "A workload cannot review."


def test_a_reviewer_of_the_demanded_group_may_review() -> None:
    assert can_review(request(), CARLA, SAM) is None
    assert can_review(request(demands=Demands()), CARLA, VICTOR) is None


@pytest.mark.parametrize(
    ("reviews", "expected"),
    [
        pytest.param([], Waiting(2), id="nobody yet"),
        pytest.param([review(SAM)], Waiting(1), id="one of two"),
        pytest.param([review(SAM), review(SUE)], Approved((SAM, SUE)), id="both"),
        pytest.param([review(SUE, minutes=9), review(SAM)], Approved((SAM, SUE)), id="in the order of their answers"),
        pytest.param([review(SAM), review(SAM, minutes=9)], Waiting(1), id="one person twice"),
        pytest.param([review(SAM), review(SAM_2)], Waiting(1), id="one person under two names"),
        pytest.param([review(SAM), review(CARLA)], Waiting(1), id="and the beneficiary"),
        pytest.param([review(SAM), review(VICTOR)], Waiting(1), id="and a stranger"),
        pytest.param([review(SAM), review(SUE, of="r-2")], Waiting(1), id="and an answer to another request"),
        pytest.param([review(SAM), review(SUE, NO)], Closed("it was refused by sue@example.com"), id="a veto"),
        pytest.param(
            [review(SAM), review(SUE), review(person("zoe", "sre"), NO, minutes=9)],
            Closed("it was refused by zoe"), id="a veto after enough votes",
        ),
        pytest.param([review(CARLA, NO), review(VICTOR, NO)], Waiting(2), id="whose no does not count either"),
        pytest.param([review(SAM), review(SAM_2, NO, minutes=9)], Waiting(1), id="who answers twice by an alias"),
    ],
)  # fmt: skip
def test_where_a_request_stands(reviews: list[Review], expected: Outcome) -> None:
    assert outcome(request(), CARLA, reviews, NOW + timedelta(minutes=10)) == expected


def test_a_withdrawn_request_stays_closed_whoever_approved_it() -> None:
    withdrawn = request(withdrawn_at=NOW + timedelta(minutes=7))
    assert outcome(withdrawn, CARLA, [review(SAM), review(SUE)], NOW) == Closed("it was withdrawn")


@pytest.mark.parametrize("approvals", [-1, 0])
def test_a_request_that_demands_no_approval_does_not_approve_itself(approvals: int) -> None:
    open_to_all = request(demands=Demands(approvals=approvals))
    assert outcome(open_to_all, CARLA, [], NOW) == Waiting(1)
    assert outcome(open_to_all, CARLA, [review(CARLA)], NOW) == Waiting(1)
    assert outcome(open_to_all, CARLA, [review(SAM)], NOW) == Approved((SAM,))


def test_a_request_times_out_to_the_microsecond() -> None:
    end = request().times_out_at
    assert outcome(request(), CARLA, [review(SAM)], end - TICK) == Waiting(1)
    assert outcome(request(), CARLA, [review(SAM)], end) == Closed("nobody answered within 1d")


def test_a_vote_cast_after_the_request_timed_out_does_not_count() -> None:
    end = request().times_out_at
    in_time, late = Review("r-1", SUE, Verdict.APPROVE, end - TICK), Review("r-1", SUE, Verdict.APPROVE, end)
    assert outcome(request(), CARLA, [review(SAM), late], end + TICK) == Closed("nobody answered within 1d")
    assert outcome(request(), CARLA, [review(SAM), in_time], end + TICK) == Approved((SAM, SUE))


def test_the_issuer_counts_in_who_somebody_is() -> None:
    namesake = person("sam", "sre", issuer=f"{ISSUER}/other")
    assert outcome(request(), CARLA, [review(SAM), review(namesake)], NOW) == Approved((SAM, namesake))
