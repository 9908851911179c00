"""The composition root: the only module that knows the gateways and the adapters."""

from __future__ import annotations

import asyncio
import base64
import functools
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import asyncssh
import structlog
import uvloop
from aiohttp import web

from bastion import __version__, app_chat, heap
from bastion.access.admission import Admission
from bastion.access.apitokens import ApiTokens
from bastion.access.approval import Approval
from bastion.access.askable import Choice
from bastion.access.certification import Certification
from bastion.access.clilogin import CommandLineLogins
from bastion.access.confirmation import Confirmation
from bastion.access.devicelogin import DeviceLogins
from bastion.access.doorstep import Doorstep
from bastion.access.freshness import Freshness
from bastion.access.hostkeys import HostKeys, Learned
from bastion.access.linking import Linking
from bastion.access.offering import Offering
from bastion.access.outbox import Outbox
from bastion.access.prospects import Prospects
from bastion.access.reach import Reach
from bastion.access.recovery import recover
from bastion.access.replay import Replay
from bastion.access.standing import Standing
from bastion.access.supervision import Supervision
from bastion.access.sweeping import Sweeping
from bastion.access.throttle import Throttle
from bastion.access.tokens import Tokens, TokenSigner
from bastion.adapters.clock import SteadyClock, SystemClock
from bastion.adapters.coordination import open_coordination
from bastion.adapters.geo import MaxMindLocator
from bastion.adapters.keyfile import load_or_create_key, openssh_private_key
from bastion.adapters.policy import CedarPolicies, CurrentPolicies
from bastion.adapters.recordings import FileRecordings
from bastion.adapters.signer import FileSigner, open_signer
from bastion.adapters.store import open_store
from bastion.app_identity import Identities, compose
from bastion.chatops.desk import Desk
from bastion.chatops.errands import Errands
from bastion.config import Settings, load, read_policy
from bastion.config.values import MAX_WORKERS
from bastion.console import answering, certificates, clients, clilogin, device, grants, links, openapi, records, review
from bastion.console import app as console
from bastion.console import tokens as console_tokens
from bastion.console.caller import Callers
from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.certificate import target_principal
from bastion.core.errors import ConfigError, Unavailable
from bastion.core.session import End
from bastion.core.target import Catalogue, Scope, Target
from bastion.gateways.ssh.gateway import SshGateway
from bastion.gateways.ssh.lookup import Lookup
from bastion.gateways.ssh.plainlogin import Invitation
from bastion.gateways.ssh.target import Connector
from bastion.ports import Clock, Coordination, Locator, Policies, Store

TOO_FAR = timedelta(seconds=2)
"""By which clocks of nodes may differ without a word; more is somebody's mistake."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """A running bastion, and where it listens."""

    settings: Settings
    supervision: Supervision
    freshness: Freshness
    ssh_port: int
    http_port: int
    policies: CurrentPolicies
    gateway: SshGateway
    write: Callable[..., Awaitable[None]]
    """Write an event of the node's own: its kind, reasons, and details by name."""

    async def drain(self) -> None:
        """Let nobody in any more, and return when the last session has ended or its time is up."""
        if not self.settings.drain:
            return
        until = SystemClock().now() + self.settings.drain
        self.gateway.close_the_door(
            outside="The bastion is about to restart. Connect again in a moment.",
            inside=f"The bastion restarts at {until:%H:%M} UTC. What is not done by then will be cut off.",
        )
        log.info("waiting for sessions to end", live=self.supervision.live, until=until.isoformat())
        with suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain.total_seconds()):
                await self.supervision.until_none_is_live()

    async def reload(self, path: Path) -> None:
        """Read the configuration again and take over its policies, or keep the old ones if anything is wrong.

        What else changed needs a restart, which the log says. Sessions that the new policies forbid are cut, the others
        are not touched.
        """
        try:
            settings = load(path).model_copy(update={"node": self.settings.node})
            policies = _policies(settings, settings.catalogue())
        except ConfigError as error:
            log.error("configuration refused, the old one stays", problems=error.problems)
            await self.write(Kind.CONFIG_REFUSED, tuple(error.problems))
            return
        if settings != self.settings:
            log.warning("only policies are reloaded; restart for the other changes")
            policies = _policies(settings, self.settings.catalogue())
        self.policies.replace(policies)
        await self.write(Kind.CONFIG_LOADED)
        await self.supervision.review_all()


