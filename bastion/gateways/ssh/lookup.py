"""What names mean to the bastion, and which addresses are its own or another scope's: what forwards are judged by."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from bastion.core.forward import Loopback, Named, OffLimits, Peer, Way, judge
from bastion.core.geofence import Address, parse_address
from bastion.core.policy import Deny
from bastion.core.target import Catalogue, Target

PATIENCE = 5.0
"""Seconds to find out what a name means."""

REMEMBERED = 30.0
"""Seconds for which the addresses of targets are taken to be what they were; those of a forward are looked up anew."""

Resolve = Callable[[str], Awaitable[Iterable[Address]]]


async def resolve(name: str) -> list[Address]:
    """Every address that the system finds for ``name``; none when it finds out nothing in time."""
    try:
        async with asyncio.timeout(PATIENCE):
            found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return []
    return [parse_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found]


def is_ours(address: Address) -> bool:
    """Whether this machine answers to ``address``: only then can a socket be bound to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


class Lookup:
    """Judges where forwards may lead.

    Args:
        catalogue: the targets.
        public_host: how people name the bastion.
        ports: at which the bastion listens.
        resolver: what a name means.
    """

    def __init__(
        self, *, catalogue: Catalogue, public_host: str, ports: Iterable[int] = (), resolver: Resolve = resolve
    ) -> None:
        self._catalogue = catalogue
        self._public_host = public_host.lower()
        self._ports = frozenset(ports)
        self._resolve = resolver
        self._remembered: dict[str, tuple[float, frozenset[Address]]] = {}

    def listens_at(self, port: int) -> None:
        """The bastion listens there, too."""
        self._ports |= {port}

    async def way(self, peer: Peer, target: Target) -> Way | Deny:
        """Where ``target`` may be told to connect to, for ``peer``."""
        match peer:
            case Loopback():
                return judge(peer, (), target.forward, OffLimits(ports_beside=await self._ports_beside(target)))
            case Named(name, port):
                # What no entry could let through is not looked up for whoever asks.
                hopeful = any(o.names(name, port) or o.network is not None for o in target.forward)
                answers = tuple(await self._resolve(name)) if hopeful else ()
            case _:
                answers = (peer.address,)
        if not target.forward:
            return judge(peer, answers, (), OffLimits())
        off_limits = await self._off_limits(target)
        ours = frozenset(address for address in answers if is_ours(address))
        return judge(peer, answers, target.forward, replace(off_limits, addresses=off_limits.addresses | ours))

    async def _off_limits(self, target: Target) -> OffLimits:
        names = {self._public_host, *(other.host.lower().removesuffix(".") for other in self._elsewhere(target))}
        found = await asyncio.gather(*map(self._addresses, names))
        return OffLimits(names=frozenset(names), addresses=frozenset().union(*found))

    async def _ports_beside(self, target: Target) -> frozenset[int]:
        """Ports of the machine that ``target`` is on which are not the target's: the bastion's, another scope's."""
        if target.via is not None:
            return frozenset()  # Its address is one of another network.
        here = await self._addresses(target.host)
        is_beside = any(map(is_ours, here))
        others = {
            other.port
            for other in self._elsewhere(target)
            if other.host == target.host or (_literal(other.host) & here) or (is_beside and _is_loopback(other.host))
        }
        return frozenset(others | self._ports if is_beside else others)

    def _elsewhere(self, target: Target) -> list[Target]:
        return [other for other in self._catalogue.targets.values() if other.scope != target.scope]

    async def _addresses(self, host: str) -> frozenset[Address]:
        if literal := _literal(host):
            return literal
        now = asyncio.get_running_loop().time()
        until, addresses = self._remembered.get(host, (now, frozenset[Address]()))
        if until <= now:
            addresses = frozenset(await self._resolve(host))
            self._remembered[host] = (now + REMEMBERED, addresses)
        return addresses


def _literal(host: str) -> frozenset[Address]:
    try:
        return frozenset({parse_address(host)})
    except ValueError:
        return frozenset()


def _is_loopback(host: str) -> bool:
    return host == "localhost" or any(address.is_loopback for address in _literal(host))
