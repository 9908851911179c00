"""The certified OpenID provider (npm oidc-provider) as the tests' own, on a loopback port, and a browser for it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urljoin, urlsplit

import aiohttp
from joserfc.jwk import ECKey, RSAKey

from bastion.demo.browser import Page, read_form
from bastion.demo.tools import UNPACKED, MissingTool
from tests.services.ports import free_port

SERVER = Path(__file__).with_name("server.mjs")
START_SECONDS = 30
SECRET = "s3cret:+ & of a client"
AUDIENCE = "https://bastion.example.com"

ACCOUNTS: list[dict[str, Any]] = [
    {
        "sub": "alice",
        "claims": {
            "email": "alice@corp.example",
            "email_verified": True,
            "name": "Alice",
            "groups": ["contractors", "staff"],
        },
    },
    {"sub": "bob", "claims": {"email": "bob@corp.example", "email_verified": False, "groups": ["sre"]}},
]


@dataclass
class RealProvider:
    """The running provider."""

    issuer: str
    process: asyncio.subprocess.Process
    setup: dict[str, Any] = field(repr=False)

    async def tell(self, do: str, **what: Any) -> None:
        """Change something in it: ``claims`` or ``disable`` of a ``sub``."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **what}).encode() + b"\n")
        assert await asyncio.wait_for(self.process.stdout.readline(), 10) == b"done\n"

    async def stop(self) -> None:
        """Idempotent."""
        if self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            await asyncio.wait_for(self.process.wait(), 10)

    async def restart(self, *, new_keys: bool = False) -> None:
        """It has forgotten everything; ``new_keys`` alone are published then."""
        await self.stop()
        if new_keys:
            self.setup["jwks"] = _keys()
        self.process = await _start(self.setup)

    async def workload_token(self, **changed: str) -> str:
        """A JWT access token of the client ``ci``, made for the bastion."""
        form = {"grant_type": "client_credentials", "resource": AUDIENCE, "client_id": "ci", "client_secret": SECRET}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.issuer}/token", data=form | changed) as response,
        ):
            assert response.status == 200, await response.text()
            return str((await response.json())["access_token"])


class RealBrowser:
    """A browser with one person in front of it: keeps cookies, follows redirects, fills in the provider's form."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.last: str = ""
        """The body of the last page."""
        self.asked: dict[str, str] = {}
        """What the provider was last asked for."""

    async def visit(
        self,
        url: str,
        *,
        account: str = "alice",
        mfa: bool = False,
        until: str | None = None,
        proof: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        """Go on until a page that is not the provider's form; its status and URL.

        With ``until`` the redirect to a URL that begins so is not followed. ``proof`` are further fields of the form:
        the ``acr`` and ``amr`` that the provider is to say of this login, or its ``error``.
        """
        method, data = "GET", None
        for _ in range(20):
            async with self.session.request(method, url, data=data, allow_redirects=False) as response:
                self.last = await response.text()
                status, where = response.status, response.headers.get("Location")
            if where is not None:
                method, data, url = "GET", None, urljoin(url, where)
                if urlsplit(url).path == "/auth":
                    self.asked = dict(parse_qsl(urlsplit(url).query))
                if until is not None and url.startswith(until):
                    return status, url
            elif urlsplit(url).path.startswith("/interaction/") and method == "GET":
                method, data = "POST", {"account": account} | ({"mfa": "yes"} if mfa else {}) | dict(proof or {})
                if "error" in data:
                    del data["account"]
            else:
                return status, url
        raise AssertionError(f"too many redirects: {url}")

    async def press(self, url: str, **chosen: str) -> int:
        """Press a button of the form on the last page, which came from ``url``; the status of what answers."""
        form = read_form(Page(url, 200, {}, self.last))
        where, headers = urljoin(url, form.action), {"Origin": "{0.scheme}://{0.netloc}".format(urlsplit(url))}
        async with self.session.post(where, data={**form.hidden, **chosen}, headers=headers) as response:
            self.last = await response.text()
            return response.status

    def link(self, beginning: str) -> str:
        """Where a link or button of the last page leads that begins so."""
        found = re.search(rf'href="({re.escape(beginning)}[^"]*)"', self.last)
        assert found is not None, self.last
        return unescape(found[1])

    async def callback(self, url: str, redirect_uri: str, **how: Any) -> dict[str, str]:
        """Log in at the provider; what it sends back to ``redirect_uri``."""
        status, where = await self.visit(url, until=redirect_uri, **how)
        assert where.startswith(redirect_uri), (status, where, self.last)
        return {name: values[0] for name, values in parse_qs(urlsplit(where).query).items()}

    async def log_out(self, url: str) -> None:
        """Go to the provider's end of its session and confirm it."""
        async with self.session.get(url) as response:
            page = await response.text()
            assert response.status == 200, page
        xsrf = page.partition('name="xsrf" value="')[2].partition('"')[0]
        assert xsrf, page
        confirm = urljoin(url, "/session/end/confirm")
        async with self.session.post(confirm, data={"xsrf": xsrf, "logout": "yes"}) as response:
            assert response.status == 200, await response.text()


def client(client_id: str, origin: str, **more: Any) -> dict[str, Any]:
    """A registration of a bastion at ``origin``: code, refresh, back-channel logout."""
    return {
        "client_id": client_id,
        "client_secret": SECRET,
        "redirect_uris": [f"{origin}/login/callback", f"{origin}/login/callback/2"],
        "grant_types": ["authorization_code", "refresh_token"],
        "backchannel_logout_uri": f"{origin}/logout/backchannel",
        "post_logout_redirect_uris": [f"{origin}/logout/done"],
        "backchannel_logout_session_required": True,
        **more,
    }


CI = {
    "client_id": "ci",
    "client_secret": SECRET,
    "redirect_uris": [],
    "response_types": [],
    "grant_types": ["client_credentials"],
}


@asynccontextmanager
async def running_provider(
    clients: Sequence[dict[str, Any]], *, takes_claims: bool = False
) -> AsyncIterator[RealProvider]:
    """The provider, until the block is left. Whether it ``takes_claims`` decides in which way it is asked for an acr.

    Raises:
        MissingTool: it was not fetched; ``make tools`` does.
    """
    port = free_port()
    setup: dict[str, Any] = {
        "library": str(UNPACKED / "provider/node_modules/oidc-provider/lib/index.js"),
        "issuer": f"http://127.0.0.1:{port}",
        "port": port,
        "clients": [*clients, CI],
        "accounts": ACCOUNTS,
        "jwks": _keys(),
        "takes_claims": takes_claims,
    }
    provider = RealProvider(setup["issuer"], await _start(setup), setup)
    try:
        yield provider
    finally:
        await provider.stop()


async def _start(setup: dict[str, Any]) -> asyncio.subprocess.Process:
    node = UNPACKED / "provider" / "node"
    if not node.exists():
        raise MissingTool("The tests' OpenID provider is not on this machine. To bring it, run make tools.")
    process = await asyncio.create_subprocess_exec(
        node, "--no-warnings", SERVER, json.dumps(setup), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), START_SECONDS) == b"ready\n"
    return process


def _keys() -> dict[str, Any]:
    elliptic = ECKey.generate_key("P-256", parameters={"use": "sig", "alg": "ES256"}, auto_kid=True)
    rsa = RSAKey.generate_key(2048, parameters={"use": "sig", "alg": "RS256"}, auto_kid=True)
    return {"keys": [elliptic.as_dict(private=True), rsa.as_dict(private=True)]}
