"""The form of a request: its blanks, and the wish that a filled one is. The same questions on every platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bastion.access.wish import Wish
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
    try:
        duration = parse_duration("".join(fields["duration"].split()))
    except Refused as refusal:
        raise Misfilled("duration", refusal.public) from None
    try:
        reason = check_reason(fields["reason"])
    except Refused as refusal:
        raise Misfilled("reason", refusal.public) from None
    try:
        paths = parse_paths(fields.get("paths", "").replace(",", " ").split())
    except Refused as refusal:
        raise Misfilled("paths", refusal.public) from None
    return Wish(
        targets=_names(fields["target"]),
        logins=_names(fields["login"]),
        duration=duration,
        reason=reason,
        crossing=bool(fields.get("crossing")),
        paths=paths,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.lower().replace(",", " ").split())
