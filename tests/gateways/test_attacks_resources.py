"""What one client does must not cost the others: bytes that are no SSH, floods, and those who never read."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from asyncssh.packet import Boolean, Byte, String, UInt32

from bastion.core.session import End
from bastion.gateways.ssh.limits import JOINED, MAX_DEFERRED, WINDOW
from bastion.gateways.ssh.session import ClientSession
from tests.gateways.forgery import Client, certificate_of
from tests.gateways.wire import (
    CHANNEL_DATA,
    GLOBAL_REQUEST,
    KEX_INIT,
    USERAUTH_SUCCESS,
    Socket,
    Wire,
    connected,
    jump,
    kexinit,
)
from tests.world import WEB_STAGING, World, person, until, world

shared = pytest.mark.asyncio(loop_scope="module")

ADA, BOB = person("ada"), person("bob")
DIRECT = f"deploy@{WEB_STAGING}"
ELSEWHERE = "127.0.0.2"

FLAT = 32 * 2**20
"""Bytes that the process may grow by: buffers of some connections. What is tried here fills ten times that."""

HUGE = 2**32 - 1


def memory() -> int:
    """Bytes of this process, in which both the gateway and its attackers are (proc(5))."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def log_in(bastion: World, wire: Wire, who: str = "ada", username: str = DIRECT) -> None:
    client = Client()
    await wire.log_in(username, await certificate_of(bastion, person(who), client, WEB_STAGING), client)


@asynccontextmanager
async def ada(bastion: World, username: str = DIRECT) -> AsyncIterator[Wire]:
    await bastion.grant(ADA)
    async with connected(bastion.port) as wire:
        await log_in(bastion, wire, username=username)
        yield wire


async def an_honest_client_is_served(bastion: World, within: float = 3.0) -> None:
    """Bob logs in and runs something, in ``within`` seconds."""
    await bastion.grant(BOB)
    began = time.monotonic()
    async with connected(bastion.port) as wire:
        await log_in(bastion, wire, "bob")
        assert (await wire.execute("echo served")).out == b"served\n"
    assert time.monotonic() - began < within


async def memory_at_work(bastion: World) -> int:
    """`memory` of a process that has served before: what the first session of all loads is no attacker's doing."""
    await an_honest_client_is_served(bastion, within=60)
    gc.collect()
    return memory()


# What is no SSH -------------------------------------------------------------------------------------------------------

HELLO = b"SSH-2.0-Attacker\r\n"
GARBAGE = {
    "a web request": b"GET / HTTP/1.1\r\nHost: bastion\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500 + b"\n",
    "an empty line": b"\r\n",
    "zeros": b"\0" * 100_000,
    "an old protocol": b"SSH-1.5-Old\r\n",
    "half a version": b"SSH-\r\n",
    "a version that is too long": b"SSH-2.0-" + b"x" * 300 + b"\r\n" + b"\0" * 100,
    "a version that is not ASCII": b"SSH-2.0-\xff\xfe\r\n",
    "a line of a megabyte": b"SSH-2.0-" + b"x" * 2**20,
    "a megabyte of lines": b"hello\r\n" * 150_000,
    "a PROXY header from a stranger": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + HELLO,
    "a packet of length 0": HELLO + UInt32(0) * 8,
    "a packet of length 1": HELLO + UInt32(1) + b"\0" * 64,
    "a packet of 4 GiB": HELLO + UInt32(HUGE) + b"\0" * 1000,
    "a packet of 2 GiB": HELLO + UInt32(2**31) + b"\0" * 1000,
    "a packet of 300 KiB": HELLO + UInt32(300 * 1024) + b"\0" * 100_000,
    "a packet that is padding": HELLO + UInt32(12) + b"\xff" + b"\0" * 11,
    "a packet with nothing in it": HELLO + UInt32(12) + b"\x0b" + b"\0" * 11,
    "noise": HELLO + bytes(range(256)) * 400,
    "a KEXINIT that stops": HELLO + UInt32(28) + b"\x04" + b"\x14" + b"\0" * 16 + UInt32(HUGE) + b"\0" * 6,
    "lists of nothing": HELLO + UInt32(76) + b"\x0b" + b"\x14" + b"\0" * 74,
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=list(GARBAGE))
@shared
async def test_what_is_no_ssh_ends_its_connection_and_nothing_else(door: World, data: bytes) -> None:
    before = memory()
    async with connected(door.port) as wire:
        wire.pipe.write(data)
        async with asyncio.timeout(3):
            while await wire.pipe.read():
                pass
    await until(lambda: not door.gateway.connections)
    assert memory() - before < FLAT


