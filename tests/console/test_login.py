"""Logins and callers over real HTTP: a scripted browser, a console, a provider that lies."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import pytest
from aiohttp import http_parser, web

from bastion.access.pkce import challenge_of, new_secret
from bastion.access.throttle import DEFAULT
from bastion.access.tokens import Audience
from bastion.console import app as console_app
from bastion.console.body import read_object
from bastion.console.caller import caller_of, origin_of
from bastion.console.login import browser_identity, local_page
from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.errors import BastionError, ConfigError, Conflict, NotFound, Refused, Unauthenticated, Unavailable
from bastion.core.identity import Identity, IdentityId, IdentityKind
from bastion.demo.browser import Page, ScriptedBrowser
from tests.fakes import FakeClock
from tests.services.identity import INSIDE, NOWHERE, OUTSIDE, Console, running_console

RAISED: dict[str, Exception] = {
    "unauthenticated": Unauthenticated("Log in."),
    "notfound": NotFound("No such thing."),
    "conflict": Conflict("Too late."),
    "refused": Refused("No."),
    "unavailable": Unavailable("Not now.", detail="secret detail"),
    "bastion": BastionError("Odd."),
    "crash": RuntimeError("secret detail"),
    "timeout": TimeoutError("secret detail"),
}


async def raising(request: web.Request) -> web.Response:
    raise RAISED[request.match_info["what"]]


async def echo(request: web.Request) -> web.Response:
    return web.json_response(await read_object(request, required=["a"], optional=["b"]))


async def called(request: web.Request) -> web.Response:
    caller = await caller_of(request)
    return web.json_response({"who": str(caller.identity.id), "where": str(caller.place.address)})


async def link(request: web.Request) -> web.Response:
    return web.Response(text=f"linked {(await browser_identity(request)).id.subject}")


MORE = [
    web.get("/api/v1/raise/{what}", raising),
    web.get("/raise/{what}", raising),
    web.post("/api/v1/echo", echo),
    web.get("/api/v1/called", called),
    web.post("/api/v1/called", called),
    web.get("/link/{platform}/{code}", link),
]


@pytest.fixture
async def console(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Console]:
    async with running_console(tmp_path, clock, more=MORE) as console:
        yield console


async def run(step: Callable[..., Page], *arguments: Any, **named: Any) -> Page:
    """One step of the scripted browser, which blocks, in a thread."""
    return await asyncio.to_thread(step, *arguments, **named)


async def events(console: Console, kind: str = "login:*") -> list[Event]:
    return list(await console.store.events(EventFilter(kind=kind)))


async def bearer(console: Console) -> str:
    """A command line's token for Alice."""
    identity = Identity(
        IdentityId(console.provider.issuer, "alice"),
        "alice@corp.example",
        "Alice",
        frozenset({"contractors"}),
        IdentityKind.PERSON,
        console.provider.clock.now(),
    )
    async with console.store.transaction() as transaction:
        await transaction.save_identity(identity, console.provider.clock.now())
    return (await console.tokens.issue(identity, Audience.API)).text


async def ask(
    console: Console,
    method: str,
    path: str,
    *,
    source: str = INSIDE,
    headers: dict[str, str] | None = None,
    **body: Any,
) -> tuple[int, Any, Any]:
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, console.url + path, headers=headers, allow_redirects=False, **body) as response,
    ):
        text = await response.text()
        is_json = response.content_type == "application/json"
        return response.status, json.loads(text) if is_json else text, response.headers


# ---------------------------------------------------------------------------------------------------- in the browser


async def test_a_browser_logs_in_and_is_known_from_then_on(console: Console) -> None:
    browser = ScriptedBrowser()
    page = await run(browser.log_in, f"{console.url}/login", "alice")
    assert (page.status, urlsplit(page.url).path) == (200, "/welcome")
    assert "alice@corp.example" in page.text
    (event,) = await events(console)
    assert (event.kind, event.address, event.country) == (Kind.LOGIN_SUCCEEDED, INSIDE, "DE")
    assert event.identity == IdentityId(console.provider.issuer, "alice")
    assert (await console.store.identity(event.identity)).groups == {"contractors"}


