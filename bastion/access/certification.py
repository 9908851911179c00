"""Issuing and accepting what contractors hold: access certificates, and target certificates for one session."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from bastion.access.admission import NEAR_MISSES, geo_details
from bastion.access.patience import Patience, Wanted
from bastion.access.prospects import Prospects, step_up
from bastion.access.throttle import Throttle
from bastion.core.audit import Event, Kind
from bastion.core.certificate import (
    Accepted,
    Certificate,
    PublicKey,
    Rejected,
    access_certificate,
    certificate_line,
    judge_access,
    parse_certificate,
    parse_public_key,
    signed,
    target_certificate,
    to_be_signed,
)
from bastion.core.errors import NotFound, Refused
from bastion.core.geofence import Address, Outside, Place
from bastion.core.grant import Grant
from bastion.core.identity import Identity, IdentityId, Strength
from bastion.core.policy import SSH_ACTIONS, Allow, Deny, NeedsGrant
from bastion.core.session import Session
from bastion.core.target import Catalogue, Scope, Target
from bastion.ports import Clock, Coordination, IssuedCertificate, Locator, Policies, Signer, Store

TARGET_LIFETIME = timedelta(minutes=1)
"""A target certificate is used once, at once: to log in for the session it was made for."""

NONCE = 32
"""Random bytes in a certificate, against chosen-prefix attacks on its signature (PROTOCOL.certkeys)."""


@dataclass(frozen=True, slots=True)
class Proven:
    """A certificate whose grant lives, in the hands of one who holds its key."""

    identity: IdentityId
    scope: Scope
    grant_id: str
    serial: int
    fingerprint: str
    strength: Strength
    """Of the login that got the certificate."""


class Certification:
    """The certificate authority's front: everything it signs was decided, and written before it is handed out."""

    def __init__(
        self,
        *,
        throttle: Throttle,
        store: Store,
        coordination: Coordination,
        policies: Policies,
        locator: Locator,
        signer: Signer,
        catalogue: Catalogue,
        clock: Clock,
        node: str,
        lifetime: timedelta,
    ) -> None:
        self._throttle = throttle
        self._store = store
        self._coordination = coordination
        self._policies = policies
        self._locator = locator
        self._signer = signer
        self._catalogue = catalogue
        self._clock = clock
        self._node = node
        self._lifetime = lifetime
        self._patience = Patience(store=store, clock=clock)
        self._prospects = Prospects(
            store=store,
            coordination=coordination,
            policies=policies,
            locator=locator,
            catalogue=catalogue,
            clock=clock,
        )
        self._authorities: Mapping[bytes, Scope] = {
            signer.access_authority(scope): scope for scope in catalogue.scopes()
        }

    async def issue(self, identity: Identity, place: Place, key_line: str, target_name: str) -> tuple[str, Certificate]:
        """Certify a contractor's key for the scope of ``target_name``, where they have a live grant on it.

        Returns:
            The line of a ``-cert.pub`` file, and what it says.

        Raises:
            Refused: no grant, outside the fence, or not a key that is certified. The sentence says which; an event was
                written.
            Unavailable: it could not be written; nothing was signed that anybody has.
        """
        now = self._clock.now()
        target = self._catalogue.find(target_name)
        try:
            key = parse_public_key(key_line)
            grant = await self._grant_for(identity, place, target, target.logins, now)
        except Refused as refusal:
            await self._write(Kind.CERTIFICATE_REFUSED, identity, place, target, now, reasons=(refusal.public,))
            raise
        certificate = access_certificate(
            key,
            serial=secrets.randbits(63),
            identity=identity.display,
            scope=target.scope,
            grant_id=grant.id,
            grant_ends_at=grant.ends_at,
            address=place.address,
            authority=self._signer.access_authority(target.scope),
            lifetime=self._lifetime,
            now=now,
        )
        body = to_be_signed(certificate, secrets.token_bytes(NONCE))
        line = certificate_line(signed(body, await self._signer.sign_access(target.scope, body)), grant.id)
        issued = _issued(certificate, identity, grant, place, now)
        await self._write(Kind.CERTIFICATE_ISSUED, identity, place, target, now, certificate=issued)
        return line, certificate

    async def wait_for_grant(
        self,
        identity: Identity,
        address: Address,
        target_name: str,
        login: str,
        *,
        say: Callable[[str], None],
        gone: Callable[[], bool],
    ) -> bool:
        """Wait while a request of ``identity`` for that login is open; whether asking again may help."""
        target = self._catalogue.find(target_name).full_name
        return await self._patience.granted(Wanted(identity.id, target, login, address), say=say, gone=gone)

    async def issue_for_connection(
        self, identity: Identity, address: Address, target_name: str, login: str, bound_to: str
    ) -> Proven:
        """Certify one connection instead of a key: whoever is at its other end has logged in as ``identity``.

        Nothing is signed, since there is nobody to show it to: the record is what a certificate's record is, with a
        number that sessions are written under, and it ends as one does.

        Args:
            identity: who they are, by the login that was made for this very connection.
            address: the client's real one.
            target_name: as they wrote it.
            login: as they wrote it; a grant for another one does not do.
            bound_to: fingerprint of the key that was proven on the connection, or of the connection itself.

        Raises:
            Refused: no grant, outside the fence, or no such target. The sentence says which; an event was written when
                there is such a target.
            Unavailable: it could not be written; nobody may be let in.
        """
        now, place, target = self._clock.now(), self._locator.locate(address), self._catalogue.find(target_name)
        try:
            grant = await self._grant_for(identity, place, target, {login}, now)
        except Refused as refusal:
            await self._write(Kind.CERTIFICATE_REFUSED, identity, place, target, now, reasons=(refusal.public,))
            raise
        issued = IssuedCertificate(
            serial=secrets.randbits(63),
            fingerprint=bound_to,
            identity=identity.id,
            scope=grant.scope,
            grant_id=grant.id,
            address=str(address),
            valid_after=now,
            valid_before=min(now + self._lifetime, grant.ends_at),
            strength=identity.strength,
        )
        await self._write(Kind.CERTIFICATE_ISSUED, identity, place, target, now, certificate=issued)
        return _proven(issued)

    async def _grant_for(
        self, identity: Identity, place: Place, target: Target, logins: Collection[str], now: datetime
    ) -> Grant:
        """The grant that a certificate for ``target`` would prove: some action is allowed to one of ``logins``."""
        grants = await self._store.grants_of(identity.id, now - NEAR_MISSES)
        denials: list[Deny] = []
        for decision in await self._prospects.decisions(identity, place, target, logins, grants, now):
            match decision:
                case Allow(grant):
                    return grant
                case Deny():
                    denials.append(decision)
                case NeedsGrant():
                    pass
                case _:
                    assert_never(decision)
        if (needed := step_up(denials)) is not None:
            raise needed
        raise Refused(" ".join(denials[0].reasons) if denials else _no_grant(identity, target, logins, grants, now))

    def recognise(self, blob: bytes) -> tuple[Certificate, Scope] | Rejected:
        """What a certificate says, and whose key it says has signed it. Its signature need not be checked yet."""
        try:
            certificate = parse_certificate(blob)
        except Refused as refusal:
            return Rejected(refusal.public)
        scope = self._authorities.get(certificate.authority)
        return Rejected("This certificate was not made by this bastion.") if scope is None else (certificate, scope)

    async def judge(self, blob: bytes, address: Address) -> Proven | Rejected:
        """Whether a certificate that a client offers may be used. That the client has its key is proven separately.

        Raises:
            Unavailable: the store did not answer; treat it as rejected.
        """
        now = self._clock.now()
        recognised = self.recognise(blob)
        if isinstance(recognised, Rejected):
            return recognised
        certificate, scope = recognised
        place = self._locator.locate(address)
        judgement = self._catalogue.regions[scope.region].fence.judge(place)
        verdict: Accepted | Rejected
        if isinstance(judgement, Outside):
            verdict = Rejected(f"{judgement.reason}: region {scope.region} cannot be reached from there.")
        else:
            verdict = judge_access(certificate, authorities=self._authorities, address=address, now=now)
            if isinstance(verdict, Rejected) and now >= certificate.valid_before:
                verdict = await self._grant_has_ended(certificate, now) or verdict
        result = verdict if isinstance(verdict, Rejected) else await self._against_the_record(verdict, now)
        if not isinstance(result, Rejected):
            return result
        if (too_often := await self._throttle.failed(place, await self._holder(certificate))) is not None:
            return Rejected(too_often.public)
        await self._write_rejection(certificate, scope, place, now, result)
        return result

    async def _holder(self, certificate: Certificate) -> IdentityId | None:
        """For whom a certificate was made, where the record has its number."""
        try:
            return (await self._store.certificate(certificate.serial)).identity
        except NotFound:
            return None

    async def _grant_has_ended(self, certificate: Certificate, now: datetime) -> Rejected | None:
        """The better reason for a certificate that has ended: that its grant has, so that a new one would not help."""
        try:
            grant = (await self._store.proof(certificate.serial)).grant
        except NotFound:
            return None
        return _over(grant) if not grant.is_live(now) else None

    async def _against_the_record(self, accepted: Accepted, now: datetime) -> Proven | Rejected:
        """A signature is not enough: the bastion must remember making it, and its grant must live."""
        certificate = accepted.certificate
        try:
            proof = await self._store.proof(certificate.serial)
        except NotFound:
            return Rejected("This certificate is not known here.")
        issued = proof.certificate
        if (issued.fingerprint, issued.scope, issued.grant_id) != (
            certificate.public_key.fingerprint,
            accepted.scope,
            accepted.grant_id,
        ):
            return Rejected("This certificate is not the one that was made under its number.")
        if not proof.grant.is_live(now):
            return _over(proof.grant)
        if proof.ended_at is not None and issued.valid_after <= proof.ended_at:
            return Rejected("You have been logged out since this certificate was made. Log in again: bastion login")
        return _proven(issued)

    async def for_target(self, session: Session, key: PublicKey, *, permitted: Collection[str]) -> bytes:
        """A target certificate over ``key`` for one session. The blob; its key never left the caller's memory.

        ``permitted`` are the extensions that it gets.
        """
        certificate = target_certificate(
            key,
            serial=secrets.randbits(63),
            session_id=session.id,
            identity=session.display,
            scope=session.scope,
            login=session.login,
            authority=self._signer.target_authority(session.scope),
            lifetime=TARGET_LIFETIME,
            now=self._clock.now(),
            permitted=permitted,
        )
        body = to_be_signed(certificate, secrets.token_bytes(NONCE))
        return signed(body, await self._signer.sign_target(session.scope, body))

    async def _write(
        self,
        kind: Kind,
        identity: Identity,
        place: Place,
        target: Target,
        now: datetime,
        *,
        reasons: tuple[str, ...] = (),
        certificate: IssuedCertificate | None = None,
    ) -> None:
        details = geo_details(place)
        if certificate is not None:
            details |= {
                "serial": str(certificate.serial),
                "fingerprint": certificate.fingerprint,
                "valid_before": certificate.valid_before.isoformat(),
                "authenticated_at": certificate.strength.authenticated_at.isoformat(),
                "amr": ", ".join(sorted(certificate.strength.amr)),
                "acr": certificate.strength.acr,
            }
        async with self._store.transaction() as transaction:
            if certificate is not None:
                await transaction.add_certificate(certificate)
            await transaction.append(
                Event(
                    kind=kind,
                    at=now,
                    node=self._node,
                    identity=identity.id,
                    display=identity.display,
                    scope=target.scope,
                    target=target.full_name,
                    address=str(place.address),
                    country=place.country,
                    grant_id=certificate.grant_id if certificate else None,
                    reasons=reasons,
                    details=details,
                )
            )

    async def _write_rejection(
        self, certificate: Certificate, scope: Scope, place: Place, now: datetime, rejected: Rejected
    ) -> None:
        """Only certificates that this bastion signed leave an event: strangers cannot fill the audit log."""
        async with self._store.transaction() as transaction:
            await transaction.append(
                Event(
                    kind=Kind.CONNECTION_REFUSED,
                    at=now,
                    node=self._node,
                    display=certificate.key_id,
                    scope=scope,
                    address=str(place.address),
                    country=place.country,
                    reasons=(rejected.reason,),
                    details={"serial": str(certificate.serial), **geo_details(place)},
                )
            )


