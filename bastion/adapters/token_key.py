"""The key that the bastion's own tokens are signed with, kept in the data directory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from bastion.core.errors import ConfigError

FILE = "token-key.pem"


def open_token_key(directory: Path) -> Ed25519PrivateKey:
    """The key in ``directory``, made there if it is the first time.

    Raises:
        ConfigError: it cannot be read or written, is not an Ed25519 key, or others than the owner can read it.
    """
    path = directory / FILE
    try:
        _create(path)
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise ConfigError([f"{path}: others can read this key; chmod 600 it, or delete it to have a new one"])
            key = load_pem_private_key(file.read(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError([f"{path}: cannot be used as the token key: {error}"]) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError([f"{path}: is not an Ed25519 key; delete it to have a new one"])
    return key


def _create(path: Path) -> None:
    """Write a new key unless there is one; a crash leaves either none or a complete one."""
    if path.exists():
        return
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)  # not rename: of two processes that start at once, both use the first one's key
    except FileExistsError:
        pass
    finally:
        draft.unlink()
