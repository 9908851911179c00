"""Asking a provider over HTTP: bounded in size and time, TLS verified, no redirect followed.

A provider is outside. What it answers is read into a fixed room, and where it points us is checked before we go there.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from bastion.core.errors import Unavailable

MAX_ANSWER = 256 * 1024
"""Bytes. The largest public key set and discovery documents are a tenth of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer with a JSON object in it."""

    status: int
    body: Mapping[str, Any]


def is_loopback(host: str | None) -> bool:
    """Whether ``host``, as a URL has it, can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def check_url(url: object, *, what: str) -> str:
    """``url`` itself, when it may be asked: https, or http on this machine; no credentials, no fragment.

    Raises:
        Unavailable: it may not; nothing was sent there.
    """
    sentence = f"The identity provider's {what} is not an https URL. Tell whoever runs the bastion."
    if not isinstance(url, str):
        raise Unavailable(sentence, detail=f"{what} is {url!r}")
    try:
        parts = urlsplit(url)
        plain = parts.username is None and parts.password is None and not parts.fragment and parts.port != 0
    except ValueError as error:
        raise Unavailable(sentence, detail=f"{what}: {error}") from None
    secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
    if not (secure and plain and parts.hostname and url.isprintable() and " " not in url):
        raise Unavailable(sentence, detail=f"{what} is {url!r}")
    return url


def answer_ok(answer: Answer, url: str) -> Mapping[str, Any]:
    """The body of an answer to a question that has only one good status. Raises `Unavailable`."""
    if answer.status != 200:
        raise Unavailable(
            "The identity provider does not answer as it should. Try again in a minute.",
            detail=f"{url}: status {answer.status}",
        )
    return answer.body


class Fetcher:
    """Asks over ``session``, which verifies TLS; ``patience`` is for one whole exchange."""

    def __init__(self, *, session: aiohttp.ClientSession, patience: timedelta) -> None:
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=patience.total_seconds())

    async def get(self, url: str) -> Answer:
        """GET a JSON object.

        Raises:
            Unavailable: no connection, no answer in time, a redirect, too long an answer, or not a JSON object.
        """
        return await self._exchange("GET", url, headers={}, form=None)

    async def post(self, url: str, form: Mapping[str, str], *, headers: Mapping[str, str]) -> Answer:
        """POST a form and read the JSON object that answers it, whatever its status. Raises as `get` does."""
        return await self._exchange("POST", url, headers=headers, form=form)

    async def _exchange(
        self, method: str, url: str, *, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> Answer:
        # Not compressed: a small answer that unpacks to a large one never reaches the size check.
        ours = {"Accept": "application/json", "Accept-Encoding": "identity", **headers}
        try:
            async with self._session.request(
                method, url, headers=ours, data=form, allow_redirects=False, timeout=self._timeout
            ) as response:
                if 300 <= response.status < 400:
                    raise _unusable(f"{url} answered with a redirect")
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise _unusable(f"{url} answered compressed, which was not asked for")
                return Answer(response.status, _parse(await _read(response, url), url))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unavailable(
                "The identity provider does not answer. Try again in a minute; if it stays so, tell whoever runs it.",
                detail=f"{method} {url}: {type(error).__name__}: {error}",
            ) from error


async def _read(response: aiohttp.ClientResponse, url: str) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER:
            raise _unusable(f"{url} answered more than {MAX_ANSWER} bytes")
    return bytes(body)


def _parse(body: bytes, url: str) -> Mapping[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise _unusable(f"{url} did not answer with JSON") from None
    if not isinstance(value, dict):
        raise _unusable(f"{url} did not answer with a JSON object")
    return value


def _unusable(detail: str) -> Unavailable:
    return Unavailable(
        "The identity provider gave an answer that cannot be used. Try again in a minute.", detail=detail
    )
