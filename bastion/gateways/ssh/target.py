"""Reaching a target: with a key that lives in memory for one session, and never to a host whose key is not known."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Collection

import asyncssh

from bastion.access.certification import Certification
from bastion.core.algorithms import (
    CIPHERS,
    KEY_EXCHANGES,
    LEGACY_KEY_EXCHANGES,
    LEGACY_MACS,
    MACS,
    host_key_algorithms,
)
from bastion.core.certificate import certificate_line, parse_public_key, target_principal
from bastion.core.errors import BastionError
from bastion.core.session import Session
from bastion.core.target import Target, printable
from bastion.gateways.ssh import lean
from bastion.gateways.ssh.algorithms import offered
from bastion.ports import Signer

CONNECT_TIMEOUT = 10.0
"""Seconds to reach and log in to a target; a host in the same region answers in milliseconds."""

KEEPALIVE = 15
"""Seconds between keepalives to the target; four unanswered ones end the session."""


class TargetUnreachable(BastionError):
    """The target could not be reached or did not let the bastion in; no session was opened there."""


async def connect(
    target: Target, session: Session, *, certification: Certification, signer: Signer, permitted: Collection[str]
) -> asyncssh.SSHClientConnection:
    """Log in to ``target`` for one session, with a fresh key and a certificate for just that login.

    The certificate lets the connection do what ``permitted`` names and no more.

    Raises:
        TargetUnreachable: with what the client should read, and what the operator must do.
    """
    key = asyncssh.generate_private_key("ssh-ed25519")
    public = parse_public_key(key.export_public_key().decode())
    blob = await certification.for_target(session, public, permitted=permitted)
    certificate = asyncssh.import_certificate(certificate_line(blob, session.id))
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            return await lean.connect(
                target.host,
                target.port,
                username=session.login,
                client_keys=[(key, certificate)],
                known_hosts=_known_hosts(target),
                config=None,
                agent_path=None,
                preferred_auth=["publickey"],
                disable_trivial_auth=True,
                compression_algs=None,
                **_algorithms(target),
                keepalive_interval=KEEPALIVE,
                keepalive_count_max=4,
                login_timeout=CONNECT_TIMEOUT,
            )
    except (OSError, asyncssh.Error, TimeoutError) as error:
        raise TargetUnreachable(_sentence(error, target, session, signer), detail=str(error)) from None


def _algorithms(target: Target) -> dict[str, list[str]]:
    """asyncssh's options: the strong ones, then the old ones that this target may use."""
    old = target.algorithms
    return {
        **offered(
            [*KEY_EXCHANGES, *(name for name in LEGACY_KEY_EXCHANGES if name in old)],
            CIPHERS,
            [*MACS, *(name for name in LEGACY_MACS if name in old)],
        ),
        "server_host_key_algs": host_key_algorithms(target.host_keys, certified=target.host_ca is not None, extra=old),
    }


def _known_hosts(target: Target) -> tuple[list[asyncssh.SSHKey], list[asyncssh.SSHKey], list[asyncssh.SSHKey]]:
    """Trusted host keys, trusted host authorities, revoked ones: of this target and nothing else."""
    return (
        [asyncssh.import_public_key(line) for line in target.host_keys],
        [asyncssh.import_public_key(target.host_ca)] if target.host_ca else [],
        [],
    )


def _sentence(error: Exception, target: Target, session: Session, signer: Signer) -> str:
    name = target.full_name
    match error:
        case TimeoutError():
            return f"{name} did not answer within {CONNECT_TIMEOUT:.0f} seconds."
        case asyncssh.HostKeyNotVerifiable():
            return (
                f"{name} showed a host key that is not the configured one, so nothing was sent to it. "
                "If the host was reinstalled, its operator must put the new key into the bastion's configuration."
            )
        case asyncssh.PermissionDenied():
            authority = base64.b64encode(signer.target_authority(session.scope)).decode()
            return (
                f"{name} does not accept the bastion's certificate for {session.login}. Its operator must add the line "
                f"'ssh-ed25519 {authority}' to the file that TrustedUserCAKeys names, the line "
                f"'{target_principal(session.scope, session.login)}' to the AuthorizedPrincipalsFile of "
                f"{session.login}, and check the host's clock."
            )
        case ConnectionRefusedError():
            return f"{name} refused the connection: no SSH server is listening there."
        case asyncssh.Error():
            return f"{name} ended the connection before the login was done: {printable(error.reason)}"
        case _:
            return f"{name} cannot be reached from the bastion."
