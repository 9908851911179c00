"""The conversation drawn as Slack shows it, in one SVG: made of the blocks that were sent, and of nothing else.

Slack's letters are not everywhere, so their widths are estimated, generously: where lines break may differ from Slack,
and what they say does not.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.chatops.fake_slack import FakeSlack, Said
from tests.chatops.transcript import renamed

PICTURE = Path(__file__).parents[2] / "docs" / "chat.svg"

WIDTH, MARGIN, INDENT, LINE = 760, 24, 44, 21
"""Pixels; of a message the text is right of its sender's picture."""

_STYLE = """\
text { font: 15px "Lato", "Helvetica Neue", Helvetica, Arial, "DejaVu Sans", sans-serif; fill: #1d1c1d; }
.said { font-weight: bold; font-size: 16px; } .small { font-size: 12px; fill: #616061; } .mention { fill: #1264a3; }
.bold { font-weight: bold; } .white, .button { font-weight: bold; font-size: 13px; text-anchor: middle; }
.white { fill: #fff; } .hint { fill: #8d8d8e; }"""

_BUTTONS = {"primary": ("#007a5a", "white"), "danger": ("#e01e5a", "white"), None: ("#fff", "button")}


@dataclass(slots=True)
class Picture:
    """What was to be seen, from the top downwards."""

    fake: FakeSlack
    names: dict[str, str]
    """Of ids, shared with the text of the same conversation."""
    shapes: list[str] = field(default_factory=list)
    height: float = MARGIN
    words: list[str] = field(default_factory=list)
    """What a person reads in it, in order; `read` finds the same in the file."""

    def step(self, what: str) -> None:
        """A line between what is seen."""
        self.height += 14
        self._line(what, MARGIN, "said")
        self.height += 6

    def form(self, view: Mapping[str, Any]) -> None:
        """A modal."""
        top, x = self.height, MARGIN + INDENT
        self.height += 14
        self._line(view["title"]["text"], x, "said")
        self.height += 8
        for block in view["blocks"]:
            self._line(block["label"]["text"], x, "bold")
            self._input(block["element"], x)
        self._button({"text": view["submit"], "style": "primary"}, x)
        self.height += 44
        self._frame(top, x - 16, 420)

    def said(self, said: Said, *, deeper: bool = False) -> None:
        """A message of the app's; ``deeper`` in a thread."""
        x = MARGIN + (INDENT if deeper else 0)
        self._sender(said, x)
        if said.only_for is not None:
            self._line("Only visible to you", x + INDENT, "small")
        self.blocks(said.body["blocks"], x + INDENT)
        self.height += 10

    def thread(self, root: Said) -> None:
        """A message, and what is under it."""
        self.said(root)
        top, replies = self.height, self.fake.thread(root)
        for reply in replies:
            self.said(reply, deeper=True)
        if not replies:
            return
        self.shapes.append(f'<path d="M{MARGIN + 18} {top}V{self.height - 10}" stroke="#ddd" stroke-width="2"/>')

    def blocks(self, blocks: Iterable[Mapping[str, Any]], x: float) -> None:
        for block in blocks:
            match block["type"]:
                case "section":
                    for line in self._text(block["text"]).split("\n"):
                        self._line(line, x)
                case "context":
                    for element in block["elements"]:
                        self._line(self._text(element), x, "mention")
                case "actions":
                    right = x
                    for element in block["elements"]:
                        right = self._button(element, right) + 8
                    self.height += 44
                case other:
                    raise AssertionError(other)

    def svg(self) -> str:
        """The file."""
        body = "\n".join(self.shapes)
        size = f'width="{WIDTH}" height="{self.height + MARGIN:.0f}" viewBox="0 0 {WIDTH} {self.height + MARGIN:.0f}"'
        back = f'<rect width="{WIDTH}" height="{self.height + MARGIN:.0f}" rx="8" fill="#fff" stroke="#ddd"/>'
        drawn = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{_STYLE}</style>\n{back}\n{body}\n</svg>\n'
        assert read(drawn) == self.words
        return drawn

    def _text(self, text: Mapping[str, Any]) -> str:
        return self.fake.read(text)

    def _sender(self, said: Said, x: float) -> None:
        y = self.height
        self.shapes.append(f'<rect x="{x}" y="{y + 2:.0f}" width="34" height="34" rx="8" fill="#1f2937"/>')
        at = datetime.fromtimestamp(int(said.ts.partition(".")[0]), UTC)
        self._put("B", x + 17, y + 24, "white")
        self._put("Bastion", x + INDENT, y + 16, "said")
        self._put(f"APP {at:%H:%M}", x + INDENT + 78, y + 16, "small")
        self.height += 22

    def _line(self, text: str, x: float, style: str = "") -> None:
        for line in wrapped(renamed(text, self.names), WIDTH - MARGIN - x):
            self._put(line, x, self.height + 16, style)
            self.height += LINE

    def _input(self, element: Mapping[str, Any], x: float) -> None:
        match element["type"]:
            case "static_select":
                hint = element["options"][0]["text"]["text"] + " ▾"
            case "checkboxes":
                self.shapes.append(f'<rect x="{x}" y="{self.height + 4:.0f}" width="14" height="14" rx="3" {_EDGE}/>')
                self._line(element["options"][0]["text"]["text"], x + 24)
                self.height += 4
                return
            case _:
                hint = element["placeholder"]["text"]
        self.shapes.append(f'<rect x="{x}" y="{self.height + 2:.0f}" width="388" height="28" rx="4" {_EDGE}/>')
        self._put(hint, x + 10, self.height + 21, "hint")
        self.height += 38

    def _button(self, element: Mapping[str, Any], x: float) -> float:
        """Draw it; its right edge."""
        fill, style = _BUTTONS[element.get("style")]
        label = element["text"]["text"]
        width = measured(label) + 24
        self.shapes.append(
            f'<rect x="{x:.0f}" y="{self.height + 5:.0f}" width="{width:.0f}" height="30" rx="4" fill="{fill}" '
            'stroke="#bbb"/>'
        )
        self._put(label, x + width / 2, self.height + 25, style)
        return x + width

    def _put(self, text: str, x: float, y: float, style: str = "") -> None:
        kind = f' class="{style}"' if style else ""
        self.shapes.append(f'<text x="{x:.0f}" y="{y:.0f}"{kind}>{html.escape(text, quote=False)}</text>')
        self.words += text.split()

    def _frame(self, top: float, x: float, width: float) -> None:
        edge = f'fill="none" stroke="#ddd" stroke-width="2" rx="8" width="{width}" height="{self.height - top:.0f}"'
        self.shapes.append(f'<rect x="{x}" y="{top:.0f}" {edge}/>')


_EDGE = 'fill="#fff" stroke="#8d8d8e"'


def read(svg: str) -> list[str]:
    """Every word in a picture, in order."""
    texts = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return [word for text in texts for word in (text.text or "").split()]


def wrapped(text: str, width: float) -> Sequence[str]:
    """Lines that fit."""
    lines = [""]
    for word in re.split(r"(?<= )", text):
        if lines[-1] and measured(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines]


def measured(text: str) -> float:
    """About how many pixels wide it is, in the widest of the letters named in `_STYLE`."""
    return sum(5.5 if c in "iljtf.,:;' |-[]()" else 14 if c in "mwMW@" else 10.5 if c.isupper() else 9.2 for c in text)
