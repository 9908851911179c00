"""What a session did, as asciicast v3 lines (https://docs.asciinema.org/manual/asciicast/v3/), exact to the byte.

An entry holds bytes. Its line shows them as UTF-8; a byte that is not part of a character becomes one lone surrogate
(PEP 383), so that the joined text, encoded the same way, gives back exactly the bytes that were delivered. Nothing is
held back to complete a character: a held byte would be delivered before it is recorded (law 6). Players that insist on
whole characters read an `Export`, which cuts the same text again.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

MAX_SIZE = 10_000
"""Columns or rows that a terminal is believed to have."""

_MICRO = 1_000_000


class Code(StrEnum):
    """What an entry is. All but `ERROR`, exported as `OUTPUT`, and `DIGEST`, not exported, are asciicast's own."""

    OUTPUT = "o"
    ERROR = "e"
    """Standard error of a session without a pty, which has its own stream."""
    INPUT = "i"
    RESIZE = "r"
    MARKER = "m"
    EXIT = "x"
    DIGEST = "d"
    """How far something has come whose bytes are not kept: a stream, see `Passed`, or a file, see `Underway`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened ``at`` microseconds after the session began. ``data`` is as delivered."""

    at: int
    code: Code
    data: bytes

    @property
    def seconds(self) -> float:
        """``at`` in seconds."""
        return self.at / _MICRO


