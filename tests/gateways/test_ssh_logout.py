"""What was proven before an identity ended opens nothing, even where the message that should have cut it was lost."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bastion.access.admission import LOGGED_OUT
from bastion.core.audit import Kind
from bastion.core.session import End
from tests.gateways.test_ssh_ends import live
from tests.world import WEB_STAGING, World, person, until

ADA = person("ada")
NAME = f"deploy@{WEB_STAGING}@bastion"


async def end_silently(bastion: World) -> None:
    """As an ending whose node died before it could tell the others."""
    async with bastion.store.transaction() as transaction:
        await transaction.end_identity(ADA.id, bastion.clock.now())


@asynccontextmanager
async def open_connection(bastion: World, key: Path) -> AsyncIterator[list[str]]:
    """An SSH connection without a session; the options by which OpenSSH uses it."""
    control = bastion.folder / "control"
    process = await asyncio.create_subprocess_exec(
        "ssh", *bastion.ssh_options(key), "-M", "-N", "-S", control, NAME,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "HOME": str(bastion.folder)},
    )  # fmt: skip
    try:
        await until(control.exists, 10)
        yield ["-S", str(control)]
    finally:
        process.terminate()
        await process.wait()


async def run(bastion: World, key: Path, reuse: list[str]) -> tuple[int | None, bytes]:
    """Run something over the open connection, with an input that stays open; its status, and its standard error."""
    process = await asyncio.create_subprocess_exec(
        "ssh", *bastion.ssh_options(key), *reuse, NAME, "true",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(bastion.folder)},
    )  # fmt: skip
    assert process.stderr is not None
    said = await asyncio.wait_for(process.stderr.read(), 20)
    await process.communicate()
    return process.returncode, said


async def test_a_connection_that_outlived_its_login_opens_no_further_session(bastion: World) -> None:
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)
    async with open_connection(bastion, key) as reuse:
        assert (await run(bastion, key, reuse))[0] == 0
        await end_silently(bastion)
        status, said = await run(bastion, key, reuse)
        assert (status, b"logged out since" in said) == (254, True), said
    assert (await bastion.events(Kind.ACCESS_DENIED))[-1].reasons == (LOGGED_OUT,)


async def test_a_session_is_cut_by_the_next_review_when_the_message_was_lost(bastion: World) -> None:
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)
    async with live(bastion, key) as session:
        await end_silently(bastion)
        await bastion.supervision.review_all()
        said, _ = await session.end()
    assert End.POLICY.sentence in said
