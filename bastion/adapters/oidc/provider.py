"""One issuer as the bastion's client of it: where to send a browser, what its code proves, and how that ends."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import quote_plus, urlencode, urlsplit

import aiohttp

from bastion.adapters.oidc import id_token, logout_token
from bastion.adapters.oidc.fetch import Answer, Fetcher
from bastion.adapters.oidc.issuer import SigningIssuer
from bastion.adapters.oidc.metadata import discovery_url, read_metadata
from bastion.adapters.oidc.signature import ID_TOKEN, LOGOUT_TOKEN
from bastion.core.ending import LogoutNotice
from bastion.core.errors import Unauthenticated, Unavailable
from bastion.core.identity import Proof, Renewal, StepUp, VerifiedClaims
from bastion.core.target import printable
from bastion.ports import Clock

ANY_AGE = timedelta(days=365)
"""How old somebody's session at the provider may be where nobody said how old. Whoever is asked for an age has to say
``auth_time`` (OpenID Connect Core 1.0, section 2), without which an old session would pass for a login of now.
"""

PATIENCE = timedelta(seconds=10)
"""For one exchange; somebody is waiting in front of a browser."""


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """What the token endpoint gave; nothing of it is verified yet."""

    unverified_token: str | None = field(repr=False)
    access_token: str | None = field(repr=False)
    refresh_token: str | None = field(repr=False)


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
        after_logout: where it sends browsers that logged out there; registered there exactly so. None lets them stay.
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
        after_logout: str | None = None,
    ) -> None:
        self.issuer = issuer
        self._after_logout = after_logout
        self._client_id = client_id
        self._client_secret = client_secret
        self._scopes = tuple(dict.fromkeys(("openid", *scopes)))
        self._fetcher = Fetcher(session=session, patience=patience)
        self._clock = clock
        self._signing = SigningIssuer(
            issuer=issuer, document=discovery_url(issuer), read=read_metadata, fetcher=self._fetcher, clock=clock
        )

    async def authorization_url(
        self, state: str, nonce: str, code_challenge: str, redirect_uri: str, step_up: StepUp | None = None
    ) -> str:
        """Where to send a browser (OpenID Connect Core 1.0, section 3.1.2.1; RFC 7636, section 4.3).

        Raises:
            Unavailable: the provider's metadata cannot be had.
        """
        metadata = await self._signing.metadata()
        endpoint = metadata.authorization_endpoint
        parameters = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self._scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": code_challenge,
            "code_challenge_method": "S256",
            "max_age": str(int(ANY_AGE.total_seconds())),
        }
        # Section 11: a refresh token beyond the browser's session is asked for with the person's consent.
        prompts = ["consent"] if "offline_access" in self._scopes else []
        if step_up is not None:
            prompts = ["login", *prompts]
            parameters |= {"max_age": "0"} | _strength_asked_for(step_up, takes_claims=metadata.takes_claims)
        if prompts:
            parameters["prompt"] = " ".join(prompts)
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(parameters)}"

    async def redeem(self, code: str, code_verifier: str, redirect_uri: str, nonce: str, iss: str | None) -> Proof:
        """What the issuer says about whoever came back with ``code``.

        ``iss`` is the parameter of that name in the browser's request (RFC 9207), None when it had none.

        Raises:
            Unauthenticated: the answer is another issuer's, the code was refused, or the ID token is not right.
            Unavailable: the provider did not answer usably.
        """
        metadata = await self._signing.metadata()
        # RFC 9207, section 2.4: compared before the code goes anywhere, or a mixed-up code reaches the wrong issuer.
        if iss != self.issuer and (iss is not None or metadata.says_issuer):
            raise Unauthenticated(
                "This login answer does not come from the identity provider it was asked of. Start the login again.",
                detail=f"iss is {iss!r}, not {self.issuer!r}",
            )
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": code_verifier,
        }
        answer = await self._ask(form)
        if answer.unverified_token is None:
            raise Unavailable("The identity provider's answer has no ID token.", detail="token endpoint")
        signed = await self._signing.open(answer.unverified_token, ID_TOKEN)
        expected = id_token.Expected(self.issuer, self._client_id, nonce, answer.access_token)
        claims = id_token.check(signed.claims, signed.alg, expected, self._clock.now())
        return Proof(claims, answer.unverified_token, answer.refresh_token)

    async def renew(self, refresh_token: str, subject: str) -> Renewal:
        """Ask whether the issuer still stands by the login of ``subject`` (OpenID Connect Core 1.0, section 12).

        Raises:
            Unauthenticated: it does not: the grant is refused.
            Unavailable: it did not answer usably, which says nothing about the login.
        """
        answer = await self._ask({"grant_type": "refresh_token", "refresh_token": refresh_token})
        claims = None
        if answer.unverified_token is not None:
            try:
                claims = await self._renewed(answer.unverified_token, subject)
            except Unauthenticated as error:
                # The grant was honoured; what came with it cannot be used, and is not a refusal.
                raise Unavailable("The identity provider's answer could not be verified.", detail=str(error)) from None
        return Renewal(claims, answer.unverified_token, answer.refresh_token)

    async def logout_notice(self, unverified_token: str) -> LogoutNotice:
        """What a logout token says. Raises `Unauthenticated` for what is none of this issuer for us, `Unavailable`."""
        signed = await self._signing.open(unverified_token, LOGOUT_TOKEN)
        return logout_token.check(signed.claims, issuer=self.issuer, client_id=self._client_id, now=self._clock.now())

    async def end_session_url(self, unverified_token: str | None) -> str | None:
        """Where a browser logs out at the issuer, too; None when it does not offer that.

        ``unverified_token`` is the ID token of the login (OpenID Connect RP-Initiated Logout 1.0, section 2).

        Raises:
            Unavailable: its metadata cannot be had.
        """
        endpoint = (await self._signing.metadata()).end_session_endpoint
        if endpoint is None:
            return None
        parameters = {"client_id": self._client_id}
        if unverified_token is not None:
            parameters["id_token_hint"] = unverified_token
        if self._after_logout is not None:
            parameters["post_logout_redirect_uri"] = self._after_logout
        return f"{endpoint}{'&' if urlsplit(endpoint).query else '?'}{urlencode(parameters)}"

    async def _renewed(self, unverified_token: str, subject: str) -> VerifiedClaims:
        signed = await self._signing.open(unverified_token, ID_TOKEN)
        return id_token.check_renewed(
            signed.claims, issuer=self.issuer, client_id=self._client_id, subject=subject, now=self._clock.now()
        )

    async def _ask(self, question: Mapping[str, str]) -> TokenAnswer:
        """The token endpoint's answer, to us as the client that we are (RFC 6749, section 2.3)."""
        metadata, form = await self._signing.metadata(), dict(question)
        headers: dict[str, str] = {}
        if self._client_secret is None:
            form["client_id"] = self._client_id
        elif metadata.basic_auth:
            headers["Authorization"] = _basic(self._client_id, self._client_secret)
        else:
            form |= {"client_id": self._client_id, "client_secret": self._client_secret}
        return read_token_answer(await self._fetcher.post(metadata.token_endpoint, form, headers=headers))


