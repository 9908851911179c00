"""Policies that demand a second factor, or a recent login, of whoever reviews."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from bastion.access.ballot import Granted, WaitingForOthers
from bastion.access.tokens import Audience
from bastion.chatops import slack
from bastion.chatops.desk import Desk
from bastion.chatops.errands import Errands
from bastion.console import answering
from bastion.core.audit import Kind
from bastion.core.errors import Refused
from bastion.core.grant import Verdict
from bastion.core.identity import Identity, Strength
from bastion.core.remedy import Remedy, StepUpNeeded
from tests.chatops.counter import NAMES, USERS, parts_of, serving
from tests.chatops.fake_slack import BOT_TOKEN, SECRET, TEAM, FakeSlack, running_slack
from tests.fakes import FakeClock
from tests.office import BERLIN, CARLA, ISSUER, LEA, NODE, POLICY, PROD, SAM, SIA, Office, open_office, wish
from tests.office_console import OfficeConsole, open_console

DEMANDING = POLICY.replace(
    'action == Action::"review", resource);',
    'action == Action::"review", resource)\nwhen { context.mfa && context.authenticated_age < duration("15m") };',
)


def strong(identity: Identity, clock: FakeClock) -> Identity:
    """After a login with a second factor that was made this moment."""
    return identity.proven_by(Strength(clock.now(), frozenset({"pwd", "mfa"})))


@pytest.fixture
async def office(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Office]:
    async with open_office(tmp_path, clock, DEMANDING) as office:
        yield office


async def test_a_reviewer_with_a_weak_login_is_told_which_would_do_and_with_that_approves(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    for verdict in Verdict:
        with pytest.raises(StepUpNeeded, match="bastion login --mfa") as needed:
            await office.approval.review(request.id, SAM, verdict, BERLIN)
        assert needed.value.remedy == Remedy.MFA
    refused = (await office.events(Kind.GRANT_REFUSED.value))[-1]
    assert (refused.actor, refused.details["request"]) == (SAM.id, request.id)
    with pytest.raises(StepUpNeeded):
        await office.approval.grant(SAM, CARLA, wish(), BERLIN)
    assert isinstance(
        await office.approval.review(request.id, strong(SAM, office.clock), Verdict.APPROVE, BERLIN), Granted
    )


async def test_nobody_is_sent_to_log_in_who_may_not_review_anyway(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    with pytest.raises(Refused) as refused:
        await office.approval.review(request.id, CARLA, Verdict.APPROVE, BERLIN)
    assert not isinstance(refused.value, StepUpNeeded)
    assert "bastion login" not in refused.value.public
    crossing = await office.approval.request(CARLA, CARLA, wish(crossing=True), BERLIN)
    with pytest.raises(Refused, match="only by those who administer staging/eu") as refused:
        await office.approval.review(crossing.id, SAM, Verdict.APPROVE, BERLIN)
    assert not isinstance(refused.value, StepUpNeeded)


async def test_an_approval_counts_by_the_login_that_gave_it_however_its_giver_logs_in_later(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(PROD), BERLIN)
    first = await office.approval.review(request.id, strong(SAM, office.clock), Verdict.APPROVE, BERLIN)
    assert isinstance(first, WaitingForOthers)
    await office.know(SAM)  # with a password, elsewhere
    office.clock.advance(timedelta(hours=1))
    second = await office.approval.review(request.id, strong(SIA, office.clock), Verdict.APPROVE, BERLIN)
    assert isinstance(second, Granted)


async def test_an_approval_from_before_the_policy_is_no_stronger_for_a_later_login(office: Office) -> None:
    lenient = office.under(POLICY)
    request = await lenient.request(CARLA, CARLA, wish(PROD), BERLIN)
    await lenient.review(request.id, SAM, Verdict.APPROVE, BERLIN)
    await office.know(strong(SAM, office.clock))
    answer = await office.approval.review(request.id, strong(SIA, office.clock), Verdict.APPROVE, BERLIN)
    assert isinstance(answer, WaitingForOthers)


# -------------------------------------------------------------------------------------------------- the API, the page


@asynccontextmanager
async def console_of(office: Office) -> AsyncIterator[OfficeConsole]:
    routes = answering.routes(standing=office.standing, approval=office.approval, issuers=["https://other", ISSUER])
    async with open_console(office, *routes) as console:
        yield console


async def browse(console: OfficeConsole, who: Identity, path: str, **form: str) -> tuple[int, str]:
    """As ``who``'s browser: look at a page, or press a button of it."""
    cookies = {"bastion": await console.token(who, Audience.BROWSER)}
    headers = {"Origin": console.url}
    async with aiohttp.ClientSession(cookies=cookies) as session:
        if not form:
            async with session.get(console.url + path, allow_redirects=False) as answer:
                return answer.status, await answer.text()
        async with session.post(console.url + path, data=form, headers=headers) as answer:
            return answer.status, await answer.text()


