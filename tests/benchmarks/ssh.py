"""The figures of the SSH gateway."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncssh

from bastion.core.audit import Kind
from bastion.demo.stage import INSIDE, LOGIN, STAGING_WEB
from tests.benchmarks.bench import Bench, percentile
from tests.benchmarks.crowd import CAT, crowd

BULK = 1_000_000_000
"""Bytes; of zeros, which cost a cipher as much as anything and a compressor as little as it gets."""

ROUNDS = 3
CONNECTS = 15
SESSIONS = 40
LIVE = 500
"""Sessions at once."""

KEYSTROKES = 500


async def bulk(bench: Bench) -> AsyncIterator[tuple[str, float]]:
    """Throughput from a target and to it, recorded, over that of plain ssh, and of `ssh -J`; by a pipe and by sftp."""
    file = bench.stage.folder / "bulk"
    with file.open("wb") as zeros:
        zeros.truncate(BULK)
    kinds: dict[str, Callable[[list[str]], Awaitable[float]]] = {
        "ssh_bulk": lambda way: bench.ssh(way, f"head -c {BULK} /dev/zero"),
        "ssh_bulk_up": lambda way: bench.ssh(way, "cat >/dev/null", stdin=file),
        "ssh_bulk_sftp": lambda way: bench.scp(way, f"{{}}:{file}", os.devnull),
        "ssh_bulk_sftp_up": lambda way: bench.scp(way, str(file), f"{{}}:{os.devnull}"),
    }
    ways = {"through": bench.through, "direct": bench.direct, "jump": bench.jump}
    for name, run in kinds.items():
        times: dict[str, list[float]] = {way: [] for way in ways}
        cpu = []
        for _ in range(ROUNDS):
            for way, arguments in ways.items():
                before = bench.cpu_seconds()
                times[way].append(await run(arguments))
                cpu += [bench.cpu_seconds() - before] if way == "through" else []
        through, direct, jump = (statistics.median(times[way]) for way in ways)
        yield f"{name}_mb_per_s", BULK / through / 1e6
        yield f"{name}_cpu_s_per_gb", statistics.median(cpu) * 1e9 / BULK
        yield f"{name}_vs_direct", direct / through
        yield f"{name}_vs_jump", jump / through


async def connect(bench: Bench) -> AsyncIterator[tuple[str, float]]:
    """Time of `ssh … true` with a fresh login, over that of `ssh -J`."""
    through, jump = [], []
    for _ in range(CONNECTS):
        through.append(await bench.ssh(bench.through, "true"))
        jump.append(await bench.ssh(bench.jump, "true"))
    yield "ssh_connect_ms", statistics.median(through) * 1000
    yield "ssh_connect_vs_jump", statistics.median(through) / statistics.median(jump)


async def session_cpu(bench: Bench) -> AsyncIterator[tuple[str, float]]:
    """The bastion's own CPU for one new recorded session, login to close."""
    await bench.ssh(bench.through, "true")
    before = bench.cpu_seconds()
    for _ in range(SESSIONS):
        await bench.ssh(bench.through, "true")
    yield "ssh_session_cpu_ms", (bench.cpu_seconds() - before) / SESSIONS * 1000


async def echo(bench: Bench) -> AsyncIterator[tuple[str, float]]:
    """From a keystroke to its echo, the slowest of a hundred, minus the same without a bastion."""
    async with await _client(bench) as through, await _direct_client(bench) as direct:
        ways = [await _cat(connection) for connection in (through, direct)]
        samples: tuple[list[float], list[float]] = ([], [])
        for _ in range(KEYSTROKES):
            for way, kept in zip(ways, samples, strict=True):
                began = time.perf_counter()
                way.stdin.write(b"x")
                await way.stdout.readexactly(1)
                kept.append((time.perf_counter() - began) * 1000)
    yield "ssh_echo_added_ms_p50", percentile(samples[0], 50) - percentile(samples[1], 50)
    yield "ssh_echo_added_ms_p99", percentile(samples[0], 99) - percentile(samples[1], 99)


async def idle(bench: Bench) -> AsyncIterator[tuple[str, float]]:
    """Memory of a live recorded session."""
    before = bench.resident_kib()
    async with crowd(bench, LIVE) as people:
        yield "ssh_idle_session_kib", (bench.resident_kib() - before) / LIVE
        await people.leave()


async def logout(bench: Bench) -> AsyncIterator[tuple[str, float]]:
    """From a logout to each session's end. An issuer's logout token and a security event take the same way."""
    yield "logout_ms_p99", await _until_all_end(bench, Kind.IDENTITY_ENDED, "contractor", "logout")
    await bench.let_contractor_in()


async def revoke(bench: Bench) -> AsyncIterator[tuple[str, float]]:
    """From the revocation to each session's end. Uses up the grant, so it comes last."""
    command = ("admin", "revoke", "contractor@example.com", STAGING_WEB)
    yield "revoke_ms_p99", await _until_all_end(bench, Kind.GRANT_REVOKED, *command)


async def _until_all_end(bench: Bench, cause: Kind, who: str, *command: str) -> float:
    """Milliseconds from the event that ``who`` causes, as the audit log dates it, to the end of nearly all sessions."""
    async with crowd(bench, LIVE) as people:
        waiting = asyncio.create_task(people.wait())
        ran = await bench.stage.run(who, "bastion", *command)
        if ran.status:
            raise RuntimeError(ran.said)
        closed = await waiting
        boot = time.time() - time.monotonic()
        (event,) = await bench.events(cause)
    return percentile([(at + boot - event.at.timestamp()) * 1000 for at in closed], 99)


async def _client(bench: Bench) -> asyncssh.SSHClientConnection:
    """A client's connection through the bastion."""
    folder = bench.stage.ssh_config("contractor").parent
    key = asyncssh.read_private_key(folder / "id_ed25519")
    certificate = asyncssh.read_certificate(folder / "staging.eu-cert.pub")
    return await asyncssh.connect(
        INSIDE, bench.stage.ssh_port, username=f"{LOGIN}@{STAGING_WEB}", client_keys=[(key, certificate)],
        known_hosts=None, config=None, agent_path=None,
    )  # fmt: skip


async def _direct_client(bench: Bench) -> asyncssh.SSHClientConnection:
    folder = Path(bench.direct[2]).parent
    key = asyncssh.read_private_key(folder / "direct")
    certificate = asyncssh.read_certificate(folder / "direct-cert.pub")
    sshd = bench.stage.staging
    return await asyncssh.connect(
        sshd.address, sshd.port, username=LOGIN, client_keys=[(key, certificate)], known_hosts=None, config=None,
        agent_path=None,
    )  # fmt: skip


async def _cat(connection: asyncssh.SSHClientConnection) -> asyncssh.SSHClientProcess[bytes]:
    process: asyncssh.SSHClientProcess[bytes] = await connection.create_process(CAT, term_type="xterm", encoding=None)
    await process.stdout.readuntil(b"R")
    return process
