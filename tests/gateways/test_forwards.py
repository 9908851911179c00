"""Forwards by OpenSSH's own client, to services at a real sshd: what is carried, written, and cut."""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bastion.adapters.recordings.writing import FileRecorder
from bastion.core.audit import Kind
from bastion.core.errors import Unavailable
from bastion.core.geofence import Place
from bastion.core.identity import Identity
from bastion.core.opening import Opening
from bastion.core.policy import SSH_ACTIONS, Action
from bastion.core.session import End, Session
from bastion.core.target import Target
from bastion.gateways.ssh import pipe
from bastion.gateways.ssh.hostproof import ProvenConnection
from bastion.gateways.ssh.target import Connector
from tests.services.ports import free_port
from tests.services.sockets import ask
from tests.world import WEB_STAGING, World, person, until

shared = pytest.mark.asyncio(loop_scope="module")

NAMES = (f"person-{number}" for number in range(1000))
TARGET = f"deploy@{WEB_STAGING}@bastion"


@pytest.fixture
def ada() -> Identity:
    """Somebody new, whose sessions are of one test."""
    return person(next(NAMES))


@dataclass
class Echo:
    """A service that gives back what it gets, in capitals."""

    port: int
    path: str = ""
    visits: int = 0
    open: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        self.open += 1
        try:
            while data := await reader.read(65536):
                writer.write(data.upper())
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def echo(host: str = "127.0.0.1") -> AsyncIterator[Echo]:
    service = Echo(0)
    server = await asyncio.start_server(service.serve, host, 0)
    service.port = server.sockets[0].getsockname()[1]
    try:
        yield service
    finally:
        server.close()


@asynccontextmanager
async def socket_echo(path: Path) -> AsyncIterator[Echo]:
    service = Echo(0, str(path))
    server = await asyncio.start_unix_server(service.serve, path)
    try:
        yield service
    finally:
        server.close()


@dataclass
class Client:
    """`ssh` that is running."""

    process: asyncio.subprocess.Process
    said: bytes = b""

    async def says(self, text: str) -> None:
        await until(lambda: text.encode() in self.said, 15)

    async def listen(self) -> None:
        assert self.process.stderr is not None
        while data := await self.process.stderr.read(4096):
            self.said += data


@asynccontextmanager
async def ssh(
    bastion: World, key: Path, *options: str, run: str | None = None, target: str = TARGET, **environment: str
) -> AsyncIterator[Client]:
    """The client in the background, which is ended with the block; without ``run`` it opens no session (-N)."""
    process = await asyncio.create_subprocess_exec(
        "ssh", *bastion.ssh_options(key), *options, *(["-N", target] if run is None else [target, run]),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(bastion.folder), "LANG": "C.UTF-8", **environment},
    )  # fmt: skip
    client = Client(process)
    listening = asyncio.create_task(client.listen())
    try:
        yield client
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await listening


async def ready(bastion: World, ada: Identity, *besides: Action) -> Path:
    await bastion.grant(ada, actions=SSH_ACTIONS | frozenset(besides))
    return await bastion.certify(ada)


HERE = ("127.0.0.1",)
LOOPBACKS = (*HERE, "::1")
"""sshd that is to listen at any port may have got it on one of them alone."""


async def connect(port: int, addresses: Sequence[str] = HERE) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """To a port that `ssh` or sshd is about to listen at."""
    async with asyncio.timeout(30):
        while True:
            for address in addresses:
                try:
                    return await asyncio.open_connection(address, port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)


async def exchange(port: int, data: bytes, addresses: Sequence[str] = HERE) -> bytes:
    """Send ``data`` and an end, and read everything; nothing when it is cut off."""
    reader, writer = await connect(port, addresses)
    writer.write(data)
    writer.write_eof()
    try:
        async with asyncio.timeout(15):
            return await reader.read(-1)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def sessions_of(bastion: World, ada: Identity, action: Action | None = None) -> list[Session]:
    sessions = [s for s in await bastion.store.sessions() if s.identity == ada.id and action in (None, s.action)]
    return sorted(sessions, key=lambda s: (s.started_at, s.id))


