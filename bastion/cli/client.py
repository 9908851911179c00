"""Asking the bastion over its API, for the commands that run on somebody's own machine.

Only the standard library: every command pays for what is imported here.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import urlencode, urlsplit

import typer

from bastion.cli import exits, saved
from bastion.core.target import printable

TIMEOUT = 60.0
"""Seconds for a connection and for each part of an answer."""

MAX_ANSWER = 64 * 1024 * 1024
"""Bytes; lists are bounded on the other side long before."""

MAX_SENTENCE = 2000
"""Characters of an error that are shown."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer: its status, and the JSON in it."""

    status: int
    body: Any

    @property
    def sentence(self) -> str:
        """What went wrong, safe to print."""
        said = self.body.get("error") if isinstance(self.body, dict) else None
        if isinstance(said, str) and isinstance(self.body.get("error_description"), str):
            said = self.body[
                "error_description"
            ]  # where an RFC has the sentence beside its code (RFC 6749, section 5.2)
        if isinstance(said, str):
            return "\n".join(printable(line, MAX_SENTENCE) for line in said[:MAX_SENTENCE].splitlines())
        return f"The bastion answered with status {self.status} and no reason."


class Client:
    """The API of one bastion, as one identity (or nobody, to log in)."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = check_url(url)
        self._token = token

    @classmethod
    def from_login(cls) -> Client:
        """By ``BASTION_TOKEN`` where a script has that, else as whoever logged in last.

        Exits with NOT_LOGGED_IN and a sentence when nobody is.
        """
        login = saved.load()
        if token := os.environ.get("BASTION_TOKEN"):
            if not (url := os.environ.get("BASTION_URL") or (login.url if login is not None else "")):
                fail("BASTION_TOKEN is for which bastion? Set BASTION_URL.", exits.USAGE)
            return cls(url, token)
        if login is None:
            fail("You are not logged in. Run: bastion login URL", exits.NOT_LOGGED_IN)
        if not login.is_good(datetime.now(UTC)):
            fail("Your login is over. Run: bastion login", exits.NOT_LOGGED_IN)
        return cls(login.url, login.token)

    def as_holder_of(self, token: str) -> Client:
        """The same bastion, as somebody else or once more."""
        return Client(self.url, token)

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, str] | None = None
    ) -> Any:
        """The JSON that the bastion answers.

        Exits with a sentence on standard error: REFUSED when it says no, NOT_LOGGED_IN when it does not know us,
        UNREACHABLE when it says nothing.
        """
        reply = self.ask(method, path, body, query)
        if reply.status >= 300:
            fail(reply.sentence, exits.NOT_LOGGED_IN if reply.status == 401 else exits.REFUSED)
        return reply.body

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        *,
        form: Mapping[str, str] | None = None,
    ) -> Reply:
        """The answer, whatever its status. Exits with UNREACHABLE when there is none. ``form`` is sent for a body."""
        connection = self._connect(TIMEOUT)
        try:
            response = self._send(connection, method, path, body, query, form)
            raw = response.read(MAX_ANSWER + 1)
            if len(raw) > MAX_ANSWER:
                raise ValueError("the answer is too long")
            return Reply(response.status, _parse(raw, response.status))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._unreachable(error)
        finally:
            connection.close()

    def stream(self, path: str, query: Mapping[str, str] | None = None) -> Iterator[bytes]:
        """The lines of an answer, without their ends, as they come, for as long as it lasts. Exits as `call` does."""
        connection = self._connect(None)
        try:
            response = self._send(connection, "GET", path, None, query)
            if response.status >= 300:
                reply = Reply(response.status, _parse(response.read(MAX_ANSWER), response.status))
                fail(reply.sentence, exits.NOT_LOGGED_IN if reply.status == 401 else exits.REFUSED)
            while line := response.readline():
                yield line.rstrip(b"\r\n")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._unreachable(error)
        finally:
            connection.close()

    def _connect(self, timeout: float | None) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, parts.port, timeout=timeout)
        return http.client.HTTPSConnection(host, parts.port, timeout=timeout, context=_tls())

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, str] | None,
        form: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": "bastion"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        content = None if body is None else json.dumps(body)
        if content is not None:
            headers["Content-Type"] = "application/json"
        elif form is not None:
            headers["Content-Type"], content = "application/x-www-form-urlencoded", urlencode(form)
        target = f"{path}?{urlencode(query)}" if query else path
        connection.request(method, target, body=content, headers=headers)
        return connection.getresponse()  # redirects are not followed: a token goes where it belongs, or nowhere

    def _unreachable(self, error: Exception) -> NoReturn:
        reason = printable(str(error) or type(error).__name__, 300)
        fail(f"The bastion at {self.url} does not answer: {reason}", exits.UNREACHABLE)


def check_url(url: str) -> str:
    """``url`` as scheme, host and port, when a token may be sent there: https, or http on this machine.

    Exits with USAGE otherwise.
    """
    origin = _origin(url.strip())
    if origin is None:
        fail(f"{printable(url)!r} is not the URL of a bastion. Write it like https://bastion.example.com", exits.USAGE)
    return origin


def fail(sentence: str, status: int) -> NoReturn:
    """Say why on standard error, and exit with ``status``."""
    typer.echo(sentence, err=True)
    raise typer.Exit(status)


def _origin(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        bare = parts.port != 0 and parts.path in ("", "/") and parts.username is None
    except ValueError:  # a port that is not a number, a bracket that is not closed
        return None
    host = parts.hostname or ""
    if not (host and bare) or parts.query or parts.fragment:
        return None
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)):
        return f"{parts.scheme}://{parts.netloc}"
    return None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tls() -> ssl.SSLContext:
    """Verified by the system's authorities, or by ``BASTION_CA_FILE`` alone where a company has its own."""
    file = os.environ.get("BASTION_CA_FILE")
    try:
        return ssl.create_default_context(cafile=file or None)
    except (OSError, ssl.SSLError) as error:
        fail(f"BASTION_CA_FILE {printable(file or '')!r} cannot be read as certificates: {error}", exits.USAGE)


def _parse(raw: bytes, status: int) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        if status >= 300:
            return None
        raise ValueError("the answer is not JSON; is this the URL of a bastion?") from None
