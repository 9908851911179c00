"""What a chat shows: a text, and buttons that say what they do and to what. Each platform draws it its own way.

A button carries nothing but a deed and an id. Who presses it is said by the platform at that moment, and whether it may
still be done is read from the store then: an old message is never a permission.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from bastion.chatops.commands import Mention


class Deed(StrEnum):
    """What a button does."""

    APPROVE = "approve"
    REFUSE = "refuse"

    @property
    def label(self) -> str:
        return self.value.capitalize()


_SUBJECT = {
    Deed.APPROVE: re.compile(r"q-[0-9a-z]{4,40}", re.ASCII),
    Deed.REFUSE: re.compile(r"q-[0-9a-z]{4,40}", re.ASCII),
}


@dataclass(frozen=True, slots=True)
class Button:
    """``subject`` is the id of what the deed is done to."""

    deed: Deed
    subject: str

    @property
    def code(self) -> str:
        """``approve:q-…``: the button as one string, for platforms that give it only one."""
        return f"{self.deed}:{self.subject}"

    @classmethod
    def parse(cls, code: str) -> Self:
        """Read `code`. Raises `ValueError`."""
        word, _, subject = code.partition(":")
        deed = Deed(word)
        if not _SUBJECT[deed].fullmatch(subject):
            raise ValueError("a button for something that has no id")
        return cls(deed, subject)

    @property
    def request_id(self) -> str:
        """Of the request that it is about; a grant has the letters of its request."""
        return f"q-{self.subject[2:]}"


@dataclass(frozen=True, slots=True)
class Link:
    """A way to a page of ours."""

    label: str
    url: str


@dataclass(frozen=True, slots=True)
class Card:
    """One message. ``text`` may hold what people chose and is escaped whole by whoever shows it."""

    text: str
    buttons: tuple[Button, ...] = ()
    link: Link | None = None
    to: Mention | None = None
    """Whom it concerns, to be notified."""
    loud: bool = False
    """Everybody in the channel is to be notified."""
