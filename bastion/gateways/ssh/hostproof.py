"""How a target proves that it is the configured host: asyncssh's own checks, two that it lacks, and what was shown.

asyncssh takes a certificate that names no host for one of every host, and reads authorities of X.509 from the home
folder of whoever runs it. The private names that are used here are guarded by the same test as those of `internals`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import asyncssh
from asyncssh.constants import MSG_KEXINIT
from asyncssh.encryption import encryption_needs_mac
from asyncssh.packet import SSHPacket, String
from asyncssh.public_key import SSHOpenSSHCertificate

from bastion.gateways.ssh.lean import TargetConnection

KINDS = ("key exchange", "host key", "cipher", "cipher", "MAC", "MAC")
"""What is agreed on, in the order of the lists, of which some are for one direction (RFC 4253, section 7.1)."""

NAMELESS = "Certificate names no host"


class ProvenConnection(TargetConnection):
    """A connection to a target that remembers what the other side showed, so that a refusal can say it."""

    agent: Callable[[], Awaitable[asyncssh.SSHUNIXSession[bytes]]] | None = None
    """Takes connections to the client's agent; nobody else may open anything from there."""

    def lend(self, agent: Callable[[], Awaitable[asyncssh.SSHUNIXSession[bytes]]] | None) -> None:
        """From now on sessions ask for a way to the agent, or nothing comes through any more."""
        self.agent = agent
        self._agent_forward_path = "the client's" if agent is not None else None

    def _process_auth_agent_at_openssh_dot_com_open(self, packet: SSHPacket) -> Any:
        packet.check_end()
        if self.agent is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "No agent is forwarded.")
        return self.create_unix_channel(), self.agent()

    shown: bytes | None = None
    """The host key or host certificate (RFC 4253, section 6.6; PROTOCOL.certkeys), whether it was right or not."""

    is_reached = False
    """Whether something took the connection; uvloop makes the protocol before."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.is_reached = True
        super().connection_made(transport)

    def _validate_host_key(self, host: str, addr: str, port: int, key_data: bytes) -> asyncssh.SSHKey:
        self.shown = key_data
        if b"x509v3" in key_data[4 : 4 + int.from_bytes(key_data[:4], "big")]:
            raise ValueError("X.509 certificates are not used")
        return super()._validate_host_key(host, addr, port, key_data)

    def _validate_openssh_host_certificate(
        self, host: str, addr: str, port: int, cert: SSHOpenSSHCertificate
    ) -> asyncssh.SSHKey:
        if not cert.principals:
            raise ValueError(NAMELESS)
        return super()._validate_openssh_host_certificate(host, addr, port, cert)

    @property
    def line(self) -> str:
        """The host key that was proven, as an OpenSSH line; of a certificate, the key that it certifies."""
        key = self.get_server_host_key()
        return line_of(key) if key is not None else ""

    async def _finish_hostkeys(self, packet: SSHPacket) -> None:
        """Only keys of a type that is pinned are asked to be proven: a host has others, and each costs a signature."""
        pinned = {key.algorithm for key in self._trusted_host_keys or ()}
        named = []
        while packet:
            named.append(packet.get_string())
        wanted = b"".join(String(key) for key in named if key[4 : 4 + int.from_bytes(key[:4], "big")] in pinned)
        await super()._finish_hostkeys(SSHPacket(wanted))

    _theirs: tuple[list[str], ...] = ()

    def _process_kexinit(self, pkttype: int, pktid: int, packet: SSHPacket) -> Coroutine[Any, Any, None]:
        """Both sides notice when they have nothing in common, and hang up: which is heard of first is chance."""
        offers = SSHPacket(packet.get_remaining_payload())
        offers.get_bytes(16)
        self._theirs = tuple(_names(offers.get_namelist()) for _ in range(6))
        return super()._process_kexinit(pkttype, pktid, packet)

    _packet_handlers = {**TargetConnection._packet_handlers, MSG_KEXINIT: _process_kexinit}

    @property
    def missing(self) -> tuple[str, list[str]] | None:
        """What the two sides have none of in common, and what the other side has of it; None when they agree."""
        if not self._theirs:
            return None
        host_keys, ciphers, macs = self._server_host_key_algs or (), self._enc_algs, self._mac_algs
        ours = map(_names, (self._kex_algs, host_keys, ciphers, ciphers, macs, macs))
        needs_mac = False
        for kind, mine, theirs in zip(KINDS, ours, self._theirs, strict=True):
            first = next((name for name in mine if name in theirs), None)
            if kind == "MAC" and not needs_mac:
                continue
            if first is None:
                return kind, theirs
            needs_mac = needs_mac or (kind == "cipher" and encryption_needs_mac(first.encode()))
        return None


def line_of(key: asyncssh.SSHKey) -> str:
    """A public key as OpenSSH writes it, without a comment."""
    return " ".join(key.export_public_key().decode().split()[:2])


def _names(raw: Iterable[bytes]) -> list[str]:
    return [name.decode("ascii", "replace") for name in raw]
