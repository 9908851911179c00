"""Every end is an end (law 7): each cause closes live sessions within a second, and the client reads why."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bastion.adapters.geo import MaxMindLocator
from bastion.adapters.recordings.writing import FileRecorder
from bastion.core.audit import Kind
from bastion.core.errors import Unavailable
from bastion.core.session import End
from bastion.ports import Revocation
from tests.gateways.forgery import Client, certificate_of
from tests.gateways.wire import connected
from tests.world import WEB_PRODUCTION, WEB_STAGING, World, person, until

ADA = person("ada")
SECONDS = 1.0
"""Law 7."""


@dataclass
class Live:
    """A session that is open: a process at the target that writes ten times a second."""

    process: asyncio.subprocess.Process
    began: float = 0.0

    async def end(self) -> tuple[str, float]:
        """What the client read on its standard error, and how long after `began` it ended."""
        assert self.process.stderr is not None
        _, said = await asyncio.wait_for(self.process.communicate(), 15)
        return said.decode(), time.monotonic() - self.began

    def cause(self) -> None:
        self.began = time.monotonic()


@asynccontextmanager
async def live(bastion: World, key: Path, name: str = f"deploy@{WEB_STAGING}@bastion") -> AsyncIterator[Live]:
    process = await asyncio.create_subprocess_exec(
        "ssh", *bastion.ssh_options(key), name, "echo begun; while sleep 0.1; do echo on; done",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "HOME": str(bastion.folder)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"begun\n"
        yield Live(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def revoked(bastion: World) -> None:
    await bastion.revoke((await bastion.store.grants())[0])


async def revoked_while_the_message_is_lost(bastion: World) -> None:
    grant = (await bastion.store.grants())[0]
    async with bastion.store.transaction() as transaction:
        await transaction.revoke_grant(grant.id, bastion.clock.now())
    await bastion.supervision.review_all()


async def identity_disabled(bastion: World) -> None:
    await bastion.coordination.revoke(Revocation(identity=ADA.id))


async def expired(bastion: World) -> None:
    bastion.clock.skew += timedelta(hours=1)


async def left_the_fence(bastion: World) -> None:
    nowhere = MaxMindLocator(None, {ipaddress.ip_network("127.0.0.0/8"): "BR"}, clock=bastion.clock)
    bastion.locator.locate = nowhere.locate  # type: ignore[method-assign]  # the data is replaced under it


async def stopped(bastion: World) -> None:
    await bastion.gateway.stop()


CAUSES: list[tuple[Callable[[World], Awaitable[None]], End]] = [
    (revoked, End.REVOKED),
    (revoked_while_the_message_is_lost, End.REVOKED),
    (identity_disabled, End.IDENTITY),
    (expired, End.EXPIRED),
    (left_the_fence, End.FENCE),
    (stopped, End.SHUTDOWN),
]


@pytest.mark.parametrize("name", [f"deploy@{WEB_STAGING}@bastion", f"deploy@{WEB_STAGING}"], ids=["direct", "-J"])
@pytest.mark.parametrize(("cause", "end"), CAUSES, ids=[cause.__name__.replace("_", " ") for cause, _ in CAUSES])
async def test_a_live_session_is_cut_within_a_second_and_told_why(
    bastion: World, cause: Callable[[World], Awaitable[None]], end: End, name: str
) -> None:
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)
    async with live(bastion, key, name) as session:
        session.cause()
        await cause(bastion)
        said, took = await session.end()
    assert end.sentence in said
    assert took < SECONDS + 0.5, "half a second is the ssh client's own way out on a busy machine"
    await until(lambda: _ended(bastion, end))
    await until(lambda: _vacated(bastion))
    assert (await bastion.events(Kind.SESSION_ENDED))[-1].reasons == (end.sentence,)


async def _ended(bastion: World, end: End) -> bool:
    return (await bastion.only_session()).end is end


async def _vacated(bastion: World) -> bool:
    return not await bastion.coordination.occupied(ADA.id)


async def test_a_connection_without_a_session_reads_that_the_node_stops(bastion: World) -> None:
    """As ControlMaster keeps one; nobody waits for it to leave."""
    await bastion.grant(ADA)
    client = Client()
    certificate = await certificate_of(bastion, ADA, client, WEB_STAGING)
    async with connected(bastion.port) as wire:
        await wire.log_in(f"deploy@{WEB_STAGING}", certificate, client)
        await bastion.gateway.stop()
        assert await wire.gone() == End.SHUTDOWN.sentence


async def test_a_client_that_never_reads_is_cut_too(bastion: World) -> None:
    grant = await bastion.grant(ADA)
    key = await bastion.certify(ADA)
    process = await asyncio.create_subprocess_exec(
        "ssh", *bastion.ssh_options(key), f"deploy@{WEB_STAGING}@bastion", "yes",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await until(lambda: bastion.supervision.live == 1)
        await asyncio.sleep(0.5)  # until every buffer between the target and a client that does not read is full
        await bastion.revoke(grant)
        await until(lambda: _ended(bastion, End.REVOKED), 2)
        await until(lambda: not bastion.gateway.connections, 2)
    finally:
        process.kill()
        await process.communicate()


async def test_the_client_is_warned_five_minutes_and_one_minute_before_the_end(bastion: World) -> None:
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)
    async with live(bastion, key) as session:
        bastion.clock.skew += timedelta(minutes=54, seconds=59)
        await until(lambda: _recorded(bastion, "Your grant ends in 5m"), 3)
        bastion.clock.skew += timedelta(minutes=4)
        await until(lambda: _recorded(bastion, "Your grant ends in 1m"), 3)
        bastion.clock.skew += timedelta(minutes=1)
        said, _ = await session.end()
    assert said.index("ends in 5m") < said.index("ends in 1m") < said.index(End.EXPIRED.sentence)


async def _recorded(bastion: World, text: str) -> bool:
    return text.encode() in await bastion.transcript(await bastion.only_session())


async def test_a_recorder_that_fails_ends_the_session_and_nothing_more_is_delivered(
    bastion: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)
    async with live(bastion, key) as session:

        def full(*_: Any, **__: Any) -> None:
            raise Unavailable("The recording cannot be written.", detail="No space left on device")

        session.cause()
        for call in ("output", "error_output", "mark"):
            monkeypatch.setattr(FileRecorder, call, full)
        assert session.process.stdout is not None
        said, took = await session.end()
    assert End.RECORDER.sentence in said
    assert took < SECONDS + 0.5


async def test_no_door_opens_without_an_audit_log(bastion: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)

    def broken() -> Any:
        raise Unavailable("The audit log cannot be written.")

    monkeypatch.setattr(bastion.store, "transaction", broken)
    ran = await bastion.ssh(key, f"deploy@{WEB_STAGING}@bastion", "true")
    assert "audit log cannot be written" in ran.err
    assert not any("Accepted" in line for line in bastion.staging.log())
    await until(lambda: _vacated(bastion))


async def test_no_door_opens_without_a_recorder(bastion: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)

    def full(*_: Any, **__: Any) -> None:
        raise Unavailable("The recording could not be begun, so nothing is opened.")

    monkeypatch.setattr(bastion.recordings, "start", full)
    ran = await bastion.ssh(key, f"deploy@{WEB_STAGING}@bastion", "true")
    assert "nothing is opened" in ran.err
    assert not any("Accepted" in line for line in bastion.staging.log())
    assert (await bastion.only_session()).end is End.RECORDER
    await until(lambda: _vacated(bastion))


async def test_production_does_not_open_while_staging_is_open(bastion: World) -> None:
    await bastion.grant(ADA)
    await bastion.grant(ADA, WEB_PRODUCTION)
    staging = await bastion.certify(ADA)
    copy = bastion.folder / "production-cert.pub"
    await bastion.certify(ADA, WEB_PRODUCTION)
    copy.write_text(staging.with_name("id_ada-cert.pub").read_text())
    await bastion.certify(ADA)
    production = ["-o", f"CertificateFile={copy}", f"deploy@{WEB_PRODUCTION}@bastion", "true"]
    async with live(bastion, staging):
        denied = await bastion.ssh(staging, *production)
        assert (denied.status, "environments do not touch" in denied.err) == (254, True), denied.err
    await until(lambda: bastion.supervision.live == 0)
    assert (await bastion.ssh(staging, *production)).status == 0


async def test_a_crossing_grant_opens_both_and_is_an_event_of_its_own(bastion: World) -> None:
    await bastion.grant(ADA)
    await bastion.grant(ADA, WEB_PRODUCTION, crossing=True)
    key = await bastion.certify(ADA, WEB_PRODUCTION)
    copy = bastion.folder / "production-cert.pub"
    copy.write_text(key.with_name("id_ada-cert.pub").read_text())
    await bastion.certify(ADA)
    async with live(bastion, key):
        ran = await bastion.ssh(key, "-o", f"CertificateFile={copy}", f"deploy@{WEB_PRODUCTION}@bastion", "true")
        assert ran.status == 0, ran.err
    assert len(await bastion.events(Kind.ENVIRONMENT_CROSSED)) == 1
