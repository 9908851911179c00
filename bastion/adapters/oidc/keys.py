"""An issuer's public keys (RFC 7517): cached, and asked for once more when a token names one that is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key
from joserfc.util import base64_to_int

from bastion.core.errors import Unauthenticated
from bastion.ports import Clock

MAX_AGE = timedelta(minutes=15)
"""A key that its issuer has withdrawn is believed no longer than this."""

REFETCH_PAUSE = timedelta(seconds=30)
"""Between two questions that a token's unknown key id caused: anybody can send such tokens."""

MAX_KEYS = 64
"""Keys read from one set; real ones have fewer than ten."""

RSA_BITS = range(2048, 8193)
"""Below is broken (RFC 7518, section 3.3); far above, one verification costs seconds."""

PublicKey = RSAKey | ECKey | OKPKey

_KEY_TYPES: dict[str, type[PublicKey]] = {"RS": RSAKey, "PS": RSAKey, "ES": ECKey, "Ed": OKPKey}


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """One usable key of a set."""

    kid: str | None
    alg: str | None
    """The one algorithm it is for, or None when its issuer does not say."""
    key: PublicKey

    def fits(self, alg: str) -> bool:
        """Whether a signature by ``alg`` can be this key's. A key is never used as another type than its own."""
        return isinstance(self.key, _KEY_TYPES[alg[:2]]) and self.alg in (None, alg)


class KeyCache:
    """The keys of one issuer."""

    def __init__(self, *, fetch: Callable[[], Awaitable[Mapping[str, Any]]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: list[IssuerKey] = []
        self._fetched_at: datetime | None = None
        self._refetched_at: datetime | None = None
        self._lock = asyncio.Lock()

    async def find(self, kid: str | None, alg: str) -> PublicKey:
        """The one key that a token with this header can be signed by.

        Raises:
            Unauthenticated: there is none, or more than one; the set was asked for again if that was allowed.
            Unavailable: the issuer did not answer.
        """
        async with self._lock:
            await self._load_if_old()
            matches = self._matching(kid, alg)
            if not matches and self._may_refetch():
                self._refetched_at = self._clock.now()
                await self._load()
                matches = self._matching(kid, alg)
        if len(matches) != 1:
            raise Unauthenticated(
                "The identity provider signed the login with a key that it does not publish. Try again in a minute.",
                detail=f"kid {str(kid)[:100]!r}, alg {alg}: {len(matches)} keys of {len(self._keys)} fit",
            )
        return matches[0].key

    def _matching(self, kid: str | None, alg: str) -> list[IssuerKey]:
        # Without a kid the set must leave no choice (OpenID Connect Core 1.0, section 10.1).
        return [key for key in self._keys if key.fits(alg) and (kid is None or key.kid == kid)]

    def _may_refetch(self) -> bool:
        return self._refetched_at is None or self._clock.now() - self._refetched_at >= REFETCH_PAUSE

    async def _load_if_old(self) -> None:
        if self._fetched_at is None or self._clock.now() - self._fetched_at >= MAX_AGE:
            await self._load()

    async def _load(self) -> None:
        document = await self._fetch()
        self._keys = read_keys(document)
        self._fetched_at = self._clock.now()


def read_keys(document: Mapping[str, Any]) -> list[IssuerKey]:
    """The usable keys of a JWK Set (RFC 7517, section 5); symmetric, encryption, weak and broken ones are left out."""
    entries = document.get("keys")
    return list(_usable(entries[:MAX_KEYS])) if isinstance(entries, list) else []


def _usable(entries: Iterable[object]) -> Iterable[IssuerKey]:
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        if "d" in entry or not _is_acceptable(entry):
            continue
        try:
            key = import_key(entry)
            key.get_op_key("verify")  # it is read here; an unusable one would fail later, in somebody's login
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        kid, alg = entry.get("kid"), entry.get("alg")
        if isinstance(key, PublicKey):
            yield IssuerKey(kid if isinstance(kid, str) else None, alg if isinstance(alg, str) else None, key)


def _is_acceptable(entry: Mapping[str, Any]) -> bool:
    match entry:
        case {"kty": "RSA", "n": str(modulus)}:
            return _bits(modulus) in RSA_BITS
        case {"kty": "EC"} | {"kty": "OKP", "crv": "Ed25519"}:
            return True
        case _:
            return False


def _bits(modulus: str) -> int:
    """Of a Base64urlUInt (RFC 7518, section 2); 0 when it is none, or too long to be worth decoding."""
    try:
        return base64_to_int(modulus).bit_length() if len(modulus) * 6 < 2 * RSA_BITS.stop else 0
    except ValueError:
        return 0
