"""SFTP packets: their types, their fields, and answers as values.

A packet is ``uint32 length, byte type, uint32 id, …`` (draft-ietf-secsh-filexfer-02, section 3); numbers are big-endian
and a string is ``uint32 length, bytes``. Section numbers below are the draft's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum, IntFlag

from bastion.core.watching import Violation

VERSION = 3
"""The only version that is watched; later ones have other packets under the same numbers."""

MAX_PACKET = 256 * 1024 + 1024
"""Bytes after the length field: OpenSSH's SFTP_MAX_MSG_LENGTH, and room for servers that count the data alone."""

MAX_HANDLE = 256
"""Bytes (section 6.2)."""

MAX_PATH = 4096
"""Bytes: PATH_MAX of Linux. What is remembered of a request stays small whatever its packet."""


class SftpViolation(Violation):
    """A peer left SFTP, or its bounds."""


class Kind(IntEnum):
    """Packet types (section 3)."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    FSTAT = 8
    SETSTAT = 9
    FSETSTAT = 10
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    REALPATH = 16
    STAT = 17
    RENAME = 18
    READLINK = 19
    SYMLINK = 20
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200
    EXTENDED_REPLY = 201


class Status(IntEnum):
    """Codes of a STATUS (section 7)."""

    OK = 0
    END_OF_FILE = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    OPERATION_UNSUPPORTED = 8


class OpenFlag(IntFlag):
    """Of OPEN (section 6.3)."""

    READ = 0x01
    WRITE = 0x02
    APPEND = 0x04
    CREATE = 0x08
    TRUNCATE = 0x10
    EXCLUSIVE = 0x20


_SIZE, _OWNER, _MODE, _TIMES, _EXTENDED = 0x1, 0x2, 0x4, 0x8, 0x80000000
"""Section 5."""

_ATTRIBUTE_SIZES = {_SIZE: 8, _OWNER: 8, _MODE: 4, _TIMES: 8}


class NotPassedOn(Exception):
    """A field is well-formed and still not for us to pass on; the argument says why."""


WRONG_LENGTH = "An SFTP packet is shorter or longer than what it contains."


class Reader:
    """Takes the fields of one packet, strictly, in their order; ``at`` is where the first one is.

    Every method raises `SftpViolation` when the packet has less than is asked for.
    """

    def __init__(self, packet: bytes, at: int = 5) -> None:
        self._packet = packet
        self._at = at

    def number(self, size: int = 4) -> int:
        """A big-endian unsigned number of ``size`` bytes."""
        return int.from_bytes(self._take(size), "big")

    def string(self) -> bytes:
        return self._take(self.number())

    def handle(self) -> bytes:
        handle = self.string()
        if len(handle) > MAX_HANDLE:
            raise SftpViolation(f"An SFTP handle has {len(handle)} bytes; {MAX_HANDLE} are allowed.")
        return handle

    def path(self) -> bytes:
        path = self.string()
        if len(path) > MAX_PATH:
            raise NotPassedOn(f"a path is longer than {MAX_PATH} bytes")
        if b"\0" in path:
            raise NotPassedOn("a path has a zero byte, and where it ends would be a matter of opinion")
        return path

    def attributes(self) -> tuple[str, int | None]:
        """Attributes (section 5) as ``size 0 owner 1000:1000 mode 0644 accessed … modified …``; often empty.

        And the size by itself.
        """
        flags, words, size = self.number(), [], None
        if flags & ~(_SIZE | _OWNER | _MODE | _TIMES):
            raise NotPassedOn(f"the bastion does not know these attributes (flags {flags:#x})")
        if flags & _SIZE:
            size = self.number(8)
            words.append(f"size {size}")
        if flags & _OWNER:
            words.append(f"owner {self.number()}:{self.number()}")
        if flags & _MODE:
            words.append(f"mode {self.number():04o}")
        if flags & _TIMES:
            words.append(f"accessed {_moment(self.number())} modified {_moment(self.number())}")
        return " ".join(words), size

    def skip_attributes(self) -> None:
        flags = self.number()
        self._take(sum(size for flag, size in _ATTRIBUTE_SIZES.items() if flags & flag))
        if flags & _EXTENDED:
            for _ in range(self.number()):
                self.string()
                self.string()

    def rest(self) -> bytes:
        """What follows, without taking it."""
        return self._packet[self._at :]

    def end(self) -> None:
        """Nothing may be left over: the other side might read it as something."""
        if self._at != len(self._packet):
            raise SftpViolation(WRONG_LENGTH)

    def _take(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at > len(self._packet):
            raise SftpViolation(WRONG_LENGTH)
        return self._packet[start : self._at]


_ANSWER = struct.Struct(">IBI")
"""Length, type, id."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the target said to request ``id``; ``value`` is a STATUS's code, a DATA's bytes, a NAME's entries."""

    id: int
    kind: int
    value: int = 0
    handle: bytes = b""


