"""Choosing a target at a terminal: what is typed goes in, what is shown comes out.

A list that typing narrows, and for what has to be asked for two lines to fill in. Whatever the terminal's size, no line
is longer than it is wide and there are no more of them than it is high; and whatever is in a name, nothing that a
terminal could obey comes from it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import east_asian_width

from bastion.core.errors import Refused
from bastion.core.grant import MAX_REASON, check_reason, parse_duration
from bastion.core.target import printable

MAX_TYPED = 64
"""Characters to look for; no name is longer."""

MAX_SEQUENCE = 32
"""Bytes of what one key sends; longer ones are no keys."""

AROUND = 6
"""Lines above and below the list."""

USUAL_DURATION = "1h"

_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[ -~])")
"""What a key beyond the letters sends: a control sequence (ECMA-48, section 5.4), or SS3 in application mode."""
_BEGUN = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?")

_KEYS = {
    b"\x1b[A": "up", b"\x1bOA": "up", b"\x10": "up",
    b"\x1b[B": "down", b"\x1bOB": "down", b"\x0e": "down",
    b"\x1b[5~": "page up", b"\x1b[6~": "page down",
    b"\x1b[H": "home", b"\x1bOH": "home", b"\x1b[1~": "home",
    b"\x1b[F": "end", b"\x1bOF": "end", b"\x1b[4~": "end",
    b"\r": "enter", b"\n": "enter",
    b"\x7f": "back", b"\x08": "back", b"\x15": "clear",
    b"\x1b": "escape", b"\x03": "leave", b"\x04": "leave",
}  # fmt: skip

_SELECTED, _PLAIN, _FAINT = "\x1b[7m", "\x1b[0m", "\x1b[2m"
BEGIN, FINISH = b"\x1b[?1049h\x1b[?7l", b"\x1b[?7h\x1b[?1049l"
"""Take the other screen, without wrapping; give back what was there (xterm's control sequences)."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A login of a target. ``note`` says until when it may be used, or that it may be asked for."""

    target: str
    login: str
    note: str
    is_open: bool

    def answers(self, typed: str) -> bool:
        """Whether every word of ``typed`` is in it."""
        text = f"{self.target} {self.login} {self.note}".lower()
        return all(word in text for word in typed.lower().split())


@dataclass(frozen=True, slots=True)
class Go:
    """Connect there."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Ask:
    """Request it, for so long and for that reason, as they were typed; both can be meant."""

    offer: Offer
    duration: str
    reason: str


@dataclass(frozen=True, slots=True)
class Leave:
    """None of it."""


Chosen = Go | Ask | Leave


class Menu:
    """What is on the screen, and what the next key makes of it."""

    def __init__(self, title: str, offers: Sequence[Offer], *, columns: int, lines: int, utf8: bool) -> None:
        self._title = title
        self._offers = offers
        self._columns, self._lines = columns, lines
        self._utf8 = utf8
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._typed = ""
        self._at = 0
        self._asking: Offer | None = None
        self._fields = [USUAL_DURATION, ""]
        self._field = 0
        self._said = ""
        self.rest = b""
        """What was sent and is not read: the beginning of a key, or whatever followed the choice."""

    # In ------------------------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> Chosen | None:
        """Take what the terminal sent; what was chosen by it, if anything was."""
        self.rest += data
        while self.rest:
            if (key := self._next_key()) is None:
                return None
            if (chosen := self._pressed(key)) is not None:
                return chosen
        return None

    def settle(self) -> Chosen | None:
        """Nothing more has come for a while: what could have been the beginning of a key was the Escape key."""
        if not self.rest:
            return None
        self.rest = b""
        return self._pressed("escape")

    def resize(self, columns: int, lines: int) -> None:
        self._columns, self._lines = columns, lines

    def refused(self, sentence: str) -> None:
        """What was asked for was refused; it can be changed and asked for again."""
        self._said = sentence

    def _next_key(self) -> str | None:
        """The name of a key, or the text of one; None when more bytes are needed."""
        if self.rest.startswith(b"\x1b"):
            if match := _SEQUENCE.match(self.rest):
                return self._take(match.end())
            if _BEGUN.fullmatch(self.rest) and len(self.rest) < MAX_SEQUENCE:
                return None
        return self._take(1)

    def _take(self, count: int) -> str:
        raw, self.rest = self.rest[:count], self.rest[count:]
        if raw in _KEYS:
            return _KEYS[raw]
        return "" if raw.startswith(b"\x1b") else self._decoder.decode(raw)

    def _pressed(self, key: str) -> Chosen | None:
        if key == "leave":
            return Leave()
        return self._pressed_in_list(key) if self._asking is None else self._pressed_in_form(self._asking, key)

    def _pressed_in_list(self, key: str) -> Chosen | None:
        found = self._found()
        moves = {"up": -1, "down": 1, "page up": -self._page, "page down": self._page,
                 "home": -len(found), "end": len(found)}  # fmt: skip
        match key:
            case "escape":
                return Leave()
            case "enter" if found:
                offer = found[self._at]
                if offer.is_open:
                    return Go(offer)
                self._asking, self._field, self._said = offer, 0, ""
            case "back" | "clear":
                self._typed, self._at = self._typed[:-1] if key == "back" else "", 0
            case _ if key in moves:
                self._at = max(0, min(len(found) - 1, self._at + moves[key]))
            case _ if len(key) == 1 and key.isprintable() and len(self._typed) < MAX_TYPED:
                self._typed, self._at = self._typed + key, 0
            case _:
                pass
        return None

    def _pressed_in_form(self, offer: Offer, key: str) -> Chosen | None:
        text = self._fields[self._field]
        match key:
            case "escape":
                self._asking = None
            case "enter":
                return self._field_done(offer)
            case "up":
                self._field = 0
            case "back":
                self._fields[self._field] = text[:-1]
            case "clear":
                self._fields[self._field] = ""
            case _ if len(key) == 1 and key.isprintable() and len(text) < MAX_REASON:
                self._fields[self._field] = text + key
            case _:
                pass
        return None

    def _field_done(self, offer: Offer) -> Chosen | None:
        duration, reason = self._fields
        try:
            parse_duration(duration)
            if self._field == 1:
                check_reason(reason)
        except Refused as refused:
            self._said = refused.public
            return None
        self._said = ""
        if self._field == 0:
            self._field = 1
            return None
        return Ask(offer, duration, reason)

    def _found(self) -> list[Offer]:
        return [offer for offer in self._offers if offer.answers(self._typed)]

    # Out -----------------------------------------------------------------------------------------------------------

    def screen(self) -> bytes:
        """Everything that is shown, in the place of what was."""
        lines = self._list() if self._asking is None else self._form(self._asking)
        drawn = [f"{begin}{self._cut(text)}{_PLAIN if begin else ''}\x1b[K" for begin, text in lines[: self._lines]]
        return ("\x1b[H" + "\r\n".join(drawn) + "\x1b[J").encode("utf-8" if self._utf8 else "ascii", "replace")

    @property
    def _page(self) -> int:
        """How many offers are shown at a time."""
        return max(1, self._lines - AROUND)

    def _list(self) -> list[tuple[str, str]]:
        found = self._found()
        first = self._at - self._at % self._page
        shown = found[first : first + self._page]
        wide = max((len(offer.target) for offer in shown), default=0)
        tall = max((len(offer.login) for offer in shown), default=0)
        rows = [
            (
                _SELECTED if first + i == self._at else "",
                f" {'>' if first + i == self._at else ' '} {o.target:<{wide}}  {o.login:<{tall}}  {o.note}",
            )
            for i, o in enumerate(shown)
        ]
        count = f"{len(found)} of {len(self._offers)}"
        if not rows:
            rows = [(_FAINT, "   Nothing is called so.")]
        return self._fit(
            [("", f" {self._title}"), ("", ""), ("", f" Search: {self._typed}_"), ("", "")],
            rows,
            [("", ""), (_FAINT, f" {count}   Enter connects or asks, arrows choose, Esc leaves.")],
        )

    def _form(self, offer: Offer) -> list[tuple[str, str]]:
        room = max(1, self._columns - 14)
        fields = [
            (_SELECTED if i == self._field else "", f" {name}  {text[-room:]}{'_' if i == self._field else ''}")
            for i, (name, text) in enumerate(zip(("How long", "Why     "), self._fields, strict=True))
        ]
        if self._lines < len(fields):
            fields = [fields[self._field]]
        return self._fit(
            [("", f" Ask for {offer.target} as {offer.login}"), ("", "")],
            fields,
            [("", ""), ("", f" {self._said}"), (_FAINT, " Enter goes on, Esc goes back.")],
        )

    def _fit(
        self, above: list[tuple[str, str]], middle: list[tuple[str, str]], below: list[tuple[str, str]]
    ) -> list[tuple[str, str]]:
        """A low terminal loses empty lines first, then what is above, then what is below."""
        for part in (above, below):
            for line in [line for line in part if not line[1].strip()]:
                if len(above) + len(middle) + len(below) > self._lines:
                    part.remove(line)
        while above and len(above) + len(middle) + len(below) > self._lines:
            above.pop(0)
        while below and len(middle) + len(below) > self._lines:
            below.pop()
        return above + middle + below

    def _cut(self, text: str) -> str:
        """One line of the terminal, shorter than it is wide: in its last column some terminals wrap."""
        text = printable(text if self._utf8 else text.replace("…", "..."), 4 * MAX_REASON)
        room = max(0, self._columns - 1)
        if _width(text) <= room:
            return text
        more = ("…" if self._utf8 else "...")[:room]
        while _width(text) > room - len(more):
            text = text[:-1]
        return text + more


def _width(text: str) -> int:
    """Columns that a terminal gives to it (Unicode Standard Annex 11), or more."""
    return sum(2 if east_asian_width(character) in "WFA" else 1 for character in text)
