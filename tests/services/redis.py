"""A real redis-server for the tests, on a Unix socket in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bastion.demo.tools import find_tool, tool_environment

START_LIMIT = 10.0
"""Seconds."""


class RedisServer:
    """A server without persistence, which therefore forgets everything when it is stopped."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options: Sequence[str] = options
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = folder / "redis.sock"
        self.url = f"unix://{self._socket}"

    def start(self) -> None:
        """Returns when it answers; at the same url as before.

        Raises:
            MissingTool: there is no redis-server on this machine: run make tools.
        """
        listen = ["--port", "0", "--unixsocket", str(self._socket)]
        forget = ["--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        log = (self._folder / "redis.log").open("ab")
        self._process = subprocess.Popen(
            [str(find_tool("redis-server")), *listen, *forget, *self._options],
            env={**os.environ, **tool_environment()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        give_up_at = time.monotonic() + START_LIMIT
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up_at:
                raise RuntimeError(f"redis-server did not start: {(self._folder / 'redis.log').read_text()[-2000:]}")
            time.sleep(0.01)

    def settle(self) -> None:
        """Make it a server that has been in use for long, so that it is believed when it knows nobody."""
        self.say("SET", "bastion:born", "1")

    def freeze(self) -> None:
        """It keeps its connections, takes new ones, and answers none."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def say(self, *words: str) -> bytes:
        """One command, past every client library; the first line of the answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            connection.connect(str(self._socket))
            connection.sendall(
                b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words)
            )
            return connection.makefile("rb").readline().strip()

    def _answers(self) -> bool:
        try:
            return self.say("PING")[:5] in (b"+PONG", b"-NOAU")
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """A running server, fresh and unsettled, to be killed and started at will."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:  # tmp_path is too long for a socket's name (unix(7))
        server = RedisServer(Path(folder), *options)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextlib.contextmanager
def coordination_by(kind: str) -> Iterator[str]:
    """The setting of a coordination: ``memory``, or ``redis`` for a server of its own."""
    if kind == "redis":
        with running_redis() as url:
            yield url
    else:
        yield kind


@contextlib.contextmanager
def running_redis() -> Iterator[str]:
    """The url of a running server that is believed from the first moment."""
    with redis_server() as server:
        server.settle()
        yield server.url
