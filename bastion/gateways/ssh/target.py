"""Reaching a target: with a key that lives in memory for one session, and never to a host whose key is not known."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import lru_cache

import asyncssh
import structlog
from asyncssh.connection import _connect

from bastion.access.certification import Certification
from bastion.access.hostkeys import HostKeys
from bastion.core.algorithms import (
    CIPHERS,
    KEY_EXCHANGES,
    LEGACY_KEY_EXCHANGES,
    LEGACY_MACS,
    MACS,
    host_key_algorithms,
)
from bastion.core.errors import BastionError
from bastion.core.session import Session
from bastion.core.target import Target
from bastion.gateways.ssh.algorithms import offered
from bastion.gateways.ssh.hostproof import ProvenConnection, line_of
from bastion.gateways.ssh.sessionkey import SessionKey
from bastion.gateways.ssh.unreachable import Attempt, TargetUnreachable
from bastion.ports import Signer

__all__ = ["Connector", "TargetUnreachable"]

CONNECT_TIMEOUT = 10.0
"""Seconds to reach and log in to a target; a host in the same region answers in milliseconds."""

FORWARDING = frozenset({"permit-port-forwarding"})
"""The extension that a hop's certificate has (PROTOCOL.certkeys)."""

KEPT = 1024
"""Targets whose options are kept: asyncssh takes longer to make them than to connect."""

KEEPALIVE = 15
"""Seconds between keepalives to the target; four unanswered ones end the session."""


log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connector:
    """What it takes to log in to targets."""

    certification: Certification
    signer: Signer
    host_keys: HostKeys
    patience: float = CONNECT_TIMEOUT
    keepalive: float = KEEPALIVE

    async def connect(self, target: Target, session: Session, permitted: Collection[str]) -> ProvenConnection:
        """Log in to ``target`` for one session, with a fresh key and a certificate for just that login.

        The certificate lets the connection do what ``permitted`` names and no more. A target behind another one is
        reached through that one, which proves itself as any target does, gets a certificate for forwarding alone, and
        is left when the connection ends.

        Raises:
            TargetUnreachable: with what the client should read, and what the operator must do.
        """
        hop = await self._reach_hop(target, session)
        try:
            connection = await self._log_in(target, session, permitted, hop)
        except BaseException:
            if hop is not None:
                hop.abort()
            raise
        connection.set_tunnel(hop)
        return connection

    async def _reach_hop(self, target: Target, session: Session) -> ProvenConnection | None:
        if target.via is None:
            return None
        try:
            return await self.connect(target.via.target, replace(session, login=target.via.login), FORWARDING)
        except TargetUnreachable as error:
            raise TargetUnreachable(f"On the way to {target.full_name}: {error.public}", detail=str(error)) from None

    async def _log_in(
        self, target: Target, session: Session, permitted: Collection[str], hop: ProvenConnection | None
    ) -> ProvenConnection:
        """With the configured host keys, and with those that the target announced only if it shows none of those."""
        key = SessionKey()
        key.certify(await self.certification.for_target(session, key.public, permitted=permitted))
        attempt = Attempt(target, session.login, self.signer.target_authority(session.scope), self.patience)
        try:
            return await self._open(target, session, key, hop)
        except _Failed as failed:
            is_unproven = isinstance(failed.error, asyncssh.HostKeyNotVerifiable)
            learned = [known.line for known in await self.host_keys.learned(target)] if is_unproven else []
            if not learned:
                raise attempt.failed(failed.error, failed.connection) from None
        try:
            connection = await self._open(
                replace(target, host_keys=(*target.host_keys, *learned)), session, key, hop, configured=target
            )
        except _Failed as failed:
            raise attempt.failed(failed.error, failed.connection) from None
        log.warning("target shows a host key that is not configured yet", target=target.full_name, line=connection.line)
        return connection

    async def _open(
        self,
        target: Target,
        session: Session,
        key: SessionKey,
        hop: ProvenConnection | None,
        *,
        configured: Target | None = None,
    ) -> ProvenConnection:
        """`asyncssh.connect`, with a connection of ours.

        Raises:
            _Failed: with the connection as far as it came.
        """
        made: list[ProvenConnection] = []

        async def announced(added: _Keys, _removed: _Keys, retained: _Keys, _revoked: _Keys) -> None:
            lines = [line_of(key) for key in (*added, *retained)]
            try:
                await self.host_keys.announced(configured or target, lines, by=made[-1].line, session_id=session.id)
            except BastionError as error:
                log.error("announced host keys were not looked at", target=target.full_name, error=str(error))

        loop = asyncio.get_running_loop()
        options = copy(_options(target))
        options.username, options.client_keys, options.tunnel = session.login, [key], hop or ()
        options.keepalive_interval, options.server_host_keys_handler = self.keepalive, announced

        def make() -> ProvenConnection:
            made.append(ProvenConnection(loop, options, wait="auth"))
            return made[-1]

        try:
            async with asyncio.timeout(self.patience):
                return await _connect(options, None, loop, 0, None, make, "Opening SSH connection to")
        except (OSError, asyncssh.Error, TimeoutError) as error:
            raise _Failed(error, made[-1] if made else None) from None


_Keys = Sequence[asyncssh.SSHKey]


class _Failed(Exception):
    """A connection that was not made."""

    def __init__(self, error: Exception, connection: ProvenConnection | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.connection = connection


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


def _known_hosts(target: Target) -> tuple[_Keys, _Keys, _Keys]:
    """Trusted host keys, trusted host authorities, revoked ones: of this target and nothing else."""
    return (
        [asyncssh.import_public_key(line) for line in target.host_keys],
        [asyncssh.import_public_key(target.host_ca)] if target.host_ca else [],
        [],
    )
