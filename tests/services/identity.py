"""A provider that lies where it is told to, and a real console over it: store, coordination, fences, HTTP."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from bastion.access.apitokens import ApiTokens
from bastion.access.doorstep import Doorstep
from bastion.access.endings import Endings, Logouts
from bastion.access.handover import Handover
from bastion.access.keeping import Keeping
from bastion.access.login import Issuer, Login
from bastion.access.signals import Signals, Source
from bastion.access.throttle import Throttle
from bastion.access.tokens import Tokens, TokenSigner
from bastion.access.workload import SubjectRule, WorkloadRule, Workloads
from bastion.adapters.coordination.memory import MemoryCoordination
from bastion.adapters.geo import MaxMindLocator
from bastion.adapters.keyfile import load_or_create_key
from bastion.adapters.oidc import EventTransmitter, OidcProvider, WorkloadIssuer
from bastion.adapters.oidc.fetch import Fetcher
from bastion.adapters.oidc.provider import PATIENCE
from bastion.adapters.oidc.signature import unverified_issuer
from bastion.adapters.seal import FileSeal
from bastion.adapters.store import open_store
from bastion.console import exchange, logout, signals
from bastion.console.app import build, serve
from bastion.console.caller import Callers
from bastion.console.login import routes
from bastion.core.geofence import Fence
from bastion.core.identity import ClaimMapping
from bastion.core.target import Catalogue, Region, catalogue_of
from bastion.demo.provider import Account, Authorization, DemoProvider, Registration
from bastion.ports import Clock, Coordination, Store
from tests.services.ports import free_port
from tests.services.transmitter import BEARER, TestTransmitter

OUTSIDE = "127.0.0.66"
"""A loopback address that is in the United States; the fence holds Germany."""

NOWHERE = "127.0.0.99"
"""One that no data places."""

INSIDE = "127.0.0.1"

AUDIENCE = "https://bastion.example.com"
"""What workloads get their tokens for, and what the transmitter's stream calls the bastion."""

RULES = {"repo:acme/web:ref:refs/heads/*": "builders", "system:serviceaccount:ci:**": "runners", "exact": "exact"}
"""Of workloads: the pattern of their subjects, and the one group that they get."""

ALICE = Account("alice", "alice@corp.example", ("contractors",), "Alice")
BOB = Account("bob", "bob@corp.example", ("sre",), "Bob")


class HostileProvider(DemoProvider):
    """Tells the truth until one of its ``alter_…`` is set."""

    alter_metadata: Callable[[dict[str, Any]], dict[str, Any]] = staticmethod(lambda said: said)
    alter_keys: Callable[[dict[str, Any]], dict[str, Any]] = staticmethod(lambda said: said)
    alter_answer: Callable[[dict[str, str]], dict[str, str]] = staticmethod(lambda said: said)
    alter_claims: Callable[[dict[str, Any]], dict[str, Any]] = staticmethod(lambda said: said)
    alter_token: Callable[[str], str] = staticmethod(lambda said: said)
    sign: Callable[[dict[str, Any]], str] | None = None

    def metadata(self) -> dict[str, Any]:
        return self.alter_metadata(super().metadata())

    def key_set(self) -> dict[str, Any]:
        return self.alter_keys(super().key_set())

    def answer_parameters(self, code: str, state: str) -> dict[str, str]:
        return self.alter_answer(super().answer_parameters(code, state))

    def claims(self, authorization: Authorization, access_token: str) -> dict[str, Any]:
        return self.alter_claims(super().claims(authorization, access_token))

    def token(self, claims: dict[str, Any], *, key: RSAKey | ECKey | None = None, **header: Any) -> str:
        """Any claims under any header, signed with the provider's key or another; a None leaves its part out."""
        own = self._keys[-1]
        said = {"alg": self.algorithm, "kid": own.kid} | header
        kept = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(kept, claims, key or own, algorithms=[self.algorithm])

    def id_token(self, claims: dict[str, Any]) -> str:
        token = super().id_token(claims) if self.sign is None else self.sign(claims)
        return self.alter_token(token)


def fenced(countries: frozenset[str] = frozenset({"DE"})) -> Catalogue:
    """One region, reachable from ``countries``."""
    return catalogue_of([], [Region("eu", Fence(countries=countries))], [])


