"""A token for a script: what a person lets it do in their name, for hours at most and from one network."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from bastion.core.errors import Refused
from bastion.core.geofence import Address, Network
from bastion.core.grant import MIN_DURATION, spell
from bastion.core.identity import IdentityId, Strength

MAX_LIFETIME = timedelta(hours=12)
"""A working day. What a script needs for longer is a workload's own identity, not a person's."""

MAX_NAME = 60
"""Characters."""


class Use(StrEnum):
    """What a token may be used for; never for logging out, breaking the glass, linking a chat, or other tokens."""

    READ = "read"
    """See requests, grants and access."""
    REQUEST = "request"
    """Ask for access, and take a request back."""
    REVIEW = "review"
    """Answer requests."""
    REVOKE = "revoke"
    """End grants."""
    CONNECT = "connect"
    """Fetch certificates."""
    AUDIT = "audit"
    """Sessions, recordings and the audit log."""


@dataclass(frozen=True, slots=True)
class ApiToken:
    """Never more than its owner: the policies judge them as they are known now, and the login that made it.

    ``digest`` is SHA-256 of the secret, which is random and long enough to need nothing slower. Empty ``uses`` are no
    use at all.
    """

    id: str
    owner: IdentityId
    name: str
    uses: frozenset[Use]
    network: Network
    digest: bytes = field(repr=False)
    strength: Strength
    """Of the login that made it."""
    made_at: datetime
    ends_at: datetime
    revoked_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """It is over on its last instant."""
        return self.revoked_at is None and self.made_at <= now < self.ends_at

    def objection(self, needed: frozenset[Use], address: Address) -> str | None:
        """Why a live one does not do for what takes all of ``needed``, or None; what takes none is not for tokens."""
        if address.version != self.network.version or address not in self.network:
            return f"The token {self.id} may be used from {self.network} only, and this comes from {address}."
        if not needed:
            return f"This takes a login: no token does it. {self.id} is a token."
        if missing := needed - self.uses:
            return f"The token {self.id} is not for this: it lacks {' and '.join(sorted(missing))}."
        return None


def check_lifetime(duration: timedelta) -> timedelta:
    """``duration`` itself. Raises `Refused`: it is too short, or longer than `MAX_LIFETIME`."""
    if not MIN_DURATION <= duration <= MAX_LIFETIME:
        raise Refused(f"{spell(duration)} is not possible: a token lasts from 1m to {spell(MAX_LIFETIME)}.")
    return duration


def check_name(text: str) -> str:
    """What a token is called, without space around it. Raises `Refused`: it is empty, too long or not printable."""
    name = text.strip()
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise Refused(f"A token needs a name of 1 to {MAX_NAME} printable characters that says what it is for.")
    return name
