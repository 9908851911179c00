"""What a client that is logged in must not get: over a real socket, one request at a time and out of order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from asyncssh.packet import Boolean, Byte, String, UInt32

from bastion.cli.player import Player
from bastion.cli.printed import event_line, title
from bastion.console.records import _event
from bastion.core.audit import Kind
from bastion.core.recording import Header, Lines
from bastion.core.session import CHANNELS
from bastion.gateways.ssh.limits import MAX_ASKED, MAX_VARIABLES, MIN_PACKET
from tests.gateways.forgery import Client, certificate_of
from tests.gateways.trap import trap
from tests.gateways.wire import (
    CHANNEL_DATA,
    CHANNEL_EXTENDED,
    CHANNEL_FAILURE,
    CHANNEL_REQUEST,
    CHANNEL_SUCCESS,
    GLOBAL_REQUEST,
    REQUEST_FAILURE,
    USERAUTH_FAILURE,
    USERAUTH_SUCCESS,
    Gone,
    Wire,
    connected,
    forward,
    jump,
)
from tests.world import WEB_PRODUCTION, WEB_STAGING, World, person, until

shared = pytest.mark.asyncio(loop_scope="module")

ADA = person("ada")
DIRECT = f"deploy@{WEB_STAGING}"
ESCAPE = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202e"


@asynccontextmanager
async def ada(bastion: World, username: str = DIRECT) -> AsyncIterator[Wire]:
    """Ada, logged in as ``username``."""
    await bastion.grant(ADA)
    client = Client()
    certificate = await certificate_of(bastion, ADA, client, WEB_STAGING)
    async with connected(bastion.port) as wire:
        await wire.log_in(username, certificate, client)
        yield wire


def was_reached(bastion: World) -> bool:
    """Whether anything came to a target."""
    return any("Connection from" in line or "Accepted" in line for line in bastion.staging.log())


# One channel, one program ---------------------------------------------------------------------------------------------

STARTS = {
    "exec": (b"exec", String("echo second")),
    "shell": (b"shell", b""),
    "sftp": (b"subsystem", String(b"sftp")),
}


@pytest.mark.parametrize("second", STARTS.values(), ids=list(STARTS))
async def test_a_channel_runs_one_program(bastion: World, second: tuple[bytes, bytes]) -> None:
    async with ada(bastion) as wire:
        wire.open()
        channel = await wire.opened()
        wire.request(channel, b"exec", String("echo first"))
        wire.request(channel, *second)
        assert await wire.answered()
        assert not await wire.answered()
        assert (await wire.ran()).out == b"first\n"
    assert (await bastion.only_session()).command == "echo first"


async def test_a_refused_subsystem_is_not_followed_by_another_program(bastion: World) -> None:
    async with ada(bastion) as wire:
        wire.open()
        channel = await wire.opened()
        wire.request(channel, b"subsystem", String(b"netconf"))
        wire.request(channel, b"exec", String("id"))
        answers = [p for p in [await wire.receive() for _ in range(3)] if p[0] in (CHANNEL_SUCCESS, CHANNEL_FAILURE)]
        assert [p[0] for p in answers] == [CHANNEL_FAILURE, CHANNEL_FAILURE]
    assert not await bastion.store.sessions()


@pytest.mark.parametrize(
    "name", ["netconf", "SFTP", "sftp ", "sftp\0", "", "/usr/lib/openssh/sftp-server", "sftp;id", "internal-sftp"]
)
@shared
async def test_no_subsystem_but_sftp(door: World, name: str) -> None:
    async with ada(door) as wire:
        wire.open()
        channel = await wire.opened()
        wire.request(channel, b"subsystem", String(name))
        said = await wire.expect(CHANNEL_EXTENDED)
        assert b"there is no subsystem" in said
        assert not await wire.answered()
    assert not was_reached(door)


async def test_a_terminal_cannot_be_asked_for_after_the_program_began(bastion: World) -> None:
    """Whether there is one decides what is recorded of what is typed; the recording has begun without."""
    async with ada(bastion) as wire:
        wire.open()
        channel = await wire.opened()
        wire.request(channel, b"exec", String("test -t 0 && echo terminal || echo none"))
        wire.request(channel, b"pty-req", pty())
        assert await wire.answered()
        assert not await wire.answered()
        assert (await wire.ran()).out == b"none\n"


def pty(term: str = "xterm", columns: int = 80, rows: int = 24, modes: bytes = b"\0") -> bytes:
    return String(term) + UInt32(columns) + UInt32(rows) + UInt32(0) + UInt32(0) + String(modes)


# Environment ----------------------------------------------------------------------------------------------------------

VARIABLES = [
    "LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "BASH_ENV", "ENV", "IFS", "PYTHONPATH", "SHELLOPTS", "PS4", "HOME",
    "SSH_AUTH_SOCK", "SSH_CONNECTION", "KRB5CCNAME", "BASH_FUNC_ls%%", "lang", "", "=", "LC_X\0LD_PRELOAD",
]  # fmt: skip


@pytest.mark.parametrize("name", VARIABLES)
@shared
async def test_no_variable_that_a_loader_or_shell_obeys_is_taken(door: World, name: str) -> None:
    async with ada(door) as wire:
        wire.open()
        channel = await wire.opened()
        wire.request(channel, b"env", String(name) + String("/tmp/evil.so"))
        assert not await wire.answered()


async def test_ten_thousand_variables_are_a_few(bastion: World) -> None:
    async with ada(bastion) as wire:
        wire.open()
        channel = await wire.opened()
        for number in range(10_000):
            wire.request(channel, b"env", String(f"LC_{number}") + String("x"))
        assert sum([await wire.answered() for _ in range(10_000)]) == MAX_VARIABLES
        wire.request(channel, b"exec", String("echo fine"))
        assert await wire.answered()
        assert (await wire.ran()).out == b"fine\n"


async def test_a_variable_that_is_longer_than_any_is_not_taken(bastion: World) -> None:
    async with ada(bastion) as wire:
        wire.open()
        channel = await wire.opened()
        wire.request(channel, b"env", String("LC_ALL") + String("C.UTF-8"))
        assert await wire.answered()
        wire.request(channel, b"env", String("LC_ALL") + String("x" * 30_000))
        assert not await wire.answered()


# Forwards -------------------------------------------------------------------------------------------------------------


HOSTS = ["127.0.0.1", "localhost", "::1", "0.0.0.0", "0", "127.1", "2130706433", "::ffff:127.0.0.1", "[::1]", "", "*",
         "169.254.169.254", "metadata.google.internal", "example.com", WEB_PRODUCTION, f"{WEB_PRODUCTION}.", "web-1",
         f"{WEB_STAGING}.", f"{WEB_STAGING}\0.example.com", f"x@{WEB_STAGING}", f"{WEB_STAGING}/../{WEB_PRODUCTION}",
         "web-1.staging", "*.staging.eu", f"{WEB_STAGING} ", f"{ESCAPE}{WEB_STAGING}", "a" * 5000]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS, ids=[ascii(host)[:40] for host in HOSTS])
@shared
async def test_no_forward_goes_anywhere_but_to_a_target_of_the_certificates_scope(door: World, host: str) -> None:
    async with trap() as caught, ada(door, "ada") as wire:
        for port in (22, 80, caught.port, door.port, door.staging.port, 0, 2**32 - 1):
            wire.open(b"direct-tcpip", forward(host, port))
            reason = await wire.refused()
            assert "is for staging/eu" in reason or "There is no target" in reason or "could be" in reason
            assert reason.isprintable()
        assert caught.visits == 0
    assert not was_reached(door)


async def test_the_port_that_is_named_for_a_target_is_not_dialled(bastion: World) -> None:
    """The connection ends at the bastion, which knows the target's address itself."""
    async with trap() as caught, ada(bastion, "ada") as outer:
        inner = await jump(outer, WEB_STAGING, caught.port)
        await inner.hello()
        assert inner.server_kexinit
        assert caught.visits == 0
    assert not was_reached(bastion)


