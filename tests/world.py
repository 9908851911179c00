"""A bastion's SSH side with real parts: real store, policies, recordings, sshd targets and OpenSSH's own client.

Two targets, staging and production, each an sshd that trusts its own scope's key only. Identities and grants are put
into the store as a login and a review would; everything after that goes over sockets.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict, cast

import asyncssh

from bastion.access.admission import Admission
from bastion.access.approval import Approval
from bastion.access.certification import Certification
from bastion.access.devicelogin import DeviceLogins
from bastion.access.doorstep import Doorstep
from bastion.access.hostkeys import HostKeys
from bastion.access.ids import new_id
from bastion.access.offering import Offering
from bastion.access.prospects import Prospects
from bastion.access.supervision import Supervision
from bastion.access.throttle import Throttle
from bastion.adapters.coordination.memory import MemoryCoordination
from bastion.adapters.geo import MaxMindLocator
from bastion.adapters.policy import CedarPolicies, CurrentPolicies
from bastion.adapters.recordings import FileRecordings
from bastion.adapters.signer import FileSigner, open_signer
from bastion.adapters.store import SqlStore, open_store
from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.certificate import target_principal
from bastion.core.geofence import Address, Fence, Place, parse_address
from bastion.core.grant import Grant, Request
from bastion.core.identity import Identity, IdentityId, IdentityKind
from bastion.core.limits import Limits
from bastion.core.policy import SSH_ACTIONS, Action, Demands
from bastion.core.session import Session
from bastion.core.target import Catalogue, Environment, Region, Scope, Target, catalogue_of
from bastion.demo.sshd import Sshd, running_sshd
from bastion.gateways.ssh.gateway import LOGIN_TIMEOUT, SshGateway
from bastion.gateways.ssh.lookup import Lookup, Resolve
from bastion.gateways.ssh.plainlogin import Invitation
from bastion.gateways.ssh.target import KEEPALIVE, Connector
from bastion.ports import Revocation
from tests.services.ports import free_port

STAGING, PRODUCTION = Scope("staging", "eu"), Scope("production", "eu")
WEB_STAGING, WEB_PRODUCTION = "web-1.staging.eu", "web-1.production.eu"
OUTSIDE = "127.0.0.66"
"""A loopback address that the networks put outside the fence."""

PATIENT = Limits(failures=10_000, strangers=10_000)
"""Tests of attacks share a bastion, and are wrong very often."""

POLICY = """
@id("connect-with-grant")
permit (principal == ?principal, action in Action::"connect", resource == ?resource);
@id("no-root")
forbid (principal, action in Action::"connect", resource) when { resource.login == "root" };
"""


class SkewedClock:
    """The machine's clock, set forward or back; it goes on while a test runs."""

    def __init__(self) -> None:
        self.skew = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) + self.skew


def person(subject: str, groups: frozenset[str] = frozenset({"contractors"})) -> Identity:
    return Identity(
        id=IdentityId("https://idp.example.com", subject),
        email=f"{subject}@example.com",
        name=subject.title(),
        groups=groups,
        kind=IdentityKind.PERSON,
        authenticated_at=datetime.now(UTC),
    )


@dataclass
class Finished:
    """What a client program left behind."""

    status: int
    out: bytes
    err: str


