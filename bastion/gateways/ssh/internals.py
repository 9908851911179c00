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

from bastion.core.certificate import CERTIFIED_KEYS
from bastion.core.errors import ConfigError
from bastion.gateways.ssh.limits import RestrainedConnection

MIN_ASYNCSSH = (2, 24, 1)
"""Before it, a second USERAUTH_REQUEST that is pipelined while a check awaits logs in as someone else."""

_CERTIFICATE = "-cert-v01@openssh.com"


def check_version() -> None:
    """Raises ConfigError when asyncssh is too old to be safe."""
    version = tuple(int(part) for part in asyncssh.__version__.split(".")[:3])
    if version < MIN_ASYNCSSH:
        wanted = ".".join(map(str, MIN_ASYNCSSH))
        raise ConfigError([f"asyncssh {asyncssh.__version__} lets clients log in as someone else; install >= {wanted}"])


class Judge(Protocol):
    """Who decides about certificates on one connection."""

    def recognise_certificate(self, blob: bytes) -> bool:
        """Whether it says that it is ours; asked before its signature is checked, which costs."""
        ...

    async def judge_certificate(self, username: str, blob: bytes) -> bool:
        """Whether the certificate may be used; its signature was checked. Asked for unsigned offers too."""
        ...

    def certificate_proven(self, username: str, blob: bytes) -> None:
        """The client signed this very connection with the certificate's key."""
        ...


class DoorConnection(RestrainedConnection):
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

    async def _validate_client_certificate(self, username: str, key_data: bytes) -> asyncssh.SSHKey | None:
        """asyncssh checks any certificate's signature first, by whatever key it names: by a stranger's RSA of 16,384
        bits as well (CVE-2026-39829). Only what our own keys are said to have signed comes that far.
        """
        if not _type_of(key_data).endswith(_CERTIFICATE) or not self._judge.recognise_certificate(key_data):
            return None
        return await super()._validate_client_certificate(username, key_data)

    async def _validate_client_public_key(self, username: str, key_data: bytes) -> asyncssh.SSHKey | None:
        """The same for plain keys: what is not certified here is not even decoded."""
        if _type_of(key_data) not in CERTIFIED_KEYS:
            return None
        return await super()._validate_client_public_key(username, key_data)

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


def _type_of(blob: bytes) -> str:
    """The type of a public key or certificate, whose first string it is; what has none has an empty one."""
    return blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii", "replace")
