"""A connection that comes before its approval waits, says what for, and goes on within a second of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from bastion.access.approval import Approval
from bastion.access.wish import Wish
from bastion.adapters.policy import CedarPolicies
from bastion.core.audit import Kind
from bastion.core.grant import Request, Verdict
from tests.plain import PROGRAMS, plain_logins, program
from tests.running import Waiting
from tests.world import POLICY, WEB_STAGING, World, person, until, world

ADA, SAM, SIA = person("ada"), person("sam", frozenset({"sre"})), person("sia", frozenset({"sre"}))
RULES = """
@id("ask") @approvals("2") permit (principal in Group::"contractors", action == Action::"request", resource);
@id("answer") permit (principal in Group::"sre", action == Action::"review", resource);
"""
ADMIN = f"admin@{WEB_STAGING}@bastion"


@pytest.fixture
async def bastion(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, policy=POLICY + RULES) as running:
        async with running.store.transaction() as tx:
            for one in (ADA, SAM, SIA):
                await tx.save_identity(one, running.clock.now())
        yield running


@pytest.fixture
def approval(bastion: World) -> Approval:
    return Approval(
        store=bastion.store,
        policies=CedarPolicies(POLICY + RULES, bastion.catalogue),
        coordination=bastion.coordination,
        catalogue=bastion.catalogue,
        clock=bastion.clock,
        node="test-1",
    )


async def ask(approval: Approval, **changes: object) -> Request:
    wish = Wish((WEB_STAGING,), ("admin",), timedelta(hours=1), "look at it")
    return await approval.request(ADA, ADA, replace(wish, **changes), None)  # type: ignore[arg-type]


@asynccontextmanager
async def waiting(bastion: World, said: str) -> AsyncIterator[Waiting]:
    """Ada's connection as admin, when it has said ``said``."""
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)
    process = await asyncio.create_subprocess_exec(
        "ssh", *bastion.ssh_options(key), ADMIN, "echo done",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "HOME": str(bastion.folder)},
    )  # fmt: skip
    client = Waiting(process)
    try:
        await until(lambda: said in client.said, 15)
        yield client
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_from_the_last_approval_a_waiting_client_goes_on_within_a_second(
    bastion: World, approval: Approval
) -> None:
    request = await ask(approval)
    async with waiting(bastion, f"bastion: waiting for approval of {request.id} (0 of 2)") as client:
        await approval.review(request.id, SAM, Verdict.APPROVE, None)
        await until(lambda: "(1 of 2)" in client.said)
        began = time.monotonic()
        await approval.review(request.id, SIA, Verdict.APPROVE, None)
        status, out = await client.end()
        took = time.monotonic() - began
    assert (status, out) == (0, "done\n")
    assert f"{request.id} is approved." in client.said
    assert took < 1.0
    assert [event.login for event in await bastion.events(Kind.ACCESS_ALLOWED)] == ["admin"]


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_login_by_a_browser_waits_where_it_has_no_grant_yet_and_goes_on(
    bastion: World, approval: Approval, name: str
) -> None:
    """Without certificate, grant or command line: whatever client it is shows the state, and runs its command."""
    async with plain_logins(bastion) as plain:
        ada = plain.person("ada")
        async with bastion.store.transaction() as tx:
            await tx.save_identity(ada, bastion.clock.now())
        wish = Wish((WEB_STAGING,), ("deploy",), timedelta(hours=1), "look at it")
        request = await approval.request(ada, ada, wish, None)
        async with program(name, bastion, "echo reached; exit 3") as client:
            await plain.browse("ada", await client.code())
            await until(lambda: f"waiting for approval of {request.id} (0 of 2)".encode() in client.seen, 20)
            assert not await bastion.store.sessions()
            await approval.review(request.id, SAM, Verdict.APPROVE, None)
            await approval.review(request.id, SIA, Verdict.APPROVE, None)
            assert await client.status() == 3, client.seen
            assert b"reached" in client.seen
    assert (await bastion.only_session()).identity == ada.id


async def refused(approval: Approval, request: Request) -> None:
    await approval.review(request.id, SAM, Verdict.REFUSE, None)


async def withdrawn(approval: Approval, request: Request) -> None:
    await approval.withdraw(request.id, ADA, None)


@pytest.mark.parametrize("ending", [refused, withdrawn], ids=lambda ending: ending.__name__)
async def test_what_will_not_be_granted_is_not_waited_for_any_longer(
    bastion: World, approval: Approval, ending: Callable[[Approval, Request], Awaitable[None]]
) -> None:
    request = await ask(approval)
    async with waiting(bastion, "waiting for approval") as client:
        await ending(approval, request)
        status, out = await client.end()
    assert (status, out) == (254, "")
    assert f"{request.id} is {ending.__name__}." in client.said
    assert "No live grant lets ada@example.com use ssh:exec as admin" in client.said


@pytest.mark.parametrize(
    "changes",
    [{"logins": ("deploy",)}, {"actions": frozenset()}, {"starts_at": timedelta(hours=1)}],
    ids=["another login", "another action", "a later start"],
)
async def test_a_request_that_would_not_do_is_not_waited_for(
    bastion: World, approval: Approval, changes: dict[str, object]
) -> None:
    from bastion.core.policy import Action

    if changes.get("actions") == frozenset():
        changes = {"actions": frozenset({Action.SSH_SFTP_READ})}
    if isinstance(ahead := changes.get("starts_at"), timedelta):
        changes = {"starts_at": bastion.clock.now() + ahead}
    await ask(approval, **changes)
    async with waiting(bastion, "No live grant lets") as client:
        status, out = await client.end()
    assert (status, out) == (254, "")
    assert "waiting" not in client.said


async def test_a_client_that_gives_up_leaves_nothing_behind(bastion: World, approval: Approval) -> None:
    request = await ask(approval)
    async with waiting(bastion, "waiting for approval") as client:
        client.process.terminate()
        await client.end()
    await until(lambda: bastion.gateway.connections == 0)
    for reviewer in (SAM, SIA):
        await approval.review(request.id, reviewer, Verdict.APPROVE, None)
    await asyncio.sleep(0.5)  # more than two turns of the wait: nothing may come of it
    assert await bastion.events(Kind.ACCESS_ALLOWED) == []
