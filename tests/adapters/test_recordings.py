"""Recordings: written before delivered, whatever happens to the node; and nobody changes one unseen."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.adapters.recordings import FileRecordings
from bastion.adapters.recordings.container import ABOUT, PLAIN, PREFIX, Chain, FileHeader, entry_head
from bastion.adapters.recordings.keys import open_keys
from bastion.adapters.recordings.writing import FileRecorder
from bastion.core.errors import BastionError, ConfigError, NotFound, Unavailable
from bastion.core.recording import Code, Entry, Header, Passed, Underway
from bastion.core.session import End, Session
from bastion.core.target import Scope
from tests.core.values import NOW
from tests.fakes import FakeClock
from tests.recorded import ended, file_of, keep, output, read, session, until

DEADLINE = 20
"""Seconds for what another process or thread has to do."""


@pytest.fixture
def recordings(tmp_path: Path, clock: FakeClock) -> Iterator[FileRecordings]:
    kept = keep(tmp_path, clock)
    yield kept
    kept.close()


def start(recordings: FileRecordings, of: Session, term: str = "xterm") -> FileRecorder:
    return recordings.start(of, columns=80, rows=24, term=term, at=of.started_at)


def record(recordings: FileRecordings, of: Session, *, lines: int = 5) -> None:
    """A short closed recording."""
    recorder = start(recordings, of)
    for number in range(lines):
        recorder.output(
            number / 10, b"line %d of %s, long enough to be worth packing %s\r\n" % (number, of.id.encode(), b"." * 80)
        )
    recorder.finish(1.0, End.CLIENT, 0)


def boundaries(raw: bytes) -> list[int]:
    """Where the records of a file begin, and its end."""
    _, header = FileHeader.parse(raw)
    places = [len(header)]
    while places[-1] < len(raw):
        length, _, _ = PREFIX.unpack_from(raw, places[-1])
        places.append(places[-1] + PREFIX.size + length)
    return places


async def readable(recordings: FileRecordings, of: Session) -> tuple[list[Entry], BastionError | None]:
    """What a reader gets, and what it is told when that is not all."""
    entries: list[Entry] = []
    try:
        await read(recordings.transcript(of), entries)
    except BastionError as error:
        return entries, error
    return entries, None


# What is written ------------------------------------------------------------------------------------------------------


async def test_a_recording_gives_back_what_was_delivered_to_the_byte(recordings: FileRecordings) -> None:
    of = session()
    recorder = start(recordings, of)
    pieces = [b"$ ", "ä".encode()[:1], "ä".encode()[1:], bytes(range(256)), b"x" * 700_000, b"bye\r\n"]
    for at, piece in enumerate(pieces):
        recorder.output(at / 10, piece)
    recorder.error_output(1.0, b"warning: \xff\n")
    recorder.resize(1.1, 100, 30)
    recorder.mark(1.2, "5 minutes left")
    recorder.finish(1.3, End.CLIENT, 3)
    entries = await read(recordings.transcript(ended(of)))
    assert output(entries) == b"".join(pieces)
    rest = [(entry.at, entry.code, entry.data) for entry in entries if entry.code is not Code.OUTPUT]
    assert rest == [
        (1_000_000, Code.ERROR, b"warning: \xff\n"),
        (1_100_000, Code.RESIZE, b"100x30"),
        (1_200_000, Code.MARKER, b"5 minutes left"),
        (1_300_000, Code.EXIT, b"3"),
    ]


async def test_the_first_line_says_whose_session_it_was(recordings: FileRecordings) -> None:
    of = session(command="echo \x1b[31m")
    recordings.start(of, columns=0, rows=100_000, term="xterm\x1b]0;x\x07", at=NOW).finish(0, End.CLIENT, None)
    async with aclosing(recordings.transcript(ended(of))) as lines:  # type: ignore[type-var]
        header = Header.parse(await anext(lines))
    assert header.title == "deploy@web-1.staging.eu"
    assert header.command == "echo \x1b[31m"
    assert header.about["session"] == of.id
    assert (header.columns, header.rows) == (80, 10_000)  # what the client claims is bounded
    assert "\x1b" not in header.term


async def test_a_password_typed_with_the_echo_off_is_nowhere_in_the_recording(recordings: FileRecordings) -> None:
    of = session()
    recorder = start(recordings, of)
    recorder.output(0.1, b"[sudo] password for deploy: ")
    for at, key in enumerate(b"correct horse"):
        recorder.input(1 + at / 10, bytes([key]), typed=True)
    recorder.input(3, b"battery staple\r", typed=True)
    recorder.finish(4, End.CLIENT, 0)
    typed = b"".join(e.data for e in await read(recordings.transcript(ended(of))) if e.code is Code.INPUT)
    assert typed == b"*" * 27 + b"\r"


async def test_input_of_a_session_without_a_pty_is_kept_in_full(recordings: FileRecordings) -> None:
    of = session(command="sh")
    recorder = start(recordings, of, term="")
    recorder.input(0.1, b"rm -rf /srv\n", typed=False)
    recorder.finish(1, End.CLIENT, 0)
    entries = await read(recordings.transcript(ended(of)))
    assert entries[0] == Entry(100_000, Code.INPUT, b"rm -rf /srv\n")


LIMIT = 1000


def start_bulk(recordings: FileRecordings, of: Session) -> FileRecorder:
    return recordings.start(of, columns=80, rows=24, term="", at=of.started_at, full_until=LIMIT)


async def test_of_bulk_the_beginning_is_kept_and_then_its_size_and_digest(
    recordings: FileRecordings, tmp_path: Path
) -> None:
    of, content = session(command="tar c /srv"), os.urandom(300_000)
    recorder = start_bulk(recordings, of)
    for at in range(0, len(content), 900):
        recorder.output(1, content[at : at + 900])
    recorder.input(2, b"yes\n", typed=False)
    recorder.finish(3, End.CLIENT, 0)
    assert file_of(tmp_path, of).stat().st_size < len(content) / 2
    entries = await read(recordings.transcript(ended(of, End.CLIENT)))
    assert output(entries) == content[:900]
    digests = [Passed.parse(entry.data) for entry in entries if entry.code is Code.DIGEST]
    assert [each.size for each in digests] == [*range(1800, 300_000, 900), 300_000][: len(digests)]
    assert digests[-1] == Passed(Code.OUTPUT, 300_000, hashlib.sha256(content).hexdigest())
    assert [(entry.code, entry.data) for entry in entries if entry.code in (Code.MARKER, Code.INPUT, Code.EXIT)] == [
        (Code.MARKER, b"output: from byte 900 on only its size and SHA-256 are kept"),
        (Code.INPUT, b"yes\n"),
        (Code.MARKER, b"output: 300000 bytes, sha256 " + digests[-1].sha256.encode()),
        (Code.EXIT, b"0"),
    ]
    *_, last = boundaries(file_of(tmp_path, of).read_bytes())[:-1]
    manifest = file_of(tmp_path, of).read_bytes()[last + PREFIX.size :]
    assert json.loads(manifest[:-64])["delivered"]["o"] == 300_000


async def test_a_digest_that_cannot_be_one_is_an_altered_recording(recordings: FileRecordings) -> None:
    """Only whoever has the keys can write one, and it is believed of nobody."""
    recorder = start_bulk(recordings, session())
    recorder._entry(Code.DIGEST, 0, b"o 5 " + b"a" * 64)
    with pytest.raises(ValueError):
        recorder._entry(Code.DIGEST, 0, b"o many")
    recorder.abandon()
    _, error = await readable(recordings, session())
    assert "its content cannot be read" in str(error)


@pytest.mark.parametrize("end", [End.INTERRUPTED, End.RECORDER])
async def test_how_far_bulk_had_come_is_said_of_an_interrupted_recording(recordings: FileRecordings, end: End) -> None:
    of = session(command="tar c /srv")
    recorder = start_bulk(recordings, of)
    for _ in range(5):
        recorder.output(1, b"x" * 900)
    recorder.abandon()
    over = ended(of, end)
    said = [entry.data for entry in await read(recordings.transcript(over)) if entry.code is Code.MARKER]
    so_far = f"output: 4500 bytes, sha256 {hashlib.sha256(b'x' * 4500).hexdigest()} up to here".encode()
    assert said[1] == so_far
    assert said[2].startswith(b"interrupted:")
    recordings.seal_interrupted(over)
    said = [entry.data for entry in await read(recordings.transcript(over)) if entry.code is Code.MARKER]
    assert said[1] == so_far


async def test_how_far_files_had_come_is_said_of_those_that_have_no_last_line(recordings: FileRecordings) -> None:
    of = session()
    recorder = start_bulk(recordings, of)
    for file in (Underway(1, "sftp a"), Underway(2, "sftp b"), Underway(2, "sftp b 9 bytes"), Underway(1)):
        recorder.underway(1, file)
    recorder.abandon()
    over = ended(of, End.INTERRUPTED)
    for _ in range(2):
        said = [entry.data for entry in await read(recordings.transcript(over)) if entry.code is Code.MARKER]
        assert said[:-1] == [b"sftp b 9 bytes up to here"]
        recordings.seal_interrupted(over)


async def test_bulk_whose_digest_cannot_be_written_is_not_delivered(recordings: FileRecordings, tmp_path: Path) -> None:
    recorder = start_bulk(recordings, session())
    recorder.output(0, b"x" * 2000)
    with files_up_to(file_of(tmp_path, session()).stat().st_size), pytest.raises(Unavailable):
        recorder.output(1, b"x" * 2000)
    with pytest.raises(Unavailable):
        recorder.output(2, b"x")


async def test_what_is_recorded_can_be_read_while_the_session_lasts(recordings: FileRecordings) -> None:
    of = session()
    recorder = start(recordings, of)
    recorder.output(0.1, b"so far")
    assert output(await read(recordings.transcript(of))) == b"so far"
    recorder.finish(1, End.CLIENT, 0)


async def test_a_live_recording_can_be_followed_to_its_end(recordings: FileRecordings) -> None:
    of = session()
    recorder = start(recordings, of)
    entries: list[Entry] = []
    following = asyncio.create_task(read(recordings.follow(of), entries))
    for word in (b"one", b"two", b"three"):
        recorder.output(0.1, word)
        await until(lambda word=word: bool(entries) and entries[-1].data == word)  # type: ignore[misc]
    recorder.finish(1, End.CLIENT, 0)
    async with asyncio.timeout(DEADLINE):
        assert output(await following) == b"onetwothree"


async def test_time_never_runs_backwards_in_a_transcript(recordings: FileRecordings) -> None:
    of = session()
    recorder = start(recordings, of)
    for at in (2.0, 1.0, 3.0):
        recorder.output(at, b"x")
    recorder.finish(0, End.CLIENT, None)
    assert [e.at for e in await read(recordings.transcript(ended(of)))] == [2_000_000, 2_000_000, 3_000_000]


async def test_finishing_twice_leaves_one_end(recordings: FileRecordings, tmp_path: Path) -> None:
    recorder = start(recordings, session())
    recorder.finish(1, End.REVOKED, None)
    raw = file_of(tmp_path, session()).read_bytes()
    recorder.finish(2, End.CLIENT, 0)
    assert file_of(tmp_path, session()).read_bytes() == raw


def test_nothing_is_recorded_after_the_end(recordings: FileRecordings) -> None:
    recorder = start(recordings, session())
    recorder.finish(1, End.REVOKED, None)
    with pytest.raises(Unavailable):
        recorder.output(2, b"too late")


# Where it is kept -----------------------------------------------------------------------------------------------------


def test_nobody_else_may_read_recordings_or_keys(recordings: FileRecordings, tmp_path: Path) -> None:
    record(recordings, session())
    for path in tmp_path.rglob("*"):
        if path.name != "recordings.pub.pem":
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_nothing_that_was_shown_stands_in_the_file_in_the_clear(recordings: FileRecordings, tmp_path: Path) -> None:
    of = session()
    recorder = start(recordings, of)
    recorder.output(0, b"top secret")
    recorder.finish(1, End.CLIENT, 0)
    raw = file_of(tmp_path, of).read_bytes()
    for hidden in (b"top secret", of.display.encode(), of.identity.subject.encode(), of.target.encode()):
        assert hidden not in raw


def test_each_region_has_a_directory_and_a_key_of_its_own(recordings: FileRecordings, tmp_path: Path) -> None:
    there = session(id="s-2", scope=Scope("staging", "us"))
    record(recordings, session())
    record(recordings, there)
    headers = [FileHeader.parse(file_of(tmp_path, of).read_bytes())[0] for of in (session(), there)]
    assert headers[0].region_key != headers[1].region_key


def test_a_region_that_is_not_ours_is_not_recorded_here(recordings: FileRecordings, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="region moon"):
        start(recordings, session(scope=Scope("staging", "moon")))
    assert not (tmp_path / "recordings" / "moon").exists()


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "..", "", "a/b", "a\0b", "A", "s-1.rec", "-", "ｓ-1", "s-1\n", "x" * 200]
)
async def test_no_name_leads_out_of_the_directory(recordings: FileRecordings, tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    for of in (session(id=name), session(scope=Scope("staging", name))):
        with pytest.raises((NotFound, Unavailable)):
            start(recordings, of)
        with pytest.raises(NotFound):
            await read(recordings.transcript(of))
        with pytest.raises(NotFound):
            recordings.seal_interrupted(of)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_recording_is_never_written_over(recordings: FileRecordings, tmp_path: Path) -> None:
    record(recordings, session())
    raw = file_of(tmp_path, session()).read_bytes()
    with pytest.raises(Unavailable):
        start(recordings, session())
    assert file_of(tmp_path, session()).read_bytes() == raw


async def test_a_recording_that_is_not_there_is_not_found(recordings: FileRecordings) -> None:
    with pytest.raises(NotFound, match="s-000000000001"):
        await read(recordings.transcript(session()))


# Keys -----------------------------------------------------------------------------------------------------------------


async def test_keys_are_made_once_and_read_ever_after(tmp_path: Path, clock: FakeClock) -> None:
    first = keep(tmp_path, clock)
    record(first, session())
    first.close()
    again = keep(tmp_path, clock)
    assert len(await read(again.transcript(ended(session())))) == 6
    again.close()


def spoil(change: Callable[[Path], object], name: str) -> Callable[[Path], object]:
    return lambda keys: change(keys / name)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        pytest.param(spoil(lambda p: p.chmod(0o640), "region-eu.key"), "chmod 600", id="region key readable by others"),
        pytest.param(
            spoil(lambda p: p.chmod(0o604), "recordings.pem"), "chmod 600", id="signing key readable by others"
        ),
        pytest.param(spoil(lambda p: p.write_bytes(b"short"), "region-eu.key"), "32 bytes", id="region key cut"),
        pytest.param(
            spoil(lambda p: p.write_bytes(b"?"), "recordings.pem"), "not a PEM private key", id="signing key damaged"
        ),
        pytest.param(
            spoil(lambda p: p.write_bytes(b"?"), "recordings.pub.pem"), "public part", id="public key exchanged"
        ),
    ],
)
def test_a_key_that_is_not_right_stops_the_start(
    tmp_path: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    keys = tmp_path / "keys"
    open_keys(keys, ["eu"])
    damage(keys)
    before = {path: path.read_bytes() for path in keys.iterdir()}
    with pytest.raises(ConfigError, match=sentence):
        open_keys(keys, ["eu"])
    assert {path: path.read_bytes() for path in keys.iterdir()} == before


async def test_without_its_regions_key_nothing_of_a_recording_is_shown(tmp_path: Path, clock: FakeClock) -> None:
    first = keep(tmp_path, clock)
    record(first, session())
    first.close()
    (tmp_path / "keys" / "region-eu.key").unlink()
    again = keep(tmp_path, clock)
    with pytest.raises(Unavailable, match="key"):
        await anext(again.transcript(ended(session())))
    again.close()


async def test_a_signature_of_a_stranger_is_not_believed(tmp_path: Path, clock: FakeClock) -> None:
    first = keep(tmp_path, clock)
    record(first, session())
    first.close()
    for name in ("recordings.pem", "recordings.pub.pem"):
        (tmp_path / "keys" / name).unlink()
    again = keep(tmp_path, clock)
    entries, error = await readable(again, ended(session()))
    assert len(entries) == 6
    assert "not trusted" in str(error)
    again.close()


async def test_a_signature_of_a_trusted_node_is_believed(tmp_path: Path, clock: FakeClock) -> None:
    first = keep(tmp_path, clock)
    record(first, session())
    first.close()
    keys = tmp_path / "keys"
    (keys / "trusted").mkdir()
    (keys / "recordings.pub.pem").rename(keys / "trusted" / "bastion-1.pem")
    (keys / "recordings.pem").unlink()
    again = keep(tmp_path, clock)
    assert (await readable(again, ended(session())))[1] is None
    again.close()


# Alteration -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FileRecordings, bytes, bytes]]:
    """A folder with two closed recordings, s-1 and s-2, and the bytes of both."""
    folder = tmp_path_factory.mktemp("closed")
    recordings = keep(folder, FakeClock())
    for of in (session(id="s-1"), session(id="s-2")):
        record(recordings, of)
    one, other = (file_of(folder, session(id=name)).read_bytes() for name in ("s-1", "s-2"))
    yield folder, recordings, one, other
    recordings.close()


Closed = tuple[Path, FileRecordings, bytes, bytes]


async def after(closed: Closed, raw: bytes, of: Session | None = None) -> tuple[list[Entry], BastionError | None]:
    """What a reader of s-1 gets when its file holds ``raw``."""
    folder, recordings, _, _ = closed
    file_of(folder, session(id="s-1")).write_bytes(raw)
    return await readable(recordings, of or ended(session(id="s-1")))


async def test_what_was_not_altered_is_read_to_its_end(closed: Closed) -> None:
    entries, error = await after(closed, closed[2])
    assert len(entries) == 6
    assert error is None


@given(st.data())
@settings(max_examples=150)
def test_a_flipped_bit_is_seen_wherever_it_is(closed: Closed, data: st.DataObject) -> None:
    raw = bytearray(closed[2])
    place = data.draw(st.integers(0, len(raw) - 1), label="byte")
    raw[place] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    entries, error = asyncio.run(after(closed, bytes(raw)))
    assert isinstance(error, Unavailable)
    whole, _ = asyncio.run(after(closed, closed[2]))
    assert entries == whole[: len(entries)]  # everything before it is still given, and nothing else


@given(st.data())
@settings(max_examples=50)
def test_a_flipped_bit_in_a_live_recording_is_seen_or_said(closed: Closed, data: st.DataObject) -> None:
    live = closed[2][: boundaries(closed[2])[-2]]
    raw = bytearray(live)
    raw[data.draw(st.integers(0, len(raw) - 1), label="byte")] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    _, error = asyncio.run(after(closed, bytes(raw), session(id="s-1")))
    assert isinstance(error, Unavailable)


async def test_the_sentence_names_the_record_and_the_byte(closed: Closed) -> None:
    third = boundaries(closed[2])[3]
    raw = bytearray(closed[2])
    raw[third + PREFIX.size] ^= 1
    entries, error = await after(closed, bytes(raw))
    assert len(entries) == 2
    assert f"altered at byte {third} (record 3)" in str(error)


async def test_a_recording_cut_at_any_record_is_not_taken_for_a_whole_one(closed: Closed) -> None:
    places = boundaries(closed[2])
    for number, place in enumerate(places[1:-1]):
        entries, error = await after(closed, closed[2][:place])
        assert len(entries) == number
        assert f"cut at byte {place}" in str(error)


async def test_a_recording_cut_anywhere_is_not_taken_for_a_whole_one(closed: Closed) -> None:
    for place in range(0, len(closed[2]), 7):
        _, error = await after(closed, closed[2][:place])
        assert isinstance(error, Unavailable), place


def pieces(raw: bytes) -> tuple[bytes, list[bytes]]:
    places = boundaries(raw)
    return raw[: places[0]], [raw[a:b] for a, b in zip(places, places[1:], strict=False)]


def swapped(one: bytes, _: bytes) -> bytes:
    header, records = pieces(one)
    return b"".join([header, records[0], records[2], records[1], *records[3:]])


def left_out(one: bytes, _: bytes) -> bytes:
    header, records = pieces(one)
    return b"".join([header, *records[:2], *records[3:]])


def repeated(one: bytes, _: bytes) -> bytes:
    header, records = pieces(one)
    return b"".join([header, *records[:2], records[1], *records[2:]])


def spliced(one: bytes, other: bytes) -> bytes:
    header, records = pieces(one)
    return b"".join([header, *records[:2], pieces(other)[1][2], *records[3:]])


def ended_as_another(one: bytes, other: bytes) -> bytes:
    header, records = pieces(one)
    return b"".join([header, *records[:-1], pieces(other)[1][-1]])


def shortened_and_ended(one: bytes, _: bytes) -> bytes:
    header, records = pieces(one)
    return b"".join([header, *records[:3], records[-1]])


@pytest.mark.parametrize(
    ("change", "left"),
    [
        pytest.param(swapped, 0, id="two records swapped"),
        pytest.param(left_out, 1, id="a record left out"),
        pytest.param(repeated, 1, id="a record repeated"),
        pytest.param(spliced, 1, id="a record of another recording"),
        pytest.param(ended_as_another, 6, id="the manifest of another recording"),
        pytest.param(shortened_and_ended, 2, id="records taken out before the manifest"),
        pytest.param(lambda _, other: other, 0, id="another recording in its place"),
        pytest.param(lambda one, other: pieces(other)[0] + one[len(pieces(one)[0]) :], 0, id="another header"),
        pytest.param(lambda one, _: one + pieces(one)[1][1], 6, id="a record after the end"),
        pytest.param(lambda one, _: one + bytes(64), 6, id="zeros after the end"),
        pytest.param(lambda one, _: b"", 0, id="nothing"),
    ],
)
async def test_records_moved_or_exchanged_are_seen(
    closed: Closed, change: Callable[[bytes, bytes], bytes], left: int
) -> None:
    entries, error = await after(closed, change(closed[2], closed[3]))
    assert isinstance(error, Unavailable)
    assert len(entries) == left


async def test_whoever_has_the_regions_key_still_cannot_rewrite_a_recording(closed: Closed) -> None:
    """Sealing is the region's, signing is the node's: a storage that is robbed with its key is not believed."""
    _, recordings, one, _ = closed
    header, raw = FileHeader.parse(one)
    key = recordings.keys.regions["eu"].unwrap(bytes.fromhex(header.wrapped_key), header.named)
    _, records = pieces(one)
    about = Chain(key, raw).open(records[0][: PREFIX.size], records[0][PREFIX.size :])
    chain = Chain(key, raw)
    forged = [chain.seal(ABOUT, about)]
    forged += [chain.seal(PLAIN, entry_head(Code.OUTPUT, 0) + b"nothing to see") for _ in records[1:-1]]
    entries, error = await after(closed, b"".join([raw, *forged, records[-1]]))
    assert output(entries) == b"nothing to see" * 6
    assert "not what its manifest says" in str(error)


# Crashes --------------------------------------------------------------------------------------------------------------

WRITER = """
import os, sys
from pathlib import Path
from bastion.core.session import End
from tests.fakes import FakeClock
from tests.recorded import keep, session
clock = FakeClock()
recorder = keep(Path(sys.argv[1]), clock).start(session(), columns=80, rows=24, term="xterm", at=clock.now())
number = 0
while True:
    recorder.output(number / 1000, b"%d\\n" % number + b"x" * (number % 3000))
    os.write(1, b"%d\\n" % number)  # delivered
    number += 1
