"""The few private names of asyncssh that are overridden here; a test guards that they still exist and mean the same.

asyncssh decides itself whether a certificate may log in, by rules that are not ours: it lets one without principals in
as anybody, compares principals with the user name, and hides serial, key id and unknown options. So the whole judgement
is taken over. What stays asyncssh's: the certificate's own signature, and the proof that the client has the key.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import asyncssh
from asyncssh.public_key import SSHOpenSSHCertificate

from bastion.core.errors import ConfigError

MIN_ASYNCSSH = (2, 24, 1)
"""Before it, a second USERAUTH_REQUEST that is pipelined while a check awaits logs in as someone else."""

PASSED_ENVIRONMENT = (b"LANG", b"LC_", b"COLORTERM")
"""Beginnings of the variables a client may set at the target: nothing that a loader or shell obeys."""

MAX_VARIABLES = 32


def check_version() -> None:
    """Raises ConfigError when asyncssh is too old to be safe."""
    version = tuple(int(part) for part in asyncssh.__version__.split(".")[:3])
    if version < MIN_ASYNCSSH:
        wanted = ".".join(map(str, MIN_ASYNCSSH))
        raise ConfigError([f"asyncssh {asyncssh.__version__} lets clients log in as someone else; install >= {wanted}"])


class Judge(Protocol):
    """Who decides about certificates on one connection."""

    async def judge_certificate(self, username: str, blob: bytes) -> bool:
        """Whether the certificate may be used; asked for unsigned offers too."""
        ...

    def certificate_proven(self, username: str, blob: bytes) -> None:
        """The client signed this very connection with the certificate's key."""
        ...


class ClientChannel(asyncssh.SSHServerChannel[bytes]):
    """A session channel that takes no environment but a few names."""

    def _process_env_request(self, packet: asyncssh.packet.SSHPacket) -> bool:
        name, value = packet.get_string(), packet.get_string()
        packet.check_end()
        if not name.startswith(PASSED_ENVIRONMENT) or b"\0" in name + value or len(self._env) >= MAX_VARIABLES:
            return False
        self._env[name] = value
        return True


class DoorConnection(asyncssh.SSHServerConnection):
    """A client's connection whose certificates are judged by ``owner``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHServerConnectionOptions,
        owner: asyncssh.SSHServer,
        judge: Judge,
    ) -> None:
        super().__init__(loop, options)
        self._protocol_factory = lambda: owner
        self._judge = judge

    async def _validate_openssh_certificate(self, username: str, cert: SSHOpenSSHCertificate) -> asyncssh.SSHKey | None:
        """Everything is asked of the judge; the private key's touch stays demanded of security keys."""
        if not await self._judge.judge_certificate(username, cert.public_data):
            return None
        cert.key.set_touch_required(True)
        return cert.key

    async def validate_public_key(self, username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
        """Tell an offer, which proves nothing, from a signature over this connection, which does."""
        valid = await super().validate_public_key(username, key_data, msg, signature)
        if valid and msg:
            self._judge.certificate_proven(username, key_data)
        return valid

    def create_server_channel(
        self, encoding: str | None = None, errors: str = "strict", window: int = 0, max_pktsize: int = 0
    ) -> asyncssh.SSHServerChannel[bytes]:
        return ClientChannel(
            self, self._loop, True, False, False, 0, 0, None, "strict", window or self._window, self._max_pktsize
        )
