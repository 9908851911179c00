"""Logout tokens over HTTP: the right one ends everything, and nothing else that an attacker can make ends anything."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from joserfc.jwk import ECKey

from bastion.access.endings import Endings, Logouts
from bastion.access.keeping import Keeping
from bastion.access.tokens import Audience
from bastion.adapters.oidc.keys import REFETCH_PAUSE
from bastion.adapters.seal import FileSeal
from bastion.core.audit import EventFilter, Kind
from bastion.core.ending import LogoutNotice
from bastion.core.errors import Unavailable
from bastion.core.identity import Identity, IdentityId, IdentityKind
from bastion.demo.browser import ScriptedBrowser
from bastion.ports import KeptLogin, Revocation
from tests.fakes import FakeClock
from tests.services.identity import Console, running_console

EVENT = "http://schemas.openid.net/event/backchannel-logout"


@pytest.fixture
async def console(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Console]:
    async with running_console(tmp_path, clock) as console:
        yield console


def alice(console: Console) -> IdentityId:
    return IdentityId(console.provider.issuer, "alice")


async def log_in(console: Console, who: IdentityId | None = None, sid: str = "sid-1") -> str:
    """A token of somebody's whose login at the issuer is ``sid``."""
    now = console.provider.clock.now()
    identity = Identity(who or alice(console), None, None, frozenset(), IdentityKind.PERSON, now)
    async with console.store.transaction() as transaction:
        await transaction.save_identity(identity, now)
        await transaction.keep_login(KeptLogin(identity.id, sid, None, now, None, now))
    return (await console.tokens.issue(identity, Audience.API)).text


async def is_in(console: Console, token: str) -> bool:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{console.url}/api/v1/whoami", headers={"Authorization": f"Bearer {token}"}) as response,
    ):
        return response.status == 200


async def send(console: Console, token: str, **more: str) -> tuple[int, str]:
    """What an issuer's logout token is answered with."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{console.url}/logout/backchannel", data={"logout_token": token, **more}) as response,
    ):
        return response.status, await response.text()


def claims(console: Console, **changed: Any) -> dict[str, Any]:
    """A logout token's, with changes; None leaves a claim out."""
    now = int(console.provider.clock.now().timestamp())
    said = {
        "iss": console.provider.issuer,
        "sub": "alice",
        "aud": "bastion",
        "iat": now,
        "exp": now + 120,
        "jti": uuid4().hex,
        "events": {EVENT: {}},
        "sid": "sid-1",
    }
    return {name: value for name, value in (said | changed).items() if value is not None}


def logout_token(console: Console, **changed: Any) -> str:
    return console.provider.token(claims(console, **changed), typ="logout+jwt")


async def ends(console: Console) -> int:
    return len(await console.store.events(EventFilter(kind=Kind.IDENTITY_ENDED.value)))


@pytest.mark.parametrize(
    "changed",
    [{}, {"sid": None}, {"sub": None}, {"aud": ["bastion", "other"]}],
    ids=["sub and sid", "sub alone", "sid alone", "also for another client"],
)
async def test_the_issuers_logout_token_ends_everything_of_one_identity(
    console: Console, changed: dict[str, Any]
) -> None:
    token, others = await log_in(console), await log_in(console, IdentityId(console.provider.issuer, "bob"), "sid-2")
    heard = console.coordination.revocations()
    waiting = asyncio.ensure_future(anext(heard))
    await asyncio.sleep(0)
    assert await send(console, logout_token(console, **changed)) == (200, "")
    assert not await is_in(console, token)
    assert await is_in(console, others)
    assert await asyncio.wait_for(waiting, 1) == Revocation(identity=alice(console))
    assert await ends(console) == 1


async def test_logging_in_again_begins_anew(console: Console, clock: FakeClock) -> None:
    old = await log_in(console)
    await send(console, logout_token(console))
    clock.advance(timedelta(milliseconds=1))
    assert await is_in(console, await log_in(console))
    assert not await is_in(console, old)


