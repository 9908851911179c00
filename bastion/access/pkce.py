"""Proof Key for Code Exchange (RFC 7636): whoever began may finish, and nobody who only saw the code."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets

CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
"""SHA-256 in base64url without padding (RFC 7636, section 4.2). ``plain`` challenges do not exist here."""

VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)
"""RFC 7636, section 4.1."""


def new_secret() -> str:
    """43 characters, 256 random bits: a verifier, a state, a nonce, a code."""
    return secrets.token_urlsafe(32)


def challenge_of(verifier: str) -> str:
    """The S256 challenge of ``verifier``."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode("ascii")


def matches(challenge: str, verifier: str) -> bool:
    """Whether ``verifier`` is the one behind ``challenge``. Anything that could not be a verifier is not."""
    return VERIFIER.fullmatch(verifier) is not None and hmac.compare_digest(challenge_of(verifier), challenge)


def digest(secret: str) -> str:
    """What is kept of a browser's secret, so that whoever reads the coordination cannot be that browser."""
    return hashlib.sha256(secret.encode()).hexdigest()
