"""Private keys in files: Ed25519, PKCS #8 PEM, mode 0600, made the first time they are needed."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from bastion.core.errors import ConfigError


def openssh_private_key(key: Ed25519PrivateKey) -> bytes:
    """The key as OpenSSH writes private keys (PROTOCOL.key), unencrypted: for libraries in this process."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """The Ed25519 key in ``path``; a new one, synced to disk before it is used, when there is no such file.

    Raises:
        ConfigError: it cannot be read or written, is not Ed25519, or others may read it.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _create(path)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError([f"{path}: cannot be created: {error.strerror}"]) from None
    return _load(path)


def _create(path: Path) -> None:
    """Write a new key under a name of its own and link it into place: a half-written key is never seen."""
    if path.exists():
        raise FileExistsError
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, pem)
        os.fsync(descriptor)
        path.hardlink_to(fresh)
    finally:
        os.close(descriptor)
        fresh.unlink()
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        mode = path.stat().st_mode
        if mode & 0o077:
            raise ConfigError([f"{path}: mode {mode & 0o777:04o} lets others read a signing key; chmod 600 it"])
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    except ValueError:
        raise ConfigError([f"{path}: is not a PEM private key"]) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError([f"{path}: is not an Ed25519 key"])
    return key
