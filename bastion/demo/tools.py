"""The real programs that the demo and the tests run, wherever this machine has them, and free ports to run them on."""

from __future__ import annotations

import errno
import os
import random
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from bastion.core.errors import BastionError

UNPACKED = Path(__file__).resolve().parents[2] / ".tools"
"""Where ``make tools`` unpacks what the machine lacks; nothing is there in an installed package."""


PORTS = range(10_000, 32_000)
ATTEMPTS = 100


class MissingTool(BastionError):
    """A program is not on this machine; nothing was started."""


def find_tool(name: str) -> Path:
    """The program ``name``: the machine's own, else the one that ``make tools`` unpacked.

    A program from `UNPACKED` runs only with `tool_environment`.

    Raises:
        MissingTool: neither is there.
    """
    searched = [Path("/usr/sbin"), *_newest_first(Path("/usr/lib/postgresql"))]
    unpacked = UNPACKED / "usr"
    searched += [unpacked / "bin", unpacked / "sbin", *_newest_first(unpacked / "lib/postgresql")]
    for folder in (*os.get_exec_path(), *searched):
        if found := shutil.which(name, path=str(folder)):
            return Path(found)
    raise MissingTool(f"The program {name} is not on this machine. To bring it, run make tools.")


def find_library(name: str) -> Path:
    """The shared library ``name``, as ``libnss_wrapper.so``; the machine's own first.

    Raises:
        MissingTool: it is not there.
    """
    for root in (Path("/usr"), UNPACKED / "usr"):
        for folder in (*_library_folders(root), root / "lib64", root / "lib"):
            if (library := folder / name).is_file():
                return library
    raise MissingTool(f"The library {name} is not on this machine. To bring it, run make tools.")


def tool_environment() -> dict[str, str]:
    """What a program from `UNPACKED` needs in its environment; empty when nothing was unpacked.

    Harmless to the machine's own programs: only libraries that the machine lacks are unpacked.
    """
    folders = [str(folder) for folder in _library_folders(UNPACKED / "usr")]
    if not folders:
        return {}
    if inherited := os.environ.get("LD_LIBRARY_PATH"):
        folders.append(inherited)
    return {"LD_LIBRARY_PATH": os.pathsep.join(folders)}


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port on ``address`` that nobody listens on now. Somebody may take it before you do: try again then.

    It is below the range that the kernel gives to outgoing connections, which would take it soonest (ip(7),
    ip_local_port_range).

    Raises:
        OSError: there was none among many tried.
    """
    for port in random.sample(PORTS, ATTEMPTS):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise OSError(errno.EADDRINUSE, f"no free port among {ATTEMPTS} on {address}")


def _library_folders(root: Path) -> Iterator[Path]:
    """Debian's multiarch folders: ``lib/x86_64-linux-gnu``."""
    return (folder for folder in sorted(root.glob("lib/*-linux-*")) if folder.is_dir())


def _newest_first(versions: Path) -> list[Path]:
    """``15/bin``, ``13/bin``…: Debian keeps PostgreSQL's servers apart by version and off the PATH."""
    folders = [folder for folder in versions.glob("*/bin") if folder.parent.name.isdecimal()]
    return sorted(folders, key=lambda folder: int(folder.parent.name), reverse=True)
