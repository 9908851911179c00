"""The files that let plain OpenSSH find its way, all of our own and under ``$XDG_CONFIG_HOME/bastion/ssh``:

``hosts`` says how each scope's targets are reached, for ``~/.ssh/config`` to include; ``config`` is complete in itself,
for ``ssh -F``; beside them a known_hosts, a key where no ssh-agent keeps one, and a certificate for each scope.
Nothing of the user's ``~/.ssh`` is touched here.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from bastion.cli import fresh
from bastion.core.target import LOGIN, Scope

_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", re.ASCII)
_HOST_KEY = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/=]+", re.ASCII)
"""What is written into files that OpenSSH obeys is checked, whoever sent it: a line more would be a command."""

ALIAS = "bastion"
"""What the bastion's host key is known by, whatever its address."""

_USER = """\
Host {target}
    User {login}
"""

_SCOPE = """\
Host bastion-{alias}
    HostName {host}
    Port {port}
    User bastion
Host *.{domain}
    HostName %h
    ProxyJump bastion-{alias}
Host bastion-{alias} *.{domain}
{common}{identity}"""

_FRONT = """\
Include "{hosts}"
Host bastion
    HostName {host}
    Port {port}
{common}{identities}"""

_COMMON = """\
    HostKeyAlias bastion
    UserKnownHostsFile "{known_hosts}"
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
    IdentitiesOnly yes
    PubkeyAuthentication yes
"""


@dataclass(frozen=True, slots=True)
class Reached:
    """What `hosts` is made from.

    ``scopes`` has for each domain (``staging.eu``) where its key is: a path, `fresh.IN_AGENT`, or nothing yet.
    ``logins`` has for each target the one login there is, where there is one.
    """

    ssh_address: str = ""
    ssh_host_key: str = ""
    scopes: Mapping[str, str] = field(default_factory=dict)
    logins: Mapping[str, str] = field(default_factory=dict)

    def at(self, ssh_address: str, ssh_host_key: str) -> Reached:
        """As the bastion says that it is reached. Raises ValueError: a line of ssh_config cannot be made of that."""
        if not (_ADDRESS.fullmatch(ssh_address) and _HOST_KEY.fullmatch(ssh_host_key)):
            raise ValueError("the bastion does not say how it is reached by SSH")
        return replace(self, ssh_address=ssh_address, ssh_host_key=ssh_host_key)

    def with_scopes(self, scopes: Iterable[str]) -> Reached:
        """With these (``staging/eu``), and those that have a key already. Raises ValueError: one is not a scope."""
        domains = {str(Scope.parse(scope)).replace("/", "."): "" for scope in scopes}
        return replace(self, scopes=domains | {domain: key for domain, key in self.scopes.items() if key})

    def with_grants(self, grants: Iterable[Mapping[str, Any]]) -> Reached:
        """With the logins that ``grants`` (of ``GET /api/v1/access``) leave no choice about."""
        logins: dict[str, set[str]] = {}
        for grant in grants:
            for target in grant["targets"]:
                logins.setdefault(target, set()).update(grant["logins"])
        only = {target: min(names) for target, names in logins.items() if len(names) == 1}
        for target, login in only.items():
            if fresh.domain_of(target) is None or not LOGIN.fullmatch(login):
                raise ValueError(f"{target!r} as {login!r} cannot be written into an ssh_config")
        return replace(self, logins=only)


@dataclass(frozen=True, slots=True)
class SshFiles:
    """Where they are."""

    directory: Path

    @classmethod
    def of_this_user(cls) -> SshFiles:
        """Made with mode 0700 when it is not there. Raises OSError."""
        directory = fresh.directory()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(directory)

    @property
    def config(self) -> Path:
        return self.directory / "config"

    @property
    def hosts(self) -> Path:
        return self.directory / "hosts"

    @property
    def key(self) -> Path:
        return self.directory / "id_ed25519"

    @property
    def _known(self) -> Path:
        return self.directory / "reached.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One at a time: of twenty ssh that start together, one fetches a certificate and nineteen use it."""
        with (self.directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def reached(self) -> Reached:
        """What was last written; nothing when that cannot be read."""
        try:
            return Reached(**json.loads(self._known.read_text()))
        except (OSError, ValueError, TypeError):
            return Reached()

    def write(self, reached: Reached) -> None:
        """Write everything anew, each file whole or not at all. Raises OSError."""
        hosts, config = render(reached, self.directory)
        write_whole(self._known, json.dumps(asdict(reached)))
        write_whole(self.directory / "known_hosts", f"{ALIAS} {reached.ssh_host_key}\n")
        write_whole(self.hosts, hosts)
        write_whole(self.config, config)

    def forget(self) -> None:
        """Remove the certificates, and their keys from the ssh-agent. Raises OSError."""
        import binascii

        from bastion.cli.agent import Agent, NoAgent

        for certificate in sorted(self.directory.glob("*-cert.pub")):
            try:
                with Agent.of_this_session() as agent:
                    agent.remove(binascii.a2b_base64(certificate.read_text().split(" ")[1]))
            except (NoAgent, ValueError, IndexError):
                pass  # there is none, or it has forgotten it already
            certificate.unlink(missing_ok=True)


def render(reached: Reached, directory: Path) -> tuple[str, str]:
    """The texts of ``hosts`` and ``config``.

    Raises:
        ValueError: the directory's name cannot be written into an ssh_config.
    """
    host, _, port = reached.ssh_address.rpartition(":")
    common = _COMMON.format(known_hosts=quoted(directory / "known_hosts"))
    front = {"host": host.strip("[]"), "port": port, "common": common}
    blocks = [_USER.format(target=target, login=login) for target, login in sorted(reached.logins.items())]
    identities = dict[str, None]()
    for domain, key in sorted(reached.scopes.items()):
        identity = _identity(directory / f"{domain}-cert.pub", key or str(directory / "id_ed25519"))
        blocks.append(_SCOPE.format(domain=domain, alias=domain.replace(".", "-"), identity="".join(identity), **front))
        identities |= dict.fromkeys(identity)
    hosts = included(directory / "hosts")
    return "".join(blocks), _FRONT.format(identities="".join(identities), hosts=hosts, **front)


def quoted(path: Path | str) -> str:
    """``path`` as it stands between double quotes of an ssh_config; there is no escape for a quote there.

    Raises:
        ValueError: it has a character that cannot be written.
    """
    text = str(path)
    if not text.isprintable() or any(character in text for character in "\"'\\${"):
        raise ValueError(f"{text!r} has characters that ssh_config cannot quote")
    return text.replace("%", "%%")


def included(path: Path) -> str:
    """``path`` as it stands behind ``Include``, where OpenSSH expands patterns, and newer ones tokens. Raises too."""
    if any(character in str(path) for character in "%*?["):
        raise ValueError(f"{str(path)!r} has characters that ssh_config would expand")
    return quoted(path)


def write_whole(path: Path, text: str) -> None:
    """Replace ``path`` at once, so that an ssh that reads it meanwhile sees the old or the new file. Mode 0600."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _identity(certificate: Path, key: str) -> list[str]:
    """Lines that name a certificate and its key. OpenSSH looks in the agent for an IdentityFile only, be it a
    certificate; one that is a CertificateFile it completes with a key that it has found elsewhere."""
    if key == fresh.IN_AGENT:
        return ["    IdentityAgent SSH_AUTH_SOCK\n", f'    IdentityFile "{quoted(certificate)}"\n']
    return [f'    CertificateFile "{quoted(certificate)}"\n', f'    IdentityFile "{quoted(key)}"\n']
