"""Names for what is made here: short enough to say on the phone, random enough not to be guessed."""

from __future__ import annotations

import secrets

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: no i, l, o, u."""

LENGTH = 12
"""Characters: 60 random bits."""


def new_id(kind: str) -> str:
    """``kind-`` and twelve random characters, as in ``g-4t9z2m0wq7xh``."""
    return f"{kind}-{''.join(secrets.choice(ALPHABET) for _ in range(LENGTH))}"
