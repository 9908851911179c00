"""How a login ends from outside: what issuers and transmitters say, verified, and why an identity's proofs are over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from bastion.core.errors import Refused
from bastion.core.identity import IdentityId


class Cause(StrEnum):
    """Why everything that an identity had proven is over; the value is the sentence in the audit log."""

    LOGGED_OUT = "They logged out."
    LOGGED_OUT_AT_ISSUER = "They logged out at the identity provider."
    SESSION_REVOKED = "A security event says that their session was revoked."
    CREDENTIAL_CHANGED = "A security event says that their credentials changed."
    REFUSED = "The identity provider no longer stands by the login."
    UNCONFIRMED = "The identity provider could not be asked about the login for too long."


@dataclass(frozen=True, slots=True)
class LogoutNotice:
    """A logout token whose signature and claims were verified (OpenID Connect Back-Channel Logout 1.0, section 2.6).

    Only the verifier in `bastion.adapters.oidc` makes one. Of subject and sid at least one is there.
    """

    issuer: str
    subject: str | None
    sid: str | None
    jti: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ByEmail:
    """A subject named by e-mail (RFC 9493, section 3.2.2); it counts only where one identity has verified it."""

    email: str


Subject = IdentityId | ByEmail
"""Whom a security event is about."""


@dataclass(frozen=True, slots=True)
class Signal:
    """A security event token whose signature, issuer and audience were verified (RFC 8417).

    Only the verifier in `bastion.adapters.oidc` makes one. ``causes`` is empty when nothing in it ends a login.
    """

    issuer: str
    jti: str
    subject: Subject | None
    causes: tuple[Cause, ...]
    is_verification: bool = False
    """The transmitter asks whether its stream arrives (Shared Signals Framework 1.0, section 8.1.4)."""


class SignalRefused(Refused):
    """A security event is not taken; ``code`` is what the transmitter is told (RFC 8935, section 2.4)."""

    def __init__(self, public: str, code: str, *, detail: str = "") -> None:
        super().__init__(public, detail=detail)
        self.code = code
