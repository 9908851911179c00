"""What time does to requests and grants is noticed once, however often and by however many nodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from bastion.access.ballot import Granted
from bastion.access.drafting import MoreTime
from bastion.access.sweeping import CHASED, SOON, UNUSED, Sweeping
from bastion.core import notice
from bastion.core.grant import REQUEST_LIFETIME, Grant, Verdict
from bastion.core.notice import Notice, Why
from tests.access.test_life import GLASS, ONA
from tests.fakes import FakeClock
from tests.office import BERLIN, CARLA, NODE, SAM, SIA, Office, open_office, wish

HOUR = timedelta(hours=1)


@pytest.fixture
async def office(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Office]:
    async with open_office(tmp_path, clock) as office:
        await office.know(ONA)
        yield office


async def swept(office: Office) -> list[Notice]:
    """What people are told after two nodes have looked, twice each."""
    nodes = [Sweeping(store=office.store, clock=office.clock, node=node) for node in (NODE, "bastion-2")]
    for _ in "ab":
        await asyncio.gather(*(node.sweep() for node in nodes))
    kept = await office.store.due_notices(office.clock.now())
    async with office.store.transaction() as tx:
        for each in kept:
            await tx.put_off_notice(each.notice.id, told=frozenset(), due=None)
    return [each.notice for each in kept]


async def granted(office: Office, **changes: object) -> Grant:
    answer = await office.approval.grant(SAM, CARLA, wish(**changes), BERLIN)
    assert isinstance(answer, Granted)
    await swept(office)
    return answer.grant


async def test_a_request_that_nobody_answers_times_out_once(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    await swept(office)
    office.clock.advance(REQUEST_LIFETIME - timedelta(seconds=1))
    assert await swept(office) == []
    office.clock.advance(timedelta(seconds=1))
    assert await swept(office) == [notice.TimedOut(request.id, office.clock.now())]
    (event,) = await office.events("request:expired")
    assert (event.identity, event.display, event.details) == (CARLA.id, CARLA.display, {"request": request.id})
    office.clock.advance(HOUR)
    assert await swept(office) == []


async def test_a_grant_is_warned_of_and_then_over_once(office: Office) -> None:
    grant = await granted(office)
    office.clock.advance(2 * HOUR - SOON)
    warning = notice.EndingSoon(grant.request_id, office.clock.now(), grant.id, grant.ends_at)
    assert await swept(office) == [warning]
    office.clock.advance(SOON)
    assert await swept(office) == [notice.Ended(grant.request_id, grant.ends_at, grant.id, Why.EXPIRED)]
    (event,) = await office.events("grant:expired")
    assert (event.grant_id, event.identity) == (grant.id, CARLA.id)


async def test_a_grant_that_was_extended_is_warned_of_again_and_not_over(office: Office) -> None:
    grant = await granted(office)
    office.clock.advance(2 * HOUR - SOON)
    await swept(office)
    await office.approval.extend(grant.id, SIA, MoreTime(HOUR, "longer"), BERLIN)
    await swept(office)
    office.clock.advance(SOON)
    assert await swept(office) == []
    office.clock.advance(HOUR - SOON)
    (warning,) = await swept(office)
    assert isinstance(warning, notice.EndingSoon)
    assert warning.ends_at == grant.ends_at + HOUR


async def test_what_was_revoked_does_not_expire_as_well(office: Office) -> None:
    grant = await granted(office)
    await office.approval.revoke(grant.id, CARLA, BERLIN)
    ended = await swept(office)
    assert ended == [notice.Ended(grant.request_id, office.clock.now(), grant.id, Why.GIVEN_BACK, CARLA.id)]
    office.clock.advance(3 * HOUR)
    assert await swept(office) == []


async def test_a_short_grant_is_not_warned_of_when_it_begins(office: Office) -> None:
    await granted(office, duration=SOON)
    assert await swept(office) == []


async def test_what_ended_while_every_node_was_down_is_noticed_when_one_is_up(office: Office) -> None:
    grant = await granted(office)
    office.clock.advance(timedelta(days=2))
    assert await swept(office) == [notice.Ended(grant.request_id, grant.ends_at, grant.id, Why.EXPIRED)]


async def test_a_broken_glass_is_chased_until_somebody_has_answered_for_it(office: Office) -> None:
    approval = office.under(GLASS.replace('@id("emergencies") @approvals("2")', '@id("emergencies")'))
    opened = await approval.break_glass(ONA, wish(duration=HOUR), BERLIN)
    await swept(office)
    turns = []
    for _ in range(4):
        office.clock.advance(CHASED)
        turns += [each.turn for each in await swept(office) if isinstance(each, notice.ReviewOverdue)]
    assert turns == [1, 2, 3, 4]
    await approval.acknowledge(opened.request.id, SAM, Verdict.APPROVE, BERLIN)
    await swept(office)
    office.clock.advance(CHASED)
    assert await swept(office) == []


async def test_a_grant_that_nobody_uses_is_named_once(office: Office) -> None:
    policy_allows = office.under(GLASS.replace('@max_duration("8h")', '@max_duration("20d")'))
    answer = await policy_allows.grant(SAM, CARLA, wish(duration=timedelta(days=20)), BERLIN)
    assert isinstance(answer, Granted)
    await swept(office)
    office.clock.advance(UNUSED)
    (idle,) = await swept(office)
    assert idle == notice.Unused(answer.request.id, office.clock.now(), answer.grant.id, answer.grant.starts_at)
    office.clock.advance(HOUR)
    assert await swept(office) == []


async def test_after_how_long_without_use_is_configured(office: Office) -> None:
    grant = await granted(office, duration=8 * HOUR)
    sweeping = Sweeping(store=office.store, clock=office.clock, node=NODE, unused_after=2 * HOUR)
    for passed in (HOUR, HOUR):
        before = await office.store.due_notices(office.clock.now())
        assert before == []
        office.clock.advance(passed)
        await sweeping.sweep()
    (kept,) = await office.store.due_notices(office.clock.now())
    assert kept.notice == notice.Unused(grant.request_id, office.clock.now(), grant.id, grant.starts_at)
