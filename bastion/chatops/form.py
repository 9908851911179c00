"""The form of a request: its blanks, and the wish that a filled one is. The same questions on every platform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bastion.access.wish import Wish, parse_actions, parse_network
from bastion.core.errors import Refused
from bastion.core.files import parse_paths
from bastion.core.grant import MAX_REASON, check_reason, parse_duration


@dataclass(frozen=True, slots=True)
class Blank:
    """One question. ``longest`` is in characters."""

    name: str
    label: str
    hint: str
    longest: int
    optional: bool = False


BLANKS: Final = (
    Blank("target", "Target", "web-1.staging.eu", 200),
    Blank("login", "Login", "deploy", 200),
    Blank("duration", "For how long", "2h", 20),
    Blank("reason", "Reason", "what this is for", MAX_REASON),
    Blank("crossing", "Crossing", "May be used beside other environments", 3, optional=True),
    Blank("paths", "Only files in", "/var/log/, /etc/motd", 500, optional=True),
    Blank("actions", "Actions", "ssh:exec: only that; +ssh:agent: that, too", 200, optional=True),
    Blank("network", "Only from", "192.0.2.0/24", 50, optional=True),
)


class Misfilled(Refused):
    """One blank cannot be used; `blank` is its name."""

    def __init__(self, blank: str, public: str) -> None:
        super().__init__(public)
        self.blank = blank


def filled(fields: Mapping[str, str]) -> Wish:
    """The wish in a form.

    Raises:
        Misfilled: a blank is empty or cannot be read.
    """
    for blank in BLANKS:
        if not blank.optional and not fields.get(blank.name, "").strip():
            raise Misfilled(blank.name, f"{blank.label} is needed.")
    read = {name: _read(name, fields[name]) for name in _READERS if fields.get(name, "").strip()}
    return Wish(_names(fields["target"]), _names(fields["login"]), crossing=bool(fields.get("crossing")), **read)


def _read(name: str, text: str) -> Any:
    try:
        return _READERS[name](text)
    except Refused as refusal:
        raise Misfilled(name, refusal.public) from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(_words(text.lower()))


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


_READERS: Mapping[str, Callable[[str], Any]] = {
    "duration": lambda text: parse_duration("".join(text.split())),
    "reason": check_reason,
    "paths": lambda text: parse_paths(_words(text)),
    "actions": lambda text: parse_actions(_names(text)),
    "network": parse_network,
}
"""Of the blanks that can be misfilled; each has the name of the wish's field."""
