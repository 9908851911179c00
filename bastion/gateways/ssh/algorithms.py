"""Which algorithms asyncssh is told to offer: of those that are wanted, the ones that are here."""

from __future__ import annotations

from collections.abc import Sequence

from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs


def offered(
    key_exchanges: Sequence[str], ciphers: Sequence[str], macs: Sequence[str], *, first: str | None = None
) -> dict[str, list[str]]:
    """asyncssh's options, in the order given, but for the key exchange that must come ``first``.

    sntrup761 needs liboqs, ML-KEM a new OpenSSL, UMAC nettle: without them there is one choice less, and never none.
    """
    by_order = sorted(key_exchanges, key=lambda name: name != first)
    return {
        "kex_algs": _here(by_order, get_kex_algs()),
        "encryption_algs": _here(ciphers, get_encryption_algs()),
        "mac_algs": _here(macs, get_mac_algs()),
    }


def _here(wanted: Sequence[str], known: Sequence[bytes]) -> list[str]:
    return [name for name in wanted if name.encode() in known]
