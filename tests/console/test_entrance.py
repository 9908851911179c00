"""Who calls the console is known before anything is read: PROXY headers of listed balancers, with TLS after them.

And how many may call at once: connections that say nothing, or little, keep nobody out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web

from bastion.console import app as console
from bastion.console.app import serve
from bastion.console.caller import peer_address
from bastion.console.entrance import Entrance, Site
from tests.fakes import FakeClock
from tests.gateways.test_listener import BAD, HEADERS, ITSELF, v1
from tests.office import open_office
from tests.office_console import BERLIN_ADDRESS, NOWHERE_ADDRESS, open_console
from tests.site import certificate

BALANCER, STRANGER = "127.0.0.3", "127.0.0.4"

LISTED = (ipaddress.ip_network(f"{BALANCER}/32"),)

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's."""
    folder = tmp_path_factory.mktemp("tls")
    public, private = certificate("127.0.0.1")
    (folder / "cert.pem").write_bytes(public)
    (folder / "key.pem").write_bytes(private)
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    ours = ssl.create_default_context(cafile=folder / "cert.pem")
    ours.check_hostname = False
    return theirs, ours


@asynccontextmanager
async def telling(tls: ssl.SSLContext | None) -> AsyncIterator[int]:
    """A console that tells callers who they are; its port."""

    async def tell(request: web.Request) -> web.Response:
        return web.Response(text=f"you are {peer_address(request)}, {request.remote}")

    app = web.Application()
    app.router.add_get("/", tell)
    runner = await serve(app, "127.0.0.1", 0, tls, balancers=LISTED)
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def ask(
    port: int,
    header: bytes,
    source: str,
    tls: ssl.SSLContext | None,
    *,
    together: bool = False,
    request: bytes = REQUEST,
) -> bytes:
    """All that is answered to a request that ``header`` precedes; ``together``: in the packet that TLS begins with."""
    with socket.create_connection(("127.0.0.1", port), 20, source_address=(source, 0)) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK if together else socket.TCP_NODELAY, 1)
        try:
            plain.sendall(header)
            with plain if tls is None else tls.wrap_socket(plain) as connection:
                connection.sendall(request)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
                answer = b""
                while data := connection.recv(65536):
                    answer += data
                return answer
        except OSError as error:
            return str(error).encode()


def answered(
    loop: str, header: bytes, source: str, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None, *, together: bool = False
) -> bytes:
    """What a console on ``loop`` says."""
    theirs, ours = tls or (None, None)

    async def visit() -> bytes:
        async with telling(theirs) as port:
            return await asyncio.to_thread(ask, port, header, source, ours, together=together)

    return run(loop, visit())


def run(loop: str, visit: Coroutine[Any, Any, bytes]) -> bytes:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(visit)


