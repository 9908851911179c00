"""A login whose other half is in a browser: an SSH client shows a code, and somebody answers for it there (RFC 8628).

The danger is a code that one person begins and another is talked into approving (section 5.4). So a code says
everything about the connection it stands for, and what comes of an approval is the approver's own login, under the
approver's grants, on that one connection. Everything lives in the coordination: losing it denies.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Self

from bastion.access.doorstep import Doorstep
from bastion.access.pkce import new_secret
from bastion.core.audit import Event, Kind
from bastion.core.errors import NotFound, Refused, Unavailable
from bastion.core.geofence import Address, Place, is_inside, parse_address
from bastion.core.identity import Identity, IdentityId, Strength
from bastion.core.remedy import Remedy
from bastion.core.target import Catalogue, Destination, Scope, printable
from bastion.ports import Clock, Coordination, Store

LIFETIME = timedelta(minutes=5)
"""Of a code: time to find the phone, log in with a second factor and read the page."""

ALPHABET = "BCDFGHJKLMNPQRSTVWXZ"
"""No vowels, so no words, and nothing that looks like a digit (RFC 8628, section 6.1)."""

CODE_LENGTH = 8
"""Letters: 34 random bits, and a guesser gets few tries (`bastion.access.throttle`)."""

MAX_WAITING = 1000
"""Logins that one node waits for; beyond it others are asked to come back, and certificates are not slowed."""

POLL = 0.1
"""Seconds between questions for an answer, while few wait."""

MAX_QUESTIONS = 1000
"""A second, of all waiting logins of a node together: when many wait, each asks less often."""

METHOD = "device code"
"""How somebody logged in, as events say it."""


@dataclass(frozen=True, slots=True)
class Knock:
    """Everything known of a connection that asks to be logged in. Nobody has proven anything but ``key``."""

    address: Address
    country: str | None
    client: str
    """What the client's software calls itself."""
    target: str
    """As it was named; whether it exists is said to those who have logged in. A command line's own login has none."""
    scope: Scope | None
    """The target's, when there is such a target."""
    login: str
    key: str | None
    """Fingerprint of an SSH key that was proven on this connection."""
    remedy: Remedy | None = None
    """What kind of login a command line asked for, other than any."""

    @property
    def is_command_line(self) -> bool:
        """Whether it is `bastion login --device`, and not a connection to a target."""
        return not self.target

    @property
    def kind(self) -> str:
        """What is logged in, as events say it."""
        return "command line" if self.is_command_line else "ssh"

    @property
    def again(self) -> str:
        """What to do when it came to nothing."""
        if not self.is_command_line:
            return "Connect again."
        return f"Start again: bastion login --device {self.remedy.flags if self.remedy else ''}".rstrip()

    def event(self, kind: Kind, at: datetime, node: str, *, reasons: tuple[str, ...] = (), **more: str | None) -> Event:
        """What became of it, for the audit log."""
        return Event(
            kind=kind,
            at=at,
            node=node,
            scope=self.scope,
            target=self.target or None,
            login=self.login or None,
            address=str(self.address),
            country=self.country,
            reasons=reasons,
            details={"for": self.kind, "method": METHOD, "client": self.client, "key": self.key, **more},
        )


@dataclass(frozen=True, slots=True)
class Pending:
    """A login that waits for its answer until ``until``."""

    code: str
    """``WDJB-MJHT``: shown to people."""
    connection: str
    """A secret of the one connection that the answer is for."""
    knock: Knock
    until: datetime

    def to_bytes(self) -> bytes:
        knock = self.knock
        scope = str(knock.scope) if knock.scope else None
        where = [str(knock.address), knock.country, knock.client]
        facts = [*where, knock.target, scope, knock.login, knock.key, str(knock.remedy) if knock.remedy else None]
        return json.dumps([self.code, self.connection, facts, self.until.timestamp()]).encode()

    @property
    def since(self) -> datetime:
        """When it was begun."""
        return self.until - LIFETIME

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        code, connection, facts, until = json.loads(value)
        address, country, client, target, scope, login, key, remedy = facts
        place, asked = Scope.parse(scope) if scope else None, Remedy.parse(remedy) if remedy else None
        knock = Knock(parse_address(address), country, client, target, place, login, key, asked)
        return cls(code, connection, knock, datetime.fromtimestamp(until, tz=UTC))