async def all_ended(bastion: World, ada: Identity) -> list[Session]:
    async def over() -> bool:
        return all(s.ended_at for s in await sessions_of(bastion, ada))

    await until(over, 10)
    return await sessions_of(bastion, ada)


async def marks(bastion: World, session: Session) -> str:
    import json

    lines = [json.loads(line) for line in (await bastion.transcript(session)).splitlines()[1:]]
    return "\n".join(text for _, kind, text in lines if kind == "m")


def allow(bastion: World, *openings: str) -> None:
    """Give staging's web-1 a forward list."""
    targets: Any = bastion.catalogue.targets
    targets[WEB_STAGING] = replace(targets[WEB_STAGING], forward=tuple(map(Opening.parse, openings)))


# -L -----------------------------------------------------------------------------------------------------------------


@shared
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_port_of_the_targets_loopback_is_reached_without_a_shell(door: World, ada: Identity, host: str) -> None:
    key, port = await ready(door, ada), free_port()
    sent = os.urandom(300_000).replace(b"a", b"b")
    async with echo() as service, ssh(door, key, "-L", f"{port}:{host}:{service.port}"):
        assert await exchange(port, sent) == sent.upper()
        (session,) = await all_ended(door, ada)
    assert (session.action, session.command) == (Action.SSH_FORWARD_LOOPBACK, f"to {host}:{service.port}")
    written = await marks(door, session)
    assert written.startswith(f"forward to {host}:{service.port} from 127.0.0.1:")
    there, back = hashlib.sha256(sent).hexdigest(), hashlib.sha256(sent.upper()).hexdigest()
    assert (
        f"{len(sent)} bytes sha256 {there} from the client, {len(sent)} bytes sha256 {back} from the target" in written
    )
    kinds = [e.kind for e in await door.events() if e.session_id == session.id]
    assert kinds == [Kind.ACCESS_ALLOWED, Kind.SESSION_STARTED, Kind.SESSION_ENDED]
    assert {e.details["forward"] for e in await door.events() if e.session_id == session.id} == {session.command}


@shared
async def test_localhost_is_where_the_service_is_whichever_loopback_that_is(door: World, ada: Identity) -> None:
    key, port = await ready(door, ada), free_port()
    async with echo("::1") as service, ssh(door, key, "-L", f"{port}:localhost:{service.port}"):
        assert await exchange(port, b"six") == b"SIX"


@shared
async def test_what_nobody_listens_at_is_refused_by_the_target_and_the_client_reads_so(
    door: World, ada: Identity
) -> None:
    key, port, nobody = await ready(door, ada), free_port(), free_port()
    async with ssh(door, key, "-L", f"{port}:127.0.0.1:{nobody}") as client:
        assert await exchange(port, b"anybody?") == b""
        await client.says("The target could not connect: ")
        (session,) = await all_ended(door, ada)
    assert session.end is End.TARGET


@shared
@pytest.mark.parametrize("name", [TARGET, f"deploy@{WEB_STAGING}"], ids=["by the name", "through ProxyJump"])
async def test_a_socks_proxy_reaches_the_loopback_and_nothing_that_is_not_listed(
    door: World, ada: Identity, name: str
) -> None:
    key, port = await ready(door, ada, Action.SSH_FORWARD), free_port()
    async with echo() as service, ssh(door, key, "-D", str(port), target=name) as client:
        assert await through_socks(port, "127.0.0.1", service.port, b"by socks") == b"BY SOCKS"
        assert await through_socks(port, "elsewhere.example.com", service.port, b"x") == b""
        await client.says("is not on the target's forward list")
        assert service.visits == 1


async def through_socks(proxy: int, host: str, port: int, data: bytes) -> bytes:
    """What a service answers through a SOCKS 5 proxy (RFC 1928); nothing when the proxy refuses."""
    reader, writer = await connect(proxy)
    writer.write(b"\x05\x01\x00\x05\x01\x00\x03" + bytes([len(host)]) + host.encode() + struct.pack(">H", port))
    try:
        async with asyncio.timeout(15):
            greeting = await reader.readexactly(4)
            if greeting[3]:
                return b""
            await reader.readexactly(8)
            writer.write(data)
            writer.write_eof()
            return await reader.read(-1)
    except asyncio.IncompleteReadError:
        return b""
    finally:
        writer.close()


