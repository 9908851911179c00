"""What somebody could ask for: the targets of a form, so that nobody has to know names by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bastion.core.identity import Identity
from bastion.core.policy import Permitted, Power
from bastion.core.target import Catalogue, Target
from bastion.ports import Clock, Policies


@dataclass(frozen=True, slots=True)
class Askable:
    """A target, and those of its logins that a policy lets somebody ask for."""

    target: str
    logins: tuple[str, ...]


class Choice:
    """Lists by the policies of now. It is an offer, not a permission: the request is judged when it is made."""

    def __init__(self, *, policies: Policies, catalogue: Catalogue, clock: Clock) -> None:
        self._policies = policies
        self._catalogue = catalogue
        self._clock = clock

    def of(self, identity: Identity, limit: int) -> Sequence[Askable]:
        """At most ``limit`` of them by name; a target without a login that may be asked for is none."""
        now = self._clock.now()
        found: list[Askable] = []
        for _, target in sorted(self._catalogue.targets.items()):
            if len(found) >= limit:
                break
            if logins := self._logins(identity, target, now):
                found.append(Askable(target.full_name, logins))
        return found

    def _logins(self, identity: Identity, target: Target, now: datetime) -> tuple[str, ...]:
        rulings = {
            login: self._policies.may(Power.REQUEST, identity, None, now, target=target, login=login)
            for login in sorted(target.logins)
        }
        return tuple(login for login, ruling in rulings.items() if isinstance(ruling, Permitted))
