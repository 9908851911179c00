"""What a ticket's name must look like, in patterns that can be judged in bounded time whatever is held against them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

MAX_PATTERN = 80
MAX_TICKET = 64
"""Characters."""

MAX_REPEATS = 3
"""Repeated parts of one alternative. Without groups the worst case grows by a factor of `MAX_TICKET` with each."""

_ATOM = r"(?:[A-Za-z0-9_#/:-]|\\[d.+#/-]|\[(?:[A-Za-z0-9]-[A-Za-z0-9]|[A-Za-z0-9_.])+\])"
_REPEAT = r"(?:[+*?]|\{\d{1,2}(?:,\d{0,2})?\})"
_ALTERNATIVE = re.compile(rf"(?:{_ATOM}{_REPEAT}?)+", re.ASCII)


@dataclass(frozen=True, slots=True)
class TicketPattern:
    """``[A-Z]+-[0-9]+``: characters, classes, repetition and ``|`` between alternatives; no groups. It is anchored."""

    text: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern.

        Raises:
            ValueError: it uses what a bounded pattern cannot have.
        """
        if not 0 < len(text) <= MAX_PATTERN:
            raise ValueError(f"a ticket pattern has 1 to {MAX_PATTERN} characters")
        for alternative in text.split("|"):
            if not _ALTERNATIVE.fullmatch(alternative):
                raise ValueError(f"{text!r} is not a ticket pattern; write one like [A-Z]+-[0-9]+")
            if len(re.findall(r"[+*?{]", re.sub(r"\\.|\[[^\]]*\]", "a", alternative))) > MAX_REPEATS:
                raise ValueError(f"{text!r} repeats more than {MAX_REPEATS} parts; write one like [A-Z]+-[0-9]+")
        try:
            re.compile(text, re.ASCII)
        except re.error as error:
            raise ValueError(f"{text!r} is not a ticket pattern: {error}") from None
        return cls(text)

    def __str__(self) -> str:
        return self.text

    def matches(self, ticket: str) -> bool:
        """Whether the whole of ``ticket`` is one."""
        return len(ticket) <= MAX_TICKET and re.fullmatch(self.text, ticket, re.ASCII) is not None

    def find(self, text: str) -> str | None:
        """The first word of ``text`` that is a ticket, without the punctuation around it."""
        words = (word.strip(".,:;!?()[]\"'") for word in text.split())
        return next((word for word in words if self.matches(word)), None)
