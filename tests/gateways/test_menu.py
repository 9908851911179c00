"""Who comes with a terminal and without a target's name chooses one, or asks for it, and is there."""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import AsyncIterator
from typing import cast

import asyncssh
import pytest
import pytest_asyncio

from bastion.access.approval import Approval
from bastion.access.certification import Proven
from bastion.core.audit import Kind
from bastion.core.geofence import parse_address
from bastion.core.grant import Verdict
from bastion.core.menu import FINISH
from bastion.core.session import Session
from bastion.gateways.ssh.choosing import Choosing
from tests.plain import Client
from tests.world import POLICY, STAGING, World, person, until, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADA, SAM = person("ada"), person("sam", frozenset({"sre"}))
RULES = """
@id("ask") @approvals("1") @max_duration("4h")
permit (principal in Group::"contractors", action == Action::"request", resource)
  unless { resource has login && resource.login == "root" };
@id("answer") permit (principal in Group::"sre", action == Action::"review", resource);
"""
ENTER, ESC, DOWN, CTRL_C = "\r", "\x1b", "\x1b[B", "\x03"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bastion(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world(tmp_path_factory.mktemp("menu"), policy=POLICY + RULES) as running:
        async with running.store.transaction() as tx:
            await tx.save_identity(SAM, running.clock.now())
        await running.grant(ADA)
        await running.certify(ADA)
        yield running


def ssh(bastion: World, *arguments: str) -> Client:
    return Client(["ssh", *bastion.ssh_options(bastion.key("ada")), *(arguments or ("bastion",))], bastion.folder)


async def newest(bastion: World) -> Session:
    return (await bastion.store.sessions(limit=1))[0]


async def test_a_target_is_found_by_typing_and_its_shell_is_there(bastion: World) -> None:
    async with ssh(bastion, "-o", "SetEnv=LANG=C.UTF-8", "bastion") as client:
        await client.sees("> web-1.staging.eu  deploy  until ")
        client.type("web depl")
        await client.sees("1 of 2")
        client.type(ENTER + "echo $((20 + 3)); exit 4\n")
        await client.sees("\r23\r\n")
        assert await client.status() == 4
    session = await newest(bastion)
    assert (session.target, session.login) == ("web-1.staging.eu", "deploy")
    assert b"echo $((20 + 3))" in await bastion.transcript(session)
    assert b"Search" not in await bastion.transcript(session)


async def test_only_what_one_may_ask_for_is_offered_and_nothing_of_another_scope(bastion: World) -> None:
    async with ssh(bastion) as client:
        await client.sees("2 of 2")
        assert b"web-1.staging.eu  admin   may be requested" in client.seen
        assert b"root" not in client.seen
        assert b"production" not in client.seen
        client.type(ESC)
        assert await client.status() == 0


async def test_what_has_to_be_asked_for_is_asked_for_and_reached_when_it_is_approved(bastion: World) -> None:
    approval = Approval(
        store=bastion.store, policies=bastion.policies, coordination=bastion.coordination,
        catalogue=bastion.catalogue, clock=bastion.clock, node="test-1",
    )  # fmt: skip
    async with ssh(bastion) as client:
        await client.sees("2 of 2")
        client.type(DOWN + ENTER)
        await client.sees("Ask for web-1.staging.eu as admin")
        client.type("\x155h" + ENTER + "fix the deploy" + ENTER)
        await client.sees("5h is too long: here a grant lasts 4h at most.")
        client.type("\x1b[A\x152h" + ENTER + ENTER)
        await client.sees("waiting for approval of q-")
        (request,) = await bastion.store.waiting_requests(asked_after=bastion.clock.now().replace(year=2000))
        assert (request.reason, request.logins, request.beneficiary) == ("fix the deploy", frozenset({"admin"}), ADA.id)
        await approval.review(request.id, SAM, Verdict.APPROVE, None)
        await client.sees(f"{request.id} is approved.")
        client.type("exit 5\n")
        assert await client.status() == 5
    assert (await newest(bastion)).login == "admin"
    await bastion.revoke((await bastion.store.grants_of(ADA.id, bastion.clock.now()))[0])


async def test_who_does_not_want_to_wait_presses_ctrl_c(bastion: World) -> None:
    async with ssh(bastion) as client:
        await client.sees("2 of 2")
        client.type("admin" + ENTER + ENTER + "look" + ENTER)
        await client.sees("waiting for approval of q-")
        client.type("impatient" + CTRL_C)
        assert await client.status() == 254
        assert b"No live grant lets ada@example.com use ssh:shell as admin" in client.seen


async def test_it_is_drawn_anew_when_the_terminal_changes(bastion: World) -> None:
    async with ssh(bastion) as client:
        await client.sees("2 of 2")
        fcntl.ioctl(client.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 5, 30, 0, 0))
        await client.sees(" > web-1.staging.eu  deplo...")
        client.type(CTRL_C)
        assert await client.status() == 0


async def test_a_terminal_that_cannot_show_it_reads_how_to_name_a_target(bastion: World) -> None:
    async with ssh(bastion) as client:
        pass
    client.environment["TERM"] = "dumb"
    async with client:
        await client.sees("Which target? Write: ssh login@target.environment.region@bastion")
        assert await client.status() == 254


async def test_who_is_outside_the_fence_is_offered_nothing(bastion: World) -> None:
    key = bastion.key("ada")
    before = await bastion.events(Kind.CONNECTION_REFUSED)
    ran = await bastion.ssh(key, "-tt", "bastion", bind="127.0.0.66")
    assert (ran.status, "staging" in ran.out.decode()) == (255, False)
    assert len(await bastion.events(Kind.CONNECTION_REFUSED)) == len(before) + 1


class SlowChannel:
    """A client's channel that nobody reads from; what is written waits in memory."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading


async def test_a_client_that_does_not_read_is_drawn_nothing(bastion: World) -> None:
    channel = SlowChannel()
    choosing = Choosing(
        cast("asyncssh.SSHServerChannel[bytes]", channel),
        bastion.offering,
        Proven(ADA.id, STAGING, "g-1", 1, "SHA256:x", ADA.strength),
        parse_address("127.0.0.1"),
    )
    menu = asyncio.ensure_future(choosing.choose((80, 24), utf8=True))
    await until(lambda: len(channel.written) == 2)
    choosing.pause_writing()
    for _ in range(100):
        choosing.data_received(b"x")
    choosing.data_received(DOWN.encode() + ESC.encode())
    assert await menu is None
    assert channel.written[2:] == [FINISH]