async def test_a_page_that_needs_a_login_is_reached_through_it(console: Console) -> None:
    page = await run(ScriptedBrowser().log_in, f"{console.url}/link/slack/abc-123", "bob")
    assert page.text == "linked bob"


async def test_logging_out_in_the_browser_ends_the_cookie_everywhere(console: Console) -> None:
    browser = ScriptedBrowser()
    page = await run(browser.log_in, f"{console.url}/login", "alice")
    stolen = {name: dict(jar) for name, jar in browser.cookies.items()}
    page = await run(browser.submit, page)
    assert "logged out" in page.text
    browser.cookies = stolen
    page = await run(browser.get, f"{console.url}/welcome", follow=False)
    assert (page.status, page.headers["location"]) == (302, "/login?next=/welcome")


async def test_with_several_issuers_one_is_chosen_and_has_its_own_way_back(tmp_path: Path, clock: FakeClock) -> None:
    async with running_console(tmp_path, clock, more=MORE, issuers=2) as console:
        browser = ScriptedBrowser()
        page = await run(browser.get, f"{console.url}/login?next=/link/slack/abc")
        assert console.provider.requests == {}
        link = unescape(re.findall(r'href="([^"]+issuer=1[^"]*)"', page.text)[0])
        page = await run(browser.get, console.url + link)
        page = await run(browser.submit, page, follow=False, account="alice")
        assert urlsplit(page.headers["location"]).path == "/login/callback/2"
        assert (await run(browser.get, page.headers["location"])).text == "linked alice"
        mixed_up = page.headers["location"].replace("/callback/2", "/callback")
        assert (await run(browser.get, mixed_up)).status == 403
        for number in ("2", "-1", "x", ""):
            assert (await run(browser.get, f"{console.url}/login?issuer={number}")).status == 404


NOT_LOCAL = [
    "https://evil.example/",
    "//evil.example/",
    "/\\evil.example",
    "\\\\evil.example",
    "/link/slack/../../x",
    "/link/slack/abc//evil",
    "/welcome\r\nLocation: https://evil.example",
    "/welcome\n",
    "/link/slack/abc?next=//evil.example",
    "/link//abc",
    "javascript:alert(1)",
    "",
    "/login",
    "/%2fevil.example",
]


@pytest.mark.parametrize("path", NOT_LOCAL)
async def test_a_login_leads_to_no_place_but_our_own_pages(console: Console, path: str) -> None:
    assert local_page(path) == "/welcome"
    page = await run(ScriptedBrowser().log_in, f"{console.url}/login?{urlencode({'next': path})}", "alice")
    assert page.url == f"{console.url}/welcome"


async def begun(console: Console, browser: ScriptedBrowser) -> Page:
    """The provider's redirect back, not yet followed."""
    page = await run(browser.get, f"{console.url}/login")
    return await run(browser.submit, page, follow=False, account="alice")


async def test_the_same_answer_logs_in_once(console: Console) -> None:
    browser = ScriptedBrowser()
    location = (await begun(console, browser)).headers["location"]
    assert (await run(browser.get, location)).status == 200
    replayed = await run(browser.get, location)
    assert replayed.status == 403
    assert "used already" in replayed.text


async def test_of_two_answers_at_once_one_logs_in(console: Console) -> None:
    browser = ScriptedBrowser()
    location = (await begun(console, browser)).headers["location"]
    pages = await asyncio.gather(*(run(browser.get, location, follow=False) for _ in range(6)))
    assert sorted(page.status for page in pages) == [303, 403, 403, 403, 403, 403]


async def test_another_browser_cannot_finish_a_login(console: Console) -> None:
    location = (await begun(console, ScriptedBrowser())).headers["location"]
    victim = ScriptedBrowser()
    await run(victim.get, f"{console.url}/login")  # it has a binding of its own
    for browser in (victim, ScriptedBrowser()):
        page = await run(browser.get, location)
        assert page.status == 403
        assert not [name for name in browser.cookies.get(urlsplit(console.url).netloc, {}) if name == "bastion"]
    assert {event.kind for event in await events(console)} == {Kind.LOGIN_FAILED}


