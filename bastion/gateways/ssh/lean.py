"""The lean way of channel data through asyncssh, whose own costs four times what the cipher does.

For each packet asyncssh copies the rest of what was read and sets up a cipher. Here, where the cipher is AES-GCM
(RFC 5647), all packets of one read are opened in one loop, what they bring for one channel is delivered as one piece,
and what is written goes out as one write. Everything that is not channel data, and every other cipher, goes asyncssh's
way, in its place. The private names are guarded by the same test as those of `internals`.
"""

from __future__ import annotations

import os
import struct
import time
from typing import Any, cast

import asyncssh
from asyncssh.channel import SSHChannel, SSHClientChannel
from asyncssh.constants import MSG_CHANNEL_DATA, MSG_CHANNEL_EOF, MSG_CHANNEL_EXTENDED_DATA, MSG_CHANNEL_WINDOW_ADJUST
from asyncssh.encryption import ChachaEncryption, Encryption, GCMEncryption
from asyncssh.misc import MACError
from asyncssh.packet import SSHPacket, String, UInt32
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bastion.gateways.ssh.chacha import LeanChaCha
from bastion.gateways.ssh.quiet import QuietClientConnection, QuietConnection

_LENGTH = struct.Struct(">I")
_DATA = struct.Struct(">BBII")
"""Of a packet (RFC 4253, section 6; RFC 4254, section 5.2): padding's length, type, channel, data's length."""
_ADJUST = struct.Struct(">BBII")
"""Padding's length, type, channel, bytes to add."""

BLOCK, TAG = 16, 16
"""Bytes (RFC 5647, section 5.2)."""

GCM = (b"aes128-gcm@openssh.com", b"aes256-gcm@openssh.com")
"""The ciphers that are lean."""

MUCH = 4 * 2**20
"""Bytes of channel data by another cipher, after which a key exchange for a lean one is worth its round trips."""

PACKET = 4096
"""Bytes of channel data that cost as much as the packet they are in: small ones are many, as with small files."""

HEARD = 1.0
"""Seconds for which a peer that was heard counts as alive, without another timer."""

_OPENSSH = b"SSH-2.0-OpenSSH_"

_SEQUENCE = 0xFFFFFFFF
_COUNTER = 0xFFFFFFFFFFFFFFFF

_Piece = tuple[bytes | memoryview, int | None]
"""What waits in a channel, and which extended data it is."""


