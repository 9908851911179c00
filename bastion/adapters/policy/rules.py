"""A policy file, read: every policy with its name, its line and its demands; or everything that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

import cedarpy
from cedarpy import pst

from bastion.adapters.policy import demands, names, strengths
from bastion.adapters.policy.schema import schema, words
from bastion.adapters.policy.statements import MAX_LINKS, MAX_NESTING, Statement, split, syntax_problems, unbearable
from bastion.core.errors import ConfigError
from bastion.core.files import Limits
from bastion.core.policy import FILE_ACTIONS, Action, Demands
from bastion.core.target import Catalogue

TEMPLATE = "connect-with-grant"
"""The one template, which each grant is linked to."""

TEMPLATE_TEXT = (
    f'@id("{TEMPLATE}") permit (principal == ?principal, action in Action::"connect", resource == ?resource);'
)

MAX_TEXT = 1 << 20
"""Characters; a policy file beyond that was not written by a person."""

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
"""Ids are shown in denials, and never hold the colon that the name of a linked grant has."""

_REMARKS = frozenset({"id", "description"})
_FOLLOW_UP = "unable to find an applicable action given the policy scope constraints"
_BREAK_GLASS = pst.EntityUid(pst.EntityType("Action"), "break_glass")
_DEMANDING = (*(pst.EntityUid(pst.EntityType("Action"), name) for name in ("request", "cross")), _BREAK_GLASS)
_READERS: Mapping[str, frozenset[Action]] = {
    **dict.fromkeys(demands.LIMITING, FILE_ACTIONS),
    **dict.fromkeys(demands.KEEPING, frozenset({Action.SSH_SHELL, Action.SSH_EXEC})),
}
"""On permits of which actions the annotations of sessions are read."""
_CONNECT = pst.EntityUid(pst.EntityType("Action"), "connect")


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy of the file. ``demands`` are read of permits of ``request`` and are the least of all elsewhere;
    ``limits`` are read of permits of ``ssh:sftp_read`` and ``ssh:sftp_write``, ``keeps_everything`` of permits of
    ``ssh:shell`` and ``ssh:exec``.
    """

    id: str
    line: int
    body: pst.Template
    demands: Demands = Demands()
    limits: Limits = Limits()
    keeps_everything: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """A whole file that was found to be valid. The engine numbers the policies; ``by_number`` has them by that name."""

    policies: cedarpy.PolicySet
    by_number: Mapping[str, Rule]


def read(text: str, catalogue: Catalogue, source: str) -> Rules:
    """Parse and validate a policy file against the built-in schema and the names of the catalogue.

    Raises:
        ConfigError: with one line ``source:line: sentence`` for each mistake.
    """
    if len(text) > MAX_TEXT:
        raise ConfigError([f"{source}:1: is longer than {MAX_TEXT} characters"])
    statements = split(text)
    if too_much := [statement.line for statement in statements if unbearable(statement)]:
        sentence = f"this policy has more than {MAX_NESTING} brackets in one another or {MAX_LINKS} operators; split it"
        raise ConfigError([f"{source}:{line}: {sentence}" for line in too_much])
    try:
        policies = cedarpy.PolicySet.from_str(text)
        tree = policies.to_pst()
    except ValueError as error:
        problems = syntax_problems(statements) or [(1, str(error))]
        raise ConfigError([f"{source}:{line}: {sentence}" for line, sentence in problems]) from None
    bodies = {**tree.static_policies, **tree.templates}
    numbered = [(f"policy{n}", statement) for n, statement in enumerate(statements)]
    if bodies.keys() != {number for number, _ in numbered}:
        raise ConfigError(
            [f"{source}:1: has policies that cannot be told apart; write each from its @id to its semicolon"]
        )
    invalid = _validation_problems(text, dict(numbered))
    found = [
        *(problem for problems in invalid.values() for problem in problems),
        *_id_problems([(statement, bodies[number]) for number, statement in numbered]),
        *_template_problems({number: statement for number, statement in numbered if number in tree.templates}, bodies),
    ]
    rules: dict[str, Rule] = {}
    for number, statement in numbered:
        body = bodies[number]
        misnamed = (*names.unknown(body, catalogue), *strengths.unusable(body))
        found.extend((statement.line_of(word), sentence) for word, sentence in misnamed)
        try:
            rules[number] = Rule(body.annotations.get("id", ""), statement.line, body, *_annotated(body))
        except ValueError as error:
            if number not in invalid:  # of a misspelled action, it cannot be known which annotations it reads
                found.append((statement.line_of(str(error).partition("(")[0]), str(error)))
    if found:
        raise ConfigError([f"{source}:{line}: {sentence}" for line, sentence in sorted(dict.fromkeys(found))])
    return Rules(policies, rules)


_Problems = Iterator[tuple[int, str]]


def _validation_problems(text: str, statements: Mapping[str, Statement]) -> dict[str, list[tuple[int, str]]]:
    """What the schema refuses, by policy; the engine's many errors about one attribute are one problem."""
    result = cedarpy.validate_policies(text, schema())
    if not result.validation_passed and not result.errors:
        raise ConfigError(["the policies are not valid under the built-in schema"])
    found: dict[str, dict[str, set[str]]] = {}
    for error in result.errors:
        sentence, owner = _without_owner(re.sub(r"^for policy `\w+`, ", "", error.error))
        found.setdefault(error.policy_id, {}).setdefault(sentence, set()).update(owner)
    return {
        number: [
            (statements[number].line_of(*_quoted(sentence)), _spell(sentence, owners))
            for sentence, owners in sentences.items()
            if sentence != _FOLLOW_UP or len(sentences) == 1
        ]
        for number, sentences in found.items()
    }


