"""The page that ties a chat account to an identity, and everybody who would like it to do more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from bastion.access.linking import Account
from bastion.access.tokens import Audience
from bastion.core.errors import NotFound
from bastion.core.identity import Identity
from bastion.demo.browser import Page, ScriptedBrowser
from tests.fakes import FakeClock
from tests.office import OTTO, SAM, WORKSPACE, open_office
from tests.office_console import OfficeConsole, open_console

ACCOUNT = Account("slack", WORKSPACE, "U0NEW", "acme", "<b>new</b>")


@pytest.fixture
async def console(tmp_path: Path, clock: FakeClock) -> AsyncIterator[OfficeConsole]:
    async with open_office(tmp_path, clock) as office, open_console(office) as console:
        yield console


async def browser_of(console: OfficeConsole, identity: Identity) -> ScriptedBrowser:
    """A browser in which ``identity`` is logged in."""
    browser = ScriptedBrowser()
    token = await console.token(identity, Audience.BROWSER)
    browser.cookies[urlsplit(console.url).netloc] = {"bastion": token}
    return browser


async def open_link(console: OfficeConsole, browser: ScriptedBrowser) -> Page:
    code = await console.office.linking.offer(ACCOUNT)
    return await asyncio.to_thread(browser.get, f"{console.url}/link/slack/{code}", follow=False)


async def linked_to(console: OfficeConsole) -> Identity | None:
    try:
        return await console.office.linking.identity_of("slack", WORKSPACE, "U0NEW")
    except NotFound:
        return None


async def test_the_page_names_the_account_and_the_button_links_it(console: OfficeConsole) -> None:
    browser = await browser_of(console, OTTO)
    page = await open_link(console, browser)
    shown = re.sub(r"<[^>]+>", "", page.text)
    assert "Slack account &lt;b&gt;new&lt;/b&gt; (U0NEW) in the workspace acme (T012AB3CD) asks to act as you" in shown
    assert "otto@example.com" in shown
    assert await linked_to(console) is None

    done = await asyncio.to_thread(browser.submit, page)

    assert (done.status, "is linked to" in done.text) == (200, True)
    assert await linked_to(console) == OTTO
    assert (await console.office.events("chat:linked"))[0].address == "127.0.0.1"


async def test_a_look_without_a_login_does_not_use_up_the_code(console: OfficeConsole) -> None:
    """Chats fetch links to show a preview."""
    code = await console.office.linking.offer(ACCOUNT)
    url = f"{console.url}/link/slack/{code}"
    preview = await asyncio.to_thread(ScriptedBrowser().get, url, follow=False)
    assert (preview.status, preview.headers["location"]) == (302, f"/login?next=/link/slack/{code}")
    page = await asyncio.to_thread((await browser_of(console, OTTO)).get, url)
    assert page.status == 200
    again = await asyncio.to_thread((await browser_of(console, OTTO)).get, url)
    assert again.status == 404


async def test_the_question_of_one_browser_is_not_answered_by_another(console: OfficeConsole) -> None:
    page = await open_link(console, await browser_of(console, OTTO))
    other = await browser_of(console, SAM)
    assert (await asyncio.to_thread(other.submit, page)).status == 403
    nobody = ScriptedBrowser()
    page = await open_link(console, await browser_of(console, OTTO))
    assert (await asyncio.to_thread(nobody.submit, page)).status == 401
    assert await linked_to(console) is None


@pytest.mark.parametrize("form", [{}, {"token": ""}, {"token": "x" * 27}, {"token": "../x"}], ids=str)
async def test_a_form_without_its_token_links_nothing(console: OfficeConsole, form: dict[str, str]) -> None:
    browser = await browser_of(console, OTTO)
    page = await asyncio.to_thread(browser.post, f"{console.url}/link", form)
    assert page.status in (403, 404)
    assert await linked_to(console) is None


async def test_another_sites_form_links_nothing(console: OfficeConsole) -> None:
    browser = await browser_of(console, OTTO)
    page = await open_link(console, browser)
    found = re.search(r'name="token" value="([^"]+)"', page.text)
    assert found is not None
    token, cookies = found.group(1), browser.cookies[urlsplit(console.url).netloc]
    async with aiohttp.ClientSession(cookies=cookies) as session:
        for headers in ({}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            async with session.post(f"{console.url}/link", data={"token": token}, headers=headers) as response:
                assert response.status == 403
    assert await linked_to(console) is None


async def test_the_page_cannot_be_framed_and_runs_nothing(console: OfficeConsole) -> None:
    page = await open_link(console, await browser_of(console, OTTO))
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert page.headers["cache-control"] == "no-store"


async def test_an_unknown_platform_is_not_there(console: OfficeConsole) -> None:
    code = await console.office.linking.offer(ACCOUNT)
    browser = await browser_of(console, OTTO)
    page = await asyncio.to_thread(browser.get, f"{console.url}/link/pigeon/{code}")
    assert page.status == 404
    assert (await asyncio.to_thread(browser.get, f"{console.url}/link/slack/{code}")).status == 200