async def test_a_browser_that_began_nothing_is_not_logged_in_by_a_link(console: Console) -> None:
    """Whose link it is logs them in as somebody else, who reads along from then on."""
    location = (await begun(console, ScriptedBrowser())).headers["location"]
    page = await run(ScriptedBrowser().get, location)
    assert (page.status, "in another browser" in page.text) == (403, True)
    assert "/token" not in console.provider.requests


async def test_another_address_cannot_finish_a_login(console: Console) -> None:
    browser = ScriptedBrowser()
    location = (await begun(console, browser)).headers["location"]
    elsewhere = ScriptedBrowser(source="127.0.0.2")
    elsewhere.cookies = browser.cookies
    page = await run(elsewhere.get, location)
    assert page.status == 403
    assert "another address" in page.text


async def test_a_login_that_took_more_than_ten_minutes_is_over(console: Console, clock: FakeClock) -> None:
    browser = ScriptedBrowser()
    location = (await begun(console, browser)).headers["location"]
    clock.advance(timedelta(minutes=10))
    page = await run(browser.get, location)
    assert page.status == 403
    assert "/token" not in console.provider.requests


def other_state(said: dict[str, str]) -> dict[str, str]:
    return said | {"state": new_secret()}


def no_state(said: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in said.items() if name != "state"}


def no_code(said: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in said.items() if name != "code"}


def no_iss(said: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in said.items() if name != "iss"}


ANSWERS: dict[str, tuple[Callable[[dict[str, str]], dict[str, str]], int]] = {
    "another state": (other_state, 403),
    "no state": (no_state, 403),
    "a state that is no state": (lambda said: said | {"state": "../../x"}, 403),
    "no code": (no_code, 401),
    "a code of somebody else": (lambda said: said | {"code": "guess"}, 401),
    "an endless code": (lambda said: said | {"code": "a" * 5000}, 401),
    "no issuer": (no_iss, 401),
    "another issuer": (lambda said: said | {"iss": "https://evil.example"}, 401),
    "an error": (lambda said: {"error": "access_denied<b>\x1b[2J", "state": said["state"]}, 403),
}


@pytest.mark.parametrize(("change", "status"), ANSWERS.values(), ids=ANSWERS)
async def test_a_wrong_answer_logs_nobody_in_and_is_in_the_audit_log(
    console: Console, change: Callable[[dict[str, str]], dict[str, str]], status: int
) -> None:
    console.provider.alter_answer = change
    browser = ScriptedBrowser()
    page = await run(browser.log_in, f"{console.url}/login", "alice")
    assert page.status == status, page.text
    assert "bastion" not in browser.cookies[urlsplit(console.url).netloc]
    (event,) = await events(console)
    assert (event.kind, event.address, event.country) == (Kind.LOGIN_FAILED, INSIDE, "DE")
    assert event.reasons
    with pytest.raises(NotFound):
        await console.store.identity(IdentityId(console.provider.issuer, "alice"))


@pytest.mark.parametrize("change", [no_code, lambda said: said | {"code": "a" * 5000}], ids=["none", "endless"])
async def test_a_code_that_can_be_none_is_not_taken_to_the_issuer(
    console: Console, change: Callable[[dict[str, str]], dict[str, str]]
) -> None:
    console.provider.alter_answer = change
    page = await run(ScriptedBrowser().log_in, f"{console.url}/login", "alice")
    assert (page.status, "no code that can be used" in page.text) == (401, True)
    assert "/token" not in console.provider.requests


async def test_an_answer_that_says_something_twice_is_refused(console: Console) -> None:
    browser = ScriptedBrowser()
    location = (await begun(console, browser)).headers["location"]
    page = await run(browser.get, f"{location}&iss=https%3A%2F%2Fevil.example")
    assert page.status == 403


async def test_a_lie_in_the_id_token_logs_nobody_in(console: Console) -> None:
    console.provider.alter_claims = lambda said: said | {"nonce": "other"}
    page = await run(ScriptedBrowser().log_in, f"{console.url}/login", "alice")
    assert page.status == 401
    assert "could not be verified" in page.text
    (event,) = await events(console)
    assert event.kind is Kind.LOGIN_FAILED
    assert "nonce" in str(event.details["detail"])


