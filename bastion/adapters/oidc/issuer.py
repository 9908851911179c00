"""One issuer of signed tokens: where its keys are, kept for a while, and what they signed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

from bastion.adapters.oidc.fetch import Fetcher, answer_ok, check_url
from bastion.adapters.oidc.keys import KeyCache
from bastion.adapters.oidc.signature import TokenKind, read_header, signed_claims
from bastion.ports import Clock

METADATA_AGE = timedelta(hours=1)
"""After that it is asked for again: endpoints move, algorithms are given up."""


class Signing(Protocol):
    """The part of an issuer's metadata that its signatures need."""

    @property
    def jwks_uri(self) -> str: ...

    @property
    def algorithms(self) -> frozenset[str]: ...


M = TypeVar("M", bound=Signing)


@dataclass(frozen=True, slots=True)
class Signed:
    """Claims that the issuer signed with ``alg``. What they say is not judged yet."""

    claims: Mapping[str, Any]
    alg: str


class SigningIssuer(Generic[M]):
    """Metadata and keys of ``issuer``, fetched when they are needed.

    Args:
        issuer: its identifier.
        document: the URL of its metadata.
        read: reads the metadata, or raises `Unavailable`.
        fetcher: asks for both.
        clock: what their age is judged by.
    """

    def __init__(
        self,
        *,
        issuer: str,
        document: str,
        read: Callable[[Mapping[str, Any], str], M],
        fetcher: Fetcher,
        clock: Clock,
    ) -> None:
        self.issuer = issuer
        self._document = document
        self._read = read
        self._fetcher = fetcher
        self._clock = clock
        self._known: tuple[M, datetime] | None = None
        self._keys = KeyCache(fetch=self._fetch_keys, clock=clock)

    async def metadata(self) -> M:
        """What it says about itself, at most `METADATA_AGE` old. Raises `Unavailable`."""
        now = self._clock.now()
        if self._known is None or now - self._known[1] >= METADATA_AGE:
            url = check_url(self._document, what="issuer")
            self._known = (self._read(answer_ok(await self._fetcher.get(url), url), self.issuer), now)
        return self._known[0]

    async def open(self, unverified_token: str, kind: TokenKind) -> Signed:
        """The claims of a token of ``kind``, when the issuer signed it.

        Raises:
            Unauthenticated: it did not, or it is another kind of token.
            Unavailable: the issuer's keys cannot be had.
        """
        header = read_header(unverified_token, (await self.metadata()).algorithms, kind)
        key = await self._keys.find(header.kid, header.alg)
        return Signed(signed_claims(unverified_token, header, key, kind), header.alg)

    async def _fetch_keys(self) -> Mapping[str, Any]:
        url = (await self.metadata()).jwks_uri
        return answer_ok(await self._fetcher.get(url), url)
