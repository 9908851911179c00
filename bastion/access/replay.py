"""Who may look back: at sessions, at their recordings, and at the audit log.

Replay asks what access asks: the fence of the region (laws 2 and 8) and the policies. Having been in a session is no
power to replay it. Lists show what the caller may see, and are silent about the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.errors import NotFound, Refused
from bastion.core.geofence import Outside, Place, is_inside
from bastion.core.grant import Grant
from bastion.core.identity import Identity
from bastion.core.policy import NotPermitted, Permitted, Power, Ruling
from bastion.core.session import Session
from bastion.core.target import Catalogue, Scope, printable
from bastion.ports import Clock, Policies, Recordings, Store

SCAN = 5_000
"""Sessions or events that are looked at for one answer: what a caller may not see counts as well."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks, and from where."""

    identity: Identity
    place: Place


@dataclass(frozen=True, slots=True)
class Seen:
    """Events in order of ``seq``, and the last ``seq`` that was looked at: go on after it."""

    events: Sequence[Event]
    upto: int


class Replay:
    """Looking back, for one viewer at a time."""

    def __init__(
        self,
        *,
        store: Store,
        policies: Policies,
        catalogue: Catalogue,
        recordings: Recordings,
        clock: Clock,
        node: str,
    ) -> None:
        self._store = store
        self._policies = policies
        self._catalogue = catalogue
        self._recordings = recordings
        self._clock = clock
        self._node = node

    async def sessions(
        self,
        viewer: Viewer,
        *,
        live: bool | None = None,
        identity: str | None = None,
        target: str | None = None,
        limit: int = 200,
    ) -> Sequence[Session]:
        """Newest first: the viewer's own, and those of scopes they replay or administer, where the fence holds them."""
        overseen = self._scopes(viewer)
        if not overseen and identity is None:
            identity = str(viewer.identity.id)  # so that the sessions of others do not use up the scan
        found = await self._store.sessions(live=live, identity=identity, target=target, limit=SCAN)
        visible = [
            session
            for session in found
            if self._holds(session.scope, viewer.place)
            and (session.scope in overseen or session.identity == viewer.identity.id)
        ]
        return visible[:limit]

    async def sessions_under(self, viewer: Viewer, grant: Grant, limit: int) -> Sequence[Session]:
        """Those of `sessions` that ``grant`` was used for."""
        found = await self.sessions(viewer, identity=str(grant.identity), limit=SCAN)
        return [each for each in found if each.grant_id == grant.id][:limit]

    async def session(self, viewer: Viewer, session_id: str) -> Session:
        """One that `sessions` could show.

        Raises:
            NotFound: there is none, or the viewer may not know of it.
            Refused: several begin so; or the fence of its region does not hold the viewer.
        """
        # One sentence for both, or it would tell a stranger which of the ids they try exist.
        absent = NotFound(f"There is no session {printable(session_id)!r} that you may see.")
        try:
            session = await self._store.session(session_id)
        except NotFound:
            raise absent from None
        if session.identity != viewer.identity.id and not (
            self._oversees(viewer, session.scope) or isinstance(self._may_replay(viewer, session), Permitted)
        ):
            raise absent
        self._check_fence(session.scope, viewer.place)
        return session

    async def transcript(self, viewer: Viewer, session_id: str, *, follow: bool = False) -> AsyncIterator[bytes]:
        """The lines of a recording, see `bastion.ports.Recordings`. That they are shown is durable before they are.

        Raises:
            NotFound, Refused: as `session`; or the policies do not let the viewer replay it.
            Unavailable: the audit log cannot be written; nothing was read.
        """
        session = await self.session(viewer, session_id)
        ruling = self._may_replay(viewer, session)
        if isinstance(ruling, NotPermitted):
            raise Refused(" ".join(("You may not replay this session.", *ruling.reasons)))
        async with self._store.transaction() as transaction:
            await transaction.append(self._replayed(viewer, session, ruling, follow))
        return self._recordings.follow(session) if follow else self._recordings.transcript(session)

    def may_go_on(self, viewer: Viewer, session: Session) -> bool:
        """Whether what began as a replay would still be allowed: asked again while it lasts."""
        ruling = self._may_replay(viewer, session)
        return self._holds(session.scope, viewer.place) and isinstance(ruling, Permitted)

    async def events(self, viewer: Viewer, wanted: EventFilter) -> Seen:
        """The audit log as far as the viewer may see it: of scopes they replay or administer, where the fence holds
        them, and what belongs to no scope if they administer everything.

        Raises:
            Refused: they may see none of it.
        """
        visible = self._visible(viewer)
        events: list[Event] = []
        upto, limit = wanted.after_seq, wanted.limit
        while True:
            page = await self._store.events(replace(wanted, after_seq=upto, limit=SCAN))
            events += [event for event in page if visible(event)]
            onwards = upto > 0 and len(page) == SCAN and len(events) < limit
            upto = page[-1].seq if page else upto
            if not onwards:
                break
        if wanted.after_seq:
            events = events[:limit]
            return Seen(events, events[-1].seq if len(events) == limit else upto)
        return Seen(events[-limit:], upto)

    def _visible(self, viewer: Viewer) -> Callable[[Event], bool]:
        scopes = self._scopes(viewer)
        everything = self._permits(Power.ADMINISTER, viewer, None)
        if not scopes and not everything:
            raise Refused(
                "The audit log is shown to those who may replay or administer a scope, from inside its fence."
            )
        return lambda event: everything if event.scope is None else event.scope in scopes

    def _scopes(self, viewer: Viewer) -> frozenset[Scope]:
        """Scopes that the viewer oversees, from a place that the fence holds."""
        scopes = {
            Scope(environment, region)
            for environment in self._catalogue.environments
            for region in self._catalogue.regions
        }
        return frozenset(s for s in scopes if self._holds(s, viewer.place) and self._oversees(viewer, s))

    def _oversees(self, viewer: Viewer, scope: Scope) -> bool:
        return any(self._permits(power, viewer, scope) for power in (Power.REPLAY, Power.ADMINISTER))

    def _permits(self, power: Power, viewer: Viewer, scope: Scope | None) -> bool:
        ruling = self._policies.may(power, viewer.identity, viewer.place, self._clock.now(), scope=scope)
        return isinstance(ruling, Permitted)

    def _may_replay(self, viewer: Viewer, session: Session) -> Ruling:
        """For the target and login; when the configuration does not name them any more, for the whole scope."""
        target = self._catalogue.targets.get(session.target)
        now = self._clock.now()
        if target is None or session.login not in target.logins:
            return self._policies.may(Power.REPLAY, viewer.identity, viewer.place, now, scope=session.scope)
        return self._policies.may(Power.REPLAY, viewer.identity, viewer.place, now, target=target, login=session.login)

    def _holds(self, scope: Scope, place: Place) -> bool:
        region = self._catalogue.regions.get(scope.region)
        return region is not None and is_inside(region.fence, place)

    def _check_fence(self, scope: Scope, place: Place) -> None:
        region = self._catalogue.regions.get(scope.region)
        if region is None:
            raise Refused(f"Region {scope.region} is not configured any more, so nothing of it is shown.")
        judgement = region.fence.judge(place)
        if isinstance(judgement, Outside):
            raise Refused(f"{judgement.reason}: nothing of region {scope.region} is shown there.")

    def _replayed(self, viewer: Viewer, session: Session, ruling: Permitted, follow: bool) -> Event:
        return Event(
            kind=Kind.RECORDING_REPLAYED,
            at=self._clock.now(),
            node=self._node,
            identity=session.identity,
            actor=viewer.identity.id,
            display=session.display,
            scope=session.scope,
            target=session.target,
            login=session.login,
            address=str(viewer.place.address),
            country=viewer.place.country,
            grant_id=session.grant_id,
            session_id=session.id,
            reasons=tuple(f"permitted by {policy}" for policy in ruling.policies),
            details={"by": viewer.identity.display, "live": follow},
        )
