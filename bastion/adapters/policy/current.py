"""The policies of this moment: replaced as a whole while questions are asked."""

from __future__ import annotations

from datetime import datetime

from bastion.core.geofence import Place
from bastion.core.grant import Grant
from bastion.core.identity import Identity
from bastion.core.policy import Access, Power, Ruling
from bastion.core.target import Scope, Target
from bastion.ports import Policies


class CurrentPolicies:
    """Keeps `bastion.ports.Policies` by asking the set that is current. Replacing is one assignment: no question sees
    half of each."""

    def __init__(self, current: Policies) -> None:
        self._current = current

    def replace(self, current: Policies) -> None:
        """From now on ``current`` is asked. It was validated when it was made."""
        self._current = current

    def may_connect(self, access: Access, grant: Grant, now: datetime) -> Ruling:
        return self._current.may_connect(access, grant, now)

    def may(
        self,
        power: Power,
        identity: Identity,
        place: Place | None,
        now: datetime,
        *,
        target: Target | None = None,
        login: str | None = None,
        scope: Scope | None = None,
    ) -> Ruling:
        return self._current.may(power, identity, place, now, target=target, login=login, scope=scope)