@pytest.mark.parametrize(
    ("email", "verified"),
    [("alice@corp.example", False), ("alice@corp.example", "true"), ("alice@evil@corp.example", True),
     ("alice@corp.example\n", True), ("ali ce@corp.example", True), (["alice@corp.example"], True)],
    ids=["not verified", "verified as text", "two @", "a line break", "a space", "a list"],
)  # fmt: skip
async def test_an_e_mail_that_is_not_verified_or_not_one_is_not_shown_and_matches_nobody(
    console: Console, email: object, verified: object
) -> None:
    console.provider.alter_claims = lambda said: said | {"email": email, "email_verified": verified}
    page = await run(ScriptedBrowser().log_in, f"{console.url}/login", "alice")
    assert page.status == 200
    assert "corp.example" not in page.text
    assert (await console.store.identity(IdentityId(console.provider.issuer, "alice"))).email is None


async def test_a_provider_that_is_down_is_a_sentence_and_an_event(console: Console) -> None:
    await console.provider.stop()
    status, text, _ = await ask(console, "GET", "/login")
    assert status == 503
    assert "does not answer" in text
    (event,) = await events(console)
    assert event.kind is Kind.LOGIN_FAILED


# -------------------------------------------------------------------------------------------------------------- place


@pytest.mark.parametrize("source", [OUTSIDE, NOWHERE])
@pytest.mark.parametrize(
    "forged",
    [{}, {"X-Forwarded-For": INSIDE, "Forwarded": f"for={INSIDE}", "X-Real-IP": INSIDE, "True-Client-IP": INSIDE}],
    ids=["plain", "with forwarded-for headers"],
)
async def test_nothing_is_sent_to_the_provider_for_somebody_outside_every_fence(
    console: Console, source: str, forged: dict[str, str]
) -> None:
    for path in ("/login", f"/login/cli?{urlencode({'port': 5000, 'challenge': 'c' * 43, 'state': 's' * 43})}"):
        status, text, _ = await ask(console, "GET", path, source=source, headers=forged)
        assert status == 403
        assert "where you are" in text
    assert console.provider.requests == {}
    assert [event.kind for event in await events(console)] == [Kind.LOGIN_FAILED] * 2
    assert {event.address for event in await events(console)} == {source}


async def test_the_fence_is_asked_again_when_the_browser_is_back(console: Console) -> None:
    browser = ScriptedBrowser()
    location = (await begun(console, browser)).headers["location"]
    outside = ScriptedBrowser(source=OUTSIDE)
    outside.cookies = browser.cookies
    page = await run(outside.get, location)
    assert page.status == 403
    assert "where you are" in page.text
    assert "/token" not in console.provider.requests


async def test_a_good_token_is_worth_nothing_outside_the_fence(console: Console) -> None:
    authorization = {"Authorization": f"Bearer {await bearer(console)}", "X-Forwarded-For": INSIDE}
    assert (await ask(console, "GET", "/api/v1/called", headers=authorization))[0] == 200
    for path in ("/api/v1/called", "/api/v1/whoami", "/welcome", "/link/slack/abc"):
        assert (await ask(console, "GET", path, headers=authorization, source=OUTSIDE))[0] == 403


async def test_an_address_that_tries_too_often_waits_and_fills_no_log(console: Console, clock: FakeClock) -> None:
    query = urlencode({"state": new_secret(), "code": "x"})
    async with aiohttp.ClientSession() as session:

        async def once() -> int:
            async with session.get(f"{console.url}/login/callback?{query}") as response:
                return response.status

        assert [await once() for _ in range(DEFAULT.strangers + 9)] == [403] * DEFAULT.strangers + [429] * 9
        assert len(await events(console)) == DEFAULT.strangers + 1
        assert console.provider.requests == {}
        clock.advance(DEFAULT.window)
        assert await once() == 403