class LeanGCM(Encryption):
    """AES-GCM for one direction, until the next keys: one key set-up, and a nonce that is counted."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        self._cipher = AESGCM(key)
        self._fixed = nonce[:4]
        self._count = int.from_bytes(nonce[4:], "big")
        self._opened: bytes | None = None

    def seal(self, length: bytes, packet: bytes) -> bytes:
        """``packet`` encrypted, and its tag; ``length`` is authenticated with it and goes before it."""
        count = self._count
        self._count = (count + 1) & _COUNTER
        return self._cipher.encrypt(self._fixed + count.to_bytes(8), packet, length)

    def open(self, length: memoryview, sealed: memoryview) -> bytes:
        """What `seal` was given. Raises `MACError`."""
        count = self._count
        self._count = (count + 1) & _COUNTER
        try:
            return self._cipher.decrypt(self._fixed + count.to_bytes(8), sealed, length)
        except InvalidTag:
            raise MACError("MAC verification failed") from None

    def keep(self, packet: bytes) -> None:
        """Give ``packet``, which is open already, to asyncssh when it asks to have the next one opened."""
        self._opened = packet

    # What asyncssh asks of a cipher.

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        return header + self.seal(header, packet), b""

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        return first_block, first_block[:header_len]

    def decrypt_packet(self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes | None:
        opened, self._opened = self._opened, None
        if opened is not None:
            return opened
        return self.open(memoryview(first)[:header_len], memoryview(first[header_len:] + rest + mac))


def _lean(encryption: Encryption | None) -> Encryption | None:
    """The same keys at the same place, for as long as they last."""
    if isinstance(encryption, ChachaEncryption):
        return LeanChaCha.of(encryption)
    if not isinstance(encryption, GCMEncryption):
        return encryption
    cipher = encryption._cipher
    return LeanGCM(cipher._key, cipher._iv)


class LeanChannel(SSHChannel[bytes]):
    """A channel that writes in few large pieces, and only what the socket takes."""

    def write(self, data: bytes, datatype: int | None = None) -> None:
        """To a channel that has closed, nothing: whoever writes is about to be told so, and an error in the middle of
        what it received would end the connection that this came on, with everything else on it."""
        if self._send_state != "open":
            return
        if datatype is not None and datatype not in self._write_datatypes:
            raise OSError("Invalid extended data type")
        if data:
            self._waiting.append((data, datatype))
            self._send_buf_len += len(data)
            self._flush_send_buf()

    def flush(self) -> None:
        """Go on, after the connection was congested."""
        self._flush_send_buf()

    @property
    def _waiting(self) -> list[_Piece]:
        return cast(list[_Piece], self._send_buf)

    def _flush_send_buf(self) -> None:
        """What cannot go out yet stays in the channel's own buffer, which is bounded: a full one pauses its source."""
        connection = cast(LeanConnection | None, self._conn)
        while connection is not None and not connection.is_congested and self._send_buf and self._send_window:
            data, datatype = self._next_piece()
            taken = min(len(data), self._send_window)
            if taken < len(data):
                self._waiting.insert(0, (memoryview(data)[taken:], datatype))
            self._send_window -= taken
            self._send_buf_len -= taken
            self._send(memoryview(data)[:taken], datatype)
        self._pause_resume_writing()
        if self._send_buf or (connection is not None and connection.is_congested):
            return
        if self._send_state == "eof_pending":
            self.send_packet(MSG_CHANNEL_EOF)
            self._send_state = "eof"
        elif self._send_state == "close_pending":
            self._close_send()

    def _next_piece(self) -> _Piece:
        """All that waits of one kind: pieces that had to wait go out in packets as large as there can be."""
        data, datatype = self._waiting[0]
        count = 1
        while count < len(self._waiting) and self._waiting[count][1] == datatype:
            count += 1
        if count > 1:
            data = b"".join(piece for piece, _ in self._waiting[:count])
        del self._waiting[:count]
        return data, datatype

    def _send(self, data: memoryview, datatype: int | None) -> None:
        """In packets of what the peer takes."""
        size = self._send_pktsize
        connection = cast(LeanConnection, self._conn)
        if datatype is None and self._send_chan is not None and connection.send_data(self._send_chan, data, size):
            return
        connection.note_other_cipher(len(data))
        for start in range(0, len(data), size):
            piece = String(bytes(data[start : start + size]))
            if datatype is None:
                self.send_packet(MSG_CHANNEL_DATA, piece)
            else:
                self.send_packet(MSG_CHANNEL_EXTENDED_DATA, UInt32(datatype), piece)

    @property
    def room(self) -> int:
        """Bytes that may come now, -1 for not even none; of more, asyncssh says what is wrong with them."""
        return self._recv_window if self._recv_state == "open" else -1

    def deliver(self, data: bytes) -> None:
        """What came, of one or several packets."""
        self._accept_data(data)

    def _process_data(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        """A packet that came asyncssh's way."""
        cast(LeanConnection, self._conn).note_other_cipher(len(packet.get_full_payload()))
        super()._process_data(pkttype, pktid, packet)

    _packet_handlers = {**SSHChannel._packet_handlers, MSG_CHANNEL_DATA: _process_data}

    def _deliver_data(self, data: bytes, datatype: int | None) -> None:
        """Let the peer send as much as the session has taken, and no more.

        asyncssh opens the whole window again, whatever still waits here: a peer that is faster than the session would
        fill the memory, a window at each pause.
        """
        taken = self._init_recv_window - self._recv_window - sum(len(waiting) for waiting, _ in self._recv_buf)
        if taken >= self._init_recv_window // 2:
            self.send_packet(MSG_CHANNEL_WINDOW_ADJUST, UInt32(taken))
            self._recv_window += taken
        if self._session is not None:
            self._session.data_received(data, datatype)

    def adjust(self, size: int) -> bool:
        """The peer takes ``size`` bytes more. Whether it may say so now."""
        if self._recv_state not in ("open", "eof_pending", "eof"):
            return False
        self._send_window += size
        self._flush_send_buf()
        return True


class _LeanClientChannel(LeanChannel, SSHClientChannel[bytes]):
    """A session at a target."""


class _LeanTCPChannel(LeanChannel, asyncssh.SSHTCPChannel[bytes]):
    """A forwarded connection."""


class _LeanUNIXChannel(LeanChannel, asyncssh.SSHUNIXChannel[bytes]):
    """The same of a socket in the file system."""


_LEAN_KINDS: dict[type, type] = {
    kind.__bases__[1]: kind for kind in (_LeanClientChannel, _LeanTCPChannel, _LeanUNIXChannel)
}


class LeanConnection(QuietConnection):
    """A connection whose channels are lean, and hold back what it cannot send."""

    _stopped = False
    _heard_until = 0.0

    def add_channel(self, chan: SSHChannel[Any]) -> int:
        """asyncssh makes channels of its own kinds, and each is added before it does anything."""
        chan.__class__ = _LEAN_KINDS.get(type(chan), type(chan))
        return super().add_channel(chan)

    @property
    def is_congested(self) -> bool:
        """Whether what is written now would only wait in memory: for the socket, or for the end of a key exchange."""
        return self._stopped or not self._kex_complete

    def pause_writing(self) -> None:
        self._stopped = True

    def resume_writing(self) -> None:
        self._stopped = False
        self._flush_channels()

    def _send_deferred_packets(self) -> None:
        """A key exchange is over."""
        super()._send_deferred_packets()
        self._flush_channels()

    def _flush_channels(self) -> None:
        for channel in list(self._channels.values()):
            if isinstance(channel, LeanChannel):
                channel.flush()

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        super().send_newkeys(k, h)
        self._send_encryption = _lean(self._send_encryption)
        self._next_recv_encryption = _lean(self._next_recv_encryption)

    def note_other_cipher(self, size: int) -> None:
        """So many bytes of channel data went another way than the lean one."""

    # Sending --------------------------------------------------------------------------------------------------------

    def send_data(self, number: int, data: memoryview, size: int) -> bool:
        """Send ``data`` to the peer's channel ``number`` in packets of at most ``size`` bytes.

        False: nothing was sent, because it has to go asyncssh's way now.
        """
        cipher = self._send_encryption
        if not isinstance(cipher, LeanGCM) or self._compressor or self._transport is None or self._is_rekey_due():
            return False
        out: list[bytes] = []
        sent = 0
        noise = os.urandom(BLOCK + 3)
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            padding = -(_DATA.size + len(piece) + 4) % BLOCK + 4
            packet = b"".join((_DATA.pack(padding, MSG_CHANNEL_DATA, number, len(piece)), piece, noise[:padding]))
            length = _LENGTH.pack(len(packet))
            out += (length, cipher.seal(length, packet))
            sent += len(packet)
        self._transport.writelines(out)
        self._send_seq = (self._send_seq + len(out) // 2) & _SEQUENCE
        self._rekey_bytes_sent += sent
        return True

    def _is_rekey_due(self) -> bool:
        return self._rekey_bytes_sent >= self._rekey_bytes or bool(
            self._rekey_seconds and time.monotonic() >= self._rekey_time
        )

    # Receiving ------------------------------------------------------------------------------------------------------

    def _reset_keepalive_timer(self) -> None:
        """The peer lives. asyncssh sets the timer at every read; in seconds, one of a thousand reads will do."""
        now = self._loop.time()
        if now >= self._heard_until:
            self._heard_until = now + HEARD
            super()._reset_keepalive_timer()

    def _recv_pkthdr(self) -> bool:
        """asyncssh asks for the beginning of a packet: take all the packets of data that are there."""
        cipher = self._recv_encryption
        if isinstance(cipher, LeanGCM) and self._auth_complete and not self._decompressor:
            return self._receive(cipher)
        return super()._recv_pkthdr()

    def _receive(self, cipher: LeanGCM) -> bool:
        """Whether there may be more to do."""
        received = self._inpbuf
        view = memoryview(received)
        at, ends = 0, len(received)
        gathered = _Gathered()
        while ends - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(received, at)
            if length > self._max_recv_pktlen:
                raise asyncssh.ProtocolError("Max packet size exceeded")
            after = at + _LENGTH.size + length + TAG
            if after > ends:
                break
            body = at + _LENGTH.size
            packet = cipher.open(view[at:body], view[body:after])
            if not self._take(packet, gathered):
                cipher.keep(packet)
                gathered.deliver()
                self._inpbuf = received[at:]
                return self._hand_over()
            self._recv_seq = (self._recv_seq + 1) & _SEQUENCE
            at = after
        self._inpbuf = received[at:]
        gathered.deliver()
        return False

    def _take(self, packet: bytes, gathered: _Gathered) -> bool:
        """Whether it was a packet of data, or a window for it, with nothing wrong about it."""
        if len(packet) < BLOCK:
            return False
        padding, kind, number, size = _DATA.unpack_from(packet)
        if kind == MSG_CHANNEL_DATA:
            if number != gathered.number:
                gathered.begin(number, self._channels.get(number))
            if size > gathered.room or len(packet) != _DATA.size + size + padding:
                return False
            gathered.add(packet, size)
            return True
        if kind == MSG_CHANNEL_WINDOW_ADJUST and len(packet) == _ADJUST.size + padding:
            channel = self._channels.get(number)
            return isinstance(channel, LeanChannel) and channel.adjust(size)
        return False

    def _hand_over(self) -> bool:
        """Let asyncssh go on at the beginning of its buffer with a packet that its cipher keeps open already."""
        super()._recv_pkthdr()
        return self._recv_packet()


class LeanServerConnection(LeanConnection, asyncssh.SSHServerConnection):
    """A client's connection, which changes over to a lean cipher when there is much to be done.

    OpenSSH's client has AES-GCM and asks for ChaCha20-Poly1305 first, which costs both sides several times as much.
    Its choice is known when ours has been sent already; to wait for it would delay every login. So the keys are
    exchanged again, by its own leave (RFC 4253, section 9), for the few connections that have bulk on them.
    """

    _by_other_cipher = 0

    def note_other_cipher(self, size: int) -> None:
        self._by_other_cipher += size + PACKET
        if self._by_other_cipher >= MUCH and self._kex_complete and not self._kex and self._would_take_lean():
            self._by_other_cipher = 0
            self._enc_algs = [cipher for cipher in self._enc_algs if cipher in GCM]
            self._send_kexinit()
            self._kexinit_sent = True

    def _would_take_lean(self) -> bool:
        """Whether the client offered a lean cipher for both directions, and does not have one already."""
        if isinstance(self._send_encryption, LeanGCM) or not self._client_version.startswith(_OPENSSH):
            return False
        offer = SSHPacket(self._client_kexinit)
        offer.get_bytes(17)  # its type, and a cookie (RFC 4253, section 7.1)
        _, _, incoming, outgoing = [offer.get_namelist() for _ in range(4)]
        return any(cipher in GCM for cipher in incoming) and any(cipher in GCM for cipher in outgoing)


class _Gathered:
    """What consecutive packets brought for one channel."""

    __slots__ = ("_channel", "_pieces", "number", "room")

    def __init__(self) -> None:
        self.number = -1
        """Ours, of the channel."""
        self.room = -1
        """Bytes that may still come for it."""
        self._channel: LeanChannel | None = None
        self._pieces: list[memoryview] = []

    def begin(self, number: int, channel: SSHChannel[Any] | None) -> None:
        self.deliver()
        if isinstance(channel, LeanChannel):
            self.number, self.room, self._channel = number, channel.room, channel

    def add(self, packet: bytes, size: int) -> None:
        self._pieces.append(memoryview(packet)[_DATA.size : _DATA.size + size])
        self.room -= size

    def deliver(self) -> None:
        """As one piece. Only then has it been taken, and what may come after is asked anew."""
        channel, pieces = self._channel, self._pieces
        self.number, self.room, self._channel, self._pieces = -1, -1, None, []
        if channel is not None and pieces:
            channel.deliver(b"".join(pieces))


class TargetConnection(LeanConnection, QuietClientConnection):
    """The bastion's connection to a target."""
