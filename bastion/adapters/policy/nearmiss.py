"""Why nothing permitted it: which permits would have, but for one part.

Default deny gives no reasons. So each permit is taken apart into its principal, its resource and its conditions; each
part becomes a probe of its own, and one more question to the engine tells which parts hold. A probe permits nothing:
only the names of those that fired are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import cedarpy
from cedarpy import pst

from bastion.adapters.policy.rules import Rule

MAX_NEAR_MISSES = 3
"""Sentences; a denial is read, not studied."""

PARTS = ("principal", "resource", "conditions")


def probes(rules: Mapping[str, Rule]) -> cedarpy.PolicySet:
    """The parts of every permit, each with the action of its permit, named ``policy3:resource``."""
    static: dict[str, pst.Template] = {}
    for number, rule in rules.items():
        if rule.body.effect == "permit" and not _is_template(rule.body):
            bare = replace(
                rule.body, principal=pst.ScopeAny(), resource=pst.ScopeAny(), clauses=(), annotations=pst.FrozenMap()
            )
            for part, body in zip(
                PARTS,
                (
                    replace(bare, principal=rule.body.principal),
                    replace(bare, resource=rule.body.resource),
                    replace(bare, clauses=rule.body.clauses),
                ),
                strict=True,
            ):
                static[f"{number}:{part}"] = replace(body, id=f"{number}:{part}")
    return cedarpy.PolicySet.from_pst(
        pst.PolicySet(templates=pst.FrozenMap(), static_policies=pst.FrozenMap(static), template_links=())
    )


def sentences(rules: Mapping[str, Rule], fired: Iterable[str]) -> list[str]:
    """One sentence for each permit of which all parts but one fired.

    Of a permit of another action no part fires, so it is never near.
    """
    held = set(fired)
    near = []
    for number, rule in rules.items():
        missing = [part for part in PARTS if f"{number}:{part}" not in held]
        if len(missing) == 1:
            near.append(_sentence(rule, missing[0]))
    return near[:MAX_NEAR_MISSES]


def _sentence(rule: Rule, missing: str) -> str:
    match missing:
        case "principal":
            return f"Policy {rule.id} would permit it to {_spell(rule.body.principal)}."
        case "resource":
            return f"Policy {rule.id} would permit it on {_spell(rule.body.resource)}."
        case _:
            return f"Policy {rule.id} would permit it if its conditions held."


def _spell(constraint: pst.PrincipalOrResourceConstraint) -> str:
    match constraint:
        case pst.ScopeEq(pst.EntityUid() as entity) | pst.ScopeIn(pst.EntityUid() as entity):
            return _spell_entity(entity)
        case pst.ScopeIs(kind):
            return f"a {str(kind).lower()}"
        case pst.ScopeIsIn(kind, pst.EntityUid() as entity):
            return f"a {str(kind).lower()} in {_spell_entity(entity)}"
        case _:
            return "somebody else"


def _spell_entity(entity: pst.EntityUid) -> str:
    return f"the {str(entity.type).lower()} {entity.id}"


def _is_template(body: pst.Template) -> bool:
    return any(isinstance(getattr(part, "entity", None), pst.Slot) for part in (body.principal, body.resource))