async def test_logins_that_nobody_finishes_end_soon_and_those_who_finish_are_not_held_up(console: Console) -> None:
    for _ in range(DEFAULT.begun):
        assert (await ask(console, "GET", "/login"))[0] == 302
    status, text, headers = await ask(console, "GET", "/login")
    assert (status, "Try again in 10m" in text, headers["Retry-After"]) == (429, True, "600")
    for _ in range(DEFAULT.begun + 5):
        browser = ScriptedBrowser(source="127.0.0.2")
        assert (await run(browser.log_in, f"{console.url}/login", "alice")).status == 200


# ---------------------------------------------------------------------------------------------------- command line's


def cli_url(console: Console, verifier: str, **changed: str) -> str:
    query = {"port": "45678", "challenge": challenge_of(verifier), "state": "s" * 43, **changed}
    return f"{console.url}/login/cli?{urlencode(query)}"


async def confirmed(console: Console, browser: ScriptedBrowser, verifier: str) -> dict[str, list[str]]:
    """What the browser is told to bring to the loopback."""
    page = await run(browser.get, cli_url(console, verifier))
    page = await run(browser.submit, page, account="alice")
    assert "Log in the command line?" in page.text
    assert "alice@corp.example" in page.text
    page = await run(browser.submit, page, follow=False)
    assert page.status == 303
    target = urlsplit(page.headers["location"])
    assert (target.scheme, target.netloc, target.path) == ("http", "127.0.0.1:45678", "/callback")
    return parse_qs(target.query)


async def test_a_command_line_redeems_its_code_once(console: Console) -> None:
    verifier = new_secret()
    query = await confirmed(console, ScriptedBrowser(), verifier)
    assert query["state"] == ["s" * 43]
    body = {"code": query["code"][0], "verifier": verifier}
    status, answer, _ = await ask(console, "POST", "/api/v1/token", json=body)
    assert status == 200
    assert answer["identity"]["groups"] == ["contractors"]
    status, who, _ = await ask(console, "GET", "/api/v1/whoami", headers={"Authorization": f"Bearer {answer['token']}"})
    assert (status, who["identity"]["id"], who["country"]) == (200, f"{console.provider.issuer}#alice", "DE")
    assert (await ask(console, "POST", "/api/v1/token", json=body))[0] == 403


async def test_a_command_line_gets_the_login_that_was_made_for_it_and_no_stronger_one(console: Console) -> None:
    verifier = new_secret()
    code = (await confirmed(console, ScriptedBrowser(), verifier))["code"][0]
    made = await console.store.identity(IdentityId(console.provider.issuer, "alice"))
    async with console.store.transaction() as transaction:
        await transaction.save_identity(
            replace(made, amr=frozenset({"mfa"}), acr="urn:example:mfa"), made.authenticated_at
        )
    _, answer, _ = await ask(console, "POST", "/api/v1/token", json={"code": code, "verifier": verifier})
    identity, _ = await console.tokens.identity(answer["token"], Audience.API)
    assert identity.strength == made.strength


@pytest.mark.parametrize("verifier", ["", "short", "x" * 43, "é" * 43])
async def test_a_code_without_its_verifier_is_used_up_and_gives_nothing(console: Console, verifier: str) -> None:
    right = new_secret()
    code = (await confirmed(console, ScriptedBrowser(), right))["code"][0]
    assert (await ask(console, "POST", "/api/v1/token", json={"code": code, "verifier": verifier}))[0] == 403
    assert (await ask(console, "POST", "/api/v1/token", json={"code": code, "verifier": right}))[0] == 403


async def test_a_code_is_good_for_a_minute(console: Console, clock: FakeClock) -> None:
    verifier = new_secret()
    code = (await confirmed(console, ScriptedBrowser(), verifier))["code"][0]
    clock.advance(timedelta(minutes=1))
    assert (await ask(console, "POST", "/api/v1/token", json={"code": code, "verifier": verifier}))[0] == 403


async def test_a_code_is_not_redeemed_outside_the_fence(console: Console) -> None:
    verifier = new_secret()
    body = {"code": (await confirmed(console, ScriptedBrowser(), verifier))["code"][0], "verifier": verifier}
    assert (await ask(console, "POST", "/api/v1/token", source=OUTSIDE, json=body))[0] == 403


