"""Reaching a target: with a key that lives in memory for one session, and never to a host whose key is not known."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from copy import copy
from dataclasses import replace
from functools import lru_cache

import asyncssh
from asyncssh.connection import _connect

from bastion.access.certification import Certification
from bastion.core.algorithms import (
    CIPHERS,
    KEY_EXCHANGES,
    LEGACY_KEY_EXCHANGES,
    LEGACY_MACS,
    MACS,
    host_key_algorithms,
)
from bastion.core.session import Session
from bastion.core.target import Target
from bastion.gateways.ssh.algorithms import offered
from bastion.gateways.ssh.hostproof import ProvenConnection
from bastion.gateways.ssh.sessionkey import SessionKey
from bastion.gateways.ssh.unreachable import Attempt, TargetUnreachable
from bastion.ports import Signer

__all__ = ["TargetUnreachable", "connect"]

CONNECT_TIMEOUT = 10.0
"""Seconds to reach and log in to a target; a host in the same region answers in milliseconds."""

FORWARDING = frozenset({"permit-port-forwarding"})
"""The extension that a hop's certificate has (PROTOCOL.certkeys)."""

KEPT = 1024
"""Targets whose options are kept: asyncssh takes longer to make them than to connect."""

KEEPALIVE = 15
"""Seconds between keepalives to the target; four unanswered ones end the session."""


async def connect(
    target: Target,
    session: Session,
    *,
    certification: Certification,
    signer: Signer,
    permitted: Collection[str],
    patience: float = CONNECT_TIMEOUT,
) -> asyncssh.SSHClientConnection:
    """Log in to ``target`` for one session, with a fresh key and a certificate for just that login.

    The certificate lets the connection do what ``permitted`` names and no more. A target behind another one is reached
    through that one, which proves itself as any target does, gets a certificate for forwarding alone, and is left when
    the connection ends.

    Raises:
        TargetUnreachable: with what the client should read, and what the operator must do.
    """
    hop = None
    if target.via is not None:
        on_the_way = replace(session, login=target.via.login)
        try:
            hop = await connect(
                target.via.target, on_the_way, certification=certification, signer=signer, permitted=FORWARDING,
                patience=patience,
            )  # fmt: skip
        except TargetUnreachable as error:
            raise TargetUnreachable(f"On the way to {target.full_name}: {error.public}", detail=str(error)) from None
    key = SessionKey()
    key.certify(await certification.for_target(session, key.public, permitted=permitted))
    attempt = Attempt(target, session.login, signer.target_authority(session.scope), patience)
    made: list[ProvenConnection] = []
    try:
        async with asyncio.timeout(patience):
            connection = await _log_in(target, made, login=session.login, key=key, hop=hop)
    except (OSError, asyncssh.Error, TimeoutError) as error:
        raise attempt.failed(error, made[-1] if made else None) from None
    else:
        connection.set_tunnel(hop)
        hop = None
        return connection
    finally:
        if hop is not None:
            hop.abort()


async def _log_in(
    target: Target,
    made: list[ProvenConnection],
    *,
    login: str,
    key: SessionKey,
    hop: asyncssh.SSHClientConnection | None,
) -> ProvenConnection:
    """`asyncssh.connect`, with a connection of ours, which is in ``made`` as soon as there is one."""
    loop = asyncio.get_running_loop()
    options = copy(_options(target))
    options.username, options.client_keys, options.tunnel = login, [key], hop or ()

    def make() -> ProvenConnection:
        made.append(ProvenConnection(loop, options, wait="auth"))
        return made[-1]

    return await _connect(options, None, loop, 0, None, make, "Opening SSH connection to")


@lru_cache(maxsize=KEPT)
def _options(target: Target) -> asyncssh.SSHClientConnectionOptions:
    """What is the same for every connection to ``target``."""
    return asyncssh.SSHClientConnectionOptions(
        host=target.host,
        port=target.port,
        known_hosts=_known_hosts(target),
        x509_trusted_certs=None,
        config=None,
        agent_path=None,
        preferred_auth=["publickey"],
        disable_trivial_auth=True,
        compression_algs=None,
        **_algorithms(target),
        keepalive_interval=KEEPALIVE,
        keepalive_count_max=4,
        login_timeout=CONNECT_TIMEOUT,
        client_keys=None,
    )


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
