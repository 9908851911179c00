"""What a recorded terminal may do to the terminal of whoever reads it: draw, and nothing else.

An allow-list. Text, colours, cursor movement, erasing, scroll regions and the alternate screen pass. What acts
(clipboard, window, printer, keyboard and mouse modes), what answers (status and identity reports, which would be typed
into the reader's shell) and what lies (titles, concealed text, right-to-left overrides) does not. References: ECMA-48
(5th edition), and xterm's "Control Sequences" (ctlseqs).
"""

from __future__ import annotations

import codecs
import re
from functools import lru_cache

MAX_SEQUENCE = 64
"""Characters of a control sequence's parameters; a longer one is shown as text."""

MAX_STRING = 4096
"""Characters of a device control, operating system or privacy string; a longer one is shown as text, so that no
unterminated string can hide the rest of a session."""

MAX_NUMBER = 9999
"""A larger parameter becomes this one: nobody's terminal repeats a character a billion times."""

HIDDEN = "\N{REPLACEMENT CHARACTER}"
"""Stands where a character was that would act or lie."""

RESTORE = "\x1b[?47l\x1b7\x1b[r\x1b8\x1b[0m\x1b(B\x0f\x1b[4l\x1b[?7h\x1b[?25h"
"""Puts the reader's terminal back after anything that `Sanitiser` lets through. The cursor stays where it is: resetting
the scroll region would send it home, and so would leaving the alternate screen by 1049 without having entered it."""

_LIES = "\x80-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""C1 controls in their 8-bit form (what follows is shown: most terminals show it), direction overrides, line
separators, lone surrogates."""

_QUIET = "\\x00-\\x07\\x0b\\x0c\\x0e-\\x1a\\x1c-\\x1f\\x7f"
"""Controls other than the four that any text has (line ends, tab, backspace), and Escape."""

_WHOLE = rf"""
      (?P<text> [^\x1b{_QUIET}{_LIES}]+ )
    | (?P<csi> \x1b\[ (?P<private>[<-?]?) (?P<numbers>[0-?]{{0,{MAX_SEQUENCE}}}) (?P<between>[ -/]{{0,8}})
               (?P<final>[@-~]) )
    | (?P<string> \x1b[]P^_X] [^\x07\x18\x1a\x1b]{{0,{MAX_STRING}}}
               (?: \x07 | \x1b\\ | (?=[\x18\x1a]) | (?=\x1b[^\\]) ) )
    | (?P<charset> \x1b[()][0B] )
    | (?P<escape> \x1b[78DEMc] )
    | (?P<other> \x1b[ -/]{{1,2}}[0-~] | \x1b[0-OQ-WYZ\\`-~] )
    | (?P<control> [{_QUIET}] )
    | (?P<lie> [{_LIES}] )
    | (?P<stray> \x1b )
"""
_UNFINISHED = rf"""
      (?P<unfinished> \x1b (?: \[ [0-?]{{0,{MAX_SEQUENCE + 1}}} [ -/]{{0,8}}
                             | []P^_X] [^\x07\x18\x1a\x1b]{{0,{MAX_STRING}}} \x1b?
                             | [ -/]{{1,2}} )? \Z )
"""
_FINAL = re.compile(_WHOLE, re.VERBOSE)
_STREAM = re.compile(f"{_UNFINISHED} | {_WHOLE}", re.VERBOSE)
"""Every character belongs to some token. One that may still become another token is unfinished."""

_CONTROLS = {"\x0b": "\n", "\x0c": "\n", "\x0e": "\x0e", "\x0f": "\x0f"}
_DRAWING = frozenset("@ABCDEFGHILMPSXZ`abdef")
_MODES = {"": frozenset({4}), "?": frozenset({7, 12, 25, 47, 1047, 1048, 1049})}
"""Insert; wrap, the cursor's looks, the alternate screen."""
_CLEAR = "\x1b[0m\x1b[H\x1b[2J"


class Sanitiser:
    """Makes text harmless as it comes, however it was cut: the joined output is that of the joined input."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """What may be shown of ``text``; the beginning of a sequence is held until the rest comes."""
        text, self._held = self._held + text, ""
        shown = []
        for token in _STREAM.finditer(text):
            if token.lastgroup == "unfinished":
                self._held = token.group()
            else:
                shown.append(_harmless(token))
        return "".join(shown)

    def end(self) -> str:
        """What was still held, as text."""
        held, self._held = self._held, ""
        return "".join(map(_harmless, _FINAL.finditer(held)))


class Display:
    """Recorded bytes as harmless text: characters are put together, what is none becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._sanitiser = Sanitiser()

    def feed(self, data: bytes) -> str:
        return self._sanitiser.feed(self._decoder.decode(data))

    def end(self) -> str:
        return self._sanitiser.feed(self._decoder.decode(b"", final=True)) + self._sanitiser.end()


def _harmless(token: re.Match[str]) -> str:
    match token.lastgroup:
        case "text" | "charset":
            return token.group()
        case "escape":
            return _CLEAR if token.group() == "\x1bc" else token.group()
        case "control":
            return _CONTROLS.get(token.group(), "")
        case "lie":
            return HIDDEN
        case "csi":
            return _sequence(token["private"], token["numbers"], token["between"], token["final"])
        case _:
            return ""


@lru_cache(maxsize=4096)  # few sequences make up most of what is drawn
def _sequence(private: str, numbers: str, between: str, final: str) -> str:
    if between or not re.fullmatch(r"[0-9;:]*", numbers):
        return ""
    if final in "hl":
        kept = [str(int(n)) for n in numbers.split(";") if n.isdigit() and int(n) in _MODES.get(private, ())]
        return f"\x1b[{private}{';'.join(kept)}{final}" if kept else ""
    if private:
        return ""
    if final == "m":
        return _colours(numbers)
    values = [n and str(min(int(n), MAX_NUMBER)) for n in numbers.split(";")] if ":" not in numbers else []
    allowed = (
        (final in _DRAWING and len(values) <= 2)
        or (final in "JK" and values in ([""], ["0"], ["1"], ["2"]))  # 3 would erase the reader's own scrollback
        or (final == "r" and 0 < len(values) <= 2)
        or (final == "T" and len(values) == 1)  # with five it is mouse tracking
        or (final in "su" and values == [""])
    )
    return f"\x1b[{';'.join(values)}{final}" if allowed and values else ""


def _colours(numbers: str) -> str:
    """SGR (ECMA-48, 8.3.117) without 8, conceal, which hides from the reader what is there.

    Underline colours go too: a terminal that does not know 58 would take its numbers for attributes of their own.
    """
    values = [value if max(map(len, value.split(":"))) <= 4 else "0" for value in numbers.split(";")]
    kept: list[str] = []
    while values:
        width = {"2": 5, "5": 3}.get(values[1], 1) if values[0] in ("38", "48", "58") and len(values) > 1 else 1
        attribute = values[0].partition(":")[0].lstrip("0")
        if attribute not in ("8", "58"):
            kept += values[:width]
        del values[:width]
    return f"\x1b[{';'.join(kept)}m" if kept else ""


# Plain text -----------------------------------------------------------------------------------------------------------

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()][0-~]|[ -~])")
_ELSEWHERE = re.compile(r"\x1b\[[0-9;]*[Hfd]|\x1b[EM]|\x1b\[[0-9;]*[EF]")
_GAP = re.compile(r"\x1b\[(\d{0,4})([CG])")
_UNPRINTED = re.compile(r"[\x00-\x07\x0b-\x0c\x0e-\x1f\x7f]")


