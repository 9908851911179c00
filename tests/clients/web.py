"""A small web server on the loopback, and a way to ask it, also through a SOCKS proxy (RFC 1928)."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.clients.desk import Running

SECONDS = 20.0

SERVE = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
"""Serves the folder it is started in, on a port that it says."""


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[int]:
    """A server of the files in ``folder``; its port."""
    process = await asyncio.create_subprocess_exec(
        *SERVE, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        yield await port_of(process)
    finally:
        process.kill()
        await process.wait()


async def port_of(process: Running) -> int:
    """The port that a server says on the standard output of ``process``."""
    assert process.stdout is not None
    async with asyncio.timeout(SECONDS):
        line = await process.stdout.readline()
    found = re.search(rb"port (\d+)", line)
    assert found is not None, line
    return int(found[1])


async def get(port: int, name: str, *, socks: int | None = None) -> bytes:
    """The file ``name`` from the loopback's ``port``, as seen from the end of the proxy at ``socks``, if any."""
    return await asyncio.to_thread(_get, port, name, socks)


def _get(port: int, name: str, socks: int | None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.sock = _direct(port) if socks is None else _through(socks, port)
    try:
        connection.request("GET", f"/{name}")
        response = connection.getresponse()
        assert response.status == 200, response.status
        return response.read()
    finally:
        connection.close()


def _direct(port: int) -> socket.socket:
    """To either loopback: where sshd listens on both under one port, somebody else may have it on one of them."""
    try:
        return socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
    except ConnectionRefusedError:
        return socket.create_connection(("::1", port), timeout=SECONDS)


def _through(socks: int, port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", socks), timeout=SECONDS)
    connection.sendall(b"\x05\x01\x00")
    assert connection.recv(2) == b"\x05\x00"
    connection.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + port.to_bytes(2, "big"))
    answer = connection.recv(10)
    assert answer[1:2] == b"\x00", answer
    return connection
