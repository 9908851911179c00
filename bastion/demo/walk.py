"""The walk of `make demo`: a visit from login to audit trail, each step with the command and what proves it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import http.client
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import asyncssh

from bastion.adapters.clock import SystemClock
from bastion.adapters.signer import open_signer
from bastion.core.certificate import certificate_line, parse_public_key, signed, target_certificate, to_be_signed
from bastion.core.errors import BastionError
from bastion.demo.browser import ScriptedBrowser
from bastion.demo.sshd import Sshd
from bastion.demo.stage import (
    INSIDE,
    LOGIN,
    OUTSIDE,
    PRODUCTION,
    PRODUCTION_WEB,
    SLACK_USERS,
    STAGING,
    STAGING_WEB,
    WORKSPACE,
    Ran,
    Stage,
    staged,
)

_MINUTE = timedelta(minutes=1)

BOLD, DIM, GREEN, RED, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[31m", "\x1b[0m"

CUT_LIMIT_MS = 1000
"""Law 7: what ends is cut within one second."""


class StepFailed(BastionError):
    """A step did not do what it says."""


class Walk:
    """The steps, in order. Each raises `StepFailed` unless it saw what it claims."""

    def __init__(self, stage: Stage, *, colour: bool) -> None:
        self._stage = stage
        self._colour = colour
        self._number = 0
        self._held = 0
        self._grant = ""
        self._session = ""

    async def all(self) -> int:
        """Every step; how many held."""
        steps: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            ("Three people log in by OIDC, in their browsers", self.log_in),
            ("The contractor has no grant: denied, with the reason", self.no_grant),
            ("Chat accounts are linked by logging in, never by a name", self.link_chat),
            ("An admin grants by a chat command, signed as Slack signs", self.grant),
            ("A certificate: one scope, one address, minutes", self.certificate),
            ("Commands on the target, by plain ssh, both ways of naming it", self.commands),
            ("Outside the fence: denied, the same person with the same certificate", self.outside),
            ("Production: denied", self.production),
            ("The bastion's certificate for staging opens staging's sshd, and production's refuses it", self.scopes),
            ("The grant is revoked while a session is open: the session is cut", self.revoke),
            ("The auditor replays what was recorded", self.replay),
            ("The audit trail", self.audit),
        ]
        for title, step in steps:
            self._number += 1
            self._print(f"\n{BOLD}{self._number}. {title}{PLAIN}")
            await step()
            self._held += 1
        return self._held

    async def log_in(self) -> None:
        for who in ("contractor", "admin", "auditor"):
            ran = await self._bastion(who, "login", self._stage.url)
            self._holds(ran.status == 0 and f"{who}@example.com" in ran.said, f"{who} is logged in")

    async def no_grant(self) -> None:
        ran = await self._bastion("contractor", "cert", STAGING_WEB)
        self._holds(ran.status == 1 and "no live grant" in ran.said, "no certificate without a grant, exit status 1")

    async def link_chat(self) -> None:
        for who in ("admin", "contractor"):
            text = await self._slack(who, "link")
            match = re.search(r"https?://\S+/link/slack/[\w-]+", text)
            self._holds(match is not None, f"Slack shows {who} a one-time link, and nobody else")
            browser = ScriptedBrowser()
            page = await asyncio.to_thread(browser.log_in, match[0] if match else "", who)
            page = await asyncio.to_thread(browser.submit, page)
            self._holds(page.status == 200, f"{who} logged in there and said yes")

    async def grant(self) -> None:
        mention = f"<@{SLACK_USERS['contractor']}|contractor>"
        text = await self._slack(
            "admin", f'grant {mention} {STAGING_WEB} as {LOGIN} for 2h because "deploy the release"'
        )
        match = re.search(r"\bg-[0-9a-z]{12}\b", text)
        self._grant = match[0] if match else ""
        self._holds(bool(self._grant), f"the grant is {self._grant}")
        refused = await self._slack("admin", "help", secret="not Slack's")
        self._holds("not signed by Slack" in refused, "the same, signed by somebody else, is refused")

    async def certificate(self) -> None:
        ran = await self._bastion("contractor", "cert", STAGING_WEB)
        self._holds(ran.status == 0, "a certificate was issued")
        path = self._stage.ssh_config("contractor").parent / "staging.eu-cert.pub"
        shown = await self._run("contractor", "ssh-keygen", "-L", "-f", str(path))
        self._holds(f"access/staging/eu/{self._grant}" in shown.said, "it names its grant and its scope")
        self._holds(f"source-address {INSIDE}/32" in shown.said, f"it is pinned to {INSIDE}")

    async def commands(self) -> None:
        ran = await self._ssh(f"{LOGIN}@{STAGING_WEB}", "echo hello from $LOGNAME; exit 7")
        self._holds(ran.status == 7 and "hello from deploy" in ran.said, "through ProxyJump: output and exit status")
        ran = await self._ssh(f"{LOGIN}@{STAGING_WEB}@bastion", "echo to stderr >&2; uname -s")
        self._holds(ran.status == 0 and "Linux" in ran.said, f"through {LOGIN}@{STAGING_WEB}@bastion")
        source = self._stage.folder / "people" / "contractor" / "release.txt"
        source.write_text("the release\n")
        ran = await self._run(
            "contractor", "scp", "-F", self._config, str(source), f"{LOGIN}@{STAGING_WEB}:release.txt"
        )
        arrived = self._stage.staging.home(LOGIN) / "release.txt"
        self._holds(ran.status == 0 and arrived.read_text() == "the release\n", "scp: the file is there")
        accepted = self._stage.staging.wait_for_log("Accepted publickey")
        self._holds(
            "ID s-" in accepted, "the target's own log names the session: " + accepted[accepted.index("ID s-") :]
        )

    async def outside(self) -> None:
        wish = {"public_key": self._public_key(), "target": STAGING_WEB}
        status, said = await self._from(OUTSIDE, "/api/v1/certificates", wish)
        self._holds(status == 403 and "BR" in said, f"over HTTP from {OUTSIDE}: {said}")
        ran = await self._ssh("-b", OUTSIDE, f"{LOGIN}@{STAGING_WEB}@bastion", "true")
        self._holds(ran.status == 255 and "BR" in ran.said, "over SSH")

    async def production(self) -> None:
        ran = await self._bastion("contractor", "cert", PRODUCTION_WEB)
        self._holds(ran.status == 1 and "no live grant" in ran.said, "no certificate for production")
        ran = await self._ssh(f"{LOGIN}@{PRODUCTION_WEB}@bastion", "true")
        self._holds(ran.status == 255 and "does not open production/eu" in ran.said, "staging's opens nothing there")
        text = await self._slack(
            "admin",
            f'grant <@{SLACK_USERS["contractor"]}|contractor> {PRODUCTION_WEB} as {LOGIN} for 2h because "please"',
        )
        self._holds("g-" not in text, "the policy does not let a contractor be granted production at all")

    async def scopes(self) -> None:
        for sshd, opens in ((self._stage.staging, True), (self._stage.production, False)):
            name = "staging" if opens else "production"
            opened = await self._try_target_certificate(sshd)
            self._holds(opened is opens, f"{name}'s sshd {'accepts' if opened else 'refuses'} it")
        refusal = [line for line in self._stage.production.log() if "CA" in line or "Failed publickey" in line]
        self._show("\n".join(refusal[-2:]))

    async def revoke(self) -> None:
        loop = "echo working; while true; do sleep 0.1; done"
        process = await self._stage.start("contractor", "ssh", "-F", self._config, f"{LOGIN}@{STAGING_WEB}", loop)
        if process.stdout is None:
            raise StepFailed("ssh has no output")
        self._show(f"$ ssh {LOGIN}@{STAGING_WEB} '{loop}'")
        first = await asyncio.wait_for(process.stdout.readline(), 20)
        self._show(first.decode().rstrip())
        began = time.monotonic()
        await self._slack("admin", f"revoke {self._grant}")
        said = (await process.stdout.read()).decode()
        status, took = await process.wait(), (time.monotonic() - began) * 1000
        self._show(said.strip())
        self._holds(status == 254 and "revoked" in said, "the client was told why, exit status 254")
        self._holds(took < CUT_LIMIT_MS, f"from the command's sending to ssh's end: {took:.0f} ms")
        ran = await self._ssh(f"{LOGIN}@{STAGING_WEB}@bastion", "true")
        self._holds(
            ran.status == 255 and "was revoked" in ran.said, "the certificate, still in its minutes, opens nothing"
        )

    async def replay(self) -> None:
        listed = await self._stage.run("auditor", "bastion", "sessions", "--json")
        rows = [json.loads(line) for line in listed.said.splitlines()]
        self._session = next(row["id"] for row in rows if "LOGNAME" in (row["command"] or ""))
        await self._bastion("auditor", "sessions")
        ran = await self._bastion("auditor", "replay", self._session, "--speed", "100")
        self._holds(ran.status == 0 and "hello from deploy" in ran.said, "the recording has what the client read")
        ran = await self._bastion("contractor", "replay", self._session)
        self._holds(ran.status == 1, "the contractor may not replay")

    async def audit(self) -> None:
        auditors = await self._bastion("auditor", "audit")
        logins = await self._bastion("admin", "audit", "--kind", "login:*")
        wanted = ("login:succeeded", "grant:approved", "certificate:issued", "certificate:refused", "access:allowed",
                  "session:started", "session:ended", "grant:revoked", "connection:refused")  # fmt: skip
        missing = [kind for kind in wanted if kind not in auditors.said + logins.said]
        self._holds(not missing, f"missing: {missing}" if missing else "every step is there")

    @property
    def _config(self) -> str:
        return str(self._stage.ssh_config("contractor"))

    def _public_key(self) -> str:
        return (self._stage.ssh_config("contractor").parent / "id_ed25519.pub").read_text()

    async def _bastion(self, who: str, *arguments: str) -> Ran:
        return await self._run(who, "bastion", *arguments)

    async def _ssh(self, *arguments: str) -> Ran:
        """As a script runs it: without BatchMode a client that is denied would go on to a login in the browser."""
        return await self._run("contractor", "ssh", "-F", self._config, "-o", "BatchMode=yes", *arguments)

    async def _run(self, who: str, *command: str) -> Ran:
        short = " ".join(_short(word) for word in command)
        self._show(f"{who}$ {short}")
        ran = await self._stage.run(who, *command)
        self._show(ran.said.rstrip())
        return ran

    async def _slack(self, who: str, text: str, *, secret: str | None = None) -> str:
        """Send a slash command exactly as Slack does, and show what Slack would show."""
        self._show(f"{who} in Slack: /bastion {text}")
        body = urlencode(
            {
                "team_id": WORKSPACE, "team_domain": "demo", "user_id": SLACK_USERS[who], "user_name": who,
                "channel_id": "C0DEMO", "command": "/bastion", "text": text,
                "trigger_id": f"{time.monotonic_ns()}.demo",
            }
        ).encode()  # fmt: skip
        stamp = str(int(time.time()))
        key = (secret or self._stage.slack_secret).encode()
        signature = "v0=" + hmac.new(key, f"v0:{stamp}:".encode() + body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": signature,
        }
        _, said = await asyncio.to_thread(_post, self._stage.url, "/chat/slack", body, headers)
        answer = json.loads(said)
        shown = str(answer.get("text") or answer.get("error"))
        self._show(shown)
        return shown

    async def _from(self, address: str, path: str, body: dict[str, str]) -> tuple[int, str]:
        """The contractor's own login, used from another address."""
        saved = self._stage.folder / "people/contractor/.config/bastion/login.json"
        token = json.loads(saved.read_text())["token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._show(f"contractor, from {address}: POST {path}")
        status, said = await asyncio.to_thread(
            _post, self._stage.url, path, json.dumps(body).encode(), headers, source=address
        )
        return status, str(json.loads(said).get("error", said))

    async def _try_target_certificate(self, sshd: Sshd) -> bool:
        """Make what the bastion makes for a session in staging, and show it to ``sshd`` directly."""
        signer = open_signer(self._stage.folder / "data/keys/ca", [STAGING, PRODUCTION])
        key = asyncssh.generate_private_key("ssh-ed25519")
        certificate = target_certificate(
            parse_public_key(key.export_public_key().decode()),
            serial=1, session_id="s-demo", identity="demo", scope=STAGING, login=LOGIN,
            authority=signer.target_authority(STAGING), lifetime=_MINUTE, now=SystemClock().now(), permitted=(),
        )  # fmt: skip
        body = to_be_signed(certificate, os.urandom(32))
        line = certificate_line(signed(body, await signer.sign_target(STAGING, body)), "demo")
        try:
            async with asyncssh.connect(
                sshd.address, sshd.port, username=LOGIN, client_keys=[(key, asyncssh.import_certificate(line))],
                known_hosts=([asyncssh.import_public_key(sshd.host_key)], [], []), config=None, agent_path=None,
            ) as connection:  # fmt: skip
                await connection.run("true", check=True)
        except asyncssh.PermissionDenied:
            return False
        return True

    def _holds(self, it_does: bool, claim: str) -> None:
        if not it_does:
            self._print(f"   {RED}✗ {claim}{PLAIN}")
            raise StepFailed(f"step {self._number} did not hold: {claim}")
        self._print(f"   {GREEN}✓{PLAIN} {claim}")

    def _show(self, text: str) -> None:
        for line in text.splitlines():
            self._print(f"   {DIM}{line}{PLAIN}")

    def _print(self, text: str) -> None:
        if not self._colour:
            text = re.sub(r"\x1b\[\d+m", "", text)
        print(text, flush=True)  # noqa: T201 - the walk is what this command prints


def _short(word: str) -> str:
    """A word of a command as a person would type it."""
    path = Path(word)
    return path.name if path.is_absolute() else (f"'{word}'" if " " in word else word)


def _post(url: str, path: str, body: bytes, headers: dict[str, str], *, source: str = INSIDE) -> tuple[int, str]:
    """Status and body of the answer to a POST from ``source``."""
    host = urlsplit(url)
    connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=10, source_address=(source, 0))
    try:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


