"""The pages of standing access: who sees which grant, who ends one, and how they look on a phone and on a desktop.

``SCREENSHOTS=folder`` keeps what was seen.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from bastion.access.replay import Replay
from bastion.access.standing import Standing
from bastion.access.tokens import Audience
from bastion.adapters.policy import CedarPolicies
from bastion.console import records, review
from bastion.core.grant import Grant, Verdict
from bastion.core.identity import Identity
from bastion.core.recording import Code
from bastion.core.session import End, Session
from bastion.demo.browser import Page, ScriptedBrowser
from tests.archive import kept
from tests.console.test_pages import seen
from tests.fakes import FakeClock
from tests.office import CARLA, FAR, NODE, OTTO, POLICY, PROD, SAM, SIA, WEB, catalogue, open_office, person, wish
from tests.office_console import BERLIN_ADDRESS, BOSTON_ADDRESS, NOWHERE_ADDRESS, OfficeConsole, open_console
from tests.recorded import session
from tests.services.chromium import DESKTOP, PHONE, chromium

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICIES = (
    POLICY
    + """
@id("ops") permit (principal in Group::"ops", action == Action::"administer", resource in Environment::"production");
@id("auditors") permit (principal in Group::"auditors", action == Action::"replay", resource);
"""
)
AUDREY = person("audrey", "sre", "auditors")
"""Reviews, and looks back."""
PIA = person("pia", "ops")
"""Administers production and nothing else."""


@dataclass(frozen=True, slots=True)
class Desk:
    """A console with the pages, and short ways to what tests do with it."""

    console: OfficeConsole
    recordings: Any

    async def grant(self, *names: str, **changes: Any) -> Grant:
        """Of Carla, given by Sam; by Sia, too, where two are needed."""
        answer = await self.console.office.approval.grant(SAM, CARLA, wish(*names, **changes), None)
        if PROD in names:
            await self.console.office.approval.review(answer.request.id, SIA, Verdict.APPROVE, None)
        return await self.console.office.store.grant(f"g-{answer.request.id[2:]}")

    async def browser(self, who: Identity | None, source: str = BERLIN_ADDRESS) -> ScriptedBrowser:
        browser = ScriptedBrowser(source=source)
        if who is not None:
            cookies = {"bastion": await self.console.token(who, Audience.BROWSER)}
            browser.cookies[urlsplit(self.console.url).netloc] = cookies
        return browser

    async def get(self, who: Identity | None, path: str, source: str = BERLIN_ADDRESS) -> Page:
        browser = await self.browser(who, source)
        return await asyncio.to_thread(browser.get, f"{self.console.url}{path}", follow=False)

    async def rows(self, who: Identity, query: str = "", source: str = BERLIN_ADDRESS) -> list[str]:
        """What the list shows to ``who``: of each row the grant's id and its marks."""
        page = await self.get(who, f"/review{query}", source)
        assert page.status == 200, page.text
        return [
            " ".join([*re.findall(r"g-[0-9a-z]{12}", row)[:1], *re.findall(r'class="mark">([^<]+)', row)])
            for row in page.text.split("<tr>")[2:]
        ]

    async def used(self, grant: Grant, number: str) -> Session:
        """A recorded session under ``grant``."""
        now = self.console.office.clock.now()
        of = session(id=f"s-{number:0>12}", grant_id=grant.id, started_at=now, until=now + timedelta(hours=1))
        async with self.console.office.store.transaction() as tx:
            await tx.add_session(of)
        recorder = self.recordings.start(of, columns=80, rows=24, term="xterm", at=now)
        recorder.output(0.0, b"$ whoami\r\n")
        recorder.finish(1.0, End.CLIENT, 0)
        async with self.console.office.store.transaction() as tx:
            return await tx.end_session(of.id, End.CLIENT, now, 0)


@pytest_asyncio.fixture(loop_scope="module")
async def desk(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Desk]:
    async with open_office(tmp_path, clock) as plain:
        await plain.know(PIA, AUDREY)
        parts: dict[str, Any] = {
            "store": plain.store,
            "policies": CedarPolicies(POLICIES, catalogue()),
            "catalogue": catalogue(),
        }
        standing = Standing(clock=clock, **parts)
        office = replace(plain, standing=standing, approval=plain.under(POLICIES))
        with kept(tmp_path, clock) as recordings:
            replay = Replay(recordings=recordings, clock=clock, node=NODE, **parts)
            pages = review.routes(standing=standing, approval=office.approval, replay=replay, clock=clock)
            async with open_console(office, *pages, *records.routes(replay=replay, clock=clock)) as console:
                yield Desk(console, recordings)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


# ------------------------------------------------------------------------------------------------------------- the list