async def test_bytes_that_are_not_ssh_end_a_forward_and_nothing_else(bastion: World) -> None:
    async with ada(bastion) as wire:
        wire.open(b"direct-tcpip", forward(WEB_STAGING, 22), channel=7)
        inside = await wire.opened()
        wire.send(Byte(CHANNEL_DATA) + UInt32(inside) + String(b"GET / HTTP/1.1\r\nHost: target\r\n\r\n"))
        ran = await wire.ran()
        assert ran.out == b"SSH-2.0-Bastion\r\n"
        assert (await wire.execute("echo still here")).out == b"still here\n"


OTHER_CHANNELS = {
    "a socket at the target": (b"direct-streamlocal@openssh.com", String("/run/docker.sock") + String("") + UInt32(0)),
    "a network of its own": (b"tun@openssh.com", UInt32(1) + UInt32(0x7FFFFFFF)),
    "the other way round": (b"forwarded-tcpip", forward("127.0.0.1", 22)),
    "another way round": (b"forwarded-streamlocal@openssh.com", String("/tmp/x") + String("")),
    "a screen": (b"x11", String("127.0.0.1") + UInt32(6000)),
    "an agent": (b"auth-agent@openssh.com", b""),
    "an agent by its new name": (b"agent-connect", b""),
    "what there is none of": (b"mux@example.com", b""),
    "a name of a method": (b"process_packet", b""),
    "no kind": (b"", b""),
}