"""


@pytest.fixture
def killed(tmp_path: Path) -> int:
    """The last number that a writer delivered before it was killed in the middle of writing."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer.stdout as delivered:
        for line in delivered:
            if int(line) >= 2000:
                break
        writer.send_signal(signal.SIGKILL)
        rest = delivered.read()
    writer.wait(DEADLINE)
    whole = rest[: rest.rfind(b"\n") + 1].split()
    return int(whole[-1]) if whole else 2000


def numbers(entries: list[Entry]) -> list[int]:
    return [int(entry.data.split(b"\n")[0]) for entry in entries if entry.code is Code.OUTPUT]


async def test_a_killed_bastion_loses_nothing_that_was_delivered(tmp_path: Path, clock: FakeClock, killed: int) -> None:
    recordings = keep(tmp_path, clock)
    entries = await read(recordings.transcript(session()))
    assert numbers(entries)[: killed + 1] == list(range(killed + 1))
    recordings.close()


async def test_the_recording_of_a_killed_bastion_is_sealed_as_interrupted(
    tmp_path: Path, clock: FakeClock, killed: int
) -> None:
    recordings = keep(tmp_path, clock)
    over = ended(session(), End.INTERRUPTED)
    recordings.seal_interrupted(over)
    sealed = file_of(tmp_path, over).read_bytes()
    recordings.seal_interrupted(over)
    assert file_of(tmp_path, over).read_bytes() == sealed  # idempotent
    entries = await read(recordings.transcript(over))
    assert numbers(entries)[: killed + 1] == list(range(killed + 1))
    assert entries[-1].code is Code.MARKER
    assert entries[-1].data.startswith(b"interrupted:")
    recordings.close()


