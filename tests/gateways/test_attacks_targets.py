"""What a target that was taken over can do to the bastion, and a client to those beside it: floods, lies, silence."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import asyncssh
import pytest
from asyncssh.channel import SSHChannel
from asyncssh.packet import Byte, String, UInt32

from bastion.core.audit import Kind
from bastion.core.certificate import target_principal
from bastion.core.session import End
from tests.gateways.test_attacks_resources import (
    ADA,
    FLAT,
    ada,
    an_honest_client_is_served,
    has_ended,
    memory,
    start,
    stays_flat,
)
from tests.gateways.wire import CHANNEL_CONFIRMED, CHANNEL_DATA, CHANNEL_REFUSED, forward
from tests.world import STAGING, WEB_STAGING, World, until

CHUNK = 2**20


@asynccontextmanager
async def taken_over(bastion: World, does: Callable[[asyncssh.SSHServerProcess[bytes]], Any]) -> AsyncIterator[None]:
    """Whatever is run at the staging target is ``does``; its host key is the right one."""
    authority = base64.b64encode(bastion.signer.target_authority(STAGING)).decode()
    trusted = f'cert-authority,principals="{target_principal(STAGING, "deploy")}" ssh-ed25519 {authority}'
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[str(bastion.staging.folder / "host_key")], encoding=None,
        authorized_client_keys=asyncssh.import_authorized_keys(trusted), process_factory=does, line_editor=False,
    )  # fmt: skip
    targets: Any = bastion.catalogue.targets
    honest = targets[WEB_STAGING]
    targets[WEB_STAGING] = replace(honest, port=server.sockets[0].getsockname()[1])
    try:
        yield
    finally:
        targets[WEB_STAGING] = honest
        server.close()
        await server.wait_closed()


async def test_a_target_that_sends_more_than_was_asked_for_is_cut_off(bastion: World) -> None:
    """Its window is full, since the client takes nothing; it goes on all the same."""
    sent, is_over = 0, False

    async def flood(process: asyncssh.SSHServerProcess[bytes]) -> None:
        nonlocal sent, is_over
        channel: Any = process.channel
        transport = channel.get_connection()._transport
        with suppress(OSError, asyncssh.Error):
            while not transport.is_closing() and sent < 20 * FLAT:
                channel._send_window = 2**40
                process.stdout.write(bytes(CHUNK))
                sent += CHUNK
                while transport.get_write_buffer_size() > CHUNK and not transport.is_closing():
                    await asyncio.sleep(0.001)
        is_over = True

    before = memory()
    async with taken_over(bastion, flood), ada(bastion) as wire:
        await start(wire, "anything", window=0)
        await until(lambda: is_over)
        assert sent < FLAT
        assert memory() - before < FLAT
    await until(lambda: has_ended(bastion, End.TARGET))
    await an_honest_client_is_served(bastion)


async def test_a_target_that_writes_at_once_is_held_back_as_one_that_writes_later(bastion: World) -> None:
    """Its first window comes before the bastion has handed its channel over."""
    sent = 0

    async def flood(process: asyncssh.SSHServerProcess[bytes]) -> None:
        nonlocal sent
        with suppress(OSError, asyncssh.Error):
            while sent < 20 * FLAT:
                process.stdout.write(bytes(CHUNK))
                sent += CHUNK
                await process.stdout.drain()

    before = memory()
    async with taken_over(bastion, flood), ada(bastion) as wire:
        await start(wire, "anything", window=0)
        await until(lambda: sent)
        await stays_flat(before)
        assert sent < FLAT


@pytest.mark.parametrize("garbage", [UInt32(0), UInt32(2**32 - 1), UInt32(300 * 1024)], ids=["0", "4 GiB", "300 KiB"])
async def test_a_packet_of_a_target_of_a_length_that_cannot_be_ends_its_connection(
    bastion: World, garbage: bytes
) -> None:
    async def lie(process: asyncssh.SSHServerProcess[bytes]) -> None:
        connection: Any = process.channel.get_connection()
        connection._transport.write(garbage + os.urandom(500))

    before = memory()
    async with taken_over(bastion, lie), ada(bastion) as wire:
        ran = await wire.execute("anything")
        assert (ran.status, b"connection to the target was lost" in ran.err) == (254, True)
        assert memory() - before < FLAT
    await until(lambda: has_ended(bastion, End.TARGET))
    await an_honest_client_is_served(bastion)


OPENED = {
    "session": b"",
    "direct-tcpip": forward("127.0.0.1", 22),
    "forwarded-tcpip": forward("127.0.0.1", 22),
    "direct-streamlocal@openssh.com": String("/run/docker.sock") + String("") + UInt32(0),
    "forwarded-streamlocal@openssh.com": String("/tmp/x") + String(""),
    "x11": String("127.0.0.1") + UInt32(6000),
    "auth-agent@openssh.com": b"",
}


@pytest.mark.parametrize("kind", OPENED)
async def test_a_target_opens_nothing_that_was_not_asked_for(bastion: World, kind: str) -> None:
    """Neither at the bastion nor at the client: it is refused, or its connection is cut off."""
    opened: list[bool] = []

    async def reach_out(process: asyncssh.SSHServerProcess[bytes]) -> None:
        channel: Any = SSHChannel(process.channel.get_connection(), asyncio.get_running_loop(), None, "strict", 0, 0)
        try:
            await channel._open(kind.encode(), OPENED[kind])
        except asyncssh.ChannelOpenError:
            opened.append(False)
            process.exit(0)
        else:
            opened.append(True)

    async with taken_over(bastion, reach_out), ada(bastion) as wire:
        assert (await wire.execute("anything")).status in (0, 254)
        await until(lambda: opened)
        assert opened == [False]


async def test_a_channel_that_takes_nothing_does_not_hold_up_the_others_of_its_connection(bastion: World) -> None:
    before = memory()
    async with ada(bastion) as wire:
        await start(wire, "cat /dev/zero", window=0)
        assert await wire.answered()
        for number in range(20):
            wire.open(channel=1)
            channel = await wire.opened()
            wire.request(channel, b"exec", String(f"echo {number}"))
            assert await wire.answered()
            assert (await wire.ran()).out == b"%d\n" % number
        assert memory() - before < FLAT


async def test_what_a_client_sends_to_a_process_that_has_ended_ends_nothing_else(bastion: World) -> None:
    """Its output waits for the client, so its end has not been told yet, and the client still types."""
    async with ada(bastion) as wire:
        ended = await start(wire, "head -c 300000 /dev/zero; touch ended", window=0)
        assert await wire.answered()
        await until((bastion.staging.home("deploy") / "ended").exists)
        for number in range(5):
            wire.open(channel=1)
            channel = await wire.opened()
            wire.request(channel, b"exec", String(f"echo {number}"))
            assert await wire.answered()
            wire.send(Byte(CHANNEL_DATA) + UInt32(ended) + String("typed"))
            assert (await wire.ran()).out == b"%d\n" % number


@pytest.mark.parametrize("window", [0, 2**32 - 1])
async def test_a_flood_of_errors_waits_as_one_of_output_does(bastion: World, window: int) -> None:
    before = memory()
    async with ada(bastion) as wire:
        await start(wire, "cat /dev/zero >&2", window=window)
        await until(lambda: bastion.supervision.live == 1)
        await stays_flat(before)
        await an_honest_client_is_served(bastion)


async def test_ten_thousand_channels_that_are_refused_leave_nothing(bastion: World) -> None:
    before = memory()
    async with ada(bastion) as wire:
        for kind in (b"session", b"x11", b"nothing@example.com", b"auth-agent@openssh.com"):
            for number in range(2500):
                wire.open(kind, packet=0, channel=number)
                payload = await wire.expect(CHANNEL_REFUSED, CHANNEL_CONFIRMED)
                assert payload[0] == CHANNEL_REFUSED
        assert memory() - before < FLAT
        assert (await wire.execute("echo fine")).out == b"fine\n"
    assert not await bastion.events(Kind.ACCESS_DENIED)
    assert len(await bastion.store.sessions(identity=ADA.id.subject)) == 1
