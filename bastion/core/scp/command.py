"""Commands that are `scp -t` or `scp -f`, whatever shell reads them; anything that might be more is not recognised."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bastion.core.files import FileRights, Limits

_BARE = r"[A-Za-z0-9_@%+:,./~-]+"
_SINGLE = r"'[^'\\!]*'"
"""No backslash: fish reads it between single quotes. No exclamation mark: csh does."""
_DOUBLE = r'"[^"\\$`!]*"'
_ESCAPED = r"\\[ !\"#$&'()*,:;<=>?@\[\\\]^`{|}~]"
_PIECE = re.compile(f"({_BARE})|({_SINGLE}|{_DOUBLE})|({_ESCAPED})")
_WORD = re.compile(f"(?:{_BARE}|{_SINGLE}|{_DOUBLE}|{_ESCAPED})+")
_COMMAND = re.compile(rf"scp((?: +-[dfpqrtv]+)+)( +--)? +({_WORD.pattern})")
"""What OpenSSH, PuTTY, libssh2 and paramiko's scp send: options, and one path. No globs: what they mean is not known
here, and a file may be called like an option."""


@dataclass(frozen=True, slots=True)
class ScpCommand:
    """The target's half of a copy. ``writes``: the client sends files, which the target writes to ``path``."""

    writes: bool
    path: str

    def limits(self, files: FileRights) -> Limits | None:
        """What it has to keep to; None when it may not be run.

        Where paths are limited it may not: nobody can be asked where a path leads, and what links do is not seen.
        """
        limits = files.write if self.writes else files.read
        return None if files.are_narrowed else limits


def recognise(command: str) -> ScpCommand | None:
    """What ``command`` copies; None when it is not scp, or may be something else besides."""
    match = _COMMAND.fullmatch(command)
    if match is None or not command.isprintable():
        return None
    options, ends_options, word = match.groups()
    ways = {letter for letter in options if letter in "tf"}
    path = "".join(bare or quoted[1:-1] or escaped[1:] for bare, quoted, escaped in _PIECE.findall(word))
    if len(ways) != 1 or not path or (path.startswith("-") and not ends_options):
        return None
    return ScpCommand(ways == {"t"}, path)
