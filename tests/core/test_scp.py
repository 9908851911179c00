"""Which commands are scp and nothing else, and what its watcher lets pass and says."""

from __future__ import annotations

import hashlib
import random
import shlex
import subprocess
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bastion.core.files import FileRights, Limits, Paths
from bastion.core.recording import Underway
from bastion.core.scp import ScpCommand, ScpWatch, recognise
from bastion.core.scp.watch import MAX_DEPTH, MAX_EARLY, MAX_HELD, MAX_LINE
from bastion.core.watching import Violation

ANY_SIZE = Limits()
UPLOAD, DOWNLOAD = ScpCommand(True, "/in"), ScpCommand(False, "/out")

# ------------------------------------------------------------------------------------------------------------ commands


@pytest.mark.parametrize(
    ("command", "writes", "path"),
    [
        ("scp -t /tmp/x", True, "/tmp/x"),
        ("scp -f /tmp/x", False, "/tmp/x"),
        ("scp -v -r -p -d -t .", True, "."),
        ("scp -r -p -f -- -x", False, "-x"),
        ("scp -qrt 'a b'", True, "a b"),
        ('scp -pf "it\'s"', False, "it's"),
        ("scp -t 'it'\"'\"'s'", True, "it's"),
        ("scp -t 'it'\\''s'", True, "it's"),
        ("scp -t a\\ b", True, "a b"),
        ("scp -t '$(reboot); `x` *'", True, "$(reboot); `x` *"),
        ("scp -t \\$HOME", True, "$HOME"),
        ("scp -t ~/x", True, "~/x"),
        ("scp -t 'é'", True, "é"),
    ],
)
def test_what_clients_send_is_recognised(command: str, writes: bool, path: str) -> None:
    assert recognise(command) == ScpCommand(writes, path)


@pytest.mark.parametrize(
    "command",
    [
        'scp', 'scp -t', 'scp -t  ', 'scp /tmp/x', 'scp -tf x', 'scp -t -f x', 'scp -t x y', 'scp -t x -r',
        'scp -t -x', "scp -t '-x'", 'scp -t x;reboot', 'scp -t x; reboot', 'scp -t x && reboot', 'scp -t x|sh',
        'scp -t x\nreboot', 'scp -t x\rreboot', 'scp -t $(reboot)', 'scp -t `reboot`', 'scp -t $HOME',
        'scp -t "$HOME"', 'scp -f *', 'scp -f /tmp/?', 'scp -f [a]', 'scp -f {a,b}', 'scp -t x>y', 'scp -t <y',
        'scp -t x #', 'scp -t x&', 'scp -t (x)', "scp -t 'x", 'scp -t "x', 'scp -t x\\', 'scp -t \\x', "scp -t ''",
        "scp -t 'a\\'", "scp -t 'a!b'", 'scp -t !x', ' scp -t x', 'scp -t x ', '/usr/bin/scp -t x', "'scp' -t x",
        'scp\t-t x', 'A=b scp -t x', 'scp -S /bin/sh -t x', 'scp -oProxyCommand=x -t x', 'scp -t =x', 'scp -t é',
        "scp -t 'x\x00'", "scp -t 'x\x1b'", "scp -t '\udc80'", 'SCP -t x', 'exec scp -t x', 'scp -t x\\\nreboot',
        'scp -3 -t x', 'scp --t x', 'scp - -t x', 'sudo scp -t x',
    ],
)  # fmt: skip
def test_whatever_may_be_more_is_a_plain_command(command: str) -> None:
    assert recognise(command) is None


@settings(max_examples=300, deadline=None)
@given(st.text(" '\"\\$`;&|<>(){}[]*?~#!=-./abtfé\n", max_size=12))
@example("'a'\\''b'")
def test_every_shell_reads_what_is_recognised_as_one_path(text: str) -> None:
    found = recognise(f"scp -t {text}")
    if found is None or found.path.startswith("~"):
        return
    assert shlex.split(f"scp -t {text}")[-1] == found.path
    ran = subprocess.run(
        ["/bin/sh", "-c", f'scp() {{ printf "%s\\n" "$#" "$2" "$3"; }}\nscp -t {text}'], capture_output=True, check=True
    )
    seen = ran.stdout.decode().split("\n")
    words = ["-t", "--", found.path] if seen[0] == "3" else ["-t", found.path, ""]
    assert seen[1:3] == words[1:]


