"""Leaving the paths and sizes that a session is limited to, tried on OpenSSH's own sftp-server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.core.files import FileRights, Limits, parse_paths
from bastion.core.sftp import SftpViolation, SftpWatch
from tests.core import sftp_wire as wire
from tests.core.sftp_wire import (
    HELLO,
    WELCOME,
    id_of,
    opens,
    packet,
    s,
    status,
    u64,
)
from tests.core.test_sftp_openssh import find_sftp_server

R, W, APPEND, CREATE, TRUNCATE = 1, 2, 4, 8, 16
DENIED, MISSING = 3, 2
SECRET = b"secret"


@dataclass
class Session:
    """A client that speaks packets, a watch, and a real sftp-server whose start directory is ``home``."""

    root: Path
    watch: SftpWatch
    server: subprocess.Popen[bytes]
    lines: list[str] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    number: int = 0
    rest: bytes = b""

    def send(self, data: bytes) -> None:
        step = self.watch.from_client(data)
        self.lines += step.lines
        assert self.server.stdin is not None
        self.server.stdin.write(step.to_target)
        self.server.stdin.flush()
        self._keep(step.to_client)

    def receive(self, count: int) -> list[bytes]:
        """The next answers that the client gets."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        while len(self.answers) < count:
            data = os.read(self.server.stdout.fileno(), 1 << 16)
            assert data, "the server ended"
            step = self.watch.from_target(data)
            self.lines += step.lines
            self.server.stdin.write(step.to_target)
            self.server.stdin.flush()
            self._keep(step.to_client)
        found, self.answers = self.answers[:count], self.answers[count:]
        return found

    def _keep(self, data: bytes) -> None:
        data = self.rest + data
        while len(data) >= 4 and len(data) >= (end := 4 + int.from_bytes(data[:4], "big")):
            self.answers.append(data[:end])
            data = data[end:]
        self.rest = data

    def ask(self, kind: int, *fields: int | bytes) -> bytes:
        self.number += 1
        self.send(packet(kind, self.number, *fields))
        [answer] = self.receive(1)
        assert id_of(answer) == self.number
        return answer

    def extension(self, name: str, *fields: int | bytes) -> bytes:
        return self.ask(wire.EXTENDED, s(name.encode()), *fields)

    def path(self, text: str) -> bytes:
        return s((text if text.startswith(("/", "~")) else f"{self.root}/{text}").encode())

    def open(self, text: str, flags: int = R) -> bytes:
        """The handle, or the answer that is none."""
        answer = self.ask(wire.OPEN, self.path(text), flags, 0)
        return answer[9:] if answer[4] == wire.HANDLE else answer


def code(answer: bytes) -> int | None:
    """Of a STATUS."""
    return int.from_bytes(answer[9:13], "big") if answer[4] == wire.STATUS else None


def build(folder: Path) -> Path:
    """The target: ``in`` is allowed, ``out`` and ``home`` are not; links lead from the one into the other."""
    root = folder.resolve() / "target"
    for name in ("in/deep", "in/other", "out/folder", "home"):
        (root / name).mkdir(parents=True)
    for name in ("in/plain", "in/deep/plain", "out/secret", "out/folder/secret", "home/plain"):
        (root / name).write_bytes(SECRET)
    (root / "in/link").symlink_to(root / "out/secret")
    (root / "in/door").symlink_to("../out")
    (root / "in/dangling").symlink_to(root / "out/new")
    (root / "in/inner").symlink_to("deep/plain")
    (root / "home/shortcut").symlink_to(root / "in")
    return root


