"""Reaching a target: how it proves itself, and what is read when it cannot be reached, each against a real server."""

from __future__ import annotations

import asyncio
import errno
import itertools
import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import asyncssh
import pytest
import pytest_asyncio
from asyncssh.public_key import SSHOpenSSHCertificate, load_keypairs

from bastion.access.hostkeys import HostKeys
from bastion.core.audit import Kind
from bastion.core.session import End
from bastion.core.target import Hop, Target
from bastion.gateways.ssh.hostproof import ProvenConnection, line_of
from bastion.gateways.ssh.target import FORWARDING, TargetUnreachable
from bastion.gateways.ssh.unreachable import Attempt
from tests.services.ports import free_port
from tests.services.sshd import Sshd, make_host_key, running_sshd
from tests.world import WEB_STAGING, World, person, until, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADA = person("ada")
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
REFUSED = 254


@dataclass
class Visitor:
    """Ada, who may reach `WEB_STAGING`, which is whatever server a test puts there."""

    bastion: World
    key: Path

    async def visit(self, command: str = "echo here") -> tuple[int, str, str]:
        """Exit status, what was printed, what was said."""
        ran = await self.bastion.ssh(self.key, f"deploy@{WEB_STAGING}@bastion", command)
        return ran.status, ran.out.decode(), ran.err

    async def is_told(self) -> str:
        """A visit that must fail; what was said, which is in the recording too, under a session that was ended."""
        status, out, said = await self.visit()
        assert (status, out) == (REFUSED, ""), said
        await until(self._is_over)
        session = (await self.bastion.store.sessions(limit=1))[0]
        assert (session.end, session.exit_status) == (End.TARGET, REFUSED)
        last = (await self.bastion.events(Kind.SESSION_ENDED))[-1]
        assert last.session_id == session.id
        said = said.removeprefix("bastion: ").strip()
        assert json.dumps(said)[1:-1] in (await self.bastion.transcript(session)).decode()
        return said

    async def _is_over(self) -> bool:
        return (await self.bastion.store.sessions(limit=1))[0].ended_at is not None

    @contextmanager
    def sshd(self, *extra: str, **how: Any) -> Iterator[Sshd]:
        """A server that trusts staging, in the place of the target."""
        folder = Path(tempfile.mkdtemp(dir=self.bastion.folder))
        with running_sshd(folder, **{**self.bastion.staging_trusts(), "extra": extra, **how}) as sshd:
            self.bastion.put_staging_at(sshd)
            yield sshd


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prepared(door: World) -> Visitor:
    await door.grant(ADA)
    return Visitor(door, await door.certify(ADA))


@pytest.fixture
def ada(prepared: Visitor) -> Iterator[Visitor]:
    targets = cast(dict[str, Target], prepared.bastion.catalogue.targets)
    before = dict(targets)
    yield prepared
    targets.update(before)


def family(pid: int) -> list[int]:
    """The process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


@asynccontextmanager
async def server(sends: bytes, *, closes: bool = True) -> AsyncIterator[int]:
    """Something that takes connections, says ``sends``, and closes or says no more; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sends)
        if not closes:
            await reader.read(-1)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1]


# ------------------------------------------------------------------------------------------------- nobody who answers


async def test_a_port_where_nothing_listens(ada: Visitor) -> None:
    ada.bastion.change_target(port=free_port())
    assert await ada.is_told() == f"{WEB_STAGING} refused the connection: no SSH server is listening there."


async def test_a_name_that_does_not_resolve(ada: Visitor) -> None:
    ada.bastion.change_target(host="no-such-host.invalid")
    expected = f"{WEB_STAGING} is not to be found: the name no-such-host.invalid does not resolve."
    assert await ada.is_told() == expected


async def test_a_host_that_no_route_leads_to(ada: Visitor) -> None:
    attempt = Attempt(ada.bastion.catalogue.targets[WEB_STAGING], "deploy", b"", 10)
    error = attempt.failed(OSError(errno.EHOSTUNREACH, "whatever"), None)
    assert error.public == f"{WEB_STAGING} cannot be reached from the bastion: No route to host."


async def test_something_else_than_ssh(ada: Visitor) -> None:
    async with server(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 1000) as port:
        ada.bastion.change_target(port=port)
        expected = f"What answers at 127.0.0.1 port {port} is not an SSH server, so {WEB_STAGING} was not reached."
        assert await ada.is_told() == expected


