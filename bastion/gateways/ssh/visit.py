"""What sessions of every kind have in common: what they need, and how their end is written down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from bastion.access.admission import Admission, Admitted
from bastion.access.certification import Certification
from bastion.access.devicelogin import DeviceLogins
from bastion.access.offering import Offering
from bastion.access.supervision import Supervision
from bastion.core.errors import BastionError
from bastion.core.session import End
from bastion.gateways.ssh.closing import Closing
from bastion.gateways.ssh.line import Lines
from bastion.gateways.ssh.lookup import Lookup
from bastion.gateways.ssh.plainlogin import Invitation
from bastion.gateways.ssh.target import Connector

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class House:
    """What every session of the gateway needs."""

    admission: Admission
    certification: Certification
    supervision: Supervision
    logins: DeviceLogins
    invitation: Invitation
    connector: Connector
    lookup: Lookup
    offering: Offering
    closing: Closing
    max_channels: int
    """Of one client at a time."""
    spawn: Callable[[Coroutine[Any, Any, None]], None]
    """Owns the session's task, and waits for it when the gateway stops."""

    def lines(self) -> Lines:
        """For one client connection."""
        return Lines(admission=self.admission, connector=self.connector)


class Visit:
    """A session that was admitted, from its beginning to its last line."""

    def __init__(self, house: House, admitted: Admitted) -> None:
        self._house = house
        self._time = asyncio.get_running_loop().time
        self.began = self._time()
        self.admitted = admitted

    @property
    def at(self) -> float:
        """Seconds since it began."""
        return self._time() - self.began

    def mark(self, label: str) -> None:
        """A line of its transcript. Raises `Unavailable`."""
        self.admitted.recorder.mark(self.at, label)

    def watch(self, cut: Callable[[End], None], warn: Callable[[timedelta], None] = lambda _: None) -> None:
        """From now on it is cut when its reason to be ends."""
        self._house.supervision.watch(self.admitted.session, cut=cut, warn=warn, files=self.admitted.files)

    async def finish(self, end: End, status: int | None = None) -> None:
        """Close the recording and write the end, whatever fails on the way."""
        session = self.admitted.session
        self._house.supervision.unwatch(session)
        try:
            # It syncs to disk, and other sessions do not wait for that.
            await asyncio.to_thread(self.admitted.recorder.finish, self.at, end, status)
        except BastionError as error:
            log.error("recording could not be closed", session=session.id, error=str(error))
        try:
            await self._house.admission.close(session, end, status)
        except BastionError as error:
            log.error("session could not be closed in the log", session=session.id, error=str(error))
