"""Where a forward may lead, seen from the target: its own loopback, and what its ``forward`` list names.

A name means one thing to the bastion and may mean another to the target, or the same a moment later. So what was looked
up is judged, every answer of it, and the target is sent a literal address that was judged, never a name. Some places
are off limits whatever a list says. Of an address there is one spelling; whatever else a resolver might take for one
(``127.1``, ``0x7f000001``, ``2130706433``) is neither an address here nor a name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import assert_never

from bastion.core.geofence import Address, Network, parse_address
from bastion.core.opening import Opening, is_host_name
from bastion.core.policy import Action, Deny
from bastion.core.target import printable

LOOPBACK = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))
"""What ``localhost`` means (RFC 6761, section 6.3), in the order in which servers of developers listen."""

OFF_LIMITS: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host (RFC 1122, section 3.2.1.3)
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, where most clouds answer with credentials
        "100.100.100.200/32",  # Alibaba's metadata
        "168.63.129.16/32",  # Azure's host
        "192.0.0.192/32",  # Oracle's metadata
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/127",
        "fe80::/10",
        "fd00:ec2::/32",  # metadata of AWS, fd00:ec2::254
        "fd20:ce::/32",  # and of Google, fd20:ce::254
        "ff00::/8",
    )
)
"""Reached by no forward; the target's own loopback has a way of its own."""

_WRAPPED = tuple(map(ipaddress.IPv6Network, ("::/96", "64:ff9b::/96", "64:ff9b:1::/48")))
"""IPv6 that carries IPv4 in its last 32 bits: RFC 4291 (section 2.5.5.1), RFC 6052, RFC 8215."""


@dataclass(frozen=True, slots=True)
class Loopback:
    """The target's own, at one address of it or, where it was named, at any."""

    addresses: tuple[Address, ...]
    port: int

    def __str__(self) -> str:
        return spelled("localhost" if len(self.addresses) > 1 else self.addresses[0], self.port)


@dataclass(frozen=True, slots=True)
class Literal:
    """An address as it was written."""

    address: Address
    port: int

    def __str__(self) -> str:
        return spelled(self.address, self.port)


@dataclass(frozen=True, slots=True)
class Named:
    """A name, lower case and without the dot at its end; what it means is to be looked up."""

    name: str
    port: int

    def __str__(self) -> str:
        return spelled(self.name, self.port)


Peer = Loopback | Literal | Named


@dataclass(frozen=True, slots=True)
class Way:
    """The addresses that the target may be told to connect to, in the order of trying. Never empty."""

    addresses: tuple[Address, ...]
    port: int


@dataclass(frozen=True, slots=True)
class OffLimits:
    """What is known to be the bastion's own or another scope's, whatever a list says."""

    names: frozenset[str] = frozenset()
    """Of the bastion, and of hosts of other scopes' targets; lower case."""
    addresses: frozenset[Address] = frozenset()
    """The same as addresses: this machine's, and those hosts'."""
    ports_beside: frozenset[int] = frozenset()
    """Of the target's loopback, where the target is on a machine with the bastion or with another scope's target."""

    def holds(self, address: Address) -> bool:
        """Whether ``address``, or what it stands for, is off limits."""
        return any(
            meant in self.addresses or any(meant.version == n.version and meant in n for n in OFF_LIMITS)
            for meant in _meanings(address)
        )


def parse_peer(host: str, port: int) -> Peer | Deny:
    """Read where a client wants to go: an address in its usual spelling, or a host's name."""
    name = host.lower().removesuffix(".")
    if not 0 < port < 65536:
        return Deny((f"{port} is not a port.",))
    if name == "localhost":
        return Loopback(LOOPBACK, port)
    try:
        address = parse_address(host)
    except ValueError:
        if is_host_name(name):
            return Named(name, port)
        return Deny((f"{printable(host, 60)!r} is neither a host's name nor an address as it is usually written.",))
    return Loopback((address,), port) if address.is_loopback else Literal(address, port)


def action_of(peer: Peer) -> Action:
    """What a grant must include for it."""
    return Action.SSH_FORWARD_LOOPBACK if isinstance(peer, Loopback) else Action.SSH_FORWARD


def judge(peer: Peer, answers: Collection[Address], openings: Iterable[Opening], off_limits: OffLimits) -> Way | Deny:
    """Where the target may be told to connect to.

    Args:
        peer: where the client wants to go.
        answers: what a name means, as the bastion has just looked it up; of others nothing is looked at.
        openings: the target's ``forward`` list.
        off_limits: what is refused even so.
    """
    match peer:
        case Loopback(addresses, port):
            if port in off_limits.ports_beside:
                return Deny((f"{peer} of this target is the bastion's, or another scope's.",))
            return Way(addresses, port)
        case Literal(address, port):
            return _judge_addresses(peer, port, (address,), listed=False, openings=openings, off_limits=off_limits)
        case Named(name, port):
            if name in off_limits.names:
                return Deny((f"{peer} is the bastion's, or another scope's.",))
            listed = any(opening.names(name, port) for opening in openings)
            found = tuple(dict.fromkeys(answers))
            if not found and (listed or any(opening.network is not None for opening in openings)):
                return Deny((f"The bastion cannot find out what {name} means, so it cannot judge it.",))
            return _judge_addresses(peer, port, found, listed=listed, openings=openings, off_limits=off_limits)
        case _:
            assert_never(peer)


def _judge_addresses(
    peer: Peer,
    port: int,
    addresses: tuple[Address, ...],
    *,
    listed: bool,
    openings: Iterable[Opening],
    off_limits: OffLimits,
) -> Way | Deny:
    """All of them or none: which one a target would try first is not ours to know."""
    openings = tuple(openings)
    forbidden = [address for address in addresses if off_limits.holds(address)]
    if forbidden:
        meant = "" if isinstance(peer, Literal) else f" means {forbidden[0]}, which"
        return Deny((f"{peer}{meant} is off limits: loopback, link-local, the bastion's own or another scope's.",))
    if not addresses or not (listed or all(any(o.holds(a, port) for o in openings) for a in addresses)):
        return Deny((f"{peer} is not on the target's forward list; whoever operates the bastion can add it.",))
    return Way(addresses, port)


def spelled(host: str | Address, port: int) -> str:
    """``db.internal:5432``, ``[2001:db8::1]:443``."""
    return f"[{host}]:{port}" if isinstance(host, ipaddress.IPv6Address) else f"{host}:{port}"


def _meanings(address: Address) -> Iterator[Address]:
    """The address, and the IPv4 ones that are wrapped in it."""
    yield address
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if any(address in network for network in _WRAPPED) and address not in LOOPBACK:
        yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
