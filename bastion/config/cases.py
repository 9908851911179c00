"""What the policies are expected to say: a table of cases beside them, which `rehearsal` runs.

A case says who (groups and how they logged in), does what, on what, from where and when. Everything left out is the
plainest there is: a person who just logged in, at noon of a Monday. Of a connection it is asked as if a grant covered
exactly that; without a grant nothing opens, whatever the policies say.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, StrictBool, StrictInt, ValidationError

from bastion.config import read_document, values
from bastion.config.problems import Problem, lines, of_validation
from bastion.config.settings import Country, Section, Text
from bastion.core.errors import ConfigError, NotFound, Refused
from bastion.core.geofence import parse_address
from bastion.core.grant import parse_duration
from bastion.core.identity import IdentityKind
from bastion.core.policy import Action, Power
from bastion.core.target import Catalogue, Scope

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
"""A Monday. Never the present: a case must say the same on every day."""

_LONG = timedelta(days=3650)


def _instant(raw: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(raw) if isinstance(raw, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("must be an instant with its offset, such as 2026-01-05T12:00:00Z")
    return moment


def _wish(raw: Any) -> Action | Power:
    known: dict[str, Action | Power] = {each.value: each for kind in (Action, Power) for each in kind}
    if not isinstance(raw, str) or raw not in known:
        raise ValueError(f"must be one of {', '.join(known)}")
    return known[raw]


def _span(raw: Any) -> timedelta:
    try:
        return parse_duration(values.text(raw))
    except Refused as refused:
        raise ValueError(refused.public) from None


def _address(raw: Any) -> Any:
    try:
        return parse_address(values.text(raw))
    except ValueError:
        raise ValueError("must be an IP address") from None


class Somebody(Section):
    groups: tuple[Text, ...] = ()
    email: Text | None = None
    kind: IdentityKind = IdentityKind.PERSON
    mfa: StrictBool = False
    amr: tuple[Text, ...] = ()
    acr: Text | None = None
    logged_in: Annotated[timedelta, PlainValidator(lambda raw: values.duration(raw, timedelta(), _LONG))] = timedelta()
    """How long ago."""


class Expected(Section):
    approvals: StrictInt | None = None
    reviewers: tuple[Text, ...] | None = None
    max_duration: Annotated[timedelta, PlainValidator(_span)] | None = None
    mfa: StrictBool | None = None


class Case(Section):
    """One row of the table."""

    name: Text
    who: Somebody = Somebody()
    does: Annotated[Action | Power, PlainValidator(_wish)]
    target: Text | None = None
    login: Text | None = None
    scope: Text | None = None
    """``staging/eu``; with neither target nor scope it is asked of everything."""
    country: Country | None = None
    address: Annotated[Any, PlainValidator(_address)] = None
    """Without address and country, a request comes from a chat and a connection from nowhere known."""
    at: Annotated[datetime, PlainValidator(_instant)] = NOON
    crossing: StrictBool = False
    expect: Literal["permit", "forbid"]
    """``forbid`` is any answer but a permit."""
    by: Text | None = None
    """The id of a policy that the answer must name."""
    demands: Expected = Field(default_factory=Expected)


class Table(Section):
    cases: tuple[Case, ...]


def read(path: Path, catalogue: Catalogue) -> list[tuple[int, Case]]:
    """The cases of a file, each with its line.

    Raises:
        ConfigError: one line for each mistake.
    """
    document = read_document(path)
    problems = [Problem(at, f"is there already, on line {first}", line) for at, line, first in document.duplicates]
    table = Table(cases=())
    try:
        table = Table.model_validate({"cases": document.plain()})
    except ValidationError as error:
        problems += [Problem(p.path[1:], p.sentence) for p in of_validation(error, Table)]
    for i, case in enumerate(table.cases):
        problems += [Problem((i, key), sentence) for key, sentence in _unusable(case, catalogue)]
    if problems:
        raise ConfigError(lines(problems, document, path.name))
    return [(document.line_of((i,)), case) for i, case in enumerate(table.cases)]


def _unusable(case: Case, catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    """What makes a case ask about something that is not there, which would be forbidden for the wrong reason."""
    target = None
    if case.target is not None:
        try:
            target = catalogue.find(case.target)
        except (NotFound, Refused) as refused:
            yield "target", refused.public
    if target is not None and case.login is not None and case.login not in target.logins:
        yield "login", f"{target.full_name} has no login {case.login}"
    if isinstance(case.does, Action) and (case.target is None or case.login is None):
        yield "does", f"{case.does} needs a target and a login"
    if case.scope is not None and (why := _no_scope(case.scope, catalogue)) is not None:
        yield "scope", why
    if case.scope is not None and case.target is not None:
        yield "scope", "cannot stand beside a target, which has its own"


def _no_scope(text: str, catalogue: Catalogue) -> str | None:
    try:
        scope = Scope.parse(text)
    except ValueError as error:
        return str(error)
    known = scope.environment in catalogue.environments and scope.region in catalogue.regions
    return None if known else f"there is no {scope}"