def plain_text(text: str) -> str:
    """``text`` that `Sanitiser` gave, without any escape sequence: a jump to another line becomes a line's end, one
    within the line becomes blanks. ``\\r`` and ``\\b`` are left to the reader."""
    if "\x1b" in text:
        text = _ELSEWHERE.sub("\n", text)
        text = _GAP.sub(lambda m: " " * (min(int(m[1] or 1), 80) if m[2] == "C" else 1), text)
        text = _ANSI.sub("", text)
    return _UNPRINTED.sub("", text)


class Reading:
    """The lines a terminal showed, each with the time its first character appeared; for search."""

    MAX_LINE = 10_000
    """Characters; a longer line is given in pieces."""

    def __init__(self) -> None:
        self._line: list[str] = []
        self._since = 0.0

    def feed(self, at: float, text: str) -> list[tuple[float, str]]:
        """The lines that ``text`` (of `plain_text`) ends. ``\\r`` ends one too: what it overwrites was seen."""
        done: list[tuple[float, str]] = []
        for piece in re.split(r"(\r\n|\n|\r)", text):
            if piece in ("\n", "\r", "\r\n"):
                done += self.end()
                continue
            if piece and not self._line:
                self._since = at
            self._type(piece)
            if len(self._line) >= self.MAX_LINE:
                done += self.end()
        return done

    def end(self) -> list[tuple[float, str]]:
        """The line that has not ended."""
        line, self._line = "".join(self._line), []
        return [(self._since, line)] if line.strip() else []

    def _type(self, piece: str) -> None:
        if "\b" not in piece:
            self._line += piece
            return
        for character in piece:
            if character != "\b":
                self._line.append(character)
            elif self._line:
                self._line.pop()
