"""What of a target's files a session may touch: which paths, up to which size, in which direction.

A path is written absolute, strictly: ``/etc/motd`` is one file, ``/var/log/`` (or ``/var/log/**``) a folder and all in
it, and ``*`` stands for any part of one name. What is judged is bytes, as SFTP has them, and canonical: without links,
``.`` and ``..``. Making a name canonical is the business of whoever asks (`bastion.core.sftp.examination`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from bastion.core.errors import Refused

MAX_PATHS = 20
"""Of one request or policy: what reviewers still read."""

MAX_PATH = 1024
"""Characters of one."""

MAX_NAME = 255
"""Bytes between two slashes: NAME_MAX of Linux."""

_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(rf"(\d{{1,6}}) ?({'|'.join(_UNITS)})", re.ASCII)

_CANONICAL = re.compile(rb"/|(?:/(?!\.{1,2}(?:/|\Z))[^/\0]+)+")


def parse_paths(texts: Iterable[str]) -> frozenset[str]:
    """Read ``/var/log/``, ``/srv/*/report.pdf`` and their like; a folder ends with a slash in what is returned.

    Raises:
        Refused: one is not written so, or means everything, or there are more than `MAX_PATHS`.
    """
    paths = frozenset(_parse_path(text.strip()) for text in texts)
    if len(paths) > MAX_PATHS:
        raise Refused(f"At most {MAX_PATHS} paths can be named.")
    return paths


def _parse_path(text: str) -> str:
    path = text.removesuffix("**") if text.endswith("/**") else text
    names = path.removesuffix("/").split("/")[1:]
    if (
        not text.startswith("/")
        or not text.isprintable()
        or len(text) > MAX_PATH
        or any(sign in text for sign in "?[]{}\\,")
    ):
        shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:60])
        raise Refused(f"{shown!r} is not a path. Write it like /var/log/ or /srv/*/report.pdf: only * is special.")
    if not names:
        raise Refused("Every path there is, is no limit: leave it out.")
    for name in names:
        if name in ("", ".", "..") or "**" in name or len(name.encode()) > MAX_NAME:
            raise Refused(f"{text!r} cannot be a path: {name or '//'!r} is no name in it; ** stands at the end only.")
    return path


def parse_size(text: str) -> int:
    """Bytes of ``100MiB``, ``1 GiB``, ``512B``.

    Raises:
        ValueError: it is not written so.
    """
    if (match := _SIZE.fullmatch(text)) is None:
        raise ValueError(f"must be a number and one of {', '.join(_UNITS)}, as in 100MiB")
    return int(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True, slots=True)
class Paths:
    """Paths as `parse_paths` returned them. None at all hold nothing."""

    written: frozenset[str]

    def hold(self, path: bytes) -> bool:
        """Whether ``path`` is one of them, or lies in one. What is not canonical does not."""
        return _CANONICAL.fullmatch(path) is not None and _compiled(self.written)[0].fullmatch(path) is not None

    def lead_to(self, path: bytes) -> bool:
        """Whether ``path`` is held, or is a folder on the way to what is."""
        return self.hold(path) or _compiled(self.written)[1].fullmatch(path) is not None

    def __str__(self) -> str:
        return ", ".join(sorted(self.written))


@lru_cache(maxsize=256)
def _compiled(written: frozenset[str]) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """What matches the paths, and what the folders above them."""
    held, above = [b"(?!)"], [b"(?!)"]
    for path in sorted(written):
        names = [_expression(name) for name in path.strip("/").split("/")]
        whole = b"/" + b"/".join(names)
        held.append(whole + b"(?:/.*)?" if path.endswith("/") else whole)
        way = b""
        for name in reversed(names[:-1]):
            way = name + (b"(?:/%s)?" % way if way else b"")
        above.append(b"/(?:%s)?" % way)
    return re.compile(b"|".join(held), re.DOTALL), re.compile(b"|".join(above), re.DOTALL)


def _expression(name: str) -> bytes:
    """One name with its stars. Each star takes as little as it can and never gives it back: no name takes long."""
    first, *others = (re.escape(part.encode()) for part in name.split("*"))
    if not others:
        return first
    *middle, last = others
    return first + b"".join(b"(?>[^/]*?%s)" % part for part in middle if part) + b"[^/]*" + last


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one direction. Without ``within`` every path is allowed, without ``max_size`` every size."""

    within: frozenset[Paths] = frozenset()
    """A path must be held by every one of them."""
    max_size: int | None = None
    """Bytes of one file."""

    def hold(self, path: bytes) -> bool:
        """Whether the canonical ``path`` may be touched."""
        return all(paths.hold(path) for paths in self.within)

    def lead_to(self, path: bytes) -> bool:
        """Whether it may be looked at: also where it is a folder on the way."""
        return all(paths.lead_to(path) for paths in self.within)

    def exceeded_by(self, size: int) -> bool:
        return self.max_size is not None and size > self.max_size

    def within_also(self, written: frozenset[str]) -> Limits:
        """With the paths of a grant, of which none narrow nothing."""
        return Limits(self.within | {Paths(written)}, self.max_size) if written else self

    def are_no_wider_than(self, others: Limits) -> bool:
        """Whether everything that they allow is certainly allowed by ``others``."""
        return others.within <= self.within and (
            others.max_size is None or (self.max_size is not None and self.max_size <= others.max_size)
        )


def strictest(limits: Sequence[Limits]) -> Limits:
    """What satisfies every one of ``limits``."""
    sizes = [each.max_size for each in limits if each.max_size is not None]
    return Limits(frozenset().union(*(each.within for each in limits)), min(sizes, default=None))


@dataclass(frozen=True, slots=True)
class FileRights:
    """What a session may do with files. None is the right to nothing in that direction."""

    read: Limits | None = None
    write: Limits | None = None

    @property
    def granted(self) -> tuple[Limits, ...]:
        """The limits of the directions that there are."""
        return tuple(limits for limits in (self.read, self.write) if limits is not None)

    @property
    def are_narrowed(self) -> bool:
        """Whether any path is out of reach in a direction that there is."""
        return any(limits.within for limits in self.granted)

    def are_no_wider_than(self, others: FileRights) -> bool:
        """Whether everything that they allow is certainly allowed by ``others``."""
        pairs = ((self.read, others.read), (self.write, others.write))
        return all(one is None or (other is not None and one.are_no_wider_than(other)) for one, other in pairs)
