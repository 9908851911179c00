"""The names that policies use and the engine does not check: a misspelled one would be a forbid that never fires."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from cedarpy import pst

from bastion.adapters.policy.schema import attributes
from bastion.core.target import Catalogue

_RESOURCE = pst.Var("resource")


def unknown(body: pst.Template, catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    """What ``body`` names that there is not: the word, and the sentence about it.

    Looked at are entities (``Environment::"prod"``), the literals that ``resource.environment``, ``.region`` and
    ``.tier`` are compared with, and what ``has`` asks for. Groups, identities and logins belong to others and cannot
    be known.
    """
    known = _known(catalogue)
    for node in walk((body.principal, body.resource, body.clauses)):
        match node:
            case pst.EntityUid(kind, name) if str(kind) in known and name not in known[str(kind)]:
                yield name, f"there is no {node}{_closest(name, known[str(kind)])}"
            case pst.HasAttr(_, attributes_asked):
                for word in attributes_asked:
                    if word not in attributes():
                        yield word, f"nothing has an attribute {word}{_closest(word, attributes())}"
            case pst.GetAttr(pst.EntityLit(entity), attribute):
                yield attribute, f"{entity}.{attribute} cannot be read; use the attributes of principal and resource"
            case pst.BinaryOp("eq" | "not_eq", pst.GetAttr(base, attribute), literal) | pst.BinaryOp(
                "eq" | "not_eq" | "contains", literal, pst.GetAttr(base, attribute)
            ) if base == _RESOURCE and (kind_of := attribute.capitalize()) in ("Environment", "Region", "Tier"):
                for word in strings(literal):
                    if word and word not in known[kind_of]:
                        yield word, f'there is no {attribute} "{word}"{_closest(word, known[kind_of])}'


def _known(catalogue: Catalogue) -> dict[str, Collection[str]]:
    targets = catalogue.targets.values()
    return {
        "Bastion": {"bastion"},
        "Environment": catalogue.environments.keys(),
        "Region": catalogue.regions.keys(),
        "Tier": {environment.tier for environment in catalogue.environments.values()},
        "Scope": {f"{e}/{r}" for e in catalogue.environments for r in catalogue.regions},
        "Target": catalogue.targets.keys(),
        "Login": {f"{target.full_name}/{login}" for target in targets for login in target.logins},
    }


def strings(literal: pst.Expr) -> list[str]:
    """The texts of a literal; none of anything else."""
    match literal:
        case pst.StringLit(value):
            return [value]
        case pst.Set(elements):
            return [element.value for element in elements if isinstance(element, pst.StringLit)]
        case _:
            return []


def walk(value: Any) -> Iterator[Any]:
    """Every node under ``value``; the parser holds the depth to a hundred."""
    if isinstance(value, tuple):
        for element in value:
            yield from walk(element)
    elif is_dataclass(value):
        yield value
        for field in fields(value):
            yield from walk(getattr(value, field.name))
    elif isinstance(value, dict):
        yield from walk(tuple(value.values()))


def _closest(word: str, known: Collection[str]) -> str:
    close = get_close_matches(word, sorted(known), 1)
    return f"; did you mean {close[0]}?" if close else ""
