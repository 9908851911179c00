"""The file format of a recording (docs/recording-format.md), as bytes in and bytes out.

A file is a header and then records. Each record is sealed with AES-256-GCM under the recording's own key; what is
authenticated with it names the file (the header's digest), the place in it (the count) and the record before (its tag),
so that nothing can be altered, moved, left out or brought in from elsewhere. The last record is the signed manifest.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import asdict, dataclass, replace
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bastion.core.recording import Code, Entry

MAGIC = b"bastion recording 1\n"
MAX_HEADER = 4096
"""Bytes of the header's JSON."""

LONGEST_HEADER = len(MAGIC) + 4 + MAX_HEADER
"""Bytes in which a header is whole."""

PREFIX = struct.Struct(">IBI")
"""Of each record: bytes that follow, kind, CRC-32 of both and the record's count. The CRC tells a record that a crash
cut short from one whose length was altered; it proves nothing, the tag does."""

MAX_RECORD = 1 << 20
"""Bytes; no writer makes a longer one."""

ABOUT, PLAIN, PACKED, MANIFEST = 1, 2, 3, 4
"""Kinds of record: the asciicast header; an entry as it is; one whose data is a zstd frame; the end."""

TAG = 16
ENTRY = struct.Struct(">cQ")
"""Before an entry's data: its code, and microseconds since the session began."""


class Altered(Exception):
    """The bytes are not what was written. The sentence completes "the recording was altered: …"."""


def prefix_of(length: int, kind: int, count: int) -> bytes:
    """The prefix of the record that ``count`` others precede."""
    return PREFIX.pack(length, kind, zlib.crc32(b"%d %d %d" % (length, kind, count)))


def read_prefix(prefix: bytes, count: int) -> tuple[int, int]:
    """Length and kind. Raises `Altered`."""
    length, kind, _ = PREFIX.unpack(prefix)
    if prefix != prefix_of(length, kind, count) or length > MAX_RECORD:
        raise Altered("this is not where a record begins")
    return length, kind


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What stands in the clear: whose recording it is and under which region's key. Nothing about people."""

    session: str
    scope: str
    created: str
    region_key: str
    wrapped_key: str
    """Hexadecimal: nonce and AES-256-GCM sealed key."""

    def to_bytes(self) -> bytes:
        body = json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode("ascii")
        return MAGIC + struct.pack(">I", len(body)) + body

    def with_key(self, wrapped: bytes) -> Self:
        """The same, with the recording's key as `RegionKey.wrap` gave it."""
        return replace(self, wrapped_key=wrapped.hex())

    @property
    def named(self) -> bytes:
        """All but the wrapped key: what the wrapping of the key authenticates."""
        return "\n".join((self.session, self.scope, self.created, self.region_key)).encode()

    @classmethod
    def parse(cls, data: bytes) -> tuple[Self, bytes]:
        """The header at the beginning of ``data``, and its own bytes. Raises `Altered`."""
        start = len(MAGIC) + 4
        if not data.startswith(MAGIC) or len(data) < start:
            raise Altered("it does not begin as a recording does")
        (length,) = struct.unpack_from(">I", data, len(MAGIC))
        if length > min(MAX_HEADER, len(data) - start):
            raise Altered("its header is not whole")
        try:
            header = cls(**json.loads(data[start : start + length]))
        except (ValueError, TypeError) as error:
            raise Altered("its header cannot be read") from error
        if header.to_bytes() != data[: start + length]:
            raise Altered("its header is not written as it should be")
        return header, data[: start + length]


class Chain:
    """Seals records, or opens them, in their order. One of the two for one recording: a nonce is used once."""

    __slots__ = ("_cipher", "_count", "_digest", "_tag")

    def __init__(self, key: bytes, header: bytes) -> None:
        self._cipher = AESGCM(key)
        self._digest = hashlib.sha256(header).digest()
        self._tag = bytes(TAG)
        self._count = 0

    def seal(self, kind: int, body: bytes) -> bytes:
        """The next record, whole."""
        count = self._count
        prefix = prefix_of(len(body) + TAG, kind, count)
        sealed = self._cipher.encrypt(count.to_bytes(12, "big"), body, self._digest + prefix + self._tag)
        self._tag = sealed[-TAG:]
        self._count = count + 1
        return prefix + sealed

    def open(self, prefix: bytes, sealed: bytes) -> bytes:
        """The body of the next record. Raises `Altered`; nothing of the record may be believed then."""
        try:
            body = self._cipher.decrypt(self._count.to_bytes(12, "big"), sealed, self._digest + prefix + self._tag)
        except InvalidTag as error:
            raise Altered("its seal is broken") from error
        self._tag = sealed[-TAG:]
        self._count += 1
        return body


def entry_head(code: Code, at: int) -> bytes:
    """What precedes an entry's data in its record."""
    return ENTRY.pack(code.value.encode("ascii"), at)


def read_entry(head: bytes, data: bytes) -> Entry:
    """The entry that `entry_head` began. Raises `Altered`."""
    try:
        code, at = ENTRY.unpack(head)
        return Entry(at, Code(code.decode("ascii")), data)
    except (struct.error, ValueError) as error:
        raise Altered("its content cannot be read") from error
