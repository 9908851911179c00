"""Whether issuers still stand by the logins they vouched for, asked at an interval with the refresh tokens they gave.

An issuer that refuses ends the identity. One that changed the groups changes them here. One that does not answer is
no proof of anything: who was confirmed within `FRESH_FOR` stays, and nobody new comes in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from bastion.access.endings import Endings
from bastion.access.keeping import Keeping, KeptTokens
from bastion.core.audit import Event, Kind
from bastion.core.ending import Cause
from bastion.core.errors import BastionError, Unauthenticated, Unavailable
from bastion.core.identity import ClaimMapping, Identity, Renewal, VerifiedClaims, identity_from
from bastion.ports import Clock, Coordination, KeptLogin, Revocation, Store

FRESH_FOR = timedelta(hours=1)
"""Without an answer of its issuer a login is believed no longer than a token is (`bastion.access.tokens.LIFETIME`)."""

TURN = timedelta(seconds=5)
"""Between looks at what is due."""

KEPT_FOR = timedelta(days=30)
"""No grant lasts longer, so nothing that a login opened is left after that."""

log = structlog.get_logger(__name__)


class RenewingIssuer(Protocol):
    """An issuer that can be asked about a login again."""

    @property
    def issuer(self) -> str:
        """Its identifier."""
        ...

    async def renew(self, refresh_token: str, subject: str) -> Renewal:
        """Raises `Unauthenticated` when it no longer stands by the login, `Unavailable` when it does not say."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """An issuer, how its claims are read, and how often it is asked."""

    provider: RenewingIssuer
    mapping: ClaimMapping
    interval: timedelta


class Freshness:
    """Asks issuers about kept logins; of several nodes one does it at a time."""

    def __init__(
        self,
        *,
        issuers: Sequence[Asked],
        endings: Endings,
        keeping: Keeping,
        store: Store,
        coordination: Coordination,
        clock: Clock,
        node: str,
    ) -> None:
        self._issuers = tuple(issuers)
        self._endings = endings
        self._keeping = keeping
        self._store = store
        self._coordination = coordination
        self._clock = clock
        self._node = node

    async def run(self) -> None:
        """Ask what is due, until cancelled. A store that does not answer is asked again at the next turn."""
        while True:
            try:
                if await self._coordination.lease("freshness", self._node, 6 * TURN):
                    await self.ask_due()
            except BastionError as error:
                log.warning("logins could not be asked about", error=str(error))
            await asyncio.sleep(TURN.total_seconds())

    async def ask_due(self) -> None:
        """Ask about every kept login whose turn it is. Raises `Unavailable` when the store does not answer."""
        now = self._clock.now()
        async with self._store.transaction() as transaction:
            await transaction.forget_logins(now - KEPT_FOR)
        for asked in self._issuers:
            silence: Unavailable | None = None
            for login in await self._store.logins_to_ask(asked.provider.issuer, now - asked.interval):
                # One question a turn is enough to know that an issuer is away; the others would wait for nothing.
                silence = await self._ask(asked, login) if silence is None else silence
                if silence is not None:
                    await self._unanswered(login, silence)

    async def _ask(self, asked: Asked, due: KeptLogin) -> Unavailable | None:
        """Ask about one login, and do what the answer says; the error when there was none."""
        login = await self._claim(due)
        tokens = None if login is None else self._keeping.tokens(login)
        if login is None or tokens is None or tokens.refresh_token is None:
            return None
        try:
            renewal = await asked.provider.renew(tokens.refresh_token, login.identity.subject)
        except Unauthenticated as error:
            await self._refused(login, str(error))
        except Unavailable as error:
            return error
        else:
            await self._confirmed(asked, login, tokens, renewal)
        return None

    async def _claim(self, due: KeptLogin) -> KeptLogin | None:
        """The login, when it is ours to ask about. Two questions with one refresh token look like theft to its issuer,
        which then refuses both (RFC 9700, section 4.14.2).
        """
        now = self._clock.now()
        async with self._store.transaction() as transaction:
            ours = await transaction.ask_again(due, asked_at=now, confirmed_at=due.confirmed_at, sealed=due.sealed)
        return replace(due, asked_at=now) if ours else None

    async def _refused(self, login: KeptLogin, detail: str) -> None:
        """Unless somebody logged in anew meanwhile, with whose tokens the next question is asked."""
        if await self._store.login_of(login.identity) == login:
            await self._endings.end(login.identity, Cause.REFUSED, {"detail": detail[:500]})

    async def _unanswered(self, login: KeptLogin, error: Unavailable) -> None:
        log.warning("an identity provider did not say whether it stands by a login", error=str(error))
        if self._clock.now() - login.confirmed_at >= FRESH_FOR:
            await self._endings.end(login.identity, Cause.UNCONFIRMED, {"detail": str(error)[:500]})

    async def _confirmed(self, asked: Asked, login: KeptLogin, tokens: KeptTokens, renewal: Renewal) -> None:
        now = self._clock.now()
        sealed = self._keeping.sealed(login.identity, tokens.after(renewal))
        known = await self._store.identity(login.identity)
        found = known if renewal.claims is None else _updated(known, renewal.claims, asked.mapping)
        async with self._store.transaction() as transaction:
            if not await transaction.ask_again(login, asked_at=now, confirmed_at=now, sealed=sealed):
                return  # they logged in or out meanwhile: this answer is about a login that is no more
            if found != known:
                await transaction.save_identity(found, now)
                await transaction.append(self._changed(known, found, now))
        if found.groups != known.groups:
            await self._coordination.revoke(Revocation())

    def _changed(self, known: Identity, found: Identity, now: datetime) -> Event:
        details = {
            "groups_lost": ", ".join(sorted(known.groups - found.groups)),
            "groups_gained": ", ".join(sorted(found.groups - known.groups)),
        }
        return Event(
            kind=Kind.IDENTITY_CHANGED,
            at=now,
            node=self._node,
            identity=found.id,
            display=found.display,
            details={name: value for name, value in details.items() if value},
        )


def _updated(known: Identity, claims: VerifiedClaims, mapping: ClaimMapping) -> Identity:
    """Who they are now; how and when they authenticated is what the login said."""
    said = identity_from(claims, mapping)
    return replace(known, email=said.email, name=said.name, groups=said.groups)
