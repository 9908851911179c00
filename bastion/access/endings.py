"""How everything that somebody had proven ends at once: durable first, then every node cuts what is live (law 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from bastion.access.keeping import Keeping
from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.ending import Cause, LogoutNotice
from bastion.core.errors import Conflict, NotFound, Unauthenticated, Unavailable
from bastion.core.identity import IdentityId
from bastion.ports import Clock, Coordination, Revocation, Store

REMEMBERED = timedelta(minutes=5)
"""How much longer than it lasts a logout token is remembered: clocks differ."""


DISOWNED = frozenset({Cause.REFUSED, Cause.SESSION_REVOKED, Cause.CREDENTIAL_CHANGED})
"""Causes by which somebody may not be who they were any more. Who logs out, or whose issuer is silent, still is."""


async def is_disowned(store: Store, person: IdentityId, since: datetime) -> bool:
    """Whether an issuer has disowned ``person`` after ``since`` and they have not logged in again."""
    if await store.confirmed_at(person) is not None:
        return False
    ended = await store.events(EventFilter(kind=Kind.IDENTITY_ENDED.value, identity=str(person), since=since))
    return any(event.identity == person and DISOWNED.intersection(event.reasons) for event in ended)


class LogoutIssuer(Protocol):
    """An issuer that can end logins, and at which people can log out."""

    @property
    def issuer(self) -> str:
        """Its identifier."""
        ...

    async def logout_notice(self, unverified_token: str) -> LogoutNotice:
        """What a logout token says. Raises `Unauthenticated`, `Unavailable`."""
        ...

    async def end_session_url(self, unverified_token: str | None) -> str | None:
        """Where a browser logs out there, too; None when it does not offer that. Raises `Unavailable`."""
        ...


class Endings:
    """Ends identities: all their tokens, certificates and sessions, over all protocols, on every node."""

    def __init__(self, *, store: Store, coordination: Coordination, clock: Clock, node: str) -> None:
        self._store = store
        self._coordination = coordination
        self._clock = clock
        self._node = node

    async def end(self, identity: IdentityId, cause: Cause, details: Mapping[str, str] | None = None) -> bool:
        """Nothing counts any more that ``identity`` proved until now; logging in again begins anew.

        Returns:
            Whether there is such an identity. Of one that is not known there was nothing to end.

        Raises:
            Unavailable: it could not be written, and nothing ended; or it was, and the other nodes could not be told:
                they notice when they next look at their sessions.
        """
        try:
            display = (await self._store.identity(identity)).display
        except NotFound:
            return False
        now = self._clock.now()
        event = Event(
            kind=Kind.IDENTITY_ENDED,
            at=now,
            node=self._node,
            identity=identity,
            display=display,
            reasons=(cause.value,),
            details=details or {},
        )
        async with self._store.transaction() as transaction:
            await transaction.end_identity(identity, now)
            await transaction.append(event)
        await self._coordination.revoke(Revocation(identity=identity))
        return True


class Logouts:
    """People log out here, or at their issuer, which then tells us. Either ends everything."""

    def __init__(
        self,
        *,
        issuers: Sequence[LogoutIssuer],
        endings: Endings,
        keeping: Keeping,
        store: Store,
        coordination: Coordination,
        clock: Clock,
    ) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self._endings = endings
        self._keeping = keeping
        self._store = store
        self._coordination = coordination
        self._clock = clock

    async def here(self, identity: IdentityId) -> str | None:
        """End everything of ``identity``; where to go on to, to log out at the issuer as well.

        Raises:
            Unavailable: it could not be ended. An issuer that does not answer is no reason.
        """
        try:
            url = await self._end_session_url(identity)
        except Unavailable:
            url = None
        await self._endings.end(identity, Cause.LOGGED_OUT)
        return url

    async def at_issuer(self, claimed_issuer: str | None, unverified_token: str) -> None:
        """An issuer's logout token has come (OpenID Connect Back-Channel Logout 1.0, section 2.6).

        Raises:
            Unauthenticated: it is not one, or of nobody that is asked here; nothing was done.
            Conflict: it came before.
            Unavailable: it could not be judged or obeyed, and may be sent again.
        """
        issuer = self._issuers.get(claimed_issuer or "")
        if issuer is None:
            raise Unauthenticated("This logout token is not of an identity provider of this bastion.")
        notice = await issuer.logout_notice(unverified_token)
        key = f"logout-token:{notice.issuer}#{notice.jti}"
        lifetime = max(notice.expires_at - self._clock.now(), timedelta()) + REMEMBERED
        if not await self._coordination.put_once(key, b"", lifetime):
            raise Conflict("This logout token was used already.")
        try:
            await self._obey(notice)
        except BaseException:
            await self._coordination.take(key)
            raise

    async def _obey(self, notice: LogoutNotice) -> None:
        identity = None
        if notice.subject is not None:
            identity = IdentityId(notice.issuer, notice.subject)
        elif notice.sid is not None:
            identity = await self._store.whose_login(notice.issuer, notice.sid)
        if identity is not None:
            await self._endings.end(identity, Cause.LOGGED_OUT_AT_ISSUER)

    async def _end_session_url(self, identity: IdentityId) -> str | None:
        issuer = self._issuers.get(identity.issuer)
        if issuer is None:
            return None
        login = await self._store.login_of(identity)
        tokens = None if login is None else self._keeping.tokens(login)
        return await issuer.end_session_url(None if tokens is None else tokens.id_token)
