"""A life that is cut off between any two of its steps goes on correctly when the bastion is back.

A process is killed (SIGKILL) before and after each statement, before and after each commit, and before and after the
other nodes are told; then the bastion is back, and everybody presses their button again.
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


@dataclass
class Fuse:
    """Burns down with each step; at the end the process is killed, as by ``kill -9``."""

    left: int
    burnt: int = 0

    def burn(self) -> None:
        self.burnt += 1
        if self.burnt == self.left:
            os.kill(os.getpid(), signal.SIGKILL)


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


LIVES: dict[str, Act] = {life.__name__: life for life in (whole_life, refused, withdrawn)}


async def lived(folder: Path, life: Act, dies_at: int) -> int:
    """Live, and be killed at that step; how many steps were taken by who was not."""
    fuse = Fuse(dies_at)
    async with open_office(folder, FakeClock()) as office:
        await life(office, approval_of(office, fuse))
    return fuse.burnt


def nursery(folder: Path, life: Act, steps: int) -> None:
    """In a process of its own: a child for each step, each in a copy of the empty office, and each killed at its step.

    Forked from one that has imported everything and started nothing, so that two hundred of them cost little.
    """
    for step in range(1, steps + 1):
        copytree(folder / "empty", folder / str(step))
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(lived(folder / str(step), life, step))
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{step} {os.WTERMSIG(status) if os.WIFSIGNALED(status) else 'lived'}\n")
        sys.stdout.flush()


@pytest.mark.parametrize("life", LIVES)
async def test_a_life_killed_at_any_step_ends_as_if_it_had_not_been(tmp_path: Path, life: str) -> None:
    (tmp_path / "empty").mkdir()
    async with open_office(tmp_path / "empty", FakeClock()):
        pass  # making the tables takes most of the time
    copytree(tmp_path / "empty", tmp_path / "whole")
    steps = await lived(tmp_path / "whole", LIVES[life], 0)
    assert steps > 10
    async with open_office(tmp_path / "whole", FakeClock()) as office:
        expected = await picture(office)

    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, str(tmp_path), life, str(steps), stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    for step in range(1, steps + 1):
        assert (await process.stdout.readline()).split() == [str(step).encode(), str(int(signal.SIGKILL)).encode()]
        async with open_office(tmp_path / str(step), FakeClock()) as office:
            await LIVES[life](office, approval_of(office, Fuse(0)))
            assert await picture(office) == expected, f"killed at step {step}"
    assert await process.wait() == 0


if __name__ == "__main__":
    nursery(Path(sys.argv[1]), LIVES[sys.argv[2]], int(sys.argv[3]))
