"""Guessing ends soon, over every protocol, and nobody is kept out by somebody else's guesses: a whole bastion on Redis.

Each test has addresses of its own, so that none knows of another.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import urlencode

import aiohttp
import pytest
import pytest_asyncio
import redis.asyncio
import yarl
from asyncssh.packet import String

from bastion.access.pkce import new_secret
from bastion.adapters.coordination.link import PREFIX
from bastion.console.exchange import GRANT_TYPE
from bastion.core.audit import Event, EventFilter, Kind
from tests.gateways.wire import (
    USERAUTH_FAILURE,
    connected,
    userauth,
)
from tests.services.oidc_provider import RealBrowser
from tests.services.redis import running_redis
from tests.whole import TARGET, Whole, whole

pytestmark = pytest.mark.asyncio(loop_scope="module")

FAILURES, STRANGERS, BEGUN = 5, 8, 6
SETTINGS = f"throttle: {{window: 10m, failures: {FAILURES}, strangers: {STRANGERS}, begun: {BEGUN}}}\n"
LOGIN = f"deploy@{TARGET}"
USERAUTH_INFO_REQUEST = 60
SOON = r"Try again in ([1-9]|10)m\."
NOTHING_TO_ASK = String(b"") + String(b"")


@dataclass
class Stage:
    """A bastion, its Redis, and addresses that nobody has come from yet."""

    bastion: Whole
    redis: str
    used: int = 1
    api_token: str = ""

    def address(self) -> str:
        self.used += 1
        return f"127.0.0.{self.used}"

    @asynccontextmanager
    async def at(self, address: str) -> AsyncIterator[Whole]:
        """The bastion, as it is reached from ``address``; cookies are kept."""
        connector = aiohttp.TCPConnector(local_addr=(address, 0))
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as session:
            yield replace(self.bastion, http=session)

    async def events(self, address: str) -> list[Event]:
        events = await self.bastion.store.events(EventFilter(limit=10_000))
        return [event for event in events if event.address == address]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    with running_redis() as url:
        async with whole(tmp_path_factory.mktemp("whole"), coordination=url, more=SETTINGS) as bastion:
            stage = Stage(bastion, url)
            async with bastion.browser() as browser:
                wish = {"name": "a test", "uses": ["read"], "duration": "1h", "network": "127.0.0.0/26"}
                _, made = await bastion.call("POST", "/api/v1/tokens", await bastion.token(browser), json=wish)
            stage.api_token = made["secret"]
            yield stage


class Way(Protocol):
    """One way to say who one is."""

    async def wrong(self, here: Whole, lie: dict[str, str]) -> aiohttp.ClientResponse:
        """One attempt that proves nothing, with the headers ``lie``."""
        ...

    async def right(self, here: Whole, stage: Stage) -> bool:
        """Whether the right proof is taken from there."""
        ...


class Browser:
    """The way back from an issuer."""

    async def wrong(self, here: Whole, lie: dict[str, str]) -> aiohttp.ClientResponse:
        query = urlencode({"state": new_secret(), "code": "x"})
        return await here.http.get(f"{here.url}/login/callback?{query}", headers=lie)

    async def right(self, here: Whole, stage: Stage) -> bool:
        status, _ = await RealBrowser(here.http).visit(f"{here.url}/login")
        return status == 200


class CommandLine:
    """The code by which a browser's login goes over to `bastion login`."""

    async def wrong(self, here: Whole, lie: dict[str, str]) -> aiohttp.ClientResponse:
        guess = {"code": new_secret(), "verifier": new_secret()}
        return await here.http.post(f"{here.url}/api/v1/token", json=guess, headers=lie)

    async def right(self, here: Whole, stage: Stage) -> bool:
        return bool(await here.token(RealBrowser(here.http)))


class Device:
    """The code by which `bastion login --device` asks."""

    async def wrong(self, here: Whole, lie: dict[str, str]) -> aiohttp.ClientResponse:
        guess = {"device_code": new_secret()}
        return await here.http.post(f"{here.url}/api/v1/token/device", json=guess, headers=lie)

    async def right(self, here: Whole, stage: Stage) -> bool:
        _, begun = await here.call("POST", "/api/v1/device", json={"client": "a test"})
        browser, page = RealBrowser(here.http), f"{here.url}/device/{begun['user_code']}"
        await browser.visit(page)
        assert await browser.press(page, answer="approve") == 200
        status, _ = await here.call("POST", "/api/v1/token/device", json={"device_code": begun["device_code"]})
        return status == 200


