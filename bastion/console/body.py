"""Reading the JSON object of an API request: whole, bounded, and nothing in it that nobody expects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

MAX_BODY = 64 * 1024
"""Bytes; the application refuses more before it is read."""

MAX_FIELDS = 32
"""Of a form."""

READ_SECONDS = 15
"""For the whole body to arrive."""


async def read_body(request: web.Request) -> bytes:
    """All of it. Raises HTTPRequestTimeout when it did not arrive in time."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text="The request did not arrive in time.") from None


async def read_form(
    request: web.Request, *, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, str]:
    """The fields of a form, each once (RFC 6749, section 3.2); what is not asked for is left out.

    Raises:
        HTTPBadRequest: it is not a form, or a field is missing or there twice.
    """
    if request.content_type != "application/x-www-form-urlencoded":
        raise web.HTTPBadRequest(text="The request is not a form.")
    try:
        fields = parse_qsl((await read_body(request)).decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise web.HTTPBadRequest(text="The request is not a form.") from None
    form = dict(fields)
    if len(form) != len(fields):
        raise web.HTTPBadRequest(text="A field is there twice.")
    if missing := sorted(name for name in required if not form.get(name)):
        raise web.HTTPBadRequest(text=f"The request lacks {', '.join(missing)}.")
    return {name: value for name, value in form.items() if name in required or name in optional}


async def read_object(
    request: web.Request, *, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, Any]:
    """The object, with all of ``required`` and nothing beyond ``optional``.

    Raises:
        HTTPBadRequest: it is not that; the sentence says which key is wrong.
        HTTPRequestTimeout: it did not arrive in time.
    """
    raw = await read_body(request)
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
