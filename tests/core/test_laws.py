"""The laws, as far as the core holds them, whatever the world looks like."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import Phase, assume, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from bastion.core.audit import Event, Kind
from bastion.core.certificate import access_principal, target_principal
from bastion.core.geofence import Fence, is_inside
from bastion.core.grant import Approved, Closed, Grant, Request, Review, Verdict, Waiting, outcome
from bastion.core.identity import Identity, IdentityKind
from bastion.core.policy import (
    Access,
    Action,
    Allow,
    Demands,
    Deny,
    NeedsGrant,
    NotPermitted,
    Occupied,
    Permitted,
)
from bastion.core.target import LABEL, LOGIN, Scope
from tests.core.values import CARLA, NOW, PRODUCTION, STAGING, TICK, WEB_1, grant, person, request
from tests.core.worlds import OCCUPIED, OPEN, PEOPLE, World, allowed, any_worlds, is_elsewhere, open_worlds, worlds


def test_these_worlds_open_and_stay_shut_in_every_way() -> None:
    assert allowed(OPEN)
    for way in (
        lambda world: allowed(world) is not None,
        lambda world: (allow := allowed(world)) is not None and allow.crossing,
        lambda world: isinstance(world.decide(), Deny),
        lambda world: isinstance(world.decide(), NeedsGrant) and bool(world.grants),
    ):
        try:
            find(any_worlds(), way, settings=settings(phases=[Phase.generate], derandomize=True, deadline=None))
        except NoSuchExample:
            pytest.fail("No world shows this; the tests below would hold for want of examples.")


# ------------------------------------------------------------------------------------------------- law 1: default deny


def covers_exactly(given_: Grant, wish: Access, now: datetime) -> bool:
    """What a grant covers, said a second time and without sentences."""
    return (
        given_.identity == wish.identity.id
        and given_.scope == wish.target.scope
        and wish.target.full_name in given_.targets
        and wish.login in given_.logins
        and wish.action in given_.actions
        and given_.revoked_at is None
        and given_.starts_at <= now < given_.ends_at
    )


@given(world=any_worlds())
def test_law_1_nothing_opens_without_a_grant_that_covers_exactly_this(world: World) -> None:
    world = replace(world, grants=tuple(g for g in world.grants if not covers_exactly(g, world.access, world.now)))
    assert not allowed(world)


@given(world=any_worlds())
def test_law_1_what_opens_opens_under_a_grant_that_covers_it_and_that_the_policies_permit(world: World) -> None:
    if allow := allowed(world):
        assert allow.grant in world.grants
        assert covers_exactly(allow.grant, world.access, world.now)
        assert isinstance(world.rulings[allow.grant.id], Permitted)


NEAR_MISSES: dict[str, dict[str, object]] = {
    "the same subject of another issuer": {"identity": PEOPLE[2].id},
    "another environment": {"scope": PRODUCTION},
    "the same environment in another region": {"scope": Scope("staging", "us")},
    "the target's short name": {"targets": frozenset({"web-1"})},
    "its namesake in another environment": {"targets": frozenset({"web-1.production.eu"})},
    "another login": {"logins": frozenset({"admin"})},
    "every other action": {"actions": frozenset(Action) - {Action.SSH_SHELL}},
    "from a microsecond later": {"starts_at": NOW + TICK},
    "until now": {"ends_at": NOW},
    "revoked now": {"revoked_at": NOW},
}


@pytest.mark.parametrize("changes", [pytest.param(changes, id=name) for name, changes in NEAR_MISSES.items()])
def test_law_1_one_part_that_differs_is_enough(changes: dict[str, object]) -> None:
    assert not allowed(replace(OPEN, grants=(grant(**changes),)))


EMPTY = {
    "no grants": replace(OPEN, grants=()),
    "an empty fence": replace(OPEN, fence=Fence()),
    "no policy": replace(OPEN, rulings={}),
    "a target without logins": replace(OPEN, access=replace(OPEN.access, target=replace(WEB_1, logins=frozenset()))),
    "a grant for no targets": replace(OPEN, grants=(grant(targets=frozenset()),)),
    "a grant for no logins": replace(OPEN, grants=(grant(logins=frozenset()),)),
    "a grant for no actions": replace(OPEN, grants=(grant(actions=frozenset()),)),
    "a grant of no length": replace(OPEN, grants=(grant(ends_at=NOW),)),
    "no country": replace(OPEN, access=replace(OPEN.access, place=replace(OPEN.access.place, country=None))),
}


@pytest.mark.parametrize("world", [pytest.param(world, id=name) for name, world in EMPTY.items()])
def test_law_1_empty_means_no(world: World) -> None:
    assert not allowed(world)


@given(world=any_worlds())
def test_law_1_a_login_that_the_target_does_not_have_never_opens(world: World) -> None:
    if allowed(world):
        assert world.access.login in world.access.target.logins


# -------------------------------------------------------------------------------------------------- law 2: place first


@given(world=worlds())
def test_law_2_outside_is_denied_whatever_grants_and_policies_say(world: World) -> None:
    assume(not is_inside(world.fence, world.access.place))
    assert isinstance(world.decide(), Deny)


@given(world=worlds())
def test_law_2_outside_the_answer_tells_nothing_but_the_place(world: World) -> None:
    assume(not is_inside(world.fence, world.access.place))
    bare = replace(
        world, grants=(), rulings={}, occupied=(), access=replace(world.access, scope=world.access.target.scope)
    )
    assert world.decide() == bare.decide()


@given(world=any_worlds())
def test_law_2_an_unknown_country_is_outside_unless_the_network_is_named(world: World) -> None:
    nowhere = replace(world.access.place, country=None)
    world = replace(world, access=replace(world.access, place=nowhere), fence=replace(world.fence, networks=()))
    assert isinstance(world.decide(), Deny)


# ---------------------------------------------------------------------------------------------------- law 3: one scope


@given(world=any_worlds())
def test_law_3_a_certificate_of_another_scope_opens_nothing(world: World) -> None:
    if allowed(world):
        assert world.access.scope == world.access.target.scope
    for scope in (STAGING, PRODUCTION, Scope("staging", "us")):
        if scope != world.access.target.scope:
            assert isinstance(replace(world, access=replace(world.access, scope=scope)).decide(), Deny)


_SCOPES = st.builds(Scope, st.from_regex(LABEL, fullmatch=True), st.from_regex(LABEL, fullmatch=True))
_LOGIN_NAMES = st.from_regex(LOGIN, fullmatch=True)


@given(one=_SCOPES, other=_SCOPES, login=_LOGIN_NAMES, other_login=_LOGIN_NAMES)
def test_law_3_no_principal_of_one_scope_or_login_is_that_of_another(
    one: Scope, other: Scope, login: str, other_login: str
) -> None:
    same = (one, login) == (other, other_login)
    assert (target_principal(one, login) == target_principal(other, other_login)) is same
    assert access_principal(one, "g-1") != target_principal(other, login)
    assert not set(target_principal(one, login)) & set(",*? \n\0\"'")


# ------------------------------------------------------------------------------------ law 4: environments do not touch


@given(world=any_worlds())
def test_law_4_while_a_session_is_in_another_tier_only_a_crossing_opens_and_says_so(world: World) -> None:
    if allow := allowed(world):
        assert allow.crossing is is_elsewhere(world)
        assert allow.grant.crossing or not is_elsewhere(world)


@given(world=any_worlds(), held=OCCUPIED)
def test_law_4_one_more_session_never_opens_a_door(world: World, held: Occupied) -> None:
    more = replace(world, occupied=(*world.occupied, held))
    assert allowed(world) or not allowed(more)


@given(world=open_worlds())
def test_law_4_without_a_crossing_a_session_elsewhere_shuts_an_open_door(world: World) -> None:
    assert allowed(replace(world, occupied=()))
    tier = "production" if world.tier == "nonproduction" else "nonproduction"
    plain = tuple(replace(each, crossing=False) for each in world.grants)
    busy = replace(world, grants=plain, occupied=(*world.occupied, Occupied("s-9", "elsewhere", tier)))
    assert isinstance(busy.decide(), Deny)


@given(world=any_worlds())
def test_law_4_sessions_of_the_same_tier_change_nothing(world: World) -> None:
    within = tuple(held for held in world.occupied if held.tier == world.tier)
    assert replace(world, occupied=within).decide() == replace(world, occupied=()).decide()


# ---------------------------------------------------------------------------------------- law 5: written before opened


@given(world=any_worlds())
def test_law_5_every_decision_has_reasons_and_can_be_written(world: World) -> None:
    decision = world.decide()
    assert decision.reasons
    assert all(reason and reason.isprintable() for reason in decision.reasons)
    event = Event(kind=Kind.ACCESS_DENIED, at=world.now, node="bastion-1", reasons=decision.reasons)
    assert Event.from_json(event.to_json(), 0) == event


@given(text=st.text(alphabet=st.characters(categories=["L", "Cc", "Cf", "Cs", "Zl"])))  # halves of surrogate pairs too
def test_law_5_nothing_that_people_type_can_keep_an_event_from_being_written(text: str) -> None:
    event = Event(
        kind=Kind.ACCESS_ALLOWED, at=NOW, node=text, display=text, login=text, reasons=(text,), details={text: text}
    )
    assert event.to_json().encode("utf-8").count(b"\n") == 0


# ------------------------------------------------------------------------------------------ law 7: every end is an end


def ways_to_end(world: World, allow: Allow) -> dict[str, World]:
    """The same world after each cause that must cut the session that ``allow`` opened."""
    held = allow.grant
    others = tuple(other for other in world.grants if other.id != held.id)
    alone = replace(world, grants=(held,))
    return {
        "expired": replace(alone, now=held.ends_at),
        "revoked": replace(alone, grants=(replace(held, revoked_at=world.now),)),
        "revoked by a clock that is ahead": replace(
            alone, grants=(replace(held, revoked_at=world.now + timedelta(days=1)),)
        ),
        "taken away": replace(alone, grants=()),
        "policy changed": replace(world, rulings={other.id: NotPermitted(("frozen",)) for other in (held, *others)}),
        "policy gone": replace(world, rulings={}),
        "left the fence": replace(world, fence=Fence()),
        "login removed": replace(
            world, access=replace(world.access, target=replace(world.access.target, logins=frozenset()))
        ),
    }


@given(world=open_worlds())
def test_law_7_every_cause_turns_an_open_door_into_a_shut_one(world: World) -> None:
    allow = allowed(world)
    assert allow
    for cause, after in ways_to_end(world, allow).items():
        assert not allowed(after), cause


@given(world=open_worlds(), ticks=st.integers(1, 10**12))
def test_law_7_a_grant_is_live_to_the_microsecond_and_never_again(world: World, ticks: int) -> None:
    allow = allowed(world)
    assert allow
    alone = replace(world, grants=(allow.grant,))
    assert allowed(replace(alone, now=allow.grant.ends_at - TICK))
    assert not allowed(replace(alone, now=allow.grant.ends_at))
    assert not allowed(replace(alone, now=allow.grant.ends_at + ticks * TICK))
    assert allowed(replace(alone, now=allow.grant.starts_at))
    assert not allowed(replace(alone, now=allow.grant.starts_at - ticks * TICK))


# ---------------------------------------------------------------------------------- law 10: nobody approves themselves

BENEFICIARY = CARLA
ALIASES = [
    BENEFICIARY,
    person("carla", "sre"),  # the same id without an address, and promoted
    person("carla", "sre", email="new@example.com"),  # the same id after a change of address
    person("c.c", "sre", email="carla@example.com"),
    person("c.c", "sre", email="Carla@EXAMPLE.com", issuer="https://other.example.com"),
]
STRANGERS = [
    person("victor", "contractors", email="victor@example.com"),
    person("nobody"),
    replace(person("robot", "sre"), kind=IdentityKind.WORKLOAD),
]
REVIEWERS = [person(name, "sre", "admins", email=f"{name}@example.com") for name in ("sam", "sue", "zoe")]
SAM_BY_ID = [REVIEWERS[0], person("sam", "sre"), person("sam", "sre", email="new@example.com")]
SAM_BY_EMAIL = [
    REVIEWERS[0],
    person("sam.admin", "sre", email="sam@example.com"),
    person("s", "sre", email="SAM@example.com", issuer="https://other.example.com"),
]
"""Two ways to be one person. An account without an address is tied to no other: nothing says whose it is."""

_VERDICTS = st.sampled_from([Verdict.APPROVE] * 5 + [Verdict.REFUSE])
_LATER = NOW + timedelta(hours=1)


def reviews_by(
    people: Sequence[Identity], verdicts: st.SearchStrategy[Verdict] = _VERDICTS
) -> st.SearchStrategy[list[Review]]:
    """Any number of answers by any of ``people``, at any time, some of them to another request."""
    times = st.integers(0, 25 * 60).map(lambda minutes: NOW + timedelta(minutes=minutes))
    return st.lists(st.builds(Review, st.sampled_from(["r-1", "r-1", "r-2"]), st.sampled_from(people), verdicts, times))


def requests() -> st.SearchStrategy[Request]:
    demands = st.builds(Demands, st.integers(-1, 3), st.sampled_from([frozenset(), frozenset({"sre"})]))
    return demands.map(lambda demanded: request(demands=demanded))


@given(asked=requests(), reviews=reviews_by(ALIASES))
def test_law_10_nobody_approves_themselves_by_any_alias_and_any_number_of_answers(
    asked: Request, reviews: list[Review]
) -> None:
    assert not isinstance(outcome(asked, BENEFICIARY, reviews, _LATER), Approved)


@given(reviews=reviews_by([*ALIASES, *STRANGERS]))
def test_law_10_nor_with_the_help_of_strangers(reviews: list[Review]) -> None:
    assert not isinstance(outcome(request(), BENEFICIARY, reviews, _LATER), Approved)


@pytest.mark.parametrize("sam", [pytest.param(SAM_BY_ID, id="by id"), pytest.param(SAM_BY_EMAIL, id="by e-mail")])
@given(data=st.data())
def test_law_10_one_person_is_one_vote_under_however_many_names(sam: list[Identity], data: st.DataObject) -> None:
    reviews = data.draw(reviews_by([*sam, *sam, *ALIASES, *STRANGERS]))
    assert not isinstance(outcome(request(), BENEFICIARY, reviews, _LATER), Approved)


@given(asked=requests(), reviews=reviews_by([*REVIEWERS, *SAM_BY_EMAIL, *ALIASES, *STRANGERS]))
def test_law_10_who_approved_are_as_many_different_people_as_were_demanded(
    asked: Request, reviews: list[Review]
) -> None:
    found = outcome(asked, BENEFICIARY, reviews, _LATER)
    if isinstance(found, Approved):
        names = {(voter.email or voter.id.subject).casefold() for voter in found.by}
        assert len(names) == len(found.by) >= max(1, asked.demands.approvals)
        for voter in found.by:
            assert not voter.is_same_person_as(BENEFICIARY)
            assert voter.kind is IdentityKind.PERSON
            assert not asked.demands.reviewers or asked.demands.reviewers & voter.groups


@given(
    approvals=st.integers(1, 3),
    yes=st.lists(st.sampled_from(REVIEWERS[:2]), unique_by=lambda who: who.id),
    minutes=st.permutations(range(3)),
)
def test_law_10_one_refusal_is_a_veto_whenever_it_comes(
    approvals: int, yes: list[Identity], minutes: list[int]
) -> None:
    answers = [(who, Verdict.APPROVE) for who in yes] + [(REVIEWERS[2], Verdict.REFUSE)]
    reviews = [
        Review("r-1", who, verdict, NOW + timedelta(minutes=minute))
        for (who, verdict), minute in zip(answers, minutes, strict=False)
    ]
    asked = request(demands=Demands(approvals, frozenset({"sre"})))
    assert isinstance(outcome(asked, BENEFICIARY, reviews, _LATER), Closed)


@given(reviews=reviews_by([*REVIEWERS, *ALIASES, *STRANGERS]), seed=st.randoms(use_true_random=False))
def test_law_10_the_order_in_which_answers_are_read_decides_nothing(reviews: list[Review], seed: random.Random) -> None:
    assume(len({each.at for each in reviews}) == len(reviews))
    shuffled = seed.sample(reviews, len(reviews))
    assert outcome(request(), BENEFICIARY, shuffled, _LATER) == outcome(request(), BENEFICIARY, reviews, _LATER)


@given(reviews=reviews_by([*REVIEWERS, *SAM_BY_EMAIL, *ALIASES, *STRANGERS]), now=st.integers(0, 48))
def test_law_10_after_a_request_timed_out_no_answer_approves_it(reviews: list[Review], now: int) -> None:
    late = [replace(each, at=each.at + timedelta(hours=24)) for each in reviews]
    assert not isinstance(outcome(request(), BENEFICIARY, late, NOW + timedelta(hours=now)), Approved)


@given(reviews=reviews_by([*REVIEWERS, *ALIASES]))
def test_law_10_an_answer_to_another_request_answers_nothing_here(reviews: list[Review]) -> None:
    elsewhere = [replace(each, request_id="r-2") for each in reviews]
    assert outcome(request(), BENEFICIARY, elsewhere, _LATER) == Waiting(2)


@given(demands=st.builds(Demands, st.integers(1, 3)))
def test_law_10_enough_different_reviewers_do_approve(demands: Demands) -> None:
    reviews = [Review("r-1", who, Verdict.APPROVE, NOW) for who in REVIEWERS[: demands.approvals]]
    found = outcome(request(demands=demands), BENEFICIARY, reviews, _LATER)
    assert found == Approved(tuple(REVIEWERS[: demands.approvals]))
