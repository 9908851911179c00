"""What time does to requests and grants, noticed once: timed out, ending soon, expired, a review that is owed, unused.

Nothing here ends anything: a grant is over on its last instant whether or not anybody notices. What is noticed is
written with its event in one transaction under the notice's own name, so that two nodes, or a node that died half way,
notice it once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from bastion.access.ballot import grant_id_of
from bastion.core.audit import Event, Kind
from bastion.core.errors import BastionError
from bastion.core.grant import REQUEST_LIFETIME, Grant, Request
from bastion.core.notice import Ended, EndingSoon, Notice, ReviewOverdue, TimedOut, Unused, Why
from bastion.core.target import printable
from bastion.ports import Clock, Store

TURN = 1.0
"""Seconds between looks; nothing waits for them but messages."""

MEMORY = timedelta(days=3)
"""How long ago something may have ended and still be noticed, after all nodes were down."""

SOON = timedelta(minutes=15)
"""Before the end, the holder is asked whether they need longer."""

CHASED = timedelta(hours=1)
"""Between reminders of a break-glass that nobody has answered for."""

UNUSED = timedelta(days=7)
"""A live grant that nobody used for so long is somebody's to end, unless it is configured otherwise."""

BETWEEN_REMINDERS = timedelta(minutes=1)
"""Between looks at what is unused, which reads every live grant."""

MAX_GRANTS = 10_000
"""Live at a time that are looked through for their use; more would be a company without just-in-time access."""

N = TypeVar("N", bound=Notice)

log = structlog.get_logger(__name__)


class Sweeping:
    """Looks at what is due, again and again, on every node."""

    def __init__(self, *, store: Store, clock: Clock, node: str, unused_after: timedelta = UNUSED) -> None:
        self._store = store
        self._clock = clock
        self._node = node
        self._unused_after = unused_after
        self._reminded_at: datetime | None = None

    async def run(self) -> None:
        """Look until cancelled. A store that is away for a while is waited for."""
        while True:
            try:
                await self.sweep()
            except BastionError as error:
                log.warning("requests and grants were not looked at", error=str(error))
            await asyncio.sleep(TURN)

    async def sweep(self) -> None:
        """Notice everything that is due now."""
        now = self._clock.now()
        await self._time_out(now)
        await self._end(now)
        await self._warn(now)
        await self._chase(now)
        await self._remind_of_unused(now)

    async def _time_out(self, now: datetime) -> None:
        waiting = await self._store.waiting_requests(asked_after=now - REQUEST_LIFETIME - MEMORY)
        over = {TimedOut(r.id, now): r for r in waiting if now >= r.times_out_at and not r.break_glass}
        for told in await self._news(over):
            await self._write(told, await self._event(Kind.REQUEST_TIMED_OUT, over[told], now))

    async def _end(self, now: datetime) -> None:
        over = {
            Ended(g.request_id, g.ends_at, g.id, Why.EXPIRED): g
            for g in await self._store.grants_between(now - MEMORY, now)
        }
        for told in await self._news(over):
            await self._write(told, await self._event(Kind.GRANT_EXPIRED, over[told], now))

    async def _warn(self, now: datetime) -> None:
        """Of a grant no longer than the warning is ahead, there is nothing to warn of."""
        ending = {
            EndingSoon(g.request_id, now, g.id, g.ends_at): g
            for g in await self._store.grants_between(now, now + SOON)
            if g.starts_at <= now and g.ends_at - g.starts_at > SOON
        }
        for told in await self._news(ending):
            await self._write(told, None)

    async def _chase(self, now: datetime) -> None:
        owed = [
            ReviewOverdue(request.id, now, grant_id_of(request), turn)
            for request in await self._store.broken_glass()
            if (turn := (now - request.asked_at) // CHASED) > 0
        ]
        for told in await self._news(owed):
            await self._write(told, None)

    async def _remind_of_unused(self, now: datetime) -> None:
        if self._reminded_at is not None and now - self._reminded_at < BETWEEN_REMINDERS:
            return
        self._reminded_at = now
        live = await self._store.grants(live_at=now, limit=MAX_GRANTS)
        long_ago = [grant for grant in live if now - grant.starts_at >= self._unused_after]
        used = await self._store.last_used([grant.id for grant in long_ago]) if long_ago else {}
        idle = [
            Unused(grant.request_id, now, grant.id, since)
            for grant in long_ago
            if now - (since := used.get(grant.id, grant.starts_at)) >= self._unused_after
        ]
        for told in await self._news(idle):
            await self._write(told, None)

    async def _news(self, notices: Iterable[N]) -> Sequence[N]:
        """Those that nobody has noticed yet."""
        every = list(notices)
        unheard = await self._store.unheard([told.id for told in every])
        return [told for told in every if told.id in unheard]

    async def _write(self, told: Notice, event: Event | None) -> None:
        async with self._store.transaction() as tx:
            if await tx.add_notice(told, self._clock.now()) and event is not None:
                await tx.append(event)

    async def _event(self, kind: Kind, subject: Request | Grant, now: datetime) -> Event:
        whose = subject.beneficiary if isinstance(subject, Request) else subject.identity
        return Event(
            kind=kind,
            at=now,
            node=self._node,
            identity=whose,
            display=(await self._store.identity(whose)).display,
            scope=subject.scope,
            target=_listed(subject.targets),
            login=_listed(subject.logins),
            grant_id=subject.id if isinstance(subject, Grant) else None,
            details={"request": subject.request_id if isinstance(subject, Grant) else subject.id},
        )


def _listed(names: Iterable[str]) -> str:
    return printable(", ".join(sorted(names)), 300)
