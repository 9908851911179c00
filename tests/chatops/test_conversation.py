"""The whole conversation of a request in Slack, as people see it, over HTTP and over Socket Mode."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from bastion.access.outbox import Outbox
from bastion.access.sweeping import Sweeping
from bastion.chatops import slack
from bastion.chatops.errands import Errands
from bastion.chatops.slack.face import Face
from bastion.chatops.slack.socket import Socket
from bastion.chatops.threads import Threads
from bastion.core.grant import Verdict
from bastion.core.notice import FirstConnected
from bastion.core.policy import Action
from bastion.core.session import Session
from tests.chatops.counter import NAMES, PUBLIC_URL, USERS, desk_of, parts_of, serving
from tests.chatops.fake_slack import APP_TOKEN, BOT_TOKEN, OPS, SECRET, TEAM, FakeSlack, Said, running_slack, until
from tests.chatops.picture import PICTURE, Picture, read
from tests.chatops.transcript import DOCUMENT, Transcript, renamed
from tests.fakes import FakeClock
from tests.office import CARLA, NODE, PROD, PRODUCTION, SAM, Office, open_office, wish


@dataclass(frozen=True, slots=True)
class Stage:
    """An office, its Slack, and what runs in the background of a node."""

    office: Office
    fake: FakeSlack
    errands: Errands
    outbox: Outbox
    sweeping: Sweeping

    async def settle(self) -> None:
        """Everything that is to be told is told, and every message shows what it will."""
        await self.errands.settle()
        await self.sweeping.sweep()
        while await self.outbox.tell_due():
            pass

    async def press(self, user: str, said: Said, label: str) -> str:
        """What the one who presses is told by themself."""
        before = len(self.fake.whispers(user))
        await self.fake.press(user, said, label)
        await self.settle()
        return "\n".join(self.fake.whispers(user)[before:])

    async def connect(self, grant_id: str) -> None:
        """What admission writes when the first session of a grant is opened."""
        now = self.office.clock.now()
        session = Session(
            id="s-000000000001",
            node=NODE,
            identity=CARLA.id,
            display=CARLA.display,
            target=PROD,
            scope=PRODUCTION,
            login="deploy",
            action=Action.SSH_SHELL,
            command=None,
            grant_id=grant_id,
            certificate_serial=1,
            address="192.0.2.1",
            country="DE",
            started_at=now,
            until=now + timedelta(hours=2),
        )
        async with self.office.store.transaction() as tx:
            await tx.add_session(session)
            await tx.add_notice(FirstConnected(f"q-{grant_id[2:]}", now, grant_id, session.id), now)
        await self.settle()


@pytest.fixture(params=["http", "socket"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        office = await stack.enter_async_context(open_office(tmp_path, clock))
        fake = await stack.enter_async_context(running_slack(clock, dict(NAMES)))
        for user, identity in USERS.items():
            await office.link(user, identity)
        errands = Errands()
        stack.push_async_callback(errands.close)
        api = slack.SlackApi(token=BOT_TOKEN, channel=OPS, base_url=fake.base_url)
        if request.param == "http":
            routes = slack.routes(
                desk=desk_of(office),
                signing_secret=SECRET,
                workspaces=[TEAM],
                api=api,
                errands=errands,
                **parts_of(office),
            )
            fake.bastion = await stack.enter_async_context(serving(routes))
        else:
            session = await stack.enter_async_context(aiohttp.ClientSession())
            guard = slack.guard_of(**parts_of(office))
            face = Face(desk=desk_of(office), guard=guard, workspaces=[TEAM], api=api, errands=errands)
            socket = Socket(face=face, guard=guard, api=api, app_token=APP_TOKEN, session=session)
            listening = asyncio.create_task(socket.run())
            stack.callback(listening.cancel)
            await until(lambda: fake.has_socket)
        threads = Threads(
            board=slack.SlackBoard(api=api, channel=OPS), store=office.store, clock=clock, public_url=PUBLIC_URL
        )
        outbox = Outbox(
            store=office.store, coordination=office.coordination, ways={"slack": threads}, clock=clock, node=NODE
        )
        yield Stage(office, fake, errands, outbox, Sweeping(store=office.store, clock=clock, node=NODE))


async def test_the_whole_conversation_of_a_request(stage: Stage) -> None:
    fake, office, seen = stage.fake, stage.office, Transcript(stage.fake)
    drawn = Picture(fake, seen.names)

    await fake.type("U0CARLA", "")
    seen.step("Carla types `/bastion`", ("She sees a form", fake.shown(fake.views[-1])))

    drawn.step("Carla types /bastion, and is shown a form")
    drawn.form(fake.views[-1])

    filled = {"target": PROD, "login": "deploy", "duration": "2h", "reason": "the queue is stuck"}
    said = await fake.submit("U0CARLA", **filled)
    await stage.settle()
    seen.step("Carla fills it in and sends it", ("She sees", fake.shown(said["view"])), seen.channel())
    (root,) = fake.channel()
    assert list(root.buttons) == ["Approve", "Refuse"]
    stale = Said(root.channel, root.ts, root.body)
    drawn.step("She sends it, and the channel sees")
    drawn.thread(root)

    told = await stage.press("U0CARLA", root, "Approve")
    assert await office.store.grants() == []
    seen.step("Carla presses Approve herself", ("She alone sees", told))
    drawn.step("She presses Approve herself")
    drawn.said(fake.said[-1])

    told = await stage.press("U0SAM", root, "Approve")
    seen.step("Sam presses Approve; policy asks for two people", ("He alone sees", told), seen.channel())

    await stage.press("U0SIA", root, "Approve")
    (grant,) = await office.store.grants()
    assert list(root.buttons) == ["Extend"]
    seen.step("Sia presses Approve", seen.channel())

    told = await stage.press("U0LEA", stale, "Refuse")
    assert (await office.store.grant(grant.id)).revoked_at is None
    seen.step("Lea, whose window is old, presses Refuse", ("She alone sees", told))

    office.clock.advance(timedelta(minutes=3))
    await stage.connect(grant.id)
    seen.step("Carla connects for the first time", seen.channel())

    office.clock.advance(timedelta(minutes=104))
    await stage.settle()
    warning = fake.thread(root)[-1]
    assert list(warning.buttons) == ["Extend"]
    seen.step("The end comes near", seen.channel())
    drawn.step("Two others have approved, she works, and the end comes near")
    drawn.thread(root)

    told = await stage.press("U0CARLA", warning, "Extend")
    more = fake.thread(root)[-1]
    assert list(more.buttons) == ["Approve", "Refuse"]
    seen.step("Carla presses Extend, which is a request of its own", seen.channel())

    await stage.press("U0SIA", more, "Approve")
    await stage.press("U0SAM", more, "Approve")
    assert (await office.store.grant(grant.id)).ends_at == grant.ends_at + timedelta(hours=1)
    assert (more.buttons, warning.buttons) == ({}, {})
    seen.step("Sia and Sam approve that, too", seen.channel())

    told = await fake.type("U0LEA", f"revoke {grant.id}")
    await stage.settle()
    assert root.buttons == {}
    seen.step("Lea types `/bastion revoke`, because the work is done", ("She alone sees", told), seen.channel())
    drawn.step("She was given an hour more; the work is done, and Lea ends it")
    drawn.thread(root)

    told = await stage.press("U0SAM", stale, "Approve")
    assert (await office.store.grant(grant.id)).revoked_at is not None
    assert len(await office.store.grants()) == 1
    seen.step("Sam's old window still has a button", ("He alone sees", told))

    if os.environ.get("BASTION_WRITE_DOCS"):
        DOCUMENT.write_text(seen.written())
        PICTURE.write_text(drawn.svg())
    assert DOCUMENT.read_text() == seen.written()
    assert PICTURE.read_text() == drawn.svg()
    shown = " ".join(read(PICTURE.read_text()))
    for each in (root, *fake.thread(root)):
        for line in renamed(fake.shown(each), seen.names).split("\n"):
            assert re.sub(r"[][]", "", line) in shown
    assert fake.refused == []


async def test_a_request_made_elsewhere_has_its_thread_too(stage: Stage) -> None:
    """Over the API or the command line, with nobody in the chat."""
    request = await stage.office.approval.request(CARLA, CARLA, wish(), None)
    await stage.settle()
    (root,) = stage.fake.channel()
    assert stage.fake.shown(root).startswith(f"{request.id}: carla@example.com asks for")
    await stage.office.approval.review(request.id, SAM, Verdict.REFUSE, None)
    await stage.settle()
    assert root.buttons == {}
    assert [stage.fake.shown(said) for said in stage.fake.thread(root)] == ["sam@example.com refused."]


async def test_what_times_out_loses_its_buttons_without_anybody_pressing(stage: Stage) -> None:
    await stage.office.approval.request(CARLA, CARLA, wish(), None)
    await stage.settle()
    stage.office.clock.advance(timedelta(hours=25))
    await stage.settle()
    (root,) = stage.fake.channel()
    assert root.buttons == {}
    assert [stage.fake.shown(said) for said in stage.fake.thread(root)] == [
        "Nobody answered in time; the request is closed."
    ]


async def test_a_slack_that_is_away_is_told_later_and_once(stage: Stage) -> None:
    """The card that could not be posted is posted when Slack is back; nothing of what was decided waits for it."""
    stage.fake.down = True
    request = await stage.office.approval.request(CARLA, CARLA, wish(), None)
    await stage.outbox.tell_due()
    assert stage.fake.channel() == []
    stage.fake.down = False
    stage.office.clock.advance(timedelta(minutes=1))
    await stage.settle()
    (root,) = stage.fake.channel()
    assert request.id in stage.fake.shown(root)
