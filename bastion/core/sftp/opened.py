"""A file or directory that the target has open for the client: what has passed through it so far."""

from __future__ import annotations

from dataclasses import dataclass, field

from bastion.core.recording import Underway
from bastion.core.sftp.packets import OpenFlag, spell_status
from bastion.core.sftp.transfer import Room, Transfer


@dataclass(slots=True, eq=False)
class Opened:
    """An open handle. Known by itself, not by the handle: the target gives handles again after CLOSE."""

    number: int
    """Of the file, among all of its session."""
    name: str
    """The path as it was asked for, quoted."""
    shows: frozenset[str]
    """What its description has even when nothing passed: ``read``, ``written``, ``entries``."""
    read: Transfer
    written: Transfer
    entries: int = 0
    asked: int = 0
    """Requests on it that passed and have no answer yet."""
    is_underway: bool = False
    """Whether the recording was told how far it has come."""
    closed: int | None = None
    """The status that its CLOSE was answered with."""
    _failures: dict[str, tuple[int, int]] = field(default_factory=dict)

    def note_failure(self, verb: str, code: int) -> None:
        """Count one more ``verb`` that the target answered with ``code``; the first code of each verb is kept."""
        count, first = self._failures.get(verb, (0, code))
        self._failures[verb] = (count + 1, first)

    def so_far(self) -> Underway:
        """What has passed, while more may."""
        self.is_underway = True
        transfers = (("read", self.read), ("written", self.written))
        parts = [f"{word} {transfer.so_far()}" for word, transfer in transfers if not transfer.is_empty]
        return Underway(self.number, f"sftp {self.name} {'; '.join(parts)}".rstrip())

    def describe(self) -> str:
        """``"/x" read 1048576 bytes sha256 … in order``; nothing may pass through it afterwards."""
        parts = []
        if "entries" in self.shows:
            parts.append(f"{self.entries} entries")
        if "read" in self.shows or not self.read.is_empty:
            parts.append(f"read {self.read.summary()}")
        if "written" in self.shows or not self.written.is_empty:
            parts.append(f"written {self.written.summary()}")
        for verb, (count, first) in self._failures.items():
            parts.append(f"{count} times {verb} failed, first with {spell_status(first)}")
        return " ".join((self.name, "; ".join(parts))).rstrip()


def open_directory(number: int, name: str, room: Room) -> Opened:
    return Opened(number, name, frozenset({"entries"}), Transfer(room), Transfer(room))


def open_file(number: int, name: str, flags: int, room: Room) -> Opened:
    """``flags`` are those of its OPEN."""
    shows = {word for flag, word in ((OpenFlag.READ, "read"), (OpenFlag.WRITE, "written")) if flags & flag}
    reorders = not flags & OpenFlag.APPEND
    return Opened(number, name, frozenset(shows), Transfer(room), Transfer(room, reorders=reorders))
