"""Notices as signed requests: what a receiver checks by the specification, and what happens when it does not answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from bastion.access.outbox import Outbox
from bastion.chatops.webhook import Webhook, signing_key
from bastion.core.grant import Verdict
from tests.chatops.counter import serving
from tests.fakes import FakeClock
from tests.office import CARLA, NODE, SAM, Office, open_office, wish

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@dataclass(slots=True)
class Receiver:
    """Takes what is sent to it, when it is up, and refuses what is not signed."""

    status: int = 200
    taken: list[tuple[Mapping[str, str], bytes]] = field(default_factory=list)
    tries: int = 0
    astray: int = 0
    """Requests that followed a redirect."""

    async def take(self, request: web.Request) -> web.Response:
        raw, self.tries = await request.read(), self.tries + 1
        signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + raw
        expected = base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
        assert request.headers["webhook-signature"] == f"v1,{expected}"
        if self.status == 200:
            self.taken.append((request.headers, raw))
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})

    async def elsewhere(self, request: web.Request) -> web.Response:
        self.astray += 1
        return web.Response()

    @property
    def bodies(self) -> list[dict[str, object]]:
        return [json.loads(raw) for _, raw in self.taken]


@pytest.fixture
async def office(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Office]:
    async with open_office(tmp_path, clock) as office:
        yield office


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
async def outbox(office: Office, receiver: Receiver) -> AsyncIterator[Outbox]:
    routes = [web.post("/hook", receiver.take), web.route("*", "/elsewhere", receiver.elsewhere)]
    async with serving(routes) as url, aiohttp.ClientSession() as session:
        hook = Webhook(
            url=f"{url}/hook", key=signing_key(SECRET), session=session, store=office.store, clock=office.clock
        )
        yield Outbox(
            store=office.store, coordination=office.coordination, ways={"hook": hook}, clock=office.clock, node=NODE
        )


async def test_what_happens_is_sent_signed_with_its_subject_and_its_words(
    office: Office, receiver: Receiver, outbox: Outbox
) -> None:
    request = await office.approval.request(CARLA, CARLA, wish(), None)
    await office.approval.review(request.id, SAM, Verdict.APPROVE, None)
    while await outbox.tell_due():
        pass
    asked, granted = receiver.bodies
    assert asked["type"] == "access.asked"
    assert asked["timestamp"] == "2026-03-02T09:00:00+00:00"
    data = asked["data"]
    assert isinstance(data, dict)
    assert (data["request_id"], data["who"], data["targets"], data["reason"]) == (
        request.id,
        "carla@example.com",
        ["web-1.staging.eu"],
        "deploy the fix",
    )
    assert granted["type"] == "access.granted"


@pytest.mark.parametrize("status", [500, 301, 404], ids=str)
async def test_what_is_not_taken_is_sent_again_later_under_the_same_id(
    office: Office, receiver: Receiver, outbox: Outbox, status: int
) -> None:
    receiver.status = status
    await office.approval.request(CARLA, CARLA, wish(), None)
    await outbox.tell_due()
    await outbox.tell_due()
    assert receiver.tries == 1  # not at once
    receiver.status = 200
    office.clock.advance(timedelta(seconds=5))
    await outbox.tell_due()
    await outbox.tell_due()
    assert (receiver.tries, len(receiver.taken), receiver.astray) == (2, 1, 0)
    headers, _ = receiver.taken[0]
    assert headers["webhook-timestamp"] == str(int(office.clock.now().timestamp()))


async def test_two_notices_have_two_ids(office: Office, receiver: Receiver, outbox: Outbox) -> None:
    for _ in range(2):
        await office.approval.request(CARLA, CARLA, wish(), None)
    await outbox.tell_due()
    assert len({headers["webhook-id"] for headers, _ in receiver.taken}) == 2


@pytest.mark.parametrize("secret", ["", "x", "whsec_", "whsec_!!!", "whsec_" + base64.b64encode(b"x" * 23).decode()])
def test_a_weak_secret_signs_nothing(secret: str) -> None:
    with pytest.raises(ValueError, match="secret"):
        signing_key(secret)
