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
    EXTEND = "extend"

    @property
    def label(self) -> str:
        return self.value.capitalize()


_SUBJECT = {
    Deed.APPROVE: re.compile(r"q-[0-9a-z]{4,40}", re.ASCII),
    Deed.REFUSE: re.compile(r"q-[0-9a-z]{4,40}", re.ASCII),
    Deed.EXTEND: re.compile(r"g-[0-9a-z]{4,40}", re.ASCII),
}

_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Button:
    """``subject`` is the id of a request, or for `Deed.EXTEND` of a grant.

    ``seen`` is when that grant ended when the button was drawn, in seconds since 1970: one that has been extended since
    is not extended again by the same button.
    """

    deed: Deed
    subject: str
    seen: int | None = None

    @property
    def code(self) -> str:
        """``approve:q-…``: the button as one string, for platforms that give it only one."""
        return f"{self.deed}:{self.subject}" + (f":{self.seen}" if self.seen is not None else "")

    @classmethod
    def parse(cls, code: str) -> Self:
        """Read `code`. Raises `ValueError`."""
        word, _, rest = code.partition(":")
        subject, _, seen = rest.partition(":")
        deed = Deed(word)
        if not _SUBJECT[deed].fullmatch(subject):
            raise ValueError("a button for something that has no id")
        if (deed is Deed.EXTEND) != bool(_SECONDS.fullmatch(seen)) or (seen and deed is not Deed.EXTEND):
            raise ValueError("a button for another time")
        return cls(deed, subject, int(seen) if seen else None)

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