def start(root: Path, rights: FileRights) -> Session:
    server = subprocess.Popen(
        [str(find_sftp_server()), "-e"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        cwd=root / "home",
    )  # fmt: skip
    session = Session(root, SftpWatch(rights), server)
    session.send(HELLO)
    session.receive(1)
    return session


def limited(root: Path, *paths: str, read: bool = True, write: bool = True) -> FileRights:
    limits = Limits().within_also(parse_paths(str(root / path) + "/" for path in paths or ("in",)))
    return FileRights(limits if read else None, limits if write else None)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    root = build(tmp_path)
    session = start(root, limited(root))
    yield session
    session.server.kill()
    session.server.communicate()


def outside_of(root: Path) -> dict[str, object]:
    """Everything that must not have changed, nor have been seen."""
    return {
        str(path.relative_to(root)): (
            path.lstat().st_mode,
            path.lstat().st_nlink,
            path.read_bytes() if path.is_file() else b"",
        )
        for top in ("out", "home")
        for path in sorted((root / top).rglob("*"))
    }


LEADS_OUT = [
    "out/secret", "in/../out/secret", "in/deep/../../out/secret", "in/link", "in/door/secret", "in/door/folder/secret",
    "in/link/", "in/./link", "in//link", "in/inner/../../link", "/etc/passwd", "in/door/../out/secret", "in/../in/link",
    "home/plain", "../out/secret", "in", "in/nothing/../../out/secret",
]  # fmt: skip
FILES_OUT = [path for path in LEADS_OUT if path != "in"]


@pytest.mark.parametrize("path", FILES_OUT)
@pytest.mark.parametrize("flags", [R, W, W | CREATE, W | CREATE | TRUNCATE, R | W, APPEND | W])
def test_no_spelling_opens_a_file_that_lies_outside(session: Session, path: str, flags: int) -> None:
    before = outside_of(session.root)
    assert code(session.open(path, flags)) in (DENIED, MISSING)
    assert outside_of(session.root) == before
    assert not any(
        line.startswith("sftp open") and "refused" not in line and "failed" not in line for line in session.lines
    )


@pytest.mark.parametrize("path", ["plain", "../out/secret", "shortcut/link", "", "."])
def test_relative_paths_begin_in_the_start_directory_and_are_judged_the_same(session: Session, path: str) -> None:
    answer = session.ask(wire.OPEN, s(path.encode()), R, 0)
    assert code(answer) == DENIED


def test_a_link_that_leads_inside_is_followed_and_the_line_says_what_was_opened(session: Session) -> None:
    root = session.root
    answer = session.ask(wire.OPEN, s(b"shortcut/inner"), R, 0)
    assert answer[4] == wire.HANDLE
    assert session.lines[-1] == f'sftp open "{root}/in/deep/plain" read, asked for as "shortcut/inner"'


@pytest.mark.parametrize("path", ["in/dangling", "in/door/made", "out/made", "in/../made"])
def test_no_file_is_made_outside_of_the_paths(session: Session, path: str) -> None:
    assert code(session.open(path, W | CREATE)) == DENIED
    assert not (session.root / "out/new").exists()
    assert not (session.root / "out/made").exists()
    assert not (session.root / "made").exists()


@pytest.mark.parametrize(
    "kind", [wire.STAT, wire.OPENDIR, wire.REMOVE, wire.RMDIR, wire.READLINK, wire.REALPATH], ids=str
)
@pytest.mark.parametrize("path", ["out/secret", "out/folder", "in/door/secret", "in/door/folder", "in/../out", "home"])
def test_nothing_outside_is_looked_at_listed_or_removed(session: Session, kind: int, path: str) -> None:
    before = outside_of(session.root)
    answer = session.ask(kind, session.path(path))
    assert code(answer) == DENIED
    assert str(session.root).encode() not in answer, "where a link leads is not told"
    assert outside_of(session.root) == before


@pytest.mark.parametrize("kind", [wire.STAT, wire.OPENDIR, wire.REALPATH], ids=str)
def test_what_follows_a_link_is_judged_by_where_it_leads(session: Session, kind: int) -> None:
    assert code(session.ask(kind, session.path("in/door"))) == DENIED


@pytest.mark.parametrize("path", ["out/folder", "out/missing/x", "/etc/no-such-folder/x", "in/door/missing/x"])
def test_what_is_missing_outside_cannot_be_told_from_what_is_there(session: Session, path: str) -> None:
    for kind in (wire.STAT, wire.LSTAT, wire.REALPATH, wire.READLINK):
        assert code(session.ask(kind, session.path(path))) == DENIED
    assert code(session.extension("expand-path@openssh.com", session.path(path))) == DENIED


def test_what_is_missing_inside_is_missing(session: Session) -> None:
    assert code(session.ask(wire.STAT, session.path("in/missing/x"))) == MISSING
    assert code(session.open("in/missing")) == MISSING


def test_attributes_of_what_lies_outside_are_not_set(session: Session) -> None:
    before = outside_of(session.root)
    for path in ("out/secret", "in/link", "in/door/secret"):
        assert code(session.ask(wire.SETSTAT, session.path(path), 4, 0o777)) == DENIED
        assert code(session.ask(wire.SETSTAT, session.path(path), 1, u64(0))) == DENIED
    assert code(session.extension("lsetstat@openssh.com", session.path("out/secret"), 4, 0o777)) == DENIED
    assert outside_of(session.root) == before


@pytest.mark.parametrize("name", [None, "posix-rename@openssh.com"])
@pytest.mark.parametrize(
    ("old", "new"),
    [("in/plain", "out/plain"), ("out/secret", "in/stolen"), ("in/plain", "in/door/plain"), ("in/door/secret", "in/x"),
     ("in/plain", "in/../out/plain"), ("in/link", "in/moved"), ("in/door", "in/moved"), ("in/deep", "in/moved"),
     ("in/link/", "in/moved"), ("in/plain", "in/..")],
)  # fmt: skip
def test_a_rename_neither_leaves_nor_brings_in_nor_moves_a_link(
    session: Session, name: str | None, old: str, new: str
) -> None:
    before = outside_of(session.root)
    pair = (session.path(old), session.path(new))
    answer = session.ask(wire.RENAME, *pair) if name is None else session.extension(name, *pair)
    assert code(answer) == DENIED
    assert outside_of(session.root) == before
    assert (session.root / "in/link").is_symlink()
    assert (session.root / "in/door").is_symlink()
    assert sorted(path.name for path in (session.root / "in").iterdir()) == [
        "dangling", "deep", "door", "inner", "link", "other", "plain",
    ]  # fmt: skip


def test_a_plain_file_is_renamed_within(session: Session) -> None:
    assert code(session.extension("posix-rename@openssh.com", session.path("in/plain"), session.path("in/deep/x"))) == 0
    assert (session.root / "in/deep/x").read_bytes() == SECRET
    assert code(session.ask(wire.RENAME, session.path("in/deep/x"), session.path("in/plain"))) == 0


def test_no_links_are_made(session: Session) -> None:
    for old, new in (("out/secret", "in/new"), ("in/plain", "in/new"), ("in/link", "in/new")):
        assert code(session.ask(wire.SYMLINK, session.path(old), session.path("in/new"))) == DENIED
        assert code(session.extension("hardlink@openssh.com", session.path(old), session.path(new))) == DENIED
    assert not os.path.lexists(session.root / "in/new")
    assert session.lines[-1].endswith(
        "refused: links are not made where paths are limited: they could lead out of them"
    )


@pytest.mark.parametrize("path", ["~", "~root", "~root/x", "~/plain", "/etc", "~nobody-of-that-name"])
def test_expanding_a_path_tells_nothing_about_the_outside(session: Session, path: str) -> None:
    assert code(session.extension("expand-path@openssh.com", session.path(path))) == DENIED
    assert code(session.extension("home-directory", s(b"root"))) == DENIED


def test_the_start_directory_is_told_and_nothing_of_it(session: Session) -> None:
    answer = session.ask(wire.REALPATH, s(b"."))
    assert answer[4] == wire.NAME
    assert str(session.root / "home").encode() in answer
    assert session.ask(wire.REALPATH, session.path("home"))[4] == wire.NAME
    assert code(session.ask(wire.OPENDIR, s(b"."))) == DENIED
    assert code(session.ask(wire.STAT, s(b"plain"))) == DENIED
    assert code(session.ask(wire.REALPATH, s(b"plain"))) == DENIED


def test_folders_on_the_way_are_looked_at_and_not_listed(session: Session) -> None:
    assert session.ask(wire.STAT, s(b"/"))[4] == wire.ATTRS
    assert session.ask(wire.LSTAT, s(str(session.root).encode()))[4] == wire.ATTRS
    assert session.ask(wire.REALPATH, s(b"/"))[4] == wire.NAME
    assert code(session.ask(wire.OPENDIR, s(b"/"))) == DENIED
    assert code(session.open(str(session.root))) == DENIED


def test_what_lies_inside_works_as_ever(session: Session) -> None:
    handle = session.open("in/new", R | W | CREATE)
    assert code(session.ask(wire.WRITE, handle, u64(0), s(b"hello"))) == 0
    assert session.ask(wire.READ, handle, u64(0), 10)[4] == wire.DATA
    assert code(session.extension("fsync@openssh.com", handle)) == 0
    assert session.extension("fstatvfs@openssh.com", handle)[4] == wire.EXTENDED_REPLY
    assert code(session.ask(wire.CLOSE, handle)) == 0
    assert session.extension("statvfs@openssh.com", session.path("in"))[4] == wire.EXTENDED_REPLY
    assert code(session.ask(wire.SETSTAT, session.path("in/new"), 4, 0o600)) == 0
    assert code(session.extension("lsetstat@openssh.com", session.path("in/link"), 8, 1, 1)) == 0
    assert code(session.ask(wire.MKDIR, session.path("in/made/"), 0)) == 0
    assert code(session.ask(wire.RMDIR, session.path("in/made"))) == 0
    assert session.ask(wire.LSTAT, session.path("in/link"))[4] == wire.ATTRS
    assert session.ask(wire.READLINK, session.path("in/link"))[4] == wire.NAME
    assert code(session.ask(wire.REMOVE, session.path("in/link"))) == 0
    handle = session.ask(wire.OPENDIR, session.path("in/."))[9:]
    assert session.ask(wire.READDIR, handle)[4] == wire.NAME
    assert (session.root / "out/secret").exists()
    assert f'sftp mkdir "{session.root}/in/made", asked for as "{session.root}/in/made/"' in session.lines


def test_requests_that_are_sent_at_once_are_done_in_their_order(session: Session) -> None:
    folder, file = session.path("in/new"), session.path("in/new/file")
    session.send(
        packet(wire.MKDIR, 1, folder, 0) + packet(wire.OPEN, 2, file, W | CREATE, 0) + packet(wire.STAT, 3, s(b"/etc"))
        + packet(wire.OPENDIR, 4, folder) + packet(wire.SYMLINK, 5, file, folder)
    )  # fmt: skip
    answers = session.receive(5)
    assert [id_of(answer) for answer in answers] == [1, 2, 3, 4, 5]
    assert [answer[4] for answer in answers] == [wire.STATUS, wire.HANDLE, wire.STATUS, wire.HANDLE, wire.STATUS]
    assert (session.root / "in/new/file").exists()
    assert not session.watch.owes_the_target


def test_what_was_not_passed_on_is_told_at_the_end(session: Session) -> None:
    session.watch.from_client(packet(wire.REMOVE, 1, session.path("in/plain")))
    assert session.watch.owes_the_target
    assert session.watch.close() == (f'sftp remove "{session.root}/in/plain" not passed on',)


@pytest.mark.parametrize(
    "answer",
    [packet(wire.ATTRS, 1, 0), status(1, 0), packet(wire.HANDLE, 1, s(b"h"))],
    ids=["attributes", "all is well", "a handle"],
)
def test_a_target_that_does_not_say_where_a_path_leads_ends_the_session(answer: bytes) -> None:
    watch = SftpWatch(FileRights(read=Limits().within_also(frozenset({"/in/"}))))
    watch.from_client(HELLO)
    watch.from_target(WELCOME)
    watch.from_client(opens(1, b"/in/x", R))
    with pytest.raises(SftpViolation, match="what was not asked for"):
        watch.from_target(answer)


def test_what_passes_is_the_name_that_was_judged_and_not_the_one_that_was_asked_for() -> None:
    """Else a link that is swapped in the meantime on the asked way would be followed."""
    watch = SftpWatch(FileRights(read=Limits().within_also(frozenset({"/in/"}))))
    watch.from_client(HELLO)
    watch.from_target(WELCOME)
    watch.from_client(opens(1, b"/way/x", R))
    step = watch.from_target(packet(wire.NAME, 1, 1, s(b"/in/x"), s(b""), 0))
    assert step.to_target == opens(1, b"/in/x", R)
    assert step.lines == ('sftp open "/in/x" read, asked for as "/way/x"',)


@pytest.mark.parametrize("place", [b"", b"in/x", b"/in/../x", b"/in//x", b"/in/x\0", b"/out"])
def test_a_target_that_says_it_oddly_opens_nothing(place: bytes) -> None:
    watch = SftpWatch(FileRights(read=Limits().within_also(frozenset({"/in/"}))))
    watch.from_client(HELLO)
    watch.from_target(WELCOME)
    assert watch.from_client(opens(1, b"/in/x", R)).to_target == packet(wire.REALPATH, 1, s(b"/in/x"))
    step = watch.from_target(packet(wire.NAME, 1, 1, s(place), s(b""), 0))
    assert step.to_target == b""
    assert code(step.to_client) == DENIED


# --------------------------------------------------------------------------------------------------- one direction only


def test_each_direction_has_its_own_paths(tmp_path: Path) -> None:
    root = build(tmp_path)
    session = start(root, FileRights(limited(root, "in").read, limited(root, "in/other").write))
    try:
        assert code(session.open("in/plain", W)) == DENIED
        assert code(session.open("in/plain", R | W)) == DENIED
        assert code(session.open("in/plain", R)) is None
        assert code(session.open("in/other/new", W | CREATE)) is None
        assert code(session.ask(wire.RENAME, session.path("in/plain"), session.path("in/other/x"))) == DENIED
    finally:
        session.server.kill()
        session.server.communicate()


def test_who_may_write_everywhere_does_not_bring_in_what_may_not_be_read(tmp_path: Path) -> None:
    root = build(tmp_path)
    session = start(root, FileRights(limited(root, "in").read, Limits()))
    try:
        assert code(session.open("out/new", W | CREATE)) is None
        assert code(session.ask(wire.RENAME, session.path("out/secret"), session.path("in/stolen"))) == DENIED
        assert code(session.ask(wire.SYMLINK, session.path("out"), session.path("in/stolen"))) == DENIED
        assert (
            code(session.extension("hardlink@openssh.com", session.path("out/secret"), session.path("in/x"))) == DENIED
        )
        assert code(session.open("out/secret", R)) == DENIED
    finally:
        session.server.kill()
        session.server.communicate()


# ---------------------------------------------------------------------------------------------------------------- sizes


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Session]:
    """Files of a hundred bytes at most."""
    root = build(tmp_path)
    session = start(root, FileRights(Limits(max_size=100), Limits(max_size=100)))
    yield session
    session.server.kill()
    session.server.communicate()


