"""A connection that has come before its approval: it waits, says what for, and goes on the moment there is a grant.

Nothing is decided here. Whoever waited asks again afterwards, and is judged as if they had just come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from bastion.access.ballot import grant_id_of
from bastion.core.errors import NotFound
from bastion.core.geofence import Address
from bastion.core.grant import MIN_APPROVALS, REQUEST_LIFETIME, Request, Verdict, spell
from bastion.core.identity import IdentityId
from bastion.core.policy import Action
from bastion.core.request import ENDS, Life, Stage
from bastion.ports import Clock, Store

LONGEST = timedelta(minutes=5)
"""A connection that waits costs what a live one does; whoever is answered later connects again."""

TURN = 0.2
"""Seconds between looks: an approval is noticed in a fifth of what it may take."""

STATE_EVERY = 5
"""Turns between looks at who has answered, which is for reading only."""

MAX_WAITING = 200
"""At a time, of each gateway; further ones are told to come again."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is waited for; without an action it is any."""

    identity: IdentityId
    target: str
    login: str
    address: Address
    action: Action | None = None


class Patience:
    """Waits for the answer to a request that is open."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting = 0

    async def granted(self, wanted: Wanted, *, say: Callable[[str], None], gone: Callable[[], bool]) -> bool:
        """Wait while a request for ``wanted`` is open; whether there is a grant by now, so that asking again may help.

        Args:
            wanted: with the target's full name.
            say: is called with a sentence when there is something new.
            gone: whether the one who waits has left.
        """
        request = await self._open_request(wanted)
        if request is None or self._waiting >= MAX_WAITING:
            return False
        self._waiting += 1
        try:
            async with asyncio.timeout(LONGEST.total_seconds()):
                return await self._wait(request, say, gone)
        except TimeoutError:
            say(f"{request.id} was not answered within {spell(LONGEST)}. It stays open: connect again later.")
            return False
        finally:
            self._waiting -= 1

    async def _wait(self, request: Request, say: Callable[[str], None], gone: Callable[[], bool]) -> bool:
        said, turn = "", 0
        while not gone():
            if await self._is_granted(request):
                say(f"{request.id} is approved.")
                return True
            if turn % STATE_EVERY == 0:
                stage, state = await self._state(request)
                if state != said:
                    say(state)
                    said = state
                if stage in ENDS:
                    return False
            turn += 1
            await asyncio.sleep(TURN)
        return False

    async def _open_request(self, wanted: Wanted) -> Request | None:
        """The oldest that would do. An agreed start that is still to come is not waited for."""
        now = self._clock.now()
        for request in await self._store.waiting_requests(asked_after=now - REQUEST_LIFETIME):
            if _would_do(request, wanted) and now < request.times_out_at and (request.starts_at or now) <= now:
                return request
        return None

    async def _is_granted(self, request: Request) -> bool:
        try:
            await self._store.grant(grant_id_of(request))
        except NotFound:
            return False
        return True

    async def _state(self, request: Request) -> tuple[Stage, str]:
        request = await self._store.request(request.id)
        beneficiary = await self._store.identity(request.beneficiary)
        reviews = tuple(await self._store.reviews(request.id))
        stage = Life(request, beneficiary, reviews).stage(self._clock.now())
        if stage in ENDS:
            return stage, f"{request.id} is {stage.replace('-', ' ')}."
        needed = max(request.demands.approvals, MIN_APPROVALS)
        given = min(sum(review.verdict is Verdict.APPROVE for review in reviews), needed)
        return stage, f"waiting for approval of {request.id} ({given} of {needed}). Ctrl-C to give up."


def _would_do(request: Request, wanted: Wanted) -> bool:
    within = request.network is None or (
        wanted.address.version == request.network.version and wanted.address in request.network
    )
    return (
        request.beneficiary == wanted.identity
        and wanted.target in request.targets
        and wanted.login in request.logins
        and (wanted.action is None or wanted.action in request.actions)
        and request.extends is None
        and within
    )
