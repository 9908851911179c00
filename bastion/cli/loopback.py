"""The end of a login on this machine: a port of the loopback that one redirect arrives at (RFC 8252, section 7.3)."""

from __future__ import annotations

import hmac
import queue
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

ANSWER_SECONDS = 60
"""How long a browser waits until its code was redeemed."""

TELL_SECONDS = 5
"""How long the command line waits until the browser has its answer."""


class Loopback:
    """Listens on 127.0.0.1 until the redirect with our own ``state`` has come; nothing else ends the wait."""

    def __init__(self, state: str) -> None:
        self._state = state
        self._codes: queue.Queue[str] = queue.Queue(maxsize=1)
        self._onward: queue.Queue[str | None] = queue.Queue(maxsize=1)
        self._told = threading.Event()
        self._waiting = False
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.answer(None)
        self._server.shutdown()
        self._server.server_close()

    def wait(self, seconds: float) -> str | None:
        """The code, or None when none came in time."""
        try:
            code = self._codes.get(timeout=seconds)
        except queue.Empty:
            return None
        self._waiting = True
        return code

    def answer(self, url: str | None) -> None:
        """Send the browser that brought the code on to ``url``; None tells it that the login failed. Once."""
        if self._waiting:
            self._waiting = False
            self._onward.put(url)
            self._told.wait(TELL_SECONDS)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10
            """Seconds: browsers open connections in advance that never ask anything."""

            def do_GET(self) -> None:
                code = loopback._accept(self.path)
                if code is None:
                    self._say(404, "This is not the login that was begun here.")
                    return
                try:
                    loopback._codes.put_nowait(code)
                    self._send_on(loopback._onward.get(timeout=ANSWER_SECONDS))
                except (queue.Full, queue.Empty):
                    self._send_on(None)
                finally:
                    loopback._told.set()

            def _send_on(self, url: str | None) -> None:
                if url is None:
                    self._say(400, "The login failed; your terminal says why.")
                    return
                self.send_response(302)
                self.send_header("Location", url)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _say(self, status: int, sentence: str) -> None:
                body = sentence.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Not at all: the request line has the code."""

        return Handler

    def _accept(self, target: str) -> str | None:
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        state, code = query.get("state", [""])[0], query.get("code", [""])[0]
        right = parts.path == "/callback" and hmac.compare_digest(state.encode(), self._state.encode())
        return code if right and code else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        """Without HTTPServer's reverse look-up of the address, which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]