def test_where_paths_are_limited_it_may_not_be_run() -> None:
    narrow = Limits(frozenset({Paths(frozenset({"/in/"}))}))
    assert UPLOAD.limits(FileRights(write=Limits(max_size=5))) == Limits(max_size=5)
    assert UPLOAD.limits(FileRights(write=narrow)) is None
    assert UPLOAD.limits(FileRights(read=narrow, write=Limits())) is None
    assert UPLOAD.limits(FileRights(read=Limits())) is None
    assert DOWNLOAD.limits(FileRights(write=Limits())) is None


# --------------------------------------------------------------------------------------------------------- the protocol


class Copy:
    """A watcher between a source and a sink."""

    def __init__(self, command: ScpCommand = UPLOAD, limits: Limits = ANY_SIZE) -> None:
        self.watch = ScpWatch(command, limits)
        self._uploads = command.writes
        self.lines: list[str] = []
        self.to_sink = b""
        self.to_source = b""

    def source(self, data: bytes) -> None:
        self._step(self._uploads, data)

    def sink(self, data: bytes) -> None:
        self._step(not self._uploads, data)

    def _step(self, client: bool, data: bytes) -> None:
        step = self.watch.from_client(data) if client else self.watch.from_target(data)
        self.lines += step.lines
        to_sink, to_source = (step.to_target, step.to_client) if self._uploads else (step.to_client, step.to_target)
        self.to_sink += to_sink
        self.to_source += to_source


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_has_its_line_before_it_passes_and_its_digest_after() -> None:
    copy = Copy()
    copy.sink(b"\0")
    copy.source(b"T1700000000 0 1700000000 0\n")
    copy.sink(b"\0")
    copy.source(b"C0644 5 na me\n")
    assert copy.lines == ['scp write "na me" to "/in" mode 0644 size 5']
    copy.sink(b"\0")
    copy.source(b"hel")
    copy.source(b"lo\0")
    copy.sink(b"\0")
    assert copy.lines[1:] == [f'scp close "na me" to "/in" written 5 bytes sha256 {sha256(b"hello")} in order']
    assert copy.to_sink == b"T1700000000 0 1700000000 0\nC0644 5 na me\nhello\0"
    assert copy.to_source == b"\0\0\0\0"
    assert copy.watch.close() == ()


def test_folders_are_part_of_the_name() -> None:
    copy = Copy(DOWNLOAD)
    copy.sink(b"\0")
    for line in (b"D0755 0 a\n", b"D0755 0 b\n", b"C0600 0 c\n", b"\0", b"E\n", b"C0600 0 d\n", b"\0", b"E\n"):
        copy.source(line)
        copy.sink(b"\0")
    nothing = f"read 0 bytes sha256 {sha256(b'')} in order"
    assert copy.lines == [
        'scp enter "a" from "/out" mode 0755',
        'scp enter "a/b" from "/out" mode 0755',
        'scp read "a/b/c" from "/out" mode 0600 size 0',
        f'scp close "a/b/c" from "/out" {nothing}',
        'scp read "a/d" from "/out" mode 0600 size 0',
        f'scp close "a/d" from "/out" {nothing}',
    ]


def test_what_the_sink_refuses_is_not_followed_by_data() -> None:
    copy = Copy()
    copy.sink(b"\0")
    copy.source(b"C0644 5 x\n")
    copy.sink(b"\1scp: x: Permission \x1bdenied\n")
    assert copy.lines[-1] == 'scp write "x" to "/in" mode 0644 size 5 failed: "scp: x: Permission \\x1bdenied"'
    copy.source(b"C0644 0 y\n")
    assert copy.lines[-1] == 'scp write "y" to "/in" mode 0644 size 0'