def test_a_file_grows_to_its_limit_and_not_beyond_however_it_is_tried(small: Session) -> None:
    handle = small.open("in/new", R | W | CREATE)
    assert code(small.ask(wire.WRITE, handle, u64(0), s(b"x" * 100))) == 0
    for offset, data in ((100, b"x"), (1, b"x" * 100), (1 << 40, b"x"), ((1 << 64) - 1, b"x"), (0, b"x" * 101)):
        assert code(small.ask(wire.WRITE, handle, u64(offset), s(data))) == DENIED
    assert code(small.ask(wire.FSETSTAT, handle, 1, u64(101))) == DENIED
    assert code(small.ask(wire.SETSTAT, small.path("in/new"), 1, u64(1 << 40))) == DENIED
    assert code(small.extension("lsetstat@openssh.com", small.path("in/new"), 1, u64(101))) == DENIED
    assert code(small.ask(wire.OPEN, small.path("in/x"), W | CREATE, 1, u64(101))) == DENIED
    other = small.open("in/plain", R)
    for length, to in ((0, 0), (6, 95), (1, 1 << 63)):
        copy = (other, u64(0), u64(length), handle, u64(to))
        assert code(small.extension("copy-data", *copy)) == DENIED
    assert code(small.extension("copy-data", other, u64(0), u64(6), handle, u64(94))) == 0
    assert code(small.open("in/new", W | APPEND)) == DENIED
    assert (small.root / "in/new").stat().st_size == 100
    assert sum("refused: files of at most 100 bytes" in line for line in small.lines) == 13


