"""The pages for terminals as people see them: in Chromium, on a phone and on a desktop, by day and by night.

``SCREENSHOTS=folder`` keeps what was seen.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect

from bastion.access.devicelogin import Knock
from bastion.access.tokens import Audience
from bastion.console import device
from bastion.core.geofence import parse_address
from bastion.core.remedy import Remedy
from tests.console.test_device import KNOCK, Desk
from tests.fakes import FakeClock
from tests.office import CARLA, ISSUER, open_office
from tests.office_console import open_console
from tests.services.chromium import DESKTOP, PHONE, chromium

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = replace(
    KNOCK,
    client="SSH-2.0-PuTTY_Release_0.78_with_a_name_that_is_much_longer_than_any_that_is_known_to_anybody",
    target="a-server-with-a-rather-long-name-of-its-own-1.staging.eu",
    login="a_service_account_of_some_size",
    scope=None,
)

CASES: dict[str, tuple[Knock, Sequence[str]]] = {
    "here": (KNOCK, ("Approve", "Refuse")),
    "elsewhere": (replace(KNOCK, address=parse_address("127.0.0.2")), ("Approve", "Refuse")),
    "a command line": (replace(KNOCK, target="", login="", scope=None, key=None), ("Approve", "Refuse")),
    "a second factor first": (
        replace(KNOCK, target="", login="", scope=None, key=None, remedy=Remedy.MFA),
        ("Log in with a second factor", "Refuse"),
    ),
    "long names": (LONG, ("Approve", "Refuse")),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def desk(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Desk]:
    async with open_office(tmp_path, clock) as office:
        pages = device.routes(confirmation=office.confirmation(), issuers=[ISSUER])
        async with open_console(office, *pages) as console:
            yield Desk(console, clock)


@asynccontextmanager
async def carla(desk: Desk, browser: Browser, screen: Any, **looks: Any) -> AsyncIterator[Page]:
    """Carla's browser, in which she is logged in."""
    context = await browser.new_context(viewport=screen, **looks)
    token = await desk.console.token(CARLA, Audience.BROWSER)
    await context.add_cookies([{"name": "bastion", "value": token, "url": desk.console.url}])
    try:
        yield await context.new_page()
    finally:
        await context.close()


async def seen(page: Page, name: str) -> None:
    if (folder := os.environ.get("SCREENSHOTS")) is not None:
        await page.screenshot(path=Path(folder) / f"{name}.png")


async def is_within(control: Locator, screen: dict[str, int]) -> bool:
    """Whether all of it can be seen without scrolling."""
    box = await control.bounding_box()
    assert box is not None
    right, bottom = box["x"] + box["width"], box["y"] + box["height"]
    return box["x"] >= 0 and box["y"] >= 0 and right <= screen["width"] and bottom <= screen["height"]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("screen", "light"), [(PHONE, "dark"), (DESKTOP, "light")], ids=["phone", "desktop"])
async def test_everything_to_know_and_to_press_is_on_the_first_screen(
    desk: Desk, browser: Browser, screen: Any, light: Any, case: str
) -> None:
    knock, controls = CASES[case]
    pending = await desk.waiting(knock)
    async with carla(desk, browser, screen, color_scheme=light) as page:
        await page.goto(f"{desk.console.url}/device/{pending.code}")
        await seen(page, f"{case} {screen['width']} {light}")
        assert await page.evaluate("document.documentElement.scrollWidth") <= screen["width"]
        for name in controls:
            control = page.get_by_role("button", name=name).or_(page.get_by_role("link", name=name))
            await expect(control).to_have_count(1)
            assert await is_within(control, screen), f"{name} is below the first screen"
            box = await control.bounding_box()
            assert box is not None
            assert box["height"] >= 44, "too small for a thumb (WCAG 2.2, 2.5.5)"
        if case in ("here", "long names", "a command line"):
            assert await is_within(page.get_by_text(pending.code, exact=True), screen)
        if case == "elsewhere":
            assert await is_within(page.get_by_label("Copy the code"), screen)
            await expect(page.get_by_text(pending.code, exact=True)).to_have_count(0)


@pytest.mark.parametrize("script", [True, False], ids=["with script", "without script"])
@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_the_buttons_answer_with_and_without_script(
    desk: Desk, browser: Browser, where: str, script: bool
) -> None:
    pending = await desk.waiting(CASES[where][0])
    async with carla(desk, browser, PHONE, java_script_enabled=script) as page:
        await page.goto(f"{desk.console.url}/device")
        await page.get_by_label("The code that your terminal shows").fill(pending.code.lower())
        await page.get_by_role("button", name="Continue").click()
        if where == "elsewhere":
            await page.get_by_role("button", name="Approve").click()
            await expect(page.get_by_role("heading", name="Is this your terminal?")).to_be_visible()
            assert await desk.is_open(pending), "an empty field is not sent"
            await page.get_by_label("Copy the code").fill(pending.code)
        await page.get_by_role("button", name="Approve").click()
        await expect(page.get_by_role("heading", name="Approved")).to_be_visible()
        await seen(page, f"approved {where}")
    assert await desk.answered(pending)


async def test_the_way_to_a_second_factor_is_a_link_to_ones_own_provider_and_back(desk: Desk, browser: Browser) -> None:
    pending = await desk.waiting(CASES["a second factor first"][0])
    async with carla(desk, browser, PHONE, java_script_enabled=False) as page:
        await page.goto(f"{desk.console.url}/device/{pending.code}")
        link = await page.get_by_role("link", name="Log in with a second factor").get_attribute("href")
        assert link == f"/login?mfa=1&next=%2Fdevice%2F{pending.code}&issuer=0"
        await page.get_by_role("button", name="Refuse").click()
        await expect(page.get_by_role("heading", name="Refused")).to_be_visible()
    assert await desk.answered(pending)
