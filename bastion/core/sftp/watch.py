"""The watcher: which SFTP packets pass, and the transcript lines that say what they did.

A request has its line before it reaches the target, and a second one when the target refuses it. Contents have their
size and digest as far as they have come before more of them is delivered, and a line when their file is closed. So
whatever ends the session, nothing was done that has no line, and nothing has passed that has no digest (law 6).
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto
from typing import assert_never

from bastion.core.files import FileRights, Limits
from bastion.core.policy import Action
from bastion.core.recording import Underway
from bastion.core.sftp.examination import Answered, Barred, Cleared, Examiner, Failed, Finding, Turn
from bastion.core.sftp.flow import Flow, Ruling
from bastion.core.sftp.opened import Opened, open_directory, open_file
from bastion.core.sftp.packets import (
    VERSION,
    Answer,
    Kind,
    OpenFlag,
    Reader,
    SftpViolation,
    Status,
    parse_answer,
    spell_status,
    status,
)
from bastion.core.sftp.pending import (
    AnsweredHere,
    Asked,
    Closing,
    Examining,
    Listing,
    Opening,
    Passed,
    Pending,
    Reading,
    Writing,
    opened_of,
)
from bastion.core.sftp.requests import Needs, Piece, Request, Unsupported, parse_piece, parse_request
from bastion.core.sftp.transfer import Room
from bastion.core.watching import Step, quoted

MAX_IN_FLIGHT = 1024
"""Requests without an answer; OpenSSH's client has 64 unless told otherwise (`sftp -R`)."""

MAX_OPEN = 1024
"""Handles: what a process may have open on most targets."""

_INIT = b"\x00\x00\x00\x05\x01\x00\x00\x00\x03"


class _Stage(Enum):
    NEW = auto()
    GREETED = auto()
    AGREED = auto()


