"""An SSH client that does what it is told: any packet, at any time, true or not.

Its transport is its own (curve25519-sha256 and aes256-gcm@openssh.com, RFC 4253, RFC 5647, RFC 8731), so that no
library's good manners stand between a test and the gateway. It keeps nothing in order by itself: a test says each step,
or takes `Wire.log_in` for the honest way.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from asyncssh.packet import Boolean, Byte, MPInt, NameList, SSHPacket, String, UInt32
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, SERVICE_REQUEST, SERVICE_ACCEPT, EXT_INFO = 1, 2, 3, 4, 5, 6, 7
KEXINIT, NEWKEYS, KEX_INIT, KEX_REPLY = 20, 21, 30, 31
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_BANNER, USERAUTH_PK_OK = 50, 51, 52, 53, 60
GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE = 80, 81, 82
CHANNEL_OPEN, CHANNEL_CONFIRMED, CHANNEL_REFUSED, WINDOW_ADJUST, CHANNEL_DATA = 90, 91, 92, 93, 94
CHANNEL_EXTENDED, CHANNEL_EOF, CHANNEL_CLOSE, CHANNEL_REQUEST, CHANNEL_SUCCESS, CHANNEL_FAILURE = range(95, 101)

VERSION = b"SSH-2.0-Attacker"
SECONDS = 15.0
"""Until an answer that does not come is a failure; a busy machine needs some of it."""

_NOISE = frozenset({IGNORE, DEBUG, EXT_INFO})


class Pipe(Protocol):
    """Where the bytes go: a socket, or a channel of another connection."""

    async def read(self) -> bytes:
        """Some bytes; empty when the other side has closed."""
        ...

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Key(Protocol):
    """Signs for a login, as a client's key or as something that pretends to be one."""

    def sign(self, data: bytes) -> bytes:
        """A signature blob (RFC 4253, section 6.6)."""
        ...


