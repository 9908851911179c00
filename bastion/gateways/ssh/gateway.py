"""The SSH listener: accepts connections, owns their tasks, and ends them all when the node stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import asyncssh
import structlog

from bastion.access.admission import Admission
from bastion.access.certification import Certification
from bastion.access.supervision import Supervision
from bastion.core.geofence import Address, Network
from bastion.core.session import End
from bastion.core.target import Catalogue
from bastion.gateways.listener import Greeting
from bastion.gateways.ssh.door import Door
from bastion.gateways.ssh.internals import check_version
from bastion.gateways.ssh.session import WINDOW, House
from bastion.ports import Signer

LOGIN_TIMEOUT = 30.0
"""Seconds from connecting to being logged in; half-open connections do not stay."""

KEEPALIVE = 15
"""Seconds between keepalives to the client; four unanswered ones end the connection."""

MAX_CONNECTIONS = 4096
"""Client connections of one node; beyond it new ones are closed at once, and live sessions are not slowed."""

BACKLOG = 512

log = structlog.get_logger(__name__)


class SshGateway:
    """SSH at one address and port."""

    def __init__(
        self,
        *,
        admission: Admission,
        certification: Certification,
        supervision: Supervision,
        signer: Signer,
        catalogue: Catalogue,
        host_key: asyncssh.SSHKey,
        balancers: tuple[Network, ...] = (),
    ) -> None:
        check_version()
        self._house = House(admission, certification, supervision, signer, self._spawn)
        self._supervision = supervision
        self._catalogue = catalogue
        self._balancers = balancers
        self._options = _options(host_key)
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; the port that was bound, for when ``port`` is 0."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._greet, host, port, backlog=BACKLOG)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    @property
    def connections(self) -> int:
        """How many client connections there are."""
        return len(self._connections)

    def _greet(self) -> Greeting:
        return Greeting(self._admit_connection, self._balancers)

    def _admit_connection(self, address: Address) -> asyncio.Protocol | None:
        if len(self._connections) >= MAX_CONNECTIONS:
            log.warning("too many connections", limit=MAX_CONNECTIONS)
            return None
        door = Door(house=self._house, catalogue=self._catalogue, options=self._options, address=address)
        connection = door.open()
        self._connections.add(connection)
        self._spawn(self._forget(connection))
        return connection

    async def _forget(self, connection: asyncssh.SSHServerConnection) -> None:
        await connection.wait_closed()
        self._connections.discard(connection)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Own a task. Its crash is its own: it is logged, and ends nothing else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("session crashed", exc_info=error)

    async def stop(self) -> None:
        """Close the listener, end every session as `End.SHUTDOWN`, and wait until each is written down. Idempotent."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self._supervision.cut_all(End.SHUTDOWN)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)
        for connection in list(self._connections):
            connection.abort()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)


def _options(host_key: asyncssh.SSHKey) -> asyncssh.SSHServerConnectionOptions:
    """What every client connection is offered: certificates and nothing else."""
    return asyncssh.SSHServerConnectionOptions(
        server_host_keys=[host_key],
        server_version="Bastion",
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        public_key_auth=True,
        gss_host=None,
        agent_forwarding=False,
        x11_forwarding=False,
        line_editor=False,
        compression_algs=None,
        encoding=None,
        window=WINDOW,
        login_timeout=LOGIN_TIMEOUT,
        keepalive_interval=KEEPALIVE,
        keepalive_count_max=4,
        config=[],
    )
