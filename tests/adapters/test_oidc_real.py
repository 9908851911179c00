"""Logins, their renewal and their ends, at a certified provider and through the console as `bastion serve` makes it.

Everything is tried with the coordination of one node, and with that of many.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from bastion.access.freshness import FRESH_FOR
from bastion.app import Node
from bastion.core.audit import Kind
from bastion.core.ending import Cause
from bastion.core.session import End
from tests.services.redis import coordination_by
from tests.services.transmitter import BEARER, CREDENTIAL_CHANGE
from tests.whole import Whole, whole
from tests.world import until


@pytest.fixture(params=["memory", "redis"])
def coordination(request: pytest.FixtureRequest) -> Iterator[str]:
    with coordination_by(request.param) as setting:
        yield setting


@pytest.fixture
async def bastion(tmp_path: Path, coordination: str) -> AsyncIterator[Whole]:
    async with whole(tmp_path, coordination=coordination) as running:
        yield running


async def hear(node: Node) -> None:
    await node.supervision.hear_revocations()


@pytest.fixture
async def hearing(tmp_path: Path, coordination: str) -> AsyncIterator[Whole]:
    """One that looks at nothing in the background, neither now nor in an hour: it only hears what it is told."""
    async with whole(tmp_path, coordination=coordination, watch=hear) as running:
        yield running


@asynccontextmanager
async def live_session(bastion: Whole, token: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """An open SSH session of Alice's, which writes until it is cut."""
    key = await bastion.certify(token)
    process = await bastion.ssh(key, "echo begun; while sleep 0.05; do echo on; done")
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        assert line == b"begun\n", await process.stderr.read()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: asyncio.subprocess.Process) -> str:
    """What the client read when its session was cut."""
    _, said = await asyncio.wait_for(process.communicate(), 10)
    return said.decode()


async def status_of(bastion: Whole, token: str) -> int:
    return (await bastion.call("GET", "/api/v1/whoami", token))[0]


# ------------------------------------------------------------------------------------------------------------- logins


async def test_code_and_pkce_through_the_console_give_the_identity_that_the_provider_signed(bastion: Whole) -> None:
    async with bastion.browser() as browser:
        token = await bastion.token(browser)
    status, answer = await bastion.call("GET", "/api/v1/whoami", token)
    assert status == 200
    assert answer["identity"]["id"] == f"{bastion.provider.issuer}#alice"
    assert answer["identity"]["email"] == "alice@corp.example"
    assert answer["identity"]["groups"] == ["contractors"], "staff is filtered out by only_groups"


async def test_an_address_that_the_provider_did_not_verify_is_nobodys(bastion: Whole) -> None:
    async with bastion.browser() as browser:
        token = await bastion.token(browser, account="bob")
    answer = (await bastion.call("GET", "/api/v1/whoami", token))[1]
    assert (answer["identity"]["email"], answer["identity"]["display"]) == (None, "bob")


async def test_keys_that_the_provider_replaces_are_found_without_a_restart(bastion: Whole) -> None:
    async with bastion.browser() as browser:
        await bastion.token(browser)
    await bastion.provider.restart(new_keys=True)
    async with bastion.browser() as browser:
        assert await status_of(bastion, await bastion.token(browser)) == 200


async def test_a_provider_that_is_away_lets_nobody_new_in_and_those_who_are_in_stay(bastion: Whole) -> None:
    async with bastion.browser() as browser:
        token = await bastion.token(browser)
    await bastion.provider.stop()
    bastion.clock.skew += timedelta(minutes=2)
    await bastion.node.freshness.ask_due()
    assert await status_of(bastion, token) == 200
    bastion.clock.skew += timedelta(hours=1)  # the metadata in the cache is too old, too
    status, page = await bastion.call("GET", "/login")
    assert (status, "identity provider does not answer" in page) == (503, True), page


async def test_an_older_session_at_the_provider_is_an_older_login(bastion: Whole) -> None:
    """The provider says when it was made because it is asked for an age; nothing in the client's registration does."""
    older = timedelta(minutes=3)
    async with bastion.browser() as browser:
        await bastion.token(browser)
        bastion.clock.skew += older
        await bastion.token(browser)
    assert bastion.clock.now() - (await bastion.store.identity(bastion.alice)).authenticated_at >= older


# ------------------------------------------------------------------------------------------------------------ step-up


