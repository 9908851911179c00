"""What is overridden in asyncssh still exists there, means what it meant, and is still what asyncssh asks.

`internals`, `limits`, `lean` and `quiet` override names that asyncssh does not promise. When one of these fails after
an upgrade, read the override's reason first: what it holds shut may stand open.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, cast

import asyncssh
import pytest
from asyncssh.auth import _ClientPublicKeyAuth
from asyncssh.channel import SSHChannel
from asyncssh.connection import SSHConnection, _connect
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_CHANNEL_OPEN
from asyncssh.encryption import Encryption, get_encryption
from asyncssh.packet import SSHPacketLogger

from bastion.core.errors import ConfigError
from bastion.gateways.ssh import internals, lean
from bastion.gateways.ssh.chacha import LeanChaCha
from bastion.gateways.ssh.hostproof import ProvenConnection
from bastion.gateways.ssh.internals import DoorConnection, check_version
from bastion.gateways.ssh.lean import LeanConnection, LeanGCM, LeanServerConnection, TargetConnection
from bastion.gateways.ssh.limits import RestrainedConnection, SessionChannel, TunnelChannel
from bastion.gateways.ssh.quiet import QuietConnection, _SignedAtOnce
from tests.gateways.forgery import Client, certificate_of
from tests.gateways.wire import (
    IGNORE,
    USERAUTH_FAILURE,
    USERAUTH_PK_OK,
    USERAUTH_SUCCESS,
    Wire,
    connected,
    forward,
    userauth,
)
from tests.world import WEB_STAGING, World, person, until

ADA = person("ada")
DIRECT = f"deploy@{WEB_STAGING}"

OVERRIDDEN: list[tuple[type, type, str, list[str]]] = [
    (DoorConnection, asyncssh.SSHServerConnection, "_validate_client_certificate", ["username", "key_data"]),
    (DoorConnection, asyncssh.SSHServerConnection, "_validate_client_public_key", ["username", "key_data"]),
    (DoorConnection, asyncssh.SSHServerConnection, "_validate_openssh_certificate", ["username", "cert"]),
    (DoorConnection, asyncssh.SSHServerConnection, "validate_public_key", ["username", "key_data", "msg", "signature"]),
    (RestrainedConnection, SSHConnection, "send_userauth_failure", ["partial_success"]),
    (RestrainedConnection, asyncssh.SSHServerConnection, "reload_config", []),
    (RestrainedConnection, SSHConnection, "_process_channel_open", ["_pkttype", "_pktid", "packet"]),
    (RestrainedConnection, SSHConnection, "_send_deferred_packets", []),
    (RestrainedConnection, SSHConnection, "send_packet", ["pkttype", "args", "handler"]),
    (QuietConnection, SSHConnection, "send_packet", ["pkttype", "args", "handler"]),
    (QuietConnection, SSHPacketLogger, "log_sent_packet", ["pkttype", "pktid", "packet", "note"]),
    (QuietConnection, SSHPacketLogger, "log_received_packet", ["pkttype", "pktid", "packet", "note"]),
    (RestrainedConnection, SSHConnection, "pause_writing", []),
    (RestrainedConnection, SSHConnection, "resume_writing", []),
    (
        RestrainedConnection,
        asyncssh.SSHServerConnection,
        "create_server_channel",
        ["encoding", "errors", "window", "max_pktsize"],
    ),
    (SessionChannel, asyncssh.SSHServerChannel, "_process_env_request", ["packet"]),
    (SessionChannel, asyncssh.SSHServerChannel, "_finish_agent_req_request", []),
    (SessionChannel, asyncssh.SSHServerChannel, "_process_x11_req_request", ["packet"]),
    (
        ProvenConnection,
        asyncssh.SSHClientConnection,
        "_process_auth_agent_at_openssh_dot_com_open",
        ["packet"],
    ),
    (SessionChannel, SSHChannel, "_flush_send_buf", []),
    (SessionChannel, SSHChannel, "_accept_data", ["data", "datatype"]),
    (SessionChannel, SSHChannel, "write", ["data", "datatype"]),
    (SessionChannel, SSHChannel, "_deliver_data", ["data", "datatype"]),
    (SessionChannel, SSHChannel, "_process_data", ["_pkttype", "_pktid", "packet"]),
    (TunnelChannel, SSHChannel, "_flush_send_buf", []),
    (TunnelChannel, SSHChannel, "_accept_data", ["data", "datatype"]),
    (TargetConnection, SSHConnection, "add_channel", ["chan"]),
    (TargetConnection, SSHConnection, "send_newkeys", ["k", "h"]),
    (TargetConnection, SSHConnection, "pause_writing", []),
    (TargetConnection, SSHConnection, "resume_writing", []),
    (TargetConnection, SSHConnection, "_recv_pkthdr", []),
    (TargetConnection, SSHConnection, "_reset_keepalive_timer", []),
    (TargetConnection, asyncssh.SSHClientConnection, "try_next_auth", ["next_method"]),
    (LeanChaCha, Encryption, "encrypt_packet", ["seq", "header", "packet"]),
    (LeanChaCha, Encryption, "decrypt_header", ["seq", "first_block", "header_len"]),
    (LeanChaCha, Encryption, "decrypt_packet", ["seq", "first", "rest", "header_len", "mac"]),
    (_SignedAtOnce, _ClientPublicKeyAuth, "_start", []),
    (LeanGCM, Encryption, "encrypt_packet", ["seq", "header", "packet"]),
    (LeanGCM, Encryption, "decrypt_header", ["seq", "first_block", "header_len"]),
    (LeanGCM, Encryption, "decrypt_packet", ["seq", "first", "rest", "header_len", "mac"]),
]


@pytest.mark.parametrize(
    ("ours", "theirs", "name", "parameters"), OVERRIDDEN, ids=[f"{row[0].__name__}.{row[2]}" for row in OVERRIDDEN]
)
def test_what_is_overridden_exists_with_its_parameters(
    ours: type, theirs: type, name: str, parameters: list[str]
) -> None:
    original = inspect.getattr_static(theirs, name)
    assert getattr(ours, name) is not original
    assert list(inspect.signature(original).parameters)[1:] == parameters
    assert inspect.iscoroutinefunction(getattr(ours, name)) == inspect.iscoroutinefunction(original)


async def test_the_attributes_that_are_read_and_set_exist(bastion: World) -> None:
    async with logged_in(bastion) as wire:
        wire.open()
        await wire.opened()
        (connection,) = bastion.gateway._connections
        (channel,) = connection._channels.values()
    for name in ("_auth_complete", "_channels", "_deferred_packets", "_kex_complete", "_transport", "_window",
                 "_max_pktsize", "_protocol_factory", "_session_id", "_login_timer", "_send_encryption",
                 "_recv_encryption", "_next_recv_encryption", "_send_seq", "_recv_seq", "_inpbuf", "_max_recv_pktlen",
                 "_compressor", "_decompressor", "_rekey_bytes", "_rekey_bytes_sent", "_rekey_seconds", "_rekey_time",
                 "_enc_algs", "_kex", "_kexinit_sent", "_client_kexinit", "_client_version", "_logger"):  # fmt: skip
        assert name in vars(connection), name
    for name in ("_conn", "_recv_buf", "_env", "_send_buf", "_send_buf_len", "_send_window", "_send_pktsize",
                 "_send_chan", "_send_state", "_recv_state", "_recv_window", "_init_recv_window",
                 "_session"):  # fmt: skip
        assert name in vars(channel), name
    assert isinstance(channel, SessionChannel)


def test_the_lean_cipher_goes_on_where_asyncsshs_own_was() -> None:
    """The same keys, at any packet; and what each seals the other opens."""
    key, nonce, packets = bytes(range(16)), b"\x01\x02\x03\x04" + b"\xff" * 8, [b"a" * 32, b"b" * 48, b"c" * 16]
    theirs, ours = (get_encryption(b"aes128-gcm@openssh.com", key, nonce) for _ in range(2))
    headers = [len(packet).to_bytes(4, "big") for packet in packets]
    sealed = [b"".join(theirs.encrypt_packet(0, h, p)) for h, p in zip(headers, packets, strict=True)]
    assert b"".join(ours.encrypt_packet(0, headers[0], packets[0])) == sealed[0]
    lean_one = lean._lean(ours)
    assert isinstance(lean_one, LeanGCM)
    assert b"".join(lean_one.encrypt_packet(1, headers[1], packets[1])) == sealed[1]
    assert lean_one.open(memoryview(headers[2]), memoryview(sealed[2])[4:]) == packets[2]


def test_chacha_is_what_asyncsshs_own_is_at_any_packet_and_opens_nothing_that_was_changed() -> None:
    key, packet, length = bytes(range(64)), b"p" * 48, (48).to_bytes(4, "big")
    theirs = get_encryption(b"chacha20-poly1305@openssh.com", key, b"")
    ours = lean._lean(theirs)
    assert isinstance(ours, LeanChaCha)
    for seq in (0, 1, 2**31, 2**32 - 1, 5):
        sealed, tag = ours.encrypt_packet(seq, length, packet)
        assert (sealed, tag) == theirs.encrypt_packet(seq, length, packet)
        assert ours.decrypt_header(seq, sealed[:8], 4) == (sealed[:8], length)
        assert ours.decrypt_packet(seq, sealed[:8], sealed[8:], 4, tag) == packet
        assert ours.decrypt_packet(seq + 1, sealed[:8], sealed[8:], 4, tag) is None
        for changed in (0, 4, 51):
            forged = bytearray(sealed)
            forged[changed] ^= 1
            assert ours.decrypt_packet(seq, bytes(forged[:8]), bytes(forged[8:]), 4, tag) is None


def test_nothing_else_is_taken_for_a_lean_cipher() -> None:
    other = get_encryption(b"aes128-ctr", bytes(16), bytes(16), b"hmac-sha2-256", bytes(32))
    assert lean._lean(other) is other
    assert lean._lean(None) is None


def test_a_connection_to_a_target_is_made_by_the_call_that_asyncssh_makes_itself() -> None:
    assert list(inspect.signature(_connect).parameters) == [
        "options", "config", "loop", "flags", "sock", "conn_factory", "msg"
    ]  # fmt: skip
    source = inspect.getsource(asyncssh.connect)
    assert "SSHClientConnection(loop, new_options, wait='auth')" in source
    assert "_connect(new_options, config, loop, flags, sock, conn_factory," in source


def test_every_kind_of_channel_that_carries_much_has_a_lean_one() -> None:
    for kind in (asyncssh.SSHClientChannel, asyncssh.SSHTCPChannel, asyncssh.SSHUNIXChannel):
        ours = lean._LEAN_KINDS[kind]
        assert issubclass(ours, (lean.LeanChannel, kind))
        assert ours._packet_handlers[MSG_CHANNEL_DATA] is lean.LeanChannel._process_data


async def test_what_is_not_lean_passes_the_note_that_it_was_not(
    bastion: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both directions count towards a change of ciphers; with the lean one nothing does."""
    calls = Calls()
    calls.watch(monkeypatch, LeanServerConnection, "note_other_cipher")
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)
    for cipher, noted in (("aes128-ctr", 2), ("aes128-gcm@openssh.com", 0)):
        calls.names.clear()
        assert (await bastion.ssh(key, "-c", cipher, f"{DIRECT}@bastion", "cat", stdin=b"x")).out == b"x"
        assert len(calls.names) == noted


