"""Where somebody is, and whether a fence holds that place."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_address(text: str) -> Address:
    """Read an IP address as the peer really has it: IPv4-mapped IPv6 (RFC 4291, section 2.5.5.2) becomes IPv4.

    Raises:
        ValueError: it is not an address. A zone index (``fe80::1%eth0``) is not part of one.
    """
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text!r} has a zone index")
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
    return address


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address is, by which data, and how old that data was when it was asked.

    ``country`` is an ISO 3166-1 alpha-2 code, or None where the data does not know: an unknown country is outside
    every fence. ``source`` names the database file or the configured network.
    """

    address: Address
    country: str | None
    source: str
    data_from: datetime | None = None
    """When the database was built; None for a configured network, which does not age."""

    def __str__(self) -> str:
        return f"{self.address} ({self.country or 'unknown country'}, by {self.source})"


@dataclass(frozen=True, slots=True)
class Fence:
    """The countries and networks that a region may be reached from. An empty fence holds nothing."""

    countries: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    def judge(self, place: Place) -> Inside | Outside:
        """Whether ``place`` is inside, and by what."""
        for network in self.networks:
            if place.address.version == network.version and place.address in network:
                return Inside(f"{place.address} is in {network}")
        if place.country is None:
            return Outside(f"the country of {place.address} is not known")
        if place.country in self.countries:
            return Inside(f"{place.address} is in {place.country}")
        return Outside(f"{place.address} is in {place.country}, which the fence does not hold")


@dataclass(frozen=True, slots=True)
class Inside:
    reason: str


@dataclass(frozen=True, slots=True)
class Outside:
    reason: str


def is_inside(fence: Fence, place: Place) -> bool:
    """Whether ``fence`` holds ``place``, for callers that need no reason."""
    judgement = fence.judge(place)
    match judgement:
        case Inside():
            return True
        case Outside():
            return False
        case _:
            assert_never(judgement)
