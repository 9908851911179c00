"""Recorded sessions of an office, those who may and may not look at them, and a real console in front."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bastion.access.apitokens import ApiTokens
from bastion.access.doorstep import Doorstep
from bastion.access.replay import Replay, Viewer
from bastion.access.throttle import Throttle
from bastion.access.tokens import Audience, Tokens, TokenSigner
from bastion.adapters.coordination.memory import MemoryCoordination
from bastion.adapters.geo import MaxMindLocator
from bastion.adapters.policy import CedarPolicies
from bastion.adapters.recordings import FileRecordings
from bastion.adapters.store import SqlStore, open_store
from bastion.console import records
from bastion.console.app import build, serve
from bastion.console.caller import Callers
from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.geofence import Place
from bastion.core.identity import Identity
from bastion.core.session import End, Session
from bastion.core.target import Scope
from tests.core.values import grant, request
from tests.fakes import FakeClock
from tests.office import AMERICA, BERLIN, CARLA, FAR, NODE, PEOPLE, PROD, PRODUCTION, STAGING, WEB, catalogue, person
from tests.recorded import keep, session
from tests.services.ports import free_port

POLICY = """
@id("auditors") permit (principal in Group::"auditors", action == Action::"replay", resource);
@id("staging-auditors") permit (principal in Group::"staging-auditors", action == Action::"replay", resource)
when { resource.environment == "staging" };
@id("operators") permit (principal in Group::"operators", action == Action::"administer", resource);
@id("connect-with-grant")
permit (principal == ?principal, action in Action::"connect", resource == ?resource);
"""

AUDITOR = person("aud", "auditors")
STAGING_AUDITOR = person("stig", "staging-auditors")
OPERATOR = person("olga", "operators")
CARL = person("carl", "contractors")

HERE, AMERICAN, NOWHERE = "127.0.0.1", "127.0.0.66", "127.0.0.99"
"""Loopback addresses inside the EU's fence, inside the United States', and nowhere."""

SHELL = session(id="s-shell", target=WEB, scope=STAGING, identity=CARLA.id, display=CARLA.display)
OTHERS = replace(SHELL, id="s-others", identity=CARL.id, display=CARL.display)
ON_PRODUCTION = replace(SHELL, id="s-production", target=PROD, scope=PRODUCTION)
FAR_AWAY = replace(SHELL, id="s-far", target=FAR, scope=AMERICA)
SESSIONS = (SHELL, OTHERS, ON_PRODUCTION, FAR_AWAY)


@dataclass(frozen=True, slots=True)
class Archive:
    """The parts, and short ways to what tests do with them."""

    folder: Path
    clock: FakeClock
    store: SqlStore
    recordings: FileRecordings
    replay: Replay
    tokens: Tokens
    url: str = ""

    async def began(self, of: Session) -> None:
        """The store knows the session."""
        async with self.store.transaction() as transaction:
            await transaction.add_session(of)

    async def ended(self, of: Session, end: End = End.CLIENT) -> Session:
        """The session is over, an hour after it began."""
        async with self.store.transaction() as transaction:
            return await transaction.end_session(of.id, end, of.started_at + timedelta(hours=1), 0)

    async def recorded(self, of: Session, *output: bytes, term: str = "xterm") -> None:
        """A session from beginning to end, one piece of output a second."""
        await self.began(of)
        recorder = self.recordings.start(of, columns=80, rows=24, term=term, at=of.started_at)
        for at, piece in enumerate(output):
            recorder.output(float(at), piece)
        recorder.finish(float(len(output)), End.CLIENT, 0)
        await self.ended(of)

    async def write(self, *scopes: Scope | None, kind: Kind = Kind.ACCESS_DENIED) -> None:
        """One event of each scope."""
        async with self.store.transaction() as transaction:
            for scope in scopes:
                await transaction.append(Event(kind, self.clock.now(), NODE, display=f"in {scope}", scope=scope))

    async def events(self, kind: str) -> list[Event]:
        return list(await self.store.events(EventFilter(kind=kind)))

    async def get(self, who: Identity | None, path: str, *, source: str = HERE) -> tuple[int, bytes]:
        """Status and body of one API request."""
        async with self.asking(who, path, source=source) as response:
            return response.status, await response.read()

    @asynccontextmanager
    async def asking(
        self, who: Identity | None, path: str, *, source: str = HERE
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {} if who is None else {"Authorization": f"Bearer {await self.token(who)}"}
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(source, 0))) as http,
            http.get(f"{self.url}/api/v1{path}", headers=headers) as response,
        ):
            yield response

    async def token(self, who: Identity) -> str:
        return (await self.tokens.issue(who, Audience.API)).text


def viewer(identity: Identity, place: Place = BERLIN) -> Viewer:
    """Somebody, in Berlin."""
    return Viewer(identity, place)


@asynccontextmanager
async def open_archive(folder: Path, clock: FakeClock) -> AsyncIterator[Archive]:
    """An archive without recordings yet, in which everybody has logged in once."""
    store = await open_store(f"sqlite:///{folder / 'archive.sqlite'}")
    coordination = MemoryCoordination(clock=clock)
    async with store.transaction() as transaction:
        for identity in (*PEOPLE, AUDITOR, STAGING_AUDITOR, OPERATOR, CARL):
            await transaction.save_identity(identity, clock.now())
        await transaction.add_request(request())
        await transaction.add_grant(grant())
    signer = TokenSigner(key=Ed25519PrivateKey.generate(), issuer="http://127.0.0.1", clock=clock)
    tokens = Tokens(signer=signer, store=store, coordination=coordination, clock=clock)
    with kept(folder, clock) as recordings:
        replay = Replay(
            store=store, policies=CedarPolicies(POLICY, catalogue()), catalogue=catalogue(),
            recordings=recordings, clock=clock, node=NODE,
        )  # fmt: skip
        try:
            yield Archive(folder, clock, store, recordings, replay, tokens)
        finally:
            await coordination.close()
            await store.close()


@contextmanager
def kept(folder: Path, clock: FakeClock) -> Iterator[FileRecordings]:
    """Recordings that are closed again."""
    recordings = keep(folder, clock)
    try:
        yield recordings
    finally:
        recordings.close()


@asynccontextmanager
async def serving(archive: Archive) -> AsyncIterator[Archive]:
    """The same, with its console listening."""
    port = free_port()
    networks = {ip_network("127.0.0.0/29"): "DE", ip_network(f"{AMERICAN}/32"): "US"}
    throttle = Throttle(
        coordination=MemoryCoordination(clock=archive.clock), store=archive.store, clock=archive.clock, node=NODE
    )
    doorstep = Doorstep(
        locator=MaxMindLocator(None, networks, clock=archive.clock), catalogue=catalogue(),
        throttle=throttle, store=archive.store, clock=archive.clock, node=NODE,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    api_tokens = ApiTokens(throttle=throttle, store=archive.store, clock=archive.clock, node=NODE)
    app = build(
        routes=records.routes(replay=archive.replay, clock=archive.clock),
        callers=Callers(tokens=archive.tokens, api_tokens=api_tokens, doorstep=doorstep, public_url=url),
    )
    runner = await serve(app, "127.0.0.1", port, None)
    try:
        yield replace(archive, url=url)
    finally:
        await runner.cleanup()