@dataclass(frozen=True, slots=True)
class _Parts:
    """What nearly everything is made from; the names are those of constructor arguments."""

    store: Store
    coordination: Coordination
    policies: Policies
    locator: Locator
    catalogue: Catalogue
    clock: Clock
    node: str

    def __call__(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}


@asynccontextmanager
async def running(settings: Settings, *, clock: Clock, worker: int = 1) -> AsyncIterator[Node]:
    """A node that listens while the block runs, and has ended every session when it is left.

    Of several workers the first does what is done once; what others do beside it is held apart by leases.

    Raises:
        ConfigError: a part cannot be started; nothing listens.
    """
    catalogue = settings.catalogue()
    policies = CurrentPolicies(_policies(settings, catalogue))
    clock = steady = SteadyClock(clock)
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        coordination = await open_coordination(
            settings.coordination.url.reveal(), clock=clock, node=settings.node, data=settings.data
        )
        stack.push_async_callback(coordination.close)
        store = await open_store(_store_url(settings))
        stack.push_async_callback(store.close)
        await _catch_up(steady, store)
        locator = MaxMindLocator(settings.geo.database, settings.geo.networks, clock=clock)
        parts = _Parts(store, coordination, policies, locator, catalogue, clock, settings.node)
        recordings = FileRecordings(
            settings.data / "recordings", settings.data / "keys", catalogue.regions, clock=clock
        )
        for name in _left_behind(settings, worker):
            await recover(store=store, recordings=recordings, node=name, clock=clock)
        everywhere = parts("store", "coordination", "policies", "locator", "catalogue", "clock", "node")
        signer = _signer(settings, catalogue)
        admission = Admission(recordings=recordings, **everywhere)
        throttle = Throttle(limits=settings.throttle.limits(), **parts("store", "coordination", "clock", "node"))
        certification = Certification(
            signer=signer, throttle=throttle, lifetime=settings.certificates.lifetime, **everywhere
        )
        supervision = Supervision(admission=admission, **parts("store", "coordination", "clock"))
        doorstep = Doorstep(throttle=throttle, **parts("locator", "catalogue", "store", "clock", "node"))
        gateway = SshGateway(
            admission=admission,
            certification=certification,
            supervision=supervision,
            logins=DeviceLogins(doorstep=doorstep, **parts("store", "coordination", "catalogue", "clock", "node")),
            invitation=Invitation(settings.public_url, settings.qr_codes),
            offering=_offering(parts),
            connector=Connector(
                certification=certification, signer=signer, host_keys=HostKeys(**parts("store", "clock", "node"))
            ),
            catalogue=catalogue,
            host_key=_host_key(settings),
            lookup=Lookup(
                catalogue=catalogue,
                public_host=str(urlsplit(settings.public_url).hostname),
                ports=(settings.listen.ssh.port, settings.listen.http.port),
            ),
            balancers=settings.proxy_protocol,
            max_channels=settings.ssh_channels,
        )
        session = await stack.enter_async_context(aiohttp.ClientSession())
        tokens = _tokens(settings, parts)
        identities = compose(
            settings,
            session=session,
            doorstep=doorstep,
            tokens=tokens,
            **parts("store", "coordination", "clock", "node"),
        )
        errands = Errands()
        stack.push_async_callback(errands.close)
        chats = app_chat.compose(
            settings,
            desk=_desk(settings, parts),
            errands=errands,
            session=session,
            **parts("store", "coordination", "locator", "clock", "node"),
        )
        routes = _routes(
            settings,
            parts,
            certification=certification,
            recordings=recordings,
            identities=identities,
            doorstep=doorstep,
            tokens=tokens,
            chats=chats,
        )
        try:
            at = settings.listen.http
            shared = settings.workers > 1
            runner = await console.serve(
                routes, at.host, at.port, _tls(settings), balancers=settings.proxy_protocol, shared=shared
            )
            stack.push_async_callback(runner.cleanup)
            ssh_port = await gateway.start(settings.listen.ssh.host, settings.listen.ssh.port, shared=shared)
            stack.push_async_callback(gateway.stop)
        except OSError as error:
            raise ConfigError([f"cannot listen: {error.strerror or error}"]) from None
        write = functools.partial(_write, parts)
        await write(Kind.NODE_STARTED, version=__version__, targets=len(catalogue.targets))
        stack.push_async_callback(write, Kind.NODE_STOPPED)
        outbox = Outbox(ways=chats.notices, **parts("store", "coordination", "clock", "node"))
        sweeping = Sweeping(unused_after=settings.notices.unused_after, **parts("store", "clock", "node"))
        stack.push_async_callback(_ended, asyncio.create_task(outbox.run()))
        stack.push_async_callback(_ended, asyncio.create_task(_keep_pace(steady, store)))
        for work in [sweeping.run, *chats.background] if worker == 1 else []:
            stack.push_async_callback(_ended, asyncio.create_task(work()))
        yield Node(
            settings, supervision, identities.freshness, ssh_port, runner.addresses[0][1], policies, gateway, write
        )


