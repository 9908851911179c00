"""Names for what is made here: short enough to say on the phone, random enough not to be guessed."""

from __future__ import annotations

import hashlib
import secrets

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: no i, l, o, u."""

LENGTH = 12
"""Characters: 60 random bits."""


def new_id(kind: str) -> str:
    """``kind-`` and twelve random characters, as in ``g-4t9z2m0wq7xh``."""
    return f"{kind}-{''.join(secrets.choice(ALPHABET) for _ in range(LENGTH))}"


def derived_id(kind: str, *parts: str) -> str:
    """The same id for the same ``parts``, so that what is asked twice is one thing."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"{kind}-{''.join(ALPHABET[byte % len(ALPHABET)] for byte in digest[:LENGTH])}"