@dataclass(frozen=True, slots=True)
class Header:
    """The first line. ``term`` is empty where there was no pty; ``about`` says whose session it was."""

    columns: int
    rows: int
    term: str
    timestamp: int
    """Seconds since 1970, UTC."""
    title: str = ""
    command: str | None = None
    about: Mapping[str, str] = field(default_factory=dict)

    def line(self) -> bytes:
        """The line, with its newline."""
        return _json_line({**self._common(), **({"bastion": dict(self.about)} if self.about else {})})

    def _common(self) -> dict[str, object]:
        term: dict[str, object] = {"cols": self.columns, "rows": self.rows}
        if self.term:
            term["type"] = self.term
        body: dict[str, object] = {"version": 3, "term": term, "timestamp": self.timestamp}
        if self.command is not None:
            body["command"] = self.command
        if self.title:
            body["title"] = self.title
        return body

    @classmethod
    def parse(cls, line: bytes) -> Header:
        """Read back what `line` wrote.

        Raises:
            ValueError: it is not the first line of an asciicast v3.
        """
        try:
            body = json.loads(line)
            if body["version"] != 3:
                raise ValueError(f"this is asciicast version {body['version']!r}, not 3")
            return cls(
                columns=_size(body["term"]["cols"]),
                rows=_size(body["term"]["rows"]),
                term=str(body["term"].get("type", "")),
                timestamp=int(body.get("timestamp", 0)),
                title=str(body.get("title", "")),
                command=body.get("command"),
                about=body.get("bastion", {}),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("this is not the first line of an asciicast") from error


def entry_line(entry: Entry, previous: int) -> bytes:
    """The line of ``entry``, with its newline; ``previous`` is the ``at`` of the entry before it, or 0."""
    return f'[{_seconds(entry.at - previous)}, "{entry.code}", {json.dumps(to_text(entry.data))}]\n'.encode("ascii")


class Lines:
    """Reads lines back into entries. Intervals are relative in version 3, so it remembers the time."""

    def __init__(self) -> None:
        self._at = 0

    def read(self, line: bytes) -> Entry | None:
        """The entry of one line; None for a comment, an empty line or a code that is not ours.

        Raises:
            ValueError: it is not a line of an asciicast.
        """
        if not line.strip() or line.startswith(b"#"):
            return None
        try:
            interval, code, data = json.loads(line)
            self._at += max(0, round(interval * _MICRO))
            return Entry(self._at, Code(code), to_bytes(data)) if code in _CODES else None
        except (TypeError, AttributeError, OverflowError) as error:
            raise ValueError("this is not a line of an asciicast") from error


def to_text(data: bytes) -> str:
    """``data`` as text that gives it back exactly, see `to_bytes`."""
    return data.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    """The bytes that `to_text` was given, however the text was cut and joined since."""
    return text.encode("utf-8", "surrogateescape")


# Bulk -----------------------------------------------------------------------------------------------------------------

_PASSED = re.compile(rb"[a-z] (0|[1-9][0-9]{0,18}) [0-9a-f]{64}")
_UNDERWAY = re.compile(rb"f (0|[1-9][0-9]{0,18})(?: (.+))?", re.DOTALL)
_STREAMS = {Code.OUTPUT: "output", Code.ERROR: "error output", Code.INPUT: "input"}


@dataclass(frozen=True, slots=True)
class Passed:
    """How much of a stream has passed, from its first byte on, in place of the bytes themselves."""

    stream: Code
    size: int
    sha256: str
    """Of all of it, hexadecimal: what `sha256sum` says of the file, when a file is what was sent."""

    def to_bytes(self) -> bytes:
        """``o 1048576 30e14955…``, the data of a `Code.DIGEST`."""
        return f"{self.stream} {self.size} {self.sha256}".encode("ascii")

    @classmethod
    def parse(cls, data: bytes) -> Passed:
        """Read back what `to_bytes` wrote. Raises ValueError."""
        stream, size, sha256 = data.decode("ascii").split(" ")
        passed = cls(Code(stream), int(size), sha256)
        if passed.stream not in _STREAMS or not _PASSED.fullmatch(data):
            raise ValueError("this does not say how much has passed")
        return passed

    def __str__(self) -> str:
        return f"{_STREAMS[self.stream]}: {self.size} bytes, sha256 {self.sha256}"


@dataclass(frozen=True, slots=True)
class Underway:
    """How far a file has come that is being moved, in place of its bytes. The last one of its number counts."""

    number: int
    """Of the file, in its session."""
    so_far: str = ""
    """What a line would say of it; empty when it has had its last line."""

    def __str__(self) -> str:
        return self.so_far

    def to_bytes(self) -> bytes:
        """``f 3 sftp "/a" read 1048576 bytes sha256 30e14955… in order``, the data of a `Code.DIGEST`; ``f 3``."""
        return f"f {self.number} {self.so_far}".rstrip().encode("utf-8", "backslashreplace")


def parse_digest(data: bytes) -> Passed | Underway:
    """Read back the data of a `Code.DIGEST`. Raises ValueError."""
    if (found := _UNDERWAY.fullmatch(data)) is not None:
        return Underway(int(found[1]), (found[2] or b"").decode())
    return Passed.parse(data)


class Stream:
    """One direction of a session without a terminal: kept in full at first, and from some size on as its digest.

    `take` and `close` give what is to be recorded, in order: an entry for every piece before it is delivered, so that
    whatever stops the bastion, the last digest is that of exactly what was recorded.
    """

    __slots__ = ("_full_until", "_is_full", "_sha256", "_size", "_stream")

    def __init__(self, stream: Code, full_until: int) -> None:
        self._stream = stream
        self._full_until = full_until
        self._is_full = True
        self._size = 0
        self._sha256 = hashlib.sha256()

    def take(self, data: bytes) -> Iterator[tuple[Code, bytes]]:
        """``data`` is about to be delivered."""
        before, self._size = self._size, self._size + len(data)
        self._sha256.update(data)
        if self._is_full and self._size <= self._full_until:
            yield self._stream, data
            return
        if self._is_full:
            self._is_full = False
            kept = f"from byte {before} on only its size and SHA-256 are kept"
            yield Code.MARKER, f"{_STREAMS[self._stream]}: {kept}".encode()
        yield Code.DIGEST, self._passed().to_bytes()

    def close(self) -> Iterator[tuple[Code, bytes]]:
        """Nothing more comes."""
        if not self._is_full:
            yield Code.MARKER, str(self._passed()).encode()

    def _passed(self) -> Passed:
        return Passed(self._stream, self._size, self._sha256.hexdigest())


# Typed input ----------------------------------------------------------------------------------------------------------

_PRINTABLE = bytes(0x2A if 0x20 <= b != 0x7F else b for b in range(256))
_CONTINUATION = bytes(range(0x80, 0xC0))
_KEY = re.compile(rb"\x1b(?:\[[0-9;]{0,8}[A-Z~]|O[A-Z])")
"""A cursor or function key as one piece (xterm's PC-style keys). Letters that text has anyway are never kept: the
parameters are digits, and few."""


def mask_typed(data: bytes) -> bytes:
    """``data`` with one ``*`` in place of each printable character; Enter, Tab, Ctrl-C, arrows and the like are kept.

    A pty may have its echo off, and what is typed then is a secret. What it echoes is in the output.
    """
    if b"\x1b" not in data:
        return data.translate(_PRINTABLE, _CONTINUATION)
    masked, position = bytearray(), 0
    for key in _KEY.finditer(data):
        masked += data[position : key.start()].translate(_PRINTABLE, _CONTINUATION) + key.group()
        position = key.end()
    return bytes(masked + data[position:].translate(_PRINTABLE, _CONTINUATION))


# Export ---------------------------------------------------------------------------------------------------------------


class Export:
    """A recording for other players: whole characters, U+FFFD for what is none, standard error as output.

    Lines come out of `begin`, `add` and `end`, in that order; an entry may give none (its character is not whole yet).
    """

    def __init__(self, version: Literal[2, 3], header: Header) -> None:
        self._version: Final = version
        self._header: Final = header
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {code: decoder("replace") for code in (Code.OUTPUT, Code.ERROR, Code.INPUT)}
        self._written_at = 0
        self._last_at = 0

    def begin(self) -> bytes:
        """The first line."""
        header = self._header
        body = header._common()
        if self._version == 2:
            env: dict[str, object] = {"env": {"TERM": header.term}} if header.term else {}
            rest: dict[str, object] = {name: body[name] for name in ("timestamp", "command", "title") if name in body}
            body = {"version": 2, "width": header.columns, "height": header.rows, **rest, **env}
        return _json_line(body)

    def add(self, entry: Entry) -> bytes:
        """The lines that ``entry`` completes."""
        self._last_at = entry.at
        if (decoder := self._decoders.get(entry.code)) is not None:
            return self._text(entry.at, entry.code, decoder.decode(entry.data))
        if entry.code is Code.DIGEST or (entry.code is Code.EXIT and self._version == 2):
            return b""  # there is no such event
        return self._event(entry.at, entry.code, entry.data.decode("utf-8", "replace"))

    def end(self) -> bytes:
        """What was still held back for a character that never became whole."""
        return b"".join(self._text(self._last_at, c, d.decode(b"", final=True)) for c, d in self._decoders.items())

    def _text(self, at: int, code: Code, text: str) -> bytes:
        if not text:
            return b""
        if code is Code.INPUT:
            return self._event(at, code, text)
        if not self._header.term:  # no pty turned line ends into \r\n, and a player is a terminal
            text = text.replace("\r\n", "\n").replace("\n", "\r\n")
        return self._event(at, Code.OUTPUT, text)

    def _event(self, at: int, code: Code, text: str) -> bytes:
        when = at if self._version == 2 else at - self._written_at
        self._written_at = at
        return f'[{_seconds(when)}, "{code}", {json.dumps(text)}]\n'.encode("ascii")


_CODES = frozenset(Code)


def _seconds(microseconds: int) -> str:
    return f"{microseconds // _MICRO}.{microseconds % _MICRO:06d}"


def _size(value: object) -> int:
    if not isinstance(value, int) or not 0 < value <= MAX_SIZE:
        raise ValueError(f"{value!r} is not a terminal's size")
    return value


def _json_line(body: dict[str, object]) -> bytes:
    return json.dumps(body, separators=(", ", ": ")).encode("ascii") + b"\n"
