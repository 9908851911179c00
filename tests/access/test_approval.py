"""Request, review, grant, revoke: what makes a grant, and everything that must not."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.access.approval import Holding
from bastion.access.ballot import Answer, Granted, TurnedDown, WaitingForOthers
from bastion.access.endings import DISOWNED
from bastion.access.wish import Wish
from bastion.core.ending import Cause
from bastion.core.errors import BastionError, Conflict, NotFound, Refused
from bastion.core.geofence import Place
from bastion.core.grant import REQUEST_LIFETIME, Grant, Verdict
from bastion.core.identity import Identity
from bastion.ports import Revocation
from tests.fakes import FakeClock
from tests.office import (
    BERLIN,
    BOSTON,
    CARLA,
    DB,
    FAR,
    LEA,
    NOWHERE,
    OTHER_ISSUER,
    OTTO,
    POLICY,
    PROD,
    ROBOT,
    SAM,
    SIA,
    WEB,
    Office,
    open_office,
    person,
    wish,
)

APPROVE, REFUSE = Verdict.APPROVE, Verdict.REFUSE


@pytest.fixture
async def office(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Office]:
    async with open_office(tmp_path, clock) as office:
        yield office


def grant_of(answer: Answer) -> Grant:
    assert isinstance(answer, Granted)
    return answer.grant


# ------------------------------------------------------------------------------------------------------------ request


async def test_a_request_waits_for_one_of_the_demanded_group(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)

    answer = await office.approval.review(request.id, SAM, APPROVE, BERLIN)

    grant = grant_of(answer)
    assert await office.store.grant(grant.id) == grant
    assert (grant.identity, grant.targets, grant.logins, grant.approved_by) == (
        CARLA.id, frozenset({WEB}), frozenset({"deploy"}), (SAM.id,),
    )  # fmt: skip
    assert await office.kinds() == ["request:made", "request:reviewed", "grant:approved"]


async def test_the_clock_of_a_grant_starts_when_it_is_approved(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    office.clock.advance(timedelta(hours=5))

    grant = grant_of(await office.approval.review(request.id, SAM, APPROVE, BERLIN))

    assert grant.starts_at == office.clock.now()
    assert grant.ends_at - grant.starts_at == timedelta(hours=2)


async def test_a_grant_names_several_targets_and_logins_of_one_scope(office: Office) -> None:
    both = wish("web-1.staging.eu", "db-1", logins=("deploy", "admin"))
    grant = grant_of(await office.approval.grant(SAM, CARLA, both, None))
    assert grant.targets == {WEB, DB}
    assert grant.logins == {"deploy", "admin"}


POSSIBLE = "is not possible: a grant lasts from 1 minute to 30 days."
SEVERAL = "A grant is for one scope, and these are in production/eu and staging/eu: ask for each."
AMBIGUOUS = "'web-1' could be web-1.production.eu or web-1.staging.eu: give the full name."
UNREADABLE = "'a\N{REPLACEMENT CHARACTER}[2J' cannot be a login name."
CONTROLS = "The reason has control characters; write it in one line of plain text."


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        pytest.param(wish(targets=()), "Name at least one target.", id="no target"),
        pytest.param(wish(logins=()), "Name at least one login.", id="no login"),
        pytest.param(wish(*[WEB] * 21), "At most 20 targets go into one request.", id="too many targets"),
        pytest.param(wish("nowhere"), "There is no target 'nowhere'.", id="unknown target"),
        pytest.param(wish("web-1"), AMBIGUOUS, id="ambiguous target"),
        pytest.param(wish(WEB, PROD), SEVERAL, id="two scopes"),
        pytest.param(wish(logins=("root",)), f"{WEB} has no login root; it has admin, deploy.", id="unknown login"),
        pytest.param(wish(logins=("a\x1b[2J",)), UNREADABLE, id="escape sequence in a login"),
        pytest.param(wish(reason=" "), 'A reason is needed: … because "what this is for".', id="no reason"),
        pytest.param(wish(reason="a\x1b[2J"), CONTROLS, id="escape sequence in the reason"),
        pytest.param(wish(duration=timedelta(0)), f"0s {POSSIBLE}", id="zero"),
        pytest.param(wish(duration=timedelta(hours=-2)), f"-2h {POSSIBLE}", id="negative"),
        pytest.param(wish(duration=timedelta.max), f"1000000000d {POSSIBLE}", id="huge"),
        pytest.param(
            wish(duration=timedelta(hours=9)), "9h is too long: here a grant lasts 8h at most.", id="too long"
        ),
    ],
)
async def test_what_cannot_be_granted_is_refused_with_its_sentence(office: Office, asked: Wish, sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        await office.approval.request(CARLA, CARLA, asked, BERLIN)
    assert refused.value.public == sentence
    with pytest.raises(Refused) as refused:
        await office.approval.grant(SAM, CARLA, asked, BERLIN)
    assert refused.value.public == sentence

    first, second = await office.events()
    assert (first.kind, second.kind) == ("request:refused", "grant:refused")
    assert first.reasons == second.reasons == (sentence,)
    assert await office.store.waiting_requests(office.clock.now() - REQUEST_LIFETIME) == []


async def test_whoever_may_not_request_is_refused(office: Office) -> None:
    with pytest.raises(Refused, match="No policy permits otto@example.com to request"):
        await office.approval.request(OTTO, OTTO, wish(), BERLIN)
    with pytest.raises(Refused, match="No policy permits otto@example.com to request"):
        await office.approval.grant(SAM, OTTO, wish(), BERLIN)


async def test_asking_for_somebody_else_takes_the_power_to_review(office: Office) -> None:
    with pytest.raises(Refused, match="No policy permits otto@example.com to review"):
        await office.approval.request(OTTO, CARLA, wish(), BERLIN)
    request = await office.approval.request(SAM, CARLA, wish(), BERLIN)
    assert (request.asker, request.beneficiary) == (SAM.id, CARLA.id)


@pytest.mark.parametrize("place", [BOSTON, NOWHERE], ids=["outside", "unknown country"])
async def test_place_comes_before_everything_else(office: Office, place: Place) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    given = grant_of(await office.approval.grant(SAM, CARLA, wish(), BERLIN))
    attempts: list[Coroutine[Any, Any, object]] = [
        office.approval.request(CARLA, CARLA, wish(), place),
        office.approval.grant(SAM, CARLA, wish(), place),
        office.approval.review(request.id, SAM, APPROVE, place),
        office.approval.revoke(given.id, SAM, place),
        office.approval.revoke(Holding(CARLA, WEB), CARLA, place),
    ]
    for attempt in attempts:
        with pytest.raises(Refused, match="region eu cannot be reached from there"):
            await attempt
    assert (await office.store.grant(given.id)).revoked_at is None


async def test_events_say_from_where_or_that_it_is_not_known(office: Office) -> None:
    await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    await office.approval.grant(SAM, CARLA, wish(), None)

    here, *rest = await office.events()
    assert (here.address, here.country, here.details.get("place")) == ("192.0.2.1", "DE", None)
    for event in rest:
        assert (event.address, event.country, event.details["place"]) == (None, None, "not known")
        assert (event.actor, event.identity, event.node) == (SAM.id, CARLA.id, "bastion-1")
        assert (str(event.scope), event.target, event.login) == ("staging/eu", WEB, "deploy")


async def test_a_second_factor_is_demanded_of_the_beneficiary(office: Office) -> None:
    approval = office.under(POLICY.replace('@id("staging")', '@id("staging") @mfa("required")'))
    with pytest.raises(Refused, match="has to log in with a second factor first: bastion login --mfa"):
        await approval.request(CARLA, CARLA, wish(), BERLIN)
    await approval.request(
        replace(CARLA, amr=frozenset({"mfa"})), replace(CARLA, amr=frozenset({"mfa"})), wish(), BERLIN
    )


async def test_targets_that_need_different_reviewers_are_never_left_to_anybody(office: Office) -> None:
    approval = office.under(
        POLICY.replace("resource.tier == ", f'resource in Target::"{WEB}" && resource.tier == ')
        + f"""
        @id("databases") @reviewers("dba")
        permit (principal in Group::"contractors", action == Action::"request", resource in Target::"{DB}");
        """
    )
    await approval.request(CARLA, CARLA, wish(WEB), BERLIN)
    await approval.request(CARLA, CARLA, wish(DB), BERLIN)
    with pytest.raises(Refused, match="These need different reviewers: ask for each target and login by itself."):
        await approval.request(CARLA, CARLA, wish(WEB, DB), BERLIN)


# ------------------------------------------------------------------------------------------------------------- review


async def test_an_admins_grant_is_a_request_and_their_own_review(office: Office) -> None:
    grant = grant_of(await office.approval.grant(SAM, CARLA, wish(), BERLIN))
    assert (await office.store.request(grant.request_id)).asker == SAM.id
    assert grant.approved_by == (SAM.id,)
    assert await office.kinds() == ["request:made", "request:reviewed", "grant:approved"]


async def test_where_two_are_needed_one_admin_waits_for_another(office: Office) -> None:
    answer = await office.approval.grant(SAM, CARLA, wish(PROD), None)
    assert isinstance(answer, WaitingForOthers)
    assert answer.missing == 1
    assert await office.store.grants() == []

    grant = grant_of(await office.approval.review(answer.request.id, SIA, APPROVE, None))
    assert set(grant.approved_by) == {SAM.id, SIA.id}


@pytest.mark.parametrize(
    ("reviewer", "sentence"),
    [
        (OTTO, "No policy permits otto@example.com to review"),
        (CARLA, "No policy permits carla@example.com to review"),
        (ROBOT, "A workload cannot review."),
        (person("lena", "leads"), "No policy permits lena@example.com to review"),
    ],
    ids=lambda value: value.id.subject if isinstance(value, Identity) else "",
)
async def test_only_those_who_may_review_do(office: Office, reviewer: Identity, sentence: str) -> None:
    await office.know(reviewer)
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    for verdict in Verdict:
        with pytest.raises(Refused, match=sentence):
            await office.approval.review(request.id, reviewer, verdict, BERLIN)
    with pytest.raises(Refused, match=sentence):
        await office.approval.grant(reviewer, CARLA, wish(), BERLIN)
    assert await office.store.grants() == []
    assert (await office.events())[-1].kind == "grant:refused"


@pytest.mark.parametrize(
    "alias",
    [
        SAM,
        person("sam", "sre", issuer=OTHER_ISSUER),
        person("s.a.m", "sre", email="SAM@Example.com", issuer=OTHER_ISSUER),
    ],
    ids=["themself", "another issuer", "another subject and case"],
)
async def test_nobody_approves_themselves_by_any_alias(office: Office, alias: Identity) -> None:
    await office.know(alias)
    request = await office.approval.request(SAM, SAM, wish(), BERLIN)
    with pytest.raises(Refused, match="Nobody approves themselves"):
        await office.approval.review(request.id, alias, APPROVE, BERLIN)
    with pytest.raises(Refused, match="Nobody approves themselves"):
        await office.approval.grant(alias, SAM, wish(), None)
    assert await office.store.grants() == []


async def test_two_aliases_of_one_person_are_one_vote(office: Office) -> None:
    alias = person("sam.second", "sre", email="sam@example.com", issuer=OTHER_ISSUER)
    await office.know(alias)
    request = await office.approval.request(CARLA, CARLA, wish(PROD), BERLIN)
    for reviewer in (SAM, alias, SAM, alias):
        answer = await office.approval.review(request.id, reviewer, APPROVE, BERLIN)
        assert isinstance(answer, WaitingForOthers)
    assert await office.store.grants() == []
    assert (await office.kinds()).count("request:reviewed") == 1


async def test_one_refusal_closes_a_request_for_everybody(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    answer = await office.approval.review(request.id, SAM, REFUSE, BERLIN)
    assert isinstance(answer, TurnedDown)
    with pytest.raises(Conflict, match="is closed: it was refused by sam@example.com"):
        await office.approval.review(request.id, SIA, APPROVE, BERLIN)
    with pytest.raises(Conflict, match="You have answered"):
        await office.approval.review(request.id, SAM, APPROVE, BERLIN)
    assert await office.store.grants() == []


async def test_approval_after_the_time_out_is_refused(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    office.clock.advance(REQUEST_LIFETIME)
    with pytest.raises(Conflict, match="nobody answered within 1d"):
        await office.approval.review(request.id, SAM, APPROVE, BERLIN)
    assert await office.store.grants() == []


async def test_the_second_of_two_approvals_may_not_come_after_the_time_out_either(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(PROD), BERLIN)
    await office.approval.review(request.id, SAM, APPROVE, BERLIN)
    office.clock.advance(REQUEST_LIFETIME)
    for reviewer in (SIA, SAM):
        with pytest.raises(Conflict, match="nobody answered within 1d"):
            await office.approval.review(request.id, reviewer, APPROVE, BERLIN)
    assert await office.store.grants() == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('principal in Group::"contractors"', 'principal in Group::"friends"'), "No policy permits carla@example.com"),
        (('@max_duration("8h")', '@max_duration("1h")'), "2h is too long: here a grant lasts 1h at most."),
        (('@reviewers("sre")', '@reviewers("dba")'), "The policy names other reviewers since this was asked"),
        (('@id("staging")', '@id("staging") @mfa("required")'), "has to log in with a second factor"),
        (('Group::"sre", action == Action::"review"', 'Group::"dba", action == Action::"review"'), "sam@example.com"),
    ],
    ids=["no longer permitted", "shorter now", "other reviewers", "second factor", "reviewer lost the power"],
)
async def test_a_policy_changed_since_the_request_decides_about_it(
    office: Office, change: tuple[str, str], sentence: str
) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    with pytest.raises(Refused, match=sentence):
        await office.under(POLICY.replace(*change)).review(request.id, SAM, APPROVE, BERLIN)
    assert await office.store.grants() == []


async def test_more_approvals_demanded_since_are_needed(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    stricter = office.under(POLICY.replace('@approvals("1")', '@approvals("2")', 1))
    assert isinstance(await stricter.review(request.id, SAM, APPROVE, BERLIN), WaitingForOthers)
    assert isinstance(await stricter.review(request.id, SIA, APPROVE, BERLIN), Granted)


async def test_a_milder_policy_does_not_lower_what_was_demanded(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(PROD), BERLIN)
    milder = office.under(POLICY.replace('@approvals("2")', '@approvals("1")'))
    assert isinstance(await milder.review(request.id, SAM, APPROVE, BERLIN), WaitingForOthers)


async def test_a_vote_of_somebody_who_has_left_the_group_does_not_count(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(PROD), BERLIN)
    await office.approval.review(request.id, SAM, APPROVE, BERLIN)
    await office.know(replace(SAM, groups=frozenset()))

    assert isinstance(await office.approval.review(request.id, SIA, APPROVE, BERLIN), WaitingForOthers)
    assert await office.store.grants() == []
    assert isinstance(await office.approval.review(request.id, LEA, APPROVE, BERLIN), Granted)


@pytest.mark.parametrize("cause", Cause, ids=lambda cause: cause.name)
async def test_a_vote_of_somebody_whom_their_issuer_disowned_does_not_count_until_they_are_back(
    office: Office, cause: Cause
) -> None:
    """Who only went home has voted all the same."""
    first, second = [await office.approval.request(CARLA, CARLA, wish(PROD), BERLIN) for _ in range(2)]
    for request in (first, second):
        await office.approval.review(request.id, SAM, APPROVE, BERLIN)
    await office.end(SAM, cause)

    answer = await office.approval.review(first.id, SIA, APPROVE, BERLIN)
    assert isinstance(answer, WaitingForOthers if cause in DISOWNED else Granted)
    office.clock.advance(timedelta(seconds=1))
    await office.know(SAM)
    assert isinstance(await office.approval.review(second.id, SIA, APPROVE, BERLIN), Granted)


async def test_a_vote_of_somebody_whom_the_policy_has_barred_since_does_not_count(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(PROD), BERLIN)
    await office.approval.review(request.id, SAM, APPROVE, BERLIN)
    barred = office.under(
        POLICY + f'@id("barred") forbid (principal == Identity::"{SAM.id}", action == Action::"review", resource);'
    )
    assert isinstance(await barred.review(request.id, SIA, APPROVE, BERLIN), WaitingForOthers)
    assert await office.store.grants() == []


async def test_votes_that_suffice_by_a_milder_policy_do_not_suffice_after_the_time_out(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    stricter = office.under(POLICY.replace('@approvals("1")', '@approvals("2")', 1))
    assert isinstance(await stricter.review(request.id, SAM, APPROVE, BERLIN), WaitingForOthers)
    office.clock.advance(REQUEST_LIFETIME)
    with pytest.raises(Conflict, match="nobody answered within 1d"):
        await office.approval.review(request.id, SAM, APPROVE, BERLIN)
    assert await office.store.grants() == []


async def test_the_place_of_who_grants_is_not_the_place_of_who_receives(office: Office) -> None:
    approval = office.under(
        POLICY.replace('resource.tier == "nonproduction"', 'context has country && context.country == "DE"')
    )
    await approval.request(CARLA, CARLA, wish(), BERLIN)
    with pytest.raises(Refused, match="No policy permits carla@example.com to request"):
        await approval.grant(SAM, CARLA, wish(), BERLIN)


async def test_a_policy_about_places_judges_earlier_answers_by_where_they_came_from(office: Office) -> None:
    at_home = 'when { context has country && context.country == "DE" };'
    approval = office.under(
        POLICY.replace(
            'action == Action::"review", resource);', f'action == Action::"review", resource) {at_home}'
        ).replace('resource in Environment::"production");', f'resource in Environment::"production") {at_home}')
    )
    request = await approval.request(CARLA, CARLA, wish(PROD), BERLIN)
    with pytest.raises(Refused, match="No policy permits sam@example.com to review"):
        await approval.review(request.id, SAM, APPROVE, None)
    assert isinstance(await approval.review(request.id, SAM, APPROVE, BERLIN), WaitingForOthers)
    assert isinstance(await approval.review(request.id, SIA, APPROVE, BERLIN), Granted)


async def test_approving_twice_gives_one_grant_and_one_event(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    first = await office.approval.review(request.id, SAM, APPROVE, BERLIN)
    assert await office.approval.review(request.id, SAM, APPROVE, BERLIN) == first
    with pytest.raises(Conflict, match="was approved already"):
        await office.approval.review(request.id, SIA, APPROVE, BERLIN)
    with pytest.raises(Conflict):
        await office.approval.review(request.id, SIA, REFUSE, BERLIN)
    assert len(await office.store.grants()) == 1
    assert (await office.kinds()).count("grant:approved") == 1


@pytest.mark.parametrize("target", [WEB, PROD], ids=["one approval", "two approvals"])
async def test_approvals_at_the_same_time_give_one_grant(office: Office, target: str) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(target), BERLIN)
    reviewers = [SAM, SIA, SAM, LEA, SIA, SAM]
    answers = await asyncio.gather(
        *(office.approval.review(request.id, reviewer, APPROVE, BERLIN) for reviewer in reviewers),
        return_exceptions=True,
    )
    granted = [answer for answer in answers if isinstance(answer, Granted)]
    assert granted
    assert all(isinstance(answer, Granted | WaitingForOthers | Conflict) for answer in answers)
    assert [grant.id for grant in await office.store.grants()] == [granted[0].grant.id]
    assert (await office.kinds()).count("grant:approved") == 1


async def test_approving_again_does_not_revive_what_was_revoked(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    grant = grant_of(await office.approval.review(request.id, SAM, APPROVE, BERLIN))
    await office.approval.revoke(grant.id, SAM, BERLIN)
    for reviewer in (SAM, SIA):
        with pytest.raises(Conflict, match="was approved already"):
            await office.approval.review(request.id, reviewer, APPROVE, BERLIN)
    assert (await office.store.grant(grant.id)).revoked_at is not None
    assert len(await office.store.grants()) == 1


async def test_a_crossing_is_approved_by_those_who_administer(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(crossing=True), BERLIN)
    with pytest.raises(Refused, match="A crossing is approved only by those who administer staging/eu"):
        await office.approval.review(request.id, SAM, APPROVE, BERLIN)
    with pytest.raises(Refused, match="A crossing is approved only by those who administer staging/eu"):
        await office.approval.grant(SAM, CARLA, wish(crossing=True), BERLIN)
    assert grant_of(await office.approval.review(request.id, LEA, APPROVE, BERLIN)).crossing


async def test_an_unknown_request_is_refused_and_noted(office: Office) -> None:
    with pytest.raises(NotFound):
        await office.approval.review("q-000000000000", SAM, APPROVE, BERLIN)
    assert await office.kinds() == ["grant:refused"]


async def test_no_grant_without_its_event(office: Office, tmp_path: Path) -> None:
    """The log fails at the last event: the review and the grant that were written beside it must be gone, too."""
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    with closing(sqlite3.connect(tmp_path / "office.sqlite")) as database, database:
        database.execute(
            "CREATE TRIGGER full BEFORE INSERT ON events WHEN NEW.kind = 'grant:approved' "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    with pytest.raises(BastionError):
        await office.approval.review(request.id, SAM, APPROVE, BERLIN)
    assert await office.store.grants() == []
    assert "request:reviewed" not in await office.kinds()


# ------------------------------------------------------------------------------------------------------------- revoke


async def test_revoking_tells_every_node_after_it_is_durable(office: Office) -> None:
    grant = grant_of(await office.approval.grant(SAM, CARLA, wish(), None))
    listening = office.coordination.revocations()
    heard = asyncio.ensure_future(anext(listening))
    await asyncio.sleep(0)

    ended = await office.approval.revoke(grant.id, SIA, None)

    revocation = await asyncio.wait_for(heard, 5)
    while revocation is None:  # "some may have been missed" comes first
        revocation = await asyncio.wait_for(anext(listening), 5)
    assert revocation == Revocation(grant_id=grant.id)
    assert [each.revoked_at for each in ended.grants] == [office.clock.now()]
    event = (await office.events("grant:revoked"))[0]
    assert (event.grant_id, event.identity, event.actor) == (grant.id, CARLA.id, SIA.id)


async def test_revoking_twice_keeps_the_first_time_and_writes_one_event(office: Office) -> None:
    grant = grant_of(await office.approval.grant(SAM, CARLA, wish(), None))
    first = await office.approval.revoke(grant.id, SAM, None)
    office.clock.advance(timedelta(minutes=1))
    assert await office.approval.revoke(grant.id, SIA, None) == first
    assert await office.approval.revoke(Holding(CARLA, WEB), SIA, None) == first
    assert (await office.kinds()).count("grant:revoked") == 1


@pytest.mark.parametrize("actor", [SAM, LEA, CARLA, person("lena", "leads")], ids=lambda actor: actor.id.subject)
async def test_reviewers_administrators_and_the_holder_revoke(office: Office, actor: Identity) -> None:
    grant = grant_of(await office.approval.grant(SIA, CARLA, wish(), None))
    await office.approval.revoke(grant.id, actor, BERLIN)
    assert (await office.store.grant(grant.id)).revoked_at == office.clock.now()


async def test_nobody_else_revokes(office: Office) -> None:
    grant = grant_of(await office.approval.grant(SAM, CARLA, wish(), None))
    for which in (grant.id, Holding(CARLA, WEB), Holding(SAM, WEB)):
        with pytest.raises(Refused, match="Only those who review or administer staging/eu, or hold the grant"):
            await office.approval.revoke(which, OTTO, None)
    assert (await office.store.grant(grant.id)).revoked_at is None
    assert (await office.kinds())[-3:] == ["grant:refused"] * 3


async def test_revoking_a_target_ends_every_grant_for_it_and_no_other(office: Office) -> None:
    for targets in ((WEB,), (WEB, DB), (DB,)):
        await office.approval.grant(SAM, CARLA, wish(*targets), None)
    ended = await office.approval.revoke(Holding(CARLA, "WEB-1.staging.eu"), SAM, None)
    assert len(ended.grants) == 2
    live = await office.store.grants(live_at=office.clock.now())
    assert [grant.targets for grant in live] == [frozenset({DB})]


async def test_revoking_what_is_not_there_says_so(office: Office) -> None:
    with pytest.raises(NotFound, match="carla@example.com has no grant for web-1.staging.eu"):
        await office.approval.revoke(Holding(CARLA, WEB), SAM, None)
    with pytest.raises(NotFound, match="There is no grant"):
        await office.approval.revoke("g-000000000000", SAM, None)


# ----------------------------------------------------------------------------------------------------------- standing


async def test_lists_speak_only_of_regions_that_hold_the_place(office: Office) -> None:
    await office.approval.grant(SAM, CARLA, wish(), None)
    await office.approval.grant(SAM, CARLA, wish(FAR), None)
    await office.approval.request(CARLA, CARLA, wish(DB), None)
    await office.approval.request(CARLA, CARLA, wish(FAR), None)
    standing = office.standing
    for place, names in ((BERLIN, ["eu"]), (BOSTON, ["us"]), (NOWHERE, []), (None, ["eu", "us"])):
        assert sorted(held.grant.scope.region for held in await standing.access_of(CARLA, place)) == names
        assert sorted(held.grant.scope.region for held in await standing.grants(SAM, place)) == names
        assert sorted(each.request.scope.region for each in await standing.pending(SAM, place)) == names


async def test_people_see_their_own_and_reviewers_what_they_oversee(office: Office) -> None:
    await office.approval.grant(SAM, CARLA, wish(), None)
    request = await office.approval.request(CARLA, CARLA, wish(PROD), None)
    assert [held.holder.id for held in await office.standing.grants(SIA, BERLIN)] == [CARLA.id]
    assert [held.holder.id for held in await office.standing.grants(CARLA, BERLIN)] == [CARLA.id]
    assert list(await office.standing.grants(OTTO, BERLIN)) == []
    seen = {viewer.display: await office.standing.pending(viewer, BERLIN) for viewer in (CARLA, SAM, OTTO)}
    assert [(each.request, each.answerable) for each in seen[CARLA.display]] == [(request, False)]
    assert [(each.request, each.answerable) for each in seen[SAM.display]] == [(request, True)]
    assert list(seen[OTTO.display]) == []


async def test_only_overseers_find_out_who_exists(office: Office) -> None:
    assert await office.standing.look_up(SAM, "carla@example.com", BERLIN) == CARLA
    assert await office.standing.look_up(CARLA, "carla@example.com", BERLIN) == CARLA
    for who in ("sam@example.com", "nobody@example.com"):
        with pytest.raises(Refused, match="Only those who review or administer a scope") as refused:
            await office.standing.look_up(CARLA, who, BERLIN)
        assert not isinstance(refused.value, NotFound)
    with pytest.raises(Refused):
        await office.standing.look_up(SAM, "carla@example.com", NOWHERE)


# ------------------------------------------------------------------------------------------------------- laws 1 and 10

ALIASES = (
    SAM,
    person("sam", "sre", "leads", issuer=OTHER_ISSUER),
    person("sam.two", "sre", email="Sam@EXAMPLE.com", issuer=OTHER_ISSUER),
)
OUTSIDERS = (OTTO, CARLA, ROBOT, person("ghost", "SRE", "contractors", email=""))
Step = tuple[str, Identity, Verdict, Place | None]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["review", "grant", "wait"]),
        st.sampled_from(ALIASES + OUTSIDERS),
        st.sampled_from(Verdict),
        st.sampled_from([BERLIN, BOSTON, NOWHERE, None]),
    ),
    max_size=8,
)


@contextmanager
def one_office() -> Iterator[tuple[asyncio.Runner, Office]]:
    """One office for all examples of a property: a database for each would take most of the time."""
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        opening = open_office(Path(folder), FakeClock())
        office = runner.run(opening.__aenter__())
        try:
            runner.run(office.know(*ALIASES, *OUTSIDERS))
            yield runner, office
        finally:
            runner.run(opening.__aexit__(None, None, None))


def test_no_sequence_of_aliases_and_outsiders_ever_yields_a_grant() -> None:
    async def play(office: Office, steps: Sequence[Step]) -> None:
        request = await office.approval.request(SAM, SAM, wish(), BERLIN)
        for step, who, verdict, place in steps:
            if step == "wait":
                office.clock.advance(timedelta(hours=7))
            elif step == "review":
                with pytest.raises(Refused):
                    await office.approval.review(request.id, who, verdict, place)
            else:
                with pytest.raises(Refused):
                    await office.approval.grant(who, SAM, wish(), place)
        assert await office.store.grants() == []

    with one_office() as (runner, office):

        @given(steps=STEPS)
        @settings(max_examples=50)
        def holds(steps: list[Step]) -> None:
            runner.run(play(office, steps))

        holds()


VOTERS = (SAM, ALIASES[1], SIA, LEA, OTTO, CARLA)


def test_a_grant_needs_as_many_people_as_the_policy_demands() -> None:
    """Two different people of the group, nobody having refused before; and then it is one grant."""

    async def play(office: Office, votes: Sequence[tuple[Identity, Verdict]]) -> None:
        request = await office.approval.request(CARLA, CARLA, wish(PROD), BERLIN)
        people: set[str | None] = set()
        refused = False
        for who, verdict in votes:
            with suppress(Refused):
                await office.approval.review(request.id, who, verdict, BERLIN)
            counts = "sre" in who.groups and who.email not in people and len(people) < 2 and not refused
            if counts and verdict is APPROVE:
                people.add(who.email)
            elif counts:
                refused = True
        grants = [grant for grant in await office.store.grants() if grant.request_id == request.id]
        assert len(grants) == (len(people) == 2)

    with one_office() as (runner, office):

        @given(votes=st.lists(st.tuples(st.sampled_from(VOTERS), st.sampled_from(Verdict)), max_size=8))
        @settings(max_examples=50)
        def holds(votes: list[tuple[Identity, Verdict]]) -> None:
            runner.run(play(office, votes))

        holds()