async def test_a_record_that_a_crash_cut_short_is_left_out_and_said(recordings: FileRecordings, tmp_path: Path) -> None:
    recorder = start(recordings, session())
    recorder.output(0, b"whole")
    recorder.output(1, b"cut short")
    recorder.abandon()
    path = file_of(tmp_path, session())
    path.write_bytes(path.read_bytes()[:-3])
    entries = await read(recordings.transcript(ended(session(), End.INTERRUPTED)))
    assert output(entries) == b"whole"
    assert b"end of this recording is missing; 40 bytes of an incomplete record were left out" in entries[-1].data
    recordings.seal_interrupted(session())
    assert output(await read(recordings.transcript(ended(session(), End.INTERRUPTED)))) == b"whole"


async def test_zeros_that_a_power_cut_leaves_are_not_taken_for_alteration(
    recordings: FileRecordings, tmp_path: Path
) -> None:
    recorder = start(recordings, session())
    recorder.output(0, b"whole")
    recorder.abandon()
    with file_of(tmp_path, session()).open("ab") as file:
        file.write(bytes(5000))
    recordings.seal_interrupted(session())
    assert output(await read(recordings.transcript(ended(session(), End.INTERRUPTED)))) == b"whole"


def test_a_recording_that_is_being_written_is_not_sealed_by_another(recordings: FileRecordings) -> None:
    recorder = start(recordings, session())
    with pytest.raises(Unavailable, match="still being written"):
        recordings.seal_interrupted(session())
    recorder.output(1, b"goes on")
    recorder.finish(2, End.CLIENT, 0)


