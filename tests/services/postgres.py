"""A real PostgreSQL server for the tests, on a Unix socket in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bastion.demo.tools import find_tool, tool_environment

START_LIMIT = 30.0
"""Seconds."""

UNPRIVILEGED = "nobody"
"""Whom the server runs as when the tests run as root, which it refuses to be."""


class PostgresServer:
    """A server of one test run. It does not sync to disk: it is killed, but the machine is not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._become = _unprivileged(folder)
        self._programs, self._environment = _programs(folder, self._become)
        self.url = f"postgresql://bastion@/postgres?host={folder}"

    def create(self) -> None:
        """Make the server's files; once, before the first `start`."""
        trust = ["--username=bastion", "--auth=trust"]
        text = ["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        made = subprocess.run(
            [self._programs / "initdb", "--pgdata", self._data, *trust, *text],
            capture_output=True,
            text=True,
            check=False,
            **self._surroundings(),
        )
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed: {(made.stdout + made.stderr)[-2000:]}")

    def start(self) -> None:
        """Returns when it answers; at the same url as before. Nothing listens on TCP."""
        options = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "fsync": "off"}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._programs / "postgres",
                    "-D",
                    self._data,
                    *(f"--{key}={value}" for key, value in options.items()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._surroundings(),
            )
        give_up_at = time.monotonic() + START_LIMIT
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"postgres did not start: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End every connection and the server. Idempotent."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_LIMIT)
            self._process = None

    def _is_ready(self) -> bool:
        """By the last line of postmaster.pid, which is what `pg_ctl --wait` looks at."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"

    def _surroundings(self) -> dict[str, Any]:
        # LC_ALL and TZ of the person who runs the tests are none of the server's business.
        return {"cwd": self.folder, "env": {"PATH": os.defpath, **self._environment}, **self._become}


def _unprivileged(folder: Path) -> dict[str, Any]:
    """What makes `subprocess` start somebody who is not root, and owns ``folder``."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(UNPRIVILEGED)
    os.chown(folder, account.pw_uid, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()}


def _programs(folder: Path, become: dict[str, Any]) -> tuple[Path, dict[str, str]]:
    """The folder of PostgreSQL's programs, and their environment.

    Raises:
        MissingTool: there is no PostgreSQL on this machine: run make tools.
    """
    programs, environment = find_tool("initdb").resolve().parent, tool_environment()
    try:
        subprocess.run([programs / "postgres", "--version"], check=True, capture_output=True, cwd=folder, **become)
    except PermissionError:
        return _copied(programs, folder / "postgresql")
    except subprocess.CalledProcessError:
        pass  # it runs, and lacks the libraries that `environment` brings
    return programs, environment


def _copied(programs: Path, into: Path) -> tuple[Path, dict[str, str]]:
    """The same programs where everybody can reach them: a clone may be in a home that is closed to others.

    PostgreSQL finds what it needs by where its programs are, in `lib` and `share` beside them.
    """
    root = programs.parents[3]
    libraries = [folder for folder in root.glob("lib/*-linux-*") if root != Path("/usr")]
    for part in (root / "lib/postgresql", root / "share/postgresql", *libraries):
        shutil.copytree(part, into / part.relative_to(root), symlinks=False, ignore_dangling_symlinks=True)
    paths = os.pathsep.join(str(into / folder.relative_to(root)) for folder in libraries)
    return into / programs.relative_to(root), {"LD_LIBRARY_PATH": paths}


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running server, to be stopped and started at will."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:  # tmp_path is too long for a socket's name (unix(7))
        server = PostgresServer(Path(folder))
        server.create()
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def running_postgres() -> Iterator[str]:
    """The url of a running server's empty database."""
    with postgres_server() as server:
        yield server.url
