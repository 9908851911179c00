"""One voice, many listeners: every revocation reaches every subscription of this node."""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakSet

from bastion.ports import Revocation

MAX_PENDING = 1_000
"""Revocations a subscriber may be behind; beyond that, reading the store once is cheaper than reading them all."""


class Subscription:
    """One listener's revocations in order, from the moment it was made; ends when the coordination is closed.

    For one consumer. None means that some may have been missed: the store knows them all.
    """

    def __init__(self) -> None:
        self._pending: deque[Revocation | None] = deque()
        self._ready = asyncio.Event()
        self._closed = False

    def offer(self, revocation: Revocation | None) -> None:
        """Add one. Whoever is too far behind gets None in place of everything it has not read."""
        if revocation is None or len(self._pending) >= MAX_PENDING:
            revocation = None
            self._pending.clear()  # reading the store again tells all of these too
        self._pending.append(revocation)
        self._ready.set()

    def close(self) -> None:
        """End the iteration once what is pending was read. Idempotent."""
        self._closed = True
        self._ready.set()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Revocation | None:
        while not self._pending:
            if self._closed:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._pending.popleft()


class Fanout:
    """The subscriptions of this node. One that nobody holds any more is forgotten."""

    def __init__(self) -> None:
        self._subscriptions: WeakSet[Subscription] = WeakSet()
        self._closed = False

    def subscribe(self) -> Subscription:
        """A subscription to everything told from now on."""
        subscription = Subscription()
        if self._closed:
            subscription.close()
        self._subscriptions.add(subscription)
        return subscription

    def tell(self, revocation: Revocation | None) -> None:
        """Hand it to everybody, without waiting for anybody."""
        for subscription in list(self._subscriptions):
            subscription.offer(revocation)

    def close(self) -> None:
        """End every subscription. Idempotent."""
        self._closed = True
        for subscription in list(self._subscriptions):
            subscription.close()