@pytest.mark.parametrize(("kind", "rest"), OTHER_CHANNELS.values(), ids=list(OTHER_CHANNELS))
@shared
async def test_no_other_channel_is_opened(door: World, kind: bytes, rest: bytes) -> None:
    async with ada(door) as wire:
        wire.open(kind, rest)
        assert await wire.refused()
        wire.open()
        await wire.opened()


GLOBAL = {
    "a listener": (b"tcpip-forward", String("0.0.0.0") + UInt32(0)),
    "a listener on the loopback": (b"tcpip-forward", String("localhost") + UInt32(8080)),
    "a listening socket": (b"streamlocal-forward@openssh.com", String("/tmp/attack.sock")),
    "no more sessions": (b"no-more-sessions@openssh.com", b""),
    "what there is none of": (b"shutdown@example.com", b""),
}


@pytest.mark.parametrize(("name", "rest"), GLOBAL.values(), ids=list(GLOBAL))
@shared
async def test_nothing_listens_for_a_client(door: World, name: bytes, rest: bytes) -> None:
    async with ada(door) as wire:
        wire.send(Byte(GLOBAL_REQUEST) + String(name) + Boolean(True) + rest)
        await wire.expect(REQUEST_FAILURE)


CHANNEL_REQUESTS = {
    "an agent": (b"auth-agent-req@openssh.com", b""),
    "a screen": (b"x11-req", Boolean(False) + String("MIT-MAGIC-COOKIE-1") + String("00" * 16) + UInt32(0)),
    "what only servers say": (b"exit-status", UInt32(0)),
    "what there is none of": (b"simple@putty.projects.tartarus.org", b""),
}


@pytest.mark.parametrize(("name", "rest"), CHANNEL_REQUESTS.values(), ids=list(CHANNEL_REQUESTS))
@shared
async def test_no_session_carries_anything_else(door: World, name: bytes, rest: bytes) -> None:
    async with ada(door) as wire:
        wire.open()
        channel = await wire.opened()
        wire.request(channel, name, rest)
        if name in (b"auth-agent-req@openssh.com", b"x11-req"):
            assert b"is not forwarded here" in await wire.expect(CHANNEL_EXTENDED)
        assert not await wire.answered()


# Out of order ---------------------------------------------------------------------------------------------------------

WRONG_NUMBERS = {
    "data": Byte(CHANNEL_DATA) + UInt32(99) + String("x"),
    "a request": Byte(CHANNEL_REQUEST) + UInt32(99) + String("exec") + Boolean(True) + String("id"),
    "a request of half a number": Byte(CHANNEL_REQUEST) + b"\0\0",
    "a close": Byte(97) + UInt32(2**32 - 1),
    "the confirmation of nothing": Byte(91) + UInt32(0) * 4,
    "the answer to nothing": Byte(81),
    "the end of a listener that never was": Byte(GLOBAL_REQUEST)
    + String("cancel-tcpip-forward")
    + Boolean(True)
    + String("0.0.0.0")
    + UInt32(22),
}


@pytest.mark.parametrize("payload", WRONG_NUMBERS.values(), ids=list(WRONG_NUMBERS))
async def test_what_belongs_to_no_channel_ends_the_connection_alone(bastion: World, payload: bytes) -> None:
    async with ada(bastion) as other, connected(bastion.port) as wire:
        client = Client()
        await wire.log_in(DIRECT, await certificate_of(bastion, ADA, client, WEB_STAGING), client)
        wire.send(payload)
        await wire.gone()
        assert (await other.execute("echo fine")).out == b"fine\n"


# What a client may cost -----------------------------------------------------------------------------------------------


