"""The keys of recordings: one per region that seals, one per node that signs. Made on the first start."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bastion.adapters.keyfile import load_or_create_key
from bastion.adapters.recordings.container import Altered
from bastion.core.errors import ConfigError
from bastion.core.target import LABEL

KEY = 32
"""Bytes: AES-256 (FIPS 197)."""

_NONCE = 12
_RAW = (serialization.Encoding.Raw, serialization.PublicFormat.Raw)


class RegionKey:
    """Wraps the keys of a region's recordings, and nothing else."""

    def __init__(self, key: bytes) -> None:
        self.id = hashlib.sha256(b"bastion region key\n" + key).hexdigest()[:16]
        self._cipher = AESGCM(key)

    def wrap(self, key: bytes, named: bytes) -> bytes:
        """``key`` sealed for the recording that ``named`` describes."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, key, named)

    def unwrap(self, wrapped: bytes, named: bytes) -> bytes:
        """Raises `Altered`: it was wrapped under another key, for another recording, or not at all."""
        try:
            return self._cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], named)
        except (InvalidTag, ValueError) as error:
            raise Altered("its key does not belong to its header") from error


class RecordingKeys:
    """What one node holds: the keys of its regions (law 8), its signing key, and whose signatures it believes."""

    def __init__(
        self, *, regions: Mapping[str, RegionKey], signing: Ed25519PrivateKey, trusted: Iterable[Ed25519PublicKey] = ()
    ) -> None:
        self.regions = regions
        self.signing = signing
        self.signing_id = key_id(signing.public_key())
        self.trusted = {key_id(public): public for public in (*trusted, signing.public_key())}


def key_id(public: Ed25519PublicKey) -> str:
    """A signing key's name in manifests."""
    return hashlib.sha256(public.public_bytes(*_RAW)).hexdigest()[:16]


def open_keys(directory: Path, regions: Iterable[str]) -> RecordingKeys:
    """The keys in ``directory``; those that are missing are made, each 0600 and never half written.

    ``region-<name>.key`` is 32 random bytes. ``recordings.pem`` is the node's Ed25519 key, ``recordings.pub.pem`` what
    others verify with, and ``trusted/*.pem`` the public keys of other nodes, or this one's former ones.

    Raises:
        ConfigError: a key cannot be read, is damaged, or others may read it. None was replaced.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        region_keys = {name: RegionKey(_region_key(directory, name)) for name in regions}
        signing = load_or_create_key(directory / "recordings.pem")
        public = signing.public_key()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        if _keep(directory / "recordings.pub.pem", pem, mode=0o644) != pem:
            raise ConfigError(
                [f"{directory}/recordings.pub.pem: this is not the public part of recordings.pem beside it."]
            )
        trusted = [_public_key(path) for path in sorted((directory / "trusted").glob("*.pem"))]
    except OSError as error:
        raise ConfigError([f"{error.filename or directory}: {error.strerror}; recordings need their keys."]) from error
    return RecordingKeys(regions=region_keys, signing=signing, trusted=trusted)


def _region_key(directory: Path, region: str) -> bytes:
    if not LABEL.fullmatch(region):
        raise ConfigError([f"{region!r} cannot be the name of a region."])
    path = directory / f"region-{region}.key"
    key = _keep(path, secrets.token_bytes(KEY))
    if len(key) != KEY:
        raise ConfigError([f"{path}: a region's key is {KEY} bytes, this file {len(key)}. Restore it from a backup."])
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except ValueError as error:
        raise ConfigError([f"{path}: this is not a public key in PEM."]) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError([f"{path}: recordings are signed with Ed25519, and this is another kind of key."])
    return key


def _keep(path: Path, fresh: bytes, mode: int = 0o600) -> bytes:
    """The file's content; where there is none, ``fresh``, put there whole. Of two that start at once one wins."""
    if not path.exists():
        half = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(fresh)
                file.flush()
                os.fsync(file.fileno())
            os.link(half, path)  # unlike a rename, it never replaces a key that is there by now
        except FileExistsError:
            pass
        finally:
            half.unlink()
        sync_directory(path.parent)
    if mode == 0o600 and (found := path.stat().st_mode & 0o077):
        raise ConfigError([f"{path}: others may read or change it (mode {found:03o}). Run: chmod 600 {path}"])
    return path.read_bytes()


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