async def test_the_api_says_which_login_an_answer_takes(office: Office) -> None:
    async with console_of(office) as console:
        status, asked = await console.call(
            CARLA, "POST", "/requests",
            {"targets": ["web-1.staging.eu"], "logins": ["deploy"], "duration": "1h", "reason": "fix"},
        )  # fmt: skip
        assert status == 201, asked
        path = f"/requests/{asked['request']['id']}/review"
        status, listed = await console.call(SAM, "GET", "/requests")
        assert [each["answerable"] for each in listed["requests"]] == [True], "they can log in as it takes"
        status, answer = await console.call(SAM, "POST", path, {"verdict": "approve"})
        assert (status, answer["step_up"]) == (401, "mfa")
        assert "No policy permits sam@example.com to review" in answer["error"]
        status, answer = await console.call(strong(SAM, office.clock), "POST", path, {"verdict": "approve"})
        assert (status, answer["status"]) == (200, "granted"), answer


async def test_the_page_of_a_request_leads_to_the_login_that_an_answer_takes(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(PROD), BERLIN)
    async with console_of(office) as console:
        path = f"/requests/{request.id}"
        status, page = await browse(console, SAM, path)
        assert (status, "takes a login with a second factor, made just now" in page) == (200, True), page
        assert "<button" not in page
        link = urlsplit(unescape(page.partition('class="button" href="')[2].partition('"')[0]))
        assert (link.path, parse_qs(link.query)) == ("/login", {"mfa": ["1"], "issuer": ["1"], "next": [path]})

        said = {"identity": str(SAM.id), "answer": "approve"}
        status, page = await browse(console, SAM, path, **said)
        assert (status, "takes a login" in page) == (200, True), "a button of an older page changes nothing"
        assert await office.store.reviews(request.id) == []

        status, page = await browse(console, strong(SAM, office.clock), path)
        assert (status, 'value="approve"' in page, "deploy the fix" in page) == (200, True, True)
        status, page = await browse(console, strong(SAM, office.clock), path, **said | {"identity": str(SIA.id)})
        assert (status, "somebody else than when this page was shown" in page) == (409, True)
        status, page = await browse(console, strong(SAM, office.clock), path, **said)
        assert (status, "sam@example.com: approve" in page, "<button" in page) == (200, True, False)
        said = {"identity": str(SIA.id), "answer": "approve"}
        status, page = await browse(console, strong(SIA, office.clock), path, **said)
        assert (status, "It is granted." in page) == (200, True)


async def test_the_page_of_a_request_is_for_those_it_concerns(office: Office) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), BERLIN)
    async with console_of(office) as console:
        status, page = await browse(console, USERS["U0OTTO"], f"/requests/{request.id}")
        assert (status, "There is no request" in page) == (404, True)
        status, page = await browse(console, CARLA, f"/requests/{request.id}")
        assert (status, "<button" in page) == (200, False), "nobody approves themselves"
        status, _ = await browse(console, CARLA, f"/requests/{request.id}", identity=str(CARLA.id), answer="approve")
        assert status == 403
    assert await office.store.reviews(request.id) == []


# ----------------------------------------------------------------------------------------------------------- in a chat


@asynccontextmanager
async def chat_of(office: Office, console: OfficeConsole) -> AsyncIterator[tuple[FakeSlack, Errands]]:
    for user, identity in USERS.items():
        await office.link(user, identity)
    desk = Desk(
        approval=office.approval, standing=office.standing, choice=office.choice, linking=office.linking,
        store=office.store, clock=office.clock, node=NODE, public_url=console.url,
    )  # fmt: skip
    async with running_slack(office.clock, dict(NAMES)) as fake:
        errands, api = Errands(), slack.SlackApi(token=BOT_TOKEN, channel=None, base_url=fake.base_url)
        routes = slack.routes(
            desk=desk, signing_secret=SECRET, workspaces=[TEAM], api=api, errands=errands, **parts_of(office)
        )
        async with serving(routes) as fake.bastion:
            yield fake, errands
        await errands.close()


async def test_who_presses_approve_in_slack_is_led_to_the_page_where_they_can_show_a_second_factor(
    office: Office,
) -> None:
    async with console_of(office) as console, chat_of(office, console) as (chat, errands):
        await chat.type("U0CARLA", "request web-1.staging.eu as deploy for 2h because fix the queue")
        (request,) = await office.store.waiting_requests(asked_after=office.clock.now() - timedelta(hours=1))
        # A second factor that is shown elsewhere makes whoever has the chat no stronger.
        await office.know(strong(SAM, office.clock))
        await chat.press("U0SAM", chat.channel()[-1], "Approve")
        await errands.settle()
        told = chat.whispers("U0SAM")[-1]
        assert "Answering this takes a login with a second factor, and a chat shows none." in told
        path = f"/requests/{request.id}"
        assert console.url + path in told
        assert await office.store.reviews(request.id) == []

        status, page = await browse(console, SAM, path)
        assert (status, "/login?mfa=1" in page) == (200, True)
        said = {"identity": str(SAM.id), "answer": "approve"}
        status, page = await browse(console, strong(SAM, office.clock), path, **said)
        assert (status, "It is granted." in page) == (200, True), page
        (grant,) = await office.store.grants()
        assert grant.approved_by == (SAM.id,)


async def test_what_approves_by_itself_is_not_done_from_a_chat_where_a_second_factor_is_demanded(
    office: Office,
) -> None:
    async with console_of(office) as console, chat_of(office, console) as (chat, errands):
        await office.know(strong(LEA, office.clock))
        said = await chat.type("U0LEA", "grant <@U0CARLA> web-1.staging.eu as deploy for 1h because a fix")
        assert "This takes a login with a second factor of whoever approves" in said
        assert await office.store.grants() == []