async def test_a_thousand_channels_are_a_few(bastion: World) -> None:
    async with ada(bastion) as wire:
        for number in range(1000):
            wire.open(channel=number)
        opened = [await wire.receive() for _ in range(1000)]
        assert sum(payload[0] == 91 for payload in opened) == CHANNELS
    assert not await bastion.store.sessions()


async def test_forwards_and_sessions_count_together_and_closed_ones_do_not(bastion: World) -> None:
    async with ada(bastion) as wire:
        for number in range(CHANNELS):
            wire.open(b"direct-tcpip", forward(WEB_STAGING, 22), channel=number)
        numbers: list[int] = []
        while len(numbers) < CHANNELS:
            payload = await wire.receive()
            if payload[0] == 91:
                numbers.append(int.from_bytes(payload[5:9], "big"))
        wire.open()
        while (payload := await wire.receive())[0] == CHANNEL_DATA:
            pass
        assert payload[0] == 92
        wire.send(Byte(97) + UInt32(numbers[0]))
        while (await wire.receive())[0] != 97:
            pass
        wire.open()
        await wire.opened()


async def test_who_asks_for_listeners_and_does_not_wait_is_cut_off(bastion: World) -> None:
    """Each is decided and written, one after the other; what waits for its turn would fill the memory."""
    async with ada(bastion) as wire:
        for _ in range(10 * MAX_ASKED):
            wire.send(Byte(GLOBAL_REQUEST) + String(b"tcpip-forward") + Boolean(True) + String(b"") + UInt32(0))
        assert f"More than {MAX_ASKED} requests" in await wire.gone()


async def test_ten_thousand_refused_forwards_are_a_few_events(bastion: World) -> None:
    """Each refusal is written, so only so many are asked at a time; the rest are refused unasked."""
    async with ada(bastion) as wire:
        for number in range(10_000):
            wire.open(b"direct-tcpip", forward("db", 22), channel=number)
        for _ in range(10_000):
            await wire.refused()
        assert (await wire.execute("echo fine")).out == b"fine\n"
    assert len(await bastion.events(Kind.ACCESS_DENIED)) <= 3 * CHANNELS


@pytest.mark.parametrize("kind", ["session", "direct-tcpip"])
@pytest.mark.parametrize("size", [0, 1, MIN_PACKET - 1])
@shared
async def test_output_in_the_smallest_pieces_is_not_available(door: World, kind: str, size: int) -> None:
    """Each byte would cost a packet, its encryption and its padding."""
    async with ada(door) as wire:
        wire.open(kind.encode(), forward(WEB_STAGING, 22) if kind != "session" else b"", packet=size)
        assert "Packets under" in await wire.refused()


# Escape sequences -----------------------------------------------------------------------------------------------------


def harmless(text: str) -> bool:
    return all(character.isprintable() or character in "\r\n" for character in text)


async def shown_by_audit(bastion: World) -> list[str]:
    return [event_line(json.loads(_event(event))) for event in await bastion.events()]


async def shown_by_replay(bastion: World) -> str:
    """What `bastion replay` writes to a terminal, and its title."""
    transcript = (await bastion.transcript(await bastion.only_session())).splitlines()
    reader, shown = Lines(), list[str]()
    entries = [entry for line in transcript[1:] if (entry := reader.read(line)) is not None]
    Player(shown.append, lambda _: None).play(entries)
    return title(Header.parse(transcript[0])) + "".join(shown)


USERNAMES = [
    f"deploy{ESCAPE}", f"deploy@web-1{ESCAPE}", f"{ESCAPE}@{WEB_STAGING}", f"deploy%{ESCAPE}", ESCAPE, "\u202e",
    "deploy\N{LINE SEPARATOR}x", "deploy\N{ZERO WIDTH SPACE}", "d\N{CYRILLIC SMALL LETTER IE}ploy",
]  # fmt: skip


@pytest.mark.parametrize("username", USERNAMES, ids=[ascii(name) for name in USERNAMES])
async def test_a_user_name_is_obeyed_by_nobodys_terminal(
    bastion: World, username: str, capfd: pytest.CaptureFixture[str]
) -> None:
    await bastion.grant(ADA)
    client = Client()
    certificate = await certificate_of(bastion, ADA, client, WEB_STAGING)
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.prove(username, certificate, client)
        try:
            said = ""
            if (await wire.expect(USERAUTH_SUCCESS, USERAUTH_FAILURE))[0] == USERAUTH_SUCCESS:
                ran = await wire.execute("true")
                said = ran.err.decode()
                assert ran.status != 0
        except Gone as gone:
            said = str(gone)
        assert harmless(said), said
        assert all(map(harmless, wire.banners))
    assert all(map(harmless, await shown_by_audit(bastion)))
    assert "\x1b" not in "".join(capfd.readouterr())
    assert not was_reached(bastion)


