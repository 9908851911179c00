"""Extending, withdrawing, breaking the glass, crossing, and what policies demand, over the real store and policies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from bastion.access.approval import Approval
from bastion.access.ballot import Granted, WaitingForOthers
from bastion.access.drafting import MoreTime
from bastion.access.standing import Standing
from bastion.access.wish import parse_actions, parse_network, parse_start
from bastion.adapters.policy import CedarPolicies
from bastion.chatops import messages
from bastion.core import notice
from bastion.core.errors import Conflict, NotFound, Refused
from bastion.core.geofence import parse_address
from bastion.core.grant import REQUEST_LIFETIME, Basis, Grant, Verdict
from bastion.core.identity import Identity
from bastion.core.notice import Notice, Why
from bastion.core.policy import FILE_ACTIONS, SSH_ACTIONS, Action, Occupied
from bastion.ports import Revocation
from tests.fakes import FakeClock
from tests.office import (
    BERLIN,
    BOSTON,
    CARLA,
    LEA,
    OTHER_ISSUER,
    OTTO,
    POLICY,
    PROD,
    ROBOT,
    SAM,
    SIA,
    STAGING,
    WEB,
    Office,
    catalogue,
    open_office,
    person,
    wish,
)  # fmt: skip

APPROVE, REFUSE = Verdict.APPROVE, Verdict.REFUSE
HOUR = timedelta(hours=1)
MORE = MoreTime(HOUR, "it takes longer")

GLASS = (
    POLICY
    + """
