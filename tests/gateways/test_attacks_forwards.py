"""Forwards to where none may lead, and at a time when none may open: over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from asyncssh.packet import Byte, String, UInt32

from bastion.core.audit import Kind
from bastion.core.grant import Request
from bastion.core.identity import Identity
from bastion.core.opening import Opening
from bastion.core.policy import SSH_ACTIONS, Action, Demands
from bastion.core.target import Target
from tests.gateways.forgery import Client, certificate_of
from tests.gateways.trap import trap
from tests.gateways.wire import CHANNEL_CLOSE, CHANNEL_DATA, CHANNEL_EXTENDED, Wire, connected, forward
from tests.world import WEB_PRODUCTION, WEB_STAGING, World, person

shared = pytest.mark.asyncio(loop_scope="module")

NAMES = (f"attacker-{number}" for number in range(1000))
DIRECT = f"deploy@{WEB_STAGING}"
EVERYWHERE = ("0.0.0.0/0:1-65535", "[::/0]:1-65535", "db.internal:1-65535")
EVERYTHING = frozenset(Action)


@pytest.fixture
def ada() -> Identity:
    """Somebody new, whose events are of one test."""
    return person(next(NAMES))


@pytest.fixture
def careless(door: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """An operator who put everywhere on the target's list."""
    openings = tuple(map(Opening.parse, EVERYWHERE))
    monkeypatch.setitem(targets(door), WEB_STAGING, replace(targets(door)[WEB_STAGING], forward=openings))
    return door


def targets(bastion: World) -> dict[str, Target]:
    """The catalogue's own, to be changed."""
    found: Any = bastion.catalogue.targets
    return found  # type: ignore[no-any-return]


@asynccontextmanager
async def logged_in(
    bastion: World, ada: Identity, username: str = DIRECT, actions: frozenset[Action] = EVERYTHING
) -> AsyncIterator[Wire]:
    await bastion.grant(ada, actions=actions)
    client = Client()
    certificate = await certificate_of(bastion, ada, client, WEB_STAGING)
    async with connected(bastion.port) as wire:
        await wire.log_in(username, certificate, client)
        yield wire


ELSEWHERE = [
    "0.0.0.0", "0", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1.", "[::1]", "::", "", "*",
    "::127.0.0.1",
    "64:ff9b::127.0.0.1", "2002:7f00:1::", "127.0.0.1%lo", "127.0.0.1\0.example.com", "x@127.0.0.1", "169.254.169.254",
    "::ffff:169.254.169.254", "fd00:ec2::254", "fe80::1", "100.100.100.200", "2852039166", "metadata.google.internal",
    "bastion.example.com", "224.0.0.1", "255.255.255.255", "\N{FULLWIDTH DIGIT ONE}27.0.0.1", "localhost.example.com",
    "\x1b]0;owned\x07", "a" * 5000,
]  # fmt: skip


@shared
@pytest.mark.parametrize("host", ELSEWHERE, ids=[ascii(host)[:40] for host in ELSEWHERE])
async def test_no_list_and_no_spelling_leads_to_what_is_off_limits(careless: World, ada: Identity, host: str) -> None:
    async with trap() as caught, logged_in(careless, ada) as wire:
        for port in (80, caught.port):
            wire.open(b"direct-tcpip", forward(host, port))
            assert (await wire.refused()).isprintable()
        assert caught.visits == 0
    denied = [e for e in await careless.events(Kind.ACCESS_DENIED) if e.identity == ada.id]
    assert [e.details["action"] for e in denied] == [Action.SSH_FORWARD] * 2
    assert not [s for s in await careless.store.sessions() if s.identity == ada.id]


@shared
async def test_the_bastions_own_ports_are_not_reached_beside_a_target(careless: World, ada: Identity) -> None:
    async with logged_in(careless, ada) as wire:
        for host in ("127.0.0.1", "localhost", "::1", "::ffff:127.0.0.1", "127.8.8.8"):
            wire.open(b"direct-tcpip", forward(host, careless.port))
            assert "is the bastion's, or another scope's" in await wire.refused()


