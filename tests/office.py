"""An office with a real store, real policies and real coordination: who asks, who answers, and what they may."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from bastion.access.approval import Approval
from bastion.access.askable import Choice
from bastion.access.confirmation import Confirmation
from bastion.access.endings import Endings
from bastion.access.linking import Linking
from bastion.access.prospects import Prospects
from bastion.access.standing import Standing
from bastion.access.throttle import DEFAULT, Throttle
from bastion.access.wish import Wish
from bastion.adapters.coordination.memory import MemoryCoordination
from bastion.adapters.geo import MaxMindLocator
from bastion.adapters.policy import CedarPolicies
from bastion.adapters.store import SqlStore, open_store
from bastion.core.audit import Event, EventFilter
from bastion.core.ending import Cause
from bastion.core.geofence import Fence, Place, parse_address
from bastion.core.grant import Grant, Request
from bastion.core.identity import Identity, IdentityId, IdentityKind
from bastion.core.limits import Limits
from bastion.core.policy import Action
from bastion.core.target import Catalogue, Environment, Region, Scope, Target, catalogue_of
from bastion.ports import ChatLink
from tests.fakes import FakeClock

NODE = "bastion-1"
ISSUER = "https://login.example.com"
OTHER_ISSUER = "https://id.example.org"
WORKSPACE = "T012AB3CD"

STAGING, PRODUCTION, AMERICA = Scope("staging", "eu"), Scope("production", "eu"), Scope("staging", "us")
WEB, DB, PROD, FAR = "web-1.staging.eu", "db-1.staging.eu", "web-1.production.eu", "web-9.staging.us"

BERLIN = Place(parse_address("192.0.2.1"), "DE", "test")
BOSTON = Place(parse_address("192.0.2.2"), "US", "test")
NOWHERE = Place(parse_address("192.0.2.3"), None, "test")

POLICY = """
@id("staging") @approvals("1") @reviewers("sre") @max_duration("8h")
permit (principal in Group::"contractors", action == Action::"request", resource)
when { resource.tier == "nonproduction" };

@id("production") @approvals("2") @reviewers("sre") @max_duration("2h")
permit (principal in Group::"contractors", action == Action::"request", resource in Environment::"production");

@id("own-servers") @approvals("1")
permit (principal in Group::"sre", action == Action::"request", resource);

