"""What is kept of a login so that its issuer can be asked about it later: sealed, and about one identity."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from bastion.core.identity import IdentityId, Proof, Renewal
from bastion.ports import KeptLogin


class Seal(Protocol):
    """Encrypts what is stored."""

    def close(self, plain: bytes, about: bytes) -> bytes:
        """``plain``, so that it opens as being about ``about`` and nothing else."""
        ...

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """What was sealed. Raises `Unavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class KeptTokens:
    """The issuer's tokens of one login."""

    id_token: str = field(repr=False)
    refresh_token: str | None = field(repr=False)

    def after(self, renewal: Renewal) -> KeptTokens:
        """What is kept from now on: an issuer may hand out new ones, and then the old ones are used up."""
        return KeptTokens(renewal.id_token or self.id_token, renewal.refresh_token or self.refresh_token)


class Keeping:
    """Makes kept logins, and opens them again."""

    def __init__(self, *, seal: Seal) -> None:
        self._seal = seal

    def login(self, identity: IdentityId, proof: Proof, at: datetime) -> KeptLogin:
        """A login that was just proven, to be stored in the same transaction as its event."""
        tokens = KeptTokens(proof.id_token, proof.refresh_token)
        asked_at = None if tokens.refresh_token is None else at
        return KeptLogin(identity, proof.sid, self.sealed(identity, tokens), at, asked_at, at)

    def sealed(self, identity: IdentityId, tokens: KeptTokens) -> bytes:
        """``tokens`` as they are stored."""
        return self._seal.close(json.dumps([tokens.id_token, tokens.refresh_token]).encode(), str(identity).encode())

    def tokens(self, login: KeptLogin) -> KeptTokens | None:
        """What is sealed in ``login``, if anything is. Raises `Unavailable`."""
        if login.sealed is None:
            return None
        return KeptTokens(*json.loads(self._seal.open(login.sealed, str(login.identity).encode())))
