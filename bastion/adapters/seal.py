"""What is encrypted before it is stored: AES-256-GCM under a key in the data directory, bound to what it is about."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bastion.adapters.keyfile import load_or_create_key
from bastion.core.errors import Unavailable

NONCE = 12
"""Bytes (NIST SP 800-38D, section 8.2); random, for far fewer than 2**32 seals under one key."""


class FileSeal:
    """Seals under a key derived from the one in ``path``, which is made when it is not there.

    Every node that shares a store has the same file.

    Raises:
        ConfigError: the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        secret = load_or_create_key(path).private_bytes_raw()
        self._cipher = AESGCM(HKDF(SHA256(), 32, None, b"bastion kept logins").derive(secret))

    def close(self, plain: bytes, about: bytes) -> bytes:
        """``plain``, encrypted, so that it opens as being about ``about`` and nothing else."""
        nonce = os.urandom(NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, about)

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """What was sealed.

        Raises:
            Unavailable: it was altered, is about something else, or was sealed under another key.
        """
        try:
            return self._cipher.decrypt(sealed[:NONCE], sealed[NONCE:], about)
        except (InvalidTag, ValueError):
            raise Unavailable("A kept login cannot be read.", detail="it was sealed under another key") from None
