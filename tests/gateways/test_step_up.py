"""Logins too weak or too old for a target are made anew while the same ssh waits, and it goes on afterwards.

The bastion is one of several nodes here: what a browser answers reaches the ssh that waits through Redis.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from bastion.access.login import UNMET
from bastion.core.audit import Kind
from bastion.core.remedy import Remedy
from bastion.demo.browser import ScriptedBrowser
from tests.plain import Client, plain_logins, program
from tests.services.oidc_provider import RealBrowser
from tests.services.redis import running_redis
from tests.whole import POLICY, TARGET, Whole, whole
from tests.world import POLICY as ANY_GRANT
from tests.world import world

STRONG = '@id("strong") forbid (principal, action in Action::"connect", resource) unless { context.mfa };'
RECENT = """
@id("recent") forbid (principal, action in Action::"connect", resource)
when { context.authenticated_age > duration("3m") };
"""
STRONG_COMMANDS = '@id("strong") forbid (principal, action == Action::"ssh:exec", resource) unless { context.mfa };'
STRONG_SHELLS = '@id("shells") forbid (principal, action == Action::"ssh:shell", resource) unless { context.mfa };'

STRONG_REVIEWS = """
@id("strong-reviews") forbid (principal, action == Action::"review", resource) unless { context.mfa };
@id("ask") permit (principal in Group::"contractors", action == Action::"request", resource);
"""
PHR = "urn:example:phr"
NAMED = """
@id("named") forbid (principal, action in Action::"connect", resource)
unless { context has acr && context.acr == "urn:example:phr" && context.amr.contains("hwk") };
"""

RESOLVED = f"deploy@{TARGET}"


@pytest.fixture
async def bastion(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Whole]:
    policy, takes_claims = request.param if isinstance(request.param, tuple) else (request.param, False)
    with running_redis() as redis:
        async with whole(tmp_path, policy=POLICY + policy, coordination=redis, takes_claims=takes_claims) as running:
            await running.grant(running.alice)
            yield running


async def opened(bastion: Whole, browser: RealBrowser, code: str, *, mfa: bool = False) -> str:
    """Open the page of ``code``, logging in with a password, and unless ``mfa`` with that alone; its URL."""
    page = f"{bastion.url}/device/{code}"
    assert await browser.visit(page, mfa=mfa) == (200, page), browser.last
    return page


@pytest.mark.parametrize("bastion", [STRONG], indirect=True, ids=["a second factor"])
async def test_a_waiting_ssh_goes_on_after_its_person_has_shown_a_second_factor(bastion: Whole) -> None:
    async with program("plink", bastion, "echo reached", user=RESOLVED) as client, bastion.browser() as browser:
        page = await opened(bastion, browser, await client.code())
        assert "with a second factor, made just now" in browser.last
        assert 'value="approve"' not in browser.last
        back = await browser.visit(bastion.url + browser.link("/login?mfa="), mfa=True)
        assert back == (200, page)
        assert "/login?" not in browser.last, "nothing more is asked"
        assert await browser.press(page, answer="approve") == 200
        assert await client.status() == 0, client.seen
        assert b"reached" in client.seen
        assert client.seen.count(b"/device/") == 1, "it was asked once"
    (event,) = await bastion.events(Kind.SESSION_STARTED)
    assert event.identity == bastion.alice


@pytest.mark.parametrize("bastion", [STRONG], indirect=True, ids=["a second factor"])
async def test_without_the_second_factor_nothing_opens_and_the_ssh_waits_for_another_try(bastion: Whole) -> None:
    async with program("openssh", bastion, "echo reached", user=RESOLVED) as client, bastion.browser() as browser:
        page = await opened(bastion, browser, await client.code())
        assert await browser.press(page, answer="approve") == 200
        assert "with a second factor, made just now" in browser.last, "it says again what it takes"
        status, _ = await browser.visit(bastion.url + browser.link("/login?mfa="), mfa=False)
        assert (status, "did not ask for a second factor" in browser.last) == (403, True)
        assert client.process.returncode is None
        await browser.visit(page)
        await browser.visit(bastion.url + browser.link("/login?mfa="), mfa=True)
        await browser.press(page, answer="approve")
        assert await client.status() == 0, client.seen


async def test_a_login_that_is_too_old_is_made_once_more_without_a_second_factor(tmp_path: Path) -> None:
    async with world(tmp_path, policy=ANY_GRANT + RECENT) as old, plain_logins(old) as plain:
        old.clock.skew = timedelta(minutes=-4)  # the target's clock is the machine's
        await old.grant(plain.person("ada"))
        browser = ScriptedBrowser()
        await asyncio.to_thread(browser.log_in, f"{old.public_url}/login", "ada")
        async with program("openssh", old, "echo reached") as client:
            page = f"{old.public_url}/device/{await client.code()}"
            assert "/login?" not in (await asyncio.to_thread(browser.get, page)).text
            old.clock.skew = timedelta()
            asked = await asyncio.to_thread(browser.get, page)
            assert ("more recent than yours" in asked.text, 'value="approve"' in asked.text) == (True, False)
            link = unescape(asked.text.partition('href="')[2].partition('"')[0])
            assert link.startswith("/login?fresh=1&")
            again = await asyncio.to_thread(browser.log_in, old.public_url + link, "ada")
            assert again.url == page
            await asyncio.to_thread(browser.submit, again, answer="approve")
            assert await client.status() == 0, client.seen


@pytest.mark.parametrize("bastion", [STRONG_SHELLS], indirect=True, ids=["a second factor for shells"])
async def test_what_only_a_part_of_a_grant_demands_is_offered_and_not_forced(bastion: Whole) -> None:
    async with program("openssh", bastion, "echo reached", user=RESOLVED) as client, bastion.browser() as browser:
        page = await opened(bastion, browser, await client.code())
        assert browser.link("/login?mfa=")
        assert await browser.press(page, answer="approve") == 200
        assert await client.status() == 0, client.seen


@pytest.mark.parametrize(
    "bastion", [(NAMED, False), (NAMED, True)], indirect=True, ids=["by acr_values", "by the claims parameter"]
)
async def test_a_policy_that_names_a_login_gets_exactly_that_from_the_provider(bastion: Whole) -> None:
    async with program("openssh", bastion, "echo reached", user=RESOLVED) as client, bastion.browser() as browser:
        page = await opened(bastion, browser, await client.code(), mfa=True)
        assert "asks for a login of the kind urn:example:phr by hwk, made just now" in browser.last
        assert 'value="approve"' not in browser.last
        link = bastion.url + browser.link("/login?acr=")
        if bastion.provider.setup["takes_claims"]:
            claims = {"acr": {"essential": True, "values": [PHR]}, "amr": {"essential": True, "values": ["hwk"]}}
            wanted, wrong, why = {"claims": json.dumps({"id_token": claims})}, {"error": UNMET}, "cannot make a login"
        else:  # it need not do as it is asked, and does not
            wanted, wrong, why = {"acr_values": PHR}, {"amr": "pwd,otp,mfa"}, "says of how you logged in: urn:example:"
        status, _ = await browser.visit(link, proof=wrong)
        assert (status, why in browser.last) == (403, True), browser.last
        assert client.process.returncode is None

        assert await browser.visit(link, proof={"acr": PHR, "amr": "hwk,pin"}) == (200, page)
        asked = {name: browser.asked[name] for name in ("max_age", "prompt", *wanted)}
        assert asked == {"max_age": "0", "prompt": "login consent", **wanted}
        assert await browser.press(page, answer="approve") == 200
        assert await client.status() == 0, client.seen
    (event,) = await bastion.events(Kind.CERTIFICATE_ISSUED)
    assert (event.details["acr"], event.details["amr"]) == (PHR, "hwk, pin")


@pytest.mark.parametrize("bastion", [(NAMED, False)], indirect=True, ids=["a kind of login"])
async def test_the_command_line_asks_for_the_login_that_a_policy_names(bastion: Whole) -> None:
    body = {"public_key": asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode(), "target": TARGET}
    async with bastion.browser() as browser:
        weak = await bastion.token(browser, mfa=True)
        status, answer = await bastion.call("POST", "/api/v1/certificates", weak, json=body)
        assert (status, answer["step_up"]) == (401, f"acr={PHR} amr=hwk"), answer
        assert answer["error"].endswith(f"bastion login --acr {PHR} --amr hwk")
        command, home = ours(bastion)
        async with Client([*command, "login", bastion.url, "--acr", PHR, "--amr", "hwk"], home) as login:
            await finish(login, browser, bastion, proof={"acr": PHR, "amr": "hwk"})
            assert await login.status() == 0, login.seen
        async with Client([*command, "ssh", "--no-agent", RESOLVED, "echo reached"], home) as ssh:
            assert await ssh.status() == 0, ssh.seen
        async with Client([*command, "login", "--acr", "phishing resistant"], home) as login:
            assert (await login.status(), b"Nobody can be asked for such a login" in login.seen) == (2, True)
    for query in ("acr=a%20b", "amr=", "acr=%22%0d%0a"):
        status, said = await bastion.call("GET", f"/login?{query}")
        assert (status, "Nobody can be asked for such a login." in said) == (403, True), said


@pytest.mark.parametrize("bastion", [STRONG], indirect=True, ids=["a second factor"])
async def test_who_has_our_command_line_is_asked_while_their_ssh_waits_for_its_certificate(bastion: Whole) -> None:
    command, home = ours(bastion)
    async with bastion.browser() as browser:
        async with Client([*command, "login", bastion.url], home) as login:
            await finish(login, browser, bastion, mfa=False)
            assert await login.status() == 0, login.seen
        async with Client([*command, "ssh", "--no-agent", RESOLVED, "echo reached"], home) as ssh:
            await ssh.sees("Forbidden by policy strong.")
            await finish(ssh, browser, bastion, mfa=True)
            assert await ssh.status() == 0, ssh.seen
            assert b"reached" in ssh.seen


def ours(bastion: Whole) -> tuple[list[str], Path]:
    """How somebody calls our command line, and their home."""
    home = bastion.folder / "home"
    home.mkdir()
    return ["env", f"HOME={home}", "BROWSER=true", "TERM=dumb", sys.executable, "-m", "bastion"], home


async def finish(client: Client, browser: RealBrowser, bastion: Whole, **how: Any) -> None:
    """What the person at ``client`` does in the browser that it names."""
    await client.sees("/login/cli?")
    found = re.search(rb"(http://\S+/login/cli\?\S+)", client.seen)
    assert found is not None
    status, url = await browser.visit(found[1].decode(), **how)
    assert status == 200, browser.last
    assert await browser.press(url) == 200


@pytest.mark.parametrize("bastion", [STRONG_COMMANDS], indirect=True, ids=["a second factor for commands"])
async def test_whatever_was_got_with_a_weak_login_stays_weak_when_its_owner_steps_up_elsewhere(bastion: Whole) -> None:
    async with bastion.browser() as browser, bastion.browser() as elsewhere:
        weak = await bastion.token(browser)
        wish = {"name": "nightly", "uses": ["connect"], "duration": "1h"}
        status, made = await bastion.call("POST", "/api/v1/tokens", weak, json=wish)
        assert status == 201, made
        before = await bastion.certify(weak, "before")
        strong = await bastion.token(elsewhere, mfa=True, query="&mfa=1")

        got = [before, await bastion.certify(weak, "after"), await bastion.certify(made["secret"], "by-a-script")]
        for key in got:
            assert await reached(bastion, key) == (254, True), key.name
        assert await reached(bastion, await bastion.certify(strong, "strong")) == (0, False)

        async with program("openssh", bastion, "echo reached", user=RESOLVED) as client:
            page = await opened(bastion, browser, await client.code())
            assert await browser.press(page, answer="approve") == 200
            assert (await client.status(), Remedy.MFA.sentence.encode() in client.seen) == (254, True), client.seen
        async with program("openssh", bastion, "echo reached", user=RESOLVED) as client:
            page = await opened(bastion, elsewhere, await client.code(), mfa=True)
            assert await elsewhere.press(page, answer="approve") == 200
            assert await client.status() == 0, client.seen
        assert await reached(bastion, before) == (254, True), "what one connection proved is not another's"


async def reached(bastion: Whole, key: Path) -> tuple[int, bool]:
    """The status of a command with the certificate of ``key``, and whether it says that a second factor would do."""
    process = await bastion.ssh(key, "echo reached")
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, Remedy.MFA.sentence.encode() in said


@pytest.mark.parametrize("bastion", [STRONG_COMMANDS], indirect=True, ids=["a second factor for commands"])
async def test_the_certificates_of_an_older_login_are_not_used_after_a_new_one(bastion: Whole) -> None:
    command, home = ours(bastion)
    async with bastion.browser() as browser:
        async with Client([*command, "login", bastion.url], home) as login:
            await finish(login, browser, bastion, mfa=False)
            assert await login.status() == 0, login.seen
        async with Client([*command, "ssh", "--no-agent", RESOLVED, "echo reached"], home) as ssh:
            await ssh.sees(Remedy.MFA.sentence)
            assert await ssh.status() == 254, ssh.seen
        async with Client([*command, "login", "--mfa"], home) as login:
            await finish(login, browser, bastion, mfa=True)
            assert await login.status() == 0, login.seen
        async with Client([*command, "ssh", "--no-agent", RESOLVED, "echo reached"], home) as ssh:
            assert await ssh.status() == 0, ssh.seen


@pytest.mark.parametrize("bastion", [STRONG_REVIEWS], indirect=True, ids=["a second factor of reviewers"])
async def test_a_reviewer_shows_a_second_factor_at_the_terminal_or_on_the_page_and_has_approved(bastion: Whole) -> None:
    home = bastion.folder / "home"
    home.mkdir()
    command = ["env", f"HOME={home}", "BROWSER=true", "TERM=dumb", sys.executable, "-m", "bastion"]
    async with bastion.browser() as hers, bastion.browser() as his:
        alice, wish = await bastion.token(hers), {"targets": [TARGET], "logins": ["deploy"], "reason": "a fix"}
        asked = [
            await bastion.call("POST", "/api/v1/requests", alice, json={**wish, "duration": span})
            for span in ("1h", "2h")
        ]
        first, second = (answer["request"]["id"] for _, answer in asked)

        async with Client([*command, "login", bastion.url], home) as login:
            await finish(login, his, bastion, account="bob")
            assert await login.status() == 0, login.seen
        async with Client([*command, "approve", first], home) as approving:
            await approving.sees("Forbidden by policy strong-reviews.")
            assert len(await bastion.store.grants()) == 1, "the fixture's alone"
            await finish(approving, his, bastion, account="bob", mfa=True)
            assert await approving.status() == 0, approving.seen
            assert b"alice@corp.example may use web-1.staging.eu as deploy" in approving.seen

        page = f"{bastion.url}/requests/{second}"
        assert await his.visit(page, account="bob") == (200, page)
        assert "takes a login with a second factor" in his.last
        assert await his.visit(bastion.url + his.link("/login?mfa="), account="bob", mfa=True) == (200, page)
        assert await his.press(page, answer="approve") == 200
        assert "It is granted." in his.last
    assert len(await bastion.store.grants()) == 3


@pytest.mark.parametrize("bastion", [STRONG], indirect=True, ids=["a second factor"])
async def test_a_script_is_told_what_to_do_and_not_led_to_a_browser(bastion: Whole) -> None:
    async with bastion.browser() as browser:
        token = await bastion.token(browser)
    body = {"public_key": asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode(), "target": TARGET}
    headers = {"Authorization": f"Bearer {token}"}
    async with bastion.http.post(f"{bastion.url}/api/v1/certificates", json=body, headers=headers) as answer:
        assert (answer.status, (await answer.json())["step_up"]) == (401, "mfa")
        assert 'error="insufficient_user_authentication"' in answer.headers["WWW-Authenticate"]