async def test_the_list_has_who_holds_what_and_what_nobody_uses_comes_first(desk: Desk) -> None:
    clock = desk.console.office.clock
    old = await desk.grant(duration=timedelta(hours=8))
    clock.advance(timedelta(hours=7, minutes=50))
    fresh = await desk.grant("db-1", reason="tidy up")
    assert await desk.rows(SIA) == [f"{old.id} ends soon", fresh.id]
    assert await desk.rows(SIA, "?unused=1h") == [f"{old.id} unused ends soon"]
    assert await desk.rows(SIA, "?unused=1d") == []
    assert await desk.rows(SIA, "?ending=1d") == [f"{old.id} ends soon", f"{fresh.id} ends soon"]
    page = (await desk.get(SIA, "/review")).text
    for shown in ("carla@example.com", "db-1.staging.eu as deploy", "2026-03-02 18:50 UTC", "tidy up", "never"):
        assert shown in page
    assert "2 live grants of 1 person; 0 unused, 1 ending soon." in page


async def test_everybody_sees_what_they_hold_or_oversee_where_the_fence_holds_them(desk: Desk) -> None:
    here, far, prod = await desk.grant(), await desk.grant(FAR), await desk.grant(PROD, duration=timedelta(hours=1))
    assert sorted(await desk.rows(SAM)) == sorted([here.id, prod.id])
    assert sorted(await desk.rows(CARLA)) == sorted([here.id, prod.id])
    assert await desk.rows(PIA) == [prod.id]
    assert await desk.rows(OTTO) == []
    assert await desk.rows(SAM, source=BOSTON_ADDRESS) == [far.id]
    assert await desk.rows(PIA, source=BOSTON_ADDRESS) == []
    assert (await desk.get(SAM, "/review", NOWHERE_ADDRESS)).status == 403
    nobody = await desk.get(None, "/review")
    assert (nobody.status, nobody.headers["location"]) == (302, "/login?next=/review")


async def test_the_exports_have_what_the_list_shows(desk: Desk) -> None:
    grant = await desk.grant(duration=timedelta(hours=8))
    await desk.grant("db-1")
    desk.console.office.clock.advance(timedelta(hours=1))
    page = await desk.get(SIA, "/review?ending=1h&unused=1h")
    links = [link.replace("&amp;", "&") for link in re.findall(r'href="(/api/v1/access/review[^"]*)"', page.text)]
    assert links == [f"/api/v1/access/review?ending=1h&unused=1h&format={style}" for style in ("csv", "json")]
    table = await desk.get(SIA, links[0].replace("ending=1h", "ending=7h"))
    assert table.headers["content-type"].startswith("text/csv")
    assert [line.split(",")[0] for line in table.text.splitlines()][1:].count(grant.id) == 1


@pytest.mark.parametrize("query", ["?unused=long", "?ending=-1h", "?format=csv", "?unused=1h&unused=2h", "?x=1"])
async def test_a_question_that_means_nothing_is_not_answered(desk: Desk, query: str) -> None:
    assert (await desk.get(SIA, f"/review{query}")).status == 400


async def test_nothing_that_somebody_chose_is_markup(desk: Desk) -> None:
    hostile = '<script>alert(1)</script>"><img src=x>'
    grant = await desk.grant(reason=hostile)
    for path in ("/review", f"/grants/{grant.id}", "/review?unused=1h"):
        page = await desk.get(SIA, path)
        assert "<script" not in page.text
        assert "<img" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]


# ------------------------------------------------------------------------------------------------------------ one grant


async def test_a_grant_is_shown_to_its_holder_and_its_overseers_and_is_not_there_for_others(desk: Desk) -> None:
    grant = await desk.grant()
    for who in (SAM, SIA, CARLA):
        page = await desk.get(who, f"/grants/{grant.id}")
        assert page.status == 200
        assert "<dt>Approved by</dt><dd>sam@example.com</dd>" in page.text
        assert "End it now" in page.text
    absent = await desk.get(OTTO, "/grants/g-000000000000")
    assert absent.status == 404
    for who, source in ((OTTO, BERLIN_ADDRESS), (PIA, BERLIN_ADDRESS), (SAM, BOSTON_ADDRESS)):
        page = await desk.get(who, f"/grants/{grant.id}", source)
        assert (page.status, page.text) == (404, absent.text.replace("g-000000000000", grant.id))
    nobody = await desk.get(None, f"/grants/{grant.id}")
    assert (nobody.status, nobody.headers["location"]) == (302, f"/login?next=/grants/{grant.id}")


async def test_the_sessions_of_a_grant_lead_to_their_recordings_for_those_who_may_replay(desk: Desk) -> None:
    grant, other = await desk.grant(), await desk.grant("db-1")
    mine = await desk.used(grant, "1")
    await desk.used(other, "2")
    page = await desk.get(AUDREY, f"/grants/{grant.id}")
    links = re.findall(r'href="(/api/v1/sessions/[^"]+)"', page.text)
    assert links == [f"/api/v1/sessions/{mine.id}/recording"]
    recording = await desk.get(AUDREY, links[0])
    assert recording.status == 200
    assert Code.OUTPUT.value in recording.text
    assert "whoami" in recording.text
    holder = await desk.get(CARLA, f"/grants/{grant.id}")
    assert mine.id in holder.text
    assert "/recording" not in holder.text
    assert mine.id not in (await desk.get(SIA, f"/grants/{grant.id}")).text, "she may end it, and replay nothing"