def test_bytes_of_a_client_that_does_not_wait_are_never_taken_for_lines() -> None:
    copy = Copy()
    hidden = b"C0644 3 evil\nrm\n\0"
    copy.source(b"C0644 %d x\n" % len(hidden) + hidden + b"\0")
    assert copy.to_sink == b""
    copy.sink(b"\0")
    assert copy.to_sink == b"C0644 17 x\n"
    copy.sink(b"\1no\n")
    assert copy.to_sink == b"C0644 17 x\nC0644 3 evil\n"
    assert copy.lines[-1] == 'scp write "evil" to "/in" mode 0644 size 3'
    assert copy.watch.owes_the_target


def test_a_client_that_does_not_wait_is_served_as_if_it_had() -> None:
    copy = Copy()
    copy.source(b"C0644 5 x\nhello\0C0644 0 y\n\0")
    for _ in range(5):
        copy.sink(b"\0")
    assert copy.to_sink == b"C0644 5 x\nhello\0C0644 0 y\n\0"
    assert [line for line in copy.lines if "close" in line][0].startswith('scp close "x" to "/in" written 5 bytes')
    assert not copy.watch.owes_the_target


def test_answers_that_come_early_are_taken_in_their_order() -> None:
    copy = Copy(DOWNLOAD)
    copy.sink(b"\0\0\0")
    copy.source(b"C0644 2 x\nhi\0")
    assert copy.lines[-1] == f'scp close "x" from "/out" read 2 bytes sha256 {sha256(b"hi")} in order'


def test_a_file_that_could_not_be_read_or_written_says_so() -> None:
    copy = Copy()
    copy.sink(b"\0")
    copy.source(b"C0644 2 x\n")
    copy.sink(b"\0")
    copy.source(b"hi\1read error\n")
    copy.sink(b"\1disk full\n")
    assert copy.lines[-2:] == [
        'scp source reports "read error"',
        f'scp close "x" to "/in" written 2 bytes sha256 {sha256(b"hi")} in order failed: "disk full"',
    ]
    copy.source(b"\1no such file\n\2over\n")
    assert copy.to_sink.endswith(b"\1no such file\n\2over\n")


def test_bytes_have_their_digest_before_they_pass_and_a_closed_file_is_over() -> None:
    copy = Copy()
    copy.sink(b"\0")
    copy.source(b"C0644 5 x\n")
    copy.sink(b"\0")
    so_far = f'scp "x" to "/in" written 2 of 5 bytes sha256 {sha256(b"he")}'
    assert copy.watch.from_client(b"he").underway == (Underway(1, so_far),)
    assert copy.watch.from_client(b"llo\0").underway[0].so_far.endswith(sha256(b"hello"))
    assert copy.watch.from_target(b"\0").underway == (Underway(1),)


def test_what_is_cut_off_is_told() -> None:
    copy = Copy()
    copy.sink(b"\0")
    copy.source(b"C0644 5 x\n")
    copy.sink(b"\0")
    copy.source(b"he")
    assert copy.watch.close() == (
        f'scp left open "x" to "/in" written 2 of 5 bytes sha256 {sha256(b"he")}, incomplete',
    )
    assert copy.watch.close() == ()


@pytest.mark.parametrize("command", [UPLOAD, DOWNLOAD], ids=["upload", "download"])
def test_a_file_that_is_too_large_is_skipped_and_the_copy_goes_on(command: ScpCommand) -> None:
    copy = Copy(command, Limits(max_size=5))
    copy.sink(b"\0")
    copy.source(b"C0644 6 large\n")
    assert copy.lines[-1].endswith("size 6 refused: files of at most 5 bytes are allowed")
    refusal = b"\1scp: bastion: files of at most 5 bytes are allowed\n"
    assert copy.to_source == b"\0" + refusal
    assert copy.to_sink == (b"" if command.writes else refusal)
    copy.source(b"C0644 5 small\n")
    copy.sink(b"\0")
    copy.source(b"hello\0")
    copy.sink(b"\0")
    assert copy.lines[-1].startswith('scp close "small"')