FORGERIES: dict[str, Callable[[Console], str]] = {
    "another key under the right name": lambda c: c.provider.token(
        claims(c), typ="logout+jwt", key=ECKey.generate_key("P-256")
    ),
    "no type, as an ID token has none": lambda c: c.provider.token(claims(c)),
    "the type of an ID token": lambda c: c.provider.token(claims(c), typ="JWT"),
    "the type of a security event": lambda c: c.provider.token(claims(c), typ="secevent+jwt"),
    "the type of an access token": lambda c: c.provider.token(claims(c), typ="at+jwt"),
    "an issuer that is not ours": lambda c: logout_token(c, iss="https://evil.example"),
    "no issuer": lambda c: logout_token(c, iss=None),
    "another client": lambda c: logout_token(c, aud="other"),
    "no client": lambda c: logout_token(c, aud=None),
    "over": lambda c: logout_token(c, exp=int(c.provider.clock.now().timestamp()) - 61),
    "without an end": lambda c: logout_token(c, exp=None),
    "good for a day": lambda c: logout_token(c, exp=int(c.provider.clock.now().timestamp()) + 86400),
    "of the future": lambda c: logout_token(c, iat=int(c.provider.clock.now().timestamp()) + 61),
    "without a time": lambda c: logout_token(c, iat=None),
    "without a jti": lambda c: logout_token(c, jti=None),
    "a jti that is a list": lambda c: logout_token(c, jti=["x"]),
    "about nobody": lambda c: logout_token(c, sub=None, sid=None),
    "a subject that is a number": lambda c: logout_token(c, sub=7),
    "with a nonce": lambda c: logout_token(c, nonce="n"),
    "without events": lambda c: logout_token(c, events=None),
    "events as text": lambda c: logout_token(c, events=EVENT),
    "another event": lambda c: logout_token(c, events={"https://schemas.openid.net/secevent/x": {}}),
    "an event that is no object": lambda c: logout_token(c, events={EVENT: []}),
    "not a token": lambda c: "a.b.c",
    "empty parts": lambda c: "..",
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
async def test_a_token_that_is_no_logout_token_for_us_logs_nobody_out(
    console: Console, forge: Callable[[Console], str]
) -> None:
    token = await log_in(console)
    status, answer = await send(console, forge(console))
    assert (status, '"invalid_request"' in answer) == (400, True), answer
    assert await is_in(console, token)
    assert await ends(console) == 0


async def test_for_the_token_of_an_issuer_that_is_not_ours_no_other_is_asked(console: Console) -> None:
    _, answer = await send(console, logout_token(console, iss="https://evil.example"))
    assert "not of an identity provider of this bastion" in answer
    assert console.provider.requests == {}


@pytest.mark.parametrize("alg", ["none", "HS256"])
async def test_a_logout_token_without_the_issuers_signature_logs_nobody_out(console: Console, alg: str) -> None:
    def part(value: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    token, public = await log_in(console), console.provider.key_set()["keys"][0]
    signed = part({"alg": alg, "kid": public["kid"], "typ": "logout+jwt"}) + b"." + part(claims(console))
    mac = hmac.new(json.dumps(public).encode(), signed, hashlib.sha256).digest() if alg == "HS256" else b""
    forged = (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()
    assert (await send(console, forged))[0] == 400
    assert await is_in(console, token)


async def test_a_logout_token_is_used_once(console: Console, clock: FakeClock) -> None:
    await log_in(console)
    used = logout_token(console)
    assert (await send(console, used))[0] == 200
    clock.advance(timedelta(seconds=1))
    again = await log_in(console)
    status, answer = await send(console, used)
    assert (status, "used already" in answer) == (400, True)
    assert await is_in(console, again)
    clock.advance(timedelta(seconds=200))  # it is remembered for longer than it can be used
    assert (await send(console, used))[0] == 400
    assert await is_in(console, again)


async def test_a_logout_that_could_not_be_obeyed_may_come_again(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, sent = await log_in(console), logout_token(console)
    with monkeypatch.context() as broken:

        async def unwell(identity: IdentityId) -> Identity:
            raise Unavailable("The database is away.")

        broken.setattr(console.store, "identity", unwell)
        assert (await send(console, sent))[0] == 503
    assert await is_in(console, token)
    assert await send(console, sent) == (200, "")
    assert not await is_in(console, token)


@dataclass(frozen=True, slots=True)
class SameNumber:
    """An issuer whose every logout token has the number 1."""

    issuer: str
    until: datetime

    async def logout_notice(self, unverified_token: str) -> LogoutNotice:
        return LogoutNotice(self.issuer, "alice", None, "1", self.until)

    async def end_session_url(self, unverified_token: str | None) -> str | None:
        return None


async def test_a_token_of_one_issuer_does_not_use_up_anothers(
    console: Console, clock: FakeClock, tmp_path: Path
) -> None:
    """Both number their tokens as they like; else one could keep the other's people logged in."""
    people = [IdentityId(f"https://{name}.example.com", "alice") for name in ("one", "two")]
    tokens = [await log_in(console, person) for person in people]
    endings = Endings(store=console.store, coordination=console.coordination, clock=clock, node="node-1")
    logouts = Logouts(
        issuers=[SameNumber(person.issuer, clock.now()) for person in people],
        endings=endings,
        keeping=Keeping(seal=FileSeal(tmp_path / "logins")),
        store=console.store,
        coordination=console.coordination,
        clock=clock,
    )
    for person, token in zip(people, tokens, strict=True):
        await logouts.at_issuer(person.issuer, "a token")
        assert not await is_in(console, token)


async def test_a_login_that_is_not_known_is_nothing_to_end(console: Console) -> None:
    token = await log_in(console)
    assert (await send(console, logout_token(console, sub="nobody", sid=None)))[0] == 200
    assert (await send(console, logout_token(console, sub=None, sid="another")))[0] == 200
    assert await is_in(console, token)
    assert await ends(console) == 0


async def test_a_flood_of_unknown_keys_asks_the_issuer_once(console: Console, clock: FakeClock) -> None:
    await send(console, logout_token(console))  # its keys are known now
    before = console.provider.requests["/jwks"]
    for number in range(50):
        stranger = console.provider.token(claims(console), typ="logout+jwt", kid=f"k{number}")
        assert (await send(console, stranger))[0] == 400
    assert console.provider.requests["/jwks"] == before + 1
    clock.advance(REFETCH_PAUSE)
    console.provider.rotate_keys()
    token = await log_in(console)
    assert (await send(console, logout_token(console)))[0] == 200, "a new key is found all the same"
    assert not await is_in(console, token)


NO_FORMS: dict[str, dict[str, Any]] = {
    "JSON": {"json": {"logout_token": "x"}},
    "nothing": {"data": {}},
    "two": {"data": [("logout_token", "a"), ("logout_token", "b")]},
}


@pytest.mark.parametrize("body", NO_FORMS.values(), ids=NO_FORMS)
async def test_what_is_not_one_token_in_a_form_is_refused(console: Console, body: dict[str, Any]) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{console.url}/logout/backchannel", **body) as response,
    ):
        assert response.status == 400


@pytest.mark.parametrize("typ", ["logout+jwt", "secevent+jwt", "at+jwt"])
async def test_no_other_kind_of_token_is_a_login(console: Console, typ: str) -> None:
    """CVE-2024-47616: with every claim of a login in it, a logout token is still not an ID token."""
    console.provider.sign = lambda said: console.provider.token(said, typ=typ)
    page = await asyncio.to_thread(ScriptedBrowser().log_in, f"{console.url}/login", "alice")
    assert (page.status, "could not be verified" in page.text) == (401, True)


async def test_an_untyped_token_about_an_event_is_no_login(console: Console) -> None:
    console.provider.alter_claims = lambda said: said | {"events": {EVENT: {}}}
    page = await asyncio.to_thread(ScriptedBrowser().log_in, f"{console.url}/login", "alice")
    assert page.status == 401
