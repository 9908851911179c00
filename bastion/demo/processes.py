"""Ending a server with everything that it started: nothing of a demo or a test outlives it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

from bastion.core.errors import BastionError

STOP_TIMEOUT = 5.0
"""Seconds until every process of a server must be gone after SIGKILL."""

_POLL = 0.005
"""Seconds."""

_PR_SET_PDEATHSIG = 1
"""prctl(2)."""

_libc = ctypes.CDLL(None)


class ProcessLeft(BastionError):
    """A process did not end although it was killed; its id is in the sentence."""


def die_with_parent() -> None:
    """For ``preexec_fn``: the kernel kills this process when the thread that started it is gone, however it went."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def kill_family(process: subprocess.Popen[bytes], variable: str) -> None:
    """Kill a server, its children and theirs, and whatever has ``variable`` (``NAME=value``) in its environment.

    The server is stopped first so that it makes no new children, and killed last so that its children stay its own.

    Raises:
        ProcessLeft: something is not gone after `STOP_TIMEOUT`.
    """
    if process.poll() is None:
        process.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + STOP_TIMEOUT
    while left := _descendants(process.pid) | _carrying(variable.encode()):
        for pid in left:
            _kill(pid)
        if time.monotonic() > deadline:
            raise ProcessLeft(f"The processes {sorted(left)} do not end.")
        time.sleep(_POLL)
    process.kill()
    process.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it was faster


def _descendants(pid: int) -> set[int]:
    """The children of ``pid``, theirs, and so on, zombies apart."""
    children: dict[int, list[int]] = {}
    for each in _running():
        try:
            # proc(5): the name in parentheses may itself have spaces and parentheses.
            state, parent = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it has ended
        if state not in "ZX":
            children.setdefault(int(parent), []).append(each)
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        mine = children.get(waiting.pop(), [])
        found.update(mine)
        waiting += mine
    return found


def _carrying(variable: bytes) -> set[int]:
    """The processes with ``variable`` in their environment, orphans too."""
    found = set()
    for each in _running():
        try:
            if variable in Path(f"/proc/{each}/environ").read_bytes().split(b"\0"):
                found.add(each)
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


def _running() -> list[int]:
    """Every process. Not by a pattern over two levels, which fails when one ends in between."""
    return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()]
