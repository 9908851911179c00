"""What the figures are measured on: the demo's stage, with a contractor let in, and two ways around the bastion."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import asyncssh

from bastion.adapters.clock import SystemClock
from bastion.adapters.signer import open_signer
from bastion.adapters.store import open_store
from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.certificate import certificate_line, parse_public_key, signed, target_certificate, to_be_signed
from bastion.core.target import Scope
from bastion.demo.sshd import Sshd
from bastion.demo.stage import LOGIN, PRODUCTION, STAGING, STAGING_WEB, Stage, staged
from tests.clients.desk import programs

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Bench:
    """A running stage, and ssh's arguments for three ways to the same target."""

    stage: Stage
    through: list[str]
    """Through the bastion, recorded."""
    direct: list[str]
    """Straight to the target's sshd."""
    jump: list[str]
    """Through OpenSSH's own `ssh -J`, over the other target's sshd."""

    async def ssh(self, way: list[str], command: str, *, stdin: Path = Path(os.devnull)) -> float:
        """Run ``command``, its output thrown away; seconds."""
        return await self._timed(*way, command, stdin=stdin)

    async def scp(self, way: list[str], source: str, destination: str) -> float:
        """Copy a file by sftp; seconds. ``{}`` in one of the paths is the host."""
        _, *options, host = way
        if "@" in host:  # scp would take the target for the host
            login, bastion = host.rsplit("@", 1)
            options, host = [*options, "-o", f"User={login}"], bastion
        return await self._timed("scp", *options, source.format(host), destination.format(host))

    async def _timed(self, *command: str, stdin: Path = Path(os.devnull)) -> float:
        with stdin.open("rb") as given:
            began = time.perf_counter()
            process = await asyncio.create_subprocess_exec(
                *command, env=self.stage.environment("contractor"), stdin=given, stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            _, said = await process.communicate()
        if process.returncode:
            raise RuntimeError(said.decode())
        return time.perf_counter() - began

    async def let_contractor_in(self) -> None:
        """They log in and get a certificate for the grant that they have."""
        await _must(self.stage, "contractor", "bastion", "login", self.stage.url)
        await _must(self.stage, "contractor", "bastion", "cert", STAGING_WEB)

    def cpu_seconds(self) -> float:
        """What the bastion's process has used so far."""
        fields = Path(f"/proc/{self.stage.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    async def events(self, kind: Kind) -> Sequence[Event]:
        """Those of one kind, as they are in the audit log."""
        store = await open_store(f"sqlite:///{self.data}/bastion.db")
        try:
            return await store.events(EventFilter(kind=kind))
        finally:
            await store.close()

    @property
    def data(self) -> Path:
        """What the bastion keeps."""
        return self.stage.folder / "data"

    def resident_kib(self) -> int:
        """Of the bastion's process."""
        status = Path(f"/proc/{self.stage.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


def percentile(values: list[float], percent: int) -> float:
    """What so many of a hundred stay below."""
    return statistics.quantiles(values, n=100)[percent - 1]


@asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[Bench]:
    """Start the stage and let the contractor in."""
    async with staged(folder / "stage", environment=programs()) as stage:
        await _must(stage, "contractor", "bastion", "login", stage.url)
        await _must(stage, "admin", "bastion", "login", stage.url)
        await _must(stage, "admin", "bastion", "grant", "contractor@example.com", STAGING_WEB, "--as", LOGIN,
                    "--for", "4h", "--because", "a benchmark")  # fmt: skip
        through = ["ssh", "-F", str(stage.ssh_config("contractor")), f"{LOGIN}@{STAGING_WEB}@bastion"]
        running = Bench(stage, through, *await _around(stage, folder))
        await running.let_contractor_in()
        yield running


async def _must(stage: Stage, who: str, *command: str) -> None:
    ran = await stage.run(who, *command)
    if ran.status:
        raise RuntimeError(ran.said)


async def _around(stage: Stage, folder: Path) -> tuple[list[str], list[str]]:
    """A key and certificates that the targets accept directly: only here, where the bastion is what is measured."""
    config = folder / "around"
    blocks = []
    for name, scope, sshd in (("direct", STAGING, stage.staging), ("jump", PRODUCTION, stage.production)):
        blocks.append(await _block(stage, folder, name, scope, sshd))
    config.write_text(
        "".join(blocks) + f"Host *\nUser {LOGIN}\nIdentitiesOnly yes\nStrictHostKeyChecking no\n"
        "UserKnownHostsFile /dev/null\nLogLevel ERROR\nIdentityAgent none\n"
    )
    base = ["ssh", "-F", str(config)]
    return [*base, "direct"], [*base, "-J", "jump", "direct"]


async def _block(stage: Stage, folder: Path, name: str, scope: Scope, sshd: Sshd) -> str:
    signer = open_signer(stage.folder / "data/keys/ca", [scope])
    key = asyncssh.generate_private_key("ssh-ed25519")
    certificate = target_certificate(
        parse_public_key(key.export_public_key().decode()), serial=1, session_id="s-bench", identity="bench",
        scope=scope, login=LOGIN, authority=signer.target_authority(scope), lifetime=timedelta(hours=4),
        now=SystemClock().now(), permitted={"permit-port-forwarding", "permit-pty"},
    )  # fmt: skip
    path = folder / name
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key())
    body = to_be_signed(certificate, os.urandom(32))
    blob = signed(body, await signer.sign_target(scope, body))
    Path(f"{path}-cert.pub").write_text(certificate_line(blob, name))
    return f"Host {name}\nHostName {sshd.address}\nPort {sshd.port}\nIdentityFile {path}\n"
