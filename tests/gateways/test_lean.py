"""The lean way of channel data: every cipher gives the same bytes, and what is wrong in a burst of packets is found.

What it overrides in asyncssh is guarded in test_internals.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from asyncssh.packet import Boolean, Byte, String, UInt32

from bastion.gateways.ssh.lean import MUCH, PACKET, LeanGCM
from tests.gateways.forgery import Client, certificate_of
from tests.gateways.wire import (
    CHANNEL_DATA,
    CHANNEL_EOF,
    GLOBAL_REQUEST,
    REQUEST_FAILURE,
    REQUEST_SUCCESS,
    WINDOW_ADJUST,
    Wire,
    connected,
)
from tests.world import WEB_STAGING, World, person

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADA = person("ada")
DIRECT = f"deploy@{WEB_STAGING}"
CONTENT = random.Random(5).randbytes(3 * MUCH + 12_345)

CHACHA = "chacha20-poly1305@openssh.com"
CIPHERS = {
    "what OpenSSH asks for": [],
    "the lean one": ["-c", "aes256-gcm@openssh.com"],
    "one that is not": ["-c", CHACHA],
    "one with a MAC of its own": ["-c", "aes128-ctr"],
    "new keys every megabyte": ["-o", "RekeyLimit=1M"],
    "new keys every megabyte, and not lean": ["-c", CHACHA, "-o", "RekeyLimit=1M"],
    "compression asked for": ["-C"],
}


@pytest.mark.parametrize("way", ["direct", "through a jump"])
@pytest.mark.parametrize("options", CIPHERS.values(), ids=list(CIPHERS))
async def test_bulk_arrives_exactly_both_ways(door: World, options: list[str], way: str) -> None:
    await door.grant(ADA)
    key = await door.certify(ADA)
    name = f"{DIRECT}@bastion" if way == "direct" else DIRECT
    ran = await door.ssh(key, *options, name, "cat", stdin=CONTENT)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == CONTENT


async def test_a_client_with_bulk_changes_over_to_the_lean_cipher(door: World) -> None:
    """And one without does not: the exchange costs a round trip or two."""
    await door.grant(ADA)
    key = await door.certify(ADA)
    for size, ciphers in ((MUCH // 8, {CHACHA}), (2 * MUCH, {CHACHA, "aes128-gcm@openssh.com"})):
        ran = await door.ssh(key, "-v", f"{DIRECT}@bastion", f"head -c {size} /dev/zero")
        assert len(ran.out) == size
        said = [line.split()[4] for line in ran.err.splitlines() if "kex: server->client cipher:" in line]
        assert set(said) == ciphers


async def test_many_small_packets_are_much_too(door: World) -> None:
    """A small file is half a dozen of them, and hardly any bytes."""
    await door.grant(ADA)
    key = await door.certify(ADA)
    process = await asyncio.create_subprocess_exec(
        "sftp", "-v", "-b", "-", *door.ssh_options(key), f"{DIRECT}@bastion",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    questions = MUCH // PACKET // 2
    _, said = await process.communicate(b"cd /\n" * questions)
    assert process.returncode == 0
    assert b"kex: server->client cipher: aes128-gcm@openssh.com" in said


async def test_a_client_that_has_no_lean_cipher_keeps_what_it_has(door: World) -> None:
    await door.grant(ADA)
    key = await door.certify(ADA)
    ran = await door.ssh(key, "-v", "-c", CHACHA, f"{DIRECT}@bastion", "cat", stdin=CONTENT)
    assert ran.out == CONTENT
    assert ran.err.count("kex: server->client cipher:") == 1


@asynccontextmanager
async def ada(door: World) -> AsyncIterator[Wire]:
    await door.grant(ADA)
    client = Client()
    certificate = await certificate_of(door, ADA, client, WEB_STAGING)
    async with connected(door.port) as wire:
        await wire.log_in(DIRECT, certificate, client)
        yield wire


async def start(wire: Wire, command: str, *, channel: int = 0) -> int:
    wire.open(channel=channel)
    number = await wire.opened()
    wire.request(number, b"exec", String(command))
    assert await wire.answered()
    return number


def data(channel: int, content: bytes) -> bytes:
    return Byte(CHANNEL_DATA) + UInt32(channel) + String(content)


class Burst:
    """Holds back what a wire sends, and sends it as one."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._pipe = wire.pipe
        self._held = b""

    def __enter__(self) -> Burst:
        self._wire.pipe = self  # type: ignore[assignment]  # it is only written to
        return self

    def write(self, held: bytes) -> None:
        self._held += held

    def __exit__(self, *_: object) -> None:
        self._wire.pipe = self._pipe
        self._pipe.write(self._held)


