"""Asking the engine, and turning its answer into a ruling.

Two traps decide how it is done. The engine *skips* a policy whose evaluation errors, so that a forbid whose sum
overflows is a forbid that does not exist, and the answer is Allow. And without the schema it finds out about wrong
types and missing attributes only then. Hence: always the schema, and any error at all is a refusal.

What is kept, is kept under all the values it was made of, so that a changed grant, identity or place is another
question: what the engine makes of them, and its rulings on connections, unless some policy speaks of the moment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

import cedarpy

from bastion.adapters.policy import facts, nearmiss, strengths
from bastion.adapters.policy.facts import Json
from bastion.adapters.policy.rules import TEMPLATE, Rule, read
from bastion.adapters.policy.schema import schema
from bastion.core import files
from bastion.core.geofence import Place
from bastion.core.grant import Grant
from bastion.core.identity import Identity, IdentityId
from bastion.core.policy import Access, NotPermitted, Permitted, Power, Ruling, strictest
from bastion.core.remedy import Remedy
from bastion.core.target import Catalogue, Scope, Target, printable

KEPT_POLICIES = 20_000
"""Policies in all linked sets that are kept, about a kilobyte each: linking a grant copies the whole set."""

KEPT_ENTITIES = 512
"""Of identities at targets, about 15 KiB each."""

KEPT_RULINGS = 4096
"""On connections, a kilobyte or two each."""

_OF_THE_MOMENT = re.compile(r"\b(?:now|hour|weekday|authenticated_age)\b|\\[ux]")
"""The attributes of a context that change by themselves, or an escape that one of their names could be written with:
Cedar has no other way to reach them."""

_NUMBERED = re.compile(r"`(policy\d+)`")
"""How the engine names a policy in its messages."""


@dataclass(frozen=True, slots=True)
class _Question:
    action: str
    identity: Identity
    resource: facts.Resource
    context: Json


class CedarPolicies:
    """The policies of one file, for one catalogue; made anew when either changes.

    Args:
        text: of the file.
        catalogue: whose names the policies may use.
        source: the file's name, for messages.

    Raises:
        ConfigError: one line ``source:line: sentence`` for each mistake.
    """

    def __init__(self, text: str, catalogue: Catalogue, *, source: str = "policy.cedar") -> None:
        rules = read(text, catalogue, source)
        self._policies = rules.policies
        self._rules: Mapping[str, Rule] = rules.by_number
        self._remedies = strengths.remedies(rule.body for rule in rules.by_number.values())
        self._probes = nearmiss.probes(rules.by_number)
        self._catalogue = catalogue
        scopes = [Scope(e, r) for e in catalogue.environments for r in catalogue.regions]
        self._standing = {scope: _entities(facts.standing_entities(catalogue, scope)) for scope in (None, *scopes)}
        self._linked = lru_cache(min(1024, KEPT_POLICIES // max(1, len(self))))(self._link)
        self._entities = lru_cache(KEPT_ENTITIES)(self._gather)
        self._kept_ruling = lru_cache(KEPT_RULINGS)(self._rule)
        self._is_timeless = _OF_THE_MOMENT.search(text) is None

    def __len__(self) -> int:
        """How many policies the file has."""
        return len(self._rules)

    def may_connect(self, access: Access, grant: Grant, now: datetime) -> Ruling:
        """Whether ``access`` is permitted when ``grant`` alone is linked.

        An allow that rests on another permit of the file is none (law 1): the linked grant must be among its reasons.
        """
        resource = facts.Resource(access.target, access.login)
        if (unknown := self._unknown(resource)) is not None:
            return unknown
        target = access.target
        shortfall = grant.shortfall(
            access.identity.id,
            target.scope,
            target.full_name,
            access.login,
            access.action,
            now,
            address=access.place.address,
        )
        if shortfall is not None:
            return NotPermitted((f"Grant {grant.id} {shortfall}.",))
        rule, moment = (self._kept_ruling, None) if self._is_timeless else (self._rule, now)
        return rule(access, (grant.id, grant.identity), grant.crossing, moment)

    def _rule(self, access: Access, link: tuple[str, IdentityId], crossing: bool, now: datetime | None) -> Ruling:
        """Without ``now`` no policy asks for it, and any moment will do."""
        resource = facts.Resource(access.target, access.login)
        moment = access.identity.authenticated_at if now is None else now
        context = facts.moment(access.identity, access.place, moment) | {"crossing": crossing}
        ruling = self._ask(_Question(access.action, access.identity, resource, context), link)
        match ruling:
            case Permitted(policies) if _link_name(link[0], resource) not in policies:
                others = ", ".join(policies)
                return NotPermitted(
                    (f"Permitted by {others}, but not by grant {link[0]}: nothing opens without a grant.",)
                )
            case _:
                return ruling

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
        """Whether ``identity`` has ``power`` over a target (and login), a whole scope, or with neither over everything.

        Over everything there is ``replay`` (the whole audit log) and ``administer`` only.
        """
        resource = facts.Resource(target, login, scope)
        if resource.within is None and power not in (Power.REPLAY, Power.ADMINISTER):
            return NotPermitted((f"To {power} needs a target or a scope; it is never over everything.",))
        if (unknown := self._unknown(resource)) is not None:
            return unknown
        return self._ask(_Question(power, identity, resource, facts.moment(identity, place, now)), None)

    def _unknown(self, resource: facts.Resource) -> NotPermitted | None:
        """Names of an older configuration, and combinations that mean nothing, are not asked about."""
        target, login, scope = resource.target, resource.login, resource.scope
        if target is None:
            if login is not None:
                return NotPermitted((f"The login {login} was named without a target.",))
            return None if scope in self._standing else NotPermitted((f"There is no {scope}.",))
        if self._catalogue.targets.get(target.full_name) != target:
            return NotPermitted((f"There is no target {target.full_name} as it was asked for.",))
        if login is not None and login not in target.logins:
            return NotPermitted((f"{target.full_name} has no login {login}.",))
        if scope not in (None, target.scope):
            return NotPermitted((f"{target.full_name} is not in {scope}.",))
        return None

    def _ask(self, question: _Question, link: tuple[str, IdentityId] | None) -> Ruling:
        """``link`` is the grant that is linked, and whose it is."""
        try:
            policies = self._policies if link is None else self._linked(*link, question.resource)
            answer = self._answer(question, policies)
        except ValueError as error:  # a name that the engine cannot hold, such as a lone surrogate
            return _unanswerable([str(error)])
        if answer.diagnostics.errors or answer.decision is cedarpy.Decision.NoDecision:
            return _unanswerable([_NUMBERED.sub(self._named, error) for error in answer.diagnostics.errors])
        reasons = answer.diagnostics.reasons
        ids = tuple(sorted(self._rules[reason].id if reason in self._rules else reason for reason in reasons))
        if answer.decision is not cedarpy.Decision.Allow:
            denial = self._denial(question, ids)
            remedy = self._remedy(question, policies)
            return denial if remedy is None else NotPermitted((*denial.reasons, remedy.sentence), remedy)
        demands = strictest(self._rules[reason].demands for reason in reasons if reason in self._rules)
        if demands is None:
            both = " and ".join(ids)
            return NotPermitted((f"Policies {both} ask for reviewers of different groups, so nobody can review it.",))
        rules = [self._rules[reason] for reason in reasons if reason in self._rules]
        limits = files.strictest([rule.limits for rule in rules])
        return Permitted(ids, demands, limits, any(rule.keeps_everything for rule in rules))

    def _link(self, grant_id: str, whose: IdentityId, resource: facts.Resource) -> cedarpy.PolicySet:
        slots = {"?principal": facts.identity_uid(whose), "?resource": resource.uid}
        return self._policies.with_linked(TEMPLATE, _link_name(grant_id, resource), slots)

    def _gather(self, identity: Identity, resource: facts.Resource) -> cedarpy.Entities:
        delta = facts.question_entities(self._catalogue, identity, resource)
        return self._standing[resource.within].with_added_json_str(facts.encode(delta), schema())

    def _answer(self, question: _Question, policies: cedarpy.PolicySet) -> cedarpy.AuthzResult:
        request = {
            "principal": facts.identity_uid(question.identity.id),
            "action": facts.uid("Action", question.action),
            "resource": question.resource.uid,
            "context": question.context,
        }
        return cedarpy.is_authorized(request, policies, self._entities(question.identity, question.resource), schema())

    def _remedy(self, question: _Question, policies: cedarpy.PolicySet) -> Remedy | None:
        """The least after which it would be permitted to somebody who had done that this moment."""
        for remedy in self._remedies:
            answer = self._answer(replace(question, context=facts.remedied(question.context, remedy)), policies)
            if answer.decision is cedarpy.Decision.Allow and not answer.diagnostics.errors:
                return remedy
        return None

    def _denial(self, question: _Question, forbids: tuple[str, ...]) -> NotPermitted:
        if forbids:
            return NotPermitted(tuple(f"Forbidden by policy {name}." for name in forbids))
        near = nearmiss.sentences(self._rules, self._answer(question, self._probes).diagnostics.reasons)
        who = printable(question.identity.display)
        first = f"No policy permits {who} to {question.action} {question.resource}."
        return NotPermitted((first, *near))

    def _named(self, number: re.Match[str]) -> str:
        """The name that people gave to the policy that the engine numbered."""
        return self._rules[number[1]].id if number[1] in self._rules else number[0]


def _entities(entities: list[Json]) -> cedarpy.Entities:
    """With the schema, which also brings the hierarchy of actions."""
    return cedarpy.Entities.from_json_str(facts.encode(entities), schema())


def _link_name(grant_id: str, resource: facts.Resource) -> str:
    """The name of a linked grant among the reasons: ``g-4t9z2m0wq7xh:web-1.staging.eu/deploy``."""
    return f"{grant_id}:{resource.uid['id']}"


def _unanswerable(errors: list[str]) -> NotPermitted:
    why = "; ".join(errors)
    return NotPermitted((f"The policies could not be evaluated, and what cannot be judged is refused: {why}.",))
