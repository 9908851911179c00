"""From where somebody asked or answered earlier, as the audit log has it."""

from __future__ import annotations

from datetime import timedelta

from bastion.core.audit import EventFilter, Kind
from bastion.core.geofence import Place, parse_address
from bastion.core.grant import Request
from bastion.core.identity import IdentityId
from bastion.ports import Store


async def place_of(store: Store, kind: Kind, request: Request, person: IdentityId) -> Place | None:
    """Where ``person`` was when they did ``kind`` to ``request``; None when that was not known, or is not found.

    Policies that ask for a place are asked again later, when the person is not there. Without a place such a policy
    does not permit, so nothing found is a refusal.
    """
    since = request.asked_at - timedelta(seconds=1)
    for event in await store.events(EventFilter(kind=kind.value, identity=str(person), since=since)):
        acting = event.actor or event.identity
        if event.details.get("request") == request.id and acting == person and event.address is not None:
            return Place(parse_address(event.address), event.country, "the audit log")
    return None
