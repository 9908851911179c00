"""The names of SSH algorithms: those offered everywhere, and those that a target gets only where that is configured.

What the library or the platform lacks of them is left out where they are used. Nothing that clients are offered is red
to ssh-audit, which a test holds. What is preferred comes first, where the order is ours to choose.
"""

from __future__ import annotations

from collections.abc import Sequence

QUANTUM_SAFE = ("mlkem768x25519-sha256", "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com")
"""Hybrids: whoever keeps what they hear today learns nothing from it with a quantum computer later."""

KEY_EXCHANGES = (*QUANTUM_SAFE, "curve25519-sha256", "curve25519-sha256@libssh.org")

CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
)
"""AES-GCM first: one call of the library a packet, where ChaCha20-Poly1305 costs three and a context each."""

MACS = ("umac-128-etm@openssh.com", "hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
"""For the CTR ciphers; encrypt-then-MAC alone."""

HOST_KEYS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
"""How targets may prove a key. The NIST curves are there because a configuration that pins such a key has chosen it."""

STRONG = (*KEY_EXCHANGES, *CIPHERS, *MACS, *HOST_KEYS)

LEGACY_KEY_EXCHANGES = (
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group-exchange-sha256",
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group14-sha1",
)
LEGACY_HOST_KEYS = ("ssh-rsa",)
"""An RSA key that proves itself by SHA-1: OpenSSH before 7.2."""
LEGACY_MACS = ("umac-128@openssh.com", "hmac-sha2-256", "hmac-sha2-512", "hmac-sha1")

LEGACY = (*LEGACY_KEY_EXCHANGES, *LEGACY_HOST_KEYS, *LEGACY_MACS)
"""What a target's configuration can add. CBC, 3DES, RC4, DSA, MD5 and groups of 1024 bits it cannot: an sshd that reads
our certificates (OpenSSH 6.5 of 2014, for Ed25519) never needs them."""

_CERTIFICATE = "-cert-v01@openssh.com"


def host_key_algorithms(keys: Sequence[str], *, certified: bool, extra: frozenset[str] = frozenset()) -> list[str]:
    """The ways in which a target may prove itself.

    A host has keys of several types, and shows the one that we name first: so only types that are known are named.

    Args:
        keys: OpenSSH public key lines that it may have.
        certified: whether a host authority may vouch for a key of any type.
        extra: names of `LEGACY` that it may use besides.
    """
    allowed = [*HOST_KEYS, *(name for name in LEGACY_HOST_KEYS if name in extra)]
    types = {line.split()[0] for line in keys}
    plain = [name for name in allowed if name in types or ("rsa" in name and "ssh-rsa" in types)]
    return ([name + _CERTIFICATE for name in allowed] if certified else []) + plain
