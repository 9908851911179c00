"""A block of lines of ours in a file of somebody else's: put in, replaced and taken out again, to the byte.

The block stands first, because ssh_config's first value wins, unless its owner has moved it.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

BEGIN = "# >>> bastion >>> written by `bastion config-ssh`, taken out by `bastion config-ssh --undo`"
MADE = "# Without this block there was no such file."
END = "# <<< bastion <<<"

_BEGIN, _END, _MADE = b"# >>> bastion >>>", END.encode(), MADE.encode()

MAX_FILE = 4 * 1024 * 1024
"""Bytes; no ssh_config has as many."""

TRIES = 5
"""Against somebody else who changes the file between our reading and writing it."""


class NotEdited(Exception):
    """The file is as it was; the sentence says why, and what to do."""


def with_block(text: bytes | None, lines: list[str]) -> bytes:
    """``text`` with ``lines`` between our markers; None is a file that does not exist.

    Raises:
        NotEdited: there are markers of ours, but not one pair.
    """
    made = text is None or _find(text, _MADE) is not None
    ending = "\r\n" if text is not None and b"\r\n" in text else "\n"
    block = "".join(line + ending for line in [BEGIN, *([MADE] if made else []), *lines, END]).encode()
    span = _span(text or b"")
    if span is None:
        return block + (text or b"")
    return (text or b"")[: span[0]] + block + (text or b"")[span[1] :]


def without_block(text: bytes | None) -> bytes | None:
    """``text`` as it was before; None when there was no file then, and nobody has added to it. Raises as above."""
    span = _span(text or b"")
    if text is None or span is None:
        return text
    made = _find(text[span[0] : span[1]], _MADE) is not None
    rest = text[: span[0]] + text[span[1] :]
    return None if made and not rest else rest


def edit(path: Path, change: Callable[[bytes | None], bytes | None]) -> bool:
    """Replace a file's content by what ``change`` makes of it, at once, keeping mode and owner; whether it changed.

    None stands for a file that does not exist. A link is followed only within its own folder.

    Raises:
        NotEdited: it is a link to elsewhere, not a file, not ours to write, or is being changed by somebody else.
    """
    try:
        for _ in range(TRIES):
            real = _real(path)
            before, seen = _read(real)
            after = change(before)
            if after == before:
                return False
            if _replace(real, after, seen):
                return True
    except OSError as error:
        raise NotEdited(f"{path} cannot be changed: {error.strerror or error}.") from None
    raise NotEdited(f"{path} is being changed by another program. Try again.")


def _span(text: bytes) -> tuple[int, int] | None:
    """Where the block begins and ends, its last line's end included."""
    begins, ends = _all(text, _BEGIN), _all(text, _END)
    if not begins and not ends:
        return None
    if len(begins) != 1 or len(ends) != 1 or ends[0] < begins[0]:
        raise NotEdited(f"The lines between {_BEGIN.decode()!r} and {END!r} were altered. Remove them by hand.")
    end = text.find(b"\n", ends[0])
    return begins[0], len(text) if end < 0 else end + 1


def _all(text: bytes, mark: bytes) -> list[int]:
    """Where lines begin with ``mark``."""
    found, at = list[int](), 0
    for line in text.splitlines(keepends=True):
        if line.startswith(mark):
            found.append(at)
        at += len(line)
    return found


def _find(text: bytes, mark: bytes) -> int | None:
    return next(iter(_all(text, mark)), None)


def _real(path: Path) -> Path:
    if not path.is_symlink():
        return path
    real = path.resolve()
    if real.parent != path.parent.resolve() or not real.exists():
        by_hand = "Put in, or take out, by hand what this prints: bastion config-ssh --dry-run"
        raise NotEdited(f"{path} is a link to {real}, which bastion does not touch. {by_hand}")
    return real


_Seen = tuple[int, int, int, int] | None
"""Inode, size, time of change and mode; None when there is no file."""


def _read(path: Path) -> tuple[bytes | None, _Seen]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None, None
    with os.fdopen(descriptor, "rb") as file:
        known = os.fstat(descriptor)
        if not stat.S_ISREG(known.st_mode) or known.st_size > MAX_FILE:
            raise NotEdited(f"{path} is not a file of text.")
        return file.read(), (known.st_ino, known.st_size, known.st_mtime_ns, known.st_mode)


def _replace(path: Path, text: bytes | None, seen: _Seen) -> bool:
    """Whether it was done; not when the file is no longer the one that was read."""
    if text is None:
        path.unlink()
        return True
    path.parent.mkdir(mode=0o700, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            if seen is not None:
                os.fchmod(descriptor, stat.S_IMODE(seen[3]))
                _give_to_owner(descriptor, path)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        if _read(path)[1] != seen:
            Path(draft).unlink()
            return False
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return True


def _give_to_owner(descriptor: int, path: Path) -> None:
    """Of a file that is somebody else's, whose folder we may write: it stays theirs. Raises PermissionError."""
    owner = path.stat()
    mine = os.fstat(descriptor)
    if (owner.st_uid, owner.st_gid) != (mine.st_uid, mine.st_gid):
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
