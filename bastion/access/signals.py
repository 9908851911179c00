"""Security events that transmitters push: whom they are about loses everything that was proven (law 7)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol, assert_never

import structlog

from bastion.access.endings import Endings
from bastion.core.ending import ByEmail, Signal, SignalRefused, Subject
from bastion.core.errors import NotFound, Refused
from bastion.core.identity import IdentityId, fold_email
from bastion.ports import Coordination, Store

REMEMBERED = timedelta(hours=25)
"""An hour longer than a token is taken after it was made: a second delivery of it does nothing."""

log = structlog.get_logger(__name__)


class Transmitter(Protocol):
    """Judges the tokens of one transmitter."""

    async def signal(self, unverified_token: str) -> Signal:
        """What a token says. Raises `SignalRefused`, `Unavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """A transmitter, what it shows to push to us, and the issuers about whose people it may speak."""

    transmitter: Transmitter
    bearer: str = field(repr=False)
    about: frozenset[str]


class Signals:
    """Receives pushes (RFC 8935)."""

    def __init__(
        self, *, sources: Sequence[Source], endings: Endings, store: Store, coordination: Coordination
    ) -> None:
        self._sources = tuple(sources)
        self._endings = endings
        self._store = store
        self._coordination = coordination

    async def receive(self, bearer: str, unverified_token: str) -> None:
        """Obey one security event token; of one that came before nothing comes (RFC 8935, section 2.2).

        Raises:
            SignalRefused: it is not taken, and nothing was done.
            Unavailable: it could not be judged or obeyed; the transmitter sends it again.
        """
        source = self._source(bearer)
        signal = await source.transmitter.signal(unverified_token)
        key = f"security-event:{signal.issuer}#{signal.jti}"
        if not await self._coordination.put_once(key, b"", REMEMBERED):
            return
        try:
            await self._obey(source, signal)
        except BaseException:
            await self._coordination.take(key)
            raise

    def _source(self, bearer: str) -> Source:
        for source in self._sources:
            if hmac.compare_digest(source.bearer.encode(), bearer.encode()):
                return source
        raise SignalRefused("This is not a transmitter that is listened to.", "authentication_failed")

    async def _obey(self, source: Source, signal: Signal) -> None:
        if signal.is_verification:
            log.info("a stream of security events was verified", transmitter=signal.issuer)
        if not signal.causes or signal.subject is None:
            return
        identity = await self._identity(signal.subject)
        if identity is None:
            return
        if identity.issuer not in source.about:
            raise SignalRefused("This transmitter is not listened to about this identity's issuer.", "access_denied")
        details = {"transmitter": signal.issuer, "jti": signal.jti}
        await self._endings.end(identity, signal.causes[0], details)

    async def _identity(self, subject: Subject) -> IdentityId | None:
        match subject:
            case IdentityId():
                return subject
            case ByEmail(email):
                return await self._by_email(email)
            case _:
                assert_never(subject)

    async def _by_email(self, email: str) -> IdentityId | None:
        """Whose verified address it is; nobody's is nothing to end, and several people's is nobody in particular."""
        try:
            found = await self._store.find_identity(email)
        except NotFound:
            return None
        except Refused as error:
            sentence = "Several identities have verified this e-mail address; name one by iss_sub."
            raise SignalRefused(sentence, "invalid_request", detail=str(error)) from None
        is_theirs = found.email is not None and fold_email(found.email) == fold_email(email)
        return found.id if is_theirs else None
