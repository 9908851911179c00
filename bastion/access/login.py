"""The login: a browser is sent to an issuer, comes back with a code, and somebody is who they are.

Place first (law 2), at the beginning and again at the end; one state, one use, one browser, one address, one issuer.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, assert_never

from bastion.access.doorstep import Doorstep
from bastion.access.keeping import Keeping
from bastion.access.pkce import CHALLENGE, challenge_of, digest, new_secret
from bastion.core.audit import Event, Kind
from bastion.core.errors import BastionError, NotFound, Refused, Unauthenticated, Unavailable
from bastion.core.geofence import Address, Place
from bastion.core.identity import MFA, ClaimMapping, Identity, IdentityKind, Proof, StepUp, identity_from
from bastion.core.remedy import Remedy
from bastion.core.target import printable
from bastion.ports import Clock, Coordination, Store

STATE_LIFETIME = timedelta(minutes=10)
"""From leaving for the issuer to coming back."""

CLOCKS_APART = timedelta(seconds=60)
"""Between the issuer's clock and ours, when it says that somebody has logged in anew."""

UNMET = "unmet_authentication_requirements"
"""An issuer's error: nobody there can be logged in as was asked (OpenID Connect Core Error Code 1.0, section 2)."""

BEGUN = "browser"
"""What such logins are counted as."""

MAX_CODE = 4096
"""Characters of an issuer's code; some put everything they know into it."""


class IdentityProvider(Protocol):
    """One issuer whose word is taken for who somebody is."""

    @property
    def issuer(self) -> str:
        """Its identifier, as its tokens say it."""
        ...

    async def authorization_url(
        self, state: str, nonce: str, code_challenge: str, redirect_uri: str, step_up: StepUp | None = None
    ) -> str:
        """Where to send a browser. Raises `Unavailable`."""
        ...

    async def redeem(self, code: str, code_verifier: str, redirect_uri: str, nonce: str, iss: str | None) -> Proof:
        """What the issuer says about whoever came back with ``code``. Raises `Unauthenticated`, `Unavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class Issuer:
    """A provider, and how its claims are read."""

    provider: IdentityProvider
    mapping: ClaimMapping = ClaimMapping()


@dataclass(frozen=True, slots=True)
class ToPage:
    """The browser goes on to a page of the bastion. ``path`` is local; the console checked it."""

    path: str


@dataclass(frozen=True, slots=True)
class ToCommandLine:
    """The login is handed to a command line that listens on this machine's loopback."""

    port: int
    challenge: str
    state: str


Destination = ToPage | ToCommandLine

_CLI_STATE = re.compile(r"[A-Za-z0-9_-]{16,128}", re.ASCII)


def command_line(port: str, challenge: str, state: str) -> ToCommandLine:
    """A command line's wish, from the URL that it opened.

    Raises:
        Refused: it is not one that `bastion login` makes.
    """
    number = int(port) if re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) else 0
    if not (1024 <= number <= 65535 and CHALLENGE.fullmatch(challenge) and _CLI_STATE.fullmatch(state)):
        raise Refused("This is not a login that a command line began. Start again: bastion login")
    return ToCommandLine(number, challenge, state)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the browser brought back from the issuer; each part is None when it was not there."""

    state: str | None
    code: str | None
    iss: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Somebody has proven who they are, from inside a fence, and it is in the audit log."""

    identity: Identity
    place: Place
    destination: Destination


@dataclass(frozen=True, slots=True)
class _Begun:
    """What was kept while the browser was away."""

    issuer: int
    nonce: str
    verifier: str
    binding: str
    address: str
    destination: Destination
    remedy: Remedy | None = None
    """What kind of login was asked for, other than any."""
    begun_at: float = 0.0
    """Seconds since 1970: what is made anew is made after that."""

    def to_bytes(self) -> bytes:
        match self.destination:
            case ToPage(path):
                destination: object = {"path": path}
            case ToCommandLine(port, challenge, state):
                destination = {"port": port, "challenge": challenge, "state": state}
            case _:
                assert_never(self.destination)
        kept = [self.issuer, self.nonce, self.verifier, self.binding, self.address, destination]
        return json.dumps([*kept, str(self.remedy) if self.remedy else None, self.begun_at]).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> _Begun:
        issuer, nonce, verifier, binding, address, to, remedy, begun_at = json.loads(value)
        destination: Destination = ToPage(**to) if "path" in to else ToCommandLine(**to)
        wanted = None if remedy is None else Remedy.parse(remedy)
        return cls(issuer, nonce, verifier, binding, address, destination, wanted, begun_at)