class Workload:
    """A platform's token."""

    async def wrong(self, here: Whole, lie: dict[str, str]) -> aiohttp.ClientResponse:
        head, body, _ = (await here.provider.workload_token()).split(".")
        return await self._exchange(here, f"{head}.{body}.{secrets.token_urlsafe(64)}", lie)

    async def right(self, here: Whole, stage: Stage) -> bool:
        return (await self._exchange(here, await here.provider.workload_token(), {})).status == 200

    async def _exchange(self, here: Whole, token: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        kind = "urn:ietf:params:oauth:token-type:jwt"
        form = {"grant_type": GRANT_TYPE, "subject_token": token, "subject_token_type": kind}
        return await here.http.post(f"{here.url}/api/v1/token/exchange", data=form, headers=headers)


@dataclass
class Bearer:
    """A token in the Authorization header: a login, or one for scripts."""

    guess: Callable[[], str]

    async def wrong(self, here: Whole, lie: dict[str, str]) -> aiohttp.ClientResponse:
        return await here.http.get(
            f"{here.url}/api/v1/access", headers={"Authorization": f"Bearer {self.guess()}", **lie}
        )

    async def right(self, here: Whole, stage: Stage) -> bool:
        status, _ = await here.call("GET", "/api/v1/access", stage.api_token)
        return status == 200


WAYS: dict[str, Way] = {
    "a browser's login": Browser(),
    "the command line's code": CommandLine(),
    "a device code": Device(),
    "a workload's token": Workload(),
    "a login's token": Bearer(lambda: f"e30.e30.{new_secret()}"),
    "a script's token": Bearer(lambda: f"bastion_{secrets.token_hex(6)}_{new_secret()}"),
}


def lies() -> dict[str, str]:
    """Where a request says that it comes from; another place each time."""
    said = f"192.0.2.{secrets.randbelow(250)}"
    return {"X-Forwarded-For": said, "X-Real-IP": said, "Forwarded": f"for={said}", "True-Client-IP": said}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_guessing_is_refused_until_a_time_that_is_named_and_who_is_right_gets_in_all_the_same(
    stage: Stage, way: Way
) -> None:
    address = stage.address()
    async with stage.at(address) as here:
        answers = [await way.wrong(here, lies()) for _ in range(STRANGERS + 3)]
        assert [answer.status == 429 for answer in answers] == [False] * STRANGERS + [True] * 3
        assert 0 < int(answers[-1].headers["Retry-After"]) <= 600
        assert re.search(rf"Too many wrong attempts to prove who you are. {SOON}", await answers[-1].text())
        written = await stage.events(address)
        assert [event.kind for event in written].count(Kind.LOGIN_THROTTLED) == 1
        assert len(written) <= STRANGERS + 1, "an event for each attempt"
        assert await way.right(here, stage)
    async with stage.at(stage.address()) as elsewhere:
        assert (await way.wrong(elsewhere, {})).status != 429


async def test_what_was_somebodys_counts_as_theirs_from_there_and_hinders_nobody(stage: Stage) -> None:
    """Bob's old login, and the name of Alice's token with another secret, in a stranger's hands."""
    async with stage.at(stage.address()) as strangers, stage.at(stage.address()) as his:
        stolen = await his.token(RealBrowser(his.http), account="bob")
        await his.call("POST", "/api/v1/logout", stolen)
        named = f"{stage.api_token.rpartition('_')[0]}_{new_secret()}"
        tried = [*[stolen] * (FAILURES + 1), named, stage.api_token]
        statuses = [(await strangers.call("GET", "/api/v1/access", token))[0] for token in tried]
        assert statuses == [401] * FAILURES + [429, 401, 200]
        assert (await his.call("GET", "/api/v1/access", stolen))[0] == 401
        again = await his.token(RealBrowser(his.http), account="bob")
        for here in (his, strangers):
            assert (await here.call("GET", "/api/v1/access", again))[0] == 200


async def test_what_a_script_may_not_do_is_refused_and_written_so_often_and_no_more(stage: Stage) -> None:
    """Its token is right, and goes on doing what it is for."""
    address = stage.address()
    async with stage.at(address) as here:
        wish = {"targets": [TARGET], "logins": ["deploy"], "duration": "1h", "reason": "a loop"}
        tried = [await here.call("POST", "/api/v1/requests", stage.api_token, json=wish) for _ in range(FAILURES + 3)]
        assert [status for status, _ in tried] == [403] * FAILURES + [429] * 3
        assert (await here.call("GET", "/api/v1/access", stage.api_token))[0] == 200
    kinds = [event.kind for event in await stage.events(address)]
    assert kinds == [Kind.TOKEN_REFUSED] * FAILURES + [Kind.LOGIN_THROTTLED, Kind.TOKEN_USED]


async def test_an_old_cookie_leads_to_the_login_however_often_it_comes(stage: Stage) -> None:
    async with stage.at(stage.address()) as here:
        here.http.cookie_jar.update_cookies({"bastion": "e30.e30.x"}, response_url=yarl.URL(here.url))
        for _ in range(STRANGERS + 3):
            async with here.http.get(f"{here.url}/welcome", allow_redirects=False) as answer:
                assert (answer.status, answer.headers.get("Location")) == (302, "/login?next=/welcome")


@pytest.mark.parametrize("page", ["/device/BCDF-GHJK", "/link/slack/" + "x" * 27], ids=["a code", "a chat's link"])
async def test_whoever_guesses_what_others_were_shown_is_stopped_and_nobody_else(stage: Stage, page: str) -> None:
    address = stage.address()
    async with stage.at(address) as bobs, stage.at(address) as alices, stage.at(stage.address()) as elsewhere:
        assert (await RealBrowser(bobs.http).visit(f"{bobs.url}/welcome", account="bob"))[0] == 200
        statuses = [(await bobs.call("GET", page, headers=lies()))[0] for _ in range(FAILURES + 2)]
        assert statuses == [404] * FAILURES + [429] * 2
        assert (await RealBrowser(alices.http).visit(f"{alices.url}{page}"))[0] == 404
        assert (await RealBrowser(elsewhere.http).visit(f"{bobs.url}{page}", account="bob"))[0] == 404
        # What can be guessed is not looked at any more, so that the next guess cannot be the right one.
        _, begun = await alices.call("POST", "/api/v1/device", json={"client": "a test"})
        assert (await bobs.call("GET", f"/device/{begun['user_code']}"))[0] == 429
        assert (await alices.call("GET", f"/device/{begun['user_code']}"))[0] == 200
    (event,) = [event for event in await stage.events(address) if event.kind is Kind.LOGIN_THROTTLED]
    assert event.identity is not None
    assert event.identity.subject == "bob"


async def test_whoever_guesses_the_answer_to_a_chats_question_is_stopped(stage: Stage) -> None:
    async with stage.at(stage.address()) as bobs:
        assert (await RealBrowser(bobs.http).visit(f"{bobs.url}/welcome", account="bob"))[0] == 200
        statuses = []
        for _ in range(FAILURES + 2):
            form = {"token": secrets.token_urlsafe(20)}
            statuses.append((await bobs.call("POST", "/link", data=form, headers={"Origin": bobs.url}))[0])
        assert statuses == [404] * FAILURES + [429] * 2


async def offered(stage: Stage, blob: bytes, address: str) -> str:
    """What a client reads that offers a certificate which is refused."""
    async with connected(stage.bastion.port, address) as wire:
        await wire.begin_auth()
        wire.offer(LOGIN, blob)
        await wire.expect(USERAUTH_FAILURE)
        return "".join(wire.banners)


async def test_a_stolen_certificate_is_refused_in_few_words_and_its_owner_is_not(stage: Stage) -> None:
    bastion, address = stage.bastion, stage.address()
    await bastion.grant(bastion.alice)
    async with bastion.browser() as browser:
        key = await bastion.certify(await bastion.token(browser))
    blob = base64.b64decode(key.with_name("id-cert.pub").read_text().split()[1])
    said = [await offered(stage, blob, address) for _ in range(FAILURES + 3)]
    assert all("Too many" not in each for each in said[:FAILURES]), said
    for each in said[FAILURES:]:
        assert re.search(rf"Too many wrong attempts to prove who you are, from this address. {SOON}", each), said
    kinds = [event.kind for event in await stage.events(address)]
    assert kinds == [Kind.CONNECTION_REFUSED] * FAILURES + [Kind.LOGIN_THROTTLED]
    ran = await bastion.ssh(key, "echo reached")
    out, err = await ran.communicate()
    assert out == b"reached\n", err


async def test_codes_that_nobody_confirms_end_soon_and_other_ways_in_stay_open(stage: Stage) -> None:
    address = stage.address()

    async def asked() -> bytes:
        async with connected(stage.bastion.port, address) as wire:
            await wire.begin_auth()
            wire.send(userauth(LOGIN, b"keyboard-interactive", NOTHING_TO_ASK))
            return await wire.expect(USERAUTH_INFO_REQUEST)

    said = [await asked() for _ in range(BEGUN + 2)]
    assert [b"/device/" in each for each in said] == [True] * BEGUN + [False] * 2
    assert re.search(rf"Too many logins were begun from your address and not finished. {SOON}".encode(), said[-1])
    assert [event.kind for event in await stage.events(address)] == [Kind.LOGIN_THROTTLED]
    async with stage.at(address) as here:
        assert await Browser().right(here, stage)
        assert await Device().right(here, stage)


async def test_whatever_was_tried_redis_keeps_little_and_forgets_it(stage: Stage) -> None:
    """However many names are claimed: those that nothing of ours vouches for are none."""
    async with redis.asyncio.from_url(stage.redis) as client:

        async def counters() -> set[bytes]:
            return {key async for key in client.scan_iter(f"{PREFIX}count:*")}

        before = await counters()
        async with stage.at(stage.address()) as here:
            for _ in range(STRANGERS + 20):
                await WAYS["a script's token"].wrong(here, {})
        assert len(await counters() - before) == 1
        for key in await counters():
            assert 0 < await client.pttl(key) <= 600_000
            assert len(key) <= 100