async def test_a_server_that_hangs_up(ada: Visitor) -> None:
    async with server(b"SSH-2.0-Broken\r\n") as port:
        ada.bastion.change_target(port=port)
        assert (await ada.is_told()).startswith(f"{WEB_STAGING} ended the connection before the login was done: ")


async def _patiently(ada: Visitor, port: int) -> str:
    """What is said after a patience that is short, for tests."""
    await ada.visit("true")
    session = (await ada.bastion.store.sessions(limit=1))[0]
    target = replace(ada.bastion.catalogue.targets[WEB_STAGING], port=port)
    with pytest.raises(TargetUnreachable) as failed:
        await replace(ada.bastion.connector, patience=0.2).connect(target, session, ())
    return failed.value.public


async def test_a_server_that_says_nothing(ada: Visitor) -> None:
    async with server(b"SSH-2.0-Slow\r\n", closes=False) as port:
        expected = f"{WEB_STAGING} took the connection and then said nothing for 0.2 seconds."
        assert await _patiently(ada, port) == expected


async def test_a_port_whose_packets_vanish(ada: Visitor) -> None:
    """A listener whose queue is full drops what comes, as a firewall does (listen(2))."""
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        said = await _patiently(ada, full.getsockname()[1])
    assert said == f"{WEB_STAGING} did not answer within 0.2 seconds: it is down, or a firewall is silent."