async def test_a_question_is_not_answered_outside_the_fence(console: Console) -> None:
    """Its browser was inside when it logged in, and has been carried out, or its cookies were."""
    browser = ScriptedBrowser()
    page = await run(browser.get, cli_url(console, new_secret()))
    page = await run(browser.submit, page, account="alice")
    elsewhere = ScriptedBrowser(source=OUTSIDE)
    elsewhere.cookies = browser.cookies
    answered = await run(elsewhere.submit, page, follow=False)
    assert (answered.status, "Nothing here can be reached" in answered.text) == (403, True)


async def test_a_form_is_not_taken_from_outside_the_fence(console: Console) -> None:
    await bearer(console)
    identity = await console.store.identity(IdentityId(console.provider.issuer, "alice"))
    cookie = (await console.tokens.issue(identity, Audience.BROWSER)).text
    headers = {"Cookie": f"bastion={cookie}", "Origin": console.url}
    status, text, _ = await ask(console, "POST", "/logout", headers=headers, source=OUTSIDE)
    assert (status, "Nothing here can be reached" in text) == (403, True)
    assert (await ask(console, "POST", "/logout", headers=headers))[0] == 200


BAD_WISHES = {
    "a port below 1024": {"port": "80"},
    "port 0": {"port": "0"},
    "a port too high": {"port": "65536"},
    "a host in the port": {"port": "80@evil.example"},
    "digits of another script": {"port": "٤٥٦٧٨"},
    "a negative port": {"port": "-5000"},
    "no challenge": {"challenge": ""},
    "a short challenge": {"challenge": "abc"},
    "a challenge with a line break": {"challenge": "c" * 43 + "\n"},
    "a state with a line break": {"state": "s" * 20 + "\r\n"},
    "no state": {"state": ""},
}


@pytest.mark.parametrize("bad", BAD_WISHES.values(), ids=BAD_WISHES)
async def test_a_wish_that_no_command_line_makes_is_refused(console: Console, bad: dict[str, str]) -> None:
    page = await run(ScriptedBrowser().get, cli_url(console, new_secret(), **bad))
    assert page.status == 403
    assert console.provider.requests == {}


async def test_the_question_is_answered_in_the_browser_that_was_asked_and_by_its_own_page(console: Console) -> None:
    browser = ScriptedBrowser()
    page = await run(browser.get, cli_url(console, new_secret()))
    page = await run(browser.submit, page, account="alice")
    assert "form-action 'self' http://127.0.0.1:45678;" in page.headers["content-security-policy"]
    confirm = f"{console.url}/login/cli/confirm"
    ticket = page.text.split('name="ticket" value="')[1].split('"')[0]
    jar = browser.cookies[urlsplit(console.url).netloc]
    cookie = {"Cookie": f"bastion-login={jar['bastion-login']}"}
    evil = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
    for headers in (
        cookie,
        cookie | evil,
        cookie | {"Origin": "null"},
        cookie | {"Origin": console.url, "Sec-Fetch-Site": "same-site"},
    ):
        status, text, _ = await ask(console, "POST", "/login/cli/confirm", headers=headers, data={"ticket": ticket})
        assert status == 403
        assert "not sent by a page" in text
    stranger = await run(ScriptedBrowser().post, confirm, {"ticket": ticket}, follow=False)
    assert stranger.status == 403
    assert (await run(browser.submit, page, follow=False)).status == 403  # the stranger's try used it up


# ------------------------------------------------------------------------------------------------------------ callers


async def test_a_token_of_one_kind_is_not_taken_for_the_other(console: Console) -> None:
    api = await bearer(console)
    identity = await console.store.identity(IdentityId(console.provider.issuer, "alice"))
    cookie = (await console.tokens.issue(identity, Audience.BROWSER)).text
    as_cookie, as_bearer = {"Cookie": f"bastion={api}"}, {"Authorization": f"Bearer {cookie}"}
    assert (await ask(console, "GET", "/api/v1/called", headers=as_cookie))[0] == 401
    assert (await ask(console, "GET", "/api/v1/called", headers=as_bearer))[0] == 401
    assert (await ask(console, "GET", "/api/v1/called", headers={"Cookie": f"bastion={cookie}"}))[0] == 200
    # The binding cookie and the id token are no tokens either.
    assert (await ask(console, "GET", "/api/v1/called", headers={"Authorization": f"Bearer {new_secret()}"}))[0] == 401