@dataclass
class Socket:
    """A TCP connection to the gateway."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read(self) -> bytes:
        try:
            return await self.reader.read(65536)
        except ConnectionError:
            return b""

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def close(self) -> None:
        self.writer.transport.abort()


class Gone(Exception):
    """The gateway closed the connection; the sentence of its DISCONNECT, if it sent one."""


@dataclass
class Wire:
    """One connection. `send` never waits and never checks; `receive` gives payloads as they come."""

    pipe: Pipe
    version: bytes = VERSION
    session_id: bytes = b""
    banners: list[str] = field(default_factory=list)
    noise: list[int] = field(default_factory=list)
    """Kinds of packets that say nothing."""
    server_kexinit: bytes = b""
    _buffer: bytes = b""
    _server_version: bytes = b""
    _sending: _Cipher | None = None
    _receiving: _Cipher | None = None

    # Transport (RFC 4253) -------------------------------------------------------------------------------------------

    async def hello(self) -> None:
        """Exchange versions, and read the server's KEXINIT."""
        self.pipe.write(self.version + b"\r\n")
        while b"\n" not in self._buffer:
            await self._more()
        line, self._buffer = self._buffer.split(b"\n", 1)
        self._server_version = line.rstrip(b"\r")
        self.server_kexinit = await self.expect(KEXINIT)

    async def exchange_keys(
        self,
        *,
        strict: bool = True,
        first: Iterable[bytes] = (),
        before_newkeys: Iterable[bytes] = (),
        kex: bytes = b"curve25519-sha256",
    ) -> None:
        """The first key exchange.

        Args:
            strict: say that this client keeps strict key exchange (OpenSSH's PROTOCOL, section 1.10).
            first: payloads to send before KEXINIT.
            before_newkeys: payloads to slip in, unencrypted, before NEWKEYS.
            kex: the only method that is offered.
        """
        if not self.server_kexinit:
            await self.hello()
        for payload in first:
            self.send(payload)
        mine = kexinit(strict=strict, kex=kex)
        self.send(mine)
        private = X25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        self.send(Byte(KEX_INIT) + String(public))
        reply = SSHPacket(await self.expect(KEX_REPLY))
        reply.get_byte()
        host_key, theirs, _ = reply.get_string(), reply.get_string(), reply.get_string()
        shared = MPInt(int.from_bytes(private.exchange(X25519PublicKey.from_public_bytes(theirs)), "big"))
        hashed = b"".join(
            map(String, (self.version, self._server_version, mine, self.server_kexinit, host_key, public, theirs))
        )
        digest = hashlib.sha256(hashed + shared).digest()
        self.session_id = self.session_id or digest
        for payload in before_newkeys:
            self.send(payload)
        self.send(Byte(NEWKEYS))
        self._sending = _Cipher.derive(shared, digest, self.session_id, b"A", b"C")
        await self.expect(NEWKEYS)
        self._receiving = _Cipher.derive(shared, digest, self.session_id, b"B", b"D")

    def send(self, payload: bytes) -> None:
        """Put one packet on the wire, encrypted if there are keys."""
        block = 16 if self._sending else 8
        unpadded = len(payload) + (1 if self._sending else 5)
        padding = block - unpadded % block
        padding += block if padding < 4 else 0
        body = Byte(padding) + payload + os.urandom(padding)
        length = UInt32(len(body))
        self.pipe.write(length + self._sending.seal(body, length) if self._sending else length + body)

    async def receive(self) -> bytes:
        """The next payload. Raises Gone when the connection is closed."""
        while True:
            length = int.from_bytes(await self._take(4), "big")
            if self._receiving:
                body = self._receiving.open(await self._take(length + 16), UInt32(length))
            else:
                body = await self._take(length)
            payload = body[1 : len(body) - body[0]]
            if payload[0] == DISCONNECT:
                packet = SSHPacket(payload[5:])
                raise Gone(packet.get_string().decode())
            if payload[0] == USERAUTH_BANNER:
                self.banners.append(SSHPacket(payload[1:]).get_string().decode())
            elif payload[0] in _NOISE:
                self.noise.append(payload[0])
            else:
                return payload

    async def expect(self, *kinds: int) -> bytes:
        """The next payload, which must be of one of ``kinds``."""
        async with asyncio.timeout(SECONDS):
            payload = await self.receive()
        assert payload[0] in kinds, f"expected {kinds}, got {payload[0]}: {payload[:200]!r}"
        return payload

    async def gone(self) -> str:
        """Wait until the gateway closes the connection, whatever it sends before; its reason, if it gave one."""
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    await self.receive()
        except Gone as gone:
            return str(gone)

    async def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    async def _more(self) -> None:
        data = await self.pipe.read()
        if not data:
            raise Gone("")
        self._buffer += data

    # Authentication (RFC 4252) --------------------------------------------------------------------------------------

    async def begin_auth(self) -> None:
        """Keys, and the service in which one logs in."""
        await self.exchange_keys()
        self.send(Byte(SERVICE_REQUEST) + String(b"ssh-userauth"))
        await self.expect(SERVICE_ACCEPT)

    def offer(self, username: str, blob: bytes) -> None:
        """Ask whether a key or certificate would do, without a signature (section 7)."""
        self.send(_publickey(username, blob, signed=False))

    def prove(
        self, username: str, blob: bytes, key: Key, *, session_id: bytes | None = None, says: bytes | None = None
    ) -> None:
        """Log in: ``blob`` is shown, ``key`` signs. ``says`` is signed in place of the request, if given."""
        request = _publickey(username, blob, signed=True)
        over = String(self.session_id if session_id is None else session_id) + (says or request)
        self.send(request + String(key.sign(over)))

    async def log_in(self, username: str, blob: bytes, key: Key) -> None:
        """The honest way, to the end."""
        await self.begin_auth()
        self.prove(username, blob, key)
        await self.expect(USERAUTH_SUCCESS)

    # Channels (RFC 4254) --------------------------------------------------------------------------------------------

    def open(
        self, kind: bytes = b"session", rest: bytes = b"", *, channel: int = 0, window: int = 2**21, packet: int = 32768
    ) -> None:
        self.send(Byte(CHANNEL_OPEN) + String(kind) + UInt32(channel) + UInt32(window) + UInt32(packet) + rest)

    async def opened(self) -> int:
        """The gateway's number of a channel that it just confirmed."""
        confirmed = SSHPacket((await self.expect(CHANNEL_CONFIRMED))[1:])
        confirmed.get_uint32()
        return confirmed.get_uint32()

    async def refused(self) -> str:
        """Why a channel was not opened."""
        refusal = SSHPacket((await self.expect(CHANNEL_REFUSED))[1:])
        refusal.get_uint32(), refusal.get_uint32()
        return refusal.get_string().decode()

    def request(self, channel: int, name: bytes, rest: bytes = b"", *, reply: bool = True) -> None:
        self.send(Byte(CHANNEL_REQUEST) + UInt32(channel) + String(name) + Boolean(reply) + rest)

    async def answered(self) -> bool:
        """Whether the gateway agreed to the oldest request; window adjustments are passed over."""
        while (payload := await self.expect(CHANNEL_SUCCESS, CHANNEL_FAILURE, WINDOW_ADJUST))[0] == WINDOW_ADJUST:
            pass
        return payload[0] == CHANNEL_SUCCESS

    async def execute(self, command: str) -> Ran:
        """A session that runs ``command``, to its end."""
        self.open()
        channel = await self.opened()
        self.request(channel, b"exec", String(command))
        return await self.ran()

    async def ran(self) -> Ran:
        """Everything a session gives until it is closed."""
        out, err, status = bytearray(), bytearray(), None
        async with asyncio.timeout(SECONDS):
            while True:
                packet = SSHPacket(await self.receive())
                kind, _ = packet.get_byte(), packet.get_uint32()
                if kind == CHANNEL_DATA:
                    out += packet.get_string()
                elif kind == CHANNEL_EXTENDED:
                    packet.get_uint32()
                    err += packet.get_string()
                elif kind == CHANNEL_REQUEST and packet.get_string() == b"exit-status":
                    packet.get_boolean()
                    status = packet.get_uint32()
                elif kind == CHANNEL_CLOSE:
                    return Ran(bytes(out), bytes(err), status)