def test_a_connection_holds_its_own_bounds() -> None:
    assert issubclass(RestrainedConnection, LeanServerConnection)
    assert issubclass(TargetConnection, LeanConnection)


@asynccontextmanager
async def logged_in(bastion: World) -> AsyncIterator[Wire]:
    """Ada's connection."""
    await bastion.grant(ADA)
    client = Client()
    certificate = await certificate_of(bastion, ADA, client, WEB_STAGING)
    async with connected(bastion.port) as wire:
        await wire.log_in(DIRECT, certificate, client)
        yield wire


@dataclass
class Calls:
    """Which overrides asyncssh called, in order."""

    names: list[str] = field(default_factory=list)

    def watch(self, monkeypatch: pytest.MonkeyPatch, owner: type | ModuleType, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def noted(*args: Any, **kwargs: Any) -> Any:
            self.names.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, noted)


async def test_a_login_asks_every_override_in_order(bastion: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is dead: a renamed one would be passed over in silence, and asyncssh's own rules would hold."""
    calls = Calls()
    for name in ("validate_public_key", "_validate_client_certificate", "_validate_openssh_certificate"):
        calls.watch(monkeypatch, DoorConnection, name)
    async with logged_in(bastion):
        pass
    assert calls.names == ["validate_public_key", "_validate_client_certificate", "_validate_openssh_certificate"]


async def test_a_certificate_is_decoded_once_and_judged_each_time(
    bastion: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An offer, then a signature. Another certificate is another one."""
    calls = Calls()
    internals._decoded.cache_clear()
    calls.watch(monkeypatch, internals, "decode_ssh_certificate")
    calls.watch(monkeypatch, DoorConnection, "_validate_openssh_certificate")
    await bastion.grant(ADA)
    client = Client()
    certificate = await certificate_of(bastion, ADA, client, WEB_STAGING)
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.offer(DIRECT, certificate)
        await wire.expect(USERAUTH_PK_OK)
        wire.offer(DIRECT, await certificate_of(bastion, ADA, client, WEB_STAGING))
        await wire.expect(USERAUTH_PK_OK)
        wire.prove(DIRECT, certificate, client)
        await wire.expect(USERAUTH_SUCCESS)
    judged = "_validate_openssh_certificate"
    assert calls.names == ["decode_ssh_certificate", judged, "decode_ssh_certificate", judged, judged]


async def test_nothing_is_sent_that_says_nothing(bastion: World) -> None:
    async with logged_in(bastion) as wire:
        await wire.execute("true")
    assert IGNORE not in wire.noise


async def test_a_plain_key_asks_its_override(bastion: World, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    calls.watch(monkeypatch, DoorConnection, "_validate_client_public_key")
    calls.watch(monkeypatch, DoorConnection, "send_userauth_failure")
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.offer(DIRECT, asyncssh.generate_private_key("ssh-rsa", key_size=2048).public_data)
        await wire.expect(USERAUTH_FAILURE)
        wire.send(userauth(DIRECT, b"none"))
        await wire.expect(USERAUTH_FAILURE)
    assert calls.names == ["_validate_client_public_key", "send_userauth_failure", "send_userauth_failure"]


async def test_what_the_judge_refuses_does_not_log_in(bastion: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge's word is the only one: there is no second way in asyncssh by which a good certificate counts."""

    async def no(*_: Any) -> None:
        return None

    monkeypatch.setattr(DoorConnection, "_validate_openssh_certificate", no)
    await bastion.grant(ADA)
    client = Client()
    certificate = await certificate_of(bastion, ADA, client, WEB_STAGING)
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.prove(DIRECT, certificate, client)
        await wire.expect(USERAUTH_FAILURE)


async def test_a_channel_is_opened_by_the_override_and_is_ours(bastion: World, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls()
    calls.watch(monkeypatch, SessionChannel, "_flush_send_buf")
    calls.watch(monkeypatch, SessionChannel, "_accept_data")
    async with logged_in(bastion) as wire:
        wire.open(b"direct-tcpip", forward(WEB_STAGING, 22))
        await wire.opened()
        (connection,) = bastion.gateway._connections
        await until(lambda: connection._channels)
        (channel,) = connection._channels.values()
        assert isinstance(channel, TunnelChannel)
    assert DoorConnection._packet_handlers[MSG_CHANNEL_OPEN] is RestrainedConnection._process_channel_open
    async with connected(bastion.port) as other:
        client = Client()
        await other.log_in(DIRECT, await certificate_of(bastion, ADA, client, WEB_STAGING), client)
        ran = await other.execute("echo out")
        assert ran.out == b"out\n"
    assert "_flush_send_buf" in calls.names


async def test_the_sockets_pauses_reach_the_connection(bastion: World) -> None:
    """By asyncio's protocol, through the listener, to the connection: what `pause_writing` holds back hangs on it."""
    async with logged_in(bastion):
        (connection,) = bastion.gateway._connections
        assert connection._transport is not None
        protocol = cast(asyncio.Protocol, connection._transport.get_protocol())
        protocol.pause_writing()
        assert connection.is_congested
        protocol.resume_writing()
        assert not connection.is_congested


@pytest.mark.parametrize("version", ["2.24.0", "2.23.9", "1.99.0", "2.9.1", "2.24"])
def test_an_asyncssh_that_lets_people_log_in_as_others_is_refused(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(asyncssh, "__version__", version)
    with pytest.raises(ConfigError, match=f"asyncssh {version} lets clients log in as someone else"):
        check_version()


@pytest.mark.parametrize("version", ["2.24.1", "2.25.0", "3.0.0"])
def test_an_asyncssh_that_does_not_is_accepted(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(asyncssh, "__version__", version)
    check_version()
