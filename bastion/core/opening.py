"""Entries of a target's ``forward`` list: the hosts beside the target that forwards may reach."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

from bastion.core.geofence import Address, Network

_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""As the last label it makes a name one that resolvers take for an address (inet_aton(3))."""

_OPENING = re.compile(r"(?:\[([0-9a-f:/]+)\]|([^:\[\]]+)):([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?", re.ASCII)


def is_host_name(text: str) -> bool:
    """Whether ``text``, in lower case, can be a host's name and nothing else."""
    return _NAME.fullmatch(text) is not None and _NUMBER.fullmatch(text.rpartition(".")[2]) is None


@dataclass(frozen=True, slots=True)
class Opening:
    """A host by name, or a network, at ports from ``first`` to ``last``. ``written`` is how it was configured."""

    host: str | None
    network: Network | None
    first: int
    last: int
    written: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``db.internal:5432``, ``10.20.0.0/16:443``, ``10.20.0.7:8000-8099`` or ``[2001:db8::/32]:443``.

        Raises:
            ValueError: it is not written so, or is the target's own loopback.
        """
        match = _OPENING.fullmatch(text)
        if match is None:
            raise ValueError("must be a host or a network and its ports, such as db.internal:5432 or 10.20.0.0/16:443")
        first, last = int(match[3]), int(match[4] or match[3])
        if not first <= last < 65536:
            raise ValueError("must have ports from 1 to 65535, the smaller one first")
        where = match[1] or match[2]
        try:
            network = ipaddress.ip_network(where)
        except ValueError:
            if match[1] is not None or not is_host_name(where):
                raise ValueError(
                    f"{where} must be a host's name in lower case, or a network without host bits"
                ) from None
            network = None
        if where == "localhost" or (network is not None and network.is_loopback):
            raise ValueError("is the target's own loopback, for which a grant has ssh:forward_loopback")
        return cls(where if network is None else None, network, first, last, text)

    def names(self, name: str, port: int) -> bool:
        """Whether it is this host, by name."""
        return self.host == name and self.first <= port <= self.last

    def holds(self, address: Address, port: int) -> bool:
        """Whether it is a network with this address."""
        network = self.network
        return (
            network is not None
            and network.version == address.version
            and address in network
            and self.first <= port <= self.last
        )
