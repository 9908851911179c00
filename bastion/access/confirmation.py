"""The browser's side of a device login: look at what a code stands for, and say yes or no to it, once.

Codes are short enough to be guessed, so looking one up is counted (RFC 8628, section 5.1). A person may have been
talked into it (section 5.4), so whoever's browser is elsewhere than the client types the code: a link is not enough.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from datetime import timedelta

from bastion.access.devicelogin import Answer, Knock, Pending, answer_key, login_key, read_code
from bastion.access.login import is_remedied
from bastion.access.prospects import Prospect, Prospects
from bastion.access.throttle import Throttle
from bastion.core.audit import Event, Kind
from bastion.core.errors import Conflict, NotFound, Refused, Unavailable
from bastion.core.geofence import Place, is_inside
from bastion.core.identity import Identity
from bastion.core.remedy import StepUpNeeded
from bastion.core.target import Catalogue
from bastion.ports import Clock, Coordination, Store

ANSWER_LIFETIME = timedelta(minutes=1)
"""An answer that no connection fetches is for one that has left."""


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody is asked: whether ``pending`` is their own. ``elsewhere``: their browser is at another address."""

    pending: Pending
    place: Place
    elsewhere: bool
    prospect: Prospect
    """What their login, as it is, would open. Of a command line's nothing is known yet."""

    @property
    def must_step_up(self) -> StepUpNeeded | None:
        """What has to be done about the login before saying yes is of any use."""
        return None if self.prospect.opens else self.prospect.step_up


class Confirmation:
    """Shows pending logins to people who are logged in, and takes their answers."""

    def __init__(
        self,
        *,
        prospects: Prospects,
        throttle: Throttle,
        store: Store,
        coordination: Coordination,
        catalogue: Catalogue,
        clock: Clock,
        node: str,
    ) -> None:
        self._prospects = prospects
        self._throttle = throttle
        self._store = store
        self._coordination = coordination
        self._catalogue = catalogue
        self._clock = clock
        self._node = node

    async def look(self, unverified_code: str, identity: Identity, place: Place) -> Question:
        """What the code stands for; it stays as it is.

        Raises:
            NotFound: no login waits with this code.
            Refused: ``place`` is outside the fence of the target's region.
            TooOften: too many codes that they looked up from there were none.
            Unavailable: the audit log or the coordination did not answer.
        """
        # Before it is looked up, since a code can be guessed: thirty tries in ten minutes hit one of a thousand that
        # wait, of 20^8, once in sixteen years.
        if (too_often := await self._throttle.failed(place, identity.id)) is not None:
            raise too_often
        code = read_code(unverified_code)
        value = await self._coordination.peek(login_key(code)) if code else None
        if value is None:
            raise NotFound("No login waits with this code: it was answered, is over, or is misspelt. Connect again.")
        await self._throttle.forgive(place, identity.id)
        pending = Pending.from_bytes(value)
        await self._check_fence(pending.knock, identity, place)
        prospect = await self._prospect(pending, identity)
        return Question(pending, place, place.address != pending.knock.address, prospect)

    async def approve(self, unverified_code: str, typed: str | None, identity: Identity, place: Place) -> Knock:
        """Log ``identity`` in on the connection that the code stands for, and use the code up.

        Args:
            unverified_code: as the page had it.
            typed: what the person copied from their terminal; asked of those whose browser is elsewhere.
            identity: who approves, and whose login it becomes.
            place: of their browser.

        Raises:
            NotFound, Refused, Unavailable: as `look`; or the code was not typed. Nothing was answered.
            StepUpNeeded: nothing would open with this login. Nothing was answered, and the client waits on.
            Conflict: somebody answered meanwhile, or the client left.
        """
        question = await self.look(unverified_code, identity, place)
        code = question.pending.code
        if (step_up := question.must_step_up) is not None:
            raise step_up
        if question.elsewhere and not hmac.compare_digest(read_code(typed or "") or "", code):
            raise Refused("That is not the code of this login. Copy it from your own terminal, nowhere else.")
        await self._answer(question.pending, identity, place, approved=True)
        return question.pending.knock

    async def refuse(self, unverified_code: str, identity: Identity, place: Place) -> Knock:
        """End the connection that the code stands for, and use the code up. Raises as `approve`, no code typed."""
        question = await self.look(unverified_code, identity, place)
        await self._answer(question.pending, identity, place, approved=False)
        reason = "It was refused in the browser."
        await self._write(question.pending.knock, identity, place, reason)
        return question.pending.knock

    async def _answer(self, pending: Pending, identity: Identity, place: Place, *, approved: bool) -> None:
        """Of two that answer at the same time one takes the code, and the other is told so."""
        taken = await self._coordination.take(login_key(pending.code))
        if taken is None or Pending.from_bytes(taken) != pending:
            raise Conflict("This login was answered already, or its client has left. Connect again.")
        now = self._clock.now()
        answer = Answer(approved, identity.id, identity.strength, str(place.address), now)
        key = answer_key(pending.connection)
        if not await self._coordination.put_once(key, answer.to_bytes(), ANSWER_LIFETIME):
            raise Unavailable("The answer could not be kept. Connect again.", detail="the answer's key is taken")

    async def _prospect(self, pending: Pending, identity: Identity) -> Prospect:
        knock = pending.knock
        if not knock.is_command_line:
            return await self._prospects.of(identity, knock.address, knock.target, knock.login)
        if knock.remedy is None or is_remedied(knock.remedy, identity, pending.since):
            return Prospect(opens=True)
        return Prospect(opens=False, step_up=StepUpNeeded("It asked for another login than this.", knock.remedy))

    async def _check_fence(self, knock: Knock, identity: Identity, place: Place) -> None:
        if knock.scope is None or is_inside(self._catalogue.regions[knock.scope.region].fence, place):
            return
        where = f"{place.address}, {place.country or 'country unknown'}"
        reason = f"{knock.target} cannot be reached from where this browser is ({where})."
        await self._write(knock, identity, place, reason)
        raise Refused(reason)

    async def _write(self, knock: Knock, identity: Identity, place: Place, reason: str) -> None:
        event = knock.event(
            Kind.LOGIN_FAILED, self._clock.now(), self._node, reasons=(reason,), browser=str(place.address)
        )
        await self._append(replace(event, actor=identity.id, display=identity.display))

    async def _append(self, event: Event) -> None:
        async with self._store.transaction() as transaction:
            await transaction.append(event)
