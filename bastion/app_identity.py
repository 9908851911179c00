"""The composition of everything about identity: who is asked, how people and workloads come in, how that ends."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp
from aiohttp import web

from bastion.access.doorstep import Doorstep
from bastion.access.endings import Endings, Logouts
from bastion.access.freshness import Asked, Freshness
from bastion.access.handover import Handover
from bastion.access.keeping import Keeping
from bastion.access.login import Issuer, Login
from bastion.access.signals import Signals, Source
from bastion.access.tokens import Tokens
from bastion.access.workload import SubjectRule, WorkloadRule, Workloads
from bastion.adapters.oidc import EventTransmitter, OidcProvider, WorkloadIssuer
from bastion.adapters.oidc.fetch import Fetcher
from bastion.adapters.oidc.provider import PATIENCE
from bastion.adapters.oidc.signature import unverified_issuer
from bastion.adapters.seal import FileSeal
from bastion.config.settings import IssuerEntry, Settings
from bastion.console import exchange, login, logout, signals
from bastion.ports import Clock, Coordination, Store


@dataclass(frozen=True, slots=True)
class Identities:
    """Composed: the routes of the console, and what asks issuers again in the background."""

    routes: list[web.RouteDef]
    freshness: Freshness


def compose(
    settings: Settings,
    *,
    session: aiohttp.ClientSession,
    doorstep: Doorstep,
    tokens: Tokens,
    store: Store,
    coordination: Coordination,
    clock: Clock,
    node: str,
) -> Identities:
    """Everything about identity for one node.

    Raises:
        ConfigError: a secret or the key that seals refresh tokens cannot be read.
    """
    keeping = Keeping(seal=FileSeal(settings.data / "keys" / "logins"))
    endings = Endings(store=store, coordination=coordination, clock=clock, node=node)
    issuers = [_provider(entry, settings.public_url, session, clock) for entry in settings.issuers]
    mappings = [entry.claims.mapping() for entry in settings.issuers]
    logouts = Logouts(
        issuers=issuers, endings=endings, keeping=keeping, store=store, coordination=coordination, clock=clock
    )
    logins = Login(
        issuers=[Issuer(provider, mapping) for provider, mapping in zip(issuers, mappings, strict=True)],
        public_url=settings.public_url,
        doorstep=doorstep,
        keeping=keeping,
        store=store,
        coordination=coordination,
        clock=clock,
        node=node,
    )
    handover = Handover(doorstep=doorstep, tokens=tokens, store=store, coordination=coordination)
    fetcher = Fetcher(session=session, patience=PATIENCE)
    workloads = Workloads(
        issuers=[
            WorkloadIssuer(issuer=issuer, fetcher=fetcher, clock=clock)
            for issuer in sorted({entry.issuer for entry in settings.workloads})
        ],
        rules=_rules(settings),
        doorstep=doorstep,
        tokens=tokens,
        store=store,
        clock=clock,
        node=node,
    )
    received = Signals(
        sources=_sources(settings, fetcher, clock), endings=endings, store=store, coordination=coordination
    )
    asked = zip(issuers, mappings, settings.issuers, strict=True)
    freshness = Freshness(
        issuers=[Asked(provider, mapping, entry.check) for provider, mapping, entry in asked],
        endings=endings,
        keeping=keeping,
        store=store,
        coordination=coordination,
        clock=clock,
        node=node,
    )
    routes = [
        *login.routes(login=logins, handover=handover),
        *logout.routes(logouts=logouts, unverified_issuer=unverified_issuer),
        *exchange.routes(workloads=workloads, unverified_issuer=unverified_issuer, clock=clock),
        *signals.routes(signals=received),
    ]
    return Identities(routes, freshness)


def _provider(entry: IssuerEntry, public_url: str, session: aiohttp.ClientSession, clock: Clock) -> OidcProvider:
    after_logout = f"{public_url.rstrip('/')}/logout/done" if entry.returns_after_logout else None
    return OidcProvider(
        issuer=entry.issuer,
        client_id=entry.client_id,
        client_secret=entry.client_secret.reveal() if entry.client_secret else None,
        scopes=entry.scopes,
        session=session,
        clock=clock,
        after_logout=after_logout,
    )


def _rules(settings: Settings) -> list[WorkloadRule]:
    return [
        WorkloadRule(entry.issuer, entry.audience, SubjectRule(entry.subject), entry.name, frozenset(entry.groups))
        for entry in settings.workloads
    ]


def _sources(settings: Settings, fetcher: Fetcher, clock: Clock) -> list[Source]:
    """Without ``about`` a transmitter speaks about its own people, who have its issuer in their identity."""
    return [
        Source(
            EventTransmitter(issuer=entry.issuer, audience=entry.audience, fetcher=fetcher, clock=clock),
            entry.token.reveal(),
            frozenset(entry.about or (entry.issuer,)),
        )
        for entry in settings.signals
    ]
