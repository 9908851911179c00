"""Reading the JSON object of an API request: whole, bounded, and nothing in it that nobody expects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from typing import Any

from aiohttp import web

MAX_BODY = 64 * 1024
"""Bytes; the application refuses more before it is read."""

READ_SECONDS = 15
"""For the whole body to arrive."""


async def read_object(
    request: web.Request, *, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, Any]:
    """The object, with all of ``required`` and nothing beyond ``optional``.

    Raises:
        HTTPBadRequest: it is not that; the sentence says which key is wrong.
        HTTPRequestTimeout: it did not arrive in time.
    """
    try:
        async with asyncio.timeout(READ_SECONDS):
            raw = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="The request did not arrive in time.") from None
    try:
        body = json.loads(raw, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise web.HTTPBadRequest(text=f"The request is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="The request is not a JSON object.")
    if missing := sorted(set(required) - body.keys()):
        raise web.HTTPBadRequest(text=f"The request lacks {', '.join(missing)}.")
    if unknown := sorted(body.keys() - set(required) - set(optional)):
        raise web.HTTPBadRequest(text=f"The request has unknown keys: {', '.join(map(repr, unknown))[:200]}.")
    return body


async def read_strings(request: web.Request, *names: str) -> list[str]:
    """The values of exactly these keys, each a string, in the order asked. Raises as `read_object` does."""
    body = await read_object(request, required=names)
    for name in names:
        if not isinstance(body[name], str):
            raise web.HTTPBadRequest(text=f"{name} is not a string.")
    return [body[name] for name in names]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) != len(pairs):
        raise ValueError("a key is there twice")
    return body
