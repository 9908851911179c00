"""What happened: one event a line, typed, never a log message.

An event's name is ``subject:verb``. Its details hold values people chose, so they are escaped where they are shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Self

from bastion.core.identity import IdentityId
from bastion.core.target import Scope


class Kind(StrEnum):
    """Every event there is."""

    LOGIN_SUCCEEDED = "login:succeeded"
    LOGIN_FAILED = "login:failed"
    LOGIN_THROTTLED = "login:throttled"
    """So many attempts have failed that more are refused for a while; those are not written one by one."""
    IDENTITY_ENDED = "identity:ended"
    IDENTITY_CHANGED = "identity:changed"
    CHAT_LINKED = "chat:linked"
    CHAT_REFUSED = "chat:refused"
    REQUEST_MADE = "request:made"
    REQUEST_REVIEWED = "request:reviewed"
    REQUEST_REFUSED = "request:refused"
    REQUEST_CROSSES = "request:crosses"
    """What was asked for is to be used beside another environment (law 4)."""
    REQUEST_WITHDRAWN = "request:withdrawn"
    REQUEST_TIMED_OUT = "request:expired"
    GRANT_APPROVED = "grant:approved"
    GRANT_EXTENDED = "grant:extended"
    GRANT_EXPIRED = "grant:expired"
    GLASS_BROKEN = "glass:broken"
    GLASS_REVIEWED = "glass:reviewed"
    """A grant that was opened by break-glass was answered for; what people owe is done."""
    GRANT_REVOKED = "grant:revoked"
    GRANT_REFUSED = "grant:refused"
    CERTIFICATE_ISSUED = "certificate:issued"
    CERTIFICATE_REFUSED = "certificate:refused"
    CONNECTION_REFUSED = "connection:refused"
    ACCESS_ALLOWED = "access:allowed"
    ACCESS_DENIED = "access:denied"
    ENVIRONMENT_CROSSED = "environment:crossed"
    SESSION_STARTED = "session:started"
    SESSION_ENDED = "session:ended"
    SESSION_INTERRUPTED = "session:interrupted"
    HOSTKEY_LEARNED = "hostkey:learned"
    """A host proved a new key while a configured one vouched for it; the operator shall configure it."""
    HOSTKEY_FORGOTTEN = "hostkey:forgotten"
    RECORDING_REPLAYED = "recording:replayed"
    TOKEN_MADE = "token:made"
    TOKEN_USED = "token:used"
    TOKEN_REFUSED = "token:refused"
    TOKEN_REVOKED = "token:revoked"
    CONFIG_LOADED = "config:loaded"
    CONFIG_REFUSED = "config:refused"
    NODE_STARTED = "node:started"
    NODE_STOPPED = "node:stopped"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. ``seq`` is given by the log: 1, 2, 3… without gaps; 0 until it is written."""

    kind: Kind
    at: datetime
    node: str
    identity: IdentityId | None = None
    """Whom it is about; of a grant, its beneficiary."""
    actor: IdentityId | None = None
    """Who did it, where that is somebody else."""
    display: str = ""
    scope: Scope | None = None
    target: str | None = None
    login: str | None = None
    address: str | None = None
    country: str | None = None
    grant_id: str | None = None
    session_id: str | None = None
    reasons: tuple[str, ...] = ()
    details: Mapping[str, str | int | bool | None] = field(default_factory=dict)
    seq: int = 0

    def to_json(self) -> str:
        """The event's one canonical line: UTF-8 JSON, keys sorted, no space, absent values left out, without ``seq``.

        The same event always gives the same bytes, so that a hash of the line is a hash of the event.
        """
        body: dict[str, object] = {
            "kind": self.kind.value,
            "at": self.at.astimezone(UTC).isoformat(),
            "node": self.node,
        }
        for name in ("identity", "actor", "scope"):
            if (value := getattr(self, name)) is not None:
                body[name] = str(value)
        for name in ("target", "login", "address", "country", "grant_id", "session_id"):
            if (value := getattr(self, name)) is not None:
                body[name] = value
        if self.display:
            body["display"] = self.display
        if self.reasons:
            body["reasons"] = list(self.reasons)
        if self.details:
            body["details"] = dict(self.details)
        line = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        # Half of a surrogate pair, which a hostile JSON can bring, has no UTF-8; as an escape it is kept and written.
        return line.encode("utf-8", "backslashreplace").decode("utf-8")

    @classmethod
    def from_json(cls, line: str, seq: int) -> Self:
        """Read back what `to_json` wrote."""
        body = json.loads(line)
        return cls(
            kind=Kind(body["kind"]),
            at=datetime.fromisoformat(body["at"]),
            node=body["node"],
            identity=IdentityId.parse(body["identity"]) if "identity" in body else None,
            actor=IdentityId.parse(body["actor"]) if "actor" in body else None,
            display=body.get("display", ""),
            scope=Scope.parse(body["scope"]) if "scope" in body else None,
            target=body.get("target"),
            login=body.get("login"),
            address=body.get("address"),
            country=body.get("country"),
            grant_id=body.get("grant_id"),
            session_id=body.get("session_id"),
            reasons=tuple(body.get("reasons", ())),
            details=body.get("details", {}),
            seq=seq,
        )


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are wanted; what is None does not narrow. ``kind`` may end in ``:*``. All parts must match."""

    kind: str | None = None
    identity: str | None = None
    """A part of the display name or the identity of whom it is about or who did it."""
    target: str | None = None
    scope: Scope | None = None
    session_id: str | None = None
    grant_id: str | None = None
    since: datetime | None = None
    after_seq: int = 0
    limit: int = 1000