@dataclass(frozen=True, slots=True)
class Console:
    """Everything that a login touches."""

    url: str
    provider: HostileProvider
    store: Store
    coordination: Coordination
    login: Login
    tokens: Tokens
    callers: Callers
    transmitter: TestTransmitter


@asynccontextmanager
async def running_console(
    folder: Path,
    clock: Clock,
    *,
    catalogue: Catalogue | None = None,
    more: list[web.RouteDef] | None = None,
    issuers: int = 1,
) -> AsyncIterator[Console]:
    """A console on a free loopback port, stopped when the block is left."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    provider = HostileProvider(
        client=Registration("bastion", "s3cret:+ &", frozenset({f"{url}/login/callback", f"{url}/login/callback/2"})),
        accounts=[ALICE, BOB],
        clock=clock,
    )
    await provider.start()
    store = await open_store(f"sqlite:///{folder}/bastion.db")
    coordination = MemoryCoordination(clock=clock)
    networks = {
        ipaddress.ip_network("127.0.0.0/26"): "DE",
        ipaddress.ip_network(f"{OUTSIDE}/32"): "US",
    }
    throttle = Throttle(coordination=coordination, store=store, clock=clock, node="node-1")
    doorstep = Doorstep(
        locator=MaxMindLocator(None, networks, clock=clock),
        catalogue=catalogue or fenced(),
        throttle=throttle,
        store=store,
        clock=clock,
        node="node-1",
    )
    signer = TokenSigner(key=load_or_create_key(folder / "token"), issuer=url, clock=clock)
    tokens = Tokens(signer=signer, store=store, coordination=coordination, clock=clock)
    keeping = Keeping(seal=FileSeal(folder / "logins"))
    async with aiohttp.ClientSession() as session, TestTransmitter.running(AUDIENCE, clock) as transmitter:
        oidc = OidcProvider(
            issuer=provider.issuer,
            client_id="bastion",
            client_secret="s3cret:+ &",
            scopes=["openid", "email", "groups"],
            session=session,
            clock=clock,
        )
        login = Login(
            issuers=[Issuer(oidc, ClaimMapping())] * issuers,
            public_url=url,
            doorstep=doorstep,
            keeping=keeping,
            store=store,
            coordination=coordination,
            clock=clock,
            node="node-1",
        )
        endings = Endings(store=store, coordination=coordination, clock=clock, node="node-1")
        logouts = Logouts(
            issuers=[oidc], endings=endings, keeping=keeping, store=store, coordination=coordination, clock=clock
        )
        fetcher = Fetcher(session=session, patience=PATIENCE)
        sent = EventTransmitter(issuer=transmitter.issuer, audience=AUDIENCE, fetcher=fetcher, clock=clock)
        received = Signals(
            sources=[Source(sent, BEARER, frozenset({provider.issuer}))],
            endings=endings,
            store=store,
            coordination=coordination,
        )
        workloads = Workloads(
            issuers=[WorkloadIssuer(issuer=provider.issuer, fetcher=fetcher, clock=clock)],
            rules=[
                WorkloadRule(provider.issuer, AUDIENCE, SubjectRule(pattern), name, frozenset({name}))
                for pattern, name in RULES.items()
            ],
            doorstep=doorstep,
            tokens=tokens,
            store=store,
            clock=clock,
            node="node-1",
        )
        handover = Handover(doorstep=doorstep, tokens=tokens, store=store, coordination=coordination)
        api_tokens = ApiTokens(throttle=throttle, store=store, clock=clock, node="node-1")
        callers = Callers(tokens=tokens, api_tokens=api_tokens, doorstep=doorstep, public_url=url)
        ours = [
            *routes(login=login, handover=handover),
            *logout.routes(logouts=logouts, unverified_issuer=unverified_issuer),
            *signals.routes(signals=received),
            *exchange.routes(workloads=workloads, unverified_issuer=unverified_issuer, clock=clock),
        ]
        app = build(routes=[*ours, *(more or [])], callers=callers)
        runner = await serve(app, "127.0.0.1", port, None)
        try:
            yield Console(url, provider, store, coordination, login, tokens, callers, transmitter)
        finally:
            await runner.cleanup()
            await store.close()
            await coordination.close()
            await provider.stop()