async def test_a_step_up_is_asked_for_and_found_in_the_answer(bastion: Whole) -> None:
    async with bastion.browser() as browser:
        await bastion.token(browser)
        assert (await bastion.store.identity(bastion.alice)).amr == {"pwd"}
        await bastion.token(browser, mfa=True, query="&mfa=1")
    assert "mfa" in (await bastion.store.identity(bastion.alice)).amr


async def test_a_step_up_that_the_provider_did_not_do_logs_nobody_in(bastion: Whole) -> None:
    async with bastion.browser() as browser:
        await bastion.token(browser, mfa=True)
        begin = f"{bastion.url}/login?mfa=1"
        status, _ = await browser.visit(begin, mfa=False)
    assert (status, "did not ask for a second factor" in browser.last) == (403, True), browser.last
    assert len(await bastion.events(Kind.LOGIN_FAILED)) == 1


async def test_a_session_at_the_provider_is_no_step_up(bastion: Whole) -> None:
    """The browser takes `max_age`, `prompt` and `acr_values` out of the request: the provider finds its own session."""
    async with bastion.browser() as browser:
        await bastion.token(browser, mfa=True)
        bastion.clock.skew += timedelta(minutes=3)  # so that the first login is older than clocks may be apart
        async with browser.session.get(f"{bastion.url}/login?mfa=1", allow_redirects=False) as response:
            url = response.headers["Location"]
        kept = [part for part in url.split("&") if part.partition("=")[0] not in ("max_age", "prompt", "acr_values")]
        status, _ = await browser.visit("&".join(kept), mfa=True)
    assert (status, "did not ask you to log in anew" in browser.last) == (403, True), browser.last


# --------------------------------------------------------------------------------------------------------------- ends


async def test_a_logout_at_the_provider_cuts_a_live_session_without_anybody_looking_for_it(hearing: Whole) -> None:
    bastion = hearing
    async with bastion.browser() as browser:
        token = await bastion.token(browser)
        await bastion.grant(bastion.alice)
        async with live_session(bastion, token) as process:
            await browser.log_out(f"{bastion.provider.issuer}/session/end")
            assert End.IDENTITY.sentence in await ended(process)
    assert await status_of(bastion, token) == 401
    (event,) = await bastion.events(Kind.IDENTITY_ENDED)
    assert (event.identity, event.reasons) == (bastion.alice, (Cause.LOGGED_OUT_AT_ISSUER.value,))


@pytest.mark.parametrize("event", [None, CREDENTIAL_CHANGE], ids=["session-revoked", "credential-change"])
async def test_a_pushed_security_event_cuts_a_live_session_without_anybody_looking_for_it(
    hearing: Whole, event: str | None
) -> None:
    bastion = hearing
    async with bastion.browser() as browser:
        token = await bastion.token(browser)
    await bastion.grant(bastion.alice)
    subject = {"format": "iss_sub", "iss": bastion.provider.issuer, "sub": "alice"}
    claims = (
        bastion.transmitter.claims(subject=subject) if event is None else bastion.transmitter.claims(event, subject)
    )
    async with live_session(bastion, token) as process:
        headers = {"Authorization": f"Bearer {BEARER}", "Content-Type": "application/secevent+jwt"}
        answer = await bastion.call("POST", "/events/ssf", data=bastion.transmitter.sign(claims), headers=headers)
        assert answer == (202, "")
        assert End.IDENTITY.sentence in await ended(process)
    assert await status_of(bastion, token) == 401


async def test_what_was_proven_before_a_logout_opens_nothing_after_it(bastion: Whole) -> None:
    """The certificate is good for minutes yet, and its grant lives; so does the SSH connection that it opened."""
    async with bastion.browser() as browser:
        token = await bastion.token(browser)
        await bastion.grant(bastion.alice)
        key = await bastion.certify(token)
        process = await bastion.ssh(key, "true")
        assert (await process.communicate(), process.returncode)[1] == 0
        await browser.log_out(f"{bastion.provider.issuer}/session/end")
        process = await bastion.ssh(key, "true")
        _, said = await process.communicate()
        assert (process.returncode, b"logged out since" in said) == (255, True), said
        again = await bastion.certify(await bastion.token(browser), "id2")
        process = await bastion.ssh(again, "true")
        assert (await process.communicate(), process.returncode)[1] == 0