def _left_behind(settings: Settings, worker: int) -> list[str]:
    """Whose open sessions are over: this worker's own, and to the first one those of workers that there are no more."""
    gone = range(settings.workers + 1, MAX_WORKERS + 1) if worker == 1 else ()
    return [settings.node, *(settings.of_worker(number).node for number in gone)]


def _routes(
    settings: Settings,
    parts: _Parts,
    *,
    certification: Certification,
    recordings: FileRecordings,
    identities: Identities,
    doorstep: Doorstep,
    tokens: Tokens,
    chats: app_chat.Chats,
) -> web.Application:
    """The console: login, the JSON API, and the chats that are configured."""
    approval = Approval(**parts("store", "policies", "coordination", "catalogue", "clock", "node"))
    unused_after, issuers = settings.notices.unused_after, [entry.issuer for entry in settings.issuers]
    standing = Standing(unused_after=unused_after, **parts("store", "policies", "catalogue", "clock"))
    linking = Linking(**parts("store", "coordination", "clock", "node"))
    prospects = Prospects(**parts("store", "coordination", "policies", "locator", "catalogue", "clock"))
    confirmation = Confirmation(
        prospects=prospects,
        throttle=doorstep.throttle,
        **parts("store", "coordination", "catalogue", "clock", "node"),
    )
    api_tokens = ApiTokens(throttle=doorstep.throttle, **parts("store", "clock", "node"))
    waiting = DeviceLogins(doorstep=doorstep, **parts("store", "coordination", "catalogue", "clock", "node"))
    command_lines = CommandLineLogins(logins=waiting, doorstep=doorstep, tokens=tokens, **parts("coordination"))
    replay = Replay(recordings=recordings, **parts("store", "policies", "catalogue", "clock", "node"))
    routes = [
        *identities.routes,
        *certificates.routes(certification=certification, **_reached_by_ssh(settings)),
        *clients.routes(
            reach=Reach(standing=standing, **parts("policies", "catalogue", "clock")),
            **_reached_by_ssh(settings),
        ),
        *grants.routes(approval=approval, standing=standing, clock=parts.clock),
        *review.routes(standing=standing, approval=approval, replay=replay, clock=parts.clock),
        *answering.routes(standing=standing, approval=approval, issuers=issuers),
        *links.routes(linking=linking),
        *device.routes(confirmation=confirmation, issuers=issuers),
        *clilogin.routes(logins=command_lines, public_url=settings.public_url),
        *records.routes(replay=replay, clock=parts.clock),
        *console_tokens.routes(tokens=api_tokens, clock=parts.clock),
        *openapi.routes(),
        *chats.routes,
    ]
    callers = Callers(tokens=tokens, api_tokens=api_tokens, doorstep=doorstep, public_url=settings.public_url)
    return console.build(routes=routes, callers=callers)


def _offering(parts: _Parts) -> Offering:
    """What the menu of the SSH gateway is made from."""
    approval = Approval(**parts("store", "policies", "coordination", "catalogue", "clock", "node"))
    return Offering(approval=approval, **parts("store", "policies", "catalogue", "locator", "clock"))


def _desk(settings: Settings, parts: _Parts) -> Desk:
    """Where every chat brings what people want."""
    return Desk(
        approval=Approval(**parts("store", "policies", "coordination", "catalogue", "clock", "node")),
        standing=Standing(**parts("store", "policies", "catalogue", "clock")),
        linking=Linking(login_within=settings.chat.login_within, **parts("store", "coordination", "clock", "node")),
        choice=Choice(**parts("policies", "catalogue", "clock")),
        public_url=settings.public_url,
        **parts("store", "clock", "node"),
    )


