"""The SSH listener: accepts connections, owns their tasks, and ends them all when the node stops."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import asyncssh
import structlog

from bastion.access.admission import Admission
from bastion.access.certification import Certification
from bastion.access.devicelogin import DeviceLogins
from bastion.access.offering import Offering
from bastion.access.supervision import Supervision
from bastion.core.algorithms import CIPHERS, KEY_EXCHANGES, MACS
from bastion.core.geofence import Address, Network
from bastion.core.session import CHANNELS, End
from bastion.core.target import Catalogue
from bastion.gateways.listener import Greeting, neighbours
from bastion.gateways.ssh.algorithms import offered
from bastion.gateways.ssh.closing import Closing
from bastion.gateways.ssh.door import Door
from bastion.gateways.ssh.internals import DoorConnection, check_version
from bastion.gateways.ssh.limits import WINDOW
from bastion.gateways.ssh.lookup import Lookup
from bastion.gateways.ssh.plainlogin import Invitation
from bastion.gateways.ssh.target import Connector
from bastion.gateways.ssh.visit import House

LOGIN_TIMEOUT = 30.0
"""Seconds from connecting to being logged in; half-open connections do not stay."""

KEEPALIVE = 15
"""Seconds between keepalives to the client; four unanswered ones end the connection."""

MAX_CONNECTIONS = 4096
"""Client connections of one node; beyond it new ones are closed at once, and live sessions are not slowed."""

MAX_STARTING = 512
"""Of them, those that have not logged in yet: a flood of half-open ones pushes out itself."""

FIRST_KEY_EXCHANGE = "curve25519-sha256"
"""The client's order decides. Ours begins with what dbclient guesses: asyncssh takes a guess for right whenever it is
the outcome, dbclient only when it is also our first (RFC 4253, section 7.1), and each would wait for the other.

Every client of the last ten years has one of ours, at a millisecond each. The Diffie-Hellman groups and RSA cost the
bastion tens of milliseconds before any login, and cost a client that only pretends nothing (CVE-2002-20001)."""

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
        logins: DeviceLogins,
        invitation: Invitation,
        connector: Connector,
        catalogue: Catalogue,
        host_key: asyncssh.SSHKey,
        lookup: Lookup,
        offering: Offering,
        balancers: tuple[Network, ...] = (),
        login_timeout: float = LOGIN_TIMEOUT,
        max_starting: int = MAX_STARTING,
        max_channels: int = CHANNELS,
    ) -> None:
        check_version()
        self._closing = Closing()
        self._house = House(
            admission=admission,
            certification=certification,
            supervision=supervision,
            logins=logins,
            invitation=invitation,
            connector=connector,
            lookup=lookup,
            offering=offering,
            closing=self._closing,
            max_channels=max_channels,
            spawn=self._spawn,
        )
        self._supervision = supervision
        self._catalogue = catalogue
        self._balancers = balancers
        self._max_starting = max_starting
        self._options = _options(host_key, login_timeout)
        self._tasks: set[asyncio.Task[None]] = set()
        self._partings: set[asyncio.Task[None]] = set()
        """Of the connections, each of which stays as long as its client likes."""
        self._connections: dict[DoorConnection, Address] = {}
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int, *, shared: bool = False) -> int:
        """Listen; the port that was bound, for when ``port`` is 0.

        With ``shared`` other processes may listen there as well, and each gets a part of the connections.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._greet, host, port, backlog=BACKLOG, reuse_port=shared or None)
        bound: int = self._server.sockets[0].getsockname()[1]
        self._house.lookup.listens_at(bound)
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
        self._make_room()
        connection = door.open()
        self._connections[connection] = address
        self._own(self._forget(connection), self._partings)
        return connection

    def _make_room(self) -> None:
        """Of too many that have not logged in, end the oldest one of whoever has most of them."""
        starting = {c: neighbours(address) for c, address in self._connections.items() if not c.has_logged_in}
        if len(starting) >= self._max_starting:
            most = Counter(starting.values()).most_common(1)[0][0]
            oldest = next(connection for connection, whose in starting.items() if whose == most)
            del self._connections[oldest]
            oldest.abort()

    async def _forget(self, connection: DoorConnection) -> None:
        await connection.wait_closed()
        self._connections.pop(connection, None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._own(work, self._tasks)

    def _own(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[None]]) -> None:
        """Hold a task. Its crash is its own: it is logged, and ends nothing else."""
        task = asyncio.get_running_loop().create_task(work)
        among.add(task)
        task.add_done_callback(among.discard)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("session crashed", exc_info=error)

    def close_the_door(self, *, outside: str, inside: str) -> None:
        """Let nobody in any more, who read ``outside``, while those who are inside go on and read ``inside``."""
        self._closing.begin(outside=outside, inside=inside)
        for connection in list(self._connections):
            if not connection.has_logged_in:
                connection.disconnect(asyncssh.DISC_BY_APPLICATION, outside)

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
            connection.disconnect(asyncssh.DISC_BY_APPLICATION, End.SHUTDOWN.sentence)
        if left := self._tasks | self._partings:
            await asyncio.wait(left, timeout=1)
        for connection in list(self._connections):
            connection.abort()


def _options(host_key: asyncssh.SSHKey, login_timeout: float) -> asyncssh.SSHServerConnectionOptions:
    """What every client connection is offered: certificates, and a login in the browser for who has none."""
    return asyncssh.SSHServerConnectionOptions(
        server_host_keys=[host_key],
        server_version="Bastion",
        password_auth=False,
        kbdint_auth=True,
        host_based_auth=False,
        public_key_auth=True,
        gss_host=None,
        agent_forwarding=False,
        x11_forwarding=False,
        line_editor=False,
        **offered(KEY_EXCHANGES, CIPHERS, MACS, first=FIRST_KEY_EXCHANGE),
        compression_algs=None,
        encoding=None,
        window=WINDOW,
        login_timeout=login_timeout,
        keepalive_interval=KEEPALIVE,
        keepalive_count_max=4,
        config=[],
    )