def parse_answer(packet: bytes) -> Answer:
    """Read one answer; of a DATA its head is enough.

    Raises:
        SftpViolation: it is damaged, or of a type that answers nothing.
    """
    if len(packet) < _ANSWER.size:
        raise SftpViolation(WRONG_LENGTH)
    size, kind, request_id = _ANSWER.unpack_from(packet)
    match kind:
        case Kind.DATA | Kind.STATUS:
            value = Reader(packet, _ANSWER.size).number()
            if kind == Kind.DATA and size != _ANSWER.size + value:
                raise SftpViolation(WRONG_LENGTH)
            return Answer(request_id, kind, value)
        case Kind.HANDLE:
            reader = Reader(packet, _ANSWER.size)
            handle = reader.handle()
            reader.end()
            return Answer(request_id, kind, handle=handle)
        case Kind.NAME:
            return Answer(request_id, kind, _count_names(Reader(packet, _ANSWER.size)))
        case Kind.ATTRS | Kind.EXTENDED_REPLY:
            return Answer(request_id, kind)
        case _:
            raise SftpViolation(f"The target sent an SFTP packet of type {kind}, which answers nothing.")


def _count_names(reader: Reader) -> int:
    """The entries of a NAME (section 7), each seen to be there: the count that it claims may be anything."""
    claimed = reader.number()
    for _ in range(claimed):
        reader.string()
        reader.string()
        reader.skip_attributes()
    reader.end()
    return claimed


def parse_name(packet: bytes) -> bytes | None:
    """The path that a NAME gives to a REALPATH; None when it does not have exactly one."""
    reader = Reader(packet, _ANSWER.size)
    return reader.string() if reader.number() == 1 else None


def parse_mode(packet: bytes) -> int | None:
    """The mode in an ATTRS, with what kind of file it is (inode(7)); None when it is not there."""
    reader = Reader(packet, _ANSWER.size)
    if not (flags := reader.number()) & _MODE:
        return None
    for flag in (_SIZE, _OWNER):
        if flags & flag:
            reader.number(_ATTRIBUTE_SIZES[flag])
    return reader.number()


def question(kind: Kind, request_id: int, path: bytes) -> bytes:
    """A request of our own about one path: a REALPATH or an LSTAT."""
    return struct.pack(">IBII", 9 + len(path), kind, request_id, len(path)) + path


def status(request_id: int, code: int, message: str) -> bytes:
    """A STATUS packet of our own (section 7)."""
    text = message.encode()
    body = struct.pack(">BIII", Kind.STATUS, request_id, code, len(text)) + text + struct.pack(">I2s", 2, b"en")
    return struct.pack(">I", len(body)) + body


def spell_status(code: int) -> str:
    """``permission denied (3)``; a code that the draft does not have is ``status 99``."""
    try:
        return f"{Status(code).name.lower().replace('_', ' ')} ({code})"
    except ValueError:
        return f"status {code}"


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
