"""Where the paths of a request lead at the target, when a session's paths are limited.

The bastion sees names, and a name may be a link. So the target itself is asked first (REALPATH, under the request's own
id, which nobody else may use meanwhile), the answer is judged, and the request is passed on with the canonical names
that were judged. Between the answer and the request something may still change at the target. From within limited
sessions nothing can change that matters, because they make no links, and rename nothing but plain files: a link can
vanish there, never appear. What other processes of the target swap in that moment is beyond the bastion.

A target whose REALPATH does not follow links (some servers that are not OpenSSH's) is one whose links are not seen.
"""

from __future__ import annotations

import posixpath
import stat
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

from bastion.core.files import FileRights, Limits
from bastion.core.sftp.packets import Answer, Kind, SftpViolation, Status, parse_mode, parse_name, question
from bastion.core.sftp.requests import Needs, Request
from bastion.core.watching import quoted

OUTSIDE = "that is outside of the paths that you may use"

MAX_DEPTH = 64
"""Folders above a path that does not exist, asked for one by one: a deeper one is outside."""

_NO_LINKS = "links are not made where paths are limited: they could lead out of them"
_ONLY_FILES = "only plain files are renamed where paths are limited: anything else could bring a link with it"

_LINKING = frozenset({"symlink", "hardlink"})

_RESOLVING = frozenset({"realpath", "expand-path", "home-directory"})
"""What is answered by a path, which is judged instead."""

_NOT_FOLLOWING = frozenset({"lstat", "lsetstat", "readlink", "remove", "rename", "mkdir", "rmdir"})
"""What concerns the last name of a path itself, even if that is a link."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """It may be passed on, about these canonical paths instead."""

    paths: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Barred:
    """It may not. ``public`` is for the client, who does not learn where a link leads; ``reason`` is for the line."""

    public: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The target cannot say where it leads, by this code, and the client may know that."""

    code: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The target has answered it already, and the client may have that answer."""


Finding = Cleared | Barred | Failed | Answered


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of a step: requests whose examination is over, and then a question of ours to the target."""

    found: tuple[tuple[Request, Finding], ...] = ()
    question: bytes = b""


_Examination = Generator[bytes, tuple[Answer, bytes], Finding]
"""Gives a question for the target, takes the answer and its packet, and so on until it returns what was found."""


