"""The decision, each answer with its own sentence. That no answer breaks a law is held by test_laws.py."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from bastion.core.geofence import Fence, Place, parse_address
from bastion.core.grant import Grant
from bastion.core.identity import IdentityId
from bastion.core.policy import Action, Allow, Decision, Deny, NeedsGrant, NotPermitted, Occupied, Permitted, decide
from tests.core.values import BERLIN, EU, ISSUER, MOON, NOW, PRODUCTION, TICK, access, grant

PERMITTED = Permitted(("connect-with-grant/g-1",))
IN_STAGING = Occupied("s-1", "staging", "nonproduction")
IN_DEV = Occupied("s-2", "dev", "nonproduction")
IN_PRODUCTION = Occupied("s-3", "production", "production")


def decision(
    *grants: Grant, occupied: tuple[Occupied, ...] = (), now: datetime = NOW, fence: Fence = EU,
    rulings: dict[str, Any] | None = None, **changes: Any,
) -> Decision:  # fmt: skip
    """Carla's wish of `access`, by these grants, each of which the policies permit unless ``rulings`` are given."""
    return decide(
        access(**changes),
        fence=fence,
        tier="nonproduction",
        occupied=occupied,
        grants=grants,
        rulings=rulings if rulings is not None else {each.id: PERMITTED for each in grants},
        now=now,
    )


def test_a_live_grant_inside_the_fence_opens_and_says_by_what() -> None:
    assert decision(grant()) == Allow(
        grant(), ("192.0.2.1 is in DE", "permitted by connect-with-grant/g-1"), crossing=False
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param(
            {"place": MOON}, "192.0.2.2 is in US, which the fence does not hold: region eu cannot", id="abroad"
        ),
        pytest.param(
            {"place": Place(parse_address("192.0.2.9"), None, "test")},
            "country of 192.0.2.9 is not known",
            id="nowhere",
        ),
        pytest.param(
            {"scope": PRODUCTION}, "for production/eu; web-1.staging.eu is in staging/eu. Get one", id="another scope"
        ),
        pytest.param({"login": "root"}, "web-1.staging.eu has no login root.", id="a login that is not there"),
    ],
)
def test_what_no_grant_would_change_is_denied_with_its_own_sentence(changes: dict[str, Any], sentence: str) -> None:
    denial = decision(grant(), **changes)
    assert isinstance(denial, Deny)
    assert sentence in denial.reasons[0]


def test_the_place_is_judged_before_anything_that_would_tell_a_stranger_what_there_is() -> None:
    denial = decision(place=MOON, scope=PRODUCTION, login="root")
    assert isinstance(denial, Deny)
    assert denial.reasons == (
        "192.0.2.2 is in US, which the fence does not hold: region eu cannot be reached from there.",
    )


@pytest.mark.parametrize(
    ("near_miss", "now", "sentence"),
    [
        pytest.param(grant(logins=frozenset({"admin"})), NOW, "is for the login admin, not deploy", id="another login"),
        pytest.param(
            grant(targets=frozenset({"db-1.staging.eu"})), NOW, "is for db-1.staging.eu, not web-1.staging.eu",
            id="another target",
        ),
        pytest.param(grant(scope=PRODUCTION), NOW, "is for production/eu, not staging/eu", id="another scope"),
        pytest.param(
            grant(actions=frozenset({Action.SSH_SFTP_READ})), NOW, "does not include ssh:shell", id="another action"
        ),
        pytest.param(grant(), NOW + timedelta(hours=2), "ended at 2026-03-02 11:00:00 UTC", id="expired"),
        pytest.param(grant(), NOW - timedelta(minutes=1), "begins at 2026-03-02 09:00:00 UTC", id="a minute early"),
        pytest.param(grant(revoked_at=NOW), NOW, "was revoked at 2026-03-02 09:00:00 UTC", id="revoked"),
        pytest.param(grant(targets=frozenset()), NOW, "is for nothing, not web-1.staging.eu", id="for nothing"),
    ],
)  # fmt: skip
def test_a_grant_that_just_misses_explains_itself(near_miss: Grant, now: datetime, sentence: str) -> None:
    answer = decision(near_miss, now=now)
    assert isinstance(answer, NeedsGrant)
    assert answer.reasons == (
        "No live grant lets carla@example.com use ssh:shell as deploy on web-1.staging.eu.",
        f"Grant g-1 {sentence}.",
        'Ask for one: /bastion request web-1.staging.eu as deploy for 2h because "…"',
    )