@shared
async def test_vs_codes_way_works_and_both_of_its_connections_are_recorded(door: World, ada: Identity) -> None:
    """`ssh -T -D port host bash`: a server is started by the shell, and reached through the proxy."""
    key, port = await ready(door, ada), free_port()
    async with echo() as service, ssh(door, key, "-T", "-D", str(port), run="bash") as client:
        assert client.process.stdin is not None
        assert client.process.stdout is not None
        client.process.stdin.write(b"echo listening=on\n")
        assert await client.process.stdout.readline() == b"listening=on\n"
        answers = await asyncio.gather(*(through_socks(port, "127.0.0.1", service.port, b"hi") for _ in range(5)))
        assert answers == [b"HI"] * 5
        client.process.stdin.write_eof()
        await client.process.wait()
    actions = [session.action for session in await all_ended(door, ada)]
    assert sorted(actions) == [Action.SSH_EXEC, *[Action.SSH_FORWARD_LOOPBACK] * 5]


@shared
async def test_a_forward_needs_its_action_and_the_target_its_list(door: World, ada: Identity) -> None:
    await door.grant(ada, actions=SSH_ACTIONS - {Action.SSH_FORWARD_LOOPBACK} | {Action.SSH_FORWARD})
    key, port, other = await door.certify(ada), free_port(), free_port()
    async with echo() as service:
        lead = ("-L", f"{port}:127.0.0.1:{service.port}", "-L", f"{other}:10.20.0.7:{service.port}")
        async with ssh(door, key, *lead) as client:
            assert await exchange(port, b"x") == b""
            await client.says("does not include ssh:forward_loopback")
            assert await exchange(other, b"x") == b""
            await client.says("is not on the target's forward list")
        assert service.visits == 0
    denied = [e for e in await door.events(Kind.ACCESS_DENIED) if e.identity == ada.id]
    assert [e.details["forward"] for e in denied] == [f"to 127.0.0.1:{service.port}", f"to 10.20.0.7:{service.port}"]
    assert not await sessions_of(door, ada)


CAUSES = {"revoked": End.REVOKED, "expired": End.EXPIRED, "left the fence": End.FENCE}


