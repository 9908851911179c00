"""The one place a door opens: locate, decide, write the event, and only then open.

The order in `Admission.open` is the safety argument. Each step can end it, and whatever ended it, what earlier steps
took is given back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from bastion.access.ids import new_id
from bastion.access.patience import Patience, Wanted
from bastion.core.audit import Event, Kind
from bastion.core.errors import NotFound, Refused
from bastion.core.files import FileRights, Limits
from bastion.core.geofence import Address, Place, is_inside, parse_address
from bastion.core.grant import Grant
from bastion.core.identity import Identity, IdentityId, Strength
from bastion.core.notice import FirstConnected
from bastion.core.policy import (
    FILE_ACTIONS,
    FORWARDS,
    Access,
    Action,
    Allow,
    Decision,
    Deny,
    NeedsGrant,
    Occupied,
    Permitted,
    Ruling,
    decide,
)
from bastion.core.session import End, Session
from bastion.core.target import Catalogue, Scope, Target
from bastion.ports import Clock, Coordination, Locator, Policies, Recorder, Recordings, Store

PRESENCE = timedelta(seconds=30)
"""How long a live session counts as live after its node was last heard of (law 4)."""

NEAR_MISSES = timedelta(days=1)
"""How far back ended grants are looked up, to explain a denial."""


Objection = Callable[[], Awaitable[Deny | None]]
"""Asked last, of what is allowed so far; None lets it pass."""

LOGGED_OUT = "You have been logged out since. Log in again: bastion login"


@dataclass(frozen=True, slots=True)
class Terminal:
    """What the client's terminal looks like, for the recording; without a term there is none."""

    term: str = ""
    columns: int = 80
    rows: int = 24


@dataclass(frozen=True, slots=True)
class Wish:
    """What a gateway learned from the wire: a proven certificate's claims, and what is wanted with it."""

    identity: IdentityId
    scope: Scope
    serial: int
    strength: Strength
    """Of the login that got the certificate; a newer one of the same identity is another's."""
    address: Address
    target: str
    login: str
    action: Action
    command: str | None = None
    terminal: Terminal = Terminal()
    or_else: Action | None = None
    """What would do as well where ``action`` is not allowed: SFTP is there to read, or only to write."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The door may be opened: the decision is durable, the session registered, the recording begun.

    ``files`` is what may be done with files, where that is what the session is for.
    """

    session: Session
    target: Target
    grant: Grant
    recorder: Recorder
    access: Access
    files: FileRights = FileRights()