@pytest.fixture(params=["plain", "tls"])
def tls(
    request: pytest.FixtureRequest, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
    return contexts if request.param == "tls" else None


Tls = tuple[ssl.SSLContext, ssl.SSLContext] | None


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("together", [False, True], ids=["before", "in one packet"])
@pytest.mark.parametrize("header", ["version 1", "version 2"])
def test_a_balancers_header_is_the_clients_address(tls: Tls, header: str, together: bool, loop: str) -> None:
    said = answered(loop, HEADERS[header], BALANCER, tls, together=together)
    assert said.endswith(b"you are 127.0.0.1, 127.0.0.1"), said


async def test_a_request_that_cannot_be_read_is_a_line_of_the_log_and_no_crash(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with telling(None) as port:
        said = await asyncio.to_thread(ask, port, HEADERS["version 1"], STRANGER, None)
    assert said.startswith(b"HTTP/1.0 400 ")
    assert "Unhandled exception" not in caplog.text


@pytest.mark.parametrize("loop", LOOPS)
def test_who_is_no_balancer_is_who_they_are_and_their_header_is_a_broken_request(tls: Tls, loop: str) -> None:
    assert answered(loop, b"", STRANGER, tls).endswith(f"you are {STRANGER}, {STRANGER}".encode())
    for header in HEADERS.values():
        said = answered(loop, header, STRANGER, tls)
        assert b"you are" not in said
        # A connection that is closed with bytes unread is reset, and a reset may overtake the answer (RFC 9112, 9.6).
        assert b"400" in said.split(b"\r\n")[0] or b"reset by peer" in said or tls is not None


def test_a_second_header_is_the_clients_own_and_not_believed(tls: Tls) -> None:
    said = answered("asyncio", v1("TCP4 127.0.0.1 127.0.0.1 4711 22") + HEADERS["version 1"], BALANCER, tls)
    assert b"you are" not in said


def test_a_balancer_that_names_no_client_is_told_nothing(tls: Tls) -> None:
    for data in [b"", *BAD.values(), *ITSELF.values()]:
        said = answered("asyncio", data, BALANCER, tls)
        assert not said.startswith(b"HTTP/"), (data, said)


async def test_a_client_outside_the_fence_is_outside_behind_a_balancer_too(tmp_path: Path, clock: FakeClock) -> None:
    """The balancer itself is inside."""
    async with open_office(tmp_path, clock) as office, open_console(office, balancers=LISTED) as served:
        port = int(served.url.rpartition(":")[2])
        request = REQUEST.replace(b"GET /", b"GET /api/v1/access")

        async def as_client(address: str) -> bytes:
            header = v1(f"TCP4 {address} 127.0.0.1 4711 80")
            said = await asyncio.to_thread(ask, port, header, BALANCER, None, request=request)
            return said.partition(b"\r\n")[0]

        assert b" 403 " in await as_client(NOWHERE_ADDRESS)
        assert b" 401 " in await as_client(BERLIN_ADDRESS)


# How many -------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def flooded(port: int, source: str, number: int, data: bytes) -> AsyncIterator[list[asyncio.StreamReader]]:
    """That many connections from ``source`` that have sent ``data`` and no more."""
    async with AsyncExitStack() as stack:
        readers = []
        for _ in range(number):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
            stack.callback(writer.close)
            writer.write(data)
            readers.append(reader)
        yield readers


STALLED = {
    "in the header": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
    "in the body": b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n1",
}


@pytest.mark.parametrize("stalled", STALLED.values(), ids=list(STALLED))
async def test_two_hundred_half_open_and_two_hundred_stalled_connections_keep_nobody_out(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], tls: Tls, stalled: bytes
) -> None:
    theirs, ours = tls or (None, None)
    async with (
        telling(theirs) as port,
        flooded(port, STRANGER, 200, b""),
        flooded(port, STRANGER, 200, stalled if tls is None else b"\x16\x03\x01\x02"),
    ):
        said = await asyncio.to_thread(ask, port, b"", "127.0.0.1", ours)
    assert said.endswith(b"you are 127.0.0.1, 127.0.0.1"), said


async def test_a_flood_from_one_address_pushes_out_itself() -> None:
    runner = web.AppRunner(web.Application(), access_log=None)
    await runner.setup()
    handlers: Any = runner.server
    entrance = Entrance(handlers=handlers, tls=None, balancers=(), max_connections=20)
    await Site(runner, entrance, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        async with flooded(port, "127.0.0.1", 1, b"") as (honest,), flooded(port, STRANGER, 40, b"") as flood:
            assert await asyncio.wait_for(flood[0].read(), 20) == b""
            assert await asyncio.wait_for(flood[20].read(), 20) == b""
            assert not honest.at_eof()
            assert entrance.connections == 20
    finally:
        await runner.cleanup()


async def test_who_does_not_finish_a_request_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "IDLE_SECONDS", 0.2)
    async with telling(None) as port, flooded(port, STRANGER, 1, STALLED["in the header"]) as (stalled,):
        assert await asyncio.wait_for(stalled.read(), 20) == b""
