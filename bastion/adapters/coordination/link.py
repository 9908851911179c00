"""Commands to one Redis server: each with a deadline, none tried twice, every failure `Unavailable`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from bastion.core.errors import ConfigError, Unavailable

PREFIX = "bastion:"
"""Of every key and channel, so that the server may be shared."""

DEADLINE = 1.0
"""Seconds for one command with everything before it: a free connection, TLS, login. redis-py's own five would keep a
person at a closed door, and a frozen server unnoticed."""

URL_OPTIONS = frozenset({"db", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
"""What the query of a url may set. Not among them: timeouts, and whether a TLS server is verified."""

T = TypeVar("T")


class Link:
    """A pool of connections to one server.

    Args:
        url: ``redis://``, ``rediss://`` (TLS, verified) or ``unix://``.
        connections: at most. A flood waits for one until `DEADLINE`, and then is refused.

    Raises:
        ConfigError: the url cannot be used. It may hold a password and is not repeated.
    """

    def __init__(self, url: str, *, connections: int) -> None:
        try:
            unknown = parse_qs(urlsplit(url).query).keys() - URL_OPTIONS
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=connections,
                timeout=DEADLINE,
                socket_connect_timeout=DEADLINE,
                # None, and `_ask` limits the whole: with a figure here every write goes through asyncio.wait_for, which
                # on Python 3.11 can swallow a cancellation, and a session that was cut would go on.
                socket_timeout=None,
                retry=Retry(NoBackoff(), 0),
                protocol=2,  # 3 would let the server change our timeouts (maintenance notifications)
            )
        except (ValueError, TypeError):
            raise ConfigError([_BAD_URL]) from None
        if unknown:
            raise ConfigError([f"coordination.url: the option {sorted(unknown)[0]} cannot be set here; take it out."])
        self._client = Redis.from_pool(
            pool
        )  # which closes the pool with the client; `Redis(connection_pool=…)` does not

    async def do(self, *command: str | bytes | int) -> Any:
        """One command; its answer as redis-py reads it.

        Raises:
            Unavailable: no answer, or an error. The command may have been done.
        """
        return await self._ask(self._client.execute_command(*command))  # type: ignore[no-untyped-call]  # redis-py's

    async def run(self, lua: str, keys: Sequence[str], args: Sequence[str | int] = ()) -> Any:
        """One of `scripts`, in one step; ``keys`` are without the prefix. Raises as `do`."""
        script = self._client.register_script(lua)
        return await self._ask(script(keys=[PREFIX + key for key in keys], args=list(args)))

    def pubsub(self) -> PubSub:
        """A subscriber on a connection of its own, without a deadline; it raises redis-py's errors."""
        return self._client.pubsub()

    async def close(self) -> None:
        """Idempotent."""
        await self._client.aclose()

    async def _ask(self, command: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(DEADLINE):
                return await command
        except (RedisError, OSError, TimeoutError) as error:
            raise Unavailable(_NO_ANSWER, detail=f"Redis: {error!r}") from error


_BAD_URL = "coordination.url: write redis://host:6379/0, rediss://… (TLS) or unix:///socket."
_NO_ANSWER = "The bastion cannot reach its coordination server, so nothing is opened. Try again in a moment."
