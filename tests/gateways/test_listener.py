"""Who is really calling (law 2): PROXY headers, from whom they count and from whom they are noise."""

from __future__ import annotations

import asyncio
import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.gateways import listener
from bastion.gateways.listener import MAX_V1, MAX_V2, V2_SIGNATURE, Header, parse_header
from tests.gateways.forgery import Client, certificate_of
from tests.gateways.wire import USERAUTH_FAILURE, Wire, connected, jump
from tests.world import OUTSIDE, WEB_STAGING, World, person, until

ADA = person("ada")
BALANCER = "127.0.0.2"
DIRECT = f"deploy@{WEB_STAGING}"


def v1(line: str) -> bytes:
    return f"PROXY {line}\r\n".encode()


def v2(body: bytes, *, version: int = 2, command: int = 1, family: int = 0x11, length: int | None = None) -> bytes:
    """Version 2 (section 2.2): signature, version and command, family, length, addresses."""
    size = len(body) if length is None else length
    return V2_SIGNATURE + bytes([version << 4 | command, family]) + struct.pack(">H", size) + body


def ends(source: str, destination: str = "127.0.0.1", port: int = 4711) -> bytes:
    """Addresses and ports as version 2 has them."""
    packed = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    return packed + struct.pack(">HH", port, 22)


ADDRESS = ipaddress.ip_address("192.0.2.7")
ADDRESS6 = ipaddress.ip_address("2001:db8::7")

GOOD = {
    "version 1": (v1("TCP4 192.0.2.7 127.0.0.1 4711 22"), ADDRESS),
    "version 1, IPv6": (v1("TCP6 2001:db8::7 ::1 4711 22"), ADDRESS6),
    "version 1, an IPv4 client on an IPv6 socket": (v1("TCP6 ::ffff:192.0.2.7 ::1 4711 22"), ADDRESS),
    "version 2": (v2(ends("192.0.2.7")), ADDRESS),
    "version 2, IPv6": (v2(ends("2001:db8::7", "::1"), family=0x21), ADDRESS6),
    "version 2, an IPv4 client on an IPv6 socket": (v2(ends("::ffff:192.0.2.7", "::1"), family=0x21), ADDRESS),
    "version 2, with more after it": (v2(ends("192.0.2.7") + b"\x04\x00\x03abc"), ADDRESS),
    "version 2, as long as may be": (v2(ends("192.0.2.7").ljust(MAX_V2 - 16, b"\0")), ADDRESS),
}

BAD = {
    "a version of SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a web request": b"GET / HTTP/1.1\r\n\r\n",
    "small letters": b"proxy TCP4 192.0.2.7 127.0.0.1 4711 22\r\n",
    "a blank before": b" PROXY TCP4 192.0.2.7 127.0.0.1 4711 22\r\n",
    "an empty line before": b"\r\nPROXY TCP4 192.0.2.7 127.0.0.1 4711 22\r\n",
    "nothing after": v1(""),
    "no ports": v1("TCP4 192.0.2.7 127.0.0.1"),
    "one port": v1("TCP4 192.0.2.7 127.0.0.1 4711"),
    "something at the end": v1("TCP4 192.0.2.7 127.0.0.1 4711 22 x"),
    "two blanks": v1("TCP4  192.0.2.7 127.0.0.1 4711 22"),
    "a tab": v1("TCP4\t192.0.2.7 127.0.0.1 4711 22"),
    "no such protocol": v1("UDP4 192.0.2.7 127.0.0.1 4711 22"),
    "a port that is none": v1("TCP4 192.0.2.7 127.0.0.1 65536 22"),
    "a negative port": v1("TCP4 192.0.2.7 127.0.0.1 -1 22"),
    "a port in other digits": "PROXY TCP4 192.0.2.7 127.0.0.1 ４７ 22\r\n".encode(),
    "a name": v1("TCP4 localhost 127.0.0.1 4711 22"),
    "an address with a leading zero": v1("TCP4 192.0.2.07 127.0.0.1 4711 22"),
    "half an address": v1("TCP4 192.0.2 127.0.0.1 4711 22"),
    "an address with a zone": v1("TCP6 fe80::1%eth0 ::1 4711 22"),
    "IPv6 in the name of IPv4": v1("TCP4 2001:db8::7 ::1 4711 22"),
    "IPv4 in the name of IPv6": v1("TCP6 192.0.2.7 127.0.0.1 4711 22"),
    "a line that does not end": b"PROXY TCP4 192.0.2.7" + b" " * MAX_V1,
    "a line that ends too late": v1("TCP4 192.0.2.7 127.0.0.1 4711 22" + " " * MAX_V1),
    "version 3": v2(ends("192.0.2.7"), version=3),
    "version 1 in the form of 2": v2(ends("192.0.2.7"), version=1),
    "no such command": v2(ends("192.0.2.7"), command=2),
    "datagrams": v2(ends("192.0.2.7"), family=0x12),
    "a Unix socket": v2(b"/run/x".ljust(216, b"\0"), family=0x31),
    "no family": v2(ends("192.0.2.7"), family=0),
    "a body too short for its family": v2(ends("192.0.2.7")[:-1]),
    "an IPv4 body in the name of IPv6": v2(ends("192.0.2.7"), family=0x21),
    "no body": v2(b""),
    "a body that is too long": v2(b"\0" * 16, length=MAX_V2 - 15),
    "the longest body": v2(b"\0" * 16, length=65535),
    "a signature that is not quite one": V2_SIGNATURE[:-1] + b"\r" + v2(ends("192.0.2.7"))[12:],
}