@dataclass(frozen=True, slots=True)
class Answer:
    """What somebody said in a browser, and from where. Only `bastion.access.confirmation` makes one."""

    approved: bool
    identity: IdentityId
    strength: Strength
    browser: str
    at: datetime

    def to_bytes(self) -> bytes:
        who = [str(self.identity), self.strength.to_json()]
        return json.dumps([self.approved, *who, self.browser, self.at.timestamp()]).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> Self:
        approved, identity, strength, browser, at = json.loads(value)
        whose, answered_at = IdentityId.parse(identity), datetime.fromtimestamp(at, tz=UTC)
        return cls(approved is True, whose, Strength.from_json(strength), browser, answered_at)


class Lapsed(Refused):
    """Nobody answered in time: whoever asks may begin anew."""


def read_code(text: str) -> str | None:
    """The code that somebody typed, however they wrote it; None when it could not be one."""
    letters = "".join(text.upper().replace("-", "").split())
    if len(letters) != CODE_LENGTH or any(letter not in ALPHABET for letter in letters):
        return None
    return f"{letters[:4]}-{letters[4:]}"


def login_key(code: str) -> str:
    """Where the pending login of ``code`` is kept."""
    return f"device-login:{code}"


def answer_key(connection: str) -> str:
    """Where the answer for a connection is kept."""
    return f"device-answer:{connection}"