@shared
async def test_another_scopes_target_is_not_reached_by_name_address_or_port(careless: World, ada: Identity) -> None:
    async with logged_in(careless, ada) as wire:
        for host in (WEB_PRODUCTION, WEB_PRODUCTION.upper(), "127.0.0.1", "localhost"):
            wire.open(b"direct-tcpip", forward(host, careless.production.port))
            reason = await wire.refused()
            assert "is for staging/eu" in reason or "another scope's" in reason, reason


@shared
async def test_another_scopes_host_is_not_reached_under_its_own_name(
    careless: World, ada: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    production = replace(targets(careless)[WEB_PRODUCTION], host="web-1.prod.internal")
    monkeypatch.setitem(targets(careless), WEB_PRODUCTION, production)
    monkeypatch.setitem(careless.names, "web-1.prod.internal", ["10.7.7.7"])
    monkeypatch.setitem(careless.names, "alias.example.com", ["10.7.7.7"])
    async with logged_in(careless, ada) as wire:
        for host in ("web-1.prod.internal", "WEB-1.PROD.internal.", "10.7.7.7", "::ffff:10.7.7.7", "alias.example.com"):
            wire.open(b"direct-tcpip", forward(host, 443))
            reason = await wire.refused()
            assert "another scope's" in reason, reason


@shared
async def test_a_name_that_means_something_else_the_second_time_is_sent_as_what_was_judged(
    careless: World, ada: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is asked for once, and the target never hears it."""
    monkeypatch.setitem(careless.names, "db.internal", ["198.51.100.1", "127.0.0.1"])
    seen: list[tuple[object, ...]] = []

    async def connect(self: object, factory: object, host: str, port: int, *origin: object, **_: object) -> None:
        import asyncssh

        seen.append((host, port))
        raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "not in this test")

    monkeypatch.setattr("asyncssh.SSHClientConnection.create_connection", connect)
    async with trap() as caught, logged_in(careless, ada) as wire:
        wire.open(b"direct-tcpip", forward("db.internal", caught.port))
        assert "not in this test" in await wire.refused()
        assert seen == [("198.51.100.1", caught.port)]
        wire.open(b"direct-tcpip", forward("db.internal", caught.port))
        assert "off limits" in await wire.refused()
        assert (len(seen), caught.visits) == (1, 0)


@shared
async def test_who_may_not_go_there_learns_nothing_of_where_it_would_lead(
    careless: World, ada: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Place, grant and policy come first: the name is not even looked up, nor the list read out."""
    monkeypatch.setitem(careless.names, "db.internal", ["169.254.1.1", "198.51.100.1"])
    async with logged_in(careless, ada, actions=SSH_ACTIONS) as wire:
        for host in ("db.internal", "169.254.1.1", "198.51.100.1"):
            wire.open(b"direct-tcpip", forward(host, 443))
            assert "No live grant lets" in await wire.refused()
    assert len(careless.names["db.internal"]) == 2


@shared
@pytest.mark.parametrize(
    "answers", ["127.0.0.1", "198.51.100.1 127.0.0.1", "::1", "::ffff:7f00:1", "169.254.169.254", ""]
)
async def test_a_name_with_a_forbidden_answer_leads_nowhere(
    careless: World, ada: Identity, answers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(careless.names, "db.internal", [answers])
    async with trap() as caught, logged_in(careless, ada) as wire:
        wire.open(b"direct-tcpip", forward("db.internal", caught.port))
        assert "off limits" in (reason := await wire.refused()) or "cannot find out" in reason
        assert caught.visits == 0


@shared
@pytest.mark.parametrize("kind", ["a host", "a socket"])
async def test_a_forward_does_not_wait_for_an_approval_and_does_not_open_before_it(
    door: World, ada: Identity, kind: str
) -> None:
    """A shell of the same connection waits meanwhile."""
    await door.grant(ada, actions=frozenset({Action.SSH_SFTP_READ}))
    await waiting_request(door, ada)
    client = Client()
    certificate = await certificate_of(door, ada, client, WEB_STAGING)
    async with trap() as caught, connected(door.port) as wire:
        await wire.log_in(DIRECT, certificate, client)
        wire.open()
        shell = await wire.opened()
        wire.request(shell, b"shell")
        assert await wire.answered()
        assert b"waiting for approval" in await wire.expect(CHANNEL_EXTENDED)
        rest = forward("127.0.0.1", caught.port) if kind == "a host" else String("/run/x") + String("") + UInt32(0)
        wire.open(b"direct-tcpip" if kind == "a host" else b"direct-streamlocal@openssh.com", rest, channel=1)
        assert "does not include" in await wire.refused()
        assert caught.visits == 0


async def waiting_request(bastion: World, ada: Identity) -> None:
    now = bastion.clock.now()
    async with bastion.store.transaction() as transaction:
        await transaction.add_request(
            Request(
                id=f"q-{ada.id.subject.replace('-', '')}",
                asker=ada.id,
                beneficiary=ada.id,
                scope=bastion.catalogue.targets[WEB_STAGING].scope,
                targets=frozenset({WEB_STAGING}),
                logins=frozenset({"deploy"}),
                actions=EVERYTHING,
                duration=timedelta(hours=1),
                reason="a test",
                asked_at=now,
                demands=Demands(),
            )  # fmt: skip
        )


@shared
async def test_policy_forbids_forwards_on_every_path(door: World, ada: Identity) -> None:
    """By the user name, inside a jump, and as a SOCKS client asks: the same answer."""
    async with trap() as caught, logged_in(door, ada, actions=frozenset({Action.SSH_EXEC})) as wire:
        wire.open(b"direct-tcpip", forward("127.0.0.1", caught.port))
        assert "does not include ssh:forward_loopback" in await wire.refused()
        wire.open(b"direct-streamlocal@openssh.com", String("/run/docker.sock") + String("") + UInt32(0))
        assert "does not include ssh:forward_socket" in await wire.refused()
        assert caught.visits == 0
        assert (await wire.execute("echo fine")).out == b"fine\n"


@shared
async def test_no_login_of_a_target_opens_forwards_by_its_own(door: World, ada: Identity) -> None:
    """A name without a target is for jumping on, and nothing else."""
    async with trap() as caught, logged_in(door, ada, username="deploy") as wire:
        wire.open(b"direct-tcpip", forward("127.0.0.1", caught.port))
        assert "There is no target" in await wire.refused()
        wire.open(b"direct-streamlocal@openssh.com", String("/run/x") + String("") + UInt32(0))
        assert "Forwards need a target" in await wire.refused()
        assert caught.visits == 0


@shared
async def test_a_hundred_streams_through_one_connection_and_none_is_anothers(door: World, ada: Identity) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"<" + await reader.readexactly(4) + b">")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with logged_in(door, ada) as wire:
        for number in range(100):
            wire.open(b"direct-tcpip", forward("127.0.0.1", port), channel=7)
            channel = await wire.opened()
            wire.send(Byte(CHANNEL_DATA) + UInt32(channel) + String(f"{number:04}"))
            assert f"<{number:04}>".encode() in await wire.expect(CHANNEL_DATA)
            wire.send(Byte(CHANNEL_CLOSE) + UInt32(channel))
            await wire.ran()
    server.close()
    sessions = [s for s in await door.store.sessions(limit=1000) if s.identity == ada.id]
    assert len(sessions) == 100
    assert len({session.id for session in sessions}) == 100


def test_what_a_grant_has_by_itself_is_what_a_shell_gives() -> None:
    assert {Action.SSH_SHELL, Action.SSH_FORWARD_LOOPBACK} <= SSH_ACTIONS
    assert not SSH_ACTIONS & {
        Action.SSH_FORWARD, Action.SSH_FORWARD_REMOTE, Action.SSH_FORWARD_SOCKET, Action.SSH_FORWARD_REMOTE_SOCKET,
        Action.SSH_AGENT,
    }  # fmt: skip
