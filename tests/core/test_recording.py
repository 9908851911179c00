"""The transcript is exact to the byte, other players can read its export, and typed secrets are not in it."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.recording import (
    Code,
    Entry,
    Export,
    Header,
    Lines,
    Passed,
    Stream,
    Underway,
    entry_line,
    mask_typed,
    parse_digest,
    to_bytes,
    to_text,
)

PTY = Header(columns=80, rows=24, term="xterm", timestamp=1_772_442_000, title="deploy@web-1", about={"session": "s-1"})
NO_PTY = Header(columns=80, rows=24, term="", timestamp=1_772_442_000, command="tar c .")


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """``data`` in pieces, cut at ``places``."""
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def entries(*pieces: bytes, code: Code = Code.OUTPUT) -> list[Entry]:
    return [Entry(at * 1_000, code, piece) for at, piece in enumerate(pieces)]


def exported(version: Literal[2, 3], header: Header, given_entries: list[Entry]) -> list[list[object]]:
    """The events of an export as a strict JSON reader has them."""
    export = Export(version, header)
    export.begin()
    raw = b"".join(map(export.add, given_entries)) + export.end()
    return [json.loads(line) for line in raw.decode("utf-8").splitlines()]


HOSTILE = st.lists(
    st.one_of(st.binary(max_size=12), st.text(max_size=6).map(str.encode), st.sampled_from([b"\xed\xa0\x80", b"\xc3"])),
    max_size=8,
).map(b"".join)
PLACES = st.lists(st.integers(0, 100), max_size=6)


@given(HOSTILE, PLACES)
def test_the_joined_text_of_any_cutting_gives_the_bytes_back(data: bytes, places: list[int]) -> None:
    assert to_bytes("".join(to_text(piece) for piece in cut(data, places))) == data


@given(HOSTILE, PLACES)
def test_lines_give_back_the_entries_they_were_made_of(data: bytes, places: list[int]) -> None:
    made = entries(*cut(data, places))
    reader, at, read = Lines(), 0, []
    for entry in made:
        line = entry_line(entry, at)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert line.decode("utf-8")  # whatever was delivered, the transcript is UTF-8
        at = entry.at
        read.append(reader.read(line))
    assert read == made


@given(HOSTILE, PLACES, st.sampled_from([2, 3]), st.sampled_from([PTY, NO_PTY]))
def test_an_export_is_what_a_terminal_would_have_decoded(
    data: bytes, places: list[int], version: Literal[2, 3], header: Header
) -> None:
    events = exported(version, header, entries(*cut(data, places)))
    text = "".join(str(event[2]) for event in events)
    wanted = data.decode("utf-8", "replace")
    assert text.replace("\r", "") == wanted.replace("\r", "")
    if header.term:
        assert text == wanted


def test_a_character_cut_in_two_is_recorded_at_once_and_exported_whole() -> None:
    first, second = "é".encode()[:1], "é".encode()[1:]
    assert to_text(first) == "\udcc3"
    assert exported(3, PTY, entries(first, second)) == [[0.001, "o", "é"]]


def test_an_export_of_version_3_has_intervals_and_one_of_version_2_has_times() -> None:
    made = [Entry(1_500_000, Code.OUTPUT, b"a"), Entry(4_000_000, Code.OUTPUT, b"b")]
    assert [event[0] for event in exported(3, PTY, made)] == [1.5, 2.5]
    assert [event[0] for event in exported(2, PTY, made)] == [1.5, 4.0]


def test_an_export_keeps_its_time_when_an_entry_gives_no_line() -> None:
    made = [Entry(1_000_000, Code.OUTPUT, b"\xc3"), Entry(2_000_000, Code.OUTPUT, b"\xa9")]
    assert exported(3, PTY, made) == [[2.0, "o", "é"]]


def test_standard_error_is_exported_as_output_with_characters_of_its_own() -> None:
    made = [Entry(0, Code.OUTPUT, b"\xc3"), Entry(0, Code.ERROR, b"oops"), Entry(0, Code.OUTPUT, b"\xa9")]
    assert [event[1:] for event in exported(3, PTY, made)] == [["o", "oops"], ["o", "é"]]


@pytest.mark.parametrize(
    ("version", "codes"), [pytest.param(3, "ormx", id="v3"), pytest.param(2, "orm", id="v2 knows no exit")]
)
def test_an_export_has_only_codes_its_version_knows(version: Literal[2, 3], codes: str) -> None:
    made = [
        Entry(0, Code.OUTPUT, b"$ "),
        Entry(1, Code.RESIZE, b"90x30"),
        Entry(2, Code.MARKER, b"5 minutes left"),
        Entry(3, Code.EXIT, b"0"),
    ]
    assert "".join(str(event[1]) for event in exported(version, PTY, made)) == codes


def test_the_header_is_read_back_as_it_was_written() -> None:
    for header in (PTY, NO_PTY):
        assert Header.parse(header.line()) == header


def test_the_first_lines_are_as_the_specifications_say() -> None:
    assert json.loads(Export(3, PTY).begin()) == {
        "version": 3, "term": {"cols": 80, "rows": 24, "type": "xterm"},
        "timestamp": 1_772_442_000, "title": "deploy@web-1",
    }  # fmt: skip
    assert json.loads(Export(2, PTY).begin()) == {
        "version": 2, "width": 80, "height": 24, "timestamp": 1_772_442_000, "title": "deploy@web-1",
        "env": {"TERM": "xterm"},
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{", id="half"),
        pytest.param(b'{"version": 2, "width": 80, "height": 24}', id="version 2"),
        pytest.param(b'{"version": 3}', id="no terminal"),
        pytest.param(b'{"version": 3, "term": {"cols": 0, "rows": 24}}', id="no columns"),
        pytest.param(b'{"version": 3, "term": {"cols": 1e9, "rows": 24}}', id="too wide"),
    ],
)
def test_what_is_not_a_first_line_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        Header.parse(line)


@pytest.mark.parametrize("line", [b"{}", b"[1, 2]", b'["a", "o", "b"]', b"[1, 2, 3, 4]", b"[NaN", b'[0, "o", 5]'])
def test_what_is_not_a_line_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        Lines().read(line)


@pytest.mark.parametrize("line", [b"", b"\n", b"# a comment\n", b'[0, "z", "of a later version"]\n'])
def test_lines_that_are_no_entry_are_passed_over(line: bytes) -> None:
    assert Lines().read(line) is None


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        pytest.param(b"hunter2\r", b"*******\r", id="a password and Enter"),
        pytest.param("pässwörd".encode(), b"********", id="one mark for one character"),
        pytest.param(b"\x03\x04\t\x7f\x1a", b"\x03\x04\t\x7f\x1a", id="control keys"),
        pytest.param(b"\x1b[A\x1bOP\x1b[15~\x1b[1;5C", b"\x1b[A\x1bOP\x1b[15~\x1b[1;5C", id="arrows and F keys"),
        pytest.param(b"\x1bsecret", b"\x1b******", id="a secret after Escape"),
        pytest.param(b"\x1b[200~hunter2\x1b[201~", b"\x1b[200~*******\x1b[201~", id="a pasted password"),
        pytest.param(b"\x1b[123456789012345~", b"\x1b*****************", id="digits that are no key"),
    ],
)
def test_typed_text_is_masked_and_keys_are_kept(typed: bytes, kept: bytes) -> None:
    assert mask_typed(typed) == kept


@given(st.binary(max_size=60), PLACES)
def test_no_letter_of_text_survives_the_mask_however_it_arrives(data: bytes, places: list[int]) -> None:
    secret = bytes(byte for byte in data if byte != 0x1B)
    for piece in cut(secret, places):
        assert not any(0x20 <= byte != 0x7F and byte != ord("*") for byte in mask_typed(piece))


# Bulk -----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=12), st.integers(0, 200))
def test_of_every_piece_it_is_recorded_before_it_is_delivered_what_or_how_much(
    pieces: list[bytes], full_until: int
) -> None:
    """In full as far as that goes, and never again; of all the rest the size and digest of exactly what has passed."""
    stream, kept, delivered = Stream(Code.OUTPUT, full_until), b"", b""
    declared = 0
    for piece in pieces:
        delivered += piece
        recorded = list(stream.take(piece))
        declared += sum(code is Code.MARKER for code, _ in recorded)
        code, data = recorded[-1]
        if code is Code.OUTPUT:
            kept += data
            assert kept == delivered
            assert len(kept) <= full_until
        else:
            passed = Passed.parse(data)
            assert (code, passed.stream) == (Code.DIGEST, Code.OUTPUT)
            assert (passed.size, passed.sha256) == (len(delivered), hashlib.sha256(delivered).hexdigest())
    is_full = len(kept) == len(delivered)
    assert declared == (0 if is_full else 1)
    assert [data.decode() for _, data in stream.close()] == (
        [] if is_full else [f"output: {len(delivered)} bytes, sha256 {hashlib.sha256(delivered).hexdigest()}"]
    )


def test_the_switch_says_what_and_from_where() -> None:
    stream = Stream(Code.INPUT, 10)
    assert list(stream.take(b"x" * 7)) == [(Code.INPUT, b"x" * 7)]
    (marker, said), _ = stream.take(b"x" * 7)
    assert (marker, said) == (Code.MARKER, b"input: from byte 7 on only its size and SHA-256 are kept")
    assert len(list(stream.take(b"x"))) == 1  # it is too late for a piece that would have fitted


@pytest.mark.parametrize(
    "data",
    [
        b"", b"o", b"o 1", b"o 1 2", b"o  1 " + b"a" * 64, b"o 01 " + b"a" * 64, b"o -1 " + b"a" * 64,
        b"m 1 " + b"a" * 64, b"o 1 " + b"A" * 64, b"o 1 " + b"a" * 63, b"\xff 1 " + b"a" * 64, b"o 1 " + b"a" * 65,
    ],
)  # fmt: skip
def test_what_does_not_say_how_much_has_passed_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Passed.parse(data)


@pytest.mark.parametrize("file", [Underway(7, 'sftp "/a\\x0ab" read 5 bytes'), Underway(7)])
def test_how_far_a_file_has_come_is_read_back(file: Underway) -> None:
    assert parse_digest(file.to_bytes()) == file


@pytest.mark.parametrize("data", [b"f", b"f ", b"f x", b"f 01", b"f 1 ", b"f -1 a", b"g 1 a", b"f 1 \xff"])
def test_what_does_not_say_how_far_a_file_has_come_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_digest(data)


@pytest.mark.parametrize("version", [2, 3])
def test_players_are_not_shown_every_digest(version: Literal[2, 3]) -> None:
    passed = Passed(Code.OUTPUT, 5, "a" * 64)
    shown = exported(version, NO_PTY, [Entry(0, Code.DIGEST, passed.to_bytes()), Entry(9, Code.MARKER, b"said")])
    assert [event[1:] for event in shown] == [["m", "said"]]