async def test_of_two_authorization_headers_neither_counts(console: Console) -> None:
    """A proxy in front may have judged the other one."""
    good = f"Bearer {await bearer(console)}"
    for both in ([good, "Bearer other"], ["Bearer other", good], [good, good]):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{console.url}/api/v1/whoami", headers=[("Authorization", each) for each in both]) as response,
        ):
            assert response.status == 401


async def test_a_cookie_alone_changes_nothing(console: Console) -> None:
    await bearer(console)
    identity = await console.store.identity(IdentityId(console.provider.issuer, "alice"))
    cookie = {"Cookie": f"bastion={(await console.tokens.issue(identity, Audience.BROWSER)).text}"}
    for path in ("/api/v1/called", "/api/v1/logout"):
        assert (await ask(console, "POST", path, headers=cookie))[0] == 401
    assert (await ask(console, "POST", "/logout", headers=cookie | {"Origin": "https://evil.example"}))[0] == 403
    assert (await ask(console, "GET", "/api/v1/called", headers=cookie))[0] == 200


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://Bastion.Example.com:443/", "https://bastion.example.com"),
        ("https://bastion.example.com:8443", "https://bastion.example.com:8443"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
    ],
)
def test_an_origin_is_compared_as_browsers_write_it(url: str, origin: str) -> None:
    assert origin_of(url) == origin


BAD_HEADERS = {
    "nothing": {},
    "empty": {"Authorization": ""},
    "basic": {"Authorization": "Basic YTpi"},
    "no token": {"Authorization": "Bearer"},
    "garbage": {"Authorization": "Bearer a.b.c"},
    "an identity header": {"X-Forwarded-User": "alice", "X-Remote-User": "alice"},
}


@pytest.mark.parametrize("headers", BAD_HEADERS.values(), ids=BAD_HEADERS)
async def test_nobody_is_nobody(console: Console, headers: dict[str, str]) -> None:
    status, answer, said = await ask(console, "GET", "/api/v1/called", headers=headers)
    assert (status, said["WWW-Authenticate"]) == (401, "Bearer")
    assert "bastion login" in answer["error"]


async def test_a_token_ends_after_an_hour_and_by_logging_out(console: Console, clock: FakeClock) -> None:
    authorization = {"Authorization": f"Bearer {await bearer(console)}"}
    clock.advance(timedelta(minutes=59, seconds=59))
    assert (await ask(console, "GET", "/api/v1/called", headers=authorization))[0] == 200
    clock.advance(timedelta(seconds=1))
    status, answer, _ = await ask(console, "GET", "/api/v1/called", headers=authorization)
    assert (status, answer["error"]) == (401, "Your login is over. Log in again: bastion login")
    again = {"Authorization": f"Bearer {await bearer(console)}"}
    assert (await ask(console, "POST", "/api/v1/logout", headers=again))[0] == 200
    status, answer, _ = await ask(console, "GET", "/api/v1/called", headers=again)
    assert (status, "logged out" in answer["error"]) == (401, True)


# ------------------------------------------------------------------------------------------------------- application


STATUSES = {
    "unauthenticated": (401, "Log in."),
    "notfound": (404, "No such thing."),
    "conflict": (409, "Too late."),
    "refused": (403, "No."),
    "unavailable": (503, "Not now."),
    "bastion": (500, "Odd."),
    "crash": (500, "Something went wrong in the bastion. It is in its log."),
    "timeout": (503, "The bastion did not answer in time. Try again in a minute."),
}


@pytest.mark.parametrize(("what", "said"), STATUSES.items(), ids=STATUSES)
async def test_an_error_is_one_public_sentence(console: Console, what: str, said: tuple[int, str]) -> None:
    status, answer, _ = await ask(console, "GET", f"/api/v1/raise/{what}")
    assert (status, answer) == (said[0], {"error": said[1]})
    status, text, headers = await ask(console, "GET", f"/raise/{what}")
    assert (status, headers["Content-Type"]) == (said[0], "text/html; charset=utf-8")
    assert said[1] in text
    assert "secret detail" not in text


