"""One connection to the target for the channels of a client's connection; each channel a session of its own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from bastion.core.audit import Kind
from bastion.core.identity import Identity
from bastion.core.policy import SSH_ACTIONS, Action
from bastion.core.session import End, Session
from tests.world import WEB_STAGING, World, person, until, world

shared = pytest.mark.asyncio(loop_scope="module")

NAMES = (f"person-{number}" for number in range(1000))


@pytest.fixture
def ada() -> Identity:
    """Somebody new, whose sessions are of one test."""
    return person(next(NAMES))


@asynccontextmanager
async def connected(
    bastion: World, ada: Identity, actions: frozenset[Action] = SSH_ACTIONS
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Ada's connection to the bastion, for staging's web-1."""
    await bastion.grant(ada, actions=actions)
    key = await bastion.certify(ada)
    async with asyncssh.connect(
        "127.0.0.1", bastion.port, username=f"deploy@{WEB_STAGING}", client_keys=[str(key)], agent_path=None,
        known_hosts=([asyncssh.import_public_key(bastion.host_key)], [], []), config=None,
    ) as connection:  # fmt: skip
        yield connection


async def sessions_of(bastion: World, ada: Identity) -> list[Session]:
    """Oldest first."""
    return sorted(
        (s for s in await bastion.store.sessions() if s.identity == ada.id), key=lambda s: (s.started_at, s.id)
    )


async def live(bastion: World, ada: Identity) -> list[Session]:
    return [s for s in await sessions_of(bastion, ada) if s.ended_at is None]


def logins(bastion: World, ada: Identity) -> list[str]:
    """The ids of the sessions for which the target let somebody in."""
    said = (re.search(rf"Accepted publickey .* ID (s-\S+) {ada.email} ", line) for line in bastion.staging.log())
    return [match[1] for match in said if match]


@shared
async def test_one_login_at_the_target_carries_sessions_at_once_and_in_turn(door: World, ada: Identity) -> None:
    async with connected(door, ada) as connection:
        together = await asyncio.gather(*(connection.run(f"echo {n}; exit {n}") for n in range(12)))
        assert [(ran.stdout, ran.exit_status) for ran in together] == [(f"{n}\n", n) for n in range(12)]
        assert (await connection.run("echo again")).stdout == "again\n"
    sessions = await sessions_of(door, ada)
    assert len(sessions) == 13
    assert len(logins(door, ada)) == 1
    for session in sessions:
        kinds = [event.kind for event in await door.events() if event.session_id == session.id]
        assert kinds[:2] == [Kind.ACCESS_ALLOWED, Kind.SESSION_STARTED]
        named = f"over the connection of {logins(door, ada)[0]}".encode() in await door.transcript(session)
        assert named is (session.id != logins(door, ada)[0])


@shared
async def test_a_client_that_leaves_takes_its_line_along(door: World, ada: Identity) -> None:
    async with connected(door, ada) as connection:
        server = int(str((await connection.run("echo $PPID")).stdout))
        assert _runs(server)
    await until(lambda: not _runs(server))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@shared
async def test_the_end_of_one_session_is_not_the_end_of_the_others(door: World, ada: Identity) -> None:
    async with connected(door, ada) as connection:
        first = await connection.create_process("cat")
        second = await connection.create_process("cat")
        first.stdin.write("a\n")
        second.stdin.write("b\n")
        assert (await first.stdout.readline(), await second.stdout.readline()) == ("a\n", "b\n")
        first.close()
        await until(lambda: _are(door, ada, 1))
        second.stdin.write("c\n")
        assert await second.stdout.readline() == "c\n"
    assert len(logins(door, ada)) == 1


async def _are(bastion: World, ada: Identity, number: int) -> bool:
    return len(await live(bastion, ada)) == number


@shared
async def test_a_line_that_breaks_ends_every_session_on_it_and_each_is_told(door: World, ada: Identity) -> None:
    async with connected(door, ada) as connection:
        processes = [await connection.create_process("echo $PPID; cat") for _ in range(3)]
        parents = {int(await process.stdout.readline()) for process in processes}
        assert len(parents) == 1
        os.kill(parents.pop(), signal.SIGKILL)
        for process in processes:
            done = await process.wait()
            assert "bastion: The connection to the target was lost." in str(done.stderr)
            assert done.exit_status == 254
        assert (await connection.run("echo anew")).stdout == "anew\n"
        await until(lambda: _are(door, ada, 0))
    assert [s.end for s in await sessions_of(door, ada)] == [End.TARGET] * 4
    assert len(logins(door, ada)) == 2


@shared
async def test_a_revoked_grant_ends_every_session_and_the_line(door: World, ada: Identity) -> None:
    async with connected(door, ada) as connection:
        processes = [await connection.create_process("echo $PPID; cat") for _ in range(3)]
        servers = {int(await process.stdout.readline()) for process in processes}
        (grant,) = [g for g in await door.store.grants() if g.identity == ada.id]
        await door.revoke(grant)
        for process in processes:
            assert "revoked" in str((await process.wait()).stderr)
        await until(lambda: not any(map(_runs, servers)))
        refused = await connection.run("true")
        assert refused.exit_status == 254
        assert "was revoked" in str(refused.stderr)
    assert len(logins(door, ada)) == 1


@shared
async def test_each_channel_is_decided_by_itself(door: World, ada: Identity) -> None:
    """What one channel was allowed opens nothing for another one, though the line is there."""
    async with connected(door, ada, frozenset({Action.SSH_EXEC})) as connection:
        process = await connection.create_process("echo here; cat")
        await process.stdout.readline()
        with pytest.raises(asyncssh.SFTPError):
            async with connection.start_sftp_client() as sftp:
                await sftp.listdir(".")
    denied = [e for e in await door.events(Kind.ACCESS_DENIED) if e.identity == ada.id]
    assert [event.details["action"] for event in denied] == ["ssh:sftp_read"]
    assert len(await sessions_of(door, ada)) == 1


async def test_a_target_that_takes_few_sessions_on_a_connection_gets_more_connections(tmp_path: Path) -> None:
    ada = person("ada")
    async with world(tmp_path, sshd=["MaxSessions 2"]) as bastion, connected(bastion, ada) as connection:
        processes = [await connection.create_process(f"echo {n}; read line; exit {n}") for n in range(5)]
        assert [await process.stdout.readline() for process in processes] == [f"{n}\n" for n in range(5)]
        assert len(logins(bastion, ada)) == 3
        for process in processes:
            process.stdin.write("\n")
        assert [(await process.wait()).exit_status for process in processes] == list(range(5))


async def test_a_target_that_takes_no_session_at_all_says_so(tmp_path: Path) -> None:
    ada = person("ada")
    async with world(tmp_path, sshd=["MaxSessions 0"]) as bastion, connected(bastion, ada) as connection:
        ran = await asyncio.gather(*(connection.run("true") for _ in range(4)))
        assert {r.exit_status for r in ran} == {254}
        assert all("The target refused the session" in str(r.stderr) for r in ran)