async def test_a_target_that_goes_silent_ends_its_sessions(tmp_path: Path) -> None:
    """Its kernel still takes what is sent; nobody answers."""
    async with world(tmp_path, keepalive=0.1) as bastion:
        await bastion.grant(ADA)
        key = await bastion.certify(ADA)
        client = await asyncio.create_subprocess_exec(
            "ssh", *bastion.ssh_options(key), f"deploy@{WEB_STAGING}@bastion", "echo ready; cat",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert client.stdout is not None
        assert await client.stdout.readline() == b"ready\n"
        for pid in family(bastion.staging.pid):
            os.kill(pid, signal.SIGSTOP)
        _, said = await client.communicate()
        assert (client.returncode, said) == (REFUSED, b"bastion: The connection to the target was lost.\n")

        async def end() -> End | None:
            return (await bastion.only_session()).end

        await until(end)
        assert await end() is End.TARGET


# ------------------------------------------------------------------------------------------------- not the right host


async def test_another_host_key_is_shown_with_the_line_that_would_make_it_right(ada: Visitor) -> None:
    with ada.sshd() as sshd:
        ada.bastion.change_target(host_keys=(OTHER_KEY,))
        said = await ada.is_told()
        assert f"'{sshd.host_key}'" in said
        assert asyncssh.import_public_key(sshd.host_key).get_fingerprint() in said
        assert not any("Accepted" in line or "publickey" in line for line in sshd.log()), "nothing was sent to it"
        ada.bastion.change_target(host_keys=(OTHER_KEY, sshd.host_key))
        assert (await ada.visit())[1] == "here\n"


async def test_a_host_that_has_no_key_of_the_configured_kind(ada: Visitor) -> None:
    with ada.sshd():
        rsa = asyncssh.generate_private_key("ssh-rsa", key_size=2048).export_public_key().decode()
        ada.bastion.change_target(host_keys=(rsa,))
        said = await ada.is_told()
        assert said.startswith(f"{WEB_STAGING} has no host key of a configured kind, only ssh-ed25519. ")
        assert "host_keys" in said


@dataclass
class Authority:
    """Signs host certificates, with OpenSSH's own tool."""

    folder: Path

    def __post_init__(self) -> None:
        self.line = make_host_key(self.folder / "ca")
        self._count = itertools.count()

    def certified(self, *flags: str) -> dict[str, Path]:
        """The arguments of a server with a new key and a certificate made with ``flags``."""
        key = self.folder / f"host-{next(self._count)}"
        key.with_suffix(".pub").write_text(make_host_key(key))
        subprocess.run(
            ["ssh-keygen", "-q", "-s", self.folder / "ca", "-I", "a host", *flags, key.with_suffix(".pub")], check=True
        )
        return {"host_key": key, "host_certificate": Path(f"{key}-cert.pub")}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


async def test_a_host_authority_vouches_for_a_key_that_nobody_has_seen(ada: Visitor, authority: Authority) -> None:
    with ada.sshd(**authority.certified("-h", "-n", "127.0.0.1")):
        ada.bastion.change_target(host_keys=(), host_ca=authority.line)
        assert (await ada.visit())[1] == "here\n"


CERTIFICATES = [
    pytest.param(["-h", "-n", "127.0.0.1", "-V", "20200101:20200102"], "which has expired", id="expired"),
    pytest.param(["-h", "-n", "127.0.0.1", "-V", "20990101:20990102"], "which is not valid yet", id="not yet valid"),
    pytest.param(["-h", "-n", "web-2.internal"], "which is not for 127.0.0.1", id="of another host"),
    pytest.param(["-h"], "which names no host", id="of every host"),
    pytest.param(["-n", "127.0.0.1"], "which is a user's", id="of a user"),
]


@pytest.mark.parametrize(("flags", "sentence"), CERTIFICATES)
async def test_a_host_certificate_must_be(ada: Visitor, authority: Authority, flags: list[str], sentence: str) -> None:
    with ada.sshd(**authority.certified(*flags)) as sshd:
        ada.bastion.change_target(host_keys=(), host_ca=authority.line)
        said = await ada.is_told()
        assert said.startswith(f"{WEB_STAGING} showed a host certificate {sentence}"), said
        assert not any("publickey" in line for line in sshd.log())


async def test_another_authority_vouches_for_nobody(ada: Visitor, authority: Authority) -> None:
    with ada.sshd(**authority.certified("-h", "-n", "127.0.0.1")):
        ada.bastion.change_target(host_keys=(), host_ca=OTHER_KEY)
        assert "which another authority signed than the configured host_ca" in await ada.is_told()


# ---------------------------------------------------------------------------------------------------- another host key


PROVE = "hostkeys-prove-00@openssh.com"


@dataclass
class Changing:
    """A host that gets a new key: the lines and files of both."""

    old: Path
    new: Path

    def __post_init__(self) -> None:
        self.old_line, self.new_line = make_host_key(self.old), make_host_key(self.new)


@pytest.fixture
def changing(tmp_path: Path) -> Changing:
    return Changing(tmp_path / "old", tmp_path / "new")


async def test_a_new_host_key_is_learned_while_the_configured_one_vouches_for_it(
    ada: Visitor, changing: Changing
) -> None:
    """So nobody is locked out between the host's change and the configuration's."""
    bastion = ada.bastion

    async def learned() -> bool:
        return bool(await bastion.events(Kind.HOSTKEY_LEARNED))

    with ada.sshd(f"HostKey {changing.old}", "LogLevel DEBUG1", host_key=changing.new) as sshd:
        bastion.change_target(host_keys=(changing.old_line,))
        assert (await ada.visit())[1] == "here\n"
        await until(learned)
        assert any(PROVE in line for line in sshd.log())
    (event,) = await bastion.events(Kind.HOSTKEY_LEARNED)
    assert event.details == {"key": changing.new_line, "by": changing.old_line}
    assert event.session_id == (await bastion.store.sessions(limit=1))[0].id
    with ada.sshd(host_key=changing.new):
        bastion.change_target(host_keys=(changing.old_line,))
        assert (await ada.visit())[1] == "here\n"
        bastion.change_target(host_keys=(OTHER_KEY,))
        assert "showed another host key" in await ada.is_told(), "what the old one vouched for went with it"


class Liar(asyncssh.SSHServer):
    """Lets everybody in, and announces a host key that is somebody else's: it signs with its own for both."""

    def __init__(self, honest: asyncssh.SSHKey, stolen: asyncssh.SSHKey) -> None:
        (pair,) = load_keypairs([honest])
        self._signers = {honest.public_data: pair, stolen.public_data: pair}

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        async def welcome(_: str, certificate: SSHOpenSSHCertificate) -> asyncssh.SSHKey:
            return certificate.key

        setattr(conn, "_validate_openssh_certificate", welcome)  # noqa: B010 - asyncssh compares principals and logins
        conn._all_server_host_keys.update(self._signers)

    def public_key_auth_supported(self) -> bool:
        return True


async def test_a_new_host_key_that_the_host_does_not_hold_is_not_learned(ada: Visitor) -> None:
    announced: asyncio.Queue[list[str]] = asyncio.Queue()

    class Noted(HostKeys):
        async def announced(self, target: Target, lines: Collection[str], *, by: str, session_id: str) -> None:
            announced.put_nowait(list(lines))

    await ada.visit("true")
    session = (await ada.bastion.store.sessions(limit=1))[0]
    honest, stolen = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    connector = replace(
        ada.bastion.connector, host_keys=Noted(store=ada.bastion.store, clock=ada.bastion.clock, node="test-1")
    )
    async with asyncssh.listen(
        "127.0.0.1", 0, server_host_keys=[honest], server_factory=lambda: Liar(honest, stolen)
    ) as listening:
        target = ada.bastion.change_target(port=listening.get_port(), host_keys=(line_of(honest),))
        async with await connector.connect(target, session, ()):
            assert await announced.get() == [line_of(honest)]


async def test_keys_of_other_kinds_are_not_asked_for(ada: Visitor, changing: Changing, tmp_path: Path) -> None:
    """Every host has one of each; the configuration chose among them."""
    rsa = tmp_path / "rsa"
    rsa.touch(mode=0o600)
    rsa.write_bytes(asyncssh.generate_private_key("ssh-rsa", key_size=2048).export_private_key())
    before = len(await ada.bastion.events())
    with ada.sshd(f"HostKey {changing.old}", "LogLevel DEBUG1", host_key=rsa) as sshd:
        ada.bastion.change_target(host_keys=(changing.old_line,))
        assert (await ada.visit())[1] == "here\n"
        sshd.wait_for_log("Closing connection to")
        assert not any(PROVE in line for line in sshd.log())
    assert {e.kind for e in (await ada.bastion.events())[before:]} <= {
        Kind.ACCESS_ALLOWED, Kind.SESSION_STARTED, Kind.SESSION_ENDED,
    }  # fmt: skip


# -------------------------------------------------------------------------------------------- no agreement, no welcome


async def test_the_line_that_would_let_an_old_host_in_is_said(ada: Visitor) -> None:
    with ada.sshd("KexAlgorithms ecdh-sha2-nistp256,diffie-hellman-group1-sha1"):
        said = await ada.is_told()
        assert said.startswith(f"{WEB_STAGING} and the bastion have no key exchange in common. It has only ecdh-sha2-")
        assert "'algorithms: [ecdh-sha2-nistp256]'" in said


async def test_a_host_that_has_nothing_safe_must_be_updated(ada: Visitor) -> None:
    with ada.sshd("Ciphers aes256-cbc,3des-cbc"):
        assert await ada.is_told() == (
            f"{WEB_STAGING} and the bastion have no cipher in common. It has only aes256-cbc, 3des-cbc. "
            "None of that is safe enough to be configured: the host's SSH server must be updated."
        )


@pytest.mark.parametrize(
    ("extra", "beginning"),
    [
        pytest.param([], "does not accept the bastion's certificate for deploy", id="refused"),
        pytest.param(["MaxAuthTries 1"], "ended the login as one failure too many (MaxAuthTries)", id="at once"),
    ],
)
async def test_a_host_that_does_not_trust_the_bastion_is_told_what_to_trust(
    ada: Visitor, extra: list[str], beginning: str
) -> None:
    with ada.sshd(*extra, user_authorities=[]):
        said = await ada.is_told()
        (authority,) = ada.bastion.staging_trusts()["user_authorities"]
        assert said.startswith(f"{WEB_STAGING} {beginning}")
        assert f"'{authority}' to the file that TrustedUserCAKeys names" in said
        assert "'staging/eu/deploy' to the AuthorizedPrincipalsFile of deploy" in said


# ------------------------------------------------------------------------------------------------- behind another host


@contextmanager
def jump(ada: Visitor, *extra: str, **how: Any) -> Iterator[Sshd]:
    """A host of staging with a login for tunnels, through which the target is reached from now on."""
    folder = Path(tempfile.mkdtemp(dir=ada.bastion.folder))
    trusts = {**ada.bastion.staging_trusts(), "principals": {"tunnel": ["staging/eu/tunnel"]}}
    with running_sshd(folder, **{**trusts, "extra": ["LogLevel VERBOSE", *extra], **how}) as sshd:
        scope = ada.bastion.catalogue.targets[WEB_STAGING].scope
        hop = Target("jump-1", scope, sshd.address, sshd.port, frozenset({"tunnel"}), (sshd.host_key,))
        ada.bastion.change_target(via=Hop("tunnel", hop))
        yield sshd


async def test_a_target_behind_another_one_is_reached_through_it(ada: Visitor) -> None:
    """Each with a certificate of its own, under the session's name; the hop forgets about it when the session ends."""
    with jump(ada) as hop, ada.sshd() as target:
        _, printed, _ = await ada.visit("echo $SSH_CONNECTION; sleep 0.1")
        session = (await ada.bastion.store.sessions(limit=1))[0]
        hop_ports = [line.split(" port ")[-1].split()[0] for line in hop.log() if "Connection from" in line]
        assert printed.split()[1] not in hop_ports, "the target was reached by the hop, not by the bastion"
        assert f"ID {session.id} " in hop.wait_for_log("Accepted publickey for tunnel")
        assert f"ID {session.id} " in target.wait_for_log("Accepted publickey for deploy")
        hop.wait_for_log("Disconnected from user tunnel")


async def test_a_hop_is_permitted_to_forward_and_nothing_else(ada: Visitor) -> None:
    """By its certificate, whatever its own configuration says."""
    with jump(ada) as hop, ada.sshd():
        await ada.visit("true")
        session = (await ada.bastion.store.sessions(limit=1))[0]
        via = ada.bastion.catalogue.targets[WEB_STAGING].via
        assert via is not None
        line = await ada.bastion.connector.connect(via.target, replace(session, login="tunnel"), FORWARDING)
        with closing(line):
            await line.open_connection("127.0.0.1", hop.port)
            with pytest.raises(asyncssh.ChannelOpenError):
                await line.create_process(term_type="xterm", request_pty="force")


@pytest.mark.parametrize("forwarding", ["AllowTcpForwarding no", "PermitOpen none"])
async def test_a_hop_that_does_not_forward_is_told_the_line_that_it_lacks(ada: Visitor, forwarding: str) -> None:
    with jump(ada, forwarding), ada.sshd() as target:
        said = await ada.is_told()
        assert said.startswith(
            f"jump-1.staging.eu, through which {WEB_STAGING} is reached, does not forward connections."
        )
        assert f"'PermitOpen 127.0.0.1:{target.port}'" in said


async def test_a_target_that_is_down_behind_its_hop(ada: Visitor) -> None:
    with jump(ada):
        port = free_port()
        ada.bastion.change_target(port=port)
        said = await ada.is_told()
        assert said.startswith(f"jump-1.staging.eu cannot reach {WEB_STAGING} at 127.0.0.1 port {port}: ")


async def test_a_hop_must_prove_itself_as_any_target(ada: Visitor) -> None:
    with jump(ada) as hop, ada.sshd() as target:
        via = ada.bastion.catalogue.targets[WEB_STAGING].via
        assert via is not None
        ada.bastion.change_target(via=Hop("tunnel", replace(via.target, host_keys=(OTHER_KEY,))))
        said = await ada.is_told()
        assert said.startswith(f"On the way to {WEB_STAGING}: jump-1.staging.eu showed another host key")
        assert not any("publickey" in line for line in hop.log())
        assert not any("Connection from" in line for line in target.log())


async def test_a_target_behind_a_hop_must_prove_itself_too(ada: Visitor) -> None:
    """The hop could lead anywhere."""
    with jump(ada), ada.sshd() as target:
        ada.bastion.change_target(host_keys=(OTHER_KEY,))
        assert (await ada.is_told()).startswith(f"{WEB_STAGING} showed another host key")
        assert not any("publickey" in line for line in target.log())


async def test_a_hop_that_does_not_trust_the_bastion_is_told_what_to_trust(ada: Visitor) -> None:
    with jump(ada, user_authorities=[]), ada.sshd():
        said = await ada.is_told()
        assert said.startswith(
            f"On the way to {WEB_STAGING}: jump-1.staging.eu does not accept the bastion's certificate"
        )
        assert "'staging/eu/tunnel' to the AuthorizedPrincipalsFile of tunnel" in said


# ------------------------------------------------------------------------------------------------ what is relied upon


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_validate_host_key", ["host", "addr", "port", "key_data"]),
        ("_validate_openssh_host_certificate", ["host", "addr", "port", "cert"]),
    ],
)
async def test_what_is_overridden_exists_with_its_parameters(name: str, parameters: list[str]) -> None:
    theirs, ours = getattr(asyncssh.SSHClientConnection, name), getattr(ProvenConnection, name)
    for method in (theirs, ours):
        assert list(method.__code__.co_varnames[1 : method.__code__.co_argcount]) == parameters