def test_somebody_elses_grant_is_neither_used_nor_mentioned() -> None:
    answer = decision(grant(identity=IdentityId(ISSUER, "victor")))
    assert isinstance(answer, NeedsGrant)
    assert not any("g-1" in reason for reason in answer.reasons)


def test_at_most_three_near_misses_are_told_the_latest_first() -> None:
    ended = [grant(id=f"g-{n}", ends_at=NOW - timedelta(hours=n)) for n in (3, 1, 4, 2)]
    answer = decision(*ended)
    assert isinstance(answer, NeedsGrant)
    assert [reason.split()[1] for reason in answer.reasons[1:-1]] == ["g-1", "g-2", "g-3"]


def test_of_several_grants_that_cover_it_the_one_that_lasts_longest_is_used() -> None:
    longer = grant(id="g-2", ends_at=NOW + timedelta(hours=3))
    allow = decision(grant(), longer, grant(id="g-3"))
    assert isinstance(allow, Allow)
    assert allow.grant is longer


def test_a_grant_that_the_policies_permit_is_used_before_one_that_they_do_not() -> None:
    longer = grant(id="g-2", ends_at=NOW + timedelta(hours=3))
    allow = decision(grant(), longer, rulings={"g-1": PERMITTED, "g-2": NotPermitted(("no-root",))})
    assert isinstance(allow, Allow)
    assert allow.grant == grant()


def test_what_the_policies_forbid_is_denied_in_their_words_each_once() -> None:
    no = NotPermitted(("freeze: no changes this week",))
    assert decision(grant(), grant(id="g-2"), rulings={"g-1": no, "g-2": no}) == Deny(("freeze: no changes this week",))


def test_a_grant_that_no_policy_was_asked_about_does_not_open() -> None:
    assert decision(grant(), rulings={}) == Deny(("no policy was asked",))


@pytest.mark.parametrize(
    "occupied",
    [
        pytest.param((), id="none"),
        pytest.param((IN_STAGING,), id="same environment"),
        pytest.param((IN_DEV,), id="same tier"),
    ],
)
def test_sessions_in_environments_of_the_same_tier_do_not_matter(occupied: tuple[Occupied, ...]) -> None:
    allow = decision(grant(), occupied=occupied)
    assert isinstance(allow, Allow)
    assert not allow.crossing


def test_a_session_in_another_tier_shuts_this_one_and_says_which() -> None:
    denial = decision(grant(), occupied=(IN_DEV, IN_PRODUCTION))
    assert isinstance(denial, Deny)
    assert denial.reasons[0].startswith(
        "You have a session open in production; environments do not touch. End it first"
    )


def test_a_grant_approved_as_a_crossing_opens_all_the_same_and_it_shows() -> None:
    allow = decision(grant(), grant(id="g-2", crossing=True), occupied=(IN_PRODUCTION,))
    assert isinstance(allow, Allow)
    assert allow.grant.id == "g-2"
    assert allow.crossing


def test_a_crossing_grant_without_a_crossing_is_an_ordinary_one() -> None:
    allow = decision(grant(crossing=True))
    assert isinstance(allow, Allow)
    assert not allow.crossing


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        pytest.param(NOW - TICK, False, id="a microsecond early"),
        pytest.param(NOW, True, id="on its first instant"),
        pytest.param(NOW + timedelta(hours=2) - TICK, True, id="a microsecond before its end"),
        pytest.param(NOW + timedelta(hours=2), False, id="on its end"),
    ],
)
def test_a_grant_opens_from_its_first_instant_until_its_last(now: datetime, opens: bool) -> None:
    assert isinstance(decision(grant(), now=now), Allow if opens else NeedsGrant)


def test_a_place_in_a_network_of_the_fence_is_inside_in_any_country() -> None:
    assert isinstance(decision(grant(), place=Place(parse_address("10.20.1.1"), "US", "networks")), Allow)
    assert isinstance(decision(grant(), place=BERLIN, fence=Fence()), Deny)