ITSELF = {
    "version 1": v1("UNKNOWN"),
    "version 1, with more": v1("UNKNOWN ffff:: ::1 1 2"),
    "version 2": v2(b"", command=0),
}


@pytest.mark.parametrize(("data", "address"), GOOD.values(), ids=list(GOOD))
def test_a_header_names_the_client(data: bytes, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert parse_header(data + b"SSH-2.0-x\r\n") == Header(len(data), (address, 4711))


@pytest.mark.parametrize("data", BAD.values(), ids=list(BAD))
def test_anything_else_is_no_header(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_header(data)


@pytest.mark.parametrize("data", ITSELF.values(), ids=list(ITSELF))
def test_a_balancer_may_speak_for_itself(data: bytes) -> None:
    assert parse_header(data) == Header(len(data), None)


@pytest.mark.parametrize("data", [data for data, _ in GOOD.values()] + list(ITSELF.values()))
def test_half_a_header_waits_for_the_other_half(data: bytes) -> None:
    assert all(parse_header(data[:at]) is None for at in range(len(data)))


@given(st.binary(max_size=700) | st.builds(lambda b: V2_SIGNATURE + b, st.binary(max_size=700))
       | st.builds(lambda b: b"PROXY " + b, st.binary(max_size=200)))  # fmt: skip
def test_whatever_comes_is_a_header_or_none_or_waited_for(data: bytes) -> None:
    """And what is waited for is never more than the longest header."""
    try:
        header = parse_header(data)
    except ValueError:
        return
    if header is None:
        assert len(data) < MAX_V2
    else:
        assert header.length <= min(len(data), MAX_V2)


# Over the wire --------------------------------------------------------------------------------------------------------


@pytest.fixture
def behind(bastion: World) -> World:
    """A bastion that has a balancer in front."""
    bastion.gateway._balancers = (ipaddress.ip_network(f"{BALANCER}/32"),)
    return bastion


async def log_in(bastion: World, wire: Wire, username: str = DIRECT) -> Client:
    """As Ada, with a certificate for 127.0.0.1, whatever the socket's own address is."""
    await bastion.grant(ADA)
    client = Client()
    await wire.log_in(username, await certificate_of(bastion, ADA, client, WEB_STAGING), client)
    return client


async def answer(wire: Wire) -> bytes:
    """Everything the gateway says before it closes."""
    said = b""
    async with asyncio.timeout(30):
        while data := await wire.pipe.read():
            said += data
    return said


HEADERS = {
    "version 1": v1("TCP4 127.0.0.1 127.0.0.1 4711 22"),
    "version 2": v2(ends("127.0.0.1")),
    "version 1, IPv4-mapped": v1("TCP6 ::ffff:127.0.0.1 ::1 4711 22"),
    "version 2, IPv4-mapped": v2(ends("::ffff:127.0.0.1", "::1"), family=0x21),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=list(HEADERS))
async def test_a_balancers_header_is_the_clients_address(behind: World, header: bytes) -> None:
    """For the certificate, the fence, the audit log, and what is inside a jump."""
    async with connected(behind.port, BALANCER) as wire:
        wire.pipe.write(header)
        client = await log_in(behind, wire, "ada")
        inner = await jump(wire, WEB_STAGING)
        await inner.log_in("deploy", await certificate_of(behind, ADA, client, WEB_STAGING), client)
        assert (await inner.execute("true")).status == 0
    session = await behind.only_session()
    assert (session.address, session.country) == ("127.0.0.1", "DE")


async def test_a_header_may_come_byte_by_byte_and_with_the_first_bytes_of_the_client(behind: World) -> None:
    header = HEADERS["version 2"]
    async with connected(behind.port, BALANCER) as wire:
        for byte in header[:-1]:
            wire.pipe.write(bytes([byte]))
            await asyncio.sleep(0)
        wire.pipe.write(header[-1:] + b"SSH-2.0-Attacker\r\n")
        assert (await wire.pipe.read()).startswith(b"SSH-2.0-Bastion\r\n")


async def test_a_client_outside_the_fence_is_outside_behind_a_balancer_too(behind: World) -> None:
    """The balancer itself is inside."""
    await behind.grant(ADA)
    client = Client()
    certificate = await certificate_of(behind, ADA, client, WEB_STAGING)
    async with connected(behind.port, BALANCER) as wire:
        wire.pipe.write(v1(f"TCP4 {OUTSIDE} 127.0.0.1 4711 22"))
        await wire.begin_auth()
        wire.prove(DIRECT, certificate, client)
        await wire.expect(USERAUTH_FAILURE)
        assert f"{OUTSIDE} is in BR" in wire.banners[0]


async def test_a_balancer_that_names_no_client_is_told_nothing(behind: World) -> None:
    for data in [*BAD.values(), *ITSELF.values()]:
        async with connected(behind.port, BALANCER) as wire:
            wire.pipe.write(data)
            assert await answer(wire) == b"", data
    assert not behind.gateway.connections


@pytest.mark.parametrize("header", HEADERS.values(), ids=list(HEADERS))
async def test_a_strangers_header_is_not_believed(behind: World, header: bytes) -> None:
    """Nor is it passed over: it is the wrong protocol."""
    async with connected(behind.port, OUTSIDE) as wire:
        wire.pipe.write(header)
        assert await answer(wire) == b"SSH-2.0-Bastion\r\n"


@pytest.mark.parametrize("second", HEADERS.values(), ids=list(HEADERS))
async def test_a_second_header_is_the_clients_own_and_not_believed(behind: World, second: bytes) -> None:
    """A client behind the balancer sends one itself."""
    async with connected(behind.port, BALANCER) as wire:
        wire.pipe.write(v1(f"TCP4 {OUTSIDE} 127.0.0.1 4711 22") + second)
        assert await answer(wire) == b"SSH-2.0-Bastion\r\n"


async def test_a_balancer_that_says_nothing_is_not_waited_for(behind: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEADER_TIMEOUT", 0.2)
    async with connected(behind.port, BALANCER) as wire:
        wire.pipe.write(HEADERS["version 2"][:-1])
        assert await answer(wire) == b""


async def test_a_client_that_came_by_a_balancer_may_take_longer_than_its_header(
    behind: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HEADER_TIMEOUT", 0.2)
    async with connected(behind.port, BALANCER) as wire:
        wire.pipe.write(HEADERS["version 1"])
        await until(lambda: behind.gateway.connections == 1)
        await asyncio.sleep(0.3)  # past the time that headers have
        await log_in(behind, wire)


async def test_without_balancers_nobodys_header_is_believed(bastion: World) -> None:
    async with connected(bastion.port, BALANCER) as wire:
        wire.pipe.write(HEADERS["version 1"])
        assert await answer(wire) == b"SSH-2.0-Bastion\r\n"