class Examiner:
    """Examines the requests of one session one by one, as they came: one may make the folder of another."""

    def __init__(self, rights: FileRights) -> None:
        self._rights = rights
        self._is_needed = rights.are_narrowed
        self._waiting: deque[Request] = deque()
        """The first of them is being examined."""
        self._current: _Examination | None = None
        self._start: bytes | None = None
        """Where relative paths begin. It may always be asked for, because clients do not begin without."""

    @property
    def is_busy(self) -> bool:
        return bool(self._waiting)

    def concerns(self, request: Request) -> bool:
        """Whether ``request`` may pass only after it was examined."""
        if not self._is_needed or not request.paths:
            return False
        if request.verb in _LINKING:
            return True
        narrowed = [bool(limits.within) for limits in self._limits(request)]
        return all(narrowed) if request.needs is Needs.EITHER else any(narrowed)

    def is_asking(self, request_id: int) -> bool:
        """Whether what the target answers to ``request_id`` is the answer to a question of ours."""
        return bool(self._waiting) and self._waiting[0].id == request_id

    def begin(self, request: Request) -> Turn:
        """Examine ``request`` when it is its turn."""
        self._waiting.append(request)
        return self._next() if len(self._waiting) == 1 else Turn()

    def go_on(self, answer: Answer, packet: bytes) -> Turn:
        """The target answered the last question.

        Raises:
            SftpViolation: with something that is no answer to it.
        """
        if self._current is None:
            raise SftpViolation(f"The target answered the SFTP request {answer.id}, which nobody asked.")
        try:
            return Turn((), self._current.send((answer, packet)))
        except StopIteration as end:
            first = ((self._waiting.popleft(), end.value),)
        following = self._next()
        return Turn(first + following.found, following.question)

    def _next(self) -> Turn:
        found: tuple[tuple[Request, Finding], ...] = ()
        while self._waiting:
            self._current = self._examine(self._waiting[0])
            try:
                return Turn(found, next(self._current))
            except StopIteration as end:
                found += ((self._waiting.popleft(), end.value),)
        return Turn(found)

    def _examine(self, request: Request) -> _Examination:
        if request.verb in _LINKING:
            return Barred(_NO_LINKS, _NO_LINKS)
        if request.verb in _RESOLVING:
            return (yield from self._resolve(request))
        found: list[bytes] = []
        for path in request.paths:
            folder, name = _split(path) if request.verb in _NOT_FOLLOWING else (path, b"")
            answer, packet = yield question(Kind.REALPATH, request.id, folder)
            if _has_failed(answer, Kind.NAME):
                return (yield from self._explain(request, folder, answer.value))
            place = parse_name(packet)
            if place is None or not place.startswith(b"/"):
                return Barred(OUTSIDE, "the target does not say where it is")
            place = place.rstrip(b"/") + b"/" + name if name else place
            if not self._allows(request, place):
                return _outside(place)
            found.append(place)
        if request.verb == "rename":
            answer, packet = yield question(Kind.LSTAT, request.id, found[0])
            if _has_failed(answer, Kind.ATTRS):
                return Failed(answer.value)
            if not stat.S_ISREG(parse_mode(packet) or 0):
                return Barred(_ONLY_FILES, _ONLY_FILES)
        return Cleared(tuple(found))

    def _resolve(self, request: Request) -> _Examination:
        """A request that changes nothing, and whose answer is judged."""
        [asked] = request.paths
        answer, packet = yield request.at(request.paths)
        if _has_failed(answer, Kind.NAME):
            return (yield from self._explain(request, asked, answer.value))
        place = parse_name(packet) or b""
        if request.verb == "realpath" and asked in (b"", b"."):
            self._start = place
        return Answered() if place == self._start or self._allows(request, place) else _outside(place)

    def _explain(self, request: Request, path: bytes, code: int) -> _Examination:
        """Whether the client may know that there is no way to ``path``: only if the part that exists is allowed."""
        for _ in range(MAX_DEPTH):
            if path in (b"/", b".", b""):
                break
            path = posixpath.dirname(path.rstrip(b"/")) or b"."
            answer, packet = yield question(Kind.REALPATH, request.id, path)
            if not _has_failed(answer, Kind.NAME):
                place = parse_name(packet) or b""
                return Failed(code) if any(x.lead_to(place) for x in self._limits(request)) else _outside(place)
        return _outside(path)

    def _allows(self, request: Request, place: bytes) -> bool:
        match request.needs:
            case Needs.EITHER:
                return any(limits.lead_to(place) for limits in self._limits(request))
            case _:
                return all(limits.hold(place) for limits in self._limits(request))

    def _limits(self, request: Request) -> tuple[Limits, ...]:
        """What ``request`` is judged by. A rename takes a file into what may be read: all of them."""
        match request.needs:
            case Needs.READ if self._rights.read is not None:
                return (self._rights.read,)
            case Needs.WRITE if request.verb != "rename" and self._rights.write is not None:
                return (self._rights.write,)
            case _:
                return self._rights.granted


def _has_failed(answer: Answer, expected: Kind) -> bool:
    """Whether ``answer`` says that it did not go well.

    Raises:
        SftpViolation: it says neither that nor what was asked for.
    """
    if answer.kind == Kind.STATUS and answer.value != Status.OK:
        return True
    if answer.kind != expected:
        raise SftpViolation(f"The target answered the SFTP request {answer.id} with what was not asked for.")
    return False


def _outside(place: bytes) -> Barred:
    return Barred(OUTSIDE, f"{quoted(place)} is outside of the paths of this session")


def _split(path: bytes) -> tuple[bytes, bytes]:
    """The folder and the last name; without a name where the last one is none of its own (``/``, ``.``, ``..``)."""
    folder, slash, name = path.rstrip(b"/").rpartition(b"/")
    return (path, b"") if name in (b"", b".", b"..") else (folder + slash or b".", name)
