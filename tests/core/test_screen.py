"""A recording draws on the reader's terminal, and does nothing else to it."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.screen import HIDDEN, MAX_STRING, RESTORE, Display, Reading, Sanitiser, plain_text

ALLOWED = re.compile(
    r"""
      [^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]
    | [\n\r\t\b\x0e\x0f]
    | \x1b[78DEM] | \x1b[()][0B]
    | \x1b\[ [0-9]{0,4} (?: ; [0-9]{0,4} )? [@A-IL-MPSXZ`abdefr]
    | \x1b\[ [0-9]{0,4} T
    | \x1b\[ [0-2]? [JK]
    | \x1b\[ [su]
    | \x1b\[ 4 [hl]
    | \x1b\[\? (?:7|12|25|47|1047|1048|1049) (?: ; (?:7|12|25|47|1047|1048|1049) )* [hl]
    | \x1b\[ [0-9:]* (?: ; [0-9:]* )* m
    """,
    re.VERBOSE,
)
"""Everything that may come out, written a second time from the promise and not from the code."""


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


def shown(*pieces: str) -> str:
    sanitiser = Sanitiser()
    return "".join(map(sanitiser.feed, pieces)) + sanitiser.end()


FRAGMENTS = st.sampled_from(
    ["\x1b", "\x1b[", "\x1b]", "\x07", "\x18", "\x1a", "\x00", "\x0e", "\x7f", "\n", "\r", "é", "ab"]
    + ["\x9b", "\x9d", "\x90", "\x9c", "\u202e", "\ud800", "\x1b\\"]
    + list("[]P_^X\\?;:><= !#(08hlmtncqrJTu")
    + ["25", "52", "38;", "48;", "58;", "2;", "5;", "1049", "2004", "999999999", "3J"]
)
HOSTILE = st.lists(st.one_of(FRAGMENTS, st.text(st.characters(), max_size=4)), max_size=40).map("".join)
PLACES = st.lists(st.integers(0, 120), max_size=8)


@given(HOSTILE, PLACES)
def test_nothing_outside_the_allow_list_comes_out_however_it_is_cut(text: str, places: list[int]) -> None:
    assert re.fullmatch(f"(?:{ALLOWED.pattern})*", shown(*cut(text, places)), re.VERBOSE)


@given(HOSTILE, PLACES)
def test_cutting_changes_nothing(text: str, places: list[int]) -> None:
    assert shown(*cut(text, places)) == shown(text)


@given(HOSTILE)
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    once = shown(text)
    assert shown(once) == once


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_bytes_of_any_kind_become_harmless_text(pieces: list[bytes]) -> None:
    display = Display()
    text = "".join(map(display.feed, pieces)) + display.end()
    assert re.fullmatch(f"(?:{ALLOWED.pattern})*", text, re.VERBOSE)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\x1b[1;31mred\x1b[0m", id="colour"),
        pytest.param("\x1b[38;5;208m\x1b[48;2;1;2;8mx\x1b[m", id="256 and true colours, 8 among their numbers"),
        pytest.param("\x1b[38:2::1:2:3mx", id="colours with colons"),
        pytest.param("\x1b[2J\x1b[H\x1b[10;20H\x1b[K\x1b[5A", id="erase and move"),
        pytest.param("\x1b[?1049h\x1b[?25l\x1b[1;23r", id="alternate screen, cursor, scroll region"),
        pytest.param("\x1b(0lqqk\x1b(B", id="line drawing"),
        pytest.param("\x1b7\x1b8\x1bM", id="save, restore, reverse index"),
        pytest.param("a\r\n\tb\b", id="plain controls"),
        pytest.param("日本語 👩‍👩‍👧 é", id="characters"),
    ],
)
def test_what_draws_passes(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        pytest.param("a\x1b]52;c;cm0gLXJm\x07b", "ab", id="clipboard (OSC 52)"),
        pytest.param("a\x1b]0;root@production\x1b\\b", "ab", id="title"),
        pytest.param("a\x1b[21tb", "ab", id="title report"),
        pytest.param("a\x1b[8;50;200tb\x1b[9;1t", "ab", id="window size"),
        pytest.param("a\x1b[6n\x1b[c\x1b[>c\x1b[=c\x1bZ\x05b", "ab", id="reports and answerback"),
        pytest.param("a\x1bP$q\"p\x1b\\b", "ab", id="device control string"),
        pytest.param("a\x1b_Gf=100;AAAA\x1b\\b\x1b^x\x1b\\c\x1bXy\x1b\\", "abc", id="APC, PM, SOS"),
        pytest.param("\x1b]8;;file:///etc/passwd\x1b\\link\x1b]8;;\x1b\\", "link", id="hyperlink shown as text"),
        pytest.param("\x1b[?1000h\x1b[?1006h\x1b[?2004h\x1b[?1h\x1b=\x1b[>4;2m\x1b[>1u", "", id="mouse and keyboard"),
        pytest.param("\x1b[?1049;2004h", "\x1b[?1049h", id="a harmful mode beside a harmless one"),
        pytest.param("\x1b[5i\x1b[4i", "", id="printer"),
        pytest.param("\x1b[8mhidden\x1b[0;8mtoo", "hidden\x1b[0mtoo", id="concealed text"),
        pytest.param("\x1b[58;5;8mx", "x", id="conceal, for terminals that know no underline colour"),
        pytest.param("\x1b[4294967304mx", "\x1b[0mx", id="conceal, after an overflow"),
        pytest.param("\x1b[3J", "", id="the reader's scrollback"),
        pytest.param("\x1bc", "\x1b[0m\x1b[H\x1b[2J", id="full reset only clears"),
        pytest.param("\x1b[999999999b", "\x1b[9999b", id="a billion repetitions"),
        pytest.param("\x9b31mtext\x9d0;title", f"{HIDDEN}31mtext{HIDDEN}0;title", id="C1, as most terminals show it"),
        pytest.param("rm \u202e/ fr- \u2066x", f"rm {HIDDEN}/ fr- {HIDDEN}x", id="direction overrides"),
        pytest.param("\x07\x00\x7f", "", id="bell, padding"),
        pytest.param("\x1b[1;2;3;4;5T", "", id="highlight tracking"),
        pytest.param("\x1b[2;20s", "", id="margins"),
    ],
)  # fmt: skip
def test_what_acts_or_lies_does_not(text: str, left: str) -> None:
    assert shown(text) == left


def test_an_unterminated_string_does_not_hide_the_rest_of_a_session() -> None:
    rest = "rm -rf / " * MAX_STRING
    assert rest in shown("\x1b_", rest)


def test_the_beginning_of_a_sequence_waits_for_its_end() -> None:
    sanitiser = Sanitiser()
    assert sanitiser.feed("a\x1b[3") == "a"
    assert sanitiser.feed("1mb") == "\x1b[31mb"


def test_what_puts_the_terminal_back_is_itself_harmless() -> None:
    assert shown(RESTORE) == RESTORE


@given(HOSTILE)
def test_plain_text_has_no_escape_left(text: str) -> None:
    assert re.fullmatch(r"[^\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]*", plain_text(shown(text)))


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        pytest.param(["one\r\ntwo\r\n"], ["one", "two"], id="lines"),
        pytest.param(["pass", "word\r\n"], ["password"], id="cut between chunks"),
        pytest.param(["lss\b \b -l\r\n"], ["ls -l"], id="corrected while typing"),
        pytest.param(["10%\r20%\r"], ["10%", "20%"], id="a progress bar"),
        pytest.param(["\x1b[31mred\x1b[0m text\n"], ["red text"], id="colours"),
        pytest.param(["\x1b[2;1Hleft\x1b[3;1Hdown"], ["left", "down"], id="a full screen"),
        pytest.param(["no end"], ["no end"], id="no end"),
    ],
)
def test_lines_are_read_as_they_were_displayed(pieces: list[str], lines: list[str]) -> None:
    reading = Reading()
    found = [line for piece in pieces for _, line in reading.feed(0, plain_text(piece))]
    assert [*found, *(line for _, line in reading.end())] == lines


def test_a_line_has_the_time_of_its_first_character() -> None:
    reading = Reading()
    assert reading.feed(1.0, "a\nb") == [(1.0, "a")]
    assert reading.feed(2.0, "c\n") == [(1.0, "bc")]
