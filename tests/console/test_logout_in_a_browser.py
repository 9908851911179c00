"""Logging out as people do it, with a real browser: here, on to the provider, and back."""

from __future__ import annotations

from pathlib import Path

from playwright.async_api import Page, expect

from bastion.core.audit import Kind
from bastion.core.ending import Cause
from bastion.core.session import End
from tests.adapters.test_oidc_real import ended, live_session, status_of
from tests.services.chromium import chromium
from tests.whole import Whole, whole


async def log_in(page: Page, bastion: Whole) -> None:
    await page.goto(f"{bastion.url}/login")
    while "/interaction/" in page.url:  # who it is, and whether that is all right
        await page.get_by_role("button", name="alice", exact=True).click()
    await expect(page.get_by_role("heading")).to_have_text("Logged in")


async def test_logging_out_leads_to_the_provider_and_back_and_its_back_channel_cuts_what_is_live(
    tmp_path: Path,
) -> None:
    async with whole(tmp_path) as bastion, chromium() as browser, bastion.browser() as elsewhere:
        page = await browser.new_page()
        await log_in(page, bastion)
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_role("heading")).to_have_text("Logged out")

        # What the first half ended, it cannot end again: so the same person comes in once more, elsewhere.
        token = await bastion.token(elsewhere)
        await bastion.grant(bastion.alice)
        async with live_session(bastion, token) as session:
            await page.get_by_role("link", name="Log out there, too").click()
            assert page.url.startswith(f"{bastion.provider.issuer}/session/end")
            assert session.returncode is None
            await page.get_by_role("button", name="Yes, sign me out").click()
            await page.wait_for_url(f"{bastion.url}/logout/done")
            assert End.IDENTITY.sentence in await ended(session)
        await expect(page.get_by_text("logged out at your identity provider, too")).to_be_visible()
        assert await status_of(bastion, token) == 401
        causes = [event.reasons for event in await bastion.events(Kind.IDENTITY_ENDED)]
        assert causes == [(Cause.LOGGED_OUT,), (Cause.LOGGED_OUT_AT_ISSUER,)]

        await page.get_by_role("link", name="Log in again").click()
        await expect(page.get_by_role("button", name="alice", exact=True)).to_be_visible()
