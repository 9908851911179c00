"""Public keys of targets, as OpenSSH writes them: ``ssh-ed25519 AAAA…``."""

from __future__ import annotations

from typing import Any

from bastion.config.values import text

MIN_RSA_BITS = 2048
"""OpenSSH's own RequiredRSASize allows less, 1024; sshd has made larger keys since 2009."""

_FORM = "must be a public key line of OpenSSH, such as ssh-ed25519 AAAA…"


def public_key(raw: Any) -> str:
    """One line of a host's .pub file.

    Raises:
        ValueError: it is none. A private key is never repeated in the sentence.
    """
    # Slow to import, and only a configuration with targets needs it.
    import asyncssh

    if isinstance(raw, str) and "PRIVATE KEY" in raw:
        raise ValueError(
            "is a private key, which no bastion needs: write the line of the host's .pub file, and replace it"
        )
    line = text(raw).strip()
    if line.split(" ", 1)[0].startswith("@") or "-cert-v01@" in line.split(" ", 1)[0]:
        raise ValueError(f"{_FORM}; not a certificate and not a line of known_hosts")
    try:
        key = asyncssh.import_public_key(line)
    except (asyncssh.KeyImportError, ValueError):
        raise ValueError(f"{_FORM}, without the host's name before it") from None
    if not line.startswith(f"{key.get_algorithm()} "):
        raise ValueError(_FORM)
    bits = getattr(getattr(key, "pyca_key", None), "key_size", None)
    if key.get_algorithm() == "ssh-rsa" and (bits is None or bits < MIN_RSA_BITS):
        raise ValueError(f"is an RSA key of {bits} bits; {MIN_RSA_BITS} are the least")
    if key.get_algorithm() == "ssh-dss":
        raise ValueError("is a DSA key, which OpenSSH has given up; use ssh-ed25519")
    return line