@id("sre-review") permit (principal in Group::"sre", action == Action::"review", resource);
@id("crossings") permit (principal in Group::"contractors", action == Action::"cross", resource);
@id("leads") permit (principal in Group::"leads", action == Action::"administer", resource);
@id("connect-with-grant")
permit (principal == ?principal, action in Action::"connect", resource == ?resource);
"""


def person(subject: str, *groups: str, email: str | None = None, issuer: str = ISSUER) -> Identity:
    """Somebody who has just logged in; their e-mail is ``subject@example.com`` unless it is said otherwise."""
    address = f"{subject}@example.com" if email is None else email
    now = FakeClock().now()
    return Identity(IdentityId(issuer, subject), address or None, None, frozenset(groups), IdentityKind.PERSON, now)


CARLA = person("carla", "contractors")
SAM, SIA, LEA = person("sam", "sre"), person("sia", "sre"), person("lea", "sre", "leads")
OTTO = person("otto")
ROBOT = replace(person("robot", "sre", email=""), kind=IdentityKind.WORKLOAD)
PEOPLE = (CARLA, SAM, SIA, LEA, OTTO, ROBOT)


def catalogue() -> Catalogue:
    """Two servers on staging and one on production in the EU; one on staging in the US."""

    def target(name: str, scope: Scope) -> Target:
        return Target(name, scope, "10.20.1.5", 22, frozenset({"deploy", "admin"}), ("ssh-ed25519 AAAA",))

    return catalogue_of(
        [Environment("staging", "nonproduction"), Environment("production", "production")],
        [
            Region("eu", Fence(frozenset({"DE"}), (ip_network("127.0.0.0/29"),))),
            Region("us", Fence(frozenset({"US"}))),
        ],
        [target("web-1", STAGING), target("db-1", STAGING), target("web-1", PRODUCTION), target("web-9", AMERICA)],
    )


def wish(*names: str, **changes: Any) -> Wish:
    """web-1 of staging, as deploy, for two hours, unless a test says otherwise."""
    base = Wish(names or (WEB,), ("deploy",), timedelta(hours=2), "deploy the fix")
    return replace(base, **changes)


NARROW = ({WEB}, {"admin"}, {Action.SSH_SFTP_READ}, {"/var/log/"}, ip_network("192.0.2.0/24"))
"""A request that is narrower than a target in every way there is."""


def narrowed(subject: Request | Grant) -> tuple[object, ...]:
    """What narrows it, to be compared with `NARROW`."""
    return (subject.targets, subject.logins, subject.actions, subject.paths, subject.network)


@dataclass(frozen=True, slots=True)
class Office:
    """The parts, and short ways to what tests look at."""

    store: SqlStore
    coordination: MemoryCoordination
    clock: FakeClock
    approval: Approval
    standing: Standing
    choice: Choice
    linking: Linking
    limits: Limits

    def under(self, policy: str) -> Approval:
        """The same office after the policies were changed."""
        return Approval(
            store=self.store,
            policies=CedarPolicies(policy, catalogue()),
            coordination=self.coordination,
            catalogue=catalogue(),
            clock=self.clock,
            node=NODE,
        )

    def prospects(self, policy: str = POLICY) -> Prospects:
        """What logins are good for from loopback addresses, which are in Germany."""
        return Prospects(
            store=self.store,
            coordination=self.coordination,
            policies=CedarPolicies(policy, catalogue()),
            locator=MaxMindLocator(None, {ip_network("127.0.0.0/29"): "DE"}, clock=self.clock),
            catalogue=catalogue(),
            clock=self.clock,
        )

    @property
    def throttle(self) -> Throttle:
        """What counts wrong attempts."""
        return Throttle(
            coordination=self.coordination, store=self.store, clock=self.clock, node=NODE, limits=self.limits
        )

    def confirmation(self, policy: str = POLICY) -> Confirmation:
        """The page on which people answer for terminals."""
        return Confirmation(
            prospects=self.prospects(policy),
            throttle=self.throttle,
            store=self.store,
            coordination=self.coordination,
            catalogue=catalogue(),
            clock=self.clock,
            node=NODE,
        )

    async def know(self, *people: Identity) -> None:
        """They have logged in, as they are now."""
        async with self.store.transaction() as tx:
            for identity in people:
                await tx.save_identity(identity, self.clock.now())

    async def end(self, identity: Identity, cause: Cause) -> None:
        """Nothing counts any more that they have proven."""
        parts = {"store": self.store, "coordination": self.coordination, "clock": self.clock, "node": NODE}
        await Endings(**parts).end(identity.id, cause)  # type: ignore[arg-type]  # each has its own type

    async def link(self, user: str, identity: Identity) -> None:
        """The Slack account is theirs."""
        async with self.store.transaction() as tx:
            await tx.link_chat(ChatLink("slack", WORKSPACE, user, identity.id, self.clock.now()))

    async def events(self, kind: str | None = None) -> Sequence[Event]:
        return await self.store.events(EventFilter(kind=kind))

    async def kinds(self) -> list[str]:
        return [event.kind.value for event in await self.events()]


@asynccontextmanager
async def open_office(
    folder: Path, clock: FakeClock, policy: str = POLICY, *, limits: Limits = DEFAULT
) -> AsyncIterator[Office]:
    """An office in which everybody has logged in once."""
    store = await open_store(f"sqlite:///{folder / 'office.sqlite'}")
    coordination = MemoryCoordination(clock=clock)
    policies = CedarPolicies(policy, catalogue())
    office = Office(
        store=store,
        coordination=coordination,
        clock=clock,
        approval=Approval(
            store=store,
            policies=policies,
            coordination=coordination,
            catalogue=catalogue(),
            clock=clock,
            node=NODE,
        ),
        standing=Standing(store=store, policies=policies, catalogue=catalogue(), clock=clock),
        choice=Choice(policies=policies, catalogue=catalogue(), clock=clock),
        linking=Linking(store=store, coordination=coordination, clock=clock, node=NODE),
        limits=limits,
    )
    try:
        await office.know(*PEOPLE)
        yield office
    finally:
        await coordination.close()
        await store.close()