def _without_owner(sentence: str) -> tuple[str, list[str]]:
    """An error about an attribute, without whose attribute it is, and whose."""
    match = re.fullmatch(r"(.+?) (?:on entity type `(\w+)`|in context for Action::\"([^\"]+)\")( not found)?", sentence)
    if match is None:
        return sentence, []
    return match[1] + (match[4] or ""), [match[2] or f"the context of {match[3]}"]


def _spell(sentence: str, owners: set[str]) -> str:
    quoted = _quoted(sentence)
    if sentence.startswith("unable to guarantee safety of access to optional attribute") and quoted:
        holder = "context" if any(owner.startswith("the context") for owner in owners) else "principal"
        return f"attribute `{quoted[0]}` may be absent; ask first: {holder} has {quoted[0]} && …"
    whose = f" in {', '.join(sorted(owners))}" if owners else ""
    return sentence + whose + next((_closest(word, words()) for word in quoted if word not in words()), "")


def _id_problems(policies: list[tuple[Statement, pst.Template]]) -> _Problems:
    first_lines: dict[str, int] = {}
    for statement, body in policies:
        name = body.annotations.get("id")
        if name is None:
            yield statement.line, 'this policy has no name; begin it with @id("what-it-does")'
        elif not _ID.fullmatch(name):
            yield statement.line_of("@id"), f'@id("{name}") must be lower-case letters, digits and hyphens, at most 64'
        elif name in first_lines:
            yield (
                statement.line_of("@id"),
                f'@id("{name}") is the name of the policy on line {first_lines[name]} already',
            )
        else:
            first_lines[name] = statement.line


def _template_problems(templates: Mapping[str, Statement], bodies: Mapping[str, pst.Template]) -> _Problems:
    named = False
    for number, statement in templates.items():
        body = bodies[number]
        named = named or body.annotations.get("id") == TEMPLATE
        if not _is_connect_template(body):
            yield statement.line, f"the only template there can be, apart from its conditions, is {TEMPLATE_TEXT}"
    if not named:
        yield 1, f"the template that grants are linked to is missing; add {TEMPLATE_TEXT}"


def _is_connect_template(body: pst.Template) -> bool:
    """A wider principal, action or resource would let one grant open what it does not name (law 1)."""
    return (
        body.annotations.get("id") == TEMPLATE
        and body.effect == "permit"
        and body.principal == pst.ScopeEq(pst.Slot("principal"))
        and body.action == pst.ActionIn((_CONNECT,))
        and body.resource == pst.ScopeEq(pst.Slot("resource"))
    )


def _annotated(body: pst.Template) -> tuple[Demands, Limits, bool]:
    """Raises ValueError when an annotation is not known, stands where nobody reads it, or cannot be read."""
    for name in sorted(body.annotations.keys() - _REMARKS):
        if (readers := _READERS.get(name)) is not None:
            if body.effect != "permit" or not _is_of(body.action, readers):
                actions = " and ".join(sorted(readers))
                raise ValueError(f"@{name}(…) has no effect here; it is read on permits of {actions} only")
            continue
        if name not in demands.KNOWN:
            known = demands.KNOWN | _READERS.keys() | _REMARKS
            raise ValueError(f"@{name}(…) is not a known annotation{_closest(name, known, '@')}")
        if body.effect != "permit" or not any(_concerns(body.action, action) for action in _DEMANDING):
            raise ValueError(
                f"@{name}(…) has no effect here; it is read on permits of request, cross and break_glass only"
            )
        if name == "auto" and _concerns(body.action, _BREAK_GLASS):
            raise ValueError("@auto(…) has no effect on break_glass, which opens at once and is reviewed afterwards")
    annotations = body.annotations
    return demands.read(annotations), demands.read_limits(annotations), demands.keeps_everything(annotations)


def _is_of(constraint: pst.ActionConstraint, actions: frozenset[Action]) -> bool:
    """Whether it is about ``actions`` and nothing else: a shell would not know of the limits of files."""
    entities = {pst.EntityUid(pst.EntityType("Action"), action) for action in actions}
    match constraint:
        case pst.ActionEq(entity):
            return entity in entities
        case pst.ActionIn(named):
            return entities.issuperset(named)
        case _:
            return False


def _concerns(constraint: pst.ActionConstraint, action: pst.EntityUid) -> bool:
    match constraint:
        case pst.ActionEq(entity):
            return entity == action
        case pst.ActionIn(entities):
            return action in entities
        case _:
            return True


def _quoted(message: str) -> list[str]:
    """What an engine's message names between backticks; of ``Action::"reqest"`` the part in quotes."""
    return [re.sub(r'^\w+::"(.*)"$', r"\1", word) for word in re.findall(r"`([^`]+)`", message)]


def _closest(word: str, known: frozenset[str], mark: str = "") -> str:
    close = get_close_matches(word, sorted(known), 1)
    return f"; did you mean {mark}{close[0]}?" if close else ""
