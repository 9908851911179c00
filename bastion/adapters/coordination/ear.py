"""The connection that listens for revocations, and what happens while it is deaf."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import structlog
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

from bastion.adapters.coordination.fanout import Fanout
from bastion.adapters.coordination.link import Link
from bastion.core.errors import Unavailable
from bastion.core.identity import IdentityId
from bastion.ports import Revocation

HEARTBEAT = 0.2
"""Seconds of silence after which the server is asked whether it is still there."""

SILENCE = 0.6
"""Seconds without a word after which it counts as gone, so that even a cut cable is noticed within law 7's second."""

RETRY = 0.3
"""Seconds between attempts to reach it again; after each, every subscriber is told to read the store."""

log = structlog.get_logger(__name__)


class Ear:
    """Hears what other nodes publish on ``channel`` and tells ``fanout``; owned by `RedisCoordination`.

    Pub/sub repeats nothing. So None is told whenever something may have been missed: on each subscription, on a
    message that cannot be read, and again and again while there is no connection.
    """

    def __init__(self, link: Link, channel: str, fanout: Fanout, *, ignore: str) -> None:
        self._link = link
        self._channel = channel
        self._fanout = fanout
        self._ignore = ignore
        self._subscribed = asyncio.Event()
        self._owes_a_warning = False
        self._complained = False

    async def listen(self) -> None:
        """Listen until cancelled."""
        while True:
            try:
                async with self._link.pubsub() as pubsub:
                    await self._hear(pubsub)
            except (RedisError, OSError, TimeoutError, Unavailable) as error:
                self._complain(error)
            except Exception:  # whatever it was: a node that stopped listening would never hear a revocation again
                log.exception("revocations could not be heard")
            self._subscribed.clear()
            self._fanout.tell(None)
            await asyncio.sleep(RETRY)

    async def listening(self, *, within: float) -> None:
        """Wait, at most ``within`` seconds, until it hears; whoever subscribes earlier is told None when it does."""
        try:
            async with asyncio.timeout(within):
                await self._subscribed.wait()
        except TimeoutError:
            log.warning("revocations cannot be heard yet")

    def owe_a_warning(self) -> None:
        """A revocation did not reach the others: tell them to read the store as soon as they can be told."""
        self._owes_a_warning = True

    async def close(self) -> None:
        await self._link.close()

    async def _hear(self, pubsub: PubSub) -> None:
        """Returns never; raises when the connection is lost or silent."""
        async with asyncio.timeout(SILENCE):
            await pubsub.subscribe(self._channel)
        heard_at = time.monotonic()
        while True:
            async with asyncio.timeout(SILENCE):
                message = await pubsub.get_message(timeout=HEARTBEAT)
                if message is None:
                    await pubsub.ping()
            if message is not None:
                heard_at = time.monotonic()
                self._obey(message)
            elif time.monotonic() - heard_at > SILENCE:
                raise TimeoutError("the server says nothing")
            if self._owes_a_warning and self._subscribed.is_set():
                await self._warn()

    def _obey(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "subscribe":
                self._fanout.tell(None)
                self._subscribed.set()
                self._complained = False
            case "message":
                sender, revocation = decode(message["data"])
                if sender != self._ignore:
                    self._fanout.tell(revocation)
            case _:
                pass  # pong: it is there

    def _complain(self, error: Exception) -> None:
        """Once for each time without a connection, not at every attempt."""
        if not self._complained:
            log.warning("revocations cannot be heard; subscribers read the store instead", error=repr(error))
        self._complained = True

    async def _warn(self) -> None:
        await self._link.do("PUBLISH", self._channel, encode(None, self._ignore))
        self._owes_a_warning = False


def encode(revocation: Revocation | None, sender: str) -> str:
    """A message of ``sender``: a revocation, or None to tell the others that they may have missed some."""
    body: dict[str, str | None] = {"sender": sender}
    if revocation is not None:
        body["grant"] = revocation.grant_id
        body["identity"] = None if revocation.identity is None else str(revocation.identity)
    return json.dumps(body)


def decode(message: bytes) -> tuple[str, Revocation | None]:
    """Read who sent what. What cannot be read is from nobody, and may have been a revocation: None."""
    try:
        body = json.loads(message)
        sender, grant, identity = str(body["sender"]), body.get("grant"), body.get("identity")
        if grant is None and identity is None:
            return sender, None
        return sender, Revocation(grant, None if identity is None else IdentityId.parse(identity))
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("a message about a revocation could not be read", message=message[:200])
        return "", None