async def test_a_command_is_obeyed_by_nobodys_terminal(bastion: World, capfd: pytest.CaptureFixture[str]) -> None:
    async with ada(bastion) as wire:
        await wire.execute(f"echo '{ESCAPE}'; echo '{ESCAPE}' >&2; exit 4")
    await until(lambda: _over(bastion))
    assert (await bastion.only_session()).exit_status == 4
    assert all(map(harmless, await shown_by_audit(bastion)))
    shown = await shown_by_replay(bastion)
    for acting in ("\x1b]", "\x07", "\x9b", "\u202e"):
        assert acting not in shown
    assert "\x1b" not in "".join(capfd.readouterr())


async def _over(bastion: World) -> bool:
    return all(session.ended_at for session in await bastion.store.sessions())


@pytest.mark.parametrize("term", ["\x1b]0;owned\x07", "xterm\n", "", "../../etc/x", "a" * 5000, "xterm\0", "-x", "%s"])
async def test_a_terminals_name_that_is_none_gives_no_terminal(bastion: World, term: str) -> None:
    async with ada(bastion) as wire:
        wire.open()
        channel = await wire.opened()
        wire.request(channel, b"pty-req", pty(term))
        assert not await wire.answered()
        wire.request(channel, b"exec", String("test -t 0 && echo terminal || echo none"))
        assert await wire.answered()
        assert (await wire.ran()).out == b"none\n"


async def test_a_terminal_of_any_size_is_recorded_as_one_that_exists(bastion: World) -> None:
    async with ada(bastion) as wire:
        wire.open()
        channel = await wire.opened()
        wire.request(channel, b"pty-req", pty(columns=2**32 - 1, rows=2**32 - 1))
        assert await wire.answered()
        wire.request(channel, b"exec", String("true"))
        wire.request(channel, b"window-change", UInt32(2**32 - 1) * 4, reply=False)
        assert await wire.answered()
        await wire.ran()
    transcript = await bastion.transcript(await bastion.only_session())
    assert Header.parse(transcript.splitlines()[0]).columns <= 4096


async def test_what_a_target_says_before_the_login_is_obeyed_by_nobodys_terminal(bastion: World) -> None:
    """A target that was taken over speaks to whoever connects next."""

    async def hostile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-Evil\r\n")
        await reader.readline()
        payload = Byte(1) + UInt32(11) + String(ESCAPE) + String(b"")
        padding = 8 - (len(payload) + 5) % 8 + 8
        writer.write(UInt32(len(payload) + 1 + padding) + Byte(padding) + payload + b"\0" * padding)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(hostile, "127.0.0.1", 0)
    targets: Any = bastion.catalogue.targets
    targets[WEB_STAGING] = replace(targets[WEB_STAGING], port=server.sockets[0].getsockname()[1])
    async with ada(bastion) as wire:
        ran = await wire.execute("true")
    server.close()
    assert b"ended the connection before the login was done" in ran.err
    assert harmless(ran.err.decode())


async def test_a_subsystems_name_is_obeyed_by_nobodys_terminal(bastion: World) -> None:
    async with ada(bastion) as wire:
        wire.open()
        channel = await wire.opened()
        wire.request(channel, b"subsystem", String("\x1b]0;owned\x07"))
        said = await wire.expect(CHANNEL_EXTENDED)
        assert b"\x1b" not in said
        assert b"\x07" not in said[16:]


async def test_a_signals_name_is_obeyed_by_nobodys_terminal(bastion: World) -> None:
    async with ada(bastion) as wire:
        wire.open()
        channel = await wire.opened()
        wire.request(channel, b"exec", String("echo begun; read line"))
        assert await wire.answered()
        await wire.expect(CHANNEL_DATA)
        wire.request(channel, b"signal", String("\x1b]0;owned\x07"), reply=False)
        wire.send(Byte(CHANNEL_DATA) + UInt32(channel) + String("\n"))
        await wire.ran()
    assert b"\\u001b]" not in await bastion.transcript(await bastion.only_session())
