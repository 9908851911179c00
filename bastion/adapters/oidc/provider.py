"""One issuer as the bastion's client of it: where to send a browser, and what its code proves."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote_plus, urlencode, urlsplit

import aiohttp

from bastion.adapters.oidc.fetch import Answer, Fetcher, check_url
from bastion.adapters.oidc.id_token import Expected, read_header, verify
from bastion.adapters.oidc.keys import KeyCache
from bastion.adapters.oidc.metadata import Metadata, discovery_url, read_metadata
from bastion.core.errors import Unauthenticated, Unavailable
from bastion.core.identity import VerifiedClaims
from bastion.core.target import printable
from bastion.ports import Clock

PATIENCE = timedelta(seconds=10)
"""For one exchange; somebody is waiting in front of a browser."""

METADATA_AGE = timedelta(hours=1)
"""After that it is asked for again: endpoints move, algorithms are given up."""


@dataclass(frozen=True, slots=True)
class _Known:
    metadata: Metadata
    at: datetime


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What the token endpoint gave for a code; nothing of it is verified yet."""

    unverified_token: str = field(repr=False)
    access_token: str | None = field(repr=False)


class OidcProvider:
    """An `IdentityProvider` over HTTP.

    Args:
        issuer: its identifier, exactly as its metadata and tokens say it.
        client_id: ours, as registered there.
        client_secret: ours; None for a public client, which PKCE alone protects.
        scopes: what is asked for; ``openid`` is among them.
        session: verifies TLS; it is the caller's to close.
        clock: what token times are compared with.
        patience: for each answer of the provider.
    """

    def __init__(
        self,
        *,
        issuer: str,
        client_id: str,
        client_secret: str | None,
        scopes: Sequence[str],
        session: aiohttp.ClientSession,
        clock: Clock,
        patience: timedelta = PATIENCE,
    ) -> None:
        self.issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._scopes = tuple(dict.fromkeys(("openid", *scopes)))
        self._fetcher = Fetcher(session=session, patience=patience)
        self._clock = clock
        self._known: _Known | None = None
        self._keys = KeyCache(fetch=self._fetch_keys, clock=clock)

    async def authorization_url(self, state: str, nonce: str, code_challenge: str, redirect_uri: str) -> str:
        """Where to send a browser (OpenID Connect Core 1.0, section 3.1.2.1; RFC 7636, section 4.3).

        Raises:
            Unavailable: the provider's metadata cannot be had.
        """
        endpoint = (await self._metadata()).authorization_endpoint
        parameters = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self._scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": code_challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(parameters)}"

    async def claims(
        self, code: str, code_verifier: str, redirect_uri: str, nonce: str, iss: str | None
    ) -> VerifiedClaims:
        """What the issuer says about whoever came back with ``code``.

        ``iss`` is the parameter of that name in the browser's request (RFC 9207), None when it had none.

        Raises:
            Unauthenticated: the answer is another issuer's, the code was refused, or the ID token is not right.
            Unavailable: the provider did not answer usably.
        """
        metadata = await self._metadata()
        # RFC 9207, section 2.4: compared before the code goes anywhere, or a mixed-up code reaches the wrong issuer.
        if iss != self.issuer and (iss is not None or metadata.says_issuer):
            raise Unauthenticated(
                "This login answer does not come from the identity provider it was asked of. Start the login again.",
                detail=f"iss is {iss!r}, not {self.issuer!r}",
            )
        answer = await self._redeem(metadata, code, code_verifier, redirect_uri)
        header = read_header(answer.unverified_token, metadata.algorithms)
        key = await self._keys.find(header.kid, header.alg)
        expected = Expected(self.issuer, self._client_id, nonce, answer.access_token)
        return verify(answer.unverified_token, header, key, expected, self._clock.now())

    async def _metadata(self) -> Metadata:
        now = self._clock.now()
        if self._known is None or now - self._known.at >= METADATA_AGE:
            url = check_url(discovery_url(self.issuer), what="issuer")
            self._known = _Known(read_metadata(_ok(await self._fetcher.get(url), url), self.issuer), now)
        return self._known.metadata

    async def _fetch_keys(self) -> Mapping[str, Any]:
        url = (await self._metadata()).jwks_uri
        return _ok(await self._fetcher.get(url), url)

    async def _redeem(self, metadata: Metadata, code: str, code_verifier: str, redirect_uri: str) -> TokenAnswer:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": code_verifier,
        }
        headers: dict[str, str] = {}
        if self._client_secret is None:
            form["client_id"] = self._client_id
        elif metadata.basic_auth:
            headers["Authorization"] = _basic(self._client_id, self._client_secret)
        else:
            form |= {"client_id": self._client_id, "client_secret": self._client_secret}
        return read_token_answer(await self._fetcher.post(metadata.token_endpoint, form, headers=headers))


def read_token_answer(answer: Answer) -> TokenAnswer:
    """The tokens in the token endpoint's answer (OpenID Connect Core 1.0, section 3.1.3.3; RFC 6749, section 5.2).

    Raises:
        Unauthenticated: the code was not accepted.
        Unavailable: it is not an answer that this endpoint may give, or our own credentials were refused.
    """
    error = answer.body.get("error")
    if answer.status == 400 and error == "invalid_grant":
        raise Unauthenticated(
            "The identity provider did not accept this login's code: it was used already or is too old. "
            "Start the login again.",
            detail=printable(str(answer.body.get("error_description"))),
        )
    if answer.status != 200:
        raise Unavailable(
            "The identity provider refused the bastion itself. Tell whoever runs the bastion.",
            detail=f"token endpoint: status {answer.status}, {printable(str(error))!r}",
        )
    token, access_token = answer.body.get("id_token"), answer.body.get("access_token")
    if not isinstance(token, str) or not (access_token is None or isinstance(access_token, str)):
        raise Unavailable("The identity provider's answer has no ID token.", detail="token endpoint")
    return TokenAnswer(token, access_token)


def _ok(answer: Answer, url: str) -> Mapping[str, Any]:
    if answer.status != 200:
        raise Unavailable(
            "The identity provider does not answer as it should. Try again in a minute.",
            detail=f"{url}: status {answer.status}",
        )
    return answer.body


def _basic(client_id: str, client_secret: str) -> str:
    """RFC 6749, section 2.3.1: both parts are form-encoded before they are joined."""
    joined = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"
    return "Basic " + base64.b64encode(joined.encode()).decode("ascii")
