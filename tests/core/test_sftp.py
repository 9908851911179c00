"""What passes of an SFTP conversation, and what the transcript says of it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.core.files import FileRights, Limits
from bastion.core.recording import Underway
from bastion.core.sftp import SftpViolation, SftpWatch
from bastion.core.sftp.packets import MAX_PACKET, MAX_PATH
from bastion.core.sftp.transfer import Room, Transfer
from bastion.core.sftp.watch import MAX_IN_FLIGHT, MAX_OPEN
from bastion.core.watching import Step, quoted
from tests.core import sftp_wire as wire
from tests.core.sftp_wire import (
    HELLO,
    WELCOME,
    SmallTarget,
    content,
    extended,
    id_of,
    opens,
    packet,
    packets,
    reads,
    s,
    status,
    u32,
    u64,
    writes,
)  # fmt: skip

R, W, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 4, 8, 16, 32


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


ALL = FileRights(read=Limits(), write=Limits())


def rights(*, may_read: bool, may_write: bool) -> FileRights:
    return FileRights(Limits() if may_read else None, Limits() if may_write else None)


def greeted(*, may_read: bool = True, may_write: bool = True) -> SftpWatch:
    watch = SftpWatch(rights(may_read=may_read, may_write=may_write))
    assert watch.from_client(HELLO) == Step(to_target=HELLO)
    assert watch.from_target(WELCOME) == Step(to_client=WELCOME, lines=("sftp version 3",))
    return watch


def with_file(flags: int = R, *, may_read: bool = True, may_write: bool = True) -> SftpWatch:
    """A watcher whose client has ``/f`` open as ``h``."""
    watch = greeted(may_read=may_read, may_write=may_write)
    watch.from_client(opens(1, b"/f", flags))
    watch.from_target(packet(wire.HANDLE, 1, s(b"h")))
    return watch


def closed(watch: SftpWatch) -> tuple[str, ...]:
    watch.from_client(packet(wire.CLOSE, 9999, s(b"h")))
    return watch.from_target(status(9999)).lines


# --------------------------------------------------------------------------------------------------------- operations


@dataclass(frozen=True)
class Operation:
    """A request with the id 7, its line, and the rights that each suffice for it."""

    request: bytes
    line: str
    rights: frozenset[str]


WRITE_ONLY = frozenset({"write", "both"})
READ_ONLY = frozenset({"read", "both"})
ANY = frozenset({"read", "write", "both"})
BOTH = frozenset({"both"})
ATTRIBUTES = u32(0xF) + u64(5) + u32(1000) + u32(100) + u32(0o640) + u32(0) + u32(1_700_000_000)
P, Q, NONE = s(b"/p"), s(b"/q"), u32(0)

OPERATIONS = {
    "open read": Operation(opens(7, b"/p", R), 'open "/p" read', READ_ONLY),
    "open without flags": Operation(opens(7, b"/p", 0), 'open "/p" read', READ_ONLY),
    "open write": Operation(opens(7, b"/p", W | CREATE | TRUNCATE), 'open "/p" write create truncate', WRITE_ONLY),
    "open both": Operation(opens(7, b"/p", R | W), 'open "/p" read write', BOTH),
    "open append": Operation(opens(7, b"/p", APPEND), 'open "/p" append', WRITE_ONLY),
    "open create": Operation(opens(7, b"/p", CREATE), 'open "/p" create', WRITE_ONLY),
    "open truncate": Operation(opens(7, b"/p", TRUNCATE | R), 'open "/p" read truncate', BOTH),
    "open exclusive": Operation(opens(7, b"/p", W | EXCLUSIVE), 'open "/p" write exclusive', WRITE_ONLY),
    "open with mode": Operation(
        packet(wire.OPEN, 7, P, W | CREATE, 4, 0o600), 'open "/p" write create mode 0600', WRITE_ONLY
    ),
    "setstat": Operation(
        packet(wire.SETSTAT, 7, P, ATTRIBUTES),
        'setstat "/p" size 5 owner 1000:100 mode 0640 accessed 1970-01-01T00:00:00Z modified 2023-11-14T22:13:20Z',
        WRITE_ONLY,
    ),
    "fsetstat": Operation(packet(wire.FSETSTAT, 7, s(b"h"), 1, u64(0)), 'fsetstat "/f" size 0', WRITE_ONLY),
    "lsetstat": Operation(extended(7, b"lsetstat@openssh.com", P, 2, 1, 2), 'lsetstat "/p" owner 1:2', WRITE_ONLY),
    "remove": Operation(packet(wire.REMOVE, 7, P), 'remove "/p"', WRITE_ONLY),
    "mkdir": Operation(packet(wire.MKDIR, 7, P, 4, 0o755), 'mkdir "/p" mode 0755', WRITE_ONLY),
    "rmdir": Operation(packet(wire.RMDIR, 7, P), 'rmdir "/p"', WRITE_ONLY),
    "rename": Operation(packet(wire.RENAME, 7, P, Q), 'rename "/p" to "/q"', WRITE_ONLY),
    "posix-rename": Operation(extended(7, b"posix-rename@openssh.com", P, Q), 'rename "/p" to "/q"', WRITE_ONLY),
    "symlink": Operation(packet(wire.SYMLINK, 7, P, Q), 'symlink "/p" as "/q"', WRITE_ONLY),
    "hardlink": Operation(extended(7, b"hardlink@openssh.com", P, Q), 'hardlink "/p" as "/q"', WRITE_ONLY),
    "fsync": Operation(extended(7, b"fsync@openssh.com", s(b"h")), 'fsync "/f"', WRITE_ONLY),
    "copy": Operation(
        extended(7, b"copy-data", s(b"h"), u64(1), u64(20), s(b"h"), u64(300)),
        'copy "/f" to "/f" 20 bytes from offset 1 to offset 300, at the target',
        BOTH,
    ),
    "copy all": Operation(
        extended(7, b"copy-data", s(b"h"), u64(0), u64(0), s(b"h"), u64(0)),
        'copy "/f" to "/f" all bytes from offset 0 to offset 0, at the target',
        BOTH,
    ),
    "opendir": Operation(packet(wire.OPENDIR, 7, P), 'opendir "/p"', READ_ONLY),
    "stat": Operation(packet(wire.STAT, 7, P), 'stat "/p"', ANY),
    "lstat": Operation(packet(wire.LSTAT, 7, P), 'lstat "/p"', ANY),
    "fstat": Operation(packet(wire.FSTAT, 7, s(b"h")), 'fstat "/f"', ANY),
    "realpath": Operation(packet(wire.REALPATH, 7, P), 'realpath "/p"', ANY),
    "readlink": Operation(packet(wire.READLINK, 7, P), 'readlink "/p"', ANY),
    "statvfs": Operation(extended(7, b"statvfs@openssh.com", P), 'statvfs "/p"', ANY),
    "fstatvfs": Operation(extended(7, b"fstatvfs@openssh.com", s(b"h")), 'fstatvfs "/f"', ANY),
    "limits": Operation(extended(7, b"limits@openssh.com"), "limits", ANY),
    "expand-path": Operation(extended(7, b"expand-path@openssh.com", s(b"~")), 'expand-path "~"', ANY),
    "home-directory": Operation(extended(7, b"home-directory", s(b"ann")), 'home-directory "ann"', ANY),
    "users": Operation(extended(7, b"users-groups-by-id@openssh.com", s(u32(0)), s(b"")), "users-groups-by-id", ANY),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_an_operation_has_its_line_in_the_step_that_passes_it_on(operation: Operation) -> None:
    step = with_file().from_client(operation.request)
    assert step == Step(to_target=operation.request, lines=(f"sftp {operation.line}",))


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
def test_a_failed_operation_says_so_in_a_second_line(operation: Operation) -> None:
    watch = with_file()
    watch.from_client(operation.request)
    assert watch.from_target(status(7, 3)).lines == (f"sftp {operation.line} failed: permission denied (3)",)


@pytest.mark.parametrize(
    ("operation", "rights"),
    [
        pytest.param(operation, rights, id=f"{name}, {rights}")
        for name, operation in OPERATIONS.items()
        for rights in ("read", "write", "both", "none")
        if rights != "none" or '"/f"' not in operation.line  # nothing can be open without any right
    ],
)
def test_what_the_grant_does_not_include_is_refused_and_never_passed_on(operation: Operation, rights: str) -> None:
    may_read, may_write = rights in ("read", "both"), rights in ("write", "both")
    if '"/f"' in operation.line:
        watch = with_file(R if may_read else W, may_read=may_read, may_write=may_write)
    else:
        watch = greeted(may_read=may_read, may_write=may_write)
    step = watch.from_client(operation.request)
    assert bool(step.to_target) == (rights in operation.rights)
    if rights not in operation.rights:
        assert step.to_client[4] == wire.STATUS
        assert step.to_client[5:13] == u32(7) + u32(3)
        assert b"bastion: your grant does not include ssh:sftp_" in step.to_client
        assert step.lines[0].startswith(f"sftp {operation.line} refused: your grant does not include ssh:sftp_")


def test_a_refusal_is_the_status_that_a_target_would_send() -> None:
    step = greeted(may_write=False).from_client(packet(wire.REMOVE, 5, P))
    sentence = b"bastion: your grant does not include ssh:sftp_write (remove)"
    assert step == Step(
        to_client=packet(wire.STATUS, 5, 3, s(sentence), s(b"en")),
        lines=('sftp remove "/p" refused: your grant does not include ssh:sftp_write',),
        says=("Your grant does not include ssh:sftp_write.",),
    )


def test_why_something_is_refused_is_said_once_because_clients_do_not_show_it() -> None:
    watch = greeted(may_write=False)
    assert watch.from_client(packet(wire.REMOVE, 5, P) + packet(wire.REMOVE, 6, P)).says
    assert not watch.from_client(packet(wire.RMDIR, 7, P)).says


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        pytest.param(extended(7, b"eval@example.com", s(b"x")), 'extended "eval@example.com"', id="unknown extension"),
        pytest.param(extended(7, b"\x1b[2J"), r'extended "\x1b[2J"', id="control characters"),
        pytest.param(packet(21, 7, s(b"x")), "request of type 21", id="a request of version 6"),
        pytest.param(packet(wire.DATA, 7, s(b"x")), "request of type 103", id="an answer sent by the client"),
        pytest.param(packet(wire.INIT, 3), "request of type 1", id="a second greeting"),
        pytest.param(packet(wire.STAT, 7, s(b"a" * (MAX_PATH + 1))), "stat", id="path too long"),
        pytest.param(opens(7, b"/p", R | 0x40), "open", id="unknown flags"),
        pytest.param(packet(wire.SETSTAT, 7, P, 0x80000000, 0), "setstat", id="extended attributes"),
    ],
)
def test_what_the_bastion_does_not_know_is_unsupported(request_: bytes, line: str) -> None:
    step = greeted().from_client(request_)
    assert step.to_target == b""
    assert step.to_client[4:13] == bytes([wire.STATUS]) + request_[5:9] + u32(8)
    assert step.lines[0].startswith(f"sftp {line} refused: ")


@pytest.mark.parametrize(
    "request_",
    [
        reads(7, b"g", 0, 10), writes(7, b"g", 0, b"data"), packet(wire.CLOSE, 7, s(b"g")),
        packet(wire.FSTAT, 7, s(b"g")), packet(wire.READDIR, 7, s(b"g")),
        extended(7, b"copy-data", s(b"h"), u64(0), u64(0), s(b"g"), u64(0)),
    ],
    ids=["read", "write", "close", "fstat", "readdir", "copy"],
)  # fmt: skip
def test_a_handle_that_the_target_did_not_give_is_not_passed_on(request_: bytes) -> None:
    step = with_file(R | W).from_client(request_)
    assert step.to_target == b""
    assert step.to_client[4:13] == bytes([wire.STATUS]) + u32(7) + u32(4)


def test_a_handle_is_gone_when_its_close_passes_so_that_it_cannot_mean_another_file() -> None:
    watch = with_file(R)
    watch.from_client(packet(wire.CLOSE, 2, s(b"h")) + opens(3, b"/secret", R))
    assert watch.from_client(reads(4, b"h", 0, 10)).to_target == b""
    watch.from_target(status(2) + packet(wire.HANDLE, 3, s(b"h")))
    assert watch.from_client(reads(5, b"h", 0, 10)).to_target == reads(5, b"h", 0, 10)
    assert watch.close()[0].startswith('sftp left open "/secret" read')


def test_a_refusal_waits_for_the_answers_of_the_requests_before_it() -> None:
    watch = greeted(may_write=False)
    first, refused, last = packet(wire.STAT, 1, P), packet(wire.REMOVE, 2, P), packet(wire.STAT, 3, P)
    step = watch.from_client(first + refused + last)
    assert (step.to_target, step.to_client) == (first + last, b"")
    answers = packet(wire.ATTRS, 1, 0), packet(wire.ATTRS, 3, 0)
    assert [id_of(one) for one in packets(watch.from_target(b"".join(answers)).to_client)] == [1, 2, 3]


def test_a_refusal_is_not_put_into_the_middle_of_a_packet() -> None:
    watch = with_file(R, may_write=False)
    watch.from_client(reads(2, b"h", 0, 100))
    data = packet(wire.DATA, 2, s(content(0, 100)))
    assert watch.from_target(data[:50]).to_client == data[:50]
    assert watch.from_client(packet(wire.REMOVE, 3, P)).to_client == b""
    step = watch.from_target(data[50:])
    assert [id_of(one) for one in packets(data[:50] + step.to_client)] == [2, 3]


def test_the_target_is_asked_for_version_3_whatever_the_client_speaks() -> None:
    watch = SftpWatch(ALL)
    assert watch.from_client(packet(wire.INIT, 6, s(b"any"), s(b"1"))).to_target == HELLO


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        pytest.param(b"/tmp/x y", '"/tmp/x y"', id="plain"),
        pytest.param(b"", '""', id="empty"),
        pytest.param("/tmp/\u00e9\u4e2d".encode(), '"/tmp/\u00e9\u4e2d"', id="utf-8"),
        pytest.param(b'a" to "b', r'"a\" to \"b"', id="quotes"),
        pytest.param(rb"a\x1b", r'"a\\x1b"', id="backslash"),
        pytest.param(b"\x1b]0;x\x07\r\n\x00\x7f", r'"\x1b]0;x\x07\x0d\x0a\x00\x7f"', id="control"),
        pytest.param(b"\xff\xfe/x", r'"\xff\xfe/x"', id="not utf-8"),
        pytest.param("a\u202eb\u0085".encode(), r'"a\xe2\x80\xaeb\xc2\x85"', id="bidi and c1"),
        pytest.param(b"\xed\xa0\x80", r'"\xed\xa0\x80"', id="surrogate"),
    ],
)
def test_a_path_is_quoted(path: bytes, shown: str) -> None:
    assert quoted(path) == shown


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_two_paths_are_never_quoted_alike_and_never_reach_a_terminal(one: bytes, other: bytes) -> None:
    assert (quoted(one) == quoted(other)) == (one == other)
    assert quoted(one).isprintable()


# ------------------------------------------------------------------------------------------------------------ contents


def test_a_file_that_was_read_has_its_size_and_digest() -> None:
    watch = with_file(R)
    watch.from_client(reads(2, b"h", 0, 100) + reads(3, b"h", 100, 100) + reads(4, b"h", 200, 100))
    watch.from_target(
        packet(wire.DATA, 2, s(content(0, 100))) + packet(wire.DATA, 3, s(content(100, 50))) + status(4, 1)
    )
    assert closed(watch) == (f'sftp close "/f" read 150 bytes sha256 {sha256(content(0, 150))} in order',)


def test_a_file_that_was_written_has_its_size_and_digest_and_what_failed() -> None:
    watch = with_file(W | CREATE)
    watch.from_client(writes(2, b"h", 0, b"abc") + writes(3, b"h", 3, b"def") + writes(4, b"h", 6, b"g"))
    watch.from_target(status(2) + status(3, 4) + status(4, 3))
    assert closed(watch) == (
        f'sftp close "/f" written 7 bytes sha256 {sha256(b"abcdefg")} in order; '
        "2 times write failed, first with failure (4)",
    )


def test_answers_out_of_order_are_digested_in_the_order_of_the_file() -> None:
    watch = with_file(R)
    watch.from_client(b"".join(reads(n, b"h", n * 10, 10) for n in range(2, 8)))
    for n in (5, 3, 2, 7, 4, 6):
        watch.from_target(packet(wire.DATA, n, s(content(n * 10, 10))))
    digest = sha256(content(20, 60))
    assert closed(watch) == (f'sftp close "/f" read 60 bytes sha256 {digest} in order from offset 20',)


def test_seeking_is_said_and_digested_with_its_offsets() -> None:
    watch = with_file(W)
    watch.from_client(writes(2, b"h", 0, b"abcdef") + writes(3, b"h", 2, b"XY") + writes(4, b"h", 6, b"g"))
    watch.from_target(status(2) + status(3) + status(4))
    strays = hashlib.sha256(struct.pack(">QI", 2, 2) + b"XY" + struct.pack(">QI", 6, 1) + b"g").hexdigest()
    assert closed(watch) == (
        f'sftp close "/f" written 6 bytes sha256 {sha256(b"abcdef")} in order, then not sequential: '
        f"2 pieces, 3 bytes, sha256 of offsets, lengths and data {strays}",
    )


def test_offsets_are_not_trusted_to_order_a_file_opened_to_append() -> None:
    watch = with_file(W | APPEND)
    watch.from_client(writes(2, b"h", 5, b"later") + writes(3, b"h", 20, b"b") + writes(4, b"h", 10, b"a"))
    watch.from_target(status(2) + status(3) + status(4))
    assert ", then not sequential: 2 pieces, 2 bytes" in closed(watch)[0]


def test_the_line_of_a_close_waits_for_answers_that_are_still_under_way() -> None:
    watch = with_file(R)
    watch.from_client(reads(2, b"h", 0, 4) + packet(wire.CLOSE, 3, s(b"h")))
    assert watch.from_target(status(3)).lines == ()
    data = packet(wire.DATA, 2, s(b"last"))
    assert watch.from_target(data[:-1]).lines == ()
    step = watch.from_target(data[-1:])
    assert step.to_client == b"t"
    assert step.lines == (f'sftp close "/f" read 4 bytes sha256 {sha256(b"last")} in order',)


def test_a_close_that_fails_says_so() -> None:
    watch = with_file(W)
    watch.from_client(packet(wire.CLOSE, 2, s(b"h")))
    assert watch.from_target(status(2, 4)).lines[0].endswith(" in order failed: failure (4)")


def test_a_directory_has_the_count_of_its_entries() -> None:
    watch = greeted()
    watch.from_client(packet(wire.OPENDIR, 1, s(b"/d")))
    watch.from_target(packet(wire.HANDLE, 1, s(b"h")))
    watch.from_client(packet(wire.READDIR, 2, s(b"h")) + packet(wire.READDIR, 3, s(b"h")))
    entry = s(b"n") + s(b"long") + u32(0x8000000F) + bytes(28) + u32(1) + s(b"a") + s(b"b")
    watch.from_target(packet(wire.NAME, 2, 3, entry * 3) + status(3, 1))
    assert closed(watch) == ('sftp close "/d" 3 entries',)


def test_what_is_left_open_is_told_at_the_end_once() -> None:
    watch = with_file(W)
    watch.from_client(writes(2, b"h", 0, b"abcdef")[:-2])
    watch.from_client(b"")
    watch.from_client(b"e")
    assert watch.close() == (f'sftp left open "/f" written 5 bytes sha256 {sha256(b"abcde")} in order, incomplete',)
    assert watch.close() == ()


def test_data_that_is_cut_off_after_its_file_was_closed_is_told() -> None:
    watch = with_file(R)
    watch.from_client(reads(2, b"h", 0, 4) + packet(wire.CLOSE, 3, s(b"h")))
    watch.from_target(status(3) + packet(wire.DATA, 2, s(b"last"))[:-1])
    assert watch.close() == (f'sftp left open "/f" read 3 bytes sha256 {sha256(b"las")} in order, incomplete',)


def test_requests_without_an_answer_are_told_at_the_end() -> None:
    watch = with_file(R)
    watch.from_client(packet(wire.REMOVE, 2, P) + reads(3, b"h", 0, 5) + packet(wire.CLOSE, 4, s(b"h")))
    assert watch.close() == (
        f'sftp left open "/f" read 0 bytes sha256 {sha256(b"")} in order, incomplete',
        'sftp remove "/p" not answered',
    )


@given(st.permutations(range(40)), st.integers(1, 40), st.integers(0, 1 << 40))
def test_any_order_that_fits_the_room_gives_the_digest_of_the_content(order: list[int], size: int, base: int) -> None:
    transfer = Transfer(Room())
    transfer.expect(base)
    for n in order:
        transfer.begin(base + n * size, size)
        transfer.feed(memoryview(content(n * size, size)))
    where = f" from offset {base}" if base else ""
    total = 40 * size
    assert transfer.summary() == f"{total} bytes sha256 {sha256(content(0, total))} in order{where}"


def test_early_pieces_hold_no_more_than_the_room_and_give_it_back() -> None:
    room, piece = Room(1000), bytes(100)
    for _ in range(3):
        transfer = Transfer(room)
        transfer.expect(0)
        for n in range(1, 10):
            transfer.begin(n * 100, 100)
            transfer.feed(memoryview(piece))
        assert transfer.summary().startswith("not sequential: 9 pieces, 900 bytes")
    assert room.take(1000 - 256)


def test_pieces_that_are_no_longer_early_give_their_room_back() -> None:
    room = Room(1000)
    transfer = Transfer(room)
    transfer.expect(0)
    for offset in range(0, 10_000, 200):
        for place in (offset + 100, offset):
            transfer.begin(place, 100)
            transfer.feed(memoryview(content(place, 100)))
    assert transfer.summary() == f"10000 bytes sha256 {sha256(content(0, 10_000))} in order"


def test_two_early_pieces_at_one_place_are_not_one_run() -> None:
    transfer = Transfer(Room())
    transfer.expect(0)
    for offset, data in ((2, b"one"), (2, b"two"), (0, b"ab")):
        transfer.begin(offset, len(data))
        transfer.feed(memoryview(data))
    assert transfer.summary().startswith("not sequential: 3 pieces, 8 bytes")


def test_tiny_early_pieces_are_bounded_too() -> None:
    room = Room(10 * 257)
    transfer = Transfer(room)
    transfer.expect(0)
    for n in range(1, 11):
        transfer.begin(n * 2, 1)
        transfer.feed(memoryview(b"x"))
    assert not room.take(0)
    transfer.begin(100, 1)
    assert room.take(9 * 257)


# ---------------------------------------------------------------------------------------------------------- hostile


HOSTILE = {
    "client: length 0": ("client", u32(0), "packet of 0 bytes"),
    "client: length too large": ("client", u32(MAX_PACKET + 1), f"packet of {MAX_PACKET + 1} bytes"),
    "client: length 4 GiB": ("client", b"\xff\xff\xff\xff", "packet of 4294967295 bytes"),
    "client: no id": ("client", packet(wire.STAT, b"\0"), "shorter or longer"),
    "client: string past the end": ("client", packet(wire.STAT, 7, 100, b"short"), "shorter or longer"),
    "client: something after the end": ("client", packet(wire.STAT, 7, P, b"more"), "shorter or longer"),
    "client: handle too long": ("client", packet(wire.CLOSE, 7, s(b"h" * 257)), "handle has 257 bytes"),
    "client: write handle too long": ("client", writes(7, b"h" * 257, 0, b"x" * 99), "handle has 257 bytes"),
    "client: write longer than its data": (
        "client", packet(wire.WRITE, 7, s(b"h"), u64(0), s(b"abc"), b"d"), "shorter or longer"),
    "client: write shorter than its data": (
        "client", packet(wire.WRITE, 7, s(b"h"), u64(0), 5, b"abc"), "shorter or longer"),
    "client: write without anything": ("client", packet(wire.WRITE, 7), "shorter or longer"),
    "client: write of a handle past its end": (
        "client", packet(wire.WRITE, 7, 200, bytes(20)), "shorter or longer"),
    "client: read with something after": (
        "client", packet(wire.READ, 7, s(b"h"), u64(0), 5, b"x"), "shorter or longer"),
    "client: id used again": ("client", packet(wire.STAT, 2, P), "id 2 again"),
    "client: id of a read used again": ("client", reads(3, b"h", 0, 1), "id 3 again"),
    "target: length 0": ("target", u32(0), "packet of 0 bytes"),
    "target: length too large": ("target", u32(MAX_PACKET + 1), f"packet of {MAX_PACKET + 1} bytes"),
    "target: answers nothing": ("target", status(77), "77, which nobody asked"),
    "target: answers again": ("target", packet(wire.ATTRS, 1, 0), "1, which nobody asked"),
    "target: answers what was refused": ("target", status(6), "6, which nobody asked"),
    "target: second version": ("target", WELCOME, "type 2, which answers nothing"),
    "target: a request": ("target", packet(wire.REMOVE, 2, P), "type 13, which answers nothing"),
    "target: handle for a stat": ("target", packet(wire.HANDLE, 2, s(b"x")), "not asked for"),
    "target: attributes for a read": ("target", packet(wire.ATTRS, 3, 0), "not asked for"),
    "target: data for a stat": ("target", packet(wire.DATA, 2, s(b"x")), "not asked for"),
    "target: more data than asked for": ("target", packet(wire.DATA, 3, s(bytes(11))), "not asked for"),
    "target: data shorter than its packet": ("target", packet(wire.DATA, 3, 3, b"12345"), "shorter or longer"),
    "target: data longer than its packet": ("target", packet(wire.DATA, 3, 9, b"12345"), "shorter or longer"),
    "target: OK without a handle": ("target", status(4), "without what was asked for"),
    "target: a handle that is open": ("target", packet(wire.HANDLE, 4, s(b"h")), "open already"),
    "target: handle too long": ("target", packet(wire.HANDLE, 4, s(bytes(257))), "handle has 257 bytes"),
    "target: a huge count of names": (
        "target", packet(wire.NAME, 5, 0xFFFFFFFF, s(b"n") * 2, 0), "shorter or longer"),
    "target: names after the last": ("target", packet(wire.NAME, 5, 0, s(b"n") * 2, 0), "shorter or longer"),
    "target: a huge count of attributes": (
        "target", packet(wire.NAME, 5, 1, s(b"n") * 2, 0x80000000, 0xFFFFFFFF), "shorter or longer"),
    "target: status without a code": ("target", packet(wire.STATUS, 2), "shorter or longer"),
    "target: nothing but a type": ("target", packet(wire.STATUS), "shorter or longer"),
}  # fmt: skip
"""Who, what, and a part of the sentence."""


def beleaguered() -> SftpWatch:
    """``/f`` is open as ``h``; under way are 2 STAT, 3 READ of ten bytes, 4 OPEN, 5 REALPATH; 6 was refused."""
    watch = with_file(R)
    watch.from_client(
        packet(wire.STAT, 2, P) + reads(3, b"h", 0, 10) + opens(4, b"/g", R) + packet(wire.REALPATH, 5, P)
    )
    watch.from_client(extended(6, b"no-such@example.com"))
    return watch


@pytest.mark.parametrize(("side", "data", "sentence"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_peer_that_leaves_the_protocol_ends_the_session(side: str, data: bytes, sentence: str) -> None:
    watch = beleaguered()
    feed = watch.from_client if side == "client" else watch.from_target
    with pytest.raises(SftpViolation, match=sentence) as caught:
        feed(data)
    assert caught.value.before == Step(lines=(f"sftp ended: {caught.value.public}",))
    for again in (watch.from_client, watch.from_target):
        with pytest.raises(SftpViolation, match=sentence) as repeated:
            again(packet(wire.STAT, 90, P))
        assert repeated.value.before == Step()


def test_what_was_right_before_a_violation_is_not_lost() -> None:
    good, bad = packet(wire.REMOVE, 7, P), u32(0)
    with pytest.raises(SftpViolation) as caught:
        greeted().from_client(good + bad)
    assert caught.value.before.to_target == good
    assert caught.value.before.lines == ('sftp remove "/p"', f"sftp ended: {caught.value.public}")


def test_a_length_out_of_bounds_is_not_waited_for() -> None:
    with pytest.raises(SftpViolation):
        greeted().from_client(u32(MAX_PACKET + 1))


def test_a_client_cannot_ask_without_bound() -> None:
    watch = greeted()
    requests = [packet(wire.STAT, n, P) for n in range(MAX_IN_FLIGHT)]
    assert watch.from_client(b"".join(requests)).to_target == b"".join(requests)
    with pytest.raises(SftpViolation, match="without an answer"):
        watch.from_client(packet(wire.STAT, MAX_IN_FLIGHT, P))


def test_a_client_cannot_collect_refusals_without_bound() -> None:
    watch = greeted(may_write=False)
    watch.from_client(packet(wire.STAT, 0, P))
    with pytest.raises(SftpViolation, match="without an answer"):
        watch.from_client(b"".join(packet(wire.REMOVE, n, P) for n in range(1, MAX_IN_FLIGHT + 1)))


def test_a_client_cannot_open_without_bound() -> None:
    watch = greeted()
    for n in range(MAX_OPEN):
        watch.from_client(opens(n, b"/f", R))
        watch.from_target(packet(wire.HANDLE, n, s(b"h%d" % n)))
    watch.from_client(opens(5000, b"/f", R))
    with pytest.raises(SftpViolation, match="files open already"):
        watch.from_target(packet(wire.HANDLE, 5000, s(b"one more")))


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        pytest.param([("client", packet(wire.STAT, 1, P))], "before the version", id="request first"),
        pytest.param(
            [("client", HELLO), ("client", packet(wire.STAT, 1, P))], "before the version", id="request early"
        ),
        pytest.param([("client", HELLO), ("client", HELLO)], "before the version", id="two greetings"),
        pytest.param([("client", packet(wire.INIT, 2))], "version 2", id="client too old"),
        pytest.param([("client", packet(wire.INIT))], "shorter or longer", id="greeting without version"),
        pytest.param([("target", WELCOME)], "before the version", id="target speaks first"),
        pytest.param([("client", HELLO), ("target", status(1))], "before the version", id="answer early"),
        pytest.param([("client", HELLO), ("target", packet(wire.VERSION, 6))], "version 6", id="target too new"),
        pytest.param([("client", HELLO), ("target", packet(wire.VERSION, 2))], "version 2", id="target too old"),
    ],
)
def test_nothing_passes_until_both_speak_version_3(steps: list[tuple[str, bytes]], sentence: str) -> None:
    watch = SftpWatch(ALL)
    *before, (side, data) = steps
    for each, good in before:
        (watch.from_client if each == "client" else watch.from_target)(good)
    with pytest.raises(SftpViolation, match=sentence):
        (watch.from_client if side == "client" else watch.from_target)(data)


# ---------------------------------------------------------------------------------------------------------- bulk data


@pytest.mark.parametrize("size", [1, 32 * 1024, 255 * 1024])
def test_a_buffer_in_which_everything_passes_is_passed_on_without_a_copy(size: int) -> None:
    watch = with_file(R | W)
    write = writes(2, b"h", 0, bytes(size)) + writes(3, b"h", size, bytes(size))
    assert watch.from_client(write).to_target is write
    watch.from_target(status(2) + status(3))
    watch.from_client(reads(4, b"h", 0, size))
    data = packet(wire.DATA, 4, s(bytes(size)))
    assert watch.from_target(data).to_client is data


def test_data_passes_as_it_comes_once_its_head_is_judged() -> None:
    watch = with_file(R | W)
    write = writes(2, b"h", 0, content(0, 1000))
    head = len(write) - 1000
    assert watch.from_client(write[: head - 1]).to_target == b""
    assert watch.from_client(write[head - 1 : head + 1]).to_target == write[: head + 1]
    rest = write[head + 1 :]
    assert watch.from_client(rest).to_target is rest


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=30))
def test_a_refused_write_never_reaches_the_target_whatever_the_cutting(cuts: list[int]) -> None:
    watch = with_file(R, may_write=False)
    stat = packet(wire.STAT, 3, P)
    stream = writes(2, b"h", 0, b"SECRET" * 2000) + stat + writes(4, b"h", 0, b"SECRET")
    steps = [watch.from_client(piece) for piece in cut(stream, cuts)]
    assert b"".join(step.to_target for step in steps) == stat
    assert b"".join(step.to_client for step in steps)[4:9] == bytes([wire.STATUS]) + u32(2)


# -------------------------------------------------------------------------------------------------- any conversation

HANDLES = st.sampled_from([b"h1", b"h2", b"h3", b"h9"])
PATHS = st.sampled_from([b"/a", b"/b c", b'/"\x1b', b"\xff"])
OFFSETS = st.integers(0, 8).map(lambda n: n * 40)

REQUESTS = st.one_of(
    st.builds(lambda p, f: (wire.OPEN, (s(p), u32(f), u32(0))), PATHS, st.sampled_from([1, 2, 3, 26, 10])),
    st.builds(lambda p: (wire.OPENDIR, (s(p),)), PATHS),
    st.builds(lambda h: (wire.CLOSE, (s(h),)), HANDLES),
    st.builds(lambda h, o, n: (wire.READ, (s(h), u64(o), u32(n))), HANDLES, OFFSETS, st.integers(0, 80)),
    st.builds(lambda h, o, n: (wire.WRITE, (s(h), u64(o), s(content(o, n)))), HANDLES, OFFSETS, st.integers(0, 80)),
    st.builds(lambda h: (wire.READDIR, (s(h),)), HANDLES),
    st.builds(lambda k, p: (k, (s(p),)), st.sampled_from([wire.STAT, wire.REMOVE, wire.RMDIR, wire.REALPATH]), PATHS),
    st.builds(lambda p: (wire.MKDIR, (s(p), u32(0))), PATHS),
    st.builds(lambda p, q: (wire.RENAME, (s(p), s(q))), PATHS, PATHS),
    st.builds(lambda h: (wire.FSETSTAT, (s(h), u32(4), u32(0o600))), HANDLES),
    st.builds(lambda p, q: (wire.EXTENDED, (s(b"posix-rename@openssh.com"), s(p), s(q))), PATHS, PATHS),
    st.just((wire.EXTENDED, (s(b"limits@openssh.com"),))),
    st.just((wire.EXTENDED, (s(b"no-such@example.com"), s(b"x")))),
    st.just((99, (s(b"x"),))),
)
"""A kind and the fields after the id."""

CONVERSATIONS = st.lists(st.lists(REQUESTS, min_size=1, max_size=8), min_size=1, max_size=6)
"""Rounds of requests that are sent together and then answered."""

Rounds = list[list[tuple[int, tuple[bytes, ...]]]]
Script = list[tuple[str, bytes]]


def converse(rounds: Rounds, order: int, watch: SftpWatch) -> tuple[Script, SmallTarget]:
    """What was sent from which side when the watcher saw each round whole; ``order`` shuffles answers."""
    target, script, number = SmallTarget(), [("client", HELLO), ("target", WELCOME)], 0
    watch.from_client(HELLO)
    watch.from_target(WELCOME)
    for requests in rounds:
        sent = b"".join(packet(kind, number + n, *fields) for n, (kind, fields) in enumerate(requests, 1))
        number += len(requests)
        answers = [target.answer(request) for request in packets(watch.from_client(sent).to_target)]
        if order and answers:
            answers = answers[order % len(answers) :] + answers[: order % len(answers)]
        script += [("client", sent), ("target", b"".join(answers))]
        watch.from_target(b"".join(answers))
    return script, target


def cut(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """``data`` in pieces of those sizes, again and again."""
    pieces, n = [], 0
    while data:
        size = sizes[n % len(sizes)]
        pieces.append(data[:size])
        data, n = data[size:], n + 1
    return pieces


def replay(script: Script, cuts: Sequence[int], watch: SftpWatch) -> tuple[bytes, bytes, list[str], str]:
    """Everything that came out: to the target, to the client, the lines, and the violation that ended it."""
    to_target, to_client, end = b"", b"", ""
    lines: list[str] = []
    for side, data in script:
        for piece in cut(data, cuts):
            try:
                step = watch.from_client(piece) if side == "client" else watch.from_target(piece)
            except SftpViolation as violation:
                step, end = violation.before, violation.public
            to_target, to_client = to_target + step.to_target, to_client + step.to_client
            lines += step.lines
            if end:
                return to_target, to_client, [*lines, *watch.close()], end
    return to_target, to_client, [*lines, *watch.close()], end


CUTS = st.lists(st.integers(1, 60), min_size=1, max_size=12)
WHOLE = [1 << 30]


@settings(deadline=None)
@given(CONVERSATIONS, st.integers(0, 7), CUTS, st.booleans(), st.booleans())
def test_any_cutting_gives_the_same_bytes_and_the_same_lines(
    rounds: Rounds, order: int, cuts: list[int], may_read: bool, may_write: bool
) -> None:
    script, _ = converse(rounds, order, SftpWatch(rights(may_read=may_read, may_write=may_write)))
    whole = replay(script, WHOLE, SftpWatch(rights(may_read=may_read, may_write=may_write)))
    assert whole[3] == ""
    assert all(line.isprintable() for line in whole[2])
    assert replay(script, cuts, SftpWatch(rights(may_read=may_read, may_write=may_write))) == whole


@settings(deadline=None)
@given(CONVERSATIONS, st.integers(0, 7), CUTS)
def test_what_is_allowed_passes_byte_for_byte(rounds: Rounds, order: int, cuts: list[int]) -> None:
    script, target = converse(rounds, order, SftpWatch(ALL))
    passed = set(target.seen)
    allowed = [(side, _only(data, passed) if side == "client" else data) for side, data in script]
    allowed[:2] = script[:2]
    to_target, to_client, _, end = replay(allowed, cuts, SftpWatch(ALL))
    assert end == ""
    assert to_target == b"".join(data for side, data in allowed if side == "client")
    assert to_client == b"".join(data for side, data in allowed if side == "target")


def _only(stream: bytes, wanted: set[bytes]) -> bytes:
    return b"".join(one for one in packets(stream) if one in wanted)


CHANGING = {wire.WRITE, wire.SETSTAT, wire.FSETSTAT, wire.REMOVE, wire.MKDIR, wire.RMDIR, wire.RENAME, wire.SYMLINK}


@settings(deadline=None)
@given(CONVERSATIONS, st.integers(0, 7), CUTS)
def test_without_the_right_to_write_no_conversation_changes_anything(
    rounds: Rounds, order: int, cuts: list[int]
) -> None:
    script, _ = converse(rounds, order, SftpWatch(FileRights(read=Limits())))
    to_target, to_client, _, _ = replay(script, cuts, SftpWatch(FileRights(read=Limits())))
    for request in packets(to_target):
        assert request[4] not in CHANGING
        assert b"rename" not in request
        if request[4] == wire.OPEN:
            assert int.from_bytes(request[-8:-4], "big") == R
    asked = [id_of(one) for side, data in script[2:] if side == "client" for one in packets(data)]
    assert sorted(id_of(one) for one in list(packets(to_client))[1:]) == asked


@settings(deadline=None)
@given(CONVERSATIONS, st.data(), CUTS)
def test_a_damaged_stream_ends_the_same_way_whatever_the_cutting(
    rounds: Rounds, data: st.DataObject, cuts: list[int]
) -> None:
    script, _ = converse(rounds, 0, SftpWatch(ALL))
    which = data.draw(st.integers(0, len(script) - 1))
    side, stream = script[which]
    if stream:
        at = data.draw(st.integers(0, len(stream) - 1))
        script[which] = (side, stream[:at] + bytes([data.draw(st.integers(0, 255))]) + stream[at + 1 :])
    whole = replay(script, WHOLE, SftpWatch(ALL))
    assert replay(script, cuts, SftpWatch(ALL)) == whole
    assert all(line.isprintable() for line in whole[2])


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=200)), max_size=20))
def test_no_bytes_at_all_break_the_watcher(chunks: list[tuple[bool, bytes]]) -> None:
    watch = greeted()
    script = [("client" if from_client else "target", data) for from_client, data in chunks]
    assert replay(script, WHOLE, watch)[3].isprintable()
    assert watch.close() == ()


# ----------------------------------------------------------------------------------- how far files have come, and when


def test_bytes_have_their_digest_before_they_are_delivered_and_a_closed_file_is_over() -> None:
    watch = with_file(R | W)
    step = watch.from_client(writes(2, b"h", 0, b"abc"))
    assert step.underway == (Underway(1, f'sftp "/f" written 3 bytes sha256 {sha256(b"abc")} in order'),)
    watch.from_target(status(2))
    watch.from_client(reads(3, b"h", 0, 2))
    step = watch.from_target(packet(wire.DATA, 3, s(b"ab")))
    read, written = f"read 2 bytes sha256 {sha256(b'ab')} in order", f"written 3 bytes sha256 {sha256(b'abc')} in order"
    assert step.underway == (Underway(1, f'sftp "/f" {read}; {written}'),)
    watch.from_client(packet(wire.CLOSE, 4, s(b"h")))
    step = watch.from_target(status(4))
    assert (len(step.lines), step.underway) == (1, (Underway(1),))


@given(st.binary(min_size=1, max_size=300), st.lists(st.integers(1, 50)))
def test_however_a_packet_is_cut_the_digest_is_that_of_what_is_delivered(data: bytes, cuts: list[int]) -> None:
    watch, sent, head, delivered = with_file(W), writes(2, b"h", 0, data), len(writes(2, b"h", 0, b"")), b""
    for size in (*cuts, len(sent)):
        step, sent = watch.from_client(sent[:size]), sent[size:]
        delivered += step.to_target
        passed = delivered[head:]
        if step.to_target and passed:
            said = f'sftp "/f" written {len(passed)} bytes sha256 {sha256(passed)} in order'
            assert step.underway == (Underway(1, said),)
    assert delivered.endswith(data)


def test_pieces_that_come_early_have_a_digest_too_while_they_wait() -> None:
    transfer = Transfer(Room())

    def take(offset: int, data: bytes) -> None:
        transfer.begin(offset, len(data))
        transfer.feed(memoryview(data))

    take(0, b"abc")
    take(6, b"gh")
    take(4, b"e")
    placed = struct.pack(">QI", 6, 2) + b"gh" + struct.pack(">QI", 4, 1) + b"e"
    ordered = f"3 bytes sha256 {sha256(b'abc')} in order"
    early = f"ahead of its turn: 2 pieces, 3 bytes, sha256 of offsets, lengths and data {sha256(placed)}"
    assert transfer.so_far() == f"{ordered}, then {early}"
    take(3, b"d")
    take(5, b"f")
    assert transfer.so_far() == transfer.summary() == f"8 bytes sha256 {sha256(b'abcdefgh')} in order"