@pytest.mark.parametrize("length", [0, 1, 4, 5, 15, 17, 300 * 1024, 2**31, HUGE])
@shared
async def test_an_encrypted_packet_of_a_length_that_cannot_be_ends_its_connection(door: World, length: int) -> None:
    async with ada(door) as wire:
        wire.pipe.write(UInt32(length) + os.urandom(300))
        await wire.gone()
    await an_honest_client_is_served(door)


# Floods before the login ----------------------------------------------------------------------------------------------


async def test_an_honest_client_logs_in_beside_three_hundred_that_say_nothing(bastion: World) -> None:
    before = memory()
    async with AsyncExitStack() as stack:
        for _ in range(300):
            await stack.enter_async_context(connected(bastion.port))
        await until(lambda: bastion.gateway.connections == 300)
        await an_honest_client_is_served(bastion)
        assert memory() - before < FLAT


async def test_an_honest_client_logs_in_beside_two_hundred_that_stop_in_the_key_exchange(bastion: World) -> None:
    async with AsyncExitStack() as stack:
        for number in range(200):
            wire = await stack.enter_async_context(connected(bastion.port))
            wire.pipe.write(HELLO)
            wire.send(kexinit())
            if number % 2:
                wire.send(Byte(KEX_INIT) + String(os.urandom(32)))
        await until(lambda: bastion.gateway.connections == 200)
        await an_honest_client_is_served(bastion)


async def test_a_flood_from_one_address_pushes_out_itself(bastion: World) -> None:
    """Whoever is in the middle of a login elsewhere stays, though they came before all of the flood."""
    bastion.gateway._max_starting = 16
    await bastion.grant(ADA)
    client = Client()
    certificate = await certificate_of(bastion, ADA, client, WEB_STAGING)
    async with AsyncExitStack() as stack:
        honest = await stack.enter_async_context(connected(bastion.port))
        await honest.begin_auth()
        flood = [await stack.enter_async_context(connected(bastion.port, ELSEWHERE)) for _ in range(60)]
        await until(lambda: bastion.gateway.connections == 16)
        honest.prove(DIRECT, certificate, client)
        await honest.expect(USERAUTH_SUCCESS)
        await flood[0].gone()
        await flood[-1].hello()
        assert (await honest.execute("echo in")).out == b"in\n"


async def test_who_is_logged_in_is_not_pushed_out(bastion: World) -> None:
    bastion.gateway._max_starting = 4
    async with ada(bastion) as wire, AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(connected(bastion.port))
        await until(lambda: bastion.gateway.connections == 5)
        assert (await wire.execute("echo still")).out == b"still\n"


async def test_half_open_connections_do_not_stay_and_those_that_are_logged_in_do(tmp_path: Path) -> None:
    async with world(tmp_path, login_timeout=0.8) as bastion, ada(bastion) as honest, AsyncExitStack() as stack:
        silent, stalled, keyed, asking = [await stack.enter_async_context(connected(bastion.port)) for _ in range(4)]
        await stalled.hello()
        await keyed.exchange_keys()
        await asking.begin_auth()
        for wire in (silent, stalled, keyed, asking):
            await wire.gone()
        assert (await honest.execute("echo in")).out == b"in\n"


# Those who do not read ------------------------------------------------------------------------------------------------


async def stays_flat(before: int) -> None:
    """For as long as a flood takes to fill ten times what is allowed, if nothing holds it back."""
    ends = time.monotonic() + 1.5
    while time.monotonic() < ends:
        assert memory() - before < FLAT, f"{(memory() - before) >> 20} MiB"
        await asyncio.sleep(0.05)


async def start(wire: Wire, command: str, *, window: int) -> int:
    wire.open(window=window)
    channel = await wire.opened()
    wire.request(channel, b"exec", String(command))
    return channel