class SftpWatch:
    """One SFTP conversation. Values in, values out: the caller records and delivers each `Step`, in that order.

    With neither right everything is refused. Where paths are limited, one request at a time is examined before it
    passes (`examination`); those that name paths wait for it, those on open files do not.
    """

    def __init__(self, rights: FileRights) -> None:
        read = None if rights.read else Action.SSH_SFTP_READ
        write = None if rights.write else Action.SSH_SFTP_WRITE
        self._read, self._write = rights.read or Limits(), rights.write or Limits()
        self._examiner = Examiner(rights)
        self._due = b""
        """What the target is to be sent when no packet of the client's is on its way."""
        self._missing = {
            Needs.READ: read,
            Needs.WRITE: write,
            Needs.BOTH: read or write,
            Needs.EITHER: read if write else None,
        }
        self._client = Flow(judge=self._request, between=self._take_due)
        self._target = Flow(judge=self._answer, between=self._after_answer)
        self._stage = _Stage.NEW
        self._pending: dict[int, Pending] = {}
        """By id, in the order of asking."""
        self._answers_due = 0
        self._handles: dict[bytes, Opened] = {}
        self._room = Room()
        self._delivering: Opened | None = None
        """Whose data is on its way to the client; `_writing`, to the target."""
        self._writing: Opened | None = None
        self._opened = 0
        self._moved: dict[Opened, None] = {}
        """Those of which something passed in this step."""
        self._over: list[Underway] = []
        self._lines: list[str] = []
        self._says: list[str] = []
        self._said: set[str] = set()
        """Each sentence is said once."""
        self._violation: SftpViolation | None = None

    @property
    def owes_the_target(self) -> bool:
        """Whether something of what the client sent is still to be passed on."""
        return self._examiner.is_busy or bool(self._due)

    def from_client(self, data: bytes) -> Step:
        """What ``data``, which the client sent, comes to.

        Raises:
            SftpViolation: the session ends; see there for what was still right. Every later call raises again.
        """
        return self._step(self._client, data)

    def from_target(self, data: bytes) -> Step:
        """The same of what the target sent."""
        return self._step(self._target, data)

    def close(self) -> tuple[str, ...]:
        """The last lines: files left open with what passed so far, requests without an answer. Idempotent."""
        delivering = [] if self._delivering is None else [self._delivering]
        opened = dict.fromkeys([*self._handles.values(), *opened_of(self._pending), *delivering])
        pending = self._pending
        self._handles, self._pending, self._delivering = {}, {}, None
        lines = [f"sftp left open {file.describe()}, incomplete" for file in opened]
        unanswered = [each.text for each in pending.values() if isinstance(each, Asked | Opening)]
        not_passed = [each.text for each in pending.values() if isinstance(each, Examining)]
        return (
            *lines,
            *(f"sftp {text} not answered" for text in unanswered),
            *(f"sftp {text} not passed on" for text in not_passed),
        )

    def _step(self, flow: Flow, data: bytes) -> Step:
        if self._violation is not None:
            raise SftpViolation(self._violation.public)
        try:
            flow.feed(data)
        except SftpViolation as violation:
            self._violation = violation
            self._lines.append(f"sftp ended: {violation.public}")
            violation.before = self._drain()
            raise
        return self._drain()

    def _drain(self) -> Step:
        if self._answers_due and not self._target.is_within_a_packet:
            self._target.put(self._due_answers())
        if self._due and not self._client.is_within_a_packet:
            self._client.put(self._take_due())
        lines, self._lines = tuple(self._lines), []
        says, self._says = tuple(self._says), []
        return Step(self._client.drain(), self._target.drain(), lines, self._take_underway(), says)

    def _take_underway(self) -> tuple[Underway, ...]:
        underway = (*self._over, *(opened.so_far() for opened in self._moved))
        writing = self._writing if self._client.is_within_a_packet else None
        self._moved = dict.fromkeys(opened for opened in (writing, self._delivering) if opened is not None)
        self._over = []
        return underway

    # ---------------------------------------------------------------------------------------------- from the client

    def _request(self, head: bytes) -> Ruling:
        self._writing = None
        if self._stage is not _Stage.AGREED:
            return self._greet(head)
        if head[4] in (Kind.READ, Kind.WRITE):
            return self._piece(head[4], parse_piece(head))
        request = parse_request(head)
        self._admit(request.id)
        match request:
            case Request():
                return self._ask(request)
            case Unsupported(request_id, text, reason):
                return self._refuse(request_id, text, Status.OPERATION_UNSUPPORTED, reason)
            case _:
                assert_never(request)

    def _greet(self, packet: bytes) -> Ruling:
        """The target is always asked for version 3, so that it cannot agree with the client on another (section 4)."""
        if self._stage is not _Stage.NEW or packet[4] != Kind.INIT:
            raise SftpViolation("The client sent an SFTP request before the version was agreed.")
        if (version := Reader(packet).number()) < VERSION:
            raise SftpViolation(f"The client speaks SFTP version {version}; version {VERSION} is needed.")
        self._stage = _Stage.GREETED
        return _INIT

    def _admit(self, request_id: int) -> None:
        if request_id in self._pending:
            raise SftpViolation(f"The client used the SFTP request id {request_id} again before its answer.")
        if len(self._pending) >= MAX_IN_FLIGHT:
            raise SftpViolation(f"The client has more than {MAX_IN_FLIGHT} SFTP requests without an answer.")

    def _piece(self, kind: int, piece: Piece) -> Ruling:
        self._admit(piece.id)
        opened = self._handles.get(piece.handle)
        writes = kind == Kind.WRITE
        if opened is None:
            return self._refuse_handle(piece.id, "write" if writes else "read")
        if (missing := self._missing[Needs.WRITE if writes else Needs.READ]) is not None:
            return self._refuse_right(piece.id, f"{'write' if writes else 'read'} {opened.name}", missing)
        if writes and self._write.exceeded_by(piece.offset + piece.length):
            return self._refuse_size(piece.id, f"write {opened.name}", self._write)
        opened.asked += 1
        if writes:
            self._pending[piece.id] = Writing(opened)
            opened.written.begin(piece.offset, piece.length)
            self._writing = opened
            self._moved[opened] = None
            return opened.written.feed
        self._pending[piece.id] = Reading(opened, piece.offset, piece.length)
        opened.read.expect(piece.offset)
        return _pass

    def _ask(self, request: Request) -> Ruling:
        found = [self._handles.get(handle) for handle in request.handles]
        opened = [file for file in found if file is not None]
        if len(opened) < len(found):
            return self._refuse_handle(request.id, request.verb)
        text = request.describe(tuple(file.name for file in opened) + tuple(map(quoted, request.paths)))
        if (missing := self._missing[request.needs]) is not None:
            return self._refuse_right(request.id, text, missing)
        if (exceeded := self._exceeded(request)) is not None:
            return self._refuse_size(request.id, text, exceeded)
        if self._examiner.concerns(request):
            return self._examine(request, text)
        self._pending[request.id] = self._pass_on(request, text, opened)
        return _pass

    def _exceeded(self, request: Request) -> Limits | None:
        """The limits that are exceeded by what ``request`` makes of a file's size.

        Where a file that is opened to append ends, its offsets do not say.
        """
        if self._write.max_size is not None and (request.flags or 0) & OpenFlag.APPEND:
            return self._write
        if request.reach is None or request.needs not in (Needs.WRITE, Needs.BOTH):
            return None
        limits = (self._write,) if request.needs is Needs.WRITE else (self._write, self._read)
        return next((each for each in limits if each.exceeded_by(request.reach)), None)

    def _pass_on(self, request: Request, text: str, opened: list[Opened]) -> Passed:
        if request.kind == Kind.CLOSE:
            # The handle is gone whatever the answer (section 6.2), and the target may give it away again at once.
            del self._handles[request.handles[0]]
            opened[0].asked += 1
            return Closing(opened[0])
        if request.kind == Kind.READDIR:
            opened[0].asked += 1
            return Listing(opened[0])
        self._lines.append(f"sftp {text}")
        if request.answer is Kind.HANDLE:
            return Opening(text, request.answer, request.paths[0], request.flags)
        return Asked(text, request.answer)

    def _refuse_right(self, request_id: int, text: str, missing: Action) -> Ruling:
        return self._refuse(request_id, text, Status.PERMISSION_DENIED, f"your grant does not include {missing}")

    def _refuse_handle(self, request_id: int, verb: str) -> Ruling:
        return self._refuse(request_id, verb, Status.FAILURE, "that handle is not open")

    def _refuse_size(self, request_id: int, text: str, limits: Limits) -> Ruling:
        return self._refuse(request_id, text, Status.PERMISSION_DENIED, _too_large(limits))

    def _refuse(self, request_id: int, text: str, code: Status, reason: str, public: str = "") -> Ruling:
        self._lines.append(f"sftp {text} refused: {reason}")
        return self._answer_here(request_id, self._refusal(request_id, text, code, public or reason))

    def _refusal(self, request_id: int, text: str, code: Status, public: str) -> bytes:
        if code is Status.PERMISSION_DENIED and public not in self._said:
            self._said.add(public)
            self._says.append(f"{public[0].upper()}{public[1:]}.")
        verb = text.partition(' "')[0]
        return status(request_id, code, f"bastion: {public} ({verb})")

    def _answer_here(self, request_id: int, packet: bytes) -> bytes:
        """``packet`` is the answer, when it is its turn; nothing goes to the target."""
        self._pending[request_id] = AnsweredHere(packet)
        self._answers_due += 1
        return b""

    # ---------------------------------------------------------------------------------------- where paths are limited

    def _examine(self, request: Request, text: str) -> Ruling:
        self._pending[request.id] = Examining(text, request)
        return self._take(self._examiner.begin(request))

    def _examined(self, answer: Answer, packet: bytes) -> Ruling:
        """The target answered a question of ours, or one that the client had as well."""
        turn = self._examiner.go_on(answer, packet)
        self._due += self._take(turn)
        return _pass if turn.found and isinstance(turn.found[0][1], Answered) else b""

    def _take(self, turn: Turn) -> bytes:
        """What goes to the target: requests that may pass, and the next question."""
        return b"".join(self._conclude_examination(request, finding) for request, finding in turn.found) + turn.question

    def _conclude_examination(self, request: Request, finding: Finding) -> bytes:
        text = request.describe(tuple(map(quoted, request.paths)))
        match finding:
            case Cleared(paths):
                asked = f", asked for as {' and '.join(map(quoted, request.paths))}" if paths != request.paths else ""
                request = replace(request, paths=paths)
                text = request.describe(tuple(map(quoted, paths))) + asked
                self._pending[request.id] = self._pass_on(request, text, [])
                return request.at(paths)
            case Barred(public, reason):
                self._refuse(request.id, text, Status.PERMISSION_DENIED, reason, public)
            case Failed(code):
                self._lines.append(f"sftp {text} failed: {spell_status(code)}")
                self._answer_here(request.id, status(request.id, code, spell_status(code)))
            case Answered():
                del self._pending[request.id]
                self._lines.append(f"sftp {text}")
            case _:
                assert_never(finding)
        return b""

    def _take_due(self) -> bytes:
        due, self._due = self._due, b""
        return due

    # ---------------------------------------------------------------------------------------------- from the target

    def _answer(self, head: bytes) -> Ruling:
        if self._stage is not _Stage.AGREED:
            return self._agree(head)
        answer = parse_answer(head)
        if self._examiner.is_asking(answer.id):
            return self._examined(answer, head)
        pending = self._pending.pop(answer.id, None)
        if pending is None or isinstance(pending, AnsweredHere | Examining):
            raise SftpViolation(f"The target answered the SFTP request {answer.id}, which nobody asked.")
        if answer.kind == Kind.STATUS:
            self._conclude(pending, answer.value)
            return _pass
        return self._grant(pending, answer)

    def _agree(self, packet: bytes) -> Ruling:
        if self._stage is not _Stage.GREETED or packet[4] != Kind.VERSION:
            raise SftpViolation("The target sent an SFTP answer before the version was agreed.")
        if (version := Reader(packet).number()) != VERSION:
            raise SftpViolation(f"The target speaks SFTP version {version}; only version {VERSION} is recorded here.")
        self._stage = _Stage.AGREED
        self._lines.append(f"sftp version {version}")
        return _pass

    def _conclude(self, pending: Passed, code: int) -> None:
        """A STATUS: the end of what was asked, well or not."""
        match pending:
            case Asked(text, answer) | Opening(text, answer):
                if code == Status.OK and answer is not Kind.STATUS:
                    raise SftpViolation("The target said that an SFTP request went well, without what was asked for.")
                if code != Status.OK:
                    self._lines.append(f"sftp {text} failed: {spell_status(code)}")
            case Reading(opened):
                self._settle(opened, "read", code)
            case Writing(opened):
                self._settle(opened, "write", code)
            case Listing(opened):
                self._settle(opened, "list", code)
            case Closing(opened):
                opened.closed = code
                self._settle(opened, "close", Status.OK)
            case _:
                assert_never(pending)

    def _grant(self, pending: Passed, answer: Answer) -> Ruling:
        """What was asked for. Anything else is a violation: it would be described as what it is not."""
        match pending:
            case Opening(_, expected) if answer.kind == expected:
                self._open(pending, answer.handle)
            case Asked(_, expected) if answer.kind == expected:
                pass
            case Reading(opened, offset, length) if answer.kind == Kind.DATA and answer.value <= length:
                if self._read.exceeded_by(offset + answer.value):
                    return self._withhold(opened, answer.id)
                opened.read.begin(offset, answer.value)
                self._delivering = opened
                self._moved[opened] = None
                return opened.read.feed
            case Listing(opened) if answer.kind == Kind.NAME:
                opened.entries += answer.value
                self._settle(opened, "list", Status.OK)
            case _:
                raise SftpViolation(f"The target answered the SFTP request {answer.id} with what was not asked for.")
        return _pass

    def _withhold(self, opened: Opened, request_id: int) -> Ruling:
        """Data from beyond the size that may be read: it ends here."""
        text = f"read {opened.name}"
        self._lines.append(f"sftp {text} refused: {_too_large(self._read)}")
        self._settle(opened, "read", Status.PERMISSION_DENIED)
        return self._refusal(request_id, text, Status.PERMISSION_DENIED, _too_large(self._read))

    def _open(self, opening: Opening, handle: bytes) -> None:
        if handle in self._handles:
            raise SftpViolation("The target gave an SFTP handle that is open already.")
        if len(self._handles) >= MAX_OPEN:
            raise SftpViolation(f"The client has {MAX_OPEN} files open already.")
        name = quoted(opening.path)
        self._opened += 1
        if opening.flags is None:
            self._handles[handle] = open_directory(self._opened, name, self._room)
        else:
            self._handles[handle] = open_file(self._opened, name, opening.flags, self._room)

    def _settle(self, opened: Opened, verb: str, code: int) -> None:
        """One request on an open file is over; with the last one of a closed file its line is due."""
        opened.asked -= 1
        if code not in (Status.OK, Status.END_OF_FILE):
            opened.note_failure(verb, code)
        if opened.closed is not None and opened.asked == 0:
            failed = f" failed: {spell_status(opened.closed)}" if opened.closed != Status.OK else ""
            self._lines.append(f"sftp close {opened.describe()}{failed}")
            self._moved.pop(opened, None)
            if opened.is_underway:
                self._over.append(Underway(opened.number))

    def _after_answer(self) -> bytes:
        if self._delivering is not None:
            opened, self._delivering = self._delivering, None
            self._settle(opened, "read", Status.OK)
        return self._due_answers() if self._answers_due else b""

    def _due_answers(self) -> bytes:
        """Refusals in the order of asking, as far as no request before them waits for the target."""
        due = []
        for request_id, pending in self._pending.items():
            if not isinstance(pending, AnsweredHere):
                break
            due.append((request_id, pending.packet))
        for request_id, _ in due:
            del self._pending[request_id]
        self._answers_due -= len(due)
        return b"".join(packet for _, packet in due)


def _too_large(limits: Limits) -> str:
    return f"files of at most {limits.max_size} bytes are allowed, and no appending to them"


def _pass(data: memoryview) -> None:
    """The sink of a packet that passes and needs no more watching."""
