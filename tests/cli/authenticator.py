"""A security key in software, in an ssh-agent of its own: what PROTOCOL.u2f asks of one, and not a bit more."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

TYPE = b"sk-ssh-ed25519@openssh.com"
APPLICATION = b"ssh:"
USER_PRESENT = 0x01

_FAILURE, _LIST, _LISTED, _SIGN, _SIGNED = 5, 11, 12, 13, 14


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def read(data: bytes, at: int = 0) -> tuple[bytes, int]:
    (size,) = struct.unpack_from(">I", data, at)
    return data[at + 4 : at + 4 + size], at + 4 + size


class Authenticator:
    """``touched`` says whether somebody's finger is on it; real ones do not sign without, this one does and says so."""

    def __init__(self) -> None:
        self.touched = True
        self.signed = 0
        self._key = Ed25519PrivateKey.generate()
        self.blob = string(TYPE) + string(self._key.public_key().public_bytes_raw()) + string(APPLICATION)

    @property
    def public_line(self) -> str:
        return f"{TYPE.decode()} {base64.b64encode(self.blob).decode()} software\n"

    def sign(self, data: bytes) -> bytes:
        """PROTOCOL.u2f, "SSH U2F Signatures": flags and a counter are signed, and sent beside the signature."""
        self.signed += 1
        flags = struct.pack(">BI", USER_PRESENT if self.touched else 0, self.signed)
        message = hashlib.sha256(APPLICATION).digest() + flags + hashlib.sha256(data).digest()
        return string(TYPE) + string(self._key.sign(message)) + flags

    def answer(self, message: bytes) -> bytes:
        """One message of the agent protocol."""
        if message[0] == _LIST:
            return bytes((_LISTED,)) + struct.pack(">I", 1) + string(self.blob) + string(b"software")
        if message[0] == _SIGN:
            blob, at = read(message, 1)
            data, _ = read(message, at)
            if blob == self.blob:
                return bytes((_SIGNED,)) + string(self.sign(data))
        return bytes((_FAILURE,))


@asynccontextmanager
async def agent_of(authenticator: Authenticator, path: Path) -> AsyncIterator[dict[str, str]]:
    """An ssh-agent with this key alone, which takes no other; and the environment that names it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (size,) = struct.unpack(">I", await reader.readexactly(4))
                writer.write(string(authenticator.answer(await reader.readexactly(size))))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield {"SSH_AUTH_SOCK": str(path)}
    finally:
        server.close()
        await server.wait_closed()