@id("emergencies") @approvals("2") @reviewers("sre") @max_duration("2h")
permit (principal in Group::"oncall", action == Action::"break_glass", resource);
"""
)
SHORT = '@reviewers("sre") @max_duration("2h")\npermit (principal in Group::"oncall"'
ONA = person("ona", "oncall")
ONA_TOO = person("ona.two", "sre", "oncall", email="Ona@example.com", issuer=OTHER_ISSUER)


@pytest.fixture
async def office(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Office]:
    async with open_office(tmp_path, clock) as office:
        await office.know(ONA, ONA_TOO)
        yield office


async def told(office: Office, kind: type[Notice] | None = None) -> list[Notice]:
    """What people would be told now."""
    due = [kept.notice for kept in await office.store.due_notices(office.clock.now())]
    return [each for each in due if kind is None or isinstance(each, kind)]


async def granted(office: Office, **changes: object) -> Grant:
    answer = await office.approval.grant(SAM, CARLA, wish(**changes), BERLIN)
    assert isinstance(answer, Granted)
    return answer.grant


# ------------------------------------------------------------------------------------------------------------ extending


async def test_more_time_is_asked_for_and_given_like_access(office: Office) -> None:
    grant = await granted(office)
    asked = await office.approval.extend(grant.id, CARLA, MORE, BERLIN)
    assert isinstance(asked, WaitingForOthers)
    assert (await office.store.grant(grant.id)).ends_at == grant.ends_at

    answer = await office.approval.review(asked.request.id, SIA, APPROVE, BERLIN)

    assert isinstance(answer, Granted)
    assert answer.grant == replace(grant, ends_at=grant.ends_at + HOUR) == await office.store.grant(grant.id)
    assert len(await office.store.grants()) == 1
    assert await office.store.waiting_requests(office.clock.now() - REQUEST_LIFETIME) == []
    event = (await office.events("grant:extended"))[0]
    assert (event.grant_id, event.actor, event.details["approved_by"]) == (grant.id, SIA.id, "sia@example.com")
    assert (await told(office, notice.Extended)) == [
        notice.Extended(asked.request.id, office.clock.now(), grant.id, grant.ends_at + HOUR)
    ]


async def test_a_reviewer_gives_more_time_in_one_step_and_every_node_hears_of_it(office: Office) -> None:
    grant = await granted(office)
    listening = office.coordination.revocations()
    heard = asyncio.ensure_future(anext(listening))
    await asyncio.sleep(0)
    answer = await office.approval.extend(grant.id, SIA, MORE, None)
    assert isinstance(answer, Granted)
    assert answer.grant.ends_at == grant.ends_at + HOUR
    while (revocation := await asyncio.wait_for(heard, 5)) is None:
        heard = asyncio.ensure_future(anext(listening))
    assert revocation == Revocation()


@pytest.mark.parametrize("again", [CARLA, SIA], ids=["holder", "reviewer"])
async def test_the_same_button_pressed_again_changes_nothing_twice(office: Office, again: Identity) -> None:
    grant = await granted(office)
    seen = replace(MORE, seen_end=grant.ends_at)
    if again == CARLA:
        first, second = await asyncio.gather(*(office.approval.extend(grant.id, CARLA, seen, None) for _ in "ab"))
        assert first == second
        request_id = first.request.id
        answers = [await office.approval.review(request_id, SIA, APPROVE, None) for _ in "ab"]
        assert all(isinstance(answer, Granted) for answer in answers)
        with pytest.raises(Conflict, match="approved already"):
            await office.approval.review(request_id, LEA, APPROVE, None)
    else:
        await office.approval.extend(grant.id, SIA, seen, None)
        for who in (SIA, LEA, CARLA):
            with pytest.raises(Conflict, match="was extended already"):
                await office.approval.extend(grant.id, who, seen, None)
    assert (await office.store.grant(grant.id)).ends_at == grant.ends_at + HOUR
    assert (await office.kinds()).count("grant:extended") == 1


async def test_nobody_gives_themselves_more_time(office: Office) -> None:
    grant = await office.approval.grant(SIA, SAM, wish(), BERLIN)
    assert isinstance(grant, Granted)
    asked = await office.approval.extend(grant.grant.id, SAM, MORE, BERLIN)
    assert isinstance(asked, WaitingForOthers)
    alias = person("sam.two", "sre", email="SAM@example.com", issuer=OTHER_ISSUER)
    await office.know(alias)
    for who in (SAM, alias):
        with pytest.raises(Refused, match="Nobody approves themselves"):
            await office.approval.review(asked.request.id, who, APPROVE, BERLIN)
    with pytest.raises(Refused, match="Nobody approves themselves"):
        await office.approval.extend(grant.grant.id, alias, MORE, BERLIN)
    with pytest.raises(Refused, match="No policy permits otto"):
        await office.approval.extend(grant.grant.id, OTTO, MORE, BERLIN)
    assert (await office.store.grant(grant.grant.id)).ends_at == grant.grant.ends_at


async def test_more_time_goes_no_further_than_a_new_grant_would(office: Office) -> None:
    grant = await granted(office, duration=8 * HOUR)
    with pytest.raises(Conflict, match="lasts as long as it may already"):
        await office.approval.extend(grant.id, SIA, MORE, BERLIN)
    office.clock.advance(HOUR / 2)
    answer = await office.approval.extend(grant.id, SIA, MORE, BERLIN)
    assert isinstance(answer, Granted)
    assert answer.grant.ends_at == office.clock.now() + 8 * HOUR


@pytest.mark.parametrize("over", ["revoked", "expired"])
async def test_what_is_over_is_not_revived_by_an_extension(office: Office, over: str) -> None:
    grant = await granted(office)
    asked = await office.approval.extend(grant.id, CARLA, MORE, BERLIN)
    if over == "revoked":
        await office.approval.revoke(grant.id, SAM, BERLIN)
    else:
        office.clock.advance(2 * HOUR)
    for step in (
        office.approval.review(asked.request.id, SIA, APPROVE, BERLIN),
        office.approval.extend(grant.id, SIA, MORE, BERLIN),
        office.approval.extend(grant.id, CARLA, MORE, BERLIN),
    ):
        with pytest.raises(Conflict):
            await step
    after = await office.store.grant(grant.id)
    assert after.ends_at == grant.ends_at
    assert not after.is_live(office.clock.now())


# ---------------------------------------------------------------------------------------------------------- withdrawing


async def test_whoever_asked_takes_it_back_and_then_nobody_answers(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    first = await office.approval.withdraw(request.id, CARLA, BERLIN)
    office.clock.advance(timedelta(minutes=1))
    assert await office.approval.withdraw(request.id, CARLA, BERLIN) == first
    with pytest.raises(Conflict, match="it was withdrawn"):
        await office.approval.review(request.id, SAM, APPROVE, BERLIN)
    assert await office.store.grants() == []
    assert (await office.kinds()).count("request:withdrawn") == 1
    assert len(await told(office, notice.Withdrawn)) == 1


async def test_nobody_else_takes_it_back_and_nothing_that_was_answered(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    for who in (SAM, OTTO):
        with pytest.raises(Refused, match="is not yours to withdraw"):
            await office.approval.withdraw(request.id, who, BERLIN)
    with pytest.raises(Refused, match="cannot be reached from there"):
        await office.approval.withdraw(request.id, CARLA, BOSTON)
    await office.approval.review(request.id, SAM, APPROVE, BERLIN)
    with pytest.raises(Conflict, match="it is granted"):
        await office.approval.withdraw(request.id, CARLA, BERLIN)


async def test_withdrawing_and_approving_at_once_has_one_winner(office: Office) -> None:
    for _ in range(5):
        request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
        await asyncio.gather(
            office.approval.review(request.id, SAM, APPROVE, BERLIN),
            office.approval.withdraw(request.id, CARLA, BERLIN),
            return_exceptions=True,
        )
        after = await office.store.request(request.id)
        grants = [grant for grant in await office.store.grants() if grant.request_id == request.id]
        assert (after.withdrawn_at is None) == (len(grants) == 1)


# ---------------------------------------------------------------------------------------------------------- break-glass


async def test_the_glass_is_broken_at_once_and_loudly(office: Office) -> None:
    opened = await office.under(GLASS).break_glass(ONA, wish(duration=HOUR), BERLIN)
    assert (opened.grant.basis, opened.grant.approved_by, opened.by) == (Basis.BREAK_GLASS, (), ())
    assert opened.grant.is_live(office.clock.now())
    assert opened.grant.ends_at == office.clock.now() + HOUR
    assert await office.kinds() == ["request:made", "glass:broken"]
    assert [type(each) for each in await told(office)] == [notice.BrokenGlass]
    assert [request.id for request in await office.store.broken_glass()] == [opened.request.id]


async def test_only_those_break_it_whom_a_policy_names_and_only_for_short(office: Office) -> None:
    approval = office.under(GLASS)
    for who in (CARLA, SAM, OTTO):
        with pytest.raises(Refused, match="No policy permits"):
            await approval.break_glass(who, wish(duration=HOUR), BERLIN)
    with pytest.raises(Refused, match="3h is too long: here a grant lasts 2h at most"):
        await approval.break_glass(ONA, wish(duration=3 * HOUR), BERLIN)
    with pytest.raises(Refused, match="cannot be reached from there"):
        await approval.break_glass(ONA, wish(duration=HOUR), BOSTON)
    for written, limit in (("", "1h"), ('@max_duration("9d")', "4h")):
        looser = office.under(
            GLASS.replace(SHORT, f'@reviewers("sre") {written}\npermit (principal in Group::"oncall"')
        )
        with pytest.raises(Refused, match=f"a grant lasts {limit} at most"):
            await looser.break_glass(ONA, wish(duration=5 * HOUR), BERLIN)
    assert await office.store.grants() == []


async def test_a_broken_glass_is_never_extended_and_not_approved_as_a_request(office: Office) -> None:
    approval = office.under(GLASS)
    opened = await approval.break_glass(ONA, wish(duration=HOUR), BERLIN)
    with pytest.raises(Conflict, match="opened by break-glass and is short"):
        await approval.extend(opened.grant.id, SAM, MORE, BERLIN)
    with pytest.raises(Conflict, match="answered for afterwards"):
        await approval.review(opened.request.id, SAM, APPROVE, BERLIN)
    assert (await office.store.grant(opened.grant.id)).ends_at == opened.grant.ends_at


async def test_people_answer_for_it_afterwards_and_that_closes_it(office: Office) -> None:
    approval = office.under(GLASS)
    opened = await approval.break_glass(ONA, wish(duration=HOUR), BERLIN)
    office.clock.advance(timedelta(days=3))
    for who, sentence in ((ONA, "No policy permits ona"), (ONA_TOO, "Nobody approves themselves")):
        with pytest.raises(Refused, match=sentence):
            await approval.acknowledge(opened.request.id, who, APPROVE, BERLIN)
    with pytest.raises(Refused, match="No policy permits otto"):
        await approval.acknowledge(opened.request.id, OTTO, APPROVE, BERLIN)
    first = await approval.acknowledge(opened.request.id, SAM, APPROVE, BERLIN, "it burned")
    assert await approval.acknowledge(opened.request.id, SAM, APPROVE, BERLIN, "it burned") == first
    assert first.missing == 1
    assert len(await office.store.broken_glass()) == 1
    assert (await approval.acknowledge(opened.request.id, SIA, APPROVE, BERLIN)).missing == 0
    assert await office.store.broken_glass() == []
    with pytest.raises(Conflict, match="answered for already"):
        await approval.acknowledge(opened.request.id, LEA, REFUSE, BERLIN)
    assert (await office.kinds()).count("glass:reviewed") == 2
    assert len(await told(office, notice.Acknowledged)) == 1


async def test_an_objection_closes_it_and_ends_its_grant_everywhere(office: Office) -> None:
    approval = office.under(GLASS)
    opened = await approval.break_glass(ONA, wish(duration=HOUR), BERLIN)
    done = await approval.acknowledge(opened.request.id, SAM, REFUSE, BERLIN, "nothing burned")
    assert (done.missing, done.grant.revoked_at) == (0, office.clock.now())
    assert await office.store.broken_glass() == []
    ended = await told(office, notice.Ended)
    assert [(each.why, each.by) for each in ended if isinstance(each, notice.Ended)] == [(Why.REVOKED, SAM.id)]


# ------------------------------------------------------------------------------------------------------------- crossing


async def occupy(office: Office, who: Identity) -> None:
    held = Occupied("s-1", "staging", "nonproduction")
    assert not await office.coordination.enter(who.id, held, HOUR, crossing=False)


async def test_asking_for_a_second_environment_while_one_is_open_is_a_crossing(office: Office) -> None:
    await occupy(office, CARLA)
    request = await office.approval.request(CARLA, CARLA, wish(PROD), BERLIN)
    assert (request.crossing, request.beside) == (True, frozenset({"staging"}))
    event = (await office.events("request:crosses"))[0]
    assert (event.identity, event.details["beside"]) == (CARLA.id, "staging")
    with pytest.raises(Refused, match="A crossing is approved only by those who administer production/eu"):
        await office.approval.review(request.id, SAM, APPROVE, BERLIN)


async def test_a_crossing_takes_a_permit_of_its_own(office: Office) -> None:
    strict = office.under("\n".join(line for line in POLICY.splitlines() if '"crossings"' not in line))
    await occupy(office, CARLA)
    with pytest.raises(Refused, match=r"is a crossing\. End the other session first, or: No policy permits"):
        await strict.request(CARLA, CARLA, wish(PROD), BERLIN)
    with pytest.raises(Refused, match="No policy permits carla@example.com to cross"):
        await strict.grant(LEA, CARLA, wish(crossing=True), BERLIN)
    await office.coordination.leave(CARLA.id, "s-1")
    assert not (await strict.request(CARLA, CARLA, wish(PROD), BERLIN)).crossing


async def test_the_same_tier_and_a_later_start_are_no_crossing(office: Office) -> None:
    await occupy(office, CARLA)
    later = office.clock.now() + 5 * HOUR
    assert not (await office.approval.request(CARLA, CARLA, wish(), BERLIN)).crossing
    assert not (await office.approval.request(CARLA, CARLA, wish(PROD, starts_at=later), BERLIN)).crossing
    assert await office.events("request:crosses") == []


async def test_breaking_the_glass_beside_another_environment_takes_the_permit_to_cross(office: Office) -> None:
    await occupy(office, ONA)
    with pytest.raises(Refused, match="No policy permits ona@example.com to cross"):
        await office.under(GLASS).break_glass(ONA, wish(PROD, duration=HOUR), BERLIN)


# ------------------------------------------------------------------------------------------------- what policies demand


def demanding(office: Office, annotations: str) -> Approval:
    return office.under(POLICY.replace('@id("staging") @approvals("1")', f'@id("staging") {annotations}'))


AUTO = '@id("staging") @auto("true")'


async def test_a_policy_answers_by_itself_and_it_is_still_a_grant_with_its_event(office: Office) -> None:
    approval = office.under(POLICY.replace('@id("staging") @approvals("1") @reviewers("sre")', AUTO))
    answer = await approval.ask(CARLA, CARLA, wish(), BERLIN)
    assert isinstance(answer, Granted)
    assert (answer.grant.basis, answer.grant.approved_by) == (Basis.AUTOMATIC, ())
    assert answer.grant.ends_at == office.clock.now() + 2 * HOUR
    assert await office.kinds() == ["request:made", "grant:approved"]
    more = await approval.extend(answer.grant.id, CARLA, MORE, BERLIN)
    assert isinstance(more, Granted)
    assert isinstance(await approval.ask(CARLA, CARLA, wish(PROD), BERLIN), WaitingForOthers)


@pytest.mark.parametrize("action", sorted(frozenset(Action) - SSH_ACTIONS))
async def test_what_no_grant_includes_by_itself_is_never_given_without_a_person(office: Office, action: Action) -> None:
    approval = office.under(POLICY.replace('@id("staging") @approvals("1") @reviewers("sre")', AUTO))
    answer = await approval.ask(CARLA, CARLA, wish(actions=SSH_ACTIONS | {action}), BERLIN)
    assert isinstance(answer, WaitingForOthers)
    assert f"with {action} besides" in messages.answered(answer)


@pytest.mark.parametrize(
    ("annotations", "changes", "sentence"),
    [
        ('@reason("required, 20")', {"reason": "x" * 19}, "The reason is too short: here it takes 20 characters"),
        ('@ticket("OPS-[0-9]+")', {}, "Name the ticket that this is for, written like OPS-[0-9]+."),
        ('@ticket("OPS-[0-9]+")', {"ticket": "DEV-1"}, "The ticket DEV-1 is not one of OPS-[0-9]+."),
        ('@mfa("required")', {}, "carla@example.com has to log in with a second factor first"),
        (
            '@hours("Tue 08:00-18:00 Europe/Berlin")',
            {},
            "Access begins here within Tue 08:00-18:00",
        ),
    ],
    ids=["reason", "no ticket", "another ticket", "second factor", "hours"],
)
async def test_what_a_policy_demands_is_asked_of_every_request(
    office: Office, annotations: str, changes: dict[str, str], sentence: str
) -> None:
    approval = demanding(office, annotations)
    for attempt in (
        approval.request(CARLA, CARLA, wish(**changes), BERLIN),
        approval.grant(SAM, CARLA, wish(**changes), BERLIN),
    ):
        with pytest.raises(Refused) as refused:
            await attempt
        assert sentence in refused.value.public
    assert await office.store.waiting_requests(office.clock.now() - REQUEST_LIFETIME) == []


@pytest.mark.parametrize("changes", [{"ticket": "OPS-7"}, {"reason": "fix the queue (OPS-7)."}], ids=["named", "found"])
async def test_a_ticket_is_named_or_found_in_the_reason(office: Office, changes: dict[str, str]) -> None:
    request = await demanding(office, '@ticket("OPS-[0-9]+")').request(CARLA, CARLA, wish(**changes), BERLIN)
    assert request.ticket == "OPS-7"
    assert (await office.events("request:made"))[0].details["ticket"] == "OPS-7"


async def test_a_grant_ends_when_working_hours_do(office: Office) -> None:
    approval = demanding(office, '@hours("Mon-Fri 08:00-12:00 Europe/Berlin")')  # it is Monday, ten o'clock there
    answer = await approval.grant(SAM, CARLA, wish(duration=8 * HOUR), BERLIN)
    assert isinstance(answer, Granted)
    assert answer.grant.ends_at == datetime(2026, 3, 2, 11, tzinfo=UTC)
    with pytest.raises(Conflict, match="lasts as long as it may"):
        await approval.extend(answer.grant.id, SAM, MORE, BERLIN)


async def test_a_request_made_in_working_hours_is_not_approved_after_them(office: Office) -> None:
    approval = demanding(office, '@hours("Mon-Fri 08:00-12:00 Europe/Berlin")')
    request = await approval.request(CARLA, CARLA, wish(), BERLIN)
    office.clock.advance(3 * HOUR)
    with pytest.raises(Refused, match="Access begins here within"):
        await approval.review(request.id, SAM, APPROVE, BERLIN)
    assert await office.store.grants() == []


async def test_a_reviewer_answers_only_from_where_the_policy_says(office: Office) -> None:
    at_home = 'action == Action::"review", resource) when { context has country && context.country == "DE" };'
    approval = office.under(POLICY.replace('action == Action::"review", resource);', at_home))
    request = await approval.request(CARLA, CARLA, wish(), BERLIN)
    with pytest.raises(Refused, match="No policy permits sam@example.com to review"):
        await approval.review(request.id, SAM, APPROVE, None)
    assert isinstance(await approval.review(request.id, SAM, APPROVE, BERLIN), Granted)


# ------------------------------------------------------------------------------------------------ narrower, and later


async def test_a_grant_begins_when_it_was_agreed_and_ends_so_much_later(office: Office) -> None:
    start = office.clock.now() + 5 * HOUR
    grant = await granted(office, starts_at=start)
    assert (grant.starts_at, grant.ends_at) == (start, start + 2 * HOUR)
    assert not grant.is_live(office.clock.now())
    office.clock.advance(5 * HOUR)
    assert grant.is_live(office.clock.now())


async def test_an_agreed_start_that_passes_unanswered_shortens_what_is_left(office: Office) -> None:
    start = office.clock.now() + HOUR
    requests = [await office.approval.request(CARLA, CARLA, wish(starts_at=start), BERLIN) for _ in "ab"]
    office.clock.advance(2 * HOUR)
    answer = await office.approval.review(requests[0].id, SAM, APPROVE, BERLIN)
    assert isinstance(answer, Granted)
    assert (answer.grant.starts_at, answer.grant.ends_at) == (office.clock.now(), start + 2 * HOUR)
    office.clock.advance(HOUR)
    with pytest.raises(Conflict, match="is closed"):
        await office.approval.review(requests[1].id, SAM, APPROVE, BERLIN)


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2026-03-02T09:00", "2026-03-02T08:59Z", "2026-04-02T09:01Z", "in 31d", "in -2h", "in"]
)
def test_a_start_that_cannot_be_agreed_on_is_refused(clock: FakeClock, text: str) -> None:
    with pytest.raises(Refused):
        parse_start(text, clock.now())


def test_a_start_is_read_as_an_instant_or_a_span(clock: FakeClock) -> None:
    assert parse_start("in 2h", clock.now()) == clock.now() + 2 * HOUR
    assert parse_start("2026-03-29T03:30+02:00", clock.now()) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


async def test_a_grant_for_one_network_is_for_no_other_address(office: Office) -> None:
    grant = await granted(office, network=ip_network("192.0.2.0/30"), actions=frozenset({Action.SSH_EXEC}))
    now = office.clock.now()
    inside, outside = parse_address("192.0.2.1"), parse_address("192.0.2.9")

    def covers(address: object, action: Action = Action.SSH_EXEC) -> bool:
        return grant.covers(CARLA.id, STAGING, WEB, "deploy", action, now, address=address)  # type: ignore[arg-type]

    assert covers(inside)
    assert not any(map(covers, (outside, None, parse_address("::1"), parse_address("2001:db8::1"))))
    assert not covers(inside, Action.SSH_SHELL)


async def test_a_grant_for_paths_is_for_files_and_nothing_else(office: Office) -> None:
    grant = await granted(office, paths=frozenset({"/var/log/**", "/etc/motd"}))
    now = office.clock.now()
    assert grant.paths == {"/var/log/", "/etc/motd"}
    assert grant.actions == FILE_ACTIONS
    wide_open = replace(grant, actions=frozenset(Action))
    for action in Action:
        assert wide_open.covers(CARLA.id, STAGING, WEB, "deploy", action, now) == (action in FILE_ACTIONS)
    told = messages.what(grant)
    assert told == f"{WEB} as deploy, only ssh:sftp_read, ssh:sftp_write within /etc/motd, /var/log/,"
    longer = await office.approval.extend(grant.id, SAM, MoreTime(HOUR, "more"), BERLIN)
    assert longer.request.paths == grant.paths


@pytest.mark.parametrize(
    ("paths", "actions", "sentence"),
    [
        ({"/var/log/"}, {Action.SSH_EXEC, Action.SSH_SFTP_READ}, "ssh:exec would not keep to them"),
        ({"/"}, SSH_ACTIONS, "Every path there is, is no limit"),
        ({"log"}, {Action.SSH_SFTP_READ}, "'log' is not a path"),
    ],
)
async def test_paths_that_would_not_limit_are_refused(
    office: Office, paths: set[str], actions: set[Action], sentence: str
) -> None:
    with pytest.raises(Refused, match=sentence):
        await office.approval.request(CARLA, CARLA, wish(paths=frozenset(paths), actions=frozenset(actions)), BERLIN)


def test_networks_and_actions_are_read_or_refused() -> None:
    assert parse_network("192.0.2.7") == ip_network("192.0.2.7/32")
    assert parse_actions(["ssh:exec"]) == {Action.SSH_EXEC}
    assert parse_actions(["+ssh:agent", "+ssh:forward"]) == SSH_ACTIONS | {Action.SSH_AGENT, Action.SSH_FORWARD}
    assert parse_actions(["ssh:exec", "+ssh:agent"]) == {Action.SSH_EXEC, Action.SSH_AGENT}
    for refused in ("0.0.0.0/0", "::/0", "192.0.2.1/24", "office"):
        with pytest.raises(Refused):
            parse_network(refused)
    with pytest.raises(Refused, match="there are: ssh:agent, ssh:exec"):
        parse_actions(["ssh:exec", "ssh:everything"])


async def test_a_request_for_no_action_is_refused(office: Office) -> None:
    with pytest.raises(Refused, match="Name at least one action"):
        await office.approval.request(CARLA, CARLA, wish(actions=frozenset()), BERLIN)


# ------------------------------------------------------------------------------------------------------------- standing


async def test_what_is_owed_is_shown_to_who_may_answer_and_who_opened_it(office: Office) -> None:
    opened = await office.under(GLASS).break_glass(ONA, wish(duration=HOUR), BERLIN)
    seen = {who.display: await office.standing.owed(who, BERLIN) for who in (SAM, ONA, OTTO, CARLA)}
    assert [(each.request, each.answerable) for each in seen[SAM.display]] == [(opened.request, True)]
    assert [each.answerable for each in seen[ONA.display]] == [False]
    assert not seen[OTTO.display]
    assert not seen[CARLA.display]
    assert not await office.standing.owed(SAM, BOSTON)


async def test_a_request_is_told_to_those_whom_it_concerns_and_to_nobody_else(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    for who in (CARLA, SAM, LEA):
        assert (await office.standing.one_request(who, request.id, BERLIN)).stage == "asked"
    for who, place in ((OTTO, BERLIN), (ROBOT, BOSTON), (CARLA, BOSTON)):
        with pytest.raises(NotFound):
            await office.standing.one_request(who, request.id, place)


async def test_access_is_reviewed_by_use_and_end(office: Office) -> None:
    long = await granted(office, duration=8 * HOUR)
    office.clock.advance(7 * HOUR + timedelta(minutes=50))
    fresh = await granted(office)
    found = await office.standing.review(SIA, BERLIN, None, None)
    assert [(each.grant.id, each.is_unused, each.is_ending_soon) for each in found] == [
        (long.id, False, True),
        (fresh.id, False, False),
    ]
    for unused, ending, wanted in (
        (HOUR, None, [long.id]),
        (None, 3 * HOUR, [long.id, fresh.id]),
        (None, HOUR, [long.id]),
        (HOUR, timedelta(minutes=5), []),
    ):
        found = await office.standing.review(SIA, BERLIN, unused, ending)
        assert [each.grant.id for each in found] == wanted
    assert not await office.standing.review(OTTO, BERLIN, None, None)


async def test_how_long_is_unused_is_configured(office: Office) -> None:
    known = catalogue()
    policies = CedarPolicies(POLICY, known)
    standing = Standing(store=office.store, policies=policies, catalogue=known, clock=office.clock, unused_after=HOUR)
    await granted(office)
    for is_unused in (False, True):
        (found,) = await standing.review(SIA, BERLIN, None, None)
        assert found.is_unused is is_unused
        office.clock.advance(HOUR)
