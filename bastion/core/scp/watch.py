"""The watcher of scp's protocol, which only its sources describe (OpenSSH's scp.c: `source` and `sink`).

One side is the source, the other the sink. The source sends a line for each file (``C0644 5 name``), folder (``D…``,
and ``E`` at its end) and time (``T…``), and waits for an answer to each; then the bytes, and whether they are right.
What follows a line depends on the answer to it. So nothing of the source is passed on before the sink has answered what
came before: a client that does not wait could else have its bytes taken for lines that nobody saw.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import assert_never

from bastion.core.files import Limits
from bastion.core.recording import Underway
from bastion.core.scp.command import ScpCommand
from bastion.core.watching import Step, Violation, quoted

MAX_LINE = 4096
"""Bytes of a line: a name has 255."""

MAX_HELD = 4 * 1024 * 1024
"""Bytes of a source that does not wait for answers: twice the window of a channel."""

MAX_EARLY = 64
"""Answers that nobody waits for yet."""

MAX_DEPTH = 256
"""Folders in one another."""

_NEW = re.compile(rb"([CD])([0-7]{4}) (\d{1,19}) ([^/\0]+)")
_TIME = re.compile(rb"T\d{1,20} \d{1,9} \d{1,20} \d{1,9}")

_OK, _WARNING, _FATAL = 0, 1, 2


class _Stage(Enum):
    LINE = auto()
    DATA = auto()
    VERDICT = auto()
    """After the data: whether the source could read all of it."""


@dataclass(slots=True, eq=False)
class _File:
    number: int
    text: str
    """``"dir/name" to "/path"``."""
    size: int
    left: int
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    is_underway: bool = False
    """Whether the recording was told how far it has come."""

    def so_far(self) -> str:
        return f"{self.size - self.left} of {self.size} bytes sha256 {self.digest.hexdigest()}"


class ScpWatch:
    """One copy. Keeps `bastion.core.watching.Watch`."""

    def __init__(self, command: ScpCommand, limits: Limits) -> None:
        self._command = command
        self._limits = limits
        self._where = f"{'to' if command.writes else 'from'} {quoted(command.path.encode())}"
        self._verb, self._done = ("write", "written") if command.writes else ("read", "read")
        self._stage = _Stage.LINE
        self._waits_for: Callable[[int, bytes], None] | None = self._started
        """What the next answer of the sink decides; None while the source may go on."""
        self._early: deque[tuple[int, bytes]] = deque()
        self._held = b""
        """Of the source."""
        self._answer = b""
        """Of the sink: the beginning of a message."""
        self._folders: list[bytes] = []
        self._file: _File | None = None
        self._files = 0
        self._has_moved = False
        """Something of the file passed in this step."""
        self._over: list[Underway] = []
        self._lines: list[str] = []
        self._to_sink: list[bytes] = []
        self._to_source: list[bytes] = []
        self._violation: Violation | None = None

    @property
    def owes_the_target(self) -> bool:
        return self._command.writes and bool(self._held)

    def from_client(self, data: bytes) -> Step:
        return self._step(self._from_source if self._command.writes else self._from_sink, data)

    def from_target(self, data: bytes) -> Step:
        return self._step(self._from_sink if self._command.writes else self._from_source, data)

    def close(self) -> tuple[str, ...]:
        file, self._file = self._file, None
        if file is None:
            return ()
        return (f"scp left open {file.text} {self._done} {file.so_far()}, incomplete",)

    def _step(self, feed: Callable[[bytes], None], data: bytes) -> Step:
        if self._violation is not None:
            raise Violation(self._violation.public)
        try:
            feed(data)
        except Violation as violation:
            self._violation = violation
            self._lines.append(f"scp ended: {violation.public}")
            violation.before = self._drain()
            raise
        return self._drain()

    def _drain(self) -> Step:
        to_sink, to_source, lines = b"".join(self._to_sink), b"".join(self._to_source), tuple(self._lines)
        self._to_sink, self._to_source, self._lines = [], [], []
        pair = (to_sink, to_source) if self._command.writes else (to_source, to_sink)
        return Step(*pair, lines, self._take_underway())

    def _take_underway(self) -> tuple[Underway, ...]:
        over, self._over = tuple(self._over), []
        file, has_moved, self._has_moved = self._file, self._has_moved, False
        if file is None or not has_moved:
            return over
        file.is_underway = True
        return *over, Underway(file.number, f"scp {file.text} {self._done} {file.so_far()}")

    # ------------------------------------------------------------------------------------------------- from the source

    def _from_source(self, data: bytes) -> None:
        data, self._held = self._held + data if self._held else data, b""
        at = 0
        try:
            while at < len(data) and self._may_go_on():
                match self._stage:
                    case _Stage.DATA:
                        part = self._data(data[at:] if at else data)
                    case _Stage.LINE | _Stage.VERDICT:
                        part = self._line(data, at)
                    case _:
                        assert_never(self._stage)
                if part == 0:
                    break
                at += part
        finally:
            self._held = data[at:]
        self._may_go_on()
        if len(self._held) > MAX_HELD:
            raise Violation("More was sent over scp without waiting for an answer than can be kept.")

    def _may_go_on(self) -> bool:
        if self._waits_for is not None and self._early:
            self._take(*self._early.popleft())
        return self._waits_for is None

    def _data(self, data: bytes) -> int:
        if (file := self._file) is None:
            raise Violation("There is no file that the bytes belong to.")
        part = data if len(data) <= file.left else data[: file.left]
        file.digest.update(part)
        file.left -= len(part)
        self._has_moved = True
        self._to_sink.append(part)
        if file.left == 0:
            self._stage = _Stage.VERDICT
        return len(part)

    def _line(self, data: bytes, at: int) -> int:
        """How long what begins ``at`` is; 0 while it is not there as a whole."""
        if self._stage is _Stage.VERDICT and data[at] == _OK:
            self._to_sink.append(b"\0")
            self._waits_for = self._finished
            return 1
        end = data.find(b"\n", at)
        if end < 0 or end - at > MAX_LINE:
            if len(data) - at > MAX_LINE:
                raise Violation(f"A line of scp is longer than {MAX_LINE} bytes.")
            return 0
        line = data[at:end]
        if line[:1] in (b"\1", b"\2"):
            self._lines.append(f"scp source reports {quoted(line[1:])}")
            self._to_sink.append(line + b"\n")
            if self._stage is _Stage.VERDICT:
                self._waits_for = self._finished
        elif self._stage is _Stage.VERDICT:
            raise Violation("The bytes of a file have no end.")
        else:
            self._command_line(line)
        return end + 1 - at

    def _command_line(self, line: bytes) -> None:
        if (new := _NEW.fullmatch(line)) is not None and new[4] != b"..":
            kind, mode, size, name = new[1], new[2].decode(), int(new[3]), new[4]
            text = f"{quoted(b'/'.join((*self._folders, name)))} {self._where}"
            if kind == b"D":
                self._begin_folder(name, text, mode)
            elif self._limits.exceeded_by(size):
                self._refuse(f"{text} mode {mode} size {size}")
                return
            else:
                self._begin_file(text, mode, size)
        elif line == b"E" and self._folders:
            self._folders.pop()
            self._waits_for = self._ignored
        elif _TIME.fullmatch(line):
            self._waits_for = self._ignored
        else:
            raise Violation("Something was sent that scp does not say.")
        self._to_sink.append(line + b"\n")

    def _begin_folder(self, name: bytes, text: str, mode: str) -> None:
        if len(self._folders) >= MAX_DEPTH:
            raise Violation(f"More than {MAX_DEPTH} folders are in one another.")
        described = f"{'mkdir' if self._command.writes else 'enter'} {text} mode {mode}"
        self._lines.append(f"scp {described}")

        def answered(code: int, message: bytes) -> None:
            if code == _OK:
                self._folders.append(name)
            else:
                self._lines.append(f"scp {described} failed: {quoted(message)}")

        self._waits_for = answered

    def _begin_file(self, text: str, mode: str, size: int) -> None:
        described = f"{self._verb} {text} mode {mode} size {size}"
        self._lines.append(f"scp {described}")

        def answered(code: int, message: bytes) -> None:
            if code == _OK:
                self._files += 1
                self._file = _File(self._files, text, size, size)
                self._stage = _Stage.DATA if size else _Stage.VERDICT
            else:
                self._lines.append(f"scp {described} failed: {quoted(message)}")

        self._waits_for = answered

    def _refuse(self, described: str) -> None:
        """Answer in the sink's place; the source goes on with its next file. The client's user reads why."""
        reason = f"files of at most {self._limits.max_size} bytes are allowed"
        self._lines.append(f"scp {self._verb} {described} refused: {reason}")
        refusal = b"\1scp: bastion: %s\n" % reason.encode()
        self._to_source.append(refusal)
        if not self._command.writes:
            self._to_sink.append(refusal)

    # --------------------------------------------------------------------------------------------------- from the sink

    def _from_sink(self, data: bytes) -> None:
        data, self._answer = self._answer + data, b""
        at = 0
        while at < len(data):
            code, message, size = data[at], b"", 1
            if code in (_WARNING, _FATAL):
                if (end := data.find(b"\n", at)) < 0:
                    break
                message, size = data[at + 1 : end], end + 1 - at
            elif code != _OK:
                raise Violation("The sink of a copy answered with what scp does not say.")
            self._to_source.append(data[at : at + size])
            at += size
            self._early.append((code, message))
            if self._waits_for is not None:
                self._take(*self._early.popleft())
            if len(self._early) > MAX_EARLY:
                raise Violation(f"More than {MAX_EARLY} answers came that nothing was asked for.")
        self._answer = data[at:]
        if len(self._answer) > MAX_LINE:
            raise Violation(f"A line of scp is longer than {MAX_LINE} bytes.")
        if self._held:
            self._from_source(b"")

    def _take(self, code: int, message: bytes) -> None:
        """The sink's answer to what was sent last."""
        if (decide := self._waits_for) is not None:
            self._waits_for = None
            decide(code, message)

    def _started(self, code: int, message: bytes) -> None:
        if code != _OK:
            self._lines.append(f"scp {self._verb} {self._where} failed: {quoted(message)}")

    def _ignored(self, code: int, message: bytes) -> None:
        if code != _OK:
            self._lines.append(f"scp sink reports {quoted(message)}")

    def _finished(self, code: int, message: bytes) -> None:
        """The file is over, and this is what the sink says of it."""
        file, self._file, self._stage = self._file, None, _Stage.LINE
        if file is not None:
            failed = f" failed: {quoted(message)}" if code != _OK else ""
            described = f"{self._done} {file.size} bytes sha256 {file.digest.hexdigest()} in order"
            self._lines.append(f"scp close {file.text} {described}{failed}")
            if file.is_underway:
                self._over.append(Underway(file.number))