@pytest.mark.parametrize("window", [0, 1, HUGE])
async def test_a_client_that_never_reads_costs_nothing_more(bastion: World, window: int) -> None:
    """Whatever it says it would take. It is still cut when its grant is revoked."""
    before = await memory_at_work(bastion)
    async with ada(bastion) as wire:
        await start(wire, "cat /dev/zero", window=window)
        await until(lambda: bastion.supervision.live == 1)
        await stays_flat(before)
        await an_honest_client_is_served(bastion)
        grant = next(grant for grant in await bastion.store.grants() if grant.identity == ADA.id)
        began = time.monotonic()
        await bastion.revoke(grant)
        await until(lambda: bastion.gateway.connections == 0, 3)
        assert time.monotonic() - began < 1.5
    await until(lambda: has_ended(bastion, End.REVOKED))


async def has_ended(bastion: World, end: End) -> bool:
    """Whether Ada's one session was written down as ended so."""
    return [session.end for session in await bastion.store.sessions(identity="ada")] == [end]


async def test_a_client_that_never_reads_through_a_jump_costs_nothing_more(bastion: World) -> None:
    before = await memory_at_work(bastion)
    async with ada(bastion, "ada") as outer:
        inner = await jump(outer, WEB_STAGING)
        outer.send(Byte(93) + UInt32(0) + UInt32(HUGE - 2**21))
        await log_in(bastion, inner, username="deploy")
        await start(inner, "cat /dev/zero", window=HUGE)
        await until(lambda: bastion.supervision.live == 1)
        await stays_flat(before)


@pytest.mark.parametrize("way", ["direct", "through a jump"])
async def test_a_client_that_reads_slowly_gets_everything(bastion: World, way: str) -> None:
    """What was held back goes out when it reads again, though it never says that it would take more."""
    async with ada(bastion, DIRECT if way == "direct" else "ada") as outer:
        wire = outer
        if way != "direct":
            wire = await jump(outer, WEB_STAGING)
            outer.send(Byte(93) + UInt32(0) + UInt32(HUGE - 2**21))
            await log_in(bastion, wire, username="deploy")
        await start(wire, "head -c 20000000 /dev/zero", window=HUGE)
        await until(lambda: any(connection.is_congested for connection in bastion.gateway._connections))
        assert await wire.answered()
        ran = await wire.ran()
        assert (len(ran.out), ran.status) == (20_000_000, 0)


async def test_a_client_that_stops_in_a_new_key_exchange_costs_nothing_more(bastion: World) -> None:
    """It reads whatever comes; what waits for the end of the exchange does not come."""
    before = await memory_at_work(bastion)
    async with ada(bastion) as wire:
        wire.open(window=HUGE)
        channel = await wire.opened()
        wire.send(kexinit())
        wire.request(channel, b"exec", String("cat /dev/zero"), reply=False)
        await until(lambda: bastion.supervision.live == 1)
        reading = asyncio.create_task(discard(wire))
        await stays_flat(before)
        reading.cancel()
        await an_honest_client_is_served(bastion)


async def discard(wire: Wire) -> None:
    while await wire.pipe.read():
        pass


async def test_who_asks_on_and_on_in_a_key_exchange_is_cut_off(bastion: World) -> None:
    async with ada(bastion) as wire:
        wire.send(kexinit())
        for _ in range(MAX_DEFERRED + 10):
            wire.send(Byte(GLOBAL_REQUEST) + String(b"keepalive@openssh.com") + Boolean(True))
        async with asyncio.timeout(30):
            await discard(wire)


async def test_who_asks_and_does_not_read_the_answers_is_not_heard(bastion: World) -> None:
    """Each answer is larger than its question, so whoever does not take them stops being read."""
    question = Byte(GLOBAL_REQUEST) + String(b"x") + Boolean(True)
    async with ada(bastion) as wire:
        assert isinstance(wire.pipe, Socket)
        sock = wire.pipe.writer.get_extra_info("socket")
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # the kernel's own megabytes would only take time to fill
            sock.setsockopt(socket.SOL_SOCKET, buffer, 4096)
        before = await memory_at_work(bastion)
        for _ in range(300):
            for _ in range(1000):
                wire.send(question)
            if not await is_taken(wire):
                break
        else:
            pytest.fail("Three hundred thousand questions were read, and as many answers wait in memory.")
        assert memory() - before < FLAT
        await an_honest_client_is_served(bastion)


async def is_taken(wire: Wire) -> bool:
    """Whether the gateway reads what was sent, within a second."""
    assert isinstance(wire.pipe, Socket)
    try:
        async with asyncio.timeout(1):
            await wire.pipe.writer.drain()
    except TimeoutError:
        return False
    return True