@dataclass
class World:
    """Everything a test of the SSH side touches."""

    folder: Path
    clock: SkewedClock
    store: SqlStore
    coordination: MemoryCoordination
    policies: CurrentPolicies
    recordings: FileRecordings
    signer: FileSigner
    connector: Connector
    offering: Offering
    certification: Certification
    supervision: Supervision
    gateway: SshGateway
    locator: MaxMindLocator
    catalogue: Catalogue
    doorstep: Doorstep
    logins: DeviceLogins
    prospects: Prospects
    public_url: str
    """Where a console may be put; nothing listens there until a test does."""
    port: int
    host_key: str
    staging: Sshd
    production: Sshd
    names: dict[str, list[str]]
    """What names mean to the bastion; each question takes the next answer, and the last stays."""
    _keys: dict[str, Path] = field(default_factory=dict)

    async def grant(
        self,
        identity: Identity,
        target: str = WEB_STAGING,
        *,
        logins: frozenset[str] = frozenset({"deploy"}),
        actions: frozenset[Action] = SSH_ACTIONS,
        lasts: timedelta = timedelta(hours=1),
        begins: timedelta = timedelta(0),
        crossing: bool = False,
        paths: frozenset[str] = frozenset(),
    ) -> Grant:
        """Put a live grant into the store, as an approved request leaves it."""
        now, scope = self.clock.now(), self.catalogue.targets[target].scope
        request = Request(
            id=new_id("q"), asker=identity.id, beneficiary=identity.id, scope=scope, targets=frozenset({target}),
            logins=logins, actions=actions, duration=lasts, reason="a test", asked_at=now, demands=Demands(),
            crossing=crossing, paths=paths,
        )  # fmt: skip
        grant = Grant(
            id=new_id("g"), request_id=request.id, identity=identity.id, scope=scope, targets=frozenset({target}),
            logins=logins, actions=actions, starts_at=now + begins, ends_at=now + begins + lasts,
            approved_by=(IdentityId("https://idp.example.com", "boss"),), reason="a test", crossing=crossing,
            paths=paths,
        )  # fmt: skip
        async with self.store.transaction() as transaction:
            await transaction.save_identity(identity, now)
            await transaction.add_request(request)
            await transaction.add_grant(grant)
        return grant

    async def revoke(self, grant: Grant) -> None:
        """End a grant as `bastion revoke` does."""
        async with self.store.transaction() as transaction:
            await transaction.revoke_grant(grant.id, self.clock.now())
        await self.coordination.revoke(Revocation(grant_id=grant.id))

    def change_target(self, name: str = WEB_STAGING, **changes: Any) -> Target:
        """Change what the configuration says of a target: its fields by name."""
        targets = cast(dict[str, Target], self.catalogue.targets)
        targets[name] = replace(targets[name], **changes)
        return targets[name]

    def put_staging_at(self, sshd: Sshd, **changes: Any) -> Target:
        """Let `WEB_STAGING` be another server than the one that this world began with."""
        return self.change_target(host=sshd.address, port=sshd.port, host_keys=(sshd.host_key,), **changes)

    def staging_trusts(self) -> TrustedBy:
        """What a server of staging is started with."""
        return _trusted_by(STAGING, self.signer)

    def key(self, name: str) -> Path:
        """A client's private key file."""
        if name not in self._keys:
            path = self.folder / f"id_{name}"
            key = asyncssh.generate_private_key("ssh-ed25519")
            path.touch(mode=0o600)
            path.write_bytes(key.export_private_key())
            Path(f"{path}.pub").write_bytes(key.export_public_key())
            self._keys[name] = path
        return self._keys[name]

    async def certify(self, identity: Identity, target: str = WEB_STAGING, address: str = "127.0.0.1") -> Path:
        """Fetch a certificate; the private key's path, with the certificate beside it as OpenSSH looks for it."""
        key = self.key(identity.id.subject)
        place = self.place(address)
        line, _ = await self.certification.issue(identity, place, Path(f"{key}.pub").read_text(), target)
        Path(f"{key}-cert.pub").write_text(line)
        return key

    def place(self, address: str) -> Place:
        return self.locator.locate(ipaddress.ip_address(address))

    def ssh_options(self, key: Path, bind: str = "127.0.0.1") -> list[str]:
        known_hosts = self.folder / "known_hosts"
        known_hosts.write_text(f"bastion {self.host_key}\n")
        config = self.folder / f"config-{key.name}-{bind}"
        common = (
            f"HostKeyAlias bastion\nUserKnownHostsFile {known_hosts}\nStrictHostKeyChecking yes\n"
            f"IdentitiesOnly yes\nIdentityFile {key}\nIdentityAgent none\nPreferredAuthentications publickey\n"
            f"BatchMode yes\nLogLevel INFO\n"
        )
        config.write_text(
            f"Host bastion\nHostName 127.0.0.1\nPort {self.port}\nBindAddress {bind}\nHost *.eu\nProxyJump bastion\n"
            f"Host *\n{common}"
        )
        return ["-F", str(config)]

    async def ssh(
        self, key: Path, *arguments: str, program: str = "ssh", stdin: bytes = b"", bind: str = "127.0.0.1",
        timeout: float = 30,
    ) -> Finished:  # fmt: skip
        """Run OpenSSH's own client."""
        process = await asyncio.create_subprocess_exec(
            program, *self.ssh_options(key, bind), *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8"},
        )  # fmt: skip
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate(stdin)
        except TimeoutError:
            process.kill()
            out, err = await process.communicate()
            raise AssertionError(f"{program} hung: {out!r} {err!r}") from None
        assert process.returncode is not None
        return Finished(process.returncode, out, err.decode(errors="replace"))

    @property
    def host_key_fingerprint(self) -> str:
        return asyncssh.import_public_key(self.host_key).get_fingerprint()

    async def events(self, kind: Kind | None = None) -> list[Event]:
        return list(await self.store.events(EventFilter(kind=kind.value if kind else None)))

    async def only_session(self) -> Session:
        sessions = await self.store.sessions()
        assert len(sessions) == 1, sessions
        return sessions[0]

    async def transcript(self, session: Session) -> bytes:
        return b"".join([line async for line in self.recordings.transcript(session)])


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something that I/O brings about.

    Raises:
        AssertionError: it did not come about.
    """
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            await asyncio.sleep(0.01)


def _target(scope: Scope, sshd: Sshd) -> Target:
    return Target("web-1", scope, sshd.address, sshd.port, frozenset({"deploy", "admin", "root"}), (sshd.host_key,))


@asynccontextmanager
async def world(
    folder: Path,
    *,
    policy: str = POLICY,
    login_timeout: float = LOGIN_TIMEOUT,
    keepalive: float = KEEPALIVE,
    qr_codes: bool = False,
    sshd: Sequence[str] = (),
) -> AsyncIterator[World]:
    """Start everything on free loopback ports; everything is ended with the block. ``sshd`` configures the targets."""
    clock = SkewedClock()
    async with AsyncExitStack() as stack:
        signer = open_signer(folder / "ca", [STAGING, PRODUCTION])
        sshds = {s: stack.enter_context(_sshd(folder / s.environment, s, signer, sshd)) for s in (STAGING, PRODUCTION)}
        fence = Fence(frozenset({"DE"}), ())
        catalogue = catalogue_of(
            [Environment("staging", "staging"), Environment("production", "production")],
            [Region("eu", fence)],
            [_target(scope, sshd) for scope, sshd in sshds.items()],
        )
        networks = {ipaddress.ip_network("127.0.0.1/32"): "DE", ipaddress.ip_network("127.0.0.2/32"): "DE",
                    ipaddress.ip_network(f"{OUTSIDE}/32"): "BR"}  # fmt: skip
        locator = MaxMindLocator(None, networks, clock=clock)
        store = await open_store(f"sqlite:///{folder}/bastion.db")
        stack.push_async_callback(store.close)
        coordination = MemoryCoordination(clock=clock, lock_path=None)
        stack.push_async_callback(coordination.close)
        policies = CurrentPolicies(CedarPolicies(policy, catalogue))
        recordings = FileRecordings(folder / "recordings", folder / "keys", ["eu"], clock=clock)
        admission = Admission(
            store=store, coordination=coordination, policies=policies, locator=locator, recordings=recordings,
            catalogue=catalogue, clock=clock, node="test-1",
        )  # fmt: skip
        throttle = Throttle(coordination=coordination, store=store, clock=clock, node="test-1", limits=PATIENT)
        certification = Certification(
            throttle=throttle, store=store, coordination=coordination, policies=policies, locator=locator,
            signer=signer, catalogue=catalogue, clock=clock, node="test-1", lifetime=timedelta(minutes=10),
        )  # fmt: skip
        prospects = Prospects(
            store=store, coordination=coordination, policies=policies, locator=locator, catalogue=catalogue, clock=clock
        )
        supervision = Supervision(store=store, coordination=coordination, admission=admission, clock=clock)
        host_key = asyncssh.generate_private_key("ssh-ed25519")
        doorstep = Doorstep(
            throttle=throttle, locator=locator, catalogue=catalogue, store=store, clock=clock, node="test-1"
        )
        logins = DeviceLogins(
            doorstep=doorstep, store=store, coordination=coordination, catalogue=catalogue, clock=clock, node="test-1"
        )
        public_url = f"http://127.0.0.1:{free_port()}"
        names: dict[str, list[str]] = {}
        lookup = Lookup(catalogue=catalogue, public_host="bastion.example.com", resolver=_resolver(names))
        host_keys = HostKeys(store=store, clock=clock, node="test-1")
        connector = Connector(
            certification=certification, signer=signer, host_keys=host_keys, keepalive=keepalive
        )  # fmt: skip
        approval = Approval(
            store=store, policies=policies, coordination=coordination, catalogue=catalogue, clock=clock, node="test-1"
        )
        offering = Offering(
            store=store, policies=policies, catalogue=catalogue, locator=locator, approval=approval, clock=clock
        )
        gateway = SshGateway(
            admission=admission, certification=certification, supervision=supervision, connector=connector,
            catalogue=catalogue, host_key=host_key, lookup=lookup, logins=logins, offering=offering,
            invitation=Invitation(public_url, qr_codes), login_timeout=login_timeout,
        )  # fmt: skip
        port = await gateway.start("127.0.0.1", 0)
        watching = asyncio.create_task(supervision.run())
        try:
            yield World(
                folder=folder, clock=clock, store=store, coordination=coordination, policies=policies,
                recordings=recordings, signer=signer, connector=connector, offering=offering,
                certification=certification,
                supervision=supervision,
                gateway=gateway, catalogue=catalogue, port=port,
                host_key=" ".join(host_key.export_public_key().decode().split()[:2]),
                staging=sshds[STAGING], production=sshds[PRODUCTION], locator=locator,
                doorstep=doorstep, logins=logins, public_url=public_url, prospects=prospects,
                names=names,
            )  # fmt: skip
        finally:
            await gateway.stop()
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


def _resolver(names: dict[str, list[str]]) -> Resolve:
    async def resolve(name: str) -> list[Address]:
        answers = names.get(name, [""])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [parse_address(each) for each in answer.split()]

    return resolve


def _sshd(folder: Path, scope: Scope, signer: FileSigner, extra: Sequence[str]) -> AbstractContextManager[Sshd]:
    """A target of ``scope``. It lets `admin` and `deploy` in, and not `root`, which the policy forbids too."""
    folder.mkdir()
    return running_sshd(folder, **_trusted_by(scope, signer), extra=extra)


class TrustedBy(TypedDict):
    """The arguments of a server by which it lets one scope in."""

    principals: dict[str, list[str]]
    user_authorities: list[str]


def _trusted_by(scope: Scope, signer: FileSigner) -> TrustedBy:
    authority = f"ssh-ed25519 {base64.b64encode(signer.target_authority(scope)).decode()}"
    principals = {login: [target_principal(scope, login)] for login in ("deploy", "admin")}
    return {"principals": principals, "user_authorities": [authority]}