def _policies(settings: Settings, catalogue: Catalogue) -> CedarPolicies:
    return CedarPolicies(read_policy(settings), catalogue, source=settings.policy.name)


def _tokens(settings: Settings, parts: _Parts) -> Tokens:
    key = load_or_create_key(settings.data / "keys" / "token")
    signer = TokenSigner(key=key, issuer=settings.public_url, clock=parts.clock)
    return Tokens(signer=signer, **parts("store", "coordination", "clock"))


def _store_url(settings: Settings) -> str:
    url: str = settings.store.url.reveal()
    return f"sqlite:///{settings.data / 'bastion.db'}" if url == "sqlite" else url


def _signer(settings: Settings, catalogue: Catalogue) -> FileSigner:
    return open_signer(settings.data / "keys" / "ca", catalogue.scopes())


def _host_key(settings: Settings) -> asyncssh.SSHKey:
    """The bastion's own SSH host key, made on first start."""
    return asyncssh.import_private_key(openssh_private_key(load_or_create_key(settings.data / "keys" / "ssh_host")))


def _reached_by_ssh(settings: Settings) -> dict[str, str]:
    """What a client needs to find the bastion's SSH side and know it again."""
    host = urlsplit(settings.public_url).hostname
    line = " ".join(_host_key(settings).export_public_key().decode().split()[:2])
    return {"ssh_address": f"{host}:{settings.listen.ssh.port}", "ssh_host_key": line}


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.NamedTemporaryFile("w", dir=settings.data) as key:  # ssl reads keys from files only; this one is 0600
        key.write(settings.tls.key.reveal())
        key.flush()
        try:
            context.load_cert_chain(settings.tls.certificate, key.name)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError([f"tls: the certificate and key do not work together: {error}"]) from None
    return context


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _catch_up(clock: SteadyClock, store: Store) -> None:
    """It is no earlier than the newest event: see docs/adr/0013."""
    for event in await store.events(EventFilter(limit=1)):
        clock.not_before(event.at)


async def _keep_pace(clock: SteadyClock, store: Store) -> None:
    """Follow a node whose clock is ahead, and say so when this machine's is behind."""
    said = float("-inf")
    while True:
        try:
            await _catch_up(clock, store)
        except Unavailable as error:
            log.warning("the newest event cannot be read", error=str(error))
        if clock.ahead > TOO_FAR and time.monotonic() - said > 60:
            said = time.monotonic()
            log.error("this machine's clock was set back, or is behind the audit log", by=str(clock.ahead))
        await asyncio.sleep(1)


async def _write(parts: _Parts, kind: Kind, reasons: tuple[str, ...] = (), **details: str | int) -> None:
    event = Event(kind=kind, at=parts.clock.now(), node=parts.node, reasons=reasons, details=details)
    async with parts.store.transaction() as transaction:
        await transaction.append(event)


