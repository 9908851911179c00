"""A login that takes a while and has something to show meanwhile, in rounds of keyboard-interactive (RFC 4256).

Each round shows a text without a question, which clients answer at once; then the server lets them wait for the next.
Banners would do for OpenSSH, but plink and paramiko show none after the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Say = Callable[[str], None]


class Rounds(Generic[T]):
    """Runs ``work``, which says sentences, until `next` gives its result. Whoever stops asking closes it."""

    def __init__(self, work: Callable[[Say], Coroutine[Any, Any, T]]) -> None:
        self._said: list[str] = []
        self._news = asyncio.Event()
        self._work = asyncio.create_task(work(self._say))
        self._work.add_done_callback(lambda _: self._news.set())

    async def next(self) -> str | None:
        """What was said since the last round, as soon as there is something; None when it is `done`.

        Raises:
            CancelledError: the client began something else; the work is cancelled, too.
        """
        try:
            await self._news.wait()
        except asyncio.CancelledError:
            self.close()
            raise
        if self._work.done():
            return None
        self._news.clear()
        return self.unsaid()

    def unsaid(self) -> str:
        """What no round has shown yet, as lines; empty when there is nothing."""
        said, self._said = self._said, []
        return "".join(f"bastion: {sentence}\n" for sentence in said)

    def result(self) -> T:
        """What came of it. Raises what the work raised."""
        return self._work.result()

    def close(self) -> None:
        """Idempotent."""
        self._work.cancel()

    def _say(self, sentence: str) -> None:
        self._said.append(sentence)
        self._news.set()