@pytest.mark.parametrize(
    "line",
    [b"C0644 5 ..\n", b"C0644 5 a/b\n", b"C0644 5 \n", b"C644 5 x\n", b"C0844 5 x\n", b"C0644 -5 x\n", b"E\n", b"X\n",
     b"C0644 99999999999999999999 x\n", b"\n", b"C0644 5 a\0b\n", b"T1 0 1\n", b"D0755 0 ..\n", b"x" * (MAX_LINE + 1),
     b"C0644 5 " + b"x" * MAX_LINE + b"\n", b"\0\n"],
)  # fmt: skip
def test_what_scp_does_not_say_ends_the_session_and_does_not_pass(line: bytes) -> None:
    copy = Copy()
    copy.sink(b"\0")
    with pytest.raises(Violation) as violation:
        copy.source(line)
    assert violation.value.before.to_target == b""
    assert violation.value.before.lines[-1].startswith("scp ended: ")
    with pytest.raises(Violation):
        copy.source(b"")


def test_nothing_is_kept_without_bound() -> None:
    with pytest.raises(Violation, match="without waiting"):
        Copy().source(b"x" * (MAX_HELD + 1))
    with pytest.raises(Violation, match="nothing was asked for"):
        Copy().sink(b"\0" * (MAX_EARLY + 2))
    with pytest.raises(Violation, match="longer than"):
        Copy().sink(b"\1" + b"x" * MAX_LINE)
    with pytest.raises(Violation, match="does not say"):
        Copy().sink(b"hello")
    copy = Copy()
    copy.sink(b"\0")
    for _ in range(MAX_DEPTH):
        copy.source(b"D0755 0 x\n")
        copy.sink(b"\0")
    with pytest.raises(Violation, match="in one another"):
        copy.source(b"D0755 0 x\n")


def conversation(seed: int) -> list[tuple[str, bytes]]:
    """A recursive copy of some files, in the order in which both sides speak."""
    chance, script = random.Random(seed), [("sink", b"\0")]
    for number in range(chance.randrange(5)):
        if chance.random() < 0.3:
            script += [("source", b"D0755 0 d%d\n" % number), ("sink", b"\0")]
        data = chance.randbytes(chance.choice([0, 1, 10, 3000]))
        script += [("source", b"T1 0 1 0\n"), ("sink", b"\0")] if chance.random() < 0.3 else []
        script += [("source", b'C0644 %d \xff"%d\n' % (len(data), number))]
        if chance.random() < 0.2:
            script += [("sink", b"\1denied\n")]
            continue
        script += [("sink", b"\0"), ("source", data + b"\0"), ("sink", b"\0")]
    return script


@settings(deadline=None)
@given(st.integers(0, 1 << 30), st.lists(st.integers(1, 40), min_size=1), st.booleans())
def test_any_cutting_gives_the_same_bytes_and_the_same_lines(seed: int, cuts: Sequence[int], uploads: bool) -> None:
    script = conversation(seed)
    whole, pieces = Copy(UPLOAD if uploads else DOWNLOAD), Copy(UPLOAD if uploads else DOWNLOAD)
    for side, data in script:
        getattr(whole, side)(data)
        at = number = 0
        while at < len(data):
            size = cuts[number % len(cuts)]
            getattr(pieces, side)(data[at : at + size])
            at, number = at + size, number + 1
    assert (pieces.to_sink, pieces.to_source, pieces.lines) == (whole.to_sink, whole.to_source, whole.lines)
    assert whole.to_sink == b"".join(data for side, data in script if side == "source")
    assert whole.to_source == b"".join(data for side, data in script if side == "sink")
    assert all(line.isprintable() for line in whole.lines)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=20)), max_size=8), st.booleans())
def test_no_bytes_at_all_break_the_watcher(chunks: list[tuple[bool, bytes]], uploads: bool) -> None:
    watch, lines = ScpWatch(UPLOAD if uploads else DOWNLOAD, Limits(max_size=10)), list[str]()
    try:
        for client, data in chunks:
            lines += (watch.from_client(data) if client else watch.from_target(data)).lines
    except Violation as violation:
        lines += violation.before.lines
    assert all(line.isprintable() for line in (*lines, *watch.close()))
