"""Security events pushed over HTTP: whom they end, and what is not taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from joserfc.jwk import ECKey

from bastion.access.tokens import Audience
from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.identity import Identity, IdentityId, IdentityKind
from tests.fakes import FakeClock
from tests.services.identity import AUDIENCE, Console, running_console
from tests.services.transmitter import BEARER, CREDENTIAL_CHANGE, SESSION_REVOKED, VERIFICATION

EMAIL = "alice@corp.example"


@pytest.fixture
async def console(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Console]:
    async with running_console(tmp_path, clock) as console:
        yield console


async def log_in(console: Console, subject: str = "alice", email: str | None = EMAIL, issuer: str = "") -> str:
    now = console.provider.clock.now()
    who = IdentityId(issuer or console.provider.issuer, subject)
    identity = Identity(who, email, None, frozenset(), IdentityKind.PERSON, now)
    async with console.store.transaction() as transaction:
        await transaction.save_identity(identity, now)
    return (await console.tokens.issue(identity, Audience.API)).text


async def is_in(console: Console, token: str) -> bool:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{console.url}/api/v1/whoami", headers={"Authorization": f"Bearer {token}"}) as response,
    ):
        return response.status == 200


async def push(
    console: Console, token: str, *, bearer: str | None = BEARER, content_type: str = "application/secevent+jwt"
) -> tuple[int, str]:
    """The status, and the code of the error (RFC 8935, section 2.4)."""
    headers = {"Content-Type": content_type} | ({"Authorization": f"Bearer {bearer}"} if bearer is not None else {})
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{console.url}/events/ssf", data=token, headers=headers) as response,
    ):
        return response.status, (await response.json())["err"] if response.status >= 400 else await response.text()


async def ends(console: Console) -> list[Event]:
    return list(await console.store.events(EventFilter(kind=Kind.IDENTITY_ENDED.value)))


def by_id(console: Console) -> dict[str, Any]:
    return {"format": "iss_sub", "iss": console.provider.issuer, "sub": "alice"}


ABOUT: dict[str, Callable[[Console], dict[str, Any]]] = {
    "issuer and subject": by_id,
    "a verified address": lambda c: {"format": "email", "email": "Alice@corp.example"},
    "the user of a session": lambda c: {
        "format": "complex",
        "user": by_id(c),
        "session": {"format": "opaque", "id": "7"},
    },
}


@pytest.mark.parametrize("about", ABOUT.values(), ids=ABOUT)
@pytest.mark.parametrize("event", [SESSION_REVOKED, CREDENTIAL_CHANGE], ids=["session-revoked", "credential-change"])
async def test_an_event_ends_whom_it_is_about_and_nobody_else(
    console: Console, event: str, about: Callable[[Console], dict[str, Any]]
) -> None:
    token, other = await log_in(console), await log_in(console, "bob", "bob@corp.example")
    claims = console.transmitter.claims(event, about(console))
    assert await push(console, console.transmitter.sign(claims)) == (202, "")
    assert (await is_in(console, token), await is_in(console, other)) == (False, True)
    (ended,) = await ends(console)
    assert ended.details == {"transmitter": console.transmitter.issuer, "jti": claims["jti"]}


async def test_a_subject_inside_the_event_is_read_too(console: Console) -> None:
    token, claims = await log_in(console), console.transmitter.claims()
    claims["events"][SESSION_REVOKED]["subject"] = by_id(console)
    assert (await push(console, console.transmitter.sign(claims)))[0] == 202
    assert not await is_in(console, token)


async def test_a_verification_is_answered_and_ends_nobody(console: Console) -> None:
    token = await log_in(console)
    stream = {"format": "opaque", "id": "stream-1"}
    claims = console.transmitter.claims(VERIFICATION, stream)
    assert await push(console, console.transmitter.sign(claims)) == (202, "")
    assert await is_in(console, token)


async def test_an_event_that_means_nothing_here_is_taken_and_ends_nobody(console: Console) -> None:
    token = await log_in(console)
    claims = console.transmitter.claims("https://schemas.openid.net/secevent/caep/event-type/token-claims-change")
    assert (await push(console, console.transmitter.sign(claims | {"sub_id": by_id(console)})))[0] == 202
    assert await is_in(console, token)


async def test_the_same_event_twice_is_taken_twice_and_done_once(console: Console, clock: FakeClock) -> None:
    await log_in(console)
    token = console.transmitter.sign(console.transmitter.claims(subject=by_id(console)))
    assert (await push(console, token))[0] == 202
    clock.advance(timedelta(hours=23))
    again = await log_in(console)
    assert (await push(console, token))[0] == 202
    assert await is_in(console, again)
    assert len(await ends(console)) == 1


async def test_an_event_that_could_not_be_obeyed_may_come_again(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await log_in(console)
    event = console.transmitter.sign(console.transmitter.claims(subject=by_id(console)))
    with monkeypatch.context() as broken:

        async def unwell(identity: IdentityId) -> Identity:
            raise ConnectionError("the database is away")

        broken.setattr(console.store, "identity", unwell)
        with pytest.raises((aiohttp.ClientError, KeyError)):
            await push(console, event)
    assert (await push(console, event))[0] == 202
    assert not await is_in(console, token)


async def test_nobody_is_ended_by_an_address_that_two_have_verified_or_that_nobody_has(console: Console) -> None:
    one, two = await log_in(console), await log_in(console, "alice-2")
    subject = {"format": "email", "email": EMAIL}
    sent = console.transmitter.sign(console.transmitter.claims(subject=subject))
    assert await push(console, sent) == (400, "invalid_request")
    subject = {"format": "email", "email": "nobody@corp.example"}
    sent = console.transmitter.sign(console.transmitter.claims(subject=subject))
    assert (await push(console, sent))[0] == 202
    assert (await is_in(console, one), await is_in(console, two)) == (True, True)


async def test_what_is_called_an_address_is_not_taken_for_an_id(console: Console) -> None:
    """Somebody whose address nobody has verified is found by their id alone, and an address is none."""
    token = await log_in(console, "alice@corp.example", email=None)
    subject = {"format": "email", "email": f"{console.provider.issuer}#alice@corp.example"}
    sent = console.transmitter.sign(console.transmitter.claims(subject=subject))
    assert (await push(console, sent))[0] == 202
    assert await is_in(console, token)


async def test_a_transmitter_is_not_listened_to_about_other_issuers_people(console: Console) -> None:
    other = "https://other.example.com"
    token = await log_in(console, issuer=other)
    for subject in ({"format": "iss_sub", "iss": other, "sub": "alice"}, {"format": "email", "email": EMAIL}):
        sent = console.transmitter.sign(console.transmitter.claims(subject=subject))
        assert await push(console, sent) == (400, "access_denied")
    assert await is_in(console, token)


REFUSED_SUBJECTS: dict[str, Any] = {
    "opaque": {"format": "opaque", "id": "1"},
    "a telephone number": {"format": "phone_number", "phone_number": "+1"},
    "an account": {"format": "account", "uri": "acct:alice@corp.example"},
    "a session alone": {"format": "complex", "session": {"format": "opaque", "id": "1"}},
    "complex within complex": {"format": "complex", "user": {"format": "complex", "user": {}}},
    "no format": {"iss": "x", "sub": "alice"},
    "an issuer with a fragment": {"format": "iss_sub", "iss": "https://a#b", "sub": "c"},
    "an empty subject": {"format": "iss_sub", "iss": "https://a", "sub": ""},
    "an address with two": {"format": "email", "email": "alice@evil.example@corp.example"},
    "text": "alice",
    "a list": [1],
}


@pytest.mark.parametrize("subject", REFUSED_SUBJECTS.values(), ids=REFUSED_SUBJECTS)
async def test_a_subject_that_is_not_understood_is_refused(console: Console, subject: Any) -> None:
    sent = console.transmitter.sign(console.transmitter.claims(subject=subject))
    assert await push(console, sent) == (400, "invalid_request")
    assert await ends(console) == []


def changed(**claims: Any) -> Callable[[Console], str]:
    def make(console: Console) -> str:
        said = console.transmitter.claims(subject=by_id(console)) | claims
        return console.transmitter.sign({name: value for name, value in said.items() if value is not None})

    return make


def with_header(**header: Any) -> Callable[[Console], str]:
    return lambda c: c.transmitter.sign(c.transmitter.claims(subject=by_id(c)), **header)


def moved(seconds: int) -> Callable[[Console], str]:
    return lambda c: changed(iat=int(c.transmitter.clock.now().timestamp()) + seconds)(c)


FORGERIES: dict[str, tuple[Callable[[Console], str], str]] = {
    "another key under the right name": (
        lambda c: c.transmitter.sign(c.transmitter.claims(subject=by_id(c)), key=ECKey.generate_key("P-256")),
        "invalid_key",
    ),
    "an unknown key": (with_header(kid="unknown"), "invalid_key"),
    "no type": (with_header(typ=None), "invalid_request"),
    "the type of a logout token": (with_header(typ="logout+jwt"), "invalid_request"),
    "the type of an ID token": (with_header(typ="JWT"), "invalid_request"),
    "another issuer": (changed(iss="https://evil.example"), "invalid_issuer"),
    "no issuer": (changed(iss=None), "invalid_issuer"),
    "another audience": (changed(aud="https://other.example"), "invalid_audience"),
    "our client_id as the audience": (changed(aud="bastion"), "invalid_audience"),
    "no audience": (changed(aud=None), "invalid_audience"),
    "without a jti": (changed(jti=None), "invalid_request"),
    "without a time": (changed(iat=None), "invalid_request"),
    "of the future": (moved(61), "invalid_request"),
    "older than a day": (moved(-86_401), "invalid_request"),
    "over": (changed(exp=1), "invalid_request"),
    "with a sub, as an access token": (changed(sub="alice"), "invalid_request"),
    "with a nonce, as an ID token": (changed(nonce="n"), "invalid_request"),
    "without events": (changed(events=None), "invalid_request"),
    "no events in it": (changed(events={}), "invalid_request"),
    "events as a list": (changed(events=[SESSION_REVOKED]), "invalid_request"),
    "an event that is no object": (changed(events={SESSION_REVOKED: True}), "invalid_request"),
    "about nobody": (changed(sub_id=None), "invalid_request"),
    "not a token": (lambda c: "a.b.c", "invalid_request"),
    "nothing": (lambda c: "", "invalid_request"),
}


@pytest.mark.parametrize(("forge", "code"), FORGERIES.values(), ids=FORGERIES)
async def test_a_token_that_is_no_event_for_us_ends_nobody_and_its_sender_is_told_why(
    console: Console, forge: Callable[[Console], str], code: str
) -> None:
    token = await log_in(console)
    assert await push(console, forge(console)) == (400, code)
    assert await is_in(console, token)


async def test_an_event_about_two_ends_nobody(console: Console) -> None:
    claims = console.transmitter.claims(subject=by_id(console))
    claims["events"][SESSION_REVOKED]["subject"] = by_id(console) | {"sub": "bob"}
    assert await push(console, console.transmitter.sign(claims)) == (400, "invalid_request")


@pytest.mark.parametrize("bearer", [None, "", "wrong", f"{BEARER} ", "schlüssel"])
async def test_a_stranger_who_has_a_good_token_is_not_listened_to(console: Console, bearer: str | None) -> None:
    token = await log_in(console)
    sent = console.transmitter.sign(console.transmitter.claims(subject=by_id(console)))
    if bearer is not None and bearer.strip() == BEARER:
        assert (await push(console, sent, bearer=bearer))[0] == 202, "space around it is none of it"
        return
    assert await push(console, sent, bearer=bearer) == (401, "authentication_failed")
    assert await is_in(console, token)


async def test_an_event_is_sent_as_what_it_is(console: Console) -> None:
    sent = console.transmitter.sign(console.transmitter.claims(subject=by_id(console)))
    for content_type in ("application/json", "text/plain", "application/jwt"):
        assert await push(console, sent, content_type=content_type) == (400, "invalid_request")
    assert AUDIENCE in console.transmitter.claims()["aud"]