class Admission:
    """Decides wishes and opens sessions; asked by every gateway for every channel, exchange and statement."""

    def __init__(
        self,
        *,
        store: Store,
        coordination: Coordination,
        policies: Policies,
        locator: Locator,
        recordings: Recordings,
        catalogue: Catalogue,
        clock: Clock,
        node: str,
    ) -> None:
        self._store = store
        self._coordination = coordination
        self._policies = policies
        self._locator = locator
        self._recordings = recordings
        self._catalogue = catalogue
        self._clock = clock
        self._node = node
        self._patience = Patience(store=store, clock=clock)

    async def open(self, wish: Wish, *, objection: Objection | None = None) -> Admitted | Deny | NeedsGrant:
        """Decide ``wish`` and, if it is allowed, open a session for it.

        Args:
            wish: what is wanted.
            objection: where it leads, for instance, which is nobody's to learn who may not go there.

        Raises:
            Unavailable: the audit log, coordination or recorder did not do its part; nothing was opened.
        """
        now = self._clock.now()
        place = self._locator.locate(wish.address)
        holder = await self._store.holder(wish.identity, now - NEAR_MISSES)
        identity = holder.identity.proven_by(wish.strength)
        try:
            target = self._catalogue.find(wish.target)
        except Refused as refusal:
            return await self._refuse(wish, identity, place, Deny((refusal.public,)), now)
        access = Access(identity, wish.scope, target, wish.login, wish.action, place)
        decision: Decision | None = await self._over(wish, holder.ended_at)
        if decision is None:
            occupied = await self._coordination.occupied(identity.id)
            decision = self._decide(access, holder.grants, occupied, now)
            if wish.or_else is not None and not isinstance(decision, Allow):
                other = replace(access, action=wish.or_else)
                if isinstance(otherwise := self._decide(other, holder.grants, occupied, now), Allow):
                    access, decision = other, otherwise
        if isinstance(decision, Allow) and objection is not None:
            decision = await objection() or decision
        match decision:
            case Deny() | NeedsGrant():
                return await self._refuse(wish, identity, place, decision, now, target)
            case Allow():
                return await self._admit(wish, access, decision, now)
            case _:
                assert_never(decision)

    def permitted(self, admitted: Admitted, actions: Collection[Action]) -> frozenset[Action]:
        """Those of ``actions`` that its grant has and the policies permit now."""
        now, asked, grant = self._clock.now(), admitted.access, admitted.grant
        return frozenset(
            action
            for action in grant.actions.intersection(actions)
            if isinstance(self._policies.may_connect(replace(asked, action=action), grant, now), Permitted)
        )

    async def wait_for_grant(self, wish: Wish, *, say: Callable[[str], None], gone: Callable[[], bool]) -> bool:
        """Wait while a request for ``wish`` is open; whether `open` is worth asking again."""
        try:
            target = self._catalogue.find(wish.target).full_name
        except Refused:
            return False
        wanted = Wanted(wish.identity, target, wish.login, wish.address, wish.action)
        return await self._patience.granted(wanted, say=say, gone=gone)

    async def refuse_forward(self, wish: Wish, reason: str) -> None:
        """Write that a connection through the bastion was refused before anything was asked of a target.

        Raises:
            Unavailable: it could not be written.
        """
        now = self._clock.now()
        place = self._locator.locate(wish.address)
        await self._refuse(wish, await self._store.identity(wish.identity), place, Deny((reason,)), now)

    async def still_allowed(self, session: Session) -> Decision:
        """What `open` would say of a live session now, but for law 4, which its registration stands for."""
        now = self._clock.now()
        holder = await self._store.holder(session.identity, now - NEAR_MISSES)
        identity = holder.identity.proven_by(await self._strength(session))
        try:
            target = self._catalogue.find(session.target)
        except NotFound as error:
            return Deny((error.public,))
        place = self._locator.locate(parse_address(session.address))
        if holder.ended_at is not None and session.started_at <= holder.ended_at:
            return Deny((LOGGED_OUT,))
        access = Access(identity, session.scope, target, session.login, session.action, place)
        return self._decide(access, holder.grants, (), now)

    async def file_rights(self, session: Session, grant: Grant) -> FileRights:
        """What a live session would be allowed to do with files if it were opened under ``grant`` now."""
        identity = (await self._store.identity(session.identity)).proven_by(await self._strength(session))
        target = self._catalogue.find(session.target)
        place = self._locator.locate(parse_address(session.address))
        access = Access(identity, session.scope, target, session.login, session.action, place)
        return self._file_rights(access, grant, self._clock.now())

    def is_inside(self, session: Session) -> bool:
        """Whether the client's address is still inside the fence of the session's region, by the data of now."""
        place = self._locator.locate(parse_address(session.address))
        return is_inside(self._catalogue.regions[session.scope.region].fence, place)

    async def close(self, session: Session, end: End, exit_status: int | None) -> None:
        """Write that a session is over, and free its environment. Idempotent.

        Raises:
            Unavailable: it could not be written; the session is found and ended when the node starts again.
        """
        now = self._clock.now()
        details = {
            "end": end.value,
            "exit_status": exit_status,
            "seconds": int((now - session.started_at).total_seconds()),
        }
        try:
            async with self._store.transaction() as transaction:
                before = await transaction.end_session(session.id, end, now, exit_status)
                if before.ended_at == now:
                    await transaction.append(_about(session, Kind.SESSION_ENDED, now, (end.sentence,), details))
        finally:
            await self._coordination.leave(session.identity, session.id)

    async def _strength(self, session: Session) -> Strength:
        """Of the login that got the session's certificate."""
        return (await self._store.certificate(session.certificate_serial)).strength

    def _decide(self, access: Access, grants: Sequence[Grant], occupied: Sequence[Occupied], now: datetime) -> Decision:
        target = access.target
        return decide(
            access,
            fence=self._catalogue.regions[target.scope.region].fence,
            tier=self._catalogue.tier_of(target.scope),
            occupied=occupied,
            grants=grants,
            rulings=self._rulings(access, grants, now),
            now=now,
        )

    async def _over(self, wish: Wish, ended_at: datetime | None) -> Deny | None:
        """No, when what the certificate proves was declared over since: its connection may have outlived that."""
        if ended_at is None:
            return None
        certificate = await self._store.certificate(wish.serial)
        return Deny((LOGGED_OUT,)) if certificate.valid_after <= ended_at else None

    def _rulings(self, access: Access, grants: Sequence[Grant], now: datetime) -> dict[str, Ruling]:
        target = access.target
        return {
            grant.id: self._policies.may_connect(access, grant, now)
            for grant in grants
            if grant.covers(
                access.identity.id,
                target.scope,
                target.full_name,
                access.login,
                access.action,
                now,
                address=access.place.address,
            )
        }

    def _file_rights(self, access: Access, grant: Grant, now: datetime) -> FileRights:
        """Each direction is asked of the policies, whichever the session was opened for."""

        def limits(action: Action) -> Limits | None:
            ruling = self._policies.may_connect(replace(access, action=action), grant, now)
            return ruling.limits.within_also(grant.paths) if isinstance(ruling, Permitted) else None

        if access.action not in FILE_ACTIONS:
            return FileRights()
        return FileRights(read=limits(Action.SSH_SFTP_READ), write=limits(Action.SSH_SFTP_WRITE))

    def _keeps_everything(self, access: Access, grant: Grant, now: datetime) -> bool:
        ruling = self._policies.may_connect(access, grant, now)
        return isinstance(ruling, Permitted) and ruling.keeps_everything

    async def _admit(self, wish: Wish, access: Access, allow: Allow, now: datetime) -> Admitted | Deny | NeedsGrant:
        target, session = access.target, self._session(wish, access, allow, now)
        environment = target.scope.environment
        presence = Occupied(session.id, environment, self._catalogue.tier_of(target.scope))
        in_the_way = await self._coordination.enter(session.identity, presence, PRESENCE, crossing=allow.grant.crossing)
        if in_the_way:
            held = " and ".join(sorted({other.environment for other in in_the_way}))
            deny = Deny((f"You have a session open in {held}; environments do not touch. End it first.",))
            return await self._refuse(wish, access.identity, access.place, deny, now, target)
        try:
            files = self._file_rights(access, allow.grant, now)
            await self._write(session, access, allow, now)
            recorder = await self._record(session, access, allow.grant, wish.terminal, now)
            return Admitted(session, target, allow.grant, recorder, access, files)
        except BaseException:
            await self._coordination.leave(session.identity, session.id)
            raise

    async def _record(
        self, session: Session, access: Access, grant: Grant, terminal: Terminal, now: datetime
    ) -> Recorder:
        """Begin the recording; a session that cannot be recorded is ended in the log before it was opened."""
        full_until = None if terminal.term or self._keeps_everything(access, grant, now) else access.target.full_until
        try:
            return self._recordings.start(
                session, columns=terminal.columns, rows=terminal.rows, term=terminal.term, at=now,
                full_until=full_until,
            )  # fmt: skip
        except BaseException:
            async with self._store.transaction() as transaction:
                await transaction.end_session(session.id, End.RECORDER, now)
                await transaction.append(_about(session, Kind.SESSION_ENDED, now, (End.RECORDER.sentence,)))
            raise

    async def _write(self, session: Session, access: Access, allow: Allow, now: datetime) -> None:
        """The decision, durable before anything opens (law 5)."""
        async with self._store.transaction() as transaction:
            await transaction.append(
                _about(session, Kind.ACCESS_ALLOWED, now, allow.reasons, geo_details(access.place))
            )
            if allow.crossing:
                await transaction.append(_about(session, Kind.ENVIRONMENT_CROSSED, now, allow.reasons))
            await transaction.add_session(session)
            first = FirstConnected(allow.grant.request_id, now, allow.grant.id, session.id)
            await transaction.add_notice(first, now)
            await transaction.append(_about(session, Kind.SESSION_STARTED, now, ()))

    async def _refuse(
        self,
        wish: Wish,
        identity: Identity,
        place: Place,
        decision: Deny | NeedsGrant,
        now: datetime,
        target: Target | None = None,
    ) -> Deny | NeedsGrant:
        async with self._store.transaction() as transaction:
            await transaction.append(
                Event(
                    kind=Kind.ACCESS_DENIED,
                    at=now,
                    node=self._node,
                    identity=identity.id,
                    display=identity.display,
                    scope=target.scope if target else wish.scope,
                    target=target.full_name if target else wish.target,
                    login=wish.login,
                    address=str(place.address),
                    country=place.country,
                    reasons=decision.reasons,
                    details={**_what(wish.action, wish.command), "serial": str(wish.serial), **geo_details(place)},
                )
            )
        return decision

    def _session(self, wish: Wish, access: Access, allow: Allow, now: datetime) -> Session:
        return Session(
            id=new_id("s"),
            node=self._node,
            identity=access.identity.id,
            display=access.identity.display,
            target=access.target.full_name,
            scope=access.target.scope,
            login=wish.login,
            action=access.action,
            command=wish.command,
            grant_id=allow.grant.id,
            certificate_serial=wish.serial,
            address=str(wish.address),
            country=access.place.country,
            started_at=now,
            until=allow.grant.ends_at,
        )


def geo_details(place: Place) -> dict[str, str | int | bool | None]:
    """Which data located an address, and when that data was made: databases disagree, and age."""
    return {"geo": place.source, "geo_from": place.data_from.isoformat() if place.data_from else None}


def _about(
    session: Session,
    kind: Kind,
    at: datetime,
    reasons: tuple[str, ...],
    details: Mapping[str, str | int | bool | None] | None = None,
) -> Event:
    return Event(
        kind=kind,
        at=at,
        node=session.node,
        identity=session.identity,
        display=session.display,
        scope=session.scope,
        target=session.target,
        login=session.login,
        address=session.address,
        country=session.country,
        grant_id=session.grant_id,
        session_id=session.id,
        reasons=reasons,
        details={**_what(session.action, session.command), **(details or {})},
    )


def _what(action: Action, command: str | None) -> dict[str, str]:
    """The action, and where a forward leads."""
    return {"action": action.value} | ({"forward": command} if command and action in FORWARDS else {})
