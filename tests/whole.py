"""A whole bastion as `bastion serve` composes it, one target, and the certified provider: nothing is a stand-in."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncssh

from bastion.access.ids import new_id
from bastion.access.pkce import challenge_of, new_secret
from bastion.adapters.signer import open_signer
from bastion.adapters.store import SqlStore, open_store
from bastion.app import Node, running, trust
from bastion.app import watch as watch_all
from bastion.config import load
from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.certificate import target_principal
from bastion.core.grant import Grant, Request
from bastion.core.identity import IdentityId
from bastion.core.policy import SSH_ACTIONS, Demands
from bastion.core.target import Scope
from bastion.demo.sshd import running_sshd
from tests.services.oidc_provider import AUDIENCE, CI, SECRET, RealBrowser, RealProvider, client, running_provider
from tests.services.ports import free_port
from tests.services.transmitter import BEARER, TestTransmitter
from tests.world import SkewedClock

OTHER_CI = {**CI, "client_id": "another-ci"}
"""A workload that no rule lets in."""

STAGING, TARGET = Scope("staging", "eu"), "web-1.staging.eu"

CONFIG = """\
node: test-1
public_url: http://127.0.0.1:{http}
listen: {{ssh: "127.0.0.1:{ssh}", http: "127.0.0.1:{http}"}}
data: data
coordination: {{url: "{coordination}"}}
issuers:
  - issuer: {issuer}
    client_id: bastion
    client_secret: {{file: oidc-secret}}
    scopes: [openid, email, profile, groups, offline_access]
    returns_after_logout: true
    claims: {{only_groups: [contractors, sre], mfa_acr: ["urn:example:mfa"]}}
    check: 30s
workloads:
  - {{issuer: {issuer}, audience: "{audience}", subject: ci, name: builder, groups: [builders]}}
signals:
  - {{issuer: {transmitter}, audience: "{audience}", token: {{file: signals-token}}, about: [{issuer}]}}
geo:
  networks: {{127.0.0.0/26: DE, 127.0.0.66/32: BR}}
regions:
  eu: {{fence: {{countries: [DE]}}}}
environments:
  staging: {{}}
targets:
  - {{name: web-1, environment: staging, region: eu, host: 127.0.0.1, port: {port}, logins: [deploy],
     host_keys: ["{host_key}"]}}
policy: policy.cedar
{more}"""

POLICY = """
@id("connect-with-grant")
permit (principal == ?principal, action in Action::"connect", resource == ?resource);
@id("builders-request")
permit (principal in Group::"builders", action == Action::"request", resource);
@id("review")
permit (principal, action == Action::"review", resource);
"""


@dataclass
class Whole:
    """Everything such a test touches."""

    folder: Path
    url: str
    node: Node
    clock: SkewedClock
    store: SqlStore
    """The same database, opened once more."""
    provider: RealProvider
    transmitter: TestTransmitter
    http: aiohttp.ClientSession
    host_key: str

    @property
    def port(self) -> int:
        return self.node.ssh_port

    @property
    def host_key_fingerprint(self) -> str:
        return asyncssh.import_public_key(self.host_key).get_fingerprint()

    @property
    def alice(self) -> IdentityId:
        return IdentityId(self.provider.issuer, "alice")

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[RealBrowser]:
        """Somebody's browser, with cookies of its own."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
            yield RealBrowser(session)

    async def token(self, browser: RealBrowser, *, query: str = "", **how: Any) -> str:
        """What `bastion login` gets: the browser logs in, its owner confirms, the code is redeemed."""
        verifier, state, port = new_secret(), new_secret(), free_port()
        challenge = challenge_of(verifier)
        begin = f"{self.url}/login/cli?port={port}&challenge={challenge}&state={state}{query}"
        status, _ = await browser.visit(begin, **how)
        assert status == 200, browser.last
        ticket = browser.last.partition('name="ticket" value="')[2].partition('"')[0]
        assert ticket, browser.last
        confirm, same = f"{self.url}/login/cli/confirm", {"Origin": self.url}
        async with browser.session.post(confirm, data={"ticket": ticket}, headers=same, allow_redirects=False) as done:
            assert done.status == 303, await done.text()
            code = done.headers["Location"].partition("code=")[2].partition("&")[0]
        status, body = await self.call("POST", "/api/v1/token", json={"code": code, "verifier": verifier})
        assert status == 200, body
        return str(body["token"])

    async def call(self, method: str, path: str, token: str | None = None, **how: Any) -> tuple[int, Any]:
        """Ask the API; the status, and the JSON or the text that came."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.http.request(method, self.url + path, headers=headers | how.pop("headers", {}), **how) as reply:
            is_json = reply.content_type == "application/json"
            return reply.status, await reply.json() if is_json else await reply.text()

    async def grant(self, identity: IdentityId) -> Grant:
        """A live grant for ``identity`` on the target, as an approved request leaves it."""
        now, names = self.clock.now(), (frozenset({TARGET}), frozenset({"deploy"}), SSH_ACTIONS)
        request = Request(
            new_id("q"), identity, identity, STAGING, *names, timedelta(hours=1), "a test", now, Demands()
        )
        boss = IdentityId(self.provider.issuer, "boss")
        grant = Grant(
            new_id("g"), request.id, identity, STAGING, *names, now, now + timedelta(hours=1), (boss,), "a test"
        )
        async with self.store.transaction() as transaction:
            await transaction.add_request(request)
            await transaction.add_grant(grant)
        return grant

    async def certify(self, token: str, name: str = "id") -> Path:
        """A key with the certificate that ``token`` gets it, as OpenSSH looks for them."""
        path, key = self.folder / name, asyncssh.generate_private_key("ssh-ed25519")
        path.touch(mode=0o600)
        path.write_bytes(key.export_private_key())
        body = {"public_key": key.export_public_key().decode(), "target": TARGET}
        status, answer = await self.call("POST", "/api/v1/certificates", token, json=body)
        assert status == 201, answer
        path.with_name(f"{name}-cert.pub").write_text(answer["certificate"])
        return path

    async def ssh(self, key: Path, command: str) -> asyncio.subprocess.Process:
        """OpenSSH's own client, running ``command`` on the target."""
        options = {
            "UserKnownHostsFile": "/dev/null", "StrictHostKeyChecking": "no", "IdentitiesOnly": "yes",
            "IdentityAgent": "none", "BatchMode": "yes", "PreferredAuthentications": "publickey",
        }  # fmt: skip
        flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        return await asyncio.create_subprocess_exec(
            "ssh", "-F", "none", "-i", key, "-p", str(self.node.ssh_port), *flags,
            f"deploy@{TARGET}@127.0.0.1", command,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
        )  # fmt: skip

    async def events(self, kind: Kind) -> list[Event]:
        return list(await self.store.events(EventFilter(kind=kind.value)))


