"""What a watcher of a protocol gives the relay: it decides what passes, and says what was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bastion.core.errors import Refused
from bastion.core.recording import Underway


@dataclass(frozen=True, slots=True)
class Step:
    """What to do after some bytes came: record ``lines`` and ``underway``, then deliver the bytes (law 6)."""

    to_target: bytes = b""
    to_client: bytes = b""
    """The bastion's own refusals included."""
    lines: tuple[str, ...] = ()
    underway: tuple[Underway, ...] = ()
    """Files that have come further with these bytes, or have had their last line."""
    says: tuple[str, ...] = ()
    """Sentences for the client's standard error: OpenSSH's client shows no words of a STATUS."""


class Violation(Refused):
    """A peer left the protocol, or its bounds; the session ends, and nothing of the bad part was passed on.

    ``before`` is what was still right: record its lines (the last one says why the session ends), deliver its bytes,
    then close.
    """

    def __init__(self, public: str, *, before: Step = Step()) -> None:
        super().__init__(public)
        self.before = before


class Watch(Protocol):
    """One conversation of a client with a target. Values in, values out: the caller records and delivers."""

    @property
    def owes_the_target(self) -> bool:
        """Whether something of what the client sent is still to be passed on."""
        ...

    def from_client(self, data: bytes) -> Step:
        """What ``data``, which the client sent, comes to.

        Raises:
            Violation: the session ends; see there for what was still right. Every later call raises again.
        """
        ...

    def from_target(self, data: bytes) -> Step:
        """The same of what the target sent."""
        ...

    def close(self) -> tuple[str, ...]:
        """The last lines: what was not finished. Idempotent."""
        ...


def quoted(path: bytes) -> str:
    """``path`` in quotes, as printable text that no two paths share, for transcript lines.

    ``"`` and ``\\`` have a backslash before them; bytes of anything that is not printable, or not UTF-8, are ``\\x1b``.
    """
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
