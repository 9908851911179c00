"""Everything the walk needs, on loopback and in one folder: an identity provider, two targets, and a real bastion."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bastion.config import load
from bastion.core.errors import BastionError
from bastion.core.target import Scope
from bastion.demo.processes import die_with_parent
from bastion.demo.provider import Account, DemoProvider, Registration
from bastion.demo.sshd import Sshd, make_host_key, running_sshd
from bastion.demo.tools import free_port

STAGING, PRODUCTION = Scope("staging", "eu"), Scope("production", "eu")
STAGING_WEB, PRODUCTION_WEB = "web-1.staging.eu", "web-1.production.eu"
LOGIN = "deploy"

INSIDE, OUTSIDE = "127.0.0.1", "127.0.0.66"
"""Loopback addresses; the configuration's networks put the first in Germany and the second in Brazil."""

WORKSPACE = "T0DEMO"
START_SECONDS = 30
COMMAND_SECONDS = 60

ACCOUNTS = (
    Account("contractor", "contractor@example.com", ("contractors",), "A contractor"),
    Account("admin", "admin@example.com", ("sre",), "An admin"),
    Account("auditor", "auditor@example.com", ("auditors",), "An auditor"),
)
SLACK_USERS = {"contractor": "U0CONTRACTOR", "admin": "U0ADMIN"}

_CONFIG = """\
# Written by `bastion demo`; config/bastion.yaml in the repository explains every key.
node: demo
public_url: http://127.0.0.1:{http}
listen: {{ssh: "127.0.0.1:{ssh}", http: "127.0.0.1:{http}"}}
data: data
drain: 0s
issuers:
  - issuer: {issuer}
    client_id: bastion
    client_secret: {{file: oidc-secret}}
    scopes: [openid, email, profile, groups]
geo:
  networks: {{127.0.0.0/8: DE, {outside}/32: BR}}
regions:
  eu: {{fence: {{countries: [DE]}}}}
environments:
  staging: {{}}
  production: {{}}
targets:
  - {{name: web-1, environment: staging, region: eu, host: 127.0.0.1, port: {staging}, logins: [{login}],
     host_keys: ["{staging_key}"]}}
  - {{name: web-1, environment: production, region: eu, host: 127.0.0.1, port: {production}, logins: [{login}],
     host_keys: ["{production_key}"]}}
policy: policy.cedar
chat:
  slack: {{signing_secret: {{file: slack-secret}}, workspaces: [{workspace}]}}
"""

_POLICY = """\
@id("contractors-request-staging") @approvals("1") @reviewers("sre") @max_duration("4h")
permit (principal in Group::"contractors", action == Action::"request", resource in Environment::"staging");

@id("sre-review")
permit (principal in Group::"sre", action == Action::"review", resource);

@id("sre-administer")
permit (principal in Group::"sre", action == Action::"administer", resource);

@id("auditors-replay")
permit (principal in Group::"auditors", action == Action::"replay", resource);

@id("connect-with-grant")
permit (principal == ?principal, action in Action::"connect", resource == ?resource);
"""


class StageFailed(BastionError):
    """A part did not start; everything that did was ended."""


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that has ended. ``said`` is both its outputs, as a terminal would show them."""

    status: int
    said: str


@dataclass(frozen=True, slots=True)
class Stage:
    """What the walk plays on."""

    folder: Path
    url: str
    ssh_port: int
    staging: Sshd
    production: Sshd
    slack_secret: str
    process: asyncio.subprocess.Process
    """The bastion's own."""

    @property
    def config(self) -> Path:
        return self.folder / "bastion.yaml"

    def environment(self, who: str) -> dict[str, str]:
        """One person's own home, configuration and browser."""
        home = self.folder / "people" / who
        home.mkdir(parents=True, exist_ok=True)
        browser = f"{shlex.quote(sys.executable)} -m bastion.demo.browser {who} %s"
        # Nothing of this shows in the ssh-agent of whoever runs it.
        inherited = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
        return {**inherited, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config"), "BROWSER": browser,
                "COLUMNS": "100", "NO_COLOR": "1"}  # fmt: skip

    def ssh_config(self, who: str) -> Path:
        """What `bastion cert` wrote for this person."""
        return self.folder / "people" / who / ".config/bastion/ssh/config"

    async def start(self, who: str, *command: str) -> asyncio.subprocess.Process:
        """Start a program as ``who``; ``bastion`` is this very one."""
        argv = [sys.executable, "-m", *command] if command[0] == "bastion" else list(command)
        return await asyncio.create_subprocess_exec(
            *argv,
            env=self.environment(who),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def run(self, who: str, *command: str) -> Ran:
        """Run a program to its end, as ``who``."""
        process = await self.start(who, *command)
        try:
            said, _ = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS)
        except TimeoutError:
            process.kill()
            said, _ = await process.communicate()
            raise StageFailed(f"{command[0]} did not end within {COMMAND_SECONDS} seconds: {said.decode()}") from None
        assert process.returncode is not None  # noqa: S101 - communicate() waits for it
        return Ran(process.returncode, said.decode(errors="replace"))