class Login:
    """Logins by browser. ``issuers`` are numbered as the configuration lists them, from 0."""

    def __init__(
        self,
        *,
        issuers: Sequence[Issuer],
        public_url: str,
        doorstep: Doorstep,
        keeping: Keeping,
        store: Store,
        coordination: Coordination,
        clock: Clock,
        node: str,
    ) -> None:
        self._issuers = tuple(issuers)
        self._public_url = public_url.rstrip("/")
        self._doorstep = doorstep
        self._keeping = keeping
        self._store = store
        self._coordination = coordination
        self._clock = clock
        self._node = node

    @property
    def issuers(self) -> Sequence[str]:
        """Their identifiers, in order."""
        return [issuer.provider.issuer for issuer in self._issuers]

    def redirect_uri(self, issuer: int) -> str:
        """Where issuer number ``issuer`` sends browsers back to; it is registered there exactly so.

        Each has its own, so that one issuer's answer cannot pass for another's (RFC 9700, section 4.4.2.2).
        """
        return f"{self._public_url}/login/callback" + (f"/{issuer + 1}" if issuer else "")

    async def begin(
        self,
        address: Address,
        *,
        issuer: int,
        binding: str,
        destination: Destination,
        remedy: Remedy | None = None,
    ) -> str:
        """The URL to send the browser to. ``binding`` is a secret that only this browser has, in a cookie.

        With a ``remedy`` the login has to be made anew, and as that has it; `finish` takes no other.

        Raises:
            Refused: the address may not log in, or has begun too many; nothing was sent to the issuer, and the audit
                log says so.
            NotFound: there is no issuer of that number.
            Unavailable: the issuer, the audit log or the coordination did not answer.
        """
        place = await self._doorstep.admit_beginner(address, BEGUN)
        if not 0 <= issuer < len(self._issuers):
            raise NotFound("There is no such identity provider here.")
        kept = (issuer, new_secret(), new_secret(), digest(binding), str(address), destination)
        begun = _Begun(*kept, remedy, self._clock.now().timestamp())
        state = new_secret()
        try:
            asked = self._issuers[issuer]
            url = await asked.provider.authorization_url(
                state,
                begun.nonce,
                challenge_of(begun.verifier),
                self.redirect_uri(issuer),
                None if remedy is None else _step_up(remedy, asked.mapping),
            )
        except Unavailable as error:
            await self._doorstep.record_failure(place, error)
            raise
        if not await self._coordination.put_once(_key(state), begun.to_bytes(), STATE_LIFETIME):
            raise Unavailable("The login could not be started. Try again.", detail="state is taken")
        return url

    async def finish(self, address: Address, *, issuer: int, binding: str | None, answer: Answer) -> LoggedIn:
        """Somebody, logged in; durable in the audit log before this returns.

        Raises:
            Refused: the address may not log in (asked again), or the answer is not this browser's, not from here,
                not fresh, not the first of its state, or a refusal of the issuer.
            Unauthenticated: what the issuer sent proves nothing.
            Unavailable: the issuer, the audit log or the coordination did not answer. In every case nobody is logged
                in and the state is used up.
        """
        place = await self._doorstep.admit(address)
        try:
            begun = await self._resume(place, issuer, binding, answer)
            identity, proof = await self._prove(begun, answer)
        except BastionError as error:
            await self._doorstep.record_failure(place, error)
            raise
        await self._record(identity, proof, place, begun.destination)
        await self._doorstep.throttle.finished(address, BEGUN)
        return LoggedIn(identity, place, begun.destination)

    async def _resume(self, place: Place, issuer: int, binding: str | None, answer: Answer) -> _Begun:
        value = None
        if answer.state is not None and CHALLENGE.fullmatch(answer.state):
            value = await self._coordination.take(_key(answer.state))
        begun = None if value is None else _Begun.from_bytes(value)
        # The coordination forgets by a clock of its own; how old a login may be is judged by ours.
        if begun is None or self._clock.now().timestamp() - begun.begun_at > STATE_LIFETIME.total_seconds():
            raise Refused("This login was used already, or began more than ten minutes ago. Start it again.")
        if binding is None or not hmac.compare_digest(begun.binding, digest(binding)):
            raise Refused("This login was begun in another browser. Start it again in this one.")
        if begun.address != str(place.address):
            raise Refused("This login was begun from another address. Start it again from where you are.")
        if begun.issuer != issuer:
            raise Refused("This login was begun with another identity provider. Start it again.")
        return begun

    async def _prove(self, begun: _Begun, answer: Answer) -> tuple[Identity, Proof]:
        if answer.error == UNMET and begun.remedy is not None:
            raise Refused(
                f"The identity provider cannot make a login {begun.remedy.how or 'anew'}. Ask whoever runs it."
            )
        if answer.error is not None:
            raise Refused(
                "The identity provider did not log you in. Start again, or ask whoever runs it.",
                detail=f"error={printable(answer.error)}",
            )
        if not answer.code or len(answer.code) > MAX_CODE:
            raise Unauthenticated("The identity provider sent no code that can be used. Start the login again.")
        issuer = self._issuers[begun.issuer]
        proof = await issuer.provider.redeem(
            answer.code, begun.verifier, self.redirect_uri(begun.issuer), begun.nonce, answer.iss
        )
        identity = identity_from(proof.claims, issuer.mapping)
        _check_step_up(begun, identity, proof)
        await self._check_kind(identity)
        return identity, proof

    async def _check_kind(self, identity: Identity) -> None:
        """Raises `Refused` for what is known as a workload: it would come out of this as a person, and could review."""
        try:
            known = await self._store.identity(identity.id)
        except NotFound:
            return
        if known.kind is not IdentityKind.PERSON:
            raise Refused("This identity is known here as a workload, so nobody can log in as it in a browser.")

    async def _record(self, identity: Identity, proof: Proof, place: Place, destination: Destination) -> None:
        now = self._clock.now()
        event = Event(
            kind=Kind.LOGIN_SUCCEEDED,
            at=now,
            node=self._node,
            identity=identity.id,
            display=identity.display,
            address=str(place.address),
            country=place.country,
            details={"for": "command line" if isinstance(destination, ToCommandLine) else "browser"},
        )
        async with self._store.transaction() as transaction:
            await transaction.save_identity(identity, now)
            await transaction.keep_login(self._keeping.login(identity.id, proof, now))
            await transaction.append(event)


