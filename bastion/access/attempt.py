"""One attempt to change who has access: its events, and the event of its refusal."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import Self

from bastion.core.audit import Event, Kind
from bastion.core.errors import Refused
from bastion.core.geofence import Place
from bastion.core.grant import Grant, Request
from bastion.core.identity import Identity, IdentityId
from bastion.core.target import Scope, printable
from bastion.ports import Store

MAX_NAMES_TEXT = 300
"""Characters of names in one event; what was typed may be anything."""


class Attempt:
    """Who does what for whom, from where and when. Left by `Refused`, it writes ``refusal`` and lets it pass.

    As more becomes known it is told by `concerns`, so that a refusal says as much as there was to say.
    """

    def __init__(
        self, *, store: Store, node: str, now: datetime, actor: Identity, place: Place | None, refusal: Kind, verb: str
    ) -> None:
        self.now = now
        self._store = store
        self._node = node
        self._actor = actor
        self._place = place
        self._refusal = refusal
        self._verb = verb
        self._about: IdentityId = actor.id
        self._display = actor.display
        self._scope: Scope | None = None
        self._targets: tuple[str, ...] = ()
        self._logins: tuple[str, ...] = ()
        self._grant_id: str | None = None
        self._request_id: str | None = None

    def helps(self, beneficiary: Identity) -> None:
        """It is for ``beneficiary``."""
        self._about, self._display = beneficiary.id, beneficiary.display

    def names(self, targets: Iterable[str], logins: Iterable[str], scope: Scope | None) -> None:
        """It is about these, as far as they are known."""
        self._targets, self._logins, self._scope = tuple(targets), tuple(logins), scope

    def concerns(self, subject: Request | Grant) -> None:
        """It is about this request or grant."""
        self.names(sorted(subject.targets), sorted(subject.logins), subject.scope)
        match subject:
            case Request():
                self._request_id = subject.id
            case Grant():
                self._grant_id, self._request_id = subject.id, subject.request_id

    def event(self, kind: Kind, *, reasons: tuple[str, ...] = (), **details: str | int | bool | None) -> Event:
        """One event of this attempt. Details without a value are left out; where the place is not known, it says so."""
        details = {name: value for name, value in details.items() if value is not None}
        if self._request_id is not None:
            details["request"] = self._request_id
        if self._place is None:
            details["place"] = "not known"
        someone_else = self._actor.id != self._about
        if someone_else:
            details["by"] = self._actor.display
        return Event(
            kind=kind,
            at=self.now,
            node=self._node,
            identity=self._about,
            actor=self._actor.id if someone_else else None,
            display=self._display,
            scope=self._scope,
            target=printable(", ".join(self._targets), MAX_NAMES_TEXT) or None,
            login=printable(", ".join(self._logins), MAX_NAMES_TEXT) or None,
            address=str(self._place.address) if self._place else None,
            country=self._place.country if self._place else None,
            grant_id=self._grant_id,
            reasons=reasons,
            details=details,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Refused):
            async with self._store.transaction() as tx:
                await tx.append(self.event(self._refusal, reasons=(error.public,), attempt=self._verb))