@asynccontextmanager
async def staged(folder: Path, *, more: str = "", environment: Mapping[str, str] | None = None) -> AsyncIterator[Stage]:
    """Set everything up below ``folder``, which is emptied first; when the block is left, nothing runs any more.

    ``more`` is added to the configuration, as a store or a coordination other than the embedded ones. ``environment``
    is what every session at a target has besides.

    Raises:
        StageFailed: a part did not start.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    async with AsyncExitStack() as stack:
        ssh, http = free_port(INSIDE), free_port(INSIDE)
        oidc_secret, slack_secret = secrets.token_hex(16), secrets.token_hex(16)
        url = f"http://{INSIDE}:{http}"
        provider = DemoProvider(
            client=Registration("bastion", oidc_secret, frozenset({f"{url}/login/callback"})), accounts=ACCOUNTS
        )
        issuer = await provider.start()
        stack.push_async_callback(provider.stop)
        for name, secret in (("oidc-secret", oidc_secret), ("slack-secret", slack_secret)):
            _write_private(folder / name, secret)
        (folder / "policy.cedar").write_text(_POLICY)
        keys = {
            scope: make_host_key(_fresh(folder / scope.environment) / "host_key") for scope in (STAGING, PRODUCTION)
        }
        values: dict[str, Any] = {
            "ssh": ssh, "http": http, "issuer": issuer, "outside": OUTSIDE, "login": LOGIN, "workspace": WORKSPACE,
            "staging_key": keys[STAGING], "production_key": keys[PRODUCTION],
        }  # fmt: skip
        # The targets' ports are known once they listen, and they listen once the bastion's keys exist.
        config = folder / "bastion.yaml"
        config.write_text(_CONFIG.format(**values, staging=1, production=1) + more)
        authorities = await _authorities(config)
        sshds = {
            scope: stack.enter_context(_target(folder / scope.environment, authorities[str(scope)], environment))
            for scope in (STAGING, PRODUCTION)
        }
        ports = {"staging": sshds[STAGING].port, "production": sshds[PRODUCTION].port}
        config.write_text(_CONFIG.format(**values, **ports) + more)
        process = await stack.enter_async_context(serving(config))
        yield Stage(folder, url, ssh, sshds[STAGING], sshds[PRODUCTION], slack_secret, process)


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _target(folder: Path, trusted: dict[str, Any], environment: Mapping[str, str] | None) -> Any:
    """A target as an operator sets one up: by what `bastion ca` prints."""
    return running_sshd(
        folder,
        principals={login: [line] for login, line in trusted["principals"].items()},
        user_authorities=[trusted["trusted_user_ca_key"]],
        host_key=folder / "host_key",
        extra=["LogLevel VERBOSE"],
        environment=environment,
    )


async def _authorities(config: Path) -> dict[str, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bastion", "ca", "--json", "--config", str(config),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    if process.returncode:
        raise StageFailed(f"bastion ca failed: {err.decode()}")
    scopes: dict[str, dict[str, Any]] = json.loads(out)["scopes"]
    return scopes


@asynccontextmanager
async def serving(config: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """The bastion itself, as a process of its own; it listens when the block begins, and is gone when it is left."""
    log = config.with_suffix(".log")
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bastion",
            "serve",
            "--config",
            str(config),
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent,
        )
    try:
        await _until_it_answers(process, load(config).listen.http.port, log)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _until_it_answers(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    try:
        async with asyncio.timeout(START_SECONDS):
            while process.returncode is None:
                try:
                    _, writer = await asyncio.open_connection(INSIDE, port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return
    except TimeoutError:
        pass
    raise StageFailed(f"the bastion did not start:\n{log.read_text(errors='replace')}")
