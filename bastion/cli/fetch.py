"""Fetching a certificate and putting it where OpenSSH finds it, with its key in the ssh-agent or in a file."""

from __future__ import annotations

import base64
import binascii
import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bastion.cli import exits, fresh, strongly
from bastion.cli.agent import Agent, NoAgent
from bastion.cli.client import Client, fail
from bastion.cli.sshconfig import SshFiles, write_whole
from bastion.core.certificate import Certificate, parse_certificate, parse_public_key
from bastion.core.errors import Refused


@dataclass(frozen=True, slots=True)
class Fetched:
    """A certificate that is ready for use."""

    domain: str
    """Of its scope, as ``staging.eu``."""
    path: Path
    answer: dict[str, Any]
    """The bastion's own words."""
    in_agent: bool


class _Holder(Protocol):
    """What has the private key."""

    public_key: str
    """The line of a ``.pub`` file."""
    place: str
    """A path, or `fresh.IN_AGENT`."""

    def take(self, certificate: bytes, comment: str, seconds: int) -> None:
        """Make ready for use with this certificate. Raises `NoAgent`."""
        ...


class _InFile:
    def __init__(self, private: Path) -> None:
        public = Path(f"{private}.pub")
        try:
            self.public_key = public.read_text()
        except (OSError, ValueError):
            fail(f"{public} cannot be read. Make it with: ssh-keygen -y -f {private} > {public}", exits.USAGE)
        self.place = str(private)

    def take(self, certificate: bytes, comment: str, seconds: int) -> None:
        """OpenSSH finds the file by itself."""


class _InAgent:
    """A key that is made for one certificate, and is nowhere but in the agent from then on."""

    place = fresh.IN_AGENT

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._key = Ed25519PrivateKey.generate()
        self._public = self._key.public_key().public_bytes_raw()
        blob = b"".join(len(part).to_bytes(4, "big") + part for part in (b"ssh-ed25519", self._public))
        self.public_key = f"ssh-ed25519 {base64.b64encode(blob).decode()} bastion"

    def take(self, certificate: bytes, comment: str, seconds: int) -> None:
        self._agent.add(certificate, self._public, self._key.private_bytes_raw(), comment, seconds)


def fetch(client: Client, files: SshFiles, target: str, *, key: Path | None, use_agent: bool) -> Fetched:
    """Fetch a certificate for the scope of ``target``, over ``key`` or one of our own.

    Exits with a sentence on standard error when there is none to be had; what was there before still is.
    """
    if key is None and use_agent:
        try:
            with Agent.of_this_session() as agent:
                return _fetch(client, files, target, _InAgent(agent))
        except NoAgent as reason:
            if os.environ.get("SSH_AUTH_SOCK"):
                typer.echo(f"The key is kept in {files.key}: {reason}.", err=True)
    return _fetch(client, files, target, _InFile(key.absolute() if key is not None else ensure_key(files)))


def ensure_key(files: SshFiles) -> Path:
    """A key of our own, made by ssh-keygen the first time."""
    if not files.key.exists():
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bastion", "-f", str(files.key)]
        try:
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            fail(f"ssh-keygen could not make a key: {error}", exits.USAGE)
    return files.key


def _fetch(client: Client, files: SshFiles, target: str, holder: _Holder) -> Fetched:
    asked = {"public_key": holder.public_key, "target": target}
    client, answer = strongly.ask(client, "POST", "/api/v1/certificates", asked)
    grants = client.call("GET", "/api/v1/access")["grants"]
    try:
        blob, certificate = _read(answer["certificate"], holder.public_key)
        _, environment, region, grant = certificate.principals[0].split("/")
        reached = files.reached().at(answer["ssh_address"], answer["ssh_host_key"])
        reached = reached.with_scopes([f"{environment}/{region}"]).with_grants(grants)
        domain = f"{environment}.{region}"
        seconds = int((certificate.valid_before - certificate.valid_after).total_seconds())
        path = fresh.certificate_of(domain)
        _forget(path)
        holder.take(blob, f"bastion {domain} {grant}", seconds)
        line = f"{answer['certificate'].split()[0]} {base64.b64encode(blob).decode()}"
        # By our own clock and from now, so that a clock that is wrong does not make every certificate look old.
        write_whole(path, f"{line} {fresh.note(time.time() + seconds, holder.place)}\n")
        files.write(replace(reached, scopes=dict(reached.scopes) | {domain: holder.place}))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, Refused) as error:
        fail(f"What the bastion answered cannot be used: {error}", exits.REFUSED)
    except OSError as error:
        fail(f"{files.directory} cannot be written: {error.strerror or error}", exits.USAGE)
    return Fetched(domain, path, answer, holder.place == fresh.IN_AGENT)


def _read(line: str, public_key: str) -> tuple[bytes, Certificate]:
    """Raises ValueError: it is not a certificate over our key."""
    blob = binascii.a2b_base64(line.split()[1])
    certificate = parse_certificate(blob)
    if certificate.public_key != parse_public_key(public_key):
        raise ValueError("the certificate is for another key")
    return blob, certificate


def _forget(path: Path) -> None:
    """Take the certificate that is replaced out of the agent; keys without use would pile up there."""
    with suppress(OSError, ValueError, IndexError, NoAgent):
        blob = binascii.a2b_base64(path.read_text().split(" ")[1])
        with Agent.of_this_session() as agent:
            agent.remove(blob)