def _check_step_up(begun: _Begun, identity: Identity, proof: Proof) -> None:
    """That a login which had to be made anew was: an issuer may ignore what it is asked for.

    Raises:
        Refused: it was not, or not as it had to be, or the issuer does not say.
    """
    if begun.remedy is None:
        return
    is_page = isinstance(begun.destination, ToPage)
    again = "Open the page again." if is_page else f"Start again: bastion login {begun.remedy.flags}"
    since = datetime.fromtimestamp(begun.begun_at, tz=UTC)
    # Without auth_time the identity's is the time of the verification, which proves nothing here.
    if "auth_time" not in proof.claims.claims or not is_remedied(Remedy.FRESH, identity, since):
        raise Refused(f"The identity provider did not ask you to log in anew. {again}")
    if not is_remedied(begun.remedy, identity, since):
        raise Refused(f"{_shortfall(begun.remedy, identity)} {again}")


def _shortfall(remedy: Remedy, identity: Identity) -> str:
    if remedy == Remedy.MFA:
        return "The identity provider did not ask for a second factor, or does not say so. Set one up there."
    did = printable(", ".join(filter(None, [identity.acr, *sorted(identity.amr)])), 200) or "nothing"
    return f"A login {remedy.how} was asked for, and the identity provider says of how you logged in: {did}."


def is_remedied(remedy: Remedy, identity: Identity, since: datetime) -> bool:
    """Whether ``identity`` has logged in since then, and as ``remedy`` has it."""
    return identity.authenticated_at >= since - CLOCKS_APART and remedy.is_met_by(identity.strength)


def _step_up(remedy: Remedy, mapping: ClaimMapping) -> StepUp:
    """What to ask the issuer for: several factors by its own words for them, where it has such."""
    if remedy.acr is None and MFA in remedy.amr and mapping.mfa:
        return StepUp(tuple(sorted(mapping.mfa)), remedy.amr - {MFA})
    return StepUp(() if remedy.acr is None else (remedy.acr,), remedy.amr)


def _key(state: str) -> str:
    return f"login-state:{state}"
