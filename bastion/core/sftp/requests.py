"""SFTP requests as values: what each asks, about which names, by which right.

The tables say what a request consists of; whatever is not in them is not passed on. Section numbers are those of
draft-ietf-secsh-filexfer-02; the extensions are those of OpenSSH's PROTOCOL file.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from bastion.core.sftp.packets import MAX_HANDLE, WRONG_LENGTH, Kind, NotPassedOn, OpenFlag, Reader, SftpViolation
from bastion.core.watching import quoted


class Needs(Enum):
    """What a grant must include for an operation."""

    EITHER = "either"
    """Looking at names and attributes: both directions of a transfer begin with it."""
    READ = "read"
    WRITE = "write"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Request:
    """One request other than READ and WRITE. It names its objects by path or by handle, never both."""

    id: int
    kind: int
    verb: str
    needs: Needs
    answer: Kind
    """The packet that grants it; any request may be answered by STATUS."""
    paths: tuple[bytes, ...]
    handles: tuple[bytes, ...]
    joint: str
    """Between two objects: ``rename "a" to "b"``."""
    detail: str
    flags: int | None
    """Of OPEN alone."""
    reach: int | None
    """How large it makes the file, or how far into it a copy goes; None where it changes no size."""
    extension: bytes
    rest: bytes
    """What follows its paths."""

    def at(self, paths: tuple[bytes, ...]) -> bytes:
        """The packet that asks the same of other paths, as many as it has."""
        name = () if self.kind != Kind.EXTENDED else (self.extension,)
        body = b"".join(struct.pack(">I", len(string)) + string for string in (*name, *paths)) + self.rest
        return struct.pack(">IBI", 5 + len(body), self.kind, self.id) + body

    def describe(self, names: tuple[str, ...]) -> str:
        """``rename "/a" to "/b"``, ``open "/a" read``; ``names`` are those of the objects, quoted."""
        return " ".join(filter(None, (self.verb, f" {self.joint} ".join(names), self.detail)))


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A request that is not passed on, because nobody here knows what it would do."""

    id: int
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Form:
    """What a request consists of after its id, a letter for each field.

    p path · h handle · a attributes · f flags of OPEN · n offset or length · s string that decides nothing
    """

    verb: str
    fields: str
    needs: Needs
    answer: Kind = Kind.STATUS
    joint: str = "to"


_FORMS: Mapping[int, _Form] = {
    Kind.OPEN: _Form("open", "pfa", Needs.EITHER, Kind.HANDLE),  # its flags say what it needs
    Kind.CLOSE: _Form("close", "h", Needs.EITHER),
    Kind.LSTAT: _Form("lstat", "p", Needs.EITHER, Kind.ATTRS),
    Kind.FSTAT: _Form("fstat", "h", Needs.EITHER, Kind.ATTRS),
    Kind.SETSTAT: _Form("setstat", "pa", Needs.WRITE),
    Kind.FSETSTAT: _Form("fsetstat", "ha", Needs.WRITE),
    Kind.OPENDIR: _Form("opendir", "p", Needs.READ, Kind.HANDLE),
    Kind.READDIR: _Form("readdir", "h", Needs.READ, Kind.NAME),
    Kind.REMOVE: _Form("remove", "p", Needs.WRITE),
    Kind.MKDIR: _Form("mkdir", "pa", Needs.WRITE),
    Kind.RMDIR: _Form("rmdir", "p", Needs.WRITE),
    Kind.REALPATH: _Form("realpath", "p", Needs.EITHER, Kind.NAME),
    Kind.STAT: _Form("stat", "p", Needs.EITHER, Kind.ATTRS),
    Kind.RENAME: _Form("rename", "pp", Needs.WRITE),
    Kind.READLINK: _Form("readlink", "p", Needs.EITHER, Kind.NAME),
    # In the order of the wire. OpenSSH has the link second, the draft has it first; servers follow OpenSSH.
    Kind.SYMLINK: _Form("symlink", "pp", Needs.WRITE, joint="as"),
}

_UNKNOWN = 1 << 64
"""Bytes: how far a copy goes that ends where the file does."""

