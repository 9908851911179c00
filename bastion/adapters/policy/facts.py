"""What the engine is told for one question: the entities it concerns, and the moment.

Only the chain from the resource upwards and the one identity are given, so that a question costs the same whether the
catalogue has ten targets or ten thousand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from bastion.core.geofence import Place
from bastion.core.identity import MFA, Identity, IdentityId
from bastion.core.remedy import Remedy
from bastion.core.target import Catalogue, Scope, Target

Json = dict[str, Any]

BASTION: Json = {"type": "Bastion", "id": "bastion"}


def uid(kind: str, name: str) -> Json:
    """An entity's name in the structured form: no quoting, whatever characters the name has."""
    return {"type": kind, "id": name}


def identity_uid(identity: IdentityId) -> Json:
    return uid("Identity", str(identity))


def login_uid(target: Target, login: str) -> Json:
    return uid("Login", f"{target.full_name}/{login}")


@dataclass(frozen=True, slots=True)
class Resource:
    """What a question is about: a target and perhaps a login of it, a whole scope, or with none of them everything."""

    target: Target | None = None
    login: str | None = None
    scope: Scope | None = None

    @property
    def uid(self) -> Json:
        if self.target is not None:
            return uid("Target", self.target.full_name) if self.login is None else login_uid(self.target, self.login)
        return uid("Scope", str(self.scope)) if self.scope is not None else BASTION

    def __str__(self) -> str:
        if self.target is None:
            return "over everything" if self.scope is None else f"in {self.scope}"
        return f"on {self.target.full_name}" + ("" if self.login is None else f" as {self.login}")

    @property
    def within(self) -> Scope | None:
        """The scope it lies in; None for everything."""
        return self.target.scope if self.target is not None else self.scope


def standing_entities(catalogue: Catalogue, scope: Scope | None) -> list[Json]:
    """What many questions share: the bastion, and of a scope its environment, its region and itself."""
    bastion = _entity(BASTION, [], {"environment": "", "region": "", "tier": ""})
    if scope is None:
        return [bastion]
    environment, region = uid("Environment", scope.environment), uid("Region", scope.region)
    return [
        bastion,
        _entity(environment, [BASTION], {"tier": catalogue.tier_of(scope)}),
        _entity(region, [BASTION], {}),
        _entity(uid("Scope", str(scope)), [environment, region], _whereabouts(catalogue, scope)),
    ]


def question_entities(catalogue: Catalogue, identity: Identity, resource: Resource) -> list[Json]:
    """What one question adds: the identity, the target and the login."""
    attributes = {"issuer": identity.id.issuer, "kind": identity.kind.value}
    if identity.email is not None:
        attributes["email"] = identity.email
    groups = [uid("Group", group) for group in sorted(identity.groups)]
    entities = [_entity(identity_uid(identity.id), groups, attributes)]
    if (target := resource.target) is not None:
        whereabouts, name = _whereabouts(catalogue, target.scope), uid("Target", target.full_name)
        entities.append(_entity(name, [uid("Scope", str(target.scope))], {**whereabouts, "name": target.name}))
        if (login := resource.login) is not None:
            here = {**whereabouts, "target": target.full_name, "login": login}
            entities.append(_entity(login_uid(target, login), [name], here))
    return entities


def moment(identity: Identity, place: Place | None, now: datetime) -> Json:
    """The context of a question; ``place`` is None where the person's address cannot be known."""
    utc = now.astimezone(UTC)
    age = max(utc - identity.authenticated_at, timedelta())
    context: Json = {
        "now": _extension("datetime", utc.strftime("%Y-%m-%dT%H:%M:%SZ")),
        "hour": utc.hour,
        "weekday": utc.isoweekday(),
        "mfa": MFA in identity.amr,
        "amr": sorted(identity.amr),
        "authenticated_age": _extension("duration", f"{int(age.total_seconds())}s"),
    }
    if identity.acr is not None:
        context["acr"] = identity.acr
    if place is not None:
        context["address"] = _extension("ip", str(place.address))
        if place.country is not None:
            context["country"] = place.country
    return context


def remedied(context: Json, remedy: Remedy) -> Json:
    """The same context after a login that was made this moment, and as ``remedy`` has it.

    What the older one had, the new one need not have.
    """
    rest = {name: value for name, value in context.items() if name != "acr"}
    made = {"authenticated_age": _extension("duration", "0s"), "mfa": MFA in remedy.amr, "amr": sorted(remedy.amr)}
    return rest | made | ({} if remedy.acr is None else {"acr": remedy.acr})


def encode(entities: list[Json]) -> str:
    """The engine's JSON form of entities."""
    return json.dumps(entities)


def _whereabouts(catalogue: Catalogue, scope: Scope) -> dict[str, str]:
    return {"environment": scope.environment, "region": scope.region, "tier": catalogue.tier_of(scope)}


def _entity(entity: Json, parents: list[Json], attributes: dict[str, str]) -> Json:
    return {"uid": entity, "attrs": attributes, "parents": parents}


def _extension(function: str, argument: str) -> Json:
    return {"__extn": {"fn": function, "arg": argument}}