def run(path: Path, worker: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT, which wait for live sessions once; SIGHUP reloads.

    A ``worker`` also stops when its standard input ends: then the process is gone that would start it again.

    Raises ConfigError when nothing could be started.
    """
    settings = load(path)
    heap.keep()
    uvloop.run(_serve(path, settings, worker))


async def _serve(path: Path, settings: Settings, worker: int | None) -> None:
    told: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    if worker is not None:
        settings = settings.of_worker(worker)
        loop.add_reader(sys.stdin, _orphaned, loop, told)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.put_nowait, None)
    async with running(settings, clock=SystemClock(), worker=worker or 1) as node:
        log.info("bastion is up", node=settings.node, ssh=node.ssh_port, http=node.http_port)
        watching = asyncio.create_task(watch(node))
        stopping = asyncio.create_task(_until_stopped(node, told))
        reloading: set[asyncio.Task[None]] = set()

        def reload() -> None:
            task = asyncio.create_task(node.reload(path))
            reloading.add(task)
            task.add_done_callback(reloading.discard)

        loop.add_signal_handler(signal.SIGHUP, reload)
        await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if watching.done():
            node.supervision.cut_all(End.SHUTDOWN)
            watching.result()
        watching.cancel()


def _orphaned(loop: asyncio.AbstractEventLoop, told: asyncio.Queue[None]) -> None:
    """Standard input, to which nobody writes, has ended."""
    loop.remove_reader(sys.stdin)
    told.put_nowait(None)


async def _until_stopped(node: Node, told: asyncio.Queue[None]) -> None:
    """The first signal lets sessions end by themselves for a while, a second one does not."""
    await told.get()
    draining, again = asyncio.create_task(node.drain()), asyncio.create_task(told.get())
    await asyncio.wait({draining, again}, return_when=asyncio.FIRST_COMPLETED)
    draining.cancel()
    again.cancel()


async def watch(node: Node) -> None:
    """Supervise sessions and ask issuers about logins, until one of the two fails: the other would give false peace."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(node.supervision.run())
        tasks.create_task(node.freshness.run())


@dataclass(frozen=True, slots=True)
class Trust:
    """What targets must trust, and what clients know the bastion by."""

    scopes: dict[Scope, tuple[str, dict[str, str]]]
    """For each scope the line for TrustedUserCAKeys, and for each login the line of its principals file."""
    ssh_address: str
    ssh_host_key: str

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "scopes": {
                str(scope): {"trusted_user_ca_key": authority, "principals": principals}
                for scope, (authority, principals) in self.scopes.items()
            },
            "ssh_address": self.ssh_address,
            "ssh_host_key": self.ssh_host_key,
        }

    def as_text(self) -> str:
        """For an operator: files to put on the targets, one scope after the other."""
        blocks = [_TARGET_TEXT.format(scope=s, authority=a, principals=_listed(p)) for s, (a, p) in self.scopes.items()]
        host, _, port = self.ssh_address.rpartition(":")
        return "\n".join([*blocks, _CLIENT_TEXT.format(host=host, port=port, key=self.ssh_host_key)])


async def announced_keys(path: Path) -> dict[Target, list[Learned]]:
    """Every target, and the host keys that it announced and that the configuration does not have yet.

    Raises:
        ConfigError: the configuration is wrong.
        Unavailable: the store cannot be read.
    """
    settings = load(path)
    store = await open_store(_store_url(settings))
    try:
        host_keys = HostKeys(store=store, clock=SystemClock(), node=settings.node)
        return {target: await host_keys.learned(target) for target in settings.catalogue().targets.values()}
    finally:
        await store.close()


_TARGET_TEXT = """\
# On every target of {scope}, and on no other host:
#   /etc/ssh/bastion_ca.pub
{authority}
#   /etc/ssh/sshd_config.d/bastion.conf
TrustedUserCAKeys /etc/ssh/bastion_ca.pub
AuthorizedPrincipalsFile /etc/ssh/bastion_principals/%u
# Forwards need AllowTcpForwarding, AllowStreamLocalForwarding and AllowAgentForwarding, sshd's own defaults: each
# certificate says what its connection may do. With StreamLocalBindUnlink a socket of `ssh -R` takes the place of what
# is there; without it, one that a killed bastion left behind has to be removed by hand.
{principals}
"""

_CLIENT_TEXT = """\
# In a client's known_hosts, if it does not use `bastion cert`:
[{host}]:{port} {key}"""


def _listed(principals: dict[str, str]) -> str:
    return "\n".join(f"#   /etc/ssh/bastion_principals/{login}\n{line}" for login, line in sorted(principals.items()))


def trust(path: Path, only: str | None) -> Trust:
    """Read the configuration and the public halves of its keys, making keys that do not exist yet.

    Raises:
        ConfigError: the configuration is wrong, or has no such scope.
    """
    settings = load(path)
    catalogue = settings.catalogue()
    wanted = [scope for scope in catalogue.scopes() if only in (None, str(scope))]
    if not wanted:
        raise ConfigError([f"{only} is not a scope with targets; there are: {', '.join(map(str, catalogue.scopes()))}"])
    signer = _signer(settings, catalogue)
    scopes = {}
    for scope in wanted:
        logins = {login for t in catalogue.targets.values() if t.scope == scope for login in t.logins}
        authority = f"ssh-ed25519 {base64.b64encode(signer.target_authority(scope)).decode()}"
        scopes[scope] = (authority, {login: target_principal(scope, login) for login in logins})
    return Trust(scopes, **_reached_by_ssh(settings))
