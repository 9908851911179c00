"""Where requests are told: one channel of one chat, in which each request has a message and the thread under it."""

from __future__ import annotations

from typing import Protocol

from bastion.chatops.cards import Card


class Board(Protocol):
    """Each call raises `Unavailable` when the chat did not take it; it may be tried again then."""

    @property
    def platform(self) -> str:
        """As links and threads name it: ``slack``, ``mattermost``, ``discord`` or ``teams``."""
        ...

    async def post(self, card: Card, row: str, under: str | None = None) -> str:
        """Say it, in the thread of ``under`` when that is given. The message's name on this platform."""
        ...

    async def update(self, message: str, card: Card, row: str) -> None:
        """Put ``card`` in the place of what ``message`` shows."""
        ...
