"""Notices as signed HTTP requests, by the Standard Webhooks specification (https://www.standardwebhooks.com).

The id is that of the notice, so a receiver can tell twice from once; the signature covers id, time and body. Whoever
carries notices tries again while `Unavailable` is raised.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
from datetime import datetime
from typing import Any

import aiohttp

from bastion.chatops.telling import telling_of
from bastion.core.errors import NotFound, Unavailable
from bastion.core.notice import Notice, to_json
from bastion.ports import Clock, Store

CALL_SECONDS = 15
"""What the specification recommends a sender to wait."""

MIN_SECRET = 24
"""Bytes, of the specification."""

_PREFIX = "whsec_"


def signing_key(secret: str) -> bytes:
    """The key in ``whsec_…``. Raises `ValueError`: it is none, or too short."""
    if not secret.startswith(_PREFIX):
        raise ValueError(f"a webhook's secret begins with {_PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"a webhook's secret is {_PREFIX} and base64") from None
    if len(key) < MIN_SECRET:
        raise ValueError(f"a webhook's secret has at least {MIN_SECRET} bytes")
    return key


def headers(message_id: str, body: bytes, *, key: bytes, now: datetime) -> dict[str, str]:
    """The three headers over ``body``."""
    timestamp = str(int(now.timestamp()))
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


class Webhook:
    """One receiver. Every try is signed anew, with the same id."""

    def __init__(self, *, url: str, key: bytes, session: aiohttp.ClientSession, store: Store, clock: Clock) -> None:
        self._url = url
        self._key = key
        self._session = session
        self._store = store
        self._clock = clock

    async def tell(self, notice: Notice) -> None:
        """Raises `Unavailable`: the receiver did not answer with 2xx in time."""
        now = self._clock.now()
        try:
            body = json.dumps(await self._body(notice, now), sort_keys=True).encode()
        except NotFound:
            return  # what it is about is gone
        message_id = f"msg_{hashlib.sha256(notice.id.encode()).hexdigest()[:32]}"
        try:
            async with (
                asyncio.timeout(CALL_SECONDS),
                self._session.post(
                    self._url,
                    data=body,
                    headers=headers(message_id, body, key=self._key, now=now),
                    # The address that was configured is the one that is told.
                    allow_redirects=False,
                ) as response,
            ):
                status = response.status
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable("The webhook's receiver cannot be reached.", detail=type(error).__name__) from None
        if not 200 <= status < 300:
            raise Unavailable("The webhook's receiver did not take it.", detail=f"status {status}")

    async def _body(self, notice: Notice, now: datetime) -> dict[str, Any]:
        telling = await telling_of(self._store, notice, now)
        request = telling.story.request
        said = json.loads(to_json(notice))
        kind = said.pop("is")
        data = {
            **said,
            "text": telling.line,
            "who": telling.story.beneficiary.display,
            "identity": str(telling.story.beneficiary.id),
            "targets": sorted(request.targets),
            "logins": sorted(request.logins),
            "scope": str(request.scope),
            "reason": request.reason,
        }
        return {"type": _dotted(kind), "timestamp": notice.at.isoformat(), "data": data}


def _dotted(kind: str) -> str:
    """``FirstConnected`` as ``access.first_connected``."""
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind)
    return f"access.{words.lstrip('_')}"
