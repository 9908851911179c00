"""A transmitter of security events on a loopback port: metadata, keys, and signed tokens of any content."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey

from bastion.ports import Clock

BEARER = "what the transmitter shows"

CAEP = "https://schemas.openid.net/secevent/caep/event-type/"
SESSION_REVOKED, CREDENTIAL_CHANGE = f"{CAEP}session-revoked", f"{CAEP}credential-change"
VERIFICATION = "https://schemas.openid.net/secevent/ssf/event-type/verification"


class TestTransmitter:
    """Signs what it is told to."""

    __test__ = False

    def __init__(self, issuer: str, audience: str, clock: Clock) -> None:
        self.issuer = issuer
        self.audience = audience
        self.clock = clock
        self.key = ECKey.generate_key("P-256", parameters={"use": "sig", "alg": "ES256"}, auto_kid=True)
        self.asked_for_keys = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, audience: str, clock: Clock) -> AsyncIterator[TestTransmitter]:
        """One that answers until the block is left."""
        transmitter = cls("", audience, clock)

        async def metadata(request: web.Request) -> web.Response:
            return web.json_response({"issuer": transmitter.issuer, "jwks_uri": f"{transmitter.issuer}/jwks"})

        async def keys(request: web.Request) -> web.Response:
            transmitter.asked_for_keys += 1
            return web.json_response({"keys": [transmitter.key.as_dict(private=False)]})

        app = web.Application()
        app.add_routes([web.get("/.well-known/ssf-configuration", metadata), web.get("/jwks", keys)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        transmitter.issuer = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield transmitter
        finally:
            await runner.cleanup()

    def claims(self, event: str = SESSION_REVOKED, subject: dict[str, Any] | None = None) -> dict[str, Any]:
        """Those of one event about ``subject``."""
        body = {
            "iss": self.issuer,
            "aud": self.audience,
            "jti": uuid4().hex,
            "iat": int(self.clock.now().timestamp()),
            "events": {event: {"event_timestamp": int(self.clock.now().timestamp())}},
        }
        return body | ({"sub_id": subject} if subject is not None else {})

    def sign(self, claims: dict[str, Any], *, key: ECKey | None = None, **header: Any) -> str:
        """A token, with another key or header where that is asked for."""
        said = {"alg": "ES256", "typ": "secevent+jwt", "kid": self.key.kid} | header
        return jwt.encode(
            {n: v for n, v in said.items() if v is not None}, claims, key or self.key, algorithms=["ES256"]
        )