def _over(grant: Grant) -> Rejected:
    if grant.revoked_at is not None:
        return Rejected(f"Grant {grant.id} was revoked at {grant.revoked_at:%Y-%m-%d %H:%M:%S} UTC.")
    return Rejected(f"Grant {grant.id} ended at {grant.ends_at:%Y-%m-%d %H:%M:%S} UTC. Ask for a new one.")


def _issued(
    certificate: Certificate, identity: Identity, grant: Grant, place: Place, now: datetime
) -> IssuedCertificate:
    """The record. Its beginning is to the microsecond: within one second somebody may log out, and in again."""
    return IssuedCertificate(
        serial=certificate.serial,
        fingerprint=certificate.public_key.fingerprint,
        identity=identity.id,
        scope=grant.scope,
        grant_id=grant.id,
        address=str(place.address),
        valid_after=now,
        valid_before=certificate.valid_before,
        strength=identity.strength,
    )


def _proven(issued: IssuedCertificate) -> Proven:
    return Proven(issued.identity, issued.scope, issued.grant_id, issued.serial, issued.fingerprint, issued.strength)


def _no_grant(
    identity: Identity, target: Target, logins: Collection[str], grants: Sequence[Grant], now: datetime
) -> str:
    """Why there is none, with what came nearest."""
    name, login = target.full_name, min(logins)
    misses = []
    for grant in grants:
        nearest = grant.logins & frozenset(logins) or frozenset(logins)
        wanted = min(nearest), min(grant.actions, default=min(SSH_ACTIONS))
        shortfall = grant.shortfall(identity.id, target.scope, name, *wanted, now)
        if shortfall is not None:
            misses.append(f"Grant {grant.id} {shortfall}.")
    ask = f'Ask for one: /bastion request {name} as {login} for 2h because "…"'
    return " ".join((f"{identity.display} has no live grant on {name}.", *misses[:3], ask))