async def test_an_altered_recording_is_not_sealed_over(recordings: FileRecordings, tmp_path: Path) -> None:
    recorder = start(recordings, session())
    recorder.output(0, b"one")
    recorder.output(1, b"two")
    recorder.abandon()
    path = file_of(tmp_path, session())
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(Unavailable, match="altered"):
        recordings.seal_interrupted(session())
    assert path.read_bytes() == raw


# Disks ----------------------------------------------------------------------------------------------------------------


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size`` bytes: as a full disk, in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_freezes_the_recording_with_all_that_was_delivered(
    recordings: FileRecordings, tmp_path: Path
) -> None:
    of = session()
    recorder = start(recordings, of)
    delivered = b""
    with files_up_to(10_000):
        failure: Unavailable | None = None
        while failure is None:
            piece = os.urandom(300)
            try:
                recorder.output(1, piece)
                delivered += piece
            except Unavailable as error:
                failure = error
        assert "EFBIG" in str(failure)
        with pytest.raises(Unavailable):
            recorder.output(1000, b"")
    with pytest.raises(Unavailable):
        recorder.output(1001, b"there is room again, and it stays failed")
    recorder.finish(1002, End.RECORDER, None)
    entries, told = await readable(recordings, ended(of, End.RECORDER))
    assert told is None
    assert output(entries) == delivered


