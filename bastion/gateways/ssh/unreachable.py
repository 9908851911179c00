"""Why a target could not be reached, in a sentence for whoever waits for it, with the line that its operator needs."""

from __future__ import annotations

import base64
import os
import socket
from dataclasses import dataclass

import asyncssh

from bastion.core.algorithms import LEGACY
from bastion.core.certificate import target_principal
from bastion.core.errors import BastionError
from bastion.core.target import Target, printable
from bastion.gateways.ssh.hostproof import NAMELESS, ProvenConnection, line_of

_CERTIFICATE_ERRORS = {
    "Certificate expired": "which has expired: it must be signed again",
    "Certificate not yet valid": "which is not valid yet: one of the two clocks is wrong, or it was signed too early",
    "Certificate principal mismatch": "which is not for {host}: it must be signed with that name as its principal",
    NAMELESS: "which names no host: it must be signed with {host} as its principal",
    "Invalid certificate type": "which is a user's and not a host's",
    "Host CA key is not trusted": "which another authority signed than the configured host_ca",
}

TOO_MANY = "Too many authentication failures"
"""sshd's own words (auth.c) when MaxAuthTries is used up."""


class TargetUnreachable(BastionError):
    """The target could not be reached or did not let the bastion in; no session was opened there."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was tried. ``authority`` is the blob of the key that the target should trust."""

    target: Target
    login: str
    authority: bytes
    patience: float
    """Seconds."""

    def failed(self, error: Exception, connection: ProvenConnection | None) -> TargetUnreachable:
        """With a sentence for the client, and the error itself for the log.

        Args:
            error: of asyncssh or of the operating system.
            connection: as far as it came; None before the target's port answered.
        """
        return TargetUnreachable(self._sentence(error, connection), detail=str(error))

    def _sentence(self, error: Exception, connection: ProvenConnection | None) -> str:
        name, via = self.target.full_name, self._by_way
        match error:
            case TimeoutError() if connection is None or not connection.is_reached:
                return (
                    f"{name} did not answer within {self.patience:g} seconds{via}: it is down, or a firewall is silent."
                )
            case TimeoutError():
                return f"{name} took the connection{via} and then said nothing for {self.patience:g} seconds."
            case asyncssh.HostKeyNotVerifiable():
                return self._unproven(error, connection)
            case asyncssh.PermissionDenied():
                return f"{name} does not accept the bastion's certificate for {self.login}. {self._what_it_must_trust}"
            case asyncssh.DisconnectError(reason=reason) if reason.startswith(TOO_MANY):
                return (
                    f"{name} ended the login as one failure too many (MaxAuthTries), so it does not accept the "
                    f"bastion's certificate for {self.login}. {self._what_it_must_trust}"
                )
            case asyncssh.ProtocolNotSupported() | asyncssh.ProtocolError() if not _has_greeted(connection):
                return f"What answers at {self._address} is not an SSH server, so {name} was not reached."
            case asyncssh.Error() | OSError() if connection is not None and (missing := connection.missing) is not None:
                return self._no_common(*missing)
            case asyncssh.ChannelOpenError():
                return self._refused_by_hop(error)
            case asyncssh.Error():
                return f"{name} ended the connection before the login was done: {printable(error.reason)}"
            case OSError() if connection is not None and connection.is_reached:
                return f"{name} ended the connection before the login was done: {error.strerror or 'it broke'}"
            case ConnectionRefusedError():
                return f"{name} refused the connection: no SSH server is listening there."
            case socket.gaierror():
                return f"{name} is not to be found: the name {self.target.host} does not resolve."
            case OSError(errno=int(number)) if number:
                return f"{name} cannot be reached from the bastion: {os.strerror(number)}."
            case _:
                return f"{name} cannot be reached from the bastion."

    @property
    def _address(self) -> str:
        return f"{self.target.host} port {self.target.port}"

    @property
    def _by_way(self) -> str:
        return f" through {self.target.via.target.full_name}" if self.target.via else ""

    @property
    def _what_it_must_trust(self) -> str:
        authority = base64.b64encode(self.authority).decode()
        return (
            f"Its operator must add the line 'ssh-ed25519 {authority}' to the file that TrustedUserCAKeys names, the "
            f"line '{target_principal(self.target.scope, self.login)}' to the AuthorizedPrincipalsFile of {self.login},"
            " and check the host's clock."
        )

    def _unproven(self, error: asyncssh.Error, connection: ProvenConnection | None) -> str:
        name = self.target.full_name
        blob = connection.shown if connection is not None else None
        reason = error.reason.partition(" for host ")[0]
        if (wrong := _CERTIFICATE_ERRORS.get(reason)) is not None:
            wrong = wrong.format(host=self.target.host)
            return f"{name} showed a host certificate {wrong}. Nothing was sent to it."
        try:
            key = asyncssh.public_key.decode_ssh_public_key(blob or b"")
        except asyncssh.KeyImportError:
            return f"{name} did not prove that it is the configured host: {printable(reason)}. Nothing was sent to it."
        line = line_of(key)
        return (
            f"{name} showed another host key than the configured one: {key.get_fingerprint()}. Nothing was sent to it. "
            "If the host was reinstalled, its operator must see the same fingerprint at the host itself (ssh-keygen -l "
            f"-f /etc/ssh/ssh_host_*_key.pub) and put the line '{line}' into host_keys of the target in the bastion's "
            "configuration. If it was not, somebody is in between."
        )

    def _no_common(self, kind: str, theirs: list[str]) -> str:
        name, all_of_them = self.target.full_name, printable(", ".join(theirs), 200)
        usable = [name for name in LEGACY if name in theirs]
        knows_rsa = any(line.startswith("ssh-rsa ") for line in self.target.host_keys)
        if kind == "host key" and not (usable and knows_rsa):
            return (
                f"{name} has no host key of a configured kind, only {all_of_them}. Its operator must put the line of "
                "one of those (/etc/ssh/ssh_host_*_key.pub on the host) into host_keys of the target in the bastion's "
                "configuration."
            )
        said = f"{name} and the bastion have no {kind} in common. It has only {all_of_them}."
        if not usable:
            return f"{said} None of that is safe enough to be configured: the host's SSH server must be updated."
        return (
            f"{said} Until the host's SSH server is updated, its operator can put 'algorithms: [{', '.join(usable)}]' "
            "into the target in the bastion's configuration."
        )

    def _refused_by_hop(self, error: asyncssh.ChannelOpenError) -> str:
        name, hop = self.target.full_name, self.target.via.target.full_name if self.target.via else "the hop"
        if error.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED:
            return (
                f"{hop}, through which {name} is reached, does not forward connections. Its operator must set "
                f"'AllowTcpForwarding yes' and 'PermitOpen {self.target.host}:{self.target.port}' there."
            )
        return f"{hop} cannot reach {name} at {self._address}: {printable(error.reason)}."


def _has_greeted(connection: ProvenConnection | None) -> bool:
    return connection is not None and bool(connection.get_extra_info("server_version"))
