"""A real OpenSSH server on loopback, with logins that need not exist on this machine, and nothing left when it ends.

libnss_wrapper shows sshd a passwd file in which every login is the user who runs this, with a home folder of its own.
Works as root and as an ordinary user.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from bastion.core.errors import BastionError
from bastion.demo.processes import die_with_parent, kill_family
from bastion.demo.tools import find_library, find_tool, free_port, tool_environment

START_TIMEOUT = 10.0
"""Seconds until sshd must listen; it takes about 0.02 on an idle machine."""

ATTEMPTS = 5
"""Another program can take a free port between our looking and sshd's binding."""

_MARK = "BASTION_SSHD"
"""An environment variable in every session: how a process that left its parents is still found."""

_POLL = 0.005
"""Seconds."""


class SshdFailed(BastionError):
    """The server did not start, or did not say what was waited for; its own log is in the sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sshd:
    """A running server."""

    address: str
    port: int
    host_key: str
    """Its public key, as an OpenSSH line without a comment."""
    folder: Path
    pid: int

    def home(self, login: str) -> Path:
        """The home folder of ``login``."""
        return self.folder / "home" / login

    @property
    def known_hosts_line(self) -> str:
        """What a client's known_hosts needs to know this server (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""
        return f"[{self.address}]:{self.port} {self.host_key}"

    def log(self) -> list[str]:
        """Everything the server said until now, a line each."""
        return (self.folder / "log").read_text(errors="replace").splitlines()

    def wait_for_log(self, text: str, timeout: float = 5.0) -> str:
        """The first line of the log that contains ``text``; blocks until it is there, for at most ``timeout`` seconds.

        Raises:
            SshdFailed: it did not come.
        """
        deadline = time.monotonic() + timeout
        while True:
            lines = self.log()
            for line in lines:
                if text in line:
                    return line
            if time.monotonic() > deadline:
                raise SshdFailed(f"sshd did not say {text!r} within {timeout} s. It said:\n" + "\n".join(lines))
            time.sleep(_POLL)


