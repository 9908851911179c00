"""Text that people chose, for platforms that read Markdown: shown as it is, obeyed in nothing."""

from __future__ import annotations

import re

WORD_JOINER = "\N{WORD JOINER}"

_MARKS = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~:^=$&])")
"""What Markdown of any dialect, emoji names and channel links begin with."""

_MENTION = re.compile(r"@(?=\S)")
_SCHEME = re.compile(r"(?<=[a-zA-Z])(:)(?=//)")


def harmless(text: str) -> str:
    """``text`` without control characters: what could steer a terminal, a line's direction or a log."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def markdown(text: str) -> str:
    """``text`` so that Markdown shows exactly it: no formatting, no link, no emoji, and no mention that pings."""
    shown = _SCHEME.sub(rf"{WORD_JOINER}\1", _MENTION.sub(f"@{WORD_JOINER}", harmless(text)))
    return _MARKS.sub(r"\\\1", shown)