async def test_a_grant_is_ended_by_the_button_once_and_for_all(desk: Desk) -> None:
    grant, browser = await desk.grant(), await desk.browser(SIA)
    page = await asyncio.to_thread(browser.get, f"{desk.console.url}/grants/{grant.id}")
    assert (await desk.console.office.store.grant(grant.id)).revoked_at is None
    for _ in range(2):
        done = await asyncio.to_thread(browser.submit, page)
        assert done.status == 200
        assert "<dt>Ended</dt><dd>2026-03-02 09:00 UTC, early</dd>" in done.text
        assert "End it now" not in done.text
    (event,) = await desk.console.office.events("grant:revoked")
    assert (event.actor, event.address, event.grant_id) == (SIA.id, BERLIN_ADDRESS, grant.id)


async def test_nobody_else_ends_it_and_no_other_site_does(desk: Desk) -> None:
    grant, url = await desk.grant(), f"{desk.console.url}/grants/"
    form = {"identity": str(SIA.id)}
    for who, source, status in ((OTTO, BERLIN_ADDRESS, 403), (PIA, BERLIN_ADDRESS, 403), (SIA, BOSTON_ADDRESS, 403)):
        browser = await desk.browser(who, source)
        page = await asyncio.to_thread(browser.post, url + grant.id, {"identity": str(who.id)}, follow=False)
        assert page.status == status
    sia = await desk.browser(SIA)
    assert (await asyncio.to_thread((await desk.browser(None)).post, url + grant.id, form)).status == 401
    assert (await asyncio.to_thread(sia.post, url + grant.id, {"identity": str(SAM.id)})).status == 409
    assert (await asyncio.to_thread(sia.post, url + grant.id, {})).status == 409
    cookies = sia.cookies[urlsplit(url).netloc]
    async with aiohttp.ClientSession(cookies=cookies) as http:
        for headers in ({}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            async with http.post(url + grant.id, data=form, headers=headers) as response:
                assert response.status == 403
    assert (await desk.console.office.store.grant(grant.id)).revoked_at is None


# -------------------------------------------------------------------------------------------------------- as it is seen


@pytest.mark.parametrize(("screen", "light"), [(PHONE, "dark"), (DESKTOP, "light")], ids=["phone", "desktop"])
async def test_it_is_read_and_done_without_script_on_a_phone_and_on_a_desktop(
    desk: Desk, browser: Browser, screen: Any, light: Any
) -> None:
    long = "migrate the queue of the billing service to its new place, as agreed on Monday, without losing a message"
    grant = await desk.grant(WEB, "db-1", logins=("deploy", "admin"), duration=timedelta(hours=8), reason=long)
    await desk.used(grant, "3")
    desk.console.office.clock.advance(timedelta(hours=2))
    await desk.grant("db-1", reason="tidy up")
    context = await browser.new_context(viewport=screen, color_scheme=light, java_script_enabled=False)
    token = await desk.console.token(AUDREY, Audience.BROWSER)
    await context.add_cookies([{"name": "bastion", "value": token, "url": desk.console.url}])
    page = await context.new_page()

    async def fits(name: str) -> None:
        await seen(page, f"{name} {screen['width']} {light}")
        for control in await page.locator("button, select").all():
            box = await control.bounding_box()
            assert box is not None
            assert box["height"] >= 44, "too small for a thumb (WCAG 2.2, 2.5.5)"
        body = await page.locator("html").bounding_box()
        main = await page.locator("main").bounding_box()
        assert body is not None
        assert main is not None
        assert main["x"] >= 0
        assert main["x"] + main["width"] <= screen["width"]
        for cell in await page.locator("td, dd, li").all():
            box = await cell.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= screen["width"], "it is to be scrolled sideways"

    await page.goto(f"{desk.console.url}/review")
    await fits("review")
    await page.get_by_label("Unused for").select_option("1h")
    await page.get_by_role("button", name="Show").click()
    await expect(page.get_by_label("Unused for")).to_have_value("1h")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await fits("review unused")
    await page.get_by_role("link", name="web-1.staging.eu").click()
    await fits("grant")
    await page.get_by_role("button", name="End it now").click()
    await expect(page.get_by_text("2026-03-02 11:00 UTC, early")).to_be_visible()
    await fits("grant ended")
    await page.get_by_role("link", name="All grants").click()
    await expect(page.locator("tbody tr")).to_have_count(1)
    await context.close()