@asynccontextmanager
async def whole(
    folder: Path,
    *,
    policy: str = POLICY,
    coordination: str = "memory",
    takes_claims: bool = False,
    more: str = "",
    watch: Callable[[Node], Coroutine[Any, Any, None]] = watch_all,
) -> AsyncIterator[Whole]:
    """Start everything on free loopback ports; everything is ended with the block. ``more`` are further settings, and
    ``watch`` is what runs in the background.
    """
    clock, port = SkewedClock(), free_port()
    url = f"http://127.0.0.1:{port}"
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(
            running_provider([client("bastion", url), OTHER_CI], takes_claims=takes_claims)
        )
        transmitter = await stack.enter_async_context(TestTransmitter.running(AUDIENCE, clock))
        (folder / "policy.cedar").write_text(policy)
        config = _write_config(folder, port, coordination, more, provider, transmitter, stack)
        node = await stack.enter_async_context(running(load(config), clock=clock))
        watching = asyncio.create_task(watch(node))
        store = await open_store(f"sqlite:///{folder}/data/bastion.db")
        stack.push_async_callback(store.close)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        try:
            host_key = trust(config, None).ssh_host_key
            yield Whole(folder, url, node, clock, store, provider, transmitter, http, host_key)
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching


def _write_config(
    folder: Path,
    port: int,
    coordination: str,
    more: str,
    provider: RealProvider,
    transmitter: TestTransmitter,
    stack: AsyncExitStack,
) -> Path:
    signer = open_signer(folder / "data" / "keys" / "ca", [STAGING])
    authority = f"ssh-ed25519 {base64.b64encode(signer.target_authority(STAGING)).decode()}"
    (folder / "sshd").mkdir()
    principals = {"deploy": [target_principal(STAGING, "deploy")]}
    sshd = stack.enter_context(running_sshd(folder / "sshd", principals=principals, user_authorities=[authority]))
    for name, secret in (("oidc-secret", SECRET), ("signals-token", BEARER)):
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(secret)
    config = folder / "bastion.yaml"
    config.write_text(
        CONFIG.format(
            http=port,
            coordination=coordination,
            more=more,
            ssh=free_port(),
            issuer=provider.issuer,
            audience=AUDIENCE,
            transmitter=transmitter.issuer,
            port=sshd.port,
            host_key=sshd.host_key,
        )  # fmt: skip
    )
    return config
