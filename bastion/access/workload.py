"""Machines log in with the token that their own platform gave them, exchanged for ours (RFC 8693)."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from bastion.access.doorstep import Doorstep
from bastion.access.tokens import Audience, Token, Tokens
from bastion.core.audit import Event, Kind
from bastion.core.errors import BastionError, NotFound, Refused, Unauthenticated
from bastion.core.geofence import Address, Place
from bastion.core.identity import Identity, IdentityId, IdentityKind, VerifiedClaims
from bastion.core.target import printable
from bastion.ports import Clock, Store


@dataclass(frozen=True, slots=True)
class SubjectRule:
    """Which subjects are meant. Subjects of CI jobs and service accounts are parts with colons between them.

    ``*`` stands for any characters of one part, and a last part ``**`` for all parts that follow, at least one. Every
    other character stands for itself.
    """

    pattern: str

    def matches(self, subject: str) -> bool:
        """Whether ``subject``, all of it, is meant."""
        head, rest = (self.pattern[:-2], ".+") if self.pattern.endswith(":**") else (self.pattern, "")
        literal = "[^:]*".join(re.escape(piece) for piece in head.split("*"))
        return re.fullmatch(literal + rest, subject, re.DOTALL) is not None


@dataclass(frozen=True, slots=True)
class WorkloadRule:
    """A token of ``issuer`` for ``audience`` whose subject matches is the workload ``name``, with these groups."""

    issuer: str
    audience: str
    subject: SubjectRule
    name: str
    groups: frozenset[str]

    def covers(self, claims: VerifiedClaims) -> bool:
        """Whether it is about whoever these claims describe. Their audience was verified to be a single one."""
        said = (claims.issuer, claims.claims["aud"])
        return said == (self.issuer, self.audience) and self.subject.matches(claims.subject)


class WorkloadIssuer(Protocol):
    """Judges the workload tokens of one issuer."""

    @property
    def issuer(self) -> str:
        """Its identifier."""
        ...

    async def claims(self, unverified_token: str, audiences: Collection[str]) -> VerifiedClaims:
        """What a token for one of ``audiences`` alone says. Raises `Unauthenticated`, `Unavailable`."""
        ...


class Workloads:
    """Exchanges tokens. The first rule that covers a token decides; without one nobody comes in."""

    def __init__(
        self,
        *,
        issuers: Sequence[WorkloadIssuer],
        rules: Sequence[WorkloadRule],
        doorstep: Doorstep,
        tokens: Tokens,
        store: Store,
        clock: Clock,
        node: str,
    ) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self._rules = tuple(rules)
        self._doorstep = doorstep
        self._tokens = tokens
        self._store = store
        self._clock = clock
        self._node = node

    async def exchange(
        self, address: Address, claimed_issuer: str | None, unverified_token: str
    ) -> tuple[Token, Identity]:
        """A token of ours for the workload that ``unverified_token`` proves; it does not outlive that one.

        Raises:
            Refused: outside every fence (law 2), no rule covers it, or the identity is known as a person.
            Unauthenticated: it proves nothing.
            Unavailable: the issuer, the audit log or the coordination did not answer. In every case nobody was logged
                in, and the audit log says so.
        """
        place = await self._doorstep.admit(address)
        try:
            claims = await self._verify(claimed_issuer, unverified_token)
            identity = self._identity(claims)
            await self._check_kind(identity.id)
        except BastionError as error:
            await self._doorstep.record_failure(place, error)
            raise
        await self._record(identity, place)
        until = datetime.fromtimestamp(claims.claims["exp"], tz=UTC)
        return await self._tokens.issue(identity, Audience.API, until), identity

    async def _verify(self, claimed_issuer: str | None, unverified_token: str) -> VerifiedClaims:
        issuer = self._issuers.get(claimed_issuer or "")
        if issuer is None:
            raise Unauthenticated(
                "This token is not of an issuer whose workloads are let in here.",
                detail=f"iss {printable(str(claimed_issuer), 200)}",
            )
        audiences = {rule.audience for rule in self._rules if rule.issuer == issuer.issuer}
        return await issuer.claims(unverified_token, audiences)

    def _identity(self, claims: VerifiedClaims) -> Identity:
        rule = next((rule for rule in self._rules if rule.covers(claims)), None)
        if rule is None:
            who = printable(claims.subject, 200)
            raise Refused(f"No workload rule lets in {who}. Ask whoever runs the bastion to add one.")
        issued_at = datetime.fromtimestamp(claims.claims["iat"], tz=UTC)
        return Identity(
            id=IdentityId(claims.issuer, claims.subject),
            email=None,
            name=rule.name,
            groups=rule.groups,
            kind=IdentityKind.WORKLOAD,
            authenticated_at=min(issued_at, claims.verified_at),
        )

    async def _check_kind(self, identity: IdentityId) -> None:
        """Raises `Refused` for a person: their groups would become the rule's, and their tokens a machine's."""
        try:
            known = await self._store.identity(identity)
        except NotFound:
            return
        if known.kind is not IdentityKind.WORKLOAD:
            raise Refused("This identity is known here as a person, so it is not taken for a workload.")

    async def _record(self, identity: Identity, place: Place) -> None:
        now = self._clock.now()
        event = Event(
            kind=Kind.LOGIN_SUCCEEDED,
            at=now,
            node=self._node,
            identity=identity.id,
            display=identity.display,
            address=str(place.address),
            country=place.country,
            details={"for": "workload", "workload": identity.name},
        )
        async with self._store.transaction() as transaction:
            await transaction.save_identity(identity, now)
            await transaction.append(event)
