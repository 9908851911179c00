"""The session inside its grant: deadline, warnings, revocation, and every other end (law 7).

One watch serves all sessions of a node. It looks at the clock four times a second, so that a clock that is set forward
or back is noticed as well as time that passes; and it is told of revocations, so that it need not wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import assert_never

import structlog

from bastion.access.admission import PRESENCE, Admission
from bastion.core.errors import BastionError, NotFound
from bastion.core.files import FileRights
from bastion.core.policy import FILE_ACTIONS, Allow, Deny, NeedsGrant
from bastion.core.session import End, Session, warnings_due
from bastion.ports import Clock, Coordination, Revocation, Store

TICK = 0.25
"""Seconds between looks at the clock: a quarter of what law 7 gives."""

REVIEW = timedelta(seconds=15)
"""Between full reviews of every live session: what no message announced (geo data, groups) is noticed by then."""

REVIEW_TURN = 0.5
"""Seconds between turns: addresses are asked of the geo data each time, the rest when it is due."""

AT_A_TIME = 20
"""Sessions that are looked at before others are let in, whose keystrokes wait meanwhile: half a millisecond."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Watched:
    """A live session and what to do about it. ``cut`` must return at once and may be called more than once."""

    session: Session
    cut: Callable[[End], None]
    warn: Callable[[timedelta], None]
    looked_at: datetime
    files: FileRights
    reviewed_at: datetime = datetime.min.replace(tzinfo=UTC)
    """Never yet: a revocation may have come between the decision and the watch, so the first review is soon."""


class Supervision:
    """Ends this node's sessions when their reason to be ends."""

    def __init__(self, *, store: Store, coordination: Coordination, admission: Admission, clock: Clock) -> None:
        self._store = store
        self._coordination = coordination
        self._admission = admission
        self._clock = clock
        self._watched: dict[str, Watched] = {}
        self._none_is_live = asyncio.Event()
        self._none_is_live.set()

    def watch(
        self,
        session: Session,
        *,
        cut: Callable[[End], None],
        warn: Callable[[timedelta], None],
        files: FileRights,
    ) -> None:
        """From now on ``cut`` is called when the session must end, and ``warn`` before its grant does.

        ``files`` is what it was allowed to do with files; it ends when that would be less.
        """
        self._none_is_live.clear()
        self._watched[session.id] = Watched(session, cut, warn, self._clock.now(), files)

    def unwatch(self, session: Session) -> None:
        """Idempotent."""
        self._watched.pop(session.id, None)
        if not self._watched:
            self._none_is_live.set()

    @property
    def live(self) -> int:
        """How many sessions this node has."""
        return len(self._watched)

    async def until_none_is_live(self) -> None:
        """Wait for the last session to end, whyever it does."""
        await self._none_is_live.wait()

    def cut_all(self, end: End) -> None:
        """End every session of this node."""
        for watched in list(self._watched.values()):
            watched.cut(end)

    async def run(self) -> None:
        """Watch until cancelled. A part that fails ends this: the caller then cuts everything and stops the node."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_at_the_clock())
            tasks.create_task(self.hear_revocations())
            tasks.create_task(self._keep_presence())
            tasks.create_task(self._review_in_turn())

    async def _look_at_the_clock(self) -> None:
        while True:
            self.tick()
            await asyncio.sleep(TICK)

    def tick(self) -> None:
        """Cut what has expired and warn of what will."""
        now = self._clock.now()
        for watched in list(self._watched.values()):
            if now >= watched.session.until:
                watched.cut(End.EXPIRED)
                continue
            for before in warnings_due(watched.session.until, watched.looked_at, now):
                watched.warn(before)
            watched.looked_at = now

    async def hear_revocations(self) -> None:
        """Cut what a revocation is about the moment that it is told, until cancelled."""
        async for revocation in self._coordination.revocations():
            if revocation in (None, Revocation()):
                await asyncio.gather(*(self._review(watched) for watched in list(self._watched.values())))
            else:
                self._revoked(revocation)

    def _revoked(self, revocation: Revocation) -> None:
        for watched in list(self._watched.values()):
            if revocation.grant_id == watched.session.grant_id:
                watched.cut(End.REVOKED)
            elif revocation.identity == watched.session.identity:
                watched.cut(End.IDENTITY)

    async def _keep_presence(self) -> None:
        """Prolong what other nodes see of this node's sessions.

        Silence for `PRESENCE` frees their environment for the same identity elsewhere, so a session that is no longer
        seen has to end (law 4).
        """
        while True:
            for watched in list(self._watched.values()):
                if not await self._coordination.keep(watched.session.identity, watched.session.id, PRESENCE):
                    watched.cut(End.PRESENCE)
            await asyncio.sleep(PRESENCE.total_seconds() / 3)

    async def _review_in_turn(self) -> None:
        while True:
            now = self._clock.now()
            for number, watched in enumerate(list(self._watched.values())):
                if not self._admission.is_inside(watched.session):
                    watched.cut(End.FENCE)
                elif now - watched.reviewed_at >= REVIEW:
                    await self._review(watched)
                if number % AT_A_TIME == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(REVIEW_TURN)

    async def review_all(self) -> None:
        """Ask of every session whether it would still be opened: after a change of configuration or policy."""
        for watched in list(self._watched.values()):
            await self._review(watched)

    async def _review(self, watched: Watched) -> None:
        """Ask again what was asked at the door; a session whose grant cannot be read is over.

        Law 4 is not asked again: `Coordination.keep` answers for it, and keeps sessions through a short outage of the
        coordination in which nobody could be asked.
        """
        watched.reviewed_at = self._clock.now()
        files = FileRights()
        try:
            grant = await self._store.grant(watched.session.grant_id)
            if grant.revoked_at is not None:
                watched.cut(End.REVOKED)
                return
            if grant.ends_at > watched.session.until:
                watched.session = replace(watched.session, until=grant.ends_at)
            decision = await self._admission.still_allowed(watched.session)
            if watched.session.action in FILE_ACTIONS:
                files = await self._admission.file_rights(watched.session, grant)
        except NotFound:
            watched.cut(End.REVOKED)
            return
        except BastionError as error:
            log.warning("session could not be reviewed, so it ends", session=watched.session.id, error=str(error))
            watched.cut(End.AUDIT)
            return
        match decision:
            case Allow():
                if not watched.files.are_no_wider_than(files):
                    watched.cut(End.POLICY)
            case NeedsGrant():
                watched.cut(End.EXPIRED if watched.session.until <= self._clock.now() else End.POLICY)
            case Deny():
                # The fence is a reason of its own, whichever of the two looks notices it first.
                watched.cut(End.POLICY if self._admission.is_inside(watched.session) else End.FENCE)
            case _:
                assert_never(decision)
