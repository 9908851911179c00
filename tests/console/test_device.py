"""The page that finishes a terminal's login, and everybody who would like it to do more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from bastion.access.devicelogin import LIFETIME, Knock, Pending, answer_key, login_key
from bastion.access.pkce import new_secret
from bastion.access.throttle import DEFAULT
from bastion.access.tokens import Audience
from bastion.console import device
from bastion.console.login import local_page
from bastion.core.geofence import parse_address
from bastion.core.identity import Identity
from bastion.demo.browser import Page, ScriptedBrowser
from tests.fakes import FakeClock
from tests.office import CARLA, ISSUER, OTTO, STAGING, WEB, open_office
from tests.office_console import BERLIN_ADDRESS, BOSTON_ADDRESS, OfficeConsole, open_console

ELSEWHERE = "127.0.0.2"
"""Inside the fence, and not where the client is."""

KEY = "SHA256:JXWfl+eDpO1lOWa/hWTaIM24n/jFMvVTxcQvxTLnKFQ"

KNOCK = Knock(parse_address(BERLIN_ADDRESS), "DE", "SSH-2.0-OpenSSH_9.2p1", WEB, STAGING, "deploy", KEY)


@dataclass(frozen=True)
class Desk:
    """A console, and terminals that wait for it."""

    console: OfficeConsole
    clock: FakeClock

    async def waiting(self, knock: Knock = KNOCK, code: str = "WDJB-MJHT") -> Pending:
        """A terminal that shows ``code``."""
        pending = Pending(code, new_secret(), knock, self.clock.now() + LIFETIME)
        await self.console.office.coordination.put_once(login_key(code), pending.to_bytes(), LIFETIME)
        return pending

    async def browser(self, identity: Identity = CARLA, source: str = BERLIN_ADDRESS) -> ScriptedBrowser:
        """A browser in which ``identity`` is logged in."""
        browser = ScriptedBrowser(source=source)
        token = await self.console.token(identity, Audience.BROWSER)
        browser.cookies[urlsplit(self.console.url).netloc] = {"bastion": token}
        return browser

    async def open(self, browser: ScriptedBrowser, path: str = "/device/WDJB-MJHT") -> Page:
        return await asyncio.to_thread(browser.get, f"{self.console.url}{path}", follow=False)

    async def press(self, browser: ScriptedBrowser, page: Page, **chosen: str) -> Page:
        return await asyncio.to_thread(lambda: browser.submit(page, follow=True, **chosen))

    async def answered(self, pending: Pending) -> bool:
        return await self.console.office.coordination.holds(answer_key(pending.connection))

    async def is_open(self, pending: Pending) -> bool:
        """Nobody has answered yet, and somebody still may."""
        return await self.console.office.coordination.holds(login_key(pending.code)) and not await self.answered(
            pending
        )


@pytest.fixture
async def desk(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Desk]:
    async with open_office(tmp_path, clock) as office:
        pages = device.routes(confirmation=office.confirmation(), issuers=[ISSUER])
        async with open_console(office, *pages) as console:
            yield Desk(console, clock)


def text_of(page: Page) -> str:
    """What a person reads: blocks apart, words in a sentence together."""
    text = re.sub(r"<style>.*</style>|<br>|</(?:p|dt|dd|h1|label|small|button)>", " ", page.text, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", "", text)).split())


async def test_the_page_says_everything_about_the_terminal_and_the_button_finishes_its_login(desk: Desk) -> None:
    pending, browser = await desk.waiting(), await desk.browser()
    page = await desk.open(browser)
    said = text_of(page)
    for fact in (WEB, "deploy", "127.0.0.1 (DE)", "SSH-2.0-OpenSSH_9.2p1", KEY, "carla@example.com", "WDJB-MJHT"):
        assert fact in said
    assert "does not come from where you are" not in said
    assert await desk.is_open(pending)
    done = await desk.press(browser, page, answer="approve")
    assert (done.status, "deploy on web-1.staging.eu opens by itself" in text_of(done)) == (200, True)
    assert await desk.answered(pending)


async def test_the_page_works_without_script_and_loads_nothing(desk: Desk) -> None:
    await desk.waiting()
    page = await desk.open(await desk.browser())
    assert "script" not in page.text.lower()
    assert not re.search(r"\b(?:src|srcset|href|on[a-z]+)=", page.text)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


async def test_refusing_is_as_easy_and_needs_no_code(desk: Desk) -> None:
    pending, browser = await desk.waiting(), await desk.browser(source=ELSEWHERE)
    page = await desk.open(browser)
    assert 'value="refuse" class="second" formnovalidate' in page.text
    assert (await desk.press(browser, page, answer="refuse")).status == 200
    assert await desk.answered(pending)


async def test_a_code_that_was_typed_leads_to_its_page(desk: Desk) -> None:
    await desk.waiting()
    browser = await desk.browser()
    page = await desk.press(browser, await desk.open(browser, "/device"), code=" wdjb mjht ")
    assert (page.status, urlsplit(page.url).path, KEY in page.text) == (200, "/device/WDJB-MJHT", True)
    wrong = await desk.press(browser, await desk.open(browser, "/device"), code="<b>12345678")
    assert (wrong.status, "cannot be a code" in wrong.text, "<b>" in wrong.text) == (400, True, False)


# Elsewhere ------------------------------------------------------------------------------------------------------------


async def test_a_browser_elsewhere_is_warned_and_shown_no_code_to_copy(desk: Desk) -> None:
    pending, browser = await desk.waiting(), await desk.browser(source=ELSEWHERE)
    page = await desk.open(browser)
    assert 'role="alert"' in page.text
    assert "It comes from 127.0.0.1 (DE); your browser is at 127.0.0.2 (DE)" in text_of(page)
    assert "WDJB-MJHT" not in text_of(page)
    for typed in ("", "BCDF-GHJK"):
        refused = await desk.press(browser, page, answer="approve", typed=typed)
        assert (refused.status, "your own terminal" in refused.text) == (403, True)
        assert await desk.is_open(pending)
    assert (await desk.press(browser, page, answer="approve", typed="wdjbmjht")).status == 200
    assert await desk.answered(pending)


async def test_a_browser_outside_the_targets_fence_sees_nothing_and_answers_nothing(desk: Desk) -> None:
    pending, browser = await desk.waiting(), await desk.browser(source=BOSTON_ADDRESS)
    page = await desk.open(browser)
    assert (page.status, KEY in page.text) == (403, False)
    fields = {"identity": str(CARLA.id), "answer": "approve", "typed": "WDJB-MJHT"}
    url = f"{desk.console.url}/device/WDJB-MJHT"
    assert (await asyncio.to_thread(browser.post, url, fields)).status == 403
    assert await desk.is_open(pending)


# Other people's ideas -------------------------------------------------------------------------------------------------


async def test_nobody_sees_or_answers_anything_without_a_login(desk: Desk) -> None:
    pending, browser = await desk.waiting(), ScriptedBrowser()
    for path in ("/device", "/device/WDJB-MJHT"):
        page = await desk.open(browser, path)
        assert (page.status, page.headers["location"]) == (302, f"/login?next={path}")
        assert KEY not in page.text
    url = f"{desk.console.url}/device/WDJB-MJHT"
    fields = {"identity": str(CARLA.id), "answer": "approve"}
    assert (await asyncio.to_thread(browser.post, url, fields)).status == 401
    assert await desk.is_open(pending)


FOREIGN = {
    "another site": {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    "another site's frame": {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    "a neighbouring host": {"Sec-Fetch-Site": "same-site"},
    "nobody says": {},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=list(FOREIGN))
@pytest.mark.parametrize("answer", ["approve", "refuse"])
async def test_a_form_of_another_site_answers_nothing(desk: Desk, headers: dict[str, str], answer: str) -> None:
    pending = await desk.waiting()
    cookies = {"bastion": await desk.console.token(CARLA, Audience.BROWSER)}
    fields = {"identity": str(CARLA.id), "answer": answer, "typed": "WDJB-MJHT"}
    async with (
        aiohttp.ClientSession(cookies=cookies) as session,
        session.post(f"{desk.console.url}/device/WDJB-MJHT", data=fields, headers=headers) as response,
    ):
        assert response.status == 403
        assert "not sent by a page of the bastion" in await response.text()
    assert await desk.is_open(pending)


async def test_looking_answers_nothing_however_the_link_is_written(desk: Desk) -> None:
    pending, browser = await desk.waiting(), await desk.browser()
    for query in ("answer=approve", f"answer=approve&identity={CARLA.id}", "typed=WDJB-MJHT&answer=approve"):
        assert (await desk.open(browser, f"/device/WDJB-MJHT?{query}")).status == 200
        assert await desk.is_open(pending)


async def test_the_one_who_was_shown_the_page_is_the_one_who_answers(desk: Desk) -> None:
    """Somebody logs in as somebody else in another tab: the button does not lend that login."""
    pending, browser = await desk.waiting(), await desk.browser()
    page = await desk.open(browser)
    other = await desk.browser(OTTO)
    answered = await desk.press(other, page, answer="approve")
    assert (answered.status, "as somebody else" in answered.text) == (409, True)
    assert await desk.is_open(pending)


@pytest.mark.parametrize("answer", ["", "yes", "APPROVE"])
async def test_only_the_two_buttons_answer(desk: Desk, answer: str) -> None:
    pending, browser = await desk.waiting(), await desk.browser()
    page = await desk.open(browser)
    assert (await desk.press(browser, page, answer=answer)).status == 403
    assert await desk.is_open(pending)


async def test_an_api_token_does_not_press_buttons(desk: Desk) -> None:
    pending = await desk.waiting()
    headers = {"Authorization": f"Bearer {await desk.console.token(CARLA)}"}
    fields = {"identity": str(CARLA.id), "answer": "approve"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{desk.console.url}/device/WDJB-MJHT", data=fields, headers=headers) as response,
    ):
        assert response.status == 403
    assert await desk.is_open(pending)


async def test_a_code_that_is_used_over_or_wrong_is_the_same_to_everybody(desk: Desk) -> None:
    await desk.waiting()
    browser = await desk.browser()
    page = await desk.open(browser)
    await desk.press(browser, page, answer="approve")
    await desk.waiting(code="BCDF-GHJK")
    desk.clock.advance(LIFETIME)
    for path in ("/device/WDJB-MJHT", "/device/BCDF-GHJK", "/device/ZZZZ-ZZZZ", "/device/AAAA-AAAA"):
        gone = await desk.open(browser, path)
        assert (gone.status, "No login waits with this code" in gone.text) == (404, True)
    again = await desk.press(browser, page, answer="approve")
    assert again.status == 404


async def test_guessing_codes_ends_soon_and_is_an_event(desk: Desk) -> None:
    browser = await desk.browser(OTTO)

    def guess() -> Page:
        for _ in range(DEFAULT.failures):
            browser.get(f"{desk.console.url}/device/ZZZZ-ZZZZ")
        return browser.get(f"{desk.console.url}/device/WDJB-MJHT")

    await desk.waiting()
    page = await asyncio.to_thread(guess)
    assert (page.status, "Try again in 10m" in page.text) == (429, True)
    (event,) = await desk.console.office.events("login:throttled")
    assert event.identity == OTTO.id


async def test_what_a_client_calls_itself_is_text_and_nothing_else(desk: Desk) -> None:
    client = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    evil = Knock(KNOCK.address, "DE", client, "<i>no", None, "deploy", None)
    await desk.waiting(evil)
    page = await desk.open(await desk.browser())
    assert client in unescape(page.text)
    assert "<script" not in page.text
    assert "<img" not in page.text
    assert "<i>" not in page.text


@pytest.mark.parametrize(
    ("asked", "page"),
    [
        ("/device", "/device"),
        ("/device/WDJB-MJHT", "/device/WDJB-MJHT"),
        ("/device/wdjbmjht", "/device/wdjbmjht"),
        ("/review", "/review"),
        ("/grants/g-4t9z2m0wq7xh", "/grants/g-4t9z2m0wq7xh"),
        ("/grants/g-4t9z2m0wq7xh/x", "/welcome"),
        ("/grants/../login", "/welcome"),
        ("/device/WDJB-MJHT/../../x", "/welcome"),
        ("/device//evil.example", "/welcome"),
        ("/device/WDJB-MJHT?answer=approve", "/welcome"),
        ("/device/WDJB-MJHT#x", "/welcome"),
        ("/device/WDJB-MJHT\n", "/welcome"),
        ("/device/@evil.com", "/welcome"),
        ("//device/WDJB-MJHT", "/welcome"),
        ("https://evil.example/device", "/welcome"),
        ("/\\evil.example/device", "/welcome"),
    ],
)
def test_a_login_leads_on_to_pages_of_ours_only(asked: str, page: str) -> None:
    assert local_page(asked) == page
