"""Telling what was kept to be told: each notice by every way there is, at least once, whatever dies in between.

What is to be told was written in the transaction of what happened, so no crash can come between the two. One node tells
at a time; when it dies, its lease lapses and the next one goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from bastion.core.errors import BastionError
from bastion.ports import Clock, Coordination, KeptNotice, Notices, Store

TURN = 0.25
"""Seconds between looks at what is due; one query on an index that is empty nearly always."""

LEASE = timedelta(seconds=10)
PATIENCE = 30.0
"""Seconds for one way to tell one notice."""

FIRST_DELAY, LONGEST_DELAY = timedelta(seconds=5), timedelta(hours=1)
"""Before it is tried again: twice as long each time."""

MAX_TRIES = 60
"""Two and a half days; what nobody could be told by then is in the audit log, and the node's log says so."""

log = structlog.get_logger(__name__)


class Outbox:
    """Tells due notices.

    Args:
        ways: each way of telling by its name. Each is told to by itself: what one of them cannot do is tried again
            there and nowhere else.
    """

    def __init__(
        self, *, store: Store, coordination: Coordination, ways: Mapping[str, Notices], clock: Clock, node: str
    ) -> None:
        self._store = store
        self._coordination = coordination
        self._ways = dict(ways)
        self._clock = clock
        self._node = node

    async def run(self) -> None:
        """Tell until cancelled. A store or coordination that is away for a while is waited for."""
        while True:
            try:
                if await self._coordination.lease("notices", self._node, LEASE):
                    await self.tell_due()
            except BastionError as error:
                log.warning("notices wait", error=str(error))
            await asyncio.sleep(TURN)

    async def tell_due(self) -> int:
        """Try everything that is due once; how many notices that were."""
        due = await self._store.due_notices(self._clock.now())
        for kept in due:
            await self._tell(kept)
        return len(due)

    async def _tell(self, kept: KeptNotice) -> None:
        missing = sorted(self._ways.keys() - kept.told)
        outcomes = await asyncio.gather(*(self._tell_by(name, kept) for name in missing))
        told = kept.told | {name for name, done in zip(missing, outcomes, strict=True) if done}
        left = self._ways.keys() - told
        if left and kept.tries + 1 >= MAX_TRIES:
            log.error("given up telling", notice=kept.notice.id, ways=sorted(left))
        due = self._next_try(kept) if left and kept.tries + 1 < MAX_TRIES else None
        async with self._store.transaction() as tx:
            await tx.put_off_notice(kept.notice.id, told=told, due=due)

    async def _tell_by(self, name: str, kept: KeptNotice) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._ways[name].tell(kept.notice)
        except (BastionError, TimeoutError) as error:
            log.warning("not told, tried again later", notice=kept.notice.id, way=name, error=str(error))
            return False
        except Exception:  # one way's mistake must not silence the others
            log.exception("a way of telling failed", notice=kept.notice.id, way=name)
            return False
        return True

    def _next_try(self, kept: KeptNotice) -> datetime:
        return self._clock.now() + min(FIRST_DELAY * (1 << min(kept.tries, 20)), LONGEST_DELAY)
