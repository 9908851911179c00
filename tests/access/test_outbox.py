"""What was kept to be told is told by every way, whatever fails or dies in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from bastion.access.outbox import LONGEST_DELAY, MAX_TRIES, Outbox
from bastion.core import notice
from bastion.core.errors import Unavailable
from bastion.core.grant import Verdict
from bastion.core.notice import Notice
from tests.fakes import FakeClock
from tests.office import BERLIN, CARLA, NODE, SAM, Office, open_office, wish

APPROVE = Verdict.APPROVE


class Killed(BaseException):
    """The process dies here."""


class Way:
    """Keeps what it was told; fails as often as it is made to."""

    def __init__(self, fails: int = 0, error: BaseException | None = None) -> None:
        self.heard: list[Notice] = []
        self.fails = fails
        self.error = error or Unavailable("The chat is away.")

    async def tell(self, notice: Notice) -> None:
        if self.fails:
            self.fails -= 1
            raise self.error
        self.heard.append(notice)


@pytest.fixture
async def office(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Office]:
    async with open_office(tmp_path, clock) as office:
        yield office


def outbox(office: Office, **ways: Way) -> Outbox:
    return Outbox(store=office.store, coordination=office.coordination, ways=ways, clock=office.clock, node=NODE)


async def test_everything_is_told_once_by_every_way(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    await office.approval.review(request.id, SAM, APPROVE, BERLIN)
    chat, mail = Way(), Way()
    out = outbox(office, chat=chat, mail=mail)
    assert await out.tell_due() == 2
    assert await out.tell_due() == 0
    assert [type(each) for each in chat.heard] == [notice.Asked, notice.Granted]
    assert chat.heard == mail.heard


@pytest.mark.parametrize("error", [Unavailable("away"), RuntimeError("a mistake"), TimeoutError()], ids=repr)
async def test_what_one_way_cannot_do_is_tried_again_there_and_nowhere_else(office: Office, error: Exception) -> None:
    await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    chat, mail = Way(fails=2, error=error), Way()
    out = outbox(office, chat=chat, mail=mail)
    for _ in range(3):
        await out.tell_due()
        assert len(mail.heard) == 1
        office.clock.advance(LONGEST_DELAY)
    assert len(chat.heard) == 1
    assert await out.tell_due() == 0


async def test_it_is_tried_less_and_less_often_and_given_up_at_last(office: Office) -> None:
    await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    out = outbox(office, chat=Way(fails=10**6))
    delays = []
    for _ in range(MAX_TRIES):
        assert await out.tell_due() == 1
        for kept in await office.store.due_notices(office.clock.now() + LONGEST_DELAY):
            delays.append(kept.due - office.clock.now())
            office.clock.advance(kept.due - office.clock.now())
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (timedelta(seconds=5), LONGEST_DELAY)
    office.clock.advance(timedelta(days=30))
    assert await out.tell_due() == 0


async def test_what_was_decided_before_a_crash_is_told_after_it(tmp_path: Path, clock: FakeClock) -> None:
    async with open_office(tmp_path, clock) as office:
        request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    async with open_office(tmp_path, clock) as office:
        chat = Way()
        await outbox(office, chat=chat).tell_due()
        assert chat.heard == [notice.Asked(request.id, clock.now())]


async def test_a_crash_while_telling_tells_it_again_and_not_never(office: Office) -> None:
    await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    died = Way(fails=1, error=Killed())
    with pytest.raises(Killed):
        await outbox(office, chat=died).tell_due()
    await outbox(office, chat=died).tell_due()
    assert len(died.heard) == 1


async def test_of_two_nodes_one_tells(office: Office) -> None:
    ways = Way(), Way()
    boxes = [
        Outbox(store=office.store, coordination=office.coordination, ways={"chat": way}, clock=office.clock, node=node)
        for node, way in zip(("bastion-1", "bastion-2"), ways, strict=True)
    ]
    running = [asyncio.create_task(box.run()) for box in boxes]
    try:
        await office.approval.request(CARLA, CARLA, wish(), BERLIN)
        async with asyncio.timeout(30):
            while await office.store.due_notices(office.clock.now()):
                await asyncio.sleep(0.02)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert sorted(len(way.heard) for way in ways) == [0, 1]
