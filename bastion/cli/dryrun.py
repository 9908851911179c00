"""Whether the ssh that runs `bastion cert --refresh` connects at all: ``ssh -G`` only prints what it would do, and asks
``Match exec`` for that. Editors do so while they draw a list of hosts, and nobody there reads what is waited for.

OpenSSH tells the command nothing about it, so its own command line is looked at. What cannot be read is no dry run.
"""

from __future__ import annotations

import getopt
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

OPTIONS = "1246ab:c:e:fgi:kl:m:no:p:qstvxAB:CD:E:F:GI:J:KL:MNO:P:Q:R:S:TVw:W:XYy"
"""Of ssh (ssh.c, main); one with a colon has a value."""

ABOVE = 3
"""Processes to look at: ours may have been started through a shell, and that by a wrapper."""

PS_SECONDS = 5


def is_dry_run() -> bool:
    """Whether an ssh above this process was called with ``-G``."""
    return any(only_prints(words) for words in _above())


def only_prints(words: Sequence[str]) -> bool:
    """Whether it is an ssh that connects to nothing. Its options may come before the host and after it."""
    if not words or Path(words[0]).name not in ("ssh", "ssh.exe"):
        return False
    rest = list(words[1:])
    with suppress(getopt.GetoptError):
        for _ in range(2):
            options, rest = getopt.getopt(rest, OPTIONS)
            if ("-G", "") in options:
                return True
            rest = rest[1:]
    return False


def _above() -> Iterator[Sequence[str]]:
    """The command lines of the parent, its parent…"""
    pid = os.getppid()
    for _ in range(ABOVE):
        if pid <= 1:
            return
        parent, words = _linux(pid) or _elsewhere(pid)
        yield words
        pid = parent


def _linux(pid: int) -> tuple[int, Sequence[str]] | None:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        # The second field is the program's name in brackets, which may have spaces and brackets in it.
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[1]), words
    except (OSError, ValueError, IndexError):
        return None


def _elsewhere(pid: int) -> tuple[int, Sequence[str]]:
    """Where there is no /proc. Words with spaces in them come apart, which costs nothing but the wait."""
    try:
        command = ["/bin/ps", "-o", "ppid=,args=", "-p", str(pid)]
        ran = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PS_SECONDS)
        parent, *words = ran.stdout.split()
        return int(parent), words
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0, ()