@dataclass
class Ran:
    """What a session gave."""

    out: bytes
    err: bytes
    status: int | None


@dataclass
class Tunnel:
    """A forwarding channel as a pipe: SSH inside SSH. One inner connection uses the outer one alone."""

    outer: Wire
    channel: int

    async def read(self) -> bytes:
        while True:
            try:
                packet = SSHPacket(await self.outer.receive())
            except Gone:
                return b""
            match packet.get_byte():
                case kind if kind == CHANNEL_DATA:
                    packet.get_uint32()
                    return packet.get_string()
                case kind if kind in (CHANNEL_CLOSE, CHANNEL_EOF):
                    return b""

    def write(self, data: bytes) -> None:
        for at in range(0, len(data), 32768):
            self.outer.send(Byte(CHANNEL_DATA) + UInt32(self.channel) + String(data[at : at + 32768]))

    def close(self) -> None:
        self.outer.send(Byte(CHANNEL_CLOSE) + UInt32(self.channel))


@asynccontextmanager
async def connected(port: int, bind: str = "127.0.0.1") -> AsyncIterator[Wire]:
    """A TCP connection on which nothing was said yet; it is cut off with the block."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(bind, 0), limit=2**20)
    wire = Wire(Socket(reader, writer))
    try:
        yield wire
    finally:
        wire.pipe.close()


def forward(host: str | bytes, port: int) -> bytes:
    """What follows in a CHANNEL_OPEN of direct-tcpip (RFC 4254, section 7.2)."""
    return String(host) + UInt32(port) + String(b"127.0.0.1") + UInt32(1)


async def jump(outer: Wire, target: str, port: int = 22) -> Wire:
    """A connection to ``target`` inside ``outer``, as `ssh -J` makes it; nothing was said on it yet."""
    outer.open(b"direct-tcpip", forward(target, port))
    return Wire(Tunnel(outer, await outer.opened()))


def kexinit(*, strict: bool = True, kex: bytes = b"curve25519-sha256") -> bytes:
    """A KEXINIT that offers one of each."""
    cipher = NameList([b"aes256-gcm@openssh.com"])
    none, nothing = NameList([b"none"]), NameList([])
    methods = [kex, *([b"kex-strict-c-v00@openssh.com"] if strict else [])]
    return b"".join(
        (
            Byte(KEXINIT), os.urandom(16), NameList(methods), NameList([b"ssh-ed25519"]), cipher, cipher,
            NameList([b"hmac-sha2-256"]), NameList([b"hmac-sha2-256"]), none, none, nothing, nothing, Boolean(False),
            UInt32(0),
        )
    )  # fmt: skip


def offered(payload: bytes) -> list[bytes]:
    """The key exchange methods of a KEXINIT."""
    packet = SSHPacket(payload[17:])
    return list(packet.get_namelist())


def userauth(username: str, method: bytes, rest: bytes = b"", service: bytes = b"ssh-connection") -> bytes:
    """A USERAUTH_REQUEST (RFC 4252, section 5)."""
    return Byte(USERAUTH_REQUEST) + String(username) + String(service) + String(method) + rest


def _publickey(username: str, blob: bytes, *, signed: bool) -> bytes:
    algorithm = SSHPacket(blob).get_string()
    return userauth(username, b"publickey", Boolean(signed) + String(algorithm) + String(blob))


@dataclass
class _Cipher:
    """aes256-gcm@openssh.com: the packet's length is authenticated and not encrypted (RFC 5647, section 7)."""

    aead: AESGCM
    fixed: bytes
    counter: int

    @classmethod
    def derive(cls, shared: bytes, digest: bytes, session_id: bytes, iv: bytes, key: bytes) -> _Cipher:
        """RFC 4253, section 7.2."""
        nonce, secret = (hashlib.sha256(shared + digest + letter + session_id).digest() for letter in (iv, key))
        return cls(AESGCM(secret), nonce[:4], int.from_bytes(nonce[4:12], "big"))

    def _nonce(self) -> bytes:
        nonce = self.fixed + self.counter.to_bytes(8, "big")
        self.counter = (self.counter + 1) % 2**64
        return nonce

    def seal(self, body: bytes, length: bytes) -> bytes:
        return self.aead.encrypt(self._nonce(), body, length)

    def open(self, sealed: bytes, length: bytes) -> bytes:
        return self.aead.decrypt(self._nonce(), sealed, length)
