"""Calls to a chat's own API: one at a time, with a deadline, a bound, and no redirect to anywhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp

from bastion.core.errors import Unavailable

CALL_SECONDS = 10

MAX_ANSWER = 256 * 1024
"""Bytes; a message comes back with everything that was in it."""


async def call(
    session: aiohttp.ClientSession,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: Any = None,
    form: Mapping[str, str] | None = None,
) -> Any:
    """The JSON of the answer; None when it is empty.

    Raises:
        Unavailable: no answer in time, or not one of success. Neither body is in the sentence.
    """
    try:
        async with (
            asyncio.timeout(CALL_SECONDS),
            session.request(method, url, headers=headers, json=body, data=form, allow_redirects=False) as response,
        ):
            raw = await response.content.read(MAX_ANSWER + 1)
            status = response.status
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise Unavailable("The chat cannot be reached.", detail=type(error).__name__) from None
    if not 200 <= status < 300:
        raise Unavailable("The chat refused this.", detail=f"status {status}")
    if len(raw) > MAX_ANSWER:
        raise Unavailable("The chat answered too much.")
    try:
        return json.loads(raw) if raw else None
    except (ValueError, RecursionError):
        raise Unavailable("The chat answered what is not JSON.") from None