class DeviceLogins:
    """The connection's side: begin, wait for what is said in a browser, and take it back."""

    def __init__(
        self,
        *,
        doorstep: Doorstep,
        store: Store,
        coordination: Coordination,
        catalogue: Catalogue,
        clock: Clock,
        node: str,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._doorstep = doorstep
        self._store = store
        self._coordination = coordination
        self._catalogue = catalogue
        self._clock = clock
        self._node = node
        self._max_waiting = max_waiting
        self._waiting: set[str] = set()

    @property
    def waiting(self) -> int:
        """How many logins of this node have no end yet."""
        return len(self._waiting)

    async def begin(self, address: Address, destination: Destination, *, client: str, key: str | None) -> Pending:
        """A code for this connection, good for `LIFETIME`.

        Raises:
            Refused: from outside the fence, too often, or without a target; nothing is kept. Place and number are
                events.
            Unavailable: the audit log or the coordination did not answer, or too many wait already.
        """
        place = await self._doorstep.admit(address)
        if destination.target is None:
            raise Refused("Which target? Write: ssh login@target.environment.region@bastion")
        scope = self._scope_of(destination.target)
        named = destination.target
        knock = Knock(address, place.country, printable(client), named, scope, destination.login, key)
        await self._check_fence(knock, place)
        await self._check_number(knock, place)
        return await self._keep(knock)

    async def begin_command_line(self, address: Address, *, client: str, remedy: Remedy | None = None) -> Pending:
        """A code for a command line that nobody waits for here: it asks with `ask`. Raises as `begin` does."""
        place = await self._doorstep.admit(address)
        knock = Knock(address, place.country, printable(client), "", None, "", None, remedy)
        await self._check_number(knock, place)
        pending = await self._keep(knock)
        self._waiting.discard(pending.connection)
        return pending

    async def ask(self, pending: Pending) -> Identity | None:
        """Who has logged in, exactly once; None while nobody has answered. Raises as `wait` does."""
        value = await self._coordination.take(answer_key(pending.connection))
        if value is None and self._clock.now() < pending.until:
            return None
        try:
            return await self._conclude(pending, None if value is None else Answer.from_bytes(value))
        finally:
            await self.withdraw(pending)

    async def wait(self, pending: Pending) -> Identity:
        """Who has logged in, as soon as they have; durable in the audit log before this returns.

        Raises:
            Refused: the answer was no, or there was none in time. The audit log says so.
            Unavailable: a part did not answer; nobody is logged in. Whatever happens, nothing is left of the login.
        """
        try:
            answer = await self._answer(pending)
            return await self._conclude(pending, answer)
        finally:
            await self.withdraw(pending)

    async def _answer(self, pending: Pending) -> Answer | None:
        while True:
            value = await self._coordination.take(answer_key(pending.connection))
            if value is not None:
                return Answer.from_bytes(value)
            if self._clock.now() >= pending.until:
                return None
            await asyncio.sleep(max(POLL, len(self._waiting) / MAX_QUESTIONS))

    async def _conclude(self, pending: Pending, answer: Answer | None) -> Identity:
        knock, now = pending.knock, self._clock.now()
        if answer is None:
            reason = f"Nobody confirmed this login within five minutes. {knock.again}"
            await self._write(knock.event(Kind.LOGIN_FAILED, now, self._node, reasons=(reason,)))
            raise Lapsed(reason)
        if not answer.approved:  # whoever refused has written it down
            raise Refused("This login was refused in the browser.")
        ended_at = await self._store.ended_at(answer.identity)
        if ended_at is not None and answer.at <= ended_at:
            raise Refused(f"You have been logged out since you confirmed. {knock.again}")
        identity = (await self._store.identity(answer.identity)).proven_by(answer.strength)
        event = knock.event(Kind.LOGIN_SUCCEEDED, now, self._node, browser=answer.browser)
        await self._write(replace(event, identity=identity.id, display=identity.display))
        await self._doorstep.throttle.finished(knock.address, knock.kind)
        return identity

    async def withdraw(self, pending: Pending) -> None:
        """Leave nothing of it behind: its code opens nothing from now on. Idempotent."""
        self._waiting.discard(pending.connection)
        await self._coordination.take(login_key(pending.code))
        await self._coordination.take(answer_key(pending.connection))

    def _scope_of(self, target: str) -> Scope | None:
        try:
            return self._catalogue.find(target).scope
        except (NotFound, Refused):
            return None

    async def _check_fence(self, knock: Knock, place: Place) -> None:
        if knock.scope is None or is_inside(self._catalogue.regions[knock.scope.region].fence, place):
            return
        where = f"{place.address}, {place.country or 'country unknown'}"
        reason = f"{knock.target} cannot be reached from where you are ({where})."
        await self._write(knock.event(Kind.LOGIN_FAILED, self._clock.now(), self._node, reasons=(reason,)))
        raise Refused(reason)

    async def _check_number(self, knock: Knock, place: Place) -> None:
        await self._doorstep.throttle.begun(place, knock.kind)
        if len(self._waiting) >= self._max_waiting:
            raise Unavailable("Too many logins wait for their browsers. Try again in a few minutes.")

    async def _keep(self, knock: Knock) -> Pending:
        pending = Pending(_new_code(), new_secret(), knock, self._clock.now() + LIFETIME)
        self._waiting.add(pending.connection)
        try:
            if await self._coordination.put_once(login_key(pending.code), pending.to_bytes(), LIFETIME):
                return pending
        except BaseException:  # a client that left while this was kept
            await self.withdraw(pending)
            raise
        self._waiting.discard(pending.connection)
        raise Unavailable("The login could not be started. Try again.", detail="code is taken")

    async def _write(self, event: Event) -> None:
        async with self._store.transaction() as transaction:
            await transaction.append(event)


def _new_code() -> str:
    letters = "".join(secrets.choice(ALPHABET) for _ in range(CODE_LENGTH))
    return f"{letters[:4]}-{letters[4:]}"
