"""The files that let plain OpenSSH find its way: a key, certificates, known hosts and an ssh_config, all of our own.

Nothing of the user's ``~/.ssh`` is touched. Everything is under ``$XDG_CONFIG_HOME/bastion``.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from bastion.cli import exits

_BLOCK = """\
Host bastion-{environment}-{region}
    HostName {host}
    Port {port}
    HostKeyAlias bastion
    User bastion
Host *.{environment}.{region}
    ProxyJump bastion-{environment}-{region}
    HostKeyAlias bastion
Host bastion-{environment}-{region} *.{environment}.{region}
    UserKnownHostsFile "{known_hosts}"
    StrictHostKeyChecking yes
    IdentitiesOnly yes
    IdentityFile "{key}"
    CertificateFile "{certificate}"
"""

_FRONT = """\
Host bastion
    HostName {host}
    Port {port}
    HostKeyAlias bastion
    UserKnownHostsFile "{known_hosts}"
    StrictHostKeyChecking yes
    IdentitiesOnly yes
    IdentityFile "{key}"
{certificates}"""


@dataclass(frozen=True, slots=True)
class SshFiles:
    """Where they are. ``directory`` is made with mode 0700."""

    directory: Path

    @classmethod
    def of_this_user(cls) -> SshFiles:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        directory = base / "bastion" / "ssh"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(directory)

    @property
    def config(self) -> Path:
        return self.directory / "config"

    def ensure_key(self) -> Path:
        """A key of our own, made by ssh-keygen the first time."""
        key = self.directory / "id_ed25519"
        if not key.exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bastion", "-f", str(key)]
            try:
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
            except (OSError, subprocess.CalledProcessError) as error:
                typer.echo(f"ssh-keygen could not make a key: {error}", err=True)
                raise typer.Exit(exits.USAGE) from None
        return key

    def install(self, environment: str, region: str, key: Path, issued: dict[str, Any]) -> Path:
        """Write certificate, known hosts and configuration, each whole or not at all. The certificate's path."""
        certificate = self.directory / f"{environment}.{region}-cert.pub"
        host, _, port = issued["ssh_address"].rpartition(":")
        names = {"host": host.strip("[]"), "port": port, "key": key.resolve()}
        names["known_hosts"] = self.directory / "known_hosts"
        _write(certificate, issued["certificate"])
        _write(self.directory / "known_hosts", f"bastion {issued['ssh_host_key']}\n")
        block = _BLOCK.format(environment=environment, region=region, certificate=certificate, **names)
        _write(self.directory / f"{environment}.{region}.conf", block)
        certificates = "".join(f'    CertificateFile "{path}"\n' for path in sorted(self.directory.glob("*-cert.pub")))
        blocks = "".join(path.read_text() for path in sorted(self.directory.glob("*.conf")))
        _write(self.config, _FRONT.format(certificates=certificates, **names) + blocks)
        return certificate


def _write(path: Path, text: str) -> None:
    """Replace ``path`` at once, so that an ssh that reads it meanwhile sees the old or the new file."""
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    Path(fresh).replace(path)
