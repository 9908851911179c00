"""Workload tokens over HTTP: which machines come in, as what, and which tokens are not a machine's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey

from bastion.access.tokens import Audience
from bastion.access.workload import SubjectRule, WorkloadRule
from bastion.core.audit import EventFilter
from bastion.core.grant import Request, can_review
from bastion.core.identity import Identity, IdentityId, IdentityKind, VerifiedClaims
from bastion.core.policy import Demands
from bastion.core.target import Scope
from bastion.demo.browser import ScriptedBrowser
from tests.fakes import FakeClock
from tests.services.identity import AUDIENCE, OUTSIDE, Console, running_console

SUBJECT = "repo:acme/web:ref:refs/heads/main"
GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"


@pytest.fixture
async def console(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Console]:
    async with running_console(tmp_path, clock) as console:
        yield console


def claims(console: Console, **changed: Any) -> dict[str, Any]:
    """A workload token's, with changes; None leaves a claim out."""
    now = int(console.provider.clock.now().timestamp())
    said = {
        "iss": console.provider.issuer,
        "sub": SUBJECT,
        "aud": AUDIENCE,
        "iat": now,
        "nbf": now,
        "exp": now + 600,
        "jti": "j",
    }
    return {name: value for name, value in (said | changed).items() if value is not None}


async def exchange(
    console: Console, token: str, *, source: str = "127.0.0.1", **changed: str
) -> tuple[int, dict[str, Any]]:
    form = {"grant_type": GRANT, "subject_token": token, "subject_token_type": JWT} | changed
    connector = aiohttp.TCPConnector(local_addr=(source, 0))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"{console.url}/api/v1/token/exchange", data=form) as response,
    ):
        return response.status, await response.json()


async def identity_of(console: Console, answer: dict[str, Any]) -> Identity:
    return (await console.tokens.identity(answer["access_token"], Audience.API))[0]


@pytest.mark.parametrize(
    ("subject", "group"),
    [
        (SUBJECT, "builders"),
        ("repo:acme/web:ref:refs/heads/feature/x", "builders"),
        ("system:serviceaccount:ci:runner", "runners"),
        ("system:serviceaccount:ci:runner:pod", "runners"),
        ("exact", "exact"),
    ],
)
async def test_a_workload_comes_in_as_what_its_rule_says(console: Console, subject: str, group: str) -> None:
    status, answer = await exchange(console, console.provider.token(claims(console, sub=subject)))
    assert (status, answer["issued_token_type"].endswith("access_token")) == (200, True), answer
    identity = await identity_of(console, answer)
    assert identity.id == IdentityId(console.provider.issuer, subject)
    assert identity.kind is IdentityKind.WORKLOAD
    assert identity.groups == {group}
    assert identity.email is None
    (event,) = await console.store.events(EventFilter(kind="login:succeeded"))
    assert event.details == {"for": "workload", "workload": group}


async def test_a_workload_never_reviews(console: Console) -> None:
    answer = (await exchange(console, console.provider.token(claims(console))))[1]
    workload, someone = await identity_of(console, answer), IdentityId(console.provider.issuer, "alice")
    now, names = (
        console.provider.clock.now(),
        (frozenset({"web-1.staging.eu"}), frozenset({"deploy"}), frozenset[Any]()),
    )
    asked = Request("q-1", someone, someone, Scope("staging", "eu"), *names, timedelta(hours=1), "why", now, Demands())
    person = Identity(someone, None, None, frozenset(), IdentityKind.PERSON, now)
    assert can_review(asked, person, workload) == "A workload cannot review."


async def test_what_a_workload_gets_does_not_outlive_its_own_token(console: Console, clock: FakeClock) -> None:
    answer = (await exchange(console, console.provider.token(claims(console))))[1]
    assert answer["expires_in"] == 600
    clock.advance(timedelta(seconds=601))
    status, _ = await exchange(console, console.provider.token(claims(console)))
    assert status == 200
    with pytest.raises(Exception, match="login is over"):
        await identity_of(console, answer)


STRANGERS = [
    "repo:acme/web:ref:refs/heads/main:environment:production",
    "repo:acme/web:pull_request",
    "repo:acme/webx:ref:refs/heads/main",
    "xrepo:acme/web:ref:refs/heads/main",
    "repo:acme/web:ref:refs/heads",
    "system:serviceaccount:ci",
    "system:serviceaccount:ci:",
    "system:serviceaccount:cix:runner",
    "exact2",
    "Exact",
]


@pytest.mark.parametrize("subject", STRANGERS)
async def test_a_subject_that_no_rule_means_stays_out(console: Console, subject: str) -> None:
    status, answer = await exchange(console, console.provider.token(claims(console, sub=subject)))
    assert (status, answer["error"]) == (403, "access_denied"), answer
    (event,) = await console.store.events(EventFilter(kind="login:failed"))
    assert "No workload rule" in event.reasons[0]


def changed(**said: Any) -> Callable[[Console], str]:
    return lambda c: c.provider.token(claims(c, **said))


def moved(name: str, seconds: int) -> Callable[[Console], str]:
    return lambda c: changed(**{name: int(c.provider.clock.now().timestamp()) + seconds})(c)