BODIES = {
    "not JSON": b"{",
    "a list": b"[]",
    "nothing": b"",
    "a key missing": b"{}",
    "a key too many": b'{"a": 1, "c": 2}',
    "a key twice": b'{"a": 1, "a": 2}',
    "not UTF-8": b'{"a": "\xff"}',
    "deep": b'{"a": ' + b"[" * 60_000,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_body_that_is_not_as_expected_is_refused(console: Console, body: bytes) -> None:
    status, answer, _ = await ask(console, "POST", "/api/v1/echo", data=body)
    assert status == 400
    assert answer["error"].startswith("The request")


async def test_a_body_of_more_than_64_kib_is_refused(console: Console) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b'{"a": "'
        for _ in range(80):
            yield b"x" * 1024

    fits = json.dumps({"a": "x" * 65_000}).encode()
    assert (await ask(console, "POST", "/api/v1/echo", data=fits))[0] == 200
    assert (await ask(console, "POST", "/api/v1/echo", data=fits + b" " * 1000))[0] == 413
    assert (await ask(console, "POST", "/api/v1/echo", data=endless()))[0] == 413


async def test_every_answer_has_the_security_headers(console: Console) -> None:
    for path in ("/healthz", "/login/closed", "/login", "/nothing", "/api/v1/whoami", "/raise/crash"):
        _, _, headers = await ask(console, "GET", path)
        assert headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Server"] == "bastion"


async def test_cookies_are_for_no_script_and_no_other_site(console: Console) -> None:
    _, _, headers = await ask(console, "GET", "/login")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Path=/" in cookie
    assert "Domain" not in cookie
    console.callers.secure = True
    _, _, headers = await ask(console, "GET", "/login")
    assert headers["Set-Cookie"].startswith("__Host-bastion-login=")
    assert "Secure" in headers["Set-Cookie"]
    assert "max-age" in headers["Strict-Transport-Security"]


async def test_pages_load_nothing_and_run_nothing(console: Console) -> None:
    page = await run(ScriptedBrowser().log_in, f"{console.url}/login", "alice")
    for forbidden in ("<script", "http://", "https://", " style=", "onload", "<link", "<img"):
        assert forbidden not in page.text


async def test_the_access_log_has_no_code_and_no_token(console: Console, capsys: pytest.CaptureFixture[str]) -> None:
    token = await bearer(console)
    await ask(console, "GET", "/link/slack/one-time-code", headers={"Authorization": f"Bearer {token}"})
    await ask(console, "GET", "/login/callback?code=secret-code&state=secret-state")
    printed = "".join(capsys.readouterr())
    assert "GET /link/{platform}/{code}" in printed
    for secret in ("one-time-code", "secret-code", "secret-state", token):
        assert secret not in printed


async def test_a_name_with_markup_is_shown_as_text(console: Console) -> None:
    console.provider.alter_claims = lambda said: said | {"sub": "<script>alert(1)</script>", "email_verified": False}
    page = await run(ScriptedBrowser().log_in, f"{console.url}/login", "alice")
    assert "&lt;script&gt;" in page.text
    assert "<script" not in page.text


async def test_broken_framing_is_refused(console: Console) -> None:
    request = (
        b"POST /api/v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", urlsplit(console.url).port or 0)) as peer:
        peer.sendall(request)
        peer.settimeout(10)
        answer = await asyncio.to_thread(peer.recv, 4096)
    assert b" 400 " in answer.split(b"\r\n", 1)[0]


def test_the_console_does_not_start_with_another_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    console_app.check_parser()
    monkeypatch.setattr(http_parser, "HttpRequestParser", http_parser.HttpRequestParserPy)
    with pytest.raises(ConfigError, match="C parser"):
        console_app.check_parser()


def test_the_console_does_not_start_with_an_older_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiohttp, "__version__", "3.14.4")
    with pytest.raises(ConfigError, match="too old"):
        console_app.check_parser()
