"""Asking the policies what the cases say they answer, before anybody depends on it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path

from bastion.config import cases
from bastion.config.cases import Case, Expected
from bastion.core.errors import ConfigError
from bastion.core.geofence import Place
from bastion.core.grant import Grant, spell
from bastion.core.identity import MFA, Identity, IdentityId
from bastion.core.policy import Access, Action, Demands, NotPermitted, Permitted, Power, Ruling
from bastion.core.target import Catalogue, Scope, Target
from bastion.ports import Policies

NOWHERE = IPv4Address("192.0.2.1")
"""Of a network for examples (RFC 5737)."""

_SOMEBODY = IdentityId("https://policy-tests.invalid", "somebody")


def run(path: Path, policies: Policies, catalogue: Catalogue) -> int:
    """Run every case of a file; how many there were.

    Raises:
        ConfigError: one line for each that fails, or that cannot be read.
    """
    table = cases.read(path, catalogue)
    answers = ((line, case.name, failure(case, policies, catalogue)) for line, case in table)
    failures = [f"{path.name}:{line}: {name!r} fails: it {why}" for line, name, why in answers if why is not None]
    if failures:
        raise ConfigError(failures)
    return len(table)


def failure(case: Case, policies: Policies, catalogue: Catalogue) -> str | None:
    """What is not as ``case`` expects, in one sentence; None when everything is."""
    ruling = _ruling(case, policies, catalogue)
    match ruling:
        case Permitted(ids, demands):
            if case.expect == "forbid":
                return f"is permitted by {', '.join(ids)}"
            if case.by is not None and case.by not in ids:
                return f"is permitted by {', '.join(ids)}, not by {case.by}"
            return " and ".join(_shortfalls(case.demands, demands)) or None
        case NotPermitted(reasons):
            if case.expect == "permit":
                return f"is not permitted: {' '.join(reasons)}"
            if case.by is not None and f"Forbidden by policy {case.by}." not in reasons:
                return f"is not forbidden by {case.by}, but so: {' '.join(reasons)}"
            return None


def _ruling(case: Case, policies: Policies, catalogue: Catalogue) -> Ruling:
    target = catalogue.find(case.target) if case.target is not None else None
    identity, place = _identity(case), _place(case)
    match case.does:
        case Action() as action:
            if target is None or case.login is None:
                return NotPermitted((f"{action} needs a target and a login.",))
            access = Access(
                identity, target.scope, target, case.login, action, place or Place(NOWHERE, None, "nothing")
            )
            return policies.may_connect(access, _grant(case, action, target, case.login), case.at)
        case Power() as power:
            scope = Scope.parse(case.scope) if case.scope is not None else None
            return policies.may(power, identity, place, case.at, target=target, login=case.login, scope=scope)


def _identity(case: Case) -> Identity:
    who = case.who
    return Identity(
        id=_SOMEBODY,
        email=who.email,
        name=None,
        groups=frozenset(who.groups),
        kind=who.kind,
        authenticated_at=case.at - who.logged_in,
        amr=frozenset({*who.amr, *([MFA] if who.mfa else [])}),
        acr=who.acr,
    )


def _place(case: Case) -> Place | None:
    if case.address is None and case.country is None:
        return None
    return Place(case.address or NOWHERE, case.country, "the case")


def _grant(case: Case, action: Action, target: Target, login: str) -> Grant:
    return Grant(
        id="g-of-the-case",
        request_id="r-of-the-case",
        identity=_SOMEBODY,
        scope=target.scope,
        targets=frozenset({target.full_name}),
        logins=frozenset({login}),
        actions=frozenset({action}),
        starts_at=case.at,
        ends_at=case.at + timedelta(hours=1),
        approved_by=(),
        reason=case.name,
        crossing=case.crossing,
    )


def _shortfalls(expected: Expected, demands: Demands) -> Iterator[str]:
    """Each demand that is not what was expected; what the case does not name may be anything."""
    reviewers = None if expected.reviewers is None else frozenset(expected.reviewers)
    for name, wanted, actual in (
        ("approvals", expected.approvals, demands.approvals),
        ("reviewers", reviewers, demands.reviewers),
        ("max_duration", expected.max_duration, demands.max_duration),
        ("mfa", expected.mfa, demands.mfa),
    ):
        if wanted is not None and wanted != actual:
            yield f"demands {name} {_spell(actual)}, not {_spell(wanted)}"


def _spell(demand: object) -> str:
    match demand:
        case timedelta():
            return spell(demand)
        case frozenset():
            return ", ".join(sorted(demand)) or "none"
        case _:
            return "none" if demand is None else str(demand)