async def test_a_disk_that_stays_full_leaves_a_recording_without_an_end_and_says_so(
    recordings: FileRecordings, tmp_path: Path
) -> None:
    of = session()
    recorder = start(recordings, of)
    recorder.output(0, b"delivered")
    with files_up_to(file_of(tmp_path, of).stat().st_size + 10):
        with pytest.raises(Unavailable):
            recorder.output(1, b"not delivered")
        with pytest.raises(Unavailable):
            recorder.finish(2, End.RECORDER, None)
    entries = await read(recordings.transcript(ended(of, End.RECORDER)))
    assert output(entries) == b"delivered"
    assert entries[-1].data == b"interrupted: the end of this recording is missing"


def test_a_recording_that_cannot_begin_leaves_nothing_behind(recordings: FileRecordings, tmp_path: Path) -> None:
    with files_up_to(100), pytest.raises(Unavailable):
        start(recordings, session())
    assert not file_of(tmp_path, session()).exists()
    start(recordings, session()).finish(0, End.CLIENT, None)


def test_a_write_that_fails_is_never_taken_for_one_that_worked(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = start(recordings, session())
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, recorder._descriptor)
    os.close(full)
    with pytest.raises(Unavailable, match="ENOSPC"):
        recorder.output(0, b"x")
    recorder.abandon()


def test_a_disk_that_fails_behind_our_back_ends_the_session_at_its_next_byte(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = start(recordings, session())

    def broken(_: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        recorder.sync()
    with pytest.raises(Unavailable):
        recorder.output(1, b"x")
    recorder.abandon()


async def test_what_was_written_reaches_the_disk_without_being_asked(
    recordings: FileRecordings, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fdatasync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", noted)
    recorder = start(recordings, session())
    recorder.output(0, b"x")
    await until(lambda: any(session().id in name for name in synced))
    recorder.finish(1, End.CLIENT, 0)


def test_recordings_of_different_days_and_zones_are_found_again(recordings: FileRecordings, tmp_path: Path) -> None:
    late = session(started_at=datetime(2026, 3, 2, 23, 59, tzinfo=UTC) + timedelta(minutes=2))
    record(recordings, late)
    assert (tmp_path / "recordings" / "eu" / "2026" / "03" / "03" / f"{late.id}.rec").exists()
