"""The few private names of asyncssh that are overridden here; a test guards that they still exist and mean the same.

asyncssh decides itself whether a certificate may log in, by rules that are not ours: it lets one without principals in
as anybody, compares principals with the user name, and hides serial, key id and unknown options. So the whole judgement
is taken over. What stays asyncssh's: the certificate's own signature, and the proof that the client has the key.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Protocol, cast

import asyncssh
from asyncssh.public_key import SSHOpenSSHCertificate, decode_ssh_certificate, decode_ssh_public_key

from bastion.core.certificate import CERTIFIED_KEYS, KEPT
from bastion.core.errors import ConfigError
from bastion.gateways.ssh.limits import RestrainedConnection, Windows

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

    def certificate_proven(self, username: str, blob: bytes) -> bool:
        """The client signed this very connection with ``blob``'s key. Whether it is a certificate that was judged good:
        nothing else logs anybody in.
        """
        ...

    async def agent_refused(self) -> str | None:
        """Forward the client's agent, or say why not."""
        ...

    def wants_proof(self, blob: bytes) -> bool:
        """Whether the client shall sign with a plain key; it does not log in by that."""
        ...

    def key_proven(self, blob: bytes) -> None:
        """The client has the plain key ``blob``, which says nothing about who is at its other end."""
        ...


class DoorConnection(RestrainedConnection):
    """A client's connection whose certificates are judged by ``owner``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: asyncssh.SSHServerConnectionOptions,
        owner: asyncssh.SSHServer,
        judge: Judge,
        windows: Windows,
    ) -> None:
        self._windows = windows
        self._service: bytes | None = None
        self._auth_complete = False
        super().__init__(loop, options)
        self._protocol_factory = lambda: owner
        self._judge = judge
        self._more_is_needed = False

    @property
    def _next_service(self) -> bytes | None:
        """The service that may be asked for: until somebody has logged in, as often as the client likes.

        paramiko asks again before every method it tries; asyncssh would hang up on the second (RFC 4253, section 10).
        """
        return self._service

    @_next_service.setter
    def _next_service(self, service: bytes | None) -> None:
        if service is not None or self._auth_complete:
            self._service = service

    async def agent_refused(self) -> str | None:
        return await self._judge.agent_refused()

    @property
    def session_id(self) -> bytes:
        """What no other connection has (RFC 4253, section 7.2)."""
        return self._session_id

    async def _validate_client_certificate(self, username: str, key_data: bytes) -> asyncssh.SSHKey | None:
        """asyncssh checks any certificate's signature first, by whatever key it names: by a stranger's RSA of 16,384
        bits as well (CVE-2026-39829). Only what our own keys are said to have signed comes that far.
        """
        if not _type_of(key_data).endswith(_CERTIFICATE) or not self._judge.recognise_certificate(key_data):
            return None
        try:
            certificate = _decoded(key_data)
        except asyncssh.KeyImportError:
            return None
        return await self._validate_openssh_certificate(username, certificate)

    async def _validate_client_public_key(self, username: str, key_data: bytes) -> asyncssh.SSHKey | None:
        """The same for plain keys: what the judge does not want to see proven is not even decoded."""
        if _type_of(key_data) not in CERTIFIED_KEYS or not self._judge.wants_proof(key_data):
            return None
        try:
            key = decode_ssh_public_key(key_data)
        except asyncssh.KeyImportError:
            return None
        key.set_touch_required(True)
        return key

    async def _validate_openssh_certificate(self, username: str, cert: SSHOpenSSHCertificate) -> asyncssh.SSHKey | None:
        """Everything is asked of the judge; the private key's touch stays demanded of security keys."""
        if not await self._judge.judge_certificate(username, cert.public_data):
            return None
        cert.key.set_touch_required(True)
        return cert.key

    async def validate_public_key(self, username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
        """Tell an offer, which proves nothing, from a signature over this connection, which does; and a plain key,
        which is noted and does not log in, from a certificate.
        """
        valid = await super().validate_public_key(username, key_data, msg, signature)
        if not (valid and msg) or self._judge.certificate_proven(username, key_data):
            return valid
        self._judge.key_proven(key_data)
        self._more_is_needed = True
        return False

    def send_userauth_failure(self, partial_success: bool) -> None:
        """After a plain key: it was right, and more is needed (RFC 4252, section 5.1), so that clients go on."""
        super().send_userauth_failure(partial_success or self._more_is_needed)
        self._more_is_needed = False

    def allow_login(self, seconds: float) -> None:
        """Cut the connection when it is not logged in ``seconds`` from now, instead of when it would have been."""
        self._cancel_login_timer()
        self._login_timer = self._loop.call_later(seconds, self._login_timer_callback)


@lru_cache(maxsize=KEPT)
def _decoded(blob: bytes) -> SSHOpenSSHCertificate:
    """A certificate whose signature is right, which it stays; it is judged each time.

    Raises:
        KeyImportError: it is none, or its signature is not right.
    """
    return cast(SSHOpenSSHCertificate, decode_ssh_certificate(blob))


def _type_of(blob: bytes) -> str:
    """The type of a public key or certificate, whose first string it is; what has none has an empty one."""
    return blob[4 : 4 + int.from_bytes(blob[:4], "big")].decode("ascii", "replace")