def make_host_key(path: Path) -> str:
    """Write a new Ed25519 private key to ``path``; its public key as an OpenSSH line."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    path.touch(mode=0o600)
    path.write_bytes(key.export_private_key())
    return key.export_public_key().decode().strip()


@contextmanager
def running_sshd(
    folder: Path,
    *,
    principals: Mapping[str, Collection[str]],
    user_authorities: Sequence[str] = (),
    host_key: Path | None = None,
    host_certificate: Path | None = None,
    extra: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    address: str = "127.0.0.1",
) -> Iterator[Sshd]:
    """Run sshd while the block runs; after it no process of the server or of its sessions is left.

    Args:
        folder: an existing folder of its own for keys, homes and the log.
        principals: the logins there are, and the certificate principals that open each (AuthorizedPrincipalsFile).
        user_authorities: public key lines of the authorities whose certificates are accepted (TrustedUserCAKeys).
        host_key: a private key file made by `make_host_key`; without one a new key is made.
        host_certificate: an OpenSSH certificate of ``host_key`` to show as well.
        extra: sshd_config lines. They come first and so win over ours (sshd_config(5): the first value is used).
        environment: variables that every session has.
        address: a loopback address.

    Raises:
        MissingTool: OpenSSH's server is not on this machine.
        SshdFailed: it did not start.
    """
    folder = folder.resolve()
    if host_key is None:
        host_key = folder / "host_key"
        make_host_key(host_key)
    public = asyncssh.read_private_key(host_key).export_public_key().decode().split()
    mark = f"{_MARK}={secrets.token_hex(8)}"
    variables = [mark, *(f"{name}={value}" for name, value in (environment or {}).items())]
    options = _options(folder, host_key, host_certificate, variables)
    _write_logins(folder, principals)
    (folder / "user_authorities").write_text("".join(f"{line}\n" for line in user_authorities))
    process, port = _start(folder, address, [*extra, *options])
    try:
        host_key_line = " ".join(public[:2])
        yield Sshd(address=address, port=port, host_key=host_key_line, folder=folder, pid=process.pid)
    finally:
        kill_family(process, mark)


def _options(folder: Path, host_key: Path, host_certificate: Path | None, variables: Sequence[str]) -> list[str]:
    options = [
        f'HostKey "{host_key}"',
        f'TrustedUserCAKeys "{folder}/user_authorities"',
        f'AuthorizedPrincipalsFile "{folder}/principals/%u"',
        "AuthorizedKeysFile none",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin yes",  # run by root, every login has uid 0
        "StrictModes no",  # temporary folders are below one that everybody may write
        "UsePAM no",  # PAM asks the machine about logins that only we know
        "PidFile none",
        "PrintMotd no",
        "PrintLastLog no",
        "Subsystem sftp internal-sftp",
        "SetEnv " + " ".join(f'"{variable}"' for variable in variables),
        # Many clients of one address at once, some of which fail on purpose, are the rule here.
        "MaxStartups 1000",
        "MaxSessions 1000",
        "MaxAuthTries 100",
    ]
    if host_certificate is not None:
        options.append(f'HostCertificate "{host_certificate}"')
    return options + _options_of_version()


def _options_of_version() -> list[str]:
    """What only newer servers know, and older ones refuse to start with."""
    sshd = find_tool("sshd")
    said = subprocess.run(
        [sshd, "-V"], env=os.environ | tool_environment(), capture_output=True, text=True, check=False
    )
    match = re.search(r"OpenSSH_(\d+)\.(\d+)", said.stderr + said.stdout)
    if match is None:
        raise SshdFailed(f"{sshd} does not say which OpenSSH it is: {said.stderr}")
    version = (int(match[1]), int(match[2]))
    options = ["PerSourcePenalties no"] if version >= (9, 8) else []
    # Newer ones are several programs, which an unpacked one would look for where an installed one has them.
    helpers = {"SshdSessionPath": "sshd-session", "SshdAuthPath": "sshd-auth"}
    folder = sshd.parent.parent / "lib/openssh"
    return options + [f'{name} "{folder / helper}"' for name, helper in helpers.items() if (folder / helper).is_file()]


def _write_logins(folder: Path, principals: Mapping[str, Collection[str]]) -> None:
    """The passwd and group files that libnss_wrapper shows, a home and a list of principals for each login."""
    uid, gid = os.getuid(), os.getgid()
    shell = "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh"
    users = [f"{login}:x:{uid}:{gid}::{folder}/home/{login}:{shell}" for login in principals]
    users.append("sshd:x:65534:65534::/run/sshd:/usr/sbin/nologin")  # whom an sshd run by root becomes before a login
    (folder / "passwd").write_text("\n".join(users) + "\n")
    (folder / "group").write_text(f"logins:x:{gid}:\nnogroup:x:65534:\n")
    (folder / "principals").mkdir(exist_ok=True)
    for login, accepted in principals.items():
        (folder / "home" / login).mkdir(parents=True, exist_ok=True)
        (folder / "principals" / login).write_text("".join(f"{principal}\n" for principal in accepted))


def _start(folder: Path, address: str, options: Sequence[str]) -> tuple[subprocess.Popen[bytes], int]:
    sshd = find_tool("sshd")
    preload = find_library("libnss_wrapper.so")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # the empty folder that root's sshd locks itself into
    environment = {
        "PATH": os.defpath,
        # LD_PRELOAD is a list that spaces separate, so a folder with a space must not be in it.
        "LD_PRELOAD": preload.name,
        "LD_LIBRARY_PATH": os.pathsep.join([str(preload.parent), tool_environment().get("LD_LIBRARY_PATH", "")]),
        "NSS_WRAPPER_PASSWD": f"{folder}/passwd",
        "NSS_WRAPPER_GROUP": f"{folder}/group",
    }
    for _ in range(ATTEMPTS):
        port = free_port(address)
        listen = ["Port " + str(port), f"ListenAddress {address}"]
        (folder / "sshd_config").write_text("\n".join([*listen, *options]) + "\n")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sshd, "-D", "-e", "-f", folder / "sshd_config"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at our terminal is ours to handle
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call that takes no lock
            )
        if _listens(process, folder / "log"):
            return process, port
        if "Address already in use" not in (said := (folder / "log").read_text(errors="replace")):
            raise SshdFailed(f"{sshd} did not start:\n{said}")
    raise SshdFailed(f"{sshd} found no free port on {address} in {ATTEMPTS} attempts.")


def _listens(process: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait until sshd says that it listens; False when it ended instead.

    Raises:
        SshdFailed: neither happened in time; the process was killed.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None:
        if b"Server listening on" in log.read_bytes():
            return True
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise SshdFailed(f"sshd did not listen within {START_TIMEOUT} s:\n{log.read_text(errors='replace')}")
        time.sleep(_POLL)
    return False
