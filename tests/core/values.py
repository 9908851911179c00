"""Values that tests of the core begin with; each test changes what it is about."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

from bastion.core.geofence import Fence, Place, parse_address
from bastion.core.grant import Grant, Request, Review, Verdict
from bastion.core.identity import Identity, IdentityId, IdentityKind
from bastion.core.policy import SSH_ACTIONS, Access, Action, Demands
from bastion.core.target import Scope, Target

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
TICK = timedelta(microseconds=1)
"""The smallest difference between two instants."""

ISSUER = "https://login.example.com"
STAGING = Scope("staging", "eu")
PRODUCTION = Scope("production", "eu")

EU = Fence(countries=frozenset({"DE", "FR"}), networks=(ip_network("10.20.0.0/16"),))
BERLIN = Place(parse_address("192.0.2.1"), "DE", "test")
MOON = Place(parse_address("192.0.2.2"), "US", "test")

WEB_1 = Target("web-1", STAGING, "10.20.1.5", 22, frozenset({"deploy", "admin"}))


def person(subject: str, *groups: str, email: str | None = None, issuer: str = ISSUER) -> Identity:
    """Somebody who has just logged in; by default without an e-mail address."""
    return Identity(IdentityId(issuer, subject), email, None, frozenset(groups), IdentityKind.PERSON, NOW)


CARLA = person("carla", "contractors", email="carla@example.com")


def grant(**changes: Any) -> Grant:
    """Carla may use web-1.staging.eu as deploy from nine to eleven."""
    given = Grant(
        id="g-1",
        request_id="r-1",
        identity=CARLA.id,
        scope=STAGING,
        targets=frozenset({WEB_1.full_name}),
        logins=frozenset({"deploy"}),
        actions=SSH_ACTIONS,
        starts_at=NOW,
        ends_at=NOW + timedelta(hours=2),
        approved_by=(IdentityId(ISSUER, "sam"),),
        reason="deploy the fix",
    )
    return replace(given, **changes)


def access(**changes: Any) -> Access:
    """Carla, in Berlin, wants a shell on web-1.staging.eu as deploy."""
    return replace(Access(CARLA, STAGING, WEB_1, "deploy", Action.SSH_SHELL, BERLIN), **changes)


def request(**changes: Any) -> Request:
    """Carla asks for web-1.staging.eu as deploy for two hours; two people of sre must approve."""
    asked = Request(
        id="r-1",
        asker=CARLA.id,
        beneficiary=CARLA.id,
        scope=STAGING,
        targets=frozenset({WEB_1.full_name}),
        logins=frozenset({"deploy"}),
        actions=SSH_ACTIONS,
        duration=timedelta(hours=2),
        reason="deploy the fix",
        asked_at=NOW,
        demands=Demands(approvals=2, reviewers=frozenset({"sre"})),
    )
    return replace(asked, **changes)


def review(reviewer: Identity, verdict: Verdict = Verdict.APPROVE, *, minutes: float = 5, of: str = "r-1") -> Review:
    """An answer so many minutes after the request was made."""
    return Review(of, reviewer, verdict, NOW + timedelta(minutes=minutes))
