"""A life that is cut off between any two of its steps goes on correctly when the bastion is back.

The store dies before and after each statement, before and after each commit, and so does what the other nodes are told;
then everybody presses their button again. The last test does it to a process, with SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from shutil import copytree
from typing import Any, cast

import pytest

from bastion.access.approval import Approval
from bastion.access.drafting import MoreTime
from bastion.access.sweeping import Sweeping
from bastion.access.wish import Wish
from bastion.adapters.policy import CedarPolicies
from bastion.core.errors import Conflict
from bastion.core.grant import REQUEST_LIFETIME, Verdict
from bastion.ports import Coordination, Store
from tests.fakes import FakeClock
from tests.office import BERLIN, CARLA, NODE, POLICY, PROD, SAM, SIA, Office, catalogue, open_office, wish

HOUR = timedelta(hours=1)


class Died(BaseException):
    """The process is gone at this point."""


@dataclass
class Fuse:
    """Burns down with each step; at the end everything stops."""

    left: int
    burnt: int = 0

    def burn(self) -> None:
        self.burnt += 1
        if self.burnt == self.left:
            raise Died


class Mortal:
    """Passes every call on, and may die before it."""

    def __init__(self, inner: Any, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            self._fuse.burn()
            return await method(*arguments, **named)

        return call if asyncio.iscoroutinefunction(method) else method


class MortalStore(Mortal):
    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        self._fuse.burn()
        async with self._inner.transaction() as tx:
            yield Mortal(tx, self._fuse)
            self._fuse.burn()  # everything is written, nothing is committed
        self._fuse.burn()  # it is committed, and nobody knows


def approval_of(office: Office, fuse: Fuse) -> Approval:
    return Approval(
        store=cast(Store, MortalStore(office.store, fuse)),
        policies=CedarPolicies(POLICY, catalogue()),
        coordination=cast(Coordination, Mortal(office.coordination, fuse)),
        catalogue=catalogue(),
        clock=office.clock,
        node=NODE,
    )


Act = Callable[[Office, Approval], Awaitable[object]]


async def ask(office: Office, approval: Approval, what: Wish) -> str:
    """Whoever asks looks first whether their request is there, as people do."""
    for event in await office.events("request:made"):
        return str(event.details["request"])
    return (await approval.request(CARLA, CARLA, what, BERLIN)).id


async def whole_life(office: Office, approval: Approval) -> None:
    """Asked, approved by two, extended by each other way, ended early."""
    request_id = await ask(office, approval, wish(PROD, duration=HOUR))
    for reviewer in (SAM, SIA):
        await pressed(approval.review(request_id, reviewer, Verdict.APPROVE, BERLIN))
    (grant,) = await office.store.grants()
    seen = replace(MoreTime(HOUR / 2, "longer"), seen_end=office.clock.now() + HOUR)
    for reviewer in (SIA, SAM):
        await pressed(approval.extend(grant.id, reviewer, seen, BERLIN))
    await approval.revoke(grant.id, SAM, BERLIN)


async def refused(office: Office, approval: Approval) -> None:
    request_id = await ask(office, approval, wish())
    await pressed(approval.review(request_id, SAM, Verdict.REFUSE, BERLIN))


async def withdrawn(office: Office, approval: Approval) -> None:
    request_id = await ask(office, approval, wish())
    await pressed(approval.withdraw(request_id, CARLA, BERLIN))


async def pressed(step: Awaitable[object]) -> None:
    """A button that was pressed before may say that it has worked already."""
    with suppress(Conflict):
        await step


async def picture(office: Office) -> dict[str, object]:
    """What is to be the same however often it was interrupted: all but ids and the refusals of repeated clicks."""
    await Sweeping(store=office.store, clock=office.clock, node=NODE).sweep()
    grants = await office.store.grants()
    due = await office.store.due_notices(office.clock.now())
    kinds = Counter(event.kind.value for event in await office.events())
    return {
        "grants": [(g.targets, g.starts_at, g.ends_at, g.approved_by, g.revoked_at) for g in grants],
        "waiting": len(await office.store.waiting_requests(office.clock.now() - REQUEST_LIFETIME)),
        "told": Counter(type(kept.notice).__name__ for kept in due),
        "events": {kind: count for kind, count in kinds.items() if not kind.endswith(":refused")},
    }


async def lived(folder: Path, life: Act, dies_at: int) -> tuple[dict[str, object], int]:
    """The picture after a life that died at that step and went on, and how many steps were taken before."""
    copytree(folder.parent / "empty", folder)
    clock, fuse = FakeClock(), Fuse(dies_at)
    async with open_office(folder, clock) as office:
        with suppress(Died):
            await life(office, approval_of(office, fuse))
    async with open_office(folder, clock) as office:
        if dies_at:
            await life(office, approval_of(office, Fuse(0)))
        return await picture(office), fuse.burnt


@pytest.mark.parametrize("life", [whole_life, refused, withdrawn], ids=lambda life: life.__name__)
async def test_a_life_cut_off_at_any_step_ends_as_if_it_had_not_been(tmp_path: Path, life: Act) -> None:
    (tmp_path / "empty").mkdir()
    async with open_office(tmp_path / "empty", FakeClock()):
        pass  # making the tables takes most of the time
    expected, steps = await lived(tmp_path / "whole", life, 0)
    assert steps > 10
    at_once = asyncio.Semaphore(8)

    async def dies_at(step: int) -> tuple[int, dict[str, object], int]:
        async with at_once:
            return step, *await lived(tmp_path / str(step), life, step)

    for step, found, burnt in await asyncio.gather(*(dies_at(n) for n in range(1, steps + 1))):
        assert burnt == step
        assert found == expected, f"died at step {step}"


CHILD = """
import asyncio, sys
from pathlib import Path
from shutil import copytree
from tests.fakes import FakeClock
from tests.office import *

async def main():
    async with open_office(Path(sys.argv[1]), FakeClock()) as office:
        request = await office.approval.request(CARLA, CARLA, wish(PROD), BERLIN)
        print(request.id, flush=True)
        for reviewer in (SAM, SIA):
            await office.approval.review(request.id, reviewer, "approve", BERLIN)
            print(reviewer.display, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("lines", [1, 2, 3], ids=["asked", "half approved", "approved"])
async def test_what_was_said_is_still_so_after_sigkill(tmp_path: Path, lines: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD.replace('"approve"', "__import__('bastion.core.grant').core.grant.Verdict.APPROVE"),
        str(tmp_path), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = [(await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip() for _ in range(lines)]
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    async with open_office(tmp_path, FakeClock()) as office:
        await pressed(office.approval.review(said[0], SAM, Verdict.APPROVE, BERLIN))
        await pressed(office.approval.review(said[0], SIA, Verdict.APPROVE, BERLIN))
        (grant,) = await office.store.grants()
        assert grant.approved_by == (SAM.id, SIA.id)
        assert (await office.kinds()).count("grant:approved") == 1
        told = Counter(type(kept.notice).__name__ for kept in await office.store.due_notices(office.clock.now()))
        assert told == {"Asked": 1, "Reviewed": 1, "Granted": 1}