async def test_logging_out_here_ends_everything_and_leads_to_the_providers_own_logout(bastion: Whole) -> None:
    async with bastion.browser() as browser:
        token, other = await bastion.token(browser), await bastion.token(browser)
        await bastion.grant(bastion.alice)
        async with live_session(bastion, other) as process:
            status, answer = await bastion.call("POST", "/api/v1/logout", token)
            assert status == 200
            assert End.IDENTITY.sentence in await ended(process)
        assert await status_of(bastion, other) == 401
        assert "id_token_hint=" in answer["end_session_url"]
        assert await bastion.store.login_of(bastion.alice) is None, "the refresh token is gone"
        await browser.log_out(answer["end_session_url"])
        status, where = await browser.visit(f"{bastion.url}/login", until=f"{bastion.provider.issuer}/interaction/")
        assert status == 303, "the provider asks again who it is"
        assert where


# ------------------------------------------------------------------------------------------------------------ renewal


async def test_groups_that_changed_at_the_provider_are_read_again_and_end_what_rested_on_them(bastion: Whole) -> None:
    async with bastion.browser() as browser:
        token = await bastion.token(browser)
    await bastion.provider.tell("claims", sub="alice", claims={"groups": ["sre"]})
    bastion.clock.skew += timedelta(seconds=31)
    await bastion.node.freshness.ask_due()
    await until(lambda: groups_are(bastion, {"sre"}))
    (event,) = await bastion.events(Kind.IDENTITY_CHANGED)
    assert event.details == {"groups_lost": "contractors", "groups_gained": "sre"}
    status, answer = await bastion.call("GET", "/api/v1/whoami", token)
    assert (status, "groups have changed" in answer["error"]) == (401, True)
    bastion.clock.skew += timedelta(seconds=31)  # the refresh token that came with the answer is good, too
    await bastion.provider.tell("claims", sub="alice", claims={"groups": ["contractors"]})
    await bastion.node.freshness.ask_due()
    await until(lambda: groups_are(bastion, {"contractors"}))


async def groups_are(bastion: Whole, groups: set[str]) -> bool:
    return (await bastion.store.identity(bastion.alice)).groups == groups


async def test_an_account_that_the_provider_disabled_is_cut_at_the_next_question(bastion: Whole) -> None:
    async with bastion.browser() as browser:
        token = await bastion.token(browser)
    await bastion.grant(bastion.alice)
    async with live_session(bastion, token) as process:
        await bastion.provider.tell("disable", sub="alice")
        bastion.clock.skew += timedelta(seconds=31)
        await bastion.node.freshness.ask_due()
        assert End.IDENTITY.sentence in await ended(process)
    assert await status_of(bastion, token) == 401
    (event,) = await bastion.events(Kind.IDENTITY_ENDED)
    assert event.reasons == (Cause.REFUSED.value,)


async def test_a_login_that_nobody_could_be_asked_about_for_an_hour_is_over(bastion: Whole) -> None:
    async with bastion.browser() as browser:
        await bastion.token(browser)
    await bastion.provider.stop()
    bastion.clock.skew += FRESH_FOR
    await bastion.node.freshness.ask_due()
    await until(lambda: bastion.events(Kind.IDENTITY_ENDED))
    assert (await bastion.events(Kind.IDENTITY_ENDED))[0].reasons == (Cause.UNCONFIRMED.value,)


async def test_refresh_tokens_are_not_readable_in_the_database(bastion: Whole) -> None:
    async with bastion.browser() as browser:
        await bastion.token(browser)
    login = await bastion.store.login_of(bastion.alice)
    assert login is not None
    assert login.sealed is not None
    assert login.asked_at is not None, "there is a refresh token in it"
    assert b"eyJ" not in login.sealed
    assert login.sid


# ---------------------------------------------------------------------------------------------------------- workloads


async def exchange(bastion: Whole, token: str, **changed: str) -> tuple[int, dict[str, str]]:
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    }
    status, answer = await bastion.call("POST", "/api/v1/token/exchange", data=form | changed)
    return status, answer


async def test_a_workload_exchanges_its_token_and_works_as_itself(bastion: Whole) -> None:
    status, answer = await exchange(bastion, await bastion.provider.workload_token())
    assert (status, answer["token_type"]) == (200, "Bearer"), answer
    assert 0 < int(answer["expires_in"]) <= 300, "not longer than its own token"
    status, who = await bastion.call("GET", "/api/v1/whoami", answer["access_token"])
    assert (status, who["identity"]["groups"], who["identity"]["name"]) == (200, ["builders"], "builder")


async def test_a_token_for_somebody_else_is_not_exchanged(bastion: Whole) -> None:
    status, answer = await exchange(bastion, await bastion.provider.workload_token(resource="https://other.example"))
    assert (status, answer["error"]) == (400, "invalid_request")
    assert "could not be verified" in answer["error_description"]
