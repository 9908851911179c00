"""Tokens for scripts, over HTTP: never more than their owner, never for longer or for more than was said."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bastion.access.apitokens import MAX_LIVE
from bastion.console import openapi
from bastion.console.uses import USES, uses_of
from bastion.core.apitoken import Use
from bastion.core.ending import Cause
from tests.fakes import FakeClock
from tests.office import CARLA, LEA, PROD, ROBOT, SAM, WEB, open_office, wish
from tests.office_console import BERLIN_ADDRESS, BOSTON_ADDRESS, NOWHERE_ADDRESS, OfficeConsole, open_console

OTHER_BERLIN = "127.0.0.2"
"""In the same fence, and not where tokens of these tests are made."""

WANTED = {"targets": [WEB], "logins": ["deploy"], "duration": "2h", "reason": "deploy the fix"}


@pytest.fixture
async def console(tmp_path: Path, clock: FakeClock) -> AsyncIterator[OfficeConsole]:
    async with open_office(tmp_path, clock) as office, open_console(office) as console:
        yield console


async def make(console: OfficeConsole, who: Any, *uses: str, **more: str) -> tuple[int, Any]:
    body = {"name": "a test", "uses": list(uses), "duration": "1h", **more}
    return await console.call(who, "POST", "/tokens", body)


async def token(console: OfficeConsole, who: Any, *uses: str, **more: str) -> str:
    status, made = await make(console, who, *uses, **more)
    assert status == 201, made
    return str(made["secret"])


async def test_a_token_does_what_it_is_for_in_its_owners_name_and_every_use_is_in_the_log(
    console: OfficeConsole,
) -> None:
    asking = await token(console, CARLA, "request", "read")
    status, asked = await console.call(asking, "POST", "/requests", WANTED)
    assert (status, asked["request"]["identity"]) == (201, str(CARLA.id))
    reviewing = await token(console, SAM, "review")
    status, answer = await console.call(reviewing, "POST", f"/requests/{asked['request']['id']}/review",
                                        {"verdict": "approve"})  # fmt: skip
    assert (status, answer["status"]) == (200, "granted")
    _, mine = await console.call(asking, "GET", "/access")
    assert [grant["id"] for grant in mine["grants"]] == [answer["grant"]["id"]]
    used = [(event.display, event.details["what"], event.address, event.country)
            for event in await console.office.events("token:used")]  # fmt: skip
    assert used == [
        ("carla@example.com", "POST /api/v1/requests", BERLIN_ADDRESS, "DE"),
        ("sam@example.com", "POST /api/v1/requests/{id}/review", BERLIN_ADDRESS, "DE"),
        ("carla@example.com", "GET /api/v1/access", BERLIN_ADDRESS, "DE"),
    ]
    kinds = await console.office.kinds()
    assert kinds.index("token:used") < kinds.index("request:made"), "written before it is done"


async def test_it_is_shown_once_and_kept_as_a_digest(console: OfficeConsole, tmp_path: Path) -> None:
    secret = (await token(console, CARLA, "read")).rpartition("_")[2]
    status, listed = await console.call(CARLA, "GET", "/tokens")
    assert (status, secret in str(listed), [each["name"] for each in listed["tokens"]]) == (200, False, ["a test"])
    assert secret not in str(await console.office.events())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"a test" in path.read_bytes() for path in files)
    assert not any(secret.encode() in path.read_bytes() for path in files)


@pytest.mark.parametrize("operation", openapi.OPERATIONS, ids=lambda each: f"{each.method} {each.path}")
def test_what_an_operation_takes_of_a_token_is_all_that_makes_it_one_for_tokens(operation: openapi.Operation) -> None:
    """Said of each, so that a new one is for no token until somebody says for which."""
    needed = uses_of(operation.method, f"/api/v1{operation.path}")
    described = openapi.description()["paths"][f"/api/v1{operation.path}"][operation.method]["security"]
    by_token = [each["token"] for each in described if "token" in each]
    assert by_token == ([sorted(needed)] if needed else [])
    is_breaking = (operation.method, operation.path) == ("post", "/break-glass")
    if operation.is_open or is_breaking or operation.path.startswith(("/tokens", "/logout")):
        assert not needed


def test_every_use_is_named_by_an_operation_that_there_is() -> None:
    assert USES.keys() <= {(each.method, each.path) for each in openapi.OPERATIONS}
    assert frozenset[Use]().union(*USES.values()) == frozenset(Use)


HERE = ("/requests", "/grants", "/access", "/break-glass", "/tokens")
GUARDED = [each for each in openapi.OPERATIONS if each.path.startswith(HERE)]
"""What the console of these tests has."""


@pytest.mark.parametrize("operation", GUARDED, ids=lambda each: f"{each.method} {each.path}")
async def test_a_token_that_lacks_a_use_does_nothing_there(
    console: OfficeConsole, operation: openapi.Operation
) -> None:
    """With every use but one of those that are needed; where none would do, with all of them."""
    needed = uses_of(operation.method, f"/api/v1{operation.path}")
    for lacking in needed or {None}:
        text = await token(console, LEA, *(use for use in Use if use is not lacking))
        status, body = await console.call(text, operation.method.upper(), operation.path.replace("{id}", "q-0000"), {})
        assert status == 403, body
        assert ("lacks" if needed else "takes a login") in body["error"]
    assert await console.office.store.grants() == []
    assert len(await console.office.events("token:refused")) == max(len(needed), 1)


async def test_no_token_makes_lists_or_ends_tokens(console: OfficeConsole) -> None:
    text = await token(console, SAM, *Use)
    assert (await make(console, text, "read"))[0] == 403
    assert (await console.call(text, "GET", "/tokens"))[0] == 403
    (mine,) = (await console.call(SAM, "GET", "/tokens"))[1]["tokens"]
    assert (await console.call(text, "POST", f"/tokens/{mine['id']}/revoke", {}))[0] == 403
    assert len((await console.call(SAM, "GET", "/tokens"))[1]["tokens"]) == 1


async def test_the_laws_hold_for_tokens(console: OfficeConsole) -> None:
    """It is its owner who acts, so it approves nothing of theirs and nothing that they may not."""
    carlas, sams = await token(console, CARLA, *Use), await token(console, SAM, *Use)
    _, asked = await console.call(SAM, "POST", "/requests", WANTED)
    review = f"/requests/{asked['request']['id']}/review", {"verdict": "approve"}
    status, body = await console.call(sams, "POST", *review)
    assert (status, "Nobody approves themselves" in body["error"]) == (403, True)
    status, body = await console.call(carlas, "POST", *review)
    assert (status, "No policy permits" in body["error"]) == (403, True)
    assert (await console.call(carlas, "POST", "/grants", {"who": "otto@example.com", **WANTED}))[0] == 403
    assert await console.office.store.grants() == []


async def revoked(console: OfficeConsole) -> None:
    (mine,) = (await console.call(SAM, "GET", "/tokens"))[1]["tokens"]
    for _ in range(2):
        status, body = await console.call(SAM, "POST", f"/tokens/{mine['id']}/revoke", {})
        assert (status, body["revoked_at"] is not None) == (200, True)
    assert len(await console.office.events("token:revoked")) == 1


async def out_of_time(console: OfficeConsole) -> None:
    console.office.clock.advance(timedelta(hours=1))


async def logged_out(console: OfficeConsole) -> None:
    await console.office.end(SAM, Cause.LOGGED_OUT)
    console.office.clock.advance(timedelta(seconds=1))
    await console.office.know(SAM)  # logging in again begins anew, and brings no token back


@pytest.mark.parametrize("end", [revoked, out_of_time, logged_out], ids=lambda end: end.__name__)
async def test_what_is_over_does_nothing_from_that_moment(
    console: OfficeConsole, end: Callable[[OfficeConsole], Awaitable[None]]
) -> None:
    text = await token(console, SAM, "read")
    assert (await console.call(text, "GET", "/access"))[0] == 200
    await end(console)
    status, body = await console.call(text, "GET", "/access")
    assert (status, "is over" in body["error"]) == (401, True)
    assert len(await console.office.events("token:refused")) == 1


async def test_its_owner_is_judged_as_they_are_now(console: OfficeConsole) -> None:
    request = await console.office.approval.request(CARLA, CARLA, wish(), None)
    text = await token(console, SAM, "review")
    await console.office.know(replace(SAM, groups=frozenset()))
    status, _ = await console.call(text, "POST", f"/requests/{request.id}/review", {"verdict": "approve"})
    assert status == 403
    assert await console.office.store.grants() == []


@pytest.mark.parametrize("source", [OTHER_BERLIN, BOSTON_ADDRESS, NOWHERE_ADDRESS])
async def test_it_is_for_the_address_that_it_was_made_from_or_the_network_that_was_said(
    console: OfficeConsole, source: str
) -> None:
    """And the fence is asked besides: the widest network opens no region from outside."""
    pinned = await token(console, SAM, "read")
    status, body = await console.call(pinned, "GET", "/access", source=source)
    said = "Nothing here can be reached" if source == NOWHERE_ADDRESS else "may be used from 127.0.0.1/32 only"
    assert (status, said in body["error"]) == (403, True), body
    wide = await token(console, SAM, "read", network="127.0.0.0/8")
    status, _ = await console.call(wide, "GET", "/access", source=source)
    assert status == (403 if source == NOWHERE_ADDRESS else 200)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"uses": []}, "Say what the token may be used for"),
        ({"uses": ["everything"]}, "'everything' is no use of a token"),
        ({"duration": "13h"}, "13h is not possible: a token lasts from 1m to 12h."),
        ({"duration": "-1h"}, "is not a duration"),
        ({"name": " "}, "A token needs a name"),
        ({"name": "a\x1b[31m"}, "A token needs a name"),
        ({"network": "0.0.0.0/0"}, "Every address is no network"),
    ],
)
async def test_what_no_token_can_be_is_refused(console: OfficeConsole, changes: dict[str, Any], sentence: str) -> None:
    body = {"name": "a test", "uses": ["read"], "duration": "1h", **changes}
    status, answer = await console.call(SAM, "POST", "/tokens", body)
    assert (status, sentence in answer["error"]) == (403, True), answer
    assert (await console.call(SAM, "GET", "/tokens"))[1]["tokens"] == []


async def test_a_workload_makes_none_and_a_person_not_without_end(console: OfficeConsole) -> None:
    status, body = await make(console, ROBOT, "read")
    assert (status, "A workload has no tokens" in body["error"]) == (403, True)
    for _ in range(MAX_LIVE):
        await token(console, SAM, "read")
    status, body = await make(console, SAM, "read")
    assert (status, f"You have {MAX_LIVE} tokens already" in body["error"]) == (403, True)
    console.office.clock.advance(timedelta(hours=1))
    await token(console, SAM, "read")


@pytest.mark.parametrize("spoil", [
    lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"),
    lambda text: text[:-1],
    lambda text: text.replace("bastion_", "bastion_0", 1),
    lambda text: "bastion_000000000000_" + text.rpartition("_")[2],
    lambda text: "bastion_",
], ids=["another secret", "cut", "longer", "another id", "nothing"])  # fmt: skip
async def test_what_is_not_quite_a_token_is_none(console: OfficeConsole, spoil: Callable[[str], str]) -> None:
    status, body = await console.call(spoil(await token(console, SAM, "read")), "GET", "/access")
    assert (status, body["error"]) == (401, "This is no token of this bastion.")


async def test_somebody_elses_token_is_not_there(console: OfficeConsole) -> None:
    _, made = await make(console, SAM, "read")
    status, _ = await console.call(LEA, "POST", f"/tokens/{made['id']}/revoke", {})
    assert status == 404
    assert (await console.call(LEA, "GET", "/tokens"))[1]["tokens"] == []
    assert (await console.call(made["secret"], "GET", "/access"))[0] == 200


async def test_no_grant_is_made_when_the_use_cannot_be_written(console: OfficeConsole, tmp_path: Path) -> None:
    """Law 5: what is not in the log is not done."""
    text = await token(console, SAM, "request", "review")
    with sqlite3.connect(tmp_path / "office.sqlite") as database:
        database.execute(
            "CREATE TRIGGER away BEFORE INSERT ON events WHEN NEW.kind = 'token:used' "
            "BEGIN SELECT RAISE(FAIL, 'full'); END"
        )
    body = {"who": "carla@example.com", "targets": [PROD], "logins": ["deploy"], "duration": "1h", "reason": "a test"}
    assert (await console.call(text, "POST", "/grants", body))[0] == 409
    assert await console.office.store.grants() == []
