"""SFTP packets made by hand, and a small target that answers them: what the tests of the watcher speak."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

INIT, VERSION, OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR = range(1, 13)
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = range(13, 21)
STATUS, HANDLE, DATA, NAME, ATTRS = range(101, 106)
EXTENDED, EXTENDED_REPLY = 200, 201

HELLO = b"\0\0\0\5\1\0\0\0\3"
WELCOME = b"\0\0\0\5\2\0\0\0\3"


def packet(kind: int, *fields: int | bytes) -> bytes:
    """A number is a uint32, bytes are raw."""
    body = bytes([kind]) + b"".join(u32(f) if isinstance(f, int) else f for f in fields)
    return u32(len(body)) + body


def u32(number: int) -> bytes:
    return struct.pack(">I", number)


def u64(number: int) -> bytes:
    return struct.pack(">Q", number)


def s(text: bytes) -> bytes:
    return u32(len(text)) + text


def extended(request_id: int, name: bytes, *fields: int | bytes) -> bytes:
    return packet(EXTENDED, request_id, s(name), *fields)


def opens(request_id: int, path: bytes, flags: int) -> bytes:
    return packet(OPEN, request_id, s(path), flags, 0)


def reads(request_id: int, handle: bytes, offset: int, length: int) -> bytes:
    return packet(READ, request_id, s(handle), u64(offset), length)


def writes(request_id: int, handle: bytes, offset: int, data: bytes) -> bytes:
    return packet(WRITE, request_id, s(handle), u64(offset), s(data))


def status(request_id: int, code: int = 0) -> bytes:
    return packet(STATUS, request_id, code, s(b"words"), s(b"en"))


def packets(stream: bytes) -> Iterator[bytes]:
    """The packets of a stream that ends with one."""
    while stream:
        end = 4 + int.from_bytes(stream[:4], "big")
        assert end <= len(stream), "the stream ends within a packet"
        yield stream[:end]
        stream = stream[end:]


def id_of(one: bytes) -> int:
    return int.from_bytes(one[5:9], "big")


def content(offset: int, length: int) -> bytes:
    """What every file of `SmallTarget` has there."""
    return bytes((offset + n) * 7 % 251 for n in range(length))


@dataclass
class SmallTarget:
    """Answers every request it gets; files have `content` and are ``size`` long; id 13, 26, 39… are denied."""

    size: int = 300
    handles: int = 0
    seen: list[bytes] = field(default_factory=list)

    def answer(self, request: bytes) -> bytes:
        self.seen.append(request)
        kind, request_id = request[4], id_of(request)
        if kind == INIT:
            return WELCOME
        if request_id % 13 == 0:
            return status(request_id, 3)
        match kind:
            case 3 | 11:
                self.handles += 1
                return packet(HANDLE, request_id, s(b"h%d" % self.handles))
            case 5:
                handle = int.from_bytes(request[9:13], "big")
                offset = int.from_bytes(request[13 + handle : 21 + handle], "big")
                length = min(int.from_bytes(request[21 + handle : 25 + handle], "big"), max(self.size - offset, 0))
                return packet(DATA, request_id, s(content(offset, length))) if length else status(request_id, 1)
            case 12 | 16 | 19:
                return packet(NAME, request_id, 2, (s(b"name") + s(b"-rw- name") + u32(4) + u32(0o644)) * 2)
            case 7 | 8 | 17:
                return packet(ATTRS, request_id, 1, u64(self.size))
            case 200 if b"limits" in request or b"statvfs" in request:
                return packet(EXTENDED_REPLY, request_id, u64(1))
            case _:
                return status(request_id)