_BY_HAND = """
Everything is still up. In another terminal, as the contractor:

  export XDG_CONFIG_HOME={home}/.config
  {bastion} cert {target}

It is denied until the admin grants it (in a third terminal):

  XDG_CONFIG_HOME={admin}/.config {bastion} grant contractor@example.com {target} --as {login} --for 30m --because try

Then, as the contractor:

  {bastion} cert {target} && ssh -F {config} {login}@{target}

The auditor sees it while it happens:

  XDG_CONFIG_HOME={auditor}/.config {bastion} audit --follow

The bastion's log is {log}. Ctrl-C ends everything.
"""


def run(*, once: bool) -> int:
    """Walk; then, unless ``once``, stay up until Ctrl-C. The exit status: 0 when every step held."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return asyncio.run(_run(once=once))
    except KeyboardInterrupt:
        return 0
    except BastionError as error:
        print(f"\n{error}", file=sys.stderr)  # noqa: T201 - the walk is what this command prints
        return 1


async def _run(*, once: bool) -> int:
    began = time.monotonic()
    async with staged(_folder()) as stage:
        walk = Walk(stage, colour=sys.stdout.isatty())
        held = await walk.all()
        print(f"\nAll {held} steps held, in {time.monotonic() - began:.0f} seconds.")  # noqa: T201 - as above
        if not once:
            print(_by_hand(stage))  # noqa: T201 - as above
            await _until_told()
    return 0


def _folder() -> Path:
    """Where the demo keeps its files: here, unless that path has a space. OpenSSH's ``ssh -F FILE`` with a jump host
    starts a second ssh and does not quote FILE for it."""
    here = Path(".demo").absolute()
    return Path(tempfile.mkdtemp(prefix="bastion-demo-")) if " " in str(here) else here


def _by_hand(stage: Stage) -> str:
    people = stage.folder / "people"
    return _BY_HAND.format(
        home=_quoted(people / "contractor"), admin=_quoted(people / "admin"), auditor=_quoted(people / "auditor"),
        bastion=f"{_quoted(Path(sys.executable))} -m bastion", target=STAGING_WEB, login=LOGIN,
        config=_quoted(stage.ssh_config("contractor")), log=stage.folder / "bastion.log",
    )  # fmt: skip


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


async def _until_told() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
