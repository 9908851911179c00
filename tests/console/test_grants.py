"""The JSON API of requests and grants, as every kind of caller and from every kind of place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bastion.core.identity import Identity
from tests.fakes import FakeClock
from tests.office import CARLA, FAR, LEA, NARROW, OTTO, PROD, SAM, SIA, WEB, narrowed, open_office, wish
from tests.office_console import BOSTON_ADDRESS, NOWHERE_ADDRESS, OfficeConsole, open_console


@pytest.fixture
async def console(tmp_path: Path, clock: FakeClock) -> AsyncIterator[OfficeConsole]:
    async with open_office(tmp_path, clock) as office, open_console(office) as console:
        yield console


def asked(**changes: Any) -> dict[str, Any]:
    body = {"targets": [WEB], "logins": ["deploy"], "duration": "2h", "reason": "deploy the fix"}
    return body | changes


async def test_a_grant_in_one_step(console: OfficeConsole) -> None:
    status, answer = await console.call(SAM, "POST", "/grants", asked(who="carla@example.com"))
    grant_id = answer["grant"]["id"]
    assert status == 201
    assert answer["status"] == "granted"
    assert answer["text"] == (
        "carla@example.com may use web-1.staging.eu as deploy until 2026-03-02 11:00 UTC (2h).\n"
        "Reason: deploy the fix\n"
        f"Grant {grant_id}, approved by sam@example.com."
    )
    assert answer["grant"] == {
        "id": grant_id,
        "request": answer["request"]["id"],
        "identity": "https://login.example.com#carla",
        "display": "carla@example.com",
        "scope": "staging/eu",
        "targets": [WEB],
        "logins": ["deploy"],
        "actions": ["ssh:exec", "ssh:forward_loopback", "ssh:sftp_read", "ssh:sftp_write", "ssh:shell"],
        "reason": "deploy the fix",
        "crossing": False,
        "starts_at": "2026-03-02T09:00:00+00:00",
        "ends_at": "2026-03-02T11:00:00+00:00",
        "approved_by": ["https://login.example.com#sam"],
        "basis": "reviewed",
        "network": None,
        "paths": [],
        "revoked_at": None,
    }
    event = (await console.office.events("grant:approved"))[0]
    assert (event.address, event.country, event.actor) == ("127.0.0.1", "DE", SAM.id)


async def test_a_request_and_what_is_granted_are_as_narrow_as_they_were_asked_for(console: OfficeConsole) -> None:
    narrow = {"logins": ["admin"], "actions": ["ssh:sftp_read"], "paths": ["/var/log/"], "network": "192.0.2.0/24"}
    _, answer = await console.call(CARLA, "POST", "/requests", asked(**narrow))
    assert narrowed(await console.office.store.request(answer["request"]["id"])) == NARROW
    _, answer = await console.call(SAM, "POST", "/grants", asked(who="carla@example.com", **narrow))
    assert narrowed(await console.office.store.grant(answer["grant"]["id"])) == NARROW
    assert {name: answer["grant"][name] for name in narrow} == narrow


async def test_request_review_access_revoke(console: OfficeConsole) -> None:
    status, answer = await console.call(CARLA, "POST", "/requests", asked(targets=[PROD]))
    assert status == 201
    request_id = answer["request"]["id"]
    assert answer["request"]["approvals"] == 2
    assert answer["request"]["reviewers"] == ["sre"]

    _, listed = await console.call(SAM, "GET", "/requests")
    assert [(each["id"], each["answerable"]) for each in listed["requests"]] == [(request_id, True)]

    review = f"/requests/{request_id}/review"
    status, answer = await console.call(SAM, "POST", review, {"verdict": "approve"})
    assert (status, answer["status"], answer["missing"]) == (200, "waiting", 1)
    status, answer = await console.call(SIA, "POST", review, {"verdict": "approve"})
    assert (status, answer["status"]) == (200, "granted")
    grant_id = answer["grant"]["id"]

    _, mine = await console.call(CARLA, "GET", "/access")
    assert [grant["id"] for grant in mine["grants"]] == [grant_id]
    _, all_of_them = await console.call(SAM, "GET", "/grants")
    assert [grant["display"] for grant in all_of_them["grants"]] == ["carla@example.com"]

    for _ in range(2):
        status, answer = await console.call(CARLA, "POST", f"/grants/{grant_id}/revoke", {})
        assert (status, answer["grants"][0]["revoked_at"]) == (200, "2026-03-02T09:00:00+00:00")
    _, mine = await console.call(CARLA, "GET", "/access")
    assert mine == {"grants": [], "text": "You have no live grant."}


async def test_revoking_by_person_and_target(console: OfficeConsole) -> None:
    await console.office.approval.grant(SAM, CARLA, wish(), None)
    status, answer = await console.call(SIA, "POST", "/grants/revoke", {"who": "carla@example.com", "target": WEB})
    assert (status, len(answer["grants"])) == (200, 1)
    status, answer = await console.call(SIA, "POST", "/grants/revoke", {"who": "carla@example.com", "target": PROD})
    assert (status, answer) == (404, {"error": "carla@example.com has no grant for web-1.production.eu."})


async def test_refusing_closes_the_request(console: OfficeConsole) -> None:
    _, answer = await console.call(CARLA, "POST", "/requests", asked())
    review = f"/requests/{answer['request']['id']}/review"
    status, answer = await console.call(SAM, "POST", review, {"verdict": "refuse"})
    assert (status, answer["status"], answer["reason"]) == (200, "refused", "it was refused by sam@example.com")
    status, answer = await console.call(SIA, "POST", review, {"verdict": "approve"})
    assert status == 409


ROUTES = [
    ("GET", "/grants", None),
    ("GET", "/requests", None),
    ("GET", "/access", None),
    ("POST", "/grants", asked(who="carla@example.com")),
    ("POST", "/requests", asked()),
    ("POST", "/grants/revoke", {"who": "carla@example.com", "target": WEB}),
    ("POST", "/grants/g-000000000000/revoke", {}),
    ("POST", "/requests/q-000000000000/review", {"verdict": "approve"}),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES, ids=lambda value: value if isinstance(value, str) else "")
async def test_nobody_gets_nothing(console: OfficeConsole, method: str, path: str, body: Any) -> None:
    assert (await console.call(None, method, path, body))[0] == 401
    assert (await console.call(SAM, method, path, body, source=NOWHERE_ADDRESS))[0] == 403
    assert await console.office.store.grants() == []


async def test_people_see_and_do_only_what_is_theirs(console: OfficeConsole) -> None:
    await console.office.approval.grant(SAM, CARLA, wish(), None)
    (grant,) = await console.office.store.grants()
    request = await console.office.approval.request(CARLA, CARLA, wish(PROD), None)
    assert (await console.call(OTTO, "GET", "/grants"))[1]["grants"] == []
    assert (await console.call(OTTO, "GET", "/requests"))[1]["requests"] == []
    assert (await console.call(OTTO, "GET", "/access"))[1]["grants"] == []
    for path, body in (
        (f"/grants/{grant.id}/revoke", {}),
        (f"/requests/{request.id}/review", {"verdict": "approve"}),
        (f"/requests/{request.id}/review", {"verdict": "refuse"}),
        ("/grants/revoke", {"who": str(CARLA.id), "target": WEB}),
        ("/grants", asked(who="carla@example.com")),
    ):
        status, answer = await console.call(OTTO, "POST", path, body)
        assert (status, set(answer)) == (403, {"error"}), path
    assert (await console.office.store.grant(grant.id)).revoked_at is None
    assert len(await console.office.store.grants()) == 1


async def test_who_exists_is_not_told_to_those_who_may_not_grant(console: OfficeConsole) -> None:
    answers = [
        await console.call(CARLA, "POST", "/grants", asked(who=who)) for who in ("sam@example.com", "no@example.com")
    ]
    sentence = "Only those who review or administer a scope may name somebody else."
    assert answers == [(403, {"error": sentence})] * 2


async def test_place_is_asked_of_the_region_and_not_of_any(console: OfficeConsole) -> None:
    """From Boston the US can be reached: that opens nothing, and shows nothing, of the EU."""
    await console.office.approval.grant(SAM, CARLA, wish(), None)
    await console.office.approval.grant(SAM, CARLA, wish(FAR), None)
    request = await console.office.approval.request(CARLA, CARLA, wish(PROD), None)
    european = next(grant for grant in await console.office.store.grants() if grant.scope.region == "eu")

    for path in ("/grants", "/access"):
        _, answer = await console.call(CARLA, "GET", path, source=BOSTON_ADDRESS)
        assert [grant["scope"] for grant in answer["grants"]] == ["staging/us"]
    _, answer = await console.call(SAM, "GET", "/requests", source=BOSTON_ADDRESS)
    assert answer["requests"] == []
    attempts: list[tuple[Identity, str, dict[str, Any]]] = [
        (SAM, "/grants", asked(who="carla@example.com")),
        (CARLA, "/requests", asked()),
        (SAM, f"/grants/{european.id}/revoke", {}),
        (SAM, f"/requests/{request.id}/review", {"verdict": "approve"}),
        (SAM, "/grants/revoke", {"who": "carla@example.com", "target": WEB}),
    ]
    for who, path, body in attempts:
        status, answer = await console.call(who, "POST", path, body, source=BOSTON_ADDRESS)
        assert status == 403, path
        assert "region eu cannot be reached from there" in answer["error"], path
    status, _ = await console.call(SAM, "POST", "/grants", asked(who="carla@example.com", targets=[FAR]),
                                   source=BOSTON_ADDRESS)  # fmt: skip
    assert status == 201


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(asked(extra=1), 400, id="unknown key"),
        pytest.param({"targets": [WEB]}, 400, id="missing keys"),
        pytest.param([], 400, id="no object"),
        pytest.param(asked(targets=WEB), 400, id="targets is text"),
        pytest.param(asked(targets=[1]), 400, id="targets are numbers"),
        pytest.param(asked(logins=[["deploy"]]), 400, id="logins are lists"),
        pytest.param(asked(duration=7200), 400, id="duration is a number"),
        pytest.param(asked(duration=float("nan")), 400, id="duration is NaN"),
        pytest.param(asked(reason=None), 400, id="reason is null"),
        pytest.param(asked(crossing="yes"), 400, id="crossing is text"),
        pytest.param(asked(duration="NaN"), 403, id="duration says NaN"),
        pytest.param(asked(duration="0m"), 403, id="zero"),
        pytest.param(asked(duration="-1h"), 403, id="negative"),
        pytest.param(asked(duration="999d"), 403, id="huge"),
        pytest.param(asked(targets=[]), 403, id="no target"),
        pytest.param(asked(targets=["web-1"]), 403, id="ambiguous"),
        pytest.param(asked(targets=["nowhere"]), 404, id="unknown target"),
        pytest.param(asked(reason="\x1b[2J"), 403, id="escape sequence"),
        pytest.param(asked(reason="\ud800"), 403, id="half a character"),
        pytest.param(asked(targets=["\ud800"]), 404, id="half a character as a target"),
        pytest.param(asked(reason="x" * 70_000), 413, id="too large"),
    ],
)
async def test_a_body_that_is_not_a_request_is_refused(console: OfficeConsole, body: Any, status: int) -> None:
    answered, answer = await console.call(CARLA, "POST", "/requests", body)
    assert (answered, set(answer)) == (status, {"error"})
    assert answer["error"].isprintable()


async def test_a_verdict_is_one_of_two_words(console: OfficeConsole) -> None:
    for verdict in ("yes", "APPROVE", "", 1, None, ["approve"]):
        status, _ = await console.call(SAM, "POST", "/requests/q-0/review", {"verdict": verdict})
        assert status == 400


async def test_approving_from_two_windows_at_once_gives_one_grant(console: OfficeConsole) -> None:
    _, answer = await console.call(CARLA, "POST", "/requests", asked())
    review = f"/requests/{answer['request']['id']}/review"
    answers = await asyncio.gather(
        *(console.call(who, "POST", review, {"verdict": "approve"}) for who in (SAM, SAM, SIA, LEA))
    )
    assert {status for status, _ in answers} <= {200, 409}
    assert len(await console.office.store.grants()) == 1