def _strength_asked_for(step_up: StepUp, *, takes_claims: bool) -> dict[str, str]:
    """As essential claims where the issuer takes them: it must fail then rather than do less (OpenID Connect Core 1.0,
    section 5.5.1.1). ``acr_values`` are but a wish, and not to be used beside them.
    """
    wanted = {"acr": sorted(step_up.acr_values), "amr": sorted(step_up.amr)}
    if takes_claims:
        claims = {name: {"essential": True, "values": values} for name, values in wanted.items() if values}
        return {"claims": json.dumps({"id_token": claims})} if claims else {}
    return {"acr_values": " ".join(step_up.acr_values)} if step_up.acr_values else {}


def read_token_answer(answer: Answer) -> TokenAnswer:
    """The tokens in the token endpoint's answer (OpenID Connect Core 1.0, section 3.1.3.3; RFC 6749, section 5.2).

    Raises:
        Unauthenticated: the code or the refresh token was not accepted.
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
    tokens = [answer.body.get(name) for name in ("id_token", "access_token", "refresh_token")]
    if not all(token is None or isinstance(token, str) for token in tokens):
        raise Unavailable("The identity provider's answer has tokens that are none.", detail="token endpoint")
    return TokenAnswer(*tokens)


def _basic(client_id: str, client_secret: str) -> str:
    """RFC 6749, section 2.3.1: both parts are form-encoded before they are joined."""
    joined = f"{quote_plus(client_id)}:{quote_plus(client_secret)}"
    return "Basic " + base64.b64encode(joined.encode()).decode("ascii")