def test_what_lies_beyond_the_limit_is_not_read(small: Session) -> None:
    (small.root / "in/just").write_bytes(b"x" * 100)
    (small.root / "in/large").write_bytes(b"x" * 101)
    handle = small.open("in/just")
    assert small.ask(wire.READ, handle, u64(0), 32768)[4] == wire.DATA
    assert code(small.ask(wire.READ, handle, u64(100), 32768)) == 1, "the end of the file is told"
    handle = small.open("in/large")
    assert code(small.ask(wire.READ, handle, u64(0), 32768)) == DENIED
    assert code(small.ask(wire.READ, handle, u64(100), 1)) == DENIED
    assert small.ask(wire.READ, handle, u64(0), 100)[4] == wire.DATA


# ------------------------------------------------------------------------------------------------- whatever is tried


PATHS = st.lists(
    st.sampled_from(["in", "out", "..", ".", "", "door", "link", "deep", "plain", "secret", "new"]), max_size=5
)
TRIES = st.one_of(
    st.tuples(st.just(wire.OPEN), PATHS.map("/".join), st.sampled_from([R, W, R | W, W | CREATE, W | TRUNCATE])),
    st.tuples(st.sampled_from([wire.REMOVE, wire.RMDIR, wire.OPENDIR]), PATHS.map("/".join), st.none()),
    st.tuples(st.sampled_from([wire.SETSTAT, wire.MKDIR]), PATHS.map("/".join), st.none()),
    st.tuples(st.sampled_from([wire.RENAME, wire.SYMLINK]), PATHS.map("/".join), PATHS.map("/".join)),
)


