"""The token that the Bot Framework puts on everything it sends to a bot.

Checked as its documentation asks (Bot Framework, "Authenticate requests from the Bot Connector service to your bot"):
Bearer, RS256 by a key of the framework that is endorsed for the channel, issuer, audience, times with five minutes of
tolerance, and that the address in it is the one in the activity: our own token goes there.

The token does not cover the body. What is in it is believed because TLS and the token bring it from the framework.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from joserfc import jws
from joserfc.errors import JoseError

from bastion.adapters.oidc.keys import KeyCache
from bastion.chatops.calls import call
from bastion.chatops.guard import MAX_SKEW, read_object
from bastion.core.errors import Unauthenticated
from bastion.ports import Clock

ISSUER = "https://api.botframework.com"
METADATA = "https://login.botframework.com/v1/.well-known/openidconfiguration"
CHANNEL = "msteams"

MAX_TOKEN = 4 * 1024
"""Characters; real ones have about 1,500."""

ALGORITHM = "RS256"


@dataclass(frozen=True, slots=True)
class InboundToken:
    """A token that the framework made for this bot. Only `BotFramework.verify` makes one."""

    service_url: str
    """Where answers go."""


class BotFramework:
    """The framework's keys, and what they prove."""

    def __init__(self, *, app_id: str, session: aiohttp.ClientSession, clock: Clock, metadata: str = METADATA) -> None:
        self._app_id = app_id
        self._clock = clock
        self._keys = KeyCache(fetch=_endorsed(session, metadata), clock=clock)

    async def verify(self, unverified: str) -> InboundToken:
        """Raises `Unauthenticated`, and `Unavailable` when the framework's keys cannot be had."""
        if len(unverified) > MAX_TOKEN or not unverified.isascii():
            raise Unauthenticated("The token is not one of the Bot Framework.")
        try:
            header = jws.extract_compact(unverified.encode()).headers()
        except (JoseError, ValueError, RecursionError):
            raise Unauthenticated("The token is not one of the Bot Framework.") from None
        kid = header.get("kid")
        if header.get("alg") != ALGORITHM or not isinstance(kid, str):
            raise Unauthenticated(f"The token is not signed with {ALGORITHM}.")
        key = await self._keys.find(kid, ALGORITHM)
        try:
            payload = jws.deserialize_compact(unverified.encode(), key, algorithms=[ALGORITHM]).payload
            claims = read_object(payload)
        except (JoseError, ValueError):
            raise Unauthenticated("The token's signature is not the Bot Framework's.") from None
        return self._judge(claims)

    def _judge(self, claims: Mapping[str, Any]) -> InboundToken:
        if claims.get("iss") != ISSUER:
            raise Unauthenticated("The token is of another issuer.")
        if claims.get("aud") != self._app_id:
            raise Unauthenticated("The token is for another bot.")
        now = self._clock.now()
        begins, ends = _moment(claims, "nbf"), _moment(claims, "exp")
        if not begins - MAX_SKEW <= now < ends + MAX_SKEW:
            raise Unauthenticated("The token is not valid now; check the clock of this host.")
        service_url = claims.get("serviceurl", claims.get("serviceUrl"))
        if not isinstance(service_url, str) or not _is_safe(service_url):
            raise Unauthenticated("The token names no address for answers.")
        return InboundToken(service_url)


def _endorsed(session: aiohttp.ClientSession, metadata: str) -> Callable[[], Awaitable[Mapping[str, Any]]]:
    """Fetches the keys that the framework endorses for Teams; a key for another channel signs nothing here."""

    async def fetch() -> Mapping[str, Any]:
        document = await call(session, "GET", metadata, headers={})
        found = await call(session, "GET", str(document["jwks_uri"]), headers={})
        keys = [key for key in found.get("keys", []) if CHANNEL in key.get("endorsements", [])]
        return {"keys": keys}

    return fetch


def _moment(claims: Mapping[str, Any], name: str) -> datetime:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**40:
        raise Unauthenticated(f"The token has no usable {name}.")
    return datetime.fromtimestamp(value, UTC)


def _is_safe(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname == "127.0.0.1")
