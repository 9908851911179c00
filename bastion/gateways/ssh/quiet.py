"""What asyncssh says although nobody hears it: every packet twice, log lines that are made to be thrown away, and
questions whose answers are known.

The private names are guarded by the same test as those of `internals`.
"""

from __future__ import annotations

from typing import Any

import asyncssh
from asyncssh.auth import _ClientPublicKeyAuth
from asyncssh.connection import SSHConnection
from asyncssh.constants import MSG_IGNORE
from asyncssh.encryption import BasicEncryption
from asyncssh.logging import SSHLogger
from asyncssh.packet import SSHPacketLogger


class _QuietLogger(SSHLogger):
    """A logger that spells out only what is written. Those of the channels are made from it."""

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        if self.isEnabledFor(level):
            super().log(level, msg, *args, **kwargs)


class QuietConnection(SSHConnection):
    """A connection that sends each packet once and logs none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._logger = _QuietLogger(context=f"conn={id(self):x}")

    def send_packet(self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None) -> None:
        """asyncssh sends an empty IGNORE before each packet, against guesses about the blocks of CBC (RFC 4251, section
        9.3.1). The ciphers that authenticate what they encrypt have no such weakness.
        """
        if pkttype != MSG_IGNORE or isinstance(self._send_encryption, BasicEncryption):
            super().send_packet(pkttype, *args, handler=handler)

    def log_sent_packet(self, *_: Any) -> None:
        """Not even to find out whether anybody reads it: a packet's name and size took as long as its encryption."""

    def log_received_packet(self, *_: Any) -> None:
        """The same."""


class _SignedAtOnce(_ClientPublicKeyAuth):
    """The key without the question whether it would do (RFC 4252, section 7)."""

    async def _start(self) -> None:
        self._keypair = await self._conn.public_key_auth_requested()
        await self._send_signed_request()


class QuietClientConnection(QuietConnection, asyncssh.SSHClientConnection):
    """A connection that logs in by its one key, two round trips earlier."""

    _has_signed = False

    def try_next_auth(self, *, next_method: bool = False) -> None:
        """asyncssh asks which methods there are by trying none (RFC 4252, section 5.2). What follows a refusal is its
        own way.
        """
        if self._has_signed:
            super().try_next_auth(next_method=next_method)
        else:
            self._has_signed = True
            self._auth = _SignedAtOnce(self, b"publickey")
