"""Keys in the ssh-agent: OpenSSH's own agent, one that takes nothing, and one with a security key in it."""

from __future__ import annotations

import asyncio
import binascii
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bastion.cli import exits
from bastion.cli.agent import Agent, NoAgent
from bastion.demo.stage import LOGIN, STAGING_WEB
from tests.cli.authenticator import Authenticator, agent_of, string
from tests.cli.contractor import Contractor, contractor, ssh_agent


async def listed(them: Contractor) -> list[str]:
    done = await them.run("ssh-add", "-L")
    return [line for line in done.out.splitlines() if line.startswith("ssh-")]


async def test_the_private_key_is_in_the_agent_and_nowhere_else(tmp_path: Path) -> None:
    async with contractor(tmp_path / "stage") as them, ssh_agent(tmp_path / "agent") as environment:
        them.extra |= environment
        assert (await them.run("bastion", "config-ssh")).status == exits.OK
        done = await them.ssh(STAGING_WEB, "echo $LOGNAME")
        assert (done.status, done.out) == (0, f"{LOGIN}\n"), done.err
        assert len(await listed(them)) == 1
        assert (await listed(them))[0].startswith("ssh-ed25519-cert-v01@openssh.com ")
        private = [path for path in them.home.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
        assert private == []

        # A new certificate has a new key; the old one does not stay behind.
        first = them.certificate.read_text().split()[1]
        assert (await them.run("bastion", "cert", STAGING_WEB)).status == exits.OK
        assert them.certificate.read_text().split()[1] != first
        assert len(await listed(them)) == 1

        # An agent that has forgotten it is asked, not believed.
        assert (await them.run("ssh-add", "-D")).status == 0
        done = await them.ssh(STAGING_WEB, "echo again")
        assert (done.status, done.out) == (0, "again\n"), done.err
        assert len(await listed(them)) == 1

        # A shell without the agent gets a key in a file, and says nothing about it.
        del them.extra["SSH_AUTH_SOCK"]
        done = await them.ssh(STAGING_WEB, "echo from a file")
        assert (done.status, done.out) == (0, "from a file\n"), done.err
        assert (them.ssh_files / "id_ed25519").stat().st_mode & 0o077 == 0

        them.extra |= environment
        assert (await them.run("bastion", "cert", STAGING_WEB)).status == exits.OK
        assert len(await listed(them)) >= 1
        assert (await them.run("bastion", "logout")).status == exits.OK
        assert first not in "".join(await listed(them))
        assert not list(them.ssh_files.glob("*-cert.pub"))


async def test_no_agent_is_used_when_it_is_not_wanted(tmp_path: Path) -> None:
    async with contractor(tmp_path / "stage") as them, ssh_agent(tmp_path / "agent") as environment:
        them.extra |= environment
        assert (await them.run("bastion", "config-ssh", "--no-agent")).status == exits.OK
        assert "--no-agent" in them.config.read_text()
        done = await them.ssh(STAGING_WEB, "echo $LOGNAME")
        assert (done.status, done.out) == (0, f"{LOGIN}\n"), done.err
        assert await listed(them) == []
        issued = them.certificate.read_bytes()
        assert (await them.ssh(STAGING_WEB, "true")).status == 0
        assert them.certificate.read_bytes() == issued


async def test_an_agent_that_takes_no_keys_is_named_and_the_key_is_a_file(tmp_path: Path) -> None:
    async with (
        contractor(tmp_path / "stage") as them,
        agent_of(Authenticator(), tmp_path / "sock") as environment,
    ):
        them.extra |= environment
        done = await them.run("bastion", "cert", STAGING_WEB)
        assert done.status == exits.OK
        assert "takes no key that is to end" in done.err
        assert (await them.run("ssh", "-F", str(them.ssh_files / "config"), STAGING_WEB, "true")).status == 0


async def test_a_security_key_logs_in_when_it_was_touched_and_only_then(tmp_path: Path) -> None:
    """OpenSSH's own client; what signs for it is an authenticator in software, which can leave the flag out."""
    authenticator = Authenticator()
    async with contractor(tmp_path / "stage") as them, agent_of(authenticator, tmp_path / "sock") as environment:
        them.extra |= environment
        key = them.home / "id_ed25519_sk"
        Path(f"{key}.pub").write_text(authenticator.public_line)
        assert (await them.run("bastion", "config-ssh", "--key", str(key))).status == exits.OK
        done = await them.ssh(STAGING_WEB, "echo touched")
        assert (done.status, done.out) == (0, "touched\n"), done.err
        shown = await them.run("ssh-keygen", "-L", "-f", str(them.certificate))
        assert "sk-ssh-ed25519-cert-v01@openssh.com" in shown.out
        assert "no-touch-required" not in shown.out
        signed = authenticator.signed
        assert signed >= 2  # the bastion's own connection, and the target's inside it

        authenticator.touched = False
        done = await them.ssh(STAGING_WEB, "echo untouched")
        assert (done.status, done.out) == (255, "")
        assert authenticator.signed > signed  # it was tried
        assert "Permission denied" in done.err

        authenticator.touched = True
        assert (await them.ssh(STAGING_WEB, "true")).status == 0
        assert len(await them.events("certificate:issued")) == 1


def key_and_blob() -> tuple[bytes, bytes, bytes]:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()
    return public, key.private_bytes_raw(), string(b"ssh-ed25519") + string(public)


async def test_a_key_in_the_agent_ends_by_itself(tmp_path: Path) -> None:
    async with contractor(tmp_path / "stage") as them, ssh_agent(tmp_path / "agent") as environment:
        them.extra |= environment
        assert (await them.run("bastion", "cert", STAGING_WEB)).status == exits.OK
        # The same certificate and another key of ours would not match, so OpenSSH's agent must refuse that.
        blob = binascii.a2b_base64(them.certificate.read_text().split()[1])
        public, seed, _ = key_and_blob()

        def try_it() -> tuple[bool, bool]:
            with Agent(environment["SSH_AUTH_SOCK"]) as agent:
                before = agent.holds(blob)
                with pytest.raises(NoAgent, match="takes no key"):
                    agent.add(blob, public, seed, "another's", 60)
                agent.remove(blob)
                return before, agent.holds(blob)

        assert await asyncio.to_thread(try_it) == (True, False)


async def test_a_key_is_forgotten_when_its_time_is_over(tmp_path: Path) -> None:
    """By OpenSSH's agent, and by the second; its own list says so."""
    import asyncssh

    async with ssh_agent(tmp_path / "agent") as environment:
        authority, key = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
        certificate = authority.generate_user_certificate(key, "id", principals=["x"])
        _, at = certificate.public_data, key.public_data
        public = at[-32:]
        seed = key.export_private_key("pkcs8-der")[-32:]

        def holds() -> bool:
            with Agent(environment["SSH_AUTH_SOCK"]) as agent:
                return agent.holds(certificate.public_data)

        def add() -> None:
            with Agent(environment["SSH_AUTH_SOCK"]) as agent:
                agent.add(certificate.public_data, public, seed, "bastion", 1)

        await asyncio.to_thread(add)
        assert await asyncio.to_thread(holds)
        async with asyncio.timeout(30):
            while await asyncio.to_thread(holds):
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("answer", [b"", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\x05"])
async def test_an_agent_that_answers_nonsense_is_none(tmp_path: Path, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "sock")

    def ask() -> None:
        with Agent(str(tmp_path / "sock")) as agent, pytest.raises(NoAgent):
            agent.holds(b"x")

    await asyncio.to_thread(ask)
    server.close()
    await server.wait_closed()


def test_no_agent_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(NoAgent, match="there is no ssh-agent"):
        Agent.of_this_session()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    with pytest.raises(NoAgent, match="does not answer"):
        Agent.of_this_session()