_EXTENSIONS: Mapping[bytes, _Form] = {
    b"posix-rename@openssh.com": _Form("rename", "pp", Needs.WRITE),
    b"hardlink@openssh.com": _Form("hardlink", "pp", Needs.WRITE, joint="as"),
    b"fsync@openssh.com": _Form("fsync", "h", Needs.WRITE),
    b"lsetstat@openssh.com": _Form("lsetstat", "pa", Needs.WRITE),
    # The target copies by itself: the contents never pass here, so it takes both rights.
    b"copy-data": _Form("copy", "hnnhn", Needs.BOTH),
    b"statvfs@openssh.com": _Form("statvfs", "p", Needs.EITHER, Kind.EXTENDED_REPLY),
    b"fstatvfs@openssh.com": _Form("fstatvfs", "h", Needs.EITHER, Kind.EXTENDED_REPLY),
    b"limits@openssh.com": _Form("limits", "", Needs.EITHER, Kind.EXTENDED_REPLY),
    b"expand-path@openssh.com": _Form("expand-path", "p", Needs.EITHER, Kind.NAME),
    b"home-directory": _Form("home-directory", "p", Needs.EITHER, Kind.NAME),
    b"users-groups-by-id@openssh.com": _Form("users-groups-by-id", "ss", Needs.EITHER, Kind.EXTENDED_REPLY),
}


def parse_request(packet: bytes) -> Request | Unsupported:
    """Read one whole request other than INIT, READ and WRITE.

    Raises:
        SftpViolation: it is damaged.
    """
    reader, kind, name = Reader(packet), packet[4], b""
    request_id = reader.number()
    if kind == Kind.EXTENDED:
        name = reader.string()
        form, unknown = _EXTENSIONS.get(name), f"extended {quoted(name[:MAX_HANDLE])}"
    else:
        form, unknown = _FORMS.get(kind), f"request of type {kind}"
    if form is None:
        return Unsupported(request_id, unknown, "the bastion does not know this request")
    try:
        return _parse(form, request_id, kind, name, reader)
    except NotPassedOn as reason:
        return Unsupported(request_id, form.verb, str(reason))


def _parse(form: _Form, request_id: int, kind: int, extension: bytes, reader: Reader) -> Request:
    paths, handles, numbers, words = [], [], [], []
    needs, flags, reach, rest = form.needs, None, None, b""
    for field in form.fields:
        match field:
            case "p":
                paths.append(reader.path())
                rest = reader.rest()
            case "h":
                handles.append(reader.handle())
            case "a":
                attributes, reach = reader.attributes()
                words.append(attributes)
            case "f":
                flags = reader.number()
                needs = _needs_of(flags)
                words.append(_spell_flags(flags))
            case "n":
                numbers.append(reader.number(8))
            case _:
                reader.string()
    reader.end()
    if numbers:
        start, length, destination = numbers
        reach = max(start, destination) + length if length else _UNKNOWN
        words.append(f"{length or 'all'} bytes from offset {start} to offset {destination}, at the target")
    return Request(
        id=request_id, kind=kind, verb=form.verb, needs=needs, answer=form.answer, paths=tuple(paths),
        handles=tuple(handles), joint=form.joint, detail=" ".join(filter(None, words)), flags=flags, reach=reach,
        extension=extension, rest=rest,
    )  # fmt: skip


def _needs_of(flags: int) -> Needs:
    """Whatever is more than reading may change the file. No flags at all open it for reading, as OpenSSH does it."""
    if not flags & ~OpenFlag.READ:
        return Needs.READ
    return Needs.BOTH if flags & OpenFlag.READ else Needs.WRITE


def _spell_flags(flags: int) -> str:
    if flags >= OpenFlag.EXCLUSIVE << 1:
        raise NotPassedOn(f"the bastion does not know these flags ({flags:#x})")
    return " ".join(flag.name.lower() for flag in OpenFlag if flag.name and flags & flag) or "read"


_HEAD = struct.Struct(">IBII")
"""Length, type, id, and the length of a first string."""

_PIECE = struct.Struct(">QI")


@dataclass(frozen=True, slots=True)
class Piece:
    """A READ, or a WRITE without its data: ``length`` bytes at ``offset``."""

    id: int
    handle: bytes
    offset: int
    length: int


def parse_piece(head: bytes) -> Piece:
    """Read a READ, or the head of a WRITE: both have ``id, handle, uint64 offset, uint32 length`` (section 6.4).

    Raises:
        SftpViolation: it is damaged, or a WRITE's length of data is not the one that its packet has room for.
    """
    if len(head) < _HEAD.size:
        raise SftpViolation(WRONG_LENGTH)
    size, kind, request_id, handle_size = _HEAD.unpack_from(head)
    end = _HEAD.size + handle_size
    if len(head) != end + _PIECE.size:
        raise SftpViolation(WRONG_LENGTH)
    offset, length = _PIECE.unpack_from(head, end)
    if size + 4 - len(head) != (length if kind == Kind.WRITE else 0):
        raise SftpViolation(WRONG_LENGTH)
    return Piece(request_id, head[_HEAD.size : end], offset, length)