async def test_packets_that_come_together_keep_their_order_and_their_channel(door: World) -> None:
    """With others between them, that asyncssh has to answer, and an end that belongs behind them."""
    async with ada(door) as wire:
        one, two = await start(wire, "cat >/dev/null; echo one", channel=1), await start(wire, "cat", channel=2)
        with Burst(wire):
            for number in range(500):
                wire.send(data(two, b"%d " % number))
                wire.send(data(one, os.urandom(99)))
                if number % 50 == 0:
                    wire.send(Byte(GLOBAL_REQUEST) + String(b"keepalive@openssh.com") + Boolean(False))
                    wire.send(Byte(WINDOW_ADJUST) + UInt32(two) + UInt32(10))
            wire.send(Byte(CHANNEL_EOF) + UInt32(two))
        assert (await wire.ran()).out == b"".join(b"%d " % number for number in range(500))
        wire.send(Byte(CHANNEL_EOF) + UInt32(one))
        assert (await wire.ran()).out == b"one\n"


async def test_what_comes_together_is_recorded_as_one(door: World) -> None:
    async with ada(door) as wire:
        cat = await start(wire, "cat")
        wire.send(data(cat, b"begin\n"))
        assert (await wire.expect(CHANNEL_DATA))[-6:] == b"begin\n"  # the target is there
        with Burst(wire):
            for number in range(100):
                wire.send(data(cat, b"%03d" % number))
            wire.send(Byte(CHANNEL_EOF) + UInt32(cat))
        await wire.ran()
    session = max(await door.store.sessions(), key=lambda each: each.started_at)
    typed = [line for line in (await door.transcript(session)).splitlines() if b', "i", ' in line]
    assert len(typed) < 10
    assert b"000001002" in b"".join(typed)


TAMPERED = {
    "a seal that is broken": lambda held: held[:-1] + bytes([held[-1] ^ 1]),
    "a packet that is too long": lambda held: held + UInt32(2**31) + bytes(64),
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=list(TAMPERED))
async def test_a_burst_that_ends_in_what_cannot_be_ends_the_connection(door: World, tamper: object) -> None:
    async with ada(door) as wire:
        cat = await start(wire, "cat")
        burst = Burst(wire)
        with burst:
            wire.send(data(cat, b"right"))
            wire.send(data(cat, b"wrong"))
            burst._held = tamper(burst._held)  # type: ignore[operator]
        await wire.gone()


WRONG = {
    "more than the window": ([data(0, bytes(32768))] * 70, "Window exceeded"),
    "data for nobody": ([data(99, b"x")], "Invalid channel number 99 received"),
    "a window for nobody": ([Byte(WINDOW_ADJUST) + UInt32(99) + UInt32(1)], "Invalid channel number 99 received"),
    "data that is shorter than it says": ([Byte(CHANNEL_DATA) + UInt32(0) + UInt32(9) + b"x"], "Incomplete packet"),
    "data that is longer than it says": ([data(0, b"x") + b"y"], "Unexpected data at end of packet"),
    "data after its end": ([Byte(CHANNEL_EOF) + UInt32(0), data(0, b"x")], "Channel not open for sending"),
}


@pytest.mark.parametrize(("payloads", "reason"), WRONG.values(), ids=list(WRONG))
async def test_what_the_lean_way_does_not_take_is_refused_as_ever(
    door: World, payloads: list[bytes], reason: str
) -> None:
    async with ada(door) as wire:
        assert await start(wire, "sleep 5") == 0
        with Burst(wire):
            for payload in payloads:
                wire.send(payload)
        assert reason in await wire.gone()


async def test_each_direction_has_the_lean_cipher_after_each_exchange_of_keys(door: World) -> None:
    async with ada(door):
        (connection,) = door.gateway._connections
        assert isinstance(connection._send_encryption, LeanGCM)
        assert isinstance(connection._recv_encryption, LeanGCM)


async def test_a_peer_that_is_heard_on_and_on_sets_no_timer_each_time(door: World) -> None:
    async with ada(door) as wire:
        (connection,) = door.gateway._connections
        timers = []
        for _ in range(50):
            wire.send(Byte(GLOBAL_REQUEST) + String(b"keepalive@openssh.com") + Boolean(True))
            await wire.expect(REQUEST_FAILURE, REQUEST_SUCCESS)
            timers.append(connection._keepalive_timer)
        assert None not in timers
        assert len(set(map(id, timers))) < 50
