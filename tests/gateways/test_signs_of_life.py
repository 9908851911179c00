"""What is said between a client and a target besides bytes: breaks, and whether somebody is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from asyncssh.packet import String, UInt32

from bastion.core.identity import Identity
from bastion.core.session import End, Session
from tests.gateways.forgery import Client, certificate_of
from tests.gateways.wire import CHANNEL_DATA, CHANNEL_SUCCESS, SECONDS, Wire, connected
from tests.world import WEB_STAGING, World, person, until, world

shared = pytest.mark.asyncio(loop_scope="module")

NAMES = (f"somebody-{number}" for number in range(1000))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def talkative(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Whose targets log what they are asked."""
    async with world(tmp_path_factory.mktemp("talkative"), sshd=["LogLevel DEBUG1"]) as running:
        yield running


@pytest.fixture
def ada() -> Identity:
    """Somebody new, whose sessions are of one test."""
    return person(next(NAMES))


@asynccontextmanager
async def running(bastion: World, ada: Identity) -> AsyncIterator[tuple[Wire, int]]:
    """A session whose command has begun, and the gateway's number of its channel."""
    await bastion.grant(ada)
    client = Client()
    certificate = await certificate_of(bastion, ada, client, WEB_STAGING)
    async with connected(bastion.port) as wire:
        await wire.log_in(f"deploy@{WEB_STAGING}", certificate, client)
        wire.open()
        channel = await wire.opened()
        wire.request(channel, b"exec", String("echo begun; sleep 60"))
        await come(wire, CHANNEL_DATA)
        yield wire, channel


async def come(wire: Wire, kind: int) -> None:
    """Wait for a packet; what such targets say on standard error is not of interest."""
    async with asyncio.timeout(SECONDS):
        while (await wire.receive())[0] != kind:
            pass


async def session_of(bastion: World, ada: Identity) -> Session:
    (session,) = [session for session in await bastion.store.sessions() if session.identity == ada.id]
    return session


@shared
async def test_a_break_reaches_the_target_and_the_transcript(talkative: World, ada: Identity) -> None:
    async with running(talkative, ada) as (wire, channel):
        wire.request(channel, b"break", UInt32(500))
        await come(wire, CHANNEL_SUCCESS)

        def is_logged() -> bool:
            return any("req break" in line for line in talkative.staging.log())

        await until(is_logged, 15)
        assert b'"break 500 ms"' in await talkative.transcript(await session_of(talkative, ada))


@shared
async def test_a_client_that_answers_nothing_any_more_is_noticed_and_its_session_says_so(
    talkative: World, ada: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talkative.gateway._options, "keepalive_interval", 0.1)
    async with running(talkative, ada):

        async def has_ended() -> bool:
            return (await session_of(talkative, ada)).ended_at is not None

        await until(has_ended, 15)
    session = await session_of(talkative, ada)
    assert session.end is End.CLIENT
    assert b"the connection to the client was lost: Client not responding" in await talkative.transcript(session)