@settings(deadline=None, max_examples=25)
@given(st.lists(TRIES, min_size=1, max_size=12), st.booleans())
def test_no_sequence_of_requests_touches_what_lies_outside(
    tmp_path_factory: pytest.TempPathFactory, tries: list[tuple[int, str, int | str | None]], at_once: bool
) -> None:
    root = build(tmp_path_factory.mktemp("tries"))
    before = outside_of(root)
    session = start(root, limited(root))
    try:
        sent = []
        for number, (kind, path, more) in enumerate(tries, 1):
            one = s(f"{root}/{path}".encode())
            match kind, more:
                case wire.OPEN, int(flags):
                    sent.append(packet(kind, number, one, flags, 0))
                case _, str(other):
                    sent.append(packet(kind, number, one, s(f"{root}/{other}".encode())))
                case ((wire.SETSTAT | wire.MKDIR), _):
                    sent.append(packet(kind, number, one, 4, 0o700))
                case _:
                    sent.append(packet(kind, number, one))
        for data in [b"".join(sent)] if at_once else sent:
            session.send(data)
            for answer in session.receive(len(sent) if at_once else 1):
                if answer[4] == wire.HANDLE:
                    session.number = 1000 + id_of(answer)
                    session.send(packet(wire.READ, session.number, answer[9:], u64(0), 100))
                    [told] = session.receive(1)
                    assert told[4] != wire.DATA or b"out" not in session.lines[-1].encode()
    finally:
        session.server.kill()
        session.server.communicate()
    assert outside_of(root) == before
    assert not (root / "new").exists()
