"""Where an address is, by the configured networks and a MaxMind-format database.

A wrong country opens a door and an unknown one does not, so whatever is missing, broken or doubtful is unknown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import structlog

from bastion.adapters.maxmind import Database, country_code
from bastion.core.geofence import Address, Network, Place, parse_address
from bastion.ports import Clock

LOOK_INTERVAL = timedelta(seconds=1)
"""Between two looks at whether the file was replaced."""

NO_DATABASE = "no geo database"
"""The source of a place when none is configured."""

_IPV4_MAPPED = IPv6Network("::ffff:0:0/96")
log = structlog.get_logger(__name__)


class MaxMindLocator:
    """Keeps `bastion.ports.Locator`: configured networks first, longest prefix first, then the database.

    A replaced file is picked up within `LOOK_INTERVAL`. One that cannot be used, or is gone, is logged; the data that
    is there stays, and its age shows.

    Args:
        database: the file. None, or one that does not exist yet, makes every address unknown.
        networks: the country of networks that no database knows, or knows better.
        clock: by which the file is looked at.
    """

    def __init__(self, database: Path | None, networks: Mapping[Network, str], *, clock: Clock) -> None:
        self._path = database
        placed = ((_plain(network), country_code(country)) for network, country in networks.items())
        self._networks = sorted(placed, key=lambda pair: pair[0].prefixlen, reverse=True)
        self._clock = clock
        self._database: Database | None = None
        self._seen: tuple[int, ...] = ()
        self._complaint = ""
        self._looked_at = clock.now()
        self._look()

    def locate(self, address: Address) -> Place:
        self._look_again()
        try:
            address = parse_address(str(address))
        except ValueError:  # a zone index: the address means something on one link only
            return Place(address, None, "an address of a single link")
        for network, country in self._networks:
            if address.version == network.version and address in network:
                return Place(address, country, f"network {network}")
        if (database := self._database) is None:
            return Place(address, None, NO_DATABASE if self._path is None else self._path.name)
        return Place(address, self._country(database, address), database.name, database.built_at)

    def age(self, now: datetime) -> timedelta | None:
        """How long before ``now`` the data was built; None without data."""
        self._look_again()
        return None if self._database is None else now - self._database.built_at

    def _country(self, database: Database, address: Address) -> str | None:
        try:
            return database.country(address)
        except ValueError as error:
            log.error("a geo record cannot be read; its country is unknown", error=str(error))
            return None

    def _look_again(self) -> None:
        now = self._clock.now()
        if abs(now - self._looked_at) >= LOOK_INTERVAL:  # clocks are set back, too
            self._looked_at = now
            self._look()

    def _look(self) -> None:
        """Read the file if it is another one than last time. Never raises."""
        if self._path is None:
            return
        mark: tuple[int, ...] = ()
        try:
            mark = _mark(self._path.stat())
            if mark != self._seen:
                self._take(Database(self._path))
                self._seen = mark
        except ValueError as error:
            self._seen = mark  # a broken file is not read again every second
            self._complain(str(error))
        except (OSError, MemoryError) as error:  # may pass, so it is tried again
            self._complain(repr(error))

    def _take(self, database: Database) -> None:
        if self._database is not None or self._complaint:
            log.info("geo data replaced", database=database.name, built_at=database.built_at.isoformat())
        self._database, self._complaint = database, ""

    def _complain(self, problem: str) -> None:
        """Once for each problem, not once a second."""
        if problem != self._complaint:
            self._complaint = problem
            kept = "every address is in an unknown country" if self._database is None else "the older data stays in use"
            log.warning(f"the geo database cannot be read; {kept}", error=problem)


def _mark(status: os.stat_result) -> tuple[int, ...]:
    """What tells one state of a file from another, whether it was renamed into place or written over."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _plain(network: Network) -> Network:
    """An IPv4-mapped network as IPv4, which is what `parse_address` makes of the addresses in it."""
    if isinstance(network, IPv6Network) and network.subnet_of(_IPV4_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    return network