FORGERIES: dict[str, Callable[[Console], str]] = {
    "another key under the right name": lambda c: c.provider.token(claims(c), key=ECKey.generate_key("P-256")),
    "an unknown key": lambda c: c.provider.token(claims(c), kid="unknown"),
    "a logout token": lambda c: c.provider.token(claims(c), typ="logout+jwt"),
    "a security event": lambda c: c.provider.token(claims(c), typ="secevent+jwt"),
    "an issuer that is not listed": changed(iss="https://evil.example"),
    "no issuer": changed(iss=None),
    "a person's ID token": lambda c: c.provider.token(claims(c, aud="bastion", nonce="n")),
    "an ID token with our audience": changed(nonce="n"),
    "an event with our audience": changed(events={"x": {}}),
    "another audience": changed(aud="https://other.example"),
    "also for others": changed(aud=[AUDIENCE, "https://other.example"]),
    "no audience": changed(aud=None),
    "an empty audience": changed(aud=[]),
    "over": moved("exp", -61),
    "without an end": changed(exp=None),
    "good for a week": moved("exp", 7 * 86_400),
    "not yet": moved("nbf", 61),
    "of the future": moved("iat", 61),
    "without a time": changed(iat=None),
    "no subject": changed(sub=None),
    "an empty subject": changed(sub=""),
    "a subject with a line end": changed(sub=f"{SUBJECT}\n"),
    "not a token": lambda c: "a.b.c",
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
async def test_a_token_that_is_no_workloads_lets_nobody_in(console: Console, forge: Callable[[Console], str]) -> None:
    status, answer = await exchange(console, forge(console))
    assert (status, answer["error"]) == (400, "invalid_request"), answer
    assert len(await console.store.events(EventFilter(kind="login:failed"))) == 1
    assert await console.store.events(EventFilter(kind="login:succeeded")) == []


async def test_for_the_token_of_an_issuer_that_is_not_listed_no_other_is_asked(console: Console) -> None:
    _, answer = await exchange(console, changed(iss="https://evil.example")(console))
    assert "not of an issuer whose workloads are let in" in answer["error_description"]
    assert console.provider.requests == {}


async def test_the_fence_is_asked_before_the_token(console: Console) -> None:
    status, answer = await exchange(console, console.provider.token(claims(console)), source=OUTSIDE)
    assert (status, answer["error"]) == (403, "access_denied")
    assert "/jwks" not in console.provider.requests


async def test_a_person_is_not_taken_for_a_workload(console: Console) -> None:
    """Somebody who controls a subject that a rule means must not change who a person is."""
    now = datetime.now(UTC)
    person = Identity(IdentityId(console.provider.issuer, "exact"), None, None, frozenset(), IdentityKind.PERSON, now)
    async with console.store.transaction() as transaction:
        await transaction.save_identity(person, now)
    status, answer = await exchange(console, console.provider.token(claims(console, sub="exact")))
    assert (status, "known here as a person" in answer["error_description"]) == (403, True)
    assert (await console.store.identity(person.id)).kind is IdentityKind.PERSON


@pytest.mark.parametrize(
    "form",
    [
        {"grant_type": "client_credentials"},
        {"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"},
        {"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
    ],
)
async def test_other_exchanges_are_not_done(console: Console, form: dict[str, str]) -> None:
    assert (await exchange(console, console.provider.token(claims(console)), **form))[0] == 400


# ---------------------------------------------------------------------------------------------------------- patterns


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_pattern_without_a_star_means_itself_alone(pattern: str, subject: str) -> None:
    plain = pattern.replace("*", "+")
    assert SubjectRule(plain).matches(plain)
    assert SubjectRule(plain).matches(subject) == (plain == subject)


@given(st.text(alphabet="ab.[]()^$|?+\\{}:/*\n", max_size=12), st.text(alphabet="ab.:/\n", max_size=12))
def test_a_star_stays_within_its_part(pattern: str, subject: str) -> None:
    """Compared with a matcher that knows no regular expressions."""
    single = pattern.replace("**", "*")

    def means(pattern: str, subject: str) -> bool:
        if not pattern:
            return not subject
        if pattern[0] == "*":
            return means(pattern[1:], subject) or (bool(subject) and subject[0] != ":" and means(pattern, subject[1:]))
        return bool(subject) and subject[0] == pattern[0] and means(pattern[1:], subject[1:])

    if "**" not in single:
        assert SubjectRule(single).matches(subject) == means(single, subject)


@pytest.mark.parametrize(
    ("issuer", "audience", "subject", "covers"),
    [
        ("https://ci.example", "bastion", "ci", True),
        ("https://other.example", "bastion", "ci", False),
        ("https://ci.example", "another bastion", "ci", False),
        ("https://ci.example", "bastion", "other", False),
    ],
)
def test_a_rule_is_about_one_issuer_one_audience_and_its_subjects(
    clock: FakeClock, issuer: str, audience: str, subject: str, covers: bool
) -> None:
    """Of two rules for the same subject, what a token was made for says which is meant."""
    rule = WorkloadRule("https://ci.example", "bastion", SubjectRule("ci"), "builder", frozenset())
    assert rule.covers(VerifiedClaims(issuer, subject, {"aud": audience}, clock.now())) is covers


async def test_a_workload_is_not_taken_for_a_person(console: Console) -> None:
    """As a person it could review (law 10)."""
    now = console.provider.clock.now()
    who = IdentityId(console.provider.issuer, "alice")
    async with console.store.transaction() as transaction:
        await transaction.save_identity(Identity(who, None, None, frozenset(), IdentityKind.WORKLOAD, now), now)
    page = await asyncio.to_thread(ScriptedBrowser().log_in, f"{console.url}/login", "alice")
    assert (page.status, "as a workload" in page.text) == (403, True)
    assert (await console.store.identity(who)).kind is IdentityKind.WORKLOAD