async def come_to_pass(cause: str, door: World, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    match cause:
        case "revoked":
            await door.revoke(await door.store.grant(session.grant_id))
        case "expired":
            monkeypatch.setattr(door.clock, "skew", door.clock.skew + (session.until - door.clock.now()))
        case _:
            monkeypatch.setattr(door.locator, "locate", lambda address: Place(address, "BR", "a test"))


@shared
@pytest.mark.parametrize("cause", CAUSES)
async def test_what_ends_a_grant_cuts_its_forwards(
    door: World, ada: Identity, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, port = await ready(door, ada), free_port()
    async with echo() as service, ssh(door, key, "-L", f"{port}:127.0.0.1:{service.port}"):
        reader, writer = await connect(port)
        writer.write(b"still")
        assert await reader.readexactly(5) == b"STILL"
        (session,) = await sessions_of(door, ada)
        await come_to_pass(cause, door, session, monkeypatch)
        async with asyncio.timeout(15):
            assert await reader.read(-1) == b""
        writer.close()
        await until(lambda: service.open == 0)
        (session,) = await all_ended(door, ada)
    assert session.end is CAUSES[cause]
    assert "5 bytes sha256" in await marks(door, session)


@shared
async def test_a_client_that_leaves_ends_its_forwards_and_the_service_hears_it(door: World, ada: Identity) -> None:
    key, port = await ready(door, ada), free_port()
    async with echo() as service:
        async with ssh(door, key, "-L", f"{port}:127.0.0.1:{service.port}"):
            _, writer = await connect(port)
            await until(lambda: service.open == 1, 15)
        writer.close()
        await until(lambda: service.open == 0, 15)
    (session,) = await all_ended(door, ada)
    assert session.end is End.CLIENT


# -R and sockets -------------------------------------------------------------------------------------------------------


async def allocated(client: Client) -> int:
    """The port that the target chose."""
    await client.says("Allocated port ")
    return int(client.said.split(b"Allocated port ")[1].split()[0])


async def nobody_listens(port: int) -> None:
    async def is_refused() -> bool:
        for address in LOOPBACKS:
            try:
                _, writer = await asyncio.open_connection(address, port)
            except ConnectionRefusedError:
                continue
            writer.close()
            return False
        return True

    await until(is_refused, 10)


@shared
@pytest.mark.parametrize("cause", CAUSES)
async def test_the_target_listens_for_a_client_and_stops_with_the_grant(
    door: World, ada: Identity, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await ready(door, ada, Action.SSH_FORWARD_REMOTE)
    async with echo() as service, ssh(door, key, "-R", f"0:127.0.0.1:{service.port}") as client:
        port = await allocated(client)
        assert await exchange(port, b"from there", LOOPBACKS) == b"FROM THERE"
        reader, writer = await connect(port, LOOPBACKS)
        writer.write(b"live")
        assert await reader.readexactly(4) == b"LIVE"
        (session,) = await sessions_of(door, ada)
        await come_to_pass(cause, door, session, monkeypatch)
        async with asyncio.timeout(15):
            assert await reader.read(-1) == b""
        writer.close()
        (session,) = await all_ended(door, ada)
        await nobody_listens(port)
    assert (session.action, session.end) == (Action.SSH_FORWARD_REMOTE, CAUSES[cause])
    written = await marks(door, session)
    assert "stream 1 closed: " in written
    assert "stream 2 opened" in written


@shared
async def test_a_listener_that_the_client_cancels_is_gone_and_its_streams_go_on(door: World, ada: Identity) -> None:
    key = await ready(door, ada, Action.SSH_FORWARD_REMOTE)
    async with echo() as service:
        lead = ("-R", f"0:127.0.0.1:{service.port}")
        async with mastered(door, key, *lead) as (client, order):
            port = await allocated(client)
            reader, writer = await connect(port, LOOPBACKS)
            writer.write(b"before")
            assert await reader.readexactly(6) == b"BEFORE"
            await order("cancel", *lead)
            await nobody_listens(port)
            writer.write(b"after")
            assert await reader.readexactly(5) == b"AFTER"
            assert not [s for s in await sessions_of(door, ada) if s.ended_at]
            writer.close()
            (session,) = await all_ended(door, ada)
    assert session.end is End.CLIENT
    assert hashlib.sha256(b"beforeafter").hexdigest() in await marks(door, session)


@shared
@pytest.mark.parametrize("way", ["-L", "-R"])
async def test_a_stream_whose_line_cannot_be_written_is_cut_and_carries_nothing_more(
    door: World, ada: Identity, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded before delivered: what has no digest in the transcript reaches nobody."""
    key, port = await ready(door, ada, Action.SSH_FORWARD_REMOTE), 0 if way == "-R" else free_port()
    monkeypatch.setattr(pipe, "DECLARED", 10)
    async with echo() as service, ssh(door, key, way, f"{port}:127.0.0.1:{service.port}") as client:
        port = port or await allocated(client)
        reader, writer = await connect(port, LOOPBACKS)
        writer.write(b"few")
        assert await reader.readexactly(3) == b"FEW"

        def full(*_: Any) -> None:
            raise Unavailable("The recording cannot be written.", detail="No space left on device")

        monkeypatch.setattr(FileRecorder, "mark", full)
        writer.write(b"more than a few")
        async with asyncio.timeout(15):
            assert await reader.read(-1) == b""
        writer.close()
        await until(lambda: service.open == 0, 15)
        (session,) = await all_ended(door, ada)
    assert session.end is End.RECORDER


@shared
async def test_a_listener_needs_its_action_and_the_refusal_is_on_standard_error(door: World, ada: Identity) -> None:
    key, port = await ready(door, ada), free_port()
    async with ssh(door, key, "-R", f"{port}:127.0.0.1:9", run="sleep 20") as client:
        await client.says("bastion: No live grant lets")
        await client.says("ssh:forward_remote")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


@shared
async def test_a_socket_at_the_target_is_reached(door: World, ada: Identity, tmp_path: Path) -> None:
    key, port = await ready(door, ada, Action.SSH_FORWARD_SOCKET), free_port()
    async with socket_echo(tmp_path / "s") as service, ssh(door, key, "-L", f"{port}:{service.path}"):
        assert await exchange(port, b"socket") == b"SOCKET"
    (session,) = await all_ended(door, ada)
    assert session.action is Action.SSH_FORWARD_SOCKET
    assert hashlib.sha256(b"SOCKET").hexdigest() in await marks(door, session)


@asynccontextmanager
async def mastered(bastion: World, key: Path, *options: str) -> AsyncIterator[tuple[Client, Callable[..., Any]]]:
    """A client that takes orders (ControlMaster), and what gives it one: `ssh -O`."""
    with tempfile.TemporaryDirectory(prefix="bastion-") as folder:
        control = f"{folder}/control"

        async def order(what: str, *more: str, run: str = "") -> str:
            """Something that the master does (`-O`), or a command by its connection; what that says."""
            await until(Path(control).exists, 15)
            process = await asyncio.create_subprocess_exec(
                "ssh", "-F", "none", "-S", control, *(["-O", what] if what else []), *more, TARGET, run,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
            printed, said = await process.communicate()
            assert process.returncode == 0, said
            return printed.decode()

        async with ssh(bastion, key, "-M", "-S", control, *options) as client:
            yield client, order


@shared
@pytest.mark.parametrize("cause", ["the client leaves", "the client cancels it", "revoked"])
async def test_a_socket_at_the_target_leads_to_the_client_and_is_removed_with_its_end(
    door: World, ada: Identity, tmp_path: Path, cause: str
) -> None:
    key, path = await ready(door, ada, Action.SSH_FORWARD_REMOTE_SOCKET), tmp_path / "there.sock"
    async with echo() as service:
        lead = ("-R", f"{path}:127.0.0.1:{service.port}")
        async with mastered(door, key, *lead) as (_, order):
            assert await ask(path, b"by socket") == b"BY SOCKET"
            (session,) = await sessions_of(door, ada)
            if cause == "revoked":
                await door.revoke(await door.store.grant(session.grant_id))
            if cause == "the client cancels it":
                await order("cancel", *lead)
            if cause != "the client leaves":
                (session,) = await all_ended(door, ada)
                assert not path.exists()
    (session,) = await all_ended(door, ada)
    assert not path.exists()
    assert (session.action, session.command) == (Action.SSH_FORWARD_REMOTE_SOCKET, f"from socket {path}")
    assert session.end is (End.REVOKED if cause == "revoked" else End.CLIENT)
    written = await marks(door, session)
    assert f"9 bytes sha256 {hashlib.sha256(b'by socket').hexdigest()} from the target" in written
    assert written.endswith(f"socket {path} removed")


@shared
async def test_what_took_the_place_of_a_socket_is_not_removed(door: World, ada: Identity, tmp_path: Path) -> None:
    key, path = await ready(door, ada, Action.SSH_FORWARD_REMOTE_SOCKET), tmp_path / "there.sock"
    async with ssh(door, key, "-R", f"{path}:127.0.0.1:9"):
        await until(path.exists, 15)
        path.unlink()
        path.write_text("mine")
    (session,) = await all_ended(door, ada)
    assert path.read_text() == "mine"
    assert (await marks(door, session)).endswith("is something else by now, and stays")


@shared
async def test_a_socket_at_the_target_needs_its_action_and_the_refusal_is_on_standard_error(
    door: World, ada: Identity, tmp_path: Path
) -> None:
    key, path = await ready(door, ada, Action.SSH_FORWARD_REMOTE, Action.SSH_FORWARD_SOCKET), tmp_path / "there.sock"
    async with ssh(door, key, "-R", f"{path}:127.0.0.1:9", run="sleep 20") as client:
        await client.says("does not include ssh:forward_remote_socket")
        assert not path.exists()


@shared
async def test_a_socket_is_made_only_where_its_whole_path_says(door: World, ada: Identity) -> None:
    key = await ready(door, ada, Action.SSH_FORWARD_REMOTE_SOCKET)
    for path in ("./here.sock", "/tmp/../etc/x", "/tmp//x", "/tmp/" + "x" * 100):
        async with ssh(door, key, "-R", f"{path}:127.0.0.1:9", run="sleep 20") as client:
            await client.says("socket")
    denied = [e for e in await door.events(Kind.ACCESS_DENIED) if e.identity == ada.id]
    assert len(denied) == 4
    assert not [s for s in await sessions_of(door, ada) if s.action is Action.SSH_FORWARD_REMOTE_SOCKET]


@shared
@pytest.mark.parametrize(("option", "said"), [("-A", "The agent is not forwarded"), ("-X", "X11 is not forwarded")])
async def test_what_is_refused_says_so_and_the_session_goes_on(
    door: World, ada: Identity, option: str, said: str, tmp_path: Path
) -> None:
    key = await ready(door, ada)
    agent = tmp_path / "agent"
    authority = tmp_path / "xauth"
    authority.touch()
    async with socket_echo(agent), ssh(
        door, key, option, "-o", f"IdentityAgent={agent}", "-o", "XAuthLocation=/bin/true",
        run="echo $SSH_AUTH_SOCK$DISPLAY.",
        DISPLAY="127.0.0.1:9", XAUTHORITY=str(authority), SSH_AUTH_SOCK=str(agent),
    ) as client:  # fmt: skip
        assert client.process.stdout is not None
        assert await client.process.stdout.readline() == b".\n"
        await client.says(said)


@shared
async def test_the_agent_is_reached_with_its_action_and_only_while_the_grant_lives(
    door: World, ada: Identity, tmp_path: Path
) -> None:
    key = await ready(door, ada, Action.SSH_AGENT)
    ask = "import os,socket; s=socket.socket(socket.AF_UNIX); s.connect(os.environ['SSH_AUTH_SOCK']); " \
          "s.send(b'question'); print(s.recv(99), flush=True); print(s.recv(99), flush=True)"  # fmt: skip
    options = ("-A", "-o", f"IdentityAgent={tmp_path / 'agent'}", "-o", "PubkeyAuthentication=yes")
    async with socket_echo(tmp_path / "agent") as agent, ssh(
        door, key, *options, run=f'{sys.executable} -c "{ask}"', SSH_AUTH_SOCK=agent.path
    ) as client:  # fmt: skip
        assert client.process.stdout is not None
        assert await client.process.stdout.readline() == b"b'QUESTION'\n"
        (session,) = await sessions_of(door, ada, Action.SSH_AGENT)
        await door.revoke(await door.store.grant(session.grant_id))
        await client.process.wait()
    await all_ended(door, ada)
    assert hashlib.sha256(b"QUESTION").hexdigest() in await marks(door, session)


@shared
async def test_the_agent_is_there_for_the_sessions_that_asked_for_it_and_permitted_to_no_other_line(
    door: World, ada: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sshd shows it to every session of a connection, and those of one client share theirs."""
    key, permitted = await ready(door, ada, Action.SSH_AGENT), []
    connect = Connector.connect

    async def seen(self: Connector, target: Target, session: Session, permits: Collection[str]) -> ProvenConnection:
        permitted.append("permit-agent-forwarding" in permits)
        return await connect(self, target, session, permits)

    monkeypatch.setattr(Connector, "connect", seen)
    option = f"IdentityAgent={tmp_path / 'agent'}"
    async with socket_echo(tmp_path / "agent"), mastered(door, key, "-A", "-o", option) as (_, order):
        shown = [await order("", flag, "-o", option, run="echo $SSH_AUTH_SOCK") for flag in ("-a", "-A", "-a")]
    assert [bool(path.strip()) for path in shown] == [False, True, False]
    assert permitted == [False, True]
