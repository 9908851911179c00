"""Keys of the certificate authority, kept in files: one pair of Ed25519 keys per scope.

``<directory>/<environment>.<region>.access`` signs what contractors hold, ``….target`` what targets are shown. Each
file is a PKCS #8 PEM of mode 0600, created on first start, and never leaves the bastion.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bastion.adapters.keyfile import load_or_create_key
from bastion.core.errors import NotFound
from bastion.core.target import Scope

_TYPE = b"ssh-ed25519"


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def public_blob(key: Ed25519PrivateKey) -> bytes:
    """The key's public half as SSH writes it (RFC 8709, section 4)."""
    return _string(_TYPE) + _string(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))


class FileSigner:
    """`bastion.ports.Signer` over keys in memory, which `open_signer` read from files."""

    def __init__(self, access: dict[Scope, Ed25519PrivateKey], target: dict[Scope, Ed25519PrivateKey]) -> None:
        self._access = access
        self._target = target

    async def sign_access(self, scope: Scope, data: bytes) -> bytes:
        return _sign(_of(self._access, scope), data)

    async def sign_target(self, scope: Scope, data: bytes) -> bytes:
        return _sign(_of(self._target, scope), data)

    def access_authority(self, scope: Scope) -> bytes:
        return public_blob(_of(self._access, scope))

    def target_authority(self, scope: Scope) -> bytes:
        return public_blob(_of(self._target, scope))


def _of(keys: dict[Scope, Ed25519PrivateKey], scope: Scope) -> Ed25519PrivateKey:
    try:
        return keys[scope]
    except KeyError:
        raise NotFound(f"There is no key for {scope}.") from None


def _sign(key: Ed25519PrivateKey, data: bytes) -> bytes:
    """A signature blob (RFC 8709, section 6)."""
    return _string(_TYPE) + _string(key.sign(data))


def open_signer(directory: Path, scopes: Iterable[Scope]) -> FileSigner:
    """Read the keys of ``scopes``, making those that do not exist yet.

    Raises:
        ConfigError: a key cannot be read, is not Ed25519, or others may read it. Nothing was overwritten.
    """
    scopes = list(scopes)
    return FileSigner(
        {scope: load_or_create_key(directory / _name(scope, "access")) for scope in scopes},
        {scope: load_or_create_key(directory / _name(scope, "target")) for scope in scopes},
    )


def _name(scope: Scope, kind: str) -> str:
    return f"{scope.environment}.{scope.region}.{kind}"