async def test_key_exchanges_in_the_middle_of_a_transfer_lose_nothing(bastion: World) -> None:
    """What is held back during an exchange goes out after it, in order; by OpenSSH's client, every 64 KiB."""
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)
    content = os.urandom(3_000_000)
    for name in (f"{DIRECT}@bastion", DIRECT):
        ran = await bastion.ssh(key, "-o", "RekeyLimit=64K", name, "cat", stdin=content)
        assert ran.out == content


# A target that does not answer ----------------------------------------------------------------------------------------


@asynccontextmanager
async def a_target_that_never_answers(bastion: World) -> AsyncIterator[None]:
    writers: list[asyncio.StreamWriter] = []

    def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if server.is_serving():
            writers.append(writer)
        else:
            writer.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    targets: Any = bastion.catalogue.targets
    targets[WEB_STAGING] = replace(targets[WEB_STAGING], port=server.sockets[0].getsockname()[1])
    try:
        yield
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


def waiting_input(bastion: World) -> list[int]:
    """The sizes of the pieces that wait in every channel, and in its session for the target."""
    channels = [channel for connection in bastion.gateway._connections for channel in connection._channels.values()]
    early = [
        data for channel in channels if (session := channel._session) for data in cast(ClientSession, session)._early
    ]
    return [len(data) for data in early + [data for channel in channels for data, _ in channel._recv_buf]]


async def test_small_pieces_that_wait_for_the_target_are_joined(bastion: World) -> None:
    """Two million packets of one byte are two megabytes, not two hundred."""
    async with a_target_that_never_answers(bastion), ada(bastion) as wire:
        channel = await start(wire, "cat", window=2**21)
        assert await wire.answered()
        for _ in range(8_000):
            wire.send(Byte(CHANNEL_DATA) + UInt32(channel) + String(b"x"))
        await until(lambda: sum(waiting_input(bastion)) >= 7_999)
        assert len(waiting_input(bastion)) <= 8_000 / JOINED + 2


async def test_pieces_that_were_joined_arrive_in_order(bastion: World) -> None:
    async with ada(bastion) as wire:
        channel = await start(wire, "cat", window=2**21)
        sent = b"".join(b"%d " % number for number in range(5000))
        for at in range(0, len(sent), 3):
            wire.send(Byte(CHANNEL_DATA) + UInt32(channel) + String(sent[at : at + 3]))
        wire.send(Byte(96) + UInt32(channel))
        assert await wire.answered()
        assert (await wire.ran()).out == sent


async def test_a_window_of_input_waits_for_the_target_and_no_more(bastion: World) -> None:
    before = await memory_at_work(bastion)
    async with a_target_that_never_answers(bastion), ada(bastion) as wire:
        channel = await start(wire, "cat", window=2**21)
        assert await wire.answered()
        for _ in range(2**21 // 32768 + 2):
            wire.send(Byte(CHANNEL_DATA) + UInt32(channel) + String(b"x" * 32768))
        assert "Window exceeded" in await wire.gone()
        assert memory() - before < FLAT
    await until(lambda: bastion.supervision.live == 0)


async def test_a_target_that_takes_slowly_lets_no_more_than_a_window_wait(bastion: World) -> None:
    """However often it takes a little: what it took may be sent again, and not what waits besides."""
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)
    slowly = "while [ $(dd bs=256k count=1 iflag=fullblock 2>/dev/null | wc -c) != 0 ]; do sleep 0.01; done"
    sending = asyncio.create_task(bastion.ssh(key, f"{DIRECT}@bastion", slowly, stdin=bytes(40 * 2**20), timeout=60))
    most = 0
    while not sending.done():
        await asyncio.sleep(0.005)
        most = max(most, sum(waiting_input(bastion)))
    assert (await sending).status == 0
    assert 0 < most <= WINDOW


async def test_a_client_that_left_before_the_target_answered_leaves_nothing(bastion: World) -> None:
    async with a_target_that_never_answers(bastion):
        async with ada(bastion) as wire:
            await start(wire, "cat", window=2**21)
            assert await wire.answered()
            await until(lambda: bastion.supervision.live == 1)
        await until(lambda: has_ended(bastion, End.CLIENT), 2)
        assert not bastion.gateway.connections
