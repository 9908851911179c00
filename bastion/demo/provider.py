"""A small OpenID provider for `make demo` and the tests. It knows no passwords: whoever asks picks who they are.

That is why it listens on the loopback only. What it answers is checked as strictly as a real provider does it, so that
a client that works here is not careless: exact redirect URIs, one-time codes, PKCE with S256, client authentication.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from typing import Any
from urllib.parse import unquote_plus, urlencode

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from bastion.adapters.clock import SystemClock
from bastion.ports import Clock

CODE_LIFETIME = timedelta(seconds=60)
TOKEN_SECONDS = 300

_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Who are you?</title>
<style>
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif; }
body { max-width: 24rem; margin: 15vh auto; padding: 0 1.5rem; }
button { width: 100%; padding: .7rem; font: inherit; cursor: pointer; }
</style>
<h1>Who are you?</h1>
<p>This is the identity provider of <code>bastion demo</code>. It asks for no password.</p>
"""


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody that this provider vouches for."""

    subject: str
    email: str
    groups: tuple[str, ...] = ()
    name: str = ""
    email_verified: bool = True


@dataclass(frozen=True, slots=True)
class Registration:
    """The one client; ``client_secret`` None makes it a public one."""

    client_id: str
    client_secret: str | None
    redirect_uris: frozenset[str]


@dataclass(frozen=True, slots=True)
class Authorization:
    """A code that was given out, and for what."""

    account: Account
    redirect_uri: str
    nonce: str
    challenge: str
    until: datetime


class DemoProvider:
    """An issuer on a loopback port. ``accounts`` are picked by subject; ``algorithm`` is RS256 or ES256."""

    def __init__(
        self,
        *,
        client: Registration,
        accounts: Sequence[Account],
        algorithm: str = "ES256",
        clock: Clock | None = None,
    ) -> None:
        self.client = client
        self.clock = clock or SystemClock()
        self.accounts = {account.subject: account for account in accounts}
        self.algorithm = algorithm
        self.issuer = ""
        self.requests: dict[str, int] = {}
        """How often each path was asked, by path."""
        self._codes: dict[str, Authorization] = {}
        self._keys: list[RSAKey | ECKey] = [self._new_key()]
        self._runner: web.AppRunner | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; the issuer's URL.

        Raises:
            ValueError: ``host`` is not the loopback; nothing listens.
        """
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"the demo provider lets anybody in, so it listens on the loopback only, not on {host}")
        app = web.Application(middlewares=[self._counted])
        app.add_routes(
            [
                web.get("/.well-known/openid-configuration", self._discovery),
                web.get("/jwks", self._jwks),
                web.get("/authorize", self._ask),
                web.post("/authorize", self._authorize),
                web.post("/token", self._token),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()
        bound = self._runner.addresses[0][1]
        self.issuer = f"http://{f'[{host}]' if ':' in host else host}:{bound}"
        return self.issuer

    async def stop(self) -> None:
        """Idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def rotate_keys(self) -> None:
        """Sign with a new key from now on, and no longer publish the old one."""
        self._keys = [self._new_key()]

    # What follows up to the handlers is what it says; the tests' hostile provider says something else.

    def metadata(self) -> dict[str, Any]:
        """Its discovery document."""
        secret = self.client.client_secret is not None
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [self.algorithm],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"] if secret else ["none"],
            "authorization_response_iss_parameter_supported": True,
        }

    def key_set(self) -> dict[str, Any]:
        """Its public keys."""
        return {"keys": [{**key.as_dict(private=False), "use": "sig", "alg": self.algorithm} for key in self._keys]}

    def answer_parameters(self, code: str, state: str) -> dict[str, str]:
        """What the browser carries back (RFC 6749, section 4.1.2; RFC 9207)."""
        return {"code": code, "state": state, "iss": self.issuer}

    def claims(self, authorization: Authorization, access_token: str) -> dict[str, Any]:
        """What an ID token says."""
        account, now = authorization.account, int(self.clock.now().timestamp())
        digest = hashlib.sha256(access_token.encode()).digest()
        return {
            "iss": self.issuer,
            "sub": account.subject,
            "aud": self.client.client_id,
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            "auth_time": now,
            "nonce": authorization.nonce,
            "at_hash": base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode(),
            "email": account.email,
            "email_verified": account.email_verified,
            "name": account.name or account.subject,
            "groups": list(account.groups),
            "amr": ["pwd"],
        }

    def id_token(self, claims: dict[str, Any]) -> str:
        """The claims, signed."""
        key = self._keys[-1]
        return jwt.encode({"alg": self.algorithm, "kid": key.kid}, claims, key, algorithms=[self.algorithm])

    # ------------------------------------------------------------------------------------------------------- handlers

    async def _discovery(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.metadata())

    async def _jwks(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self.key_set())

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        _check_request(request.query, self.client)
        hidden = "".join(
            f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
            for name, value in request.query.items()
        )
        buttons = "".join(
            f'<p><button name="account" value="{escape(account.subject)}">{escape(account.email)}</button></p>'
            for account in self.accounts.values()
        )
        form = f'<form method="post" action="/authorize">{hidden}{buttons}</form>'
        return web.Response(text=_PAGE + form, content_type="text/html", headers={"Cache-Control": "no-store"})

    async def _authorize(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        _check_request(form, self.client)
        account = self.accounts.get(form.get("account", ""))
        if account is None:
            raise web.HTTPBadRequest(text="no such account")
        code = secrets.token_urlsafe(32)
        self._codes[code] = Authorization(
            account, form["redirect_uri"], form["nonce"], form["code_challenge"], self.clock.now() + CODE_LIFETIME
        )
        answer = urlencode(self.answer_parameters(code, form["state"]))
        return web.Response(status=303, headers={"Location": f"{form['redirect_uri']}?{answer}"})

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = {name: str(value) for name, value in (await request.post()).items()}
        if not _is_client(request, form, self.client):
            return web.json_response({"error": "invalid_client"}, status=401)
        authorization = self._codes.pop(form.get("code", ""), None)
        if authorization is None or self.clock.now() >= authorization.until or not _fits(authorization, form):
            return web.json_response({"error": "invalid_grant"}, status=400)
        access_token = secrets.token_urlsafe(32)
        answer = {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": TOKEN_SECONDS,
            "id_token": self.id_token(self.claims(authorization, access_token)),
        }
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    @web.middleware
    async def _counted(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests[request.path] = self.requests.get(request.path, 0) + 1
        response: web.StreamResponse = await handler(request)
        return response

    def _new_key(self) -> RSAKey | ECKey:
        if self.algorithm == "RS256":
            return RSAKey.generate_key(2048, auto_kid=True)
        return ECKey.generate_key("P-256", auto_kid=True)


def _check_request(query: Mapping[str, str], client: Registration) -> None:
    """Raises HTTPBadRequest; an answer to a URI that is not registered would give the code away."""
    wanted = {"response_type": "code", "client_id": client.client_id, "code_challenge_method": "S256"}
    for name, value in wanted.items():
        if query.get(name) != value:
            raise web.HTTPBadRequest(text=f"{name} is not {value}")
    if query.get("redirect_uri") not in client.redirect_uris:
        raise web.HTTPBadRequest(text="redirect_uri is not registered")
    if "openid" not in query.get("scope", "").split():
        raise web.HTTPBadRequest(text="scope lacks openid")
    if missing := [name for name in ("state", "nonce", "code_challenge") if not query.get(name)]:
        raise web.HTTPBadRequest(text=f"{', '.join(missing)} missing")


def _is_client(request: web.Request, form: Mapping[str, str], client: Registration) -> bool:
    if client.client_secret is None:
        return form.get("client_id") == client.client_id
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    try:
        name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except ValueError:
        return False
    right = hmac.compare_digest(unquote_plus(secret).encode(), client.client_secret.encode())
    return scheme.lower() == "basic" and unquote_plus(name) == client.client_id and right


def _fits(authorization: Authorization, form: Mapping[str, str]) -> bool:
    digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return (
        form.get("grant_type") == "authorization_code"
        and form.get("redirect_uri") == authorization.redirect_uri
        and hmac.compare_digest(challenge, authorization.challenge)
    )
