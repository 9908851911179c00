"""A channel whose client does not read ends alone: what else there is on the connection goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from asyncssh.packet import Byte, String, UInt32

from bastion.core.grant import Grant
from bastion.core.identity import Identity
from bastion.core.policy import Action
from bastion.core.session import CHANNELS, End
from bastion.gateways.ssh import session as sessions
from bastion.gateways.ssh.limits import AHEAD, MIN_WINDOW, WINDOW, Windows
from tests.gateways.forgery import Client, certificate_of
from tests.gateways.wire import CHANNEL_CLOSE, CHANNEL_DATA, Wire, connected, forward
from tests.world import WEB_STAGING, World, person, until

shared = pytest.mark.asyncio(loop_scope="module")

NAMES = (f"reader-{number}" for number in range(1000))

STUCK, OTHER = 0, 1
"""The client's numbers of its channels."""

LITTLE = 1000
"""Bytes that the client takes."""


@pytest.fixture
def ada() -> Identity:
    """Somebody new, whose sessions are of one test."""
    return person(next(NAMES))


@dataclass
class Two:
    """A client that takes `LITTLE` of what a command says, and uses a forward beside it; each by its own grant."""

    wire: Wire
    other: int
    """The gateway's number of the forward."""
    grant: Grant
    """Of the command."""
    came: int = 0
    """Bytes that the command said."""

    async def read(self) -> tuple[int, int, bytes]:
        """The next packet of a channel: its kind, the channel, and what is in it."""
        async with asyncio.timeout(20):
            payload = await self.wire.receive()
        kind, channel, content = payload[0], int.from_bytes(payload[1:5], "big"), payload[9:]
        self.came += len(content) if (kind, channel) == (CHANNEL_DATA, STUCK) else 0
        return kind, channel, content

    async def until_closed(self) -> None:
        while (await self.read())[:2] != (CHANNEL_CLOSE, STUCK):
            pass

    async def the_other_goes_on(self) -> None:
        self.wire.send(Byte(CHANNEL_DATA) + UInt32(self.other) + String(b"still there"))
        while (read := await self.read())[:2] != (CHANNEL_DATA, OTHER):
            pass
        assert read[2] == b"STILL THERE"


@asynccontextmanager
async def two(door: World, ada: Identity, command: str) -> AsyncIterator[Two]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data.upper())
        writer.close()

    grant = await door.grant(ada, actions=frozenset({Action.SSH_EXEC}))
    await door.grant(ada, actions=frozenset({Action.SSH_FORWARD_LOOPBACK}))
    client = Client()
    certificate = await certificate_of(door, ada, client, WEB_STAGING)
    service = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with service, connected(door.port) as wire:
        await wire.log_in(f"deploy@{WEB_STAGING}", certificate, client)
        wire.open(b"direct-tcpip", forward("127.0.0.1", service.sockets[0].getsockname()[1]), channel=OTHER)
        other = await wire.opened()
        wire.open(channel=STUCK, window=LITTLE)
        wire.request(await wire.opened(), b"exec", String(command), reply=False)
        yield Two(wire, other, grant)


async def end_of(door: World, ada: Identity, action: Action) -> End | None:
    (session,) = [s for s in await door.store.sessions() if s.identity == ada.id and s.action is action]
    return session.end


@shared
async def test_a_revoked_session_that_nobody_reads_is_closed_and_the_forward_beside_it_is_not(
    door: World, ada: Identity
) -> None:
    async with two(door, ada, "cat /dev/zero") as client:
        while client.came < LITTLE:
            await client.read()
        await client.the_other_goes_on()
        await door.revoke(client.grant)
        await client.until_closed()
        assert client.came == LITTLE
        await client.the_other_goes_on()
        assert await end_of(door, ada, Action.SSH_FORWARD_LOOPBACK) is None

        async def is_revoked() -> bool:
            return await end_of(door, ada, Action.SSH_EXEC) is End.REVOKED

        await until(is_revoked)


@shared
async def test_what_a_process_left_behind_does_not_wait_for_ever_nor_take_the_forward_with_it(
    door: World, ada: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "DRAIN", 0.2)
    async with two(door, ada, "head -c 50000 /dev/zero") as client:
        await client.until_closed()
        assert client.came == LITTLE
        await client.the_other_goes_on()


@shared
async def test_a_revoked_grant_does_not_wait_for_what_a_process_left_behind(door: World, ada: Identity) -> None:
    async with two(door, ada, "head -c 50000 /dev/zero") as client:

        def is_over() -> bool:
            return any(
                isinstance(session := channel._session, sessions.ClientSession)
                and session._relay is not None
                and session._relay.ended.done()
                for connection in door.gateway._connections
                for channel in connection._channels.values()
            )

        await until(is_over)
        await door.revoke(client.grant)
        await client.until_closed()
        await client.the_other_goes_on()


# What waits ----------------------------------------------------------------------------------------------------------


def test_the_first_channels_of_a_client_have_large_windows_and_many_have_small_ones() -> None:
    windows = Windows(CHANNELS)
    taken = [windows.take() for _ in range(CHANNELS)]
    assert windows.are_used_up
    assert taken[0] == WINDOW
    assert taken == sorted(taken, reverse=True)
    assert taken[9] > WINDOW / 2
    assert taken[-1] == MIN_WINDOW
    assert sum(taken) <= AHEAD + CHANNELS * MIN_WINDOW
    for window in taken:
        windows.give(window)
    assert not windows.are_used_up
    assert windows.take() == WINDOW
