"""Sessions, recordings and the audit log over HTTP, as everybody who might ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from bastion.core.audit import Kind
from bastion.core.identity import Identity
from bastion.core.session import End
from tests.archive import (
    AMERICAN,
    AUDITOR,
    CARL,
    FAR_AWAY,
    HERE,
    NOWHERE,
    ON_PRODUCTION,
    OPERATOR,
    OTHERS,
    SESSIONS,
    SHELL,
    STAGING_AUDITOR,
    Archive,
    open_archive,
    serving,
)
from tests.fakes import FakeClock
from tests.office import CARLA, OTTO, PRODUCTION, STAGING
from tests.recorded import file_of, until

OUTPUT = (b"$ ", b"ls \xc3", b"\xa9t\xc3\xa9\r\n", b"\xff\x1b]52;c;eA==\x07\r\n")


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(autouse=True)
def _quick_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    """That a listener is gone is found out at the next heartbeat; no test waits ten seconds for one."""
    monkeypatch.setattr("bastion.console.records.HEARTBEAT_SECONDS", 0.3)


@pytest_asyncio.fixture(loop_scope="module")
async def archive(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Archive]:
    """Empty, and the test's own."""
    async with open_archive(tmp_path, clock) as archive, serving(archive) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Archive]:
    """With four sessions, for tests that only look."""
    async with open_archive(tmp_path_factory.mktemp("recorded"), FakeClock()) as archive, serving(archive) as served:
        for of in SESSIONS:
            await served.recorded(of, *OUTPUT)
        yield served


async def next_line(answer: aiohttp.ClientResponse) -> Any:
    """The next line of a stream that is no heartbeat."""
    while not (line := await answer.content.readline()).strip():
        assert line, "the stream has ended"
    return json.loads(line)


async def listed(archive: Archive, who: Identity, query: str = "", *, source: str = HERE) -> list[str]:
    status, body = await archive.get(who, f"/sessions{query}", source=source)
    assert status == 200
    return sorted(each["id"] for each in json.loads(body)["sessions"])


async def test_a_session_is_told_in_full(recorded: Archive) -> None:
    status, body = await recorded.get(AUDITOR, "/sessions/s-shell")
    assert status == 200
    assert json.loads(body) == {
        "id": "s-shell", "state": "ended", "node": "bastion-1", "identity": "https://login.example.com#carla",
        "display": "carla@example.com", "target": "web-1.staging.eu", "scope": "staging/eu", "login": "deploy",
        "action": "ssh:shell", "command": None, "grant": "g-1", "certificate": "7", "address": "192.0.2.1",
        "country": "DE", "started_at": "2026-03-02T09:00:00+00:00", "until": "2026-03-02T11:00:00+00:00",
        "ended_at": "2026-03-02T10:00:00+00:00", "end": "client left", "exit_status": 0,
    }  # fmt: skip


async def test_lists_are_cut_to_what_the_caller_may_see_and_where_from(recorded: Archive) -> None:
    assert await listed(recorded, AUDITOR) == ["s-others", "s-production", "s-shell"]
    assert await listed(recorded, AUDITOR, source=AMERICAN) == ["s-far"]
    assert await listed(recorded, STAGING_AUDITOR) == ["s-others", "s-shell"]
    assert await listed(recorded, CARLA) == ["s-production", "s-shell"]
    assert await listed(recorded, CARL) == ["s-others"]
    assert await listed(recorded, OTTO) == []


async def test_lists_are_narrowed_by_their_filters(recorded: Archive) -> None:
    assert await listed(recorded, AUDITOR, "?identity=carl@") == ["s-others"]
    assert await listed(recorded, AUDITOR, "?target=production") == ["s-production"]
    assert await listed(recorded, AUDITOR, "?live=1") == []
    assert len(await listed(recorded, AUDITOR, "?limit=1&live=0")) == 1


PATHS = ["/sessions", "/sessions/s-shell", "/sessions/s-shell/recording", "/events", "/events?follow=1"]


@pytest.mark.parametrize("path", PATHS)
async def test_nobody_and_nowhere_get_nothing(recorded: Archive, path: str) -> None:
    replayed = len(await recorded.events("recording:replayed"))
    status, body = await recorded.get(None, path)
    assert (status, set(json.loads(body))) == (401, {"error"})
    status, body = await recorded.get(AUDITOR, path, source=NOWHERE)
    assert (status, set(json.loads(body))) == (403, {"error"})
    assert len(await recorded.events("recording:replayed")) == replayed


@pytest.mark.parametrize(
    ("who", "name", "source", "wanted"),
    [
        pytest.param(CARLA, SHELL.id, HERE, 403, id="whose session it was"),
        pytest.param(CARLA, OTHERS.id, HERE, 404, id="another contractor"),
        pytest.param(OTTO, SHELL.id, HERE, 404, id="somebody"),
        pytest.param(OPERATOR, SHELL.id, HERE, 403, id="an administrator"),
        pytest.param(STAGING_AUDITOR, ON_PRODUCTION.id, HERE, 404, id="another scope's auditor"),
        pytest.param(AUDITOR, FAR_AWAY.id, HERE, 403, id="another region's recording"),
        pytest.param(AUDITOR, SHELL.id, AMERICAN, 403, id="from another region"),
        pytest.param(AUDITOR, "..%2f..%2fetc%2fpasswd", HERE, 404, id="no id at all"),
    ],
)
async def test_a_recording_is_not_given_to(
    recorded: Archive, who: Identity, name: str, source: str, wanted: int
) -> None:
    replayed = len(await recorded.events("recording:replayed"))
    for query in ("", "?format=raw", "?format=v2", "?follow=1"):
        status, body = await recorded.get(who, f"/sessions/{name}/recording{query}", source=source)
        assert (status, set(json.loads(body))) == (wanted, {"error"})
    assert len(await recorded.events("recording:replayed")) == replayed


async def test_the_raw_recording_is_the_transcript_to_the_byte(recorded: Archive) -> None:
    replayed = len(await recorded.events("recording:replayed"))
    _, body = await recorded.get(AUDITOR, "/sessions/s-shell/recording?format=raw")
    assert body == b"".join([line async for line in recorded.recordings.transcript(SHELL)])
    assert len(await recorded.events("recording:replayed")) == replayed + 1


@pytest.mark.parametrize(("query", "version"), [("", 3), ("?format=v3", 3), ("?format=v2", 2)])
async def test_an_export_is_for_other_players(recorded: Archive, query: str, version: int) -> None:
    async with recorded.asking(AUDITOR, f"/sessions/s-shell/recording{query}") as response:
        assert response.content_type == "application/x-asciicast"
        lines = [json.loads(line) for line in (await response.text()).splitlines()]
    assert lines[0]["version"] == version
    text = "".join(event[2] for event in lines[1:] if event[1] == "o")
    assert text == b"".join(OUTPUT).decode("utf-8", "replace")


async def test_an_altered_recording_gives_what_is_good_and_then_says_so(archive: Archive) -> None:
    await archive.recorded(SHELL, *OUTPUT)
    path = file_of(archive.folder, SHELL)
    raw = bytearray(path.read_bytes())
    raw[-600] ^= 1
    path.write_bytes(raw)
    lines: list[bytes] = []

    async def receive() -> None:
        async with archive.asking(AUDITOR, "/sessions/s-shell/recording?format=raw") as response:
            while line := await response.content.readline():
                lines.append(line)

    with pytest.raises(aiohttp.ClientPayloadError):
        await receive()
    assert b'"version": 3' in lines[0]
    assert lines[-1].startswith(b"# error: The recording of s-shell was altered at byte ")


async def test_a_recording_that_is_gone_is_an_ordinary_error(archive: Archive) -> None:
    await archive.recorded(SHELL)
    file_of(archive.folder, SHELL).unlink()
    status, body = await archive.get(AUDITOR, "/sessions/s-shell/recording")
    assert (status, json.loads(body)) == (404, {"error": "There is no recording of s-shell here."})


async def test_a_live_recording_is_followed_until_the_session_ends(archive: Archive) -> None:
    await archive.began(SHELL)
    recorder = archive.recordings.start(SHELL, columns=80, rows=24, term="xterm", at=SHELL.started_at)
    async with (
        asyncio.timeout(20),
        archive.asking(AUDITOR, "/sessions/s-shell/recording?follow=1&format=raw") as answer,
    ):
        assert (await next_line(answer))["version"] == 3
        for word in ("one", "two"):
            recorder.output(1, word.encode())
            assert (await next_line(answer))[1:] == ["o", word]
        recorder.finish(2, End.CLIENT, None)
        assert (await answer.content.read()).strip() == b""


# Events ---------------------------------------------------------------------------------------------------------------


async def events(archive: Archive, who: Identity, query: str = "") -> list[dict[str, Any]]:
    status, body = await archive.get(who, f"/events{query}")
    assert status == 200, body
    return [json.loads(line) for line in body.splitlines()]


async def test_events_are_lines_of_json_in_order(archive: Archive) -> None:
    await archive.write(None, kind=Kind.NODE_STARTED)
    await archive.write(STAGING, PRODUCTION)
    found = await events(archive, OPERATOR)
    assert [(event["seq"], event["kind"]) for event in found] == [
        (1, "node:started"), (2, "access:denied"), (3, "access:denied")
    ]  # fmt: skip
    assert [event["seq"] for event in await events(archive, STAGING_AUDITOR)] == [2]


NARROWED = {
    "?kind=access:denied": [2, 3],
    "?kind=access:*": [2, 3],
    "?kind=node": [1],
    "?scope=production/eu": [3],
    "?identity=in+staging": [2],
    "?after_seq=1&limit=1": [2],
    "?limit=1": [3],
    "?since=1h": [1, 2, 3],
    "?since=2026-03-02T09:00:01Z": [],
    "?session=s-1": [],
    "?grant=": [1, 2, 3],
}


async def test_events_are_narrowed_by_their_filters(archive: Archive) -> None:
    await archive.write(None, kind=Kind.NODE_STARTED)
    await archive.write(STAGING, PRODUCTION)
    found = {query: [event["seq"] for event in await events(archive, OPERATOR, query)] for query in NARROWED}
    assert found == NARROWED


@pytest.mark.parametrize("who", [CARLA, OTTO], ids=["contractor", "somebody"])
async def test_the_audit_log_is_not_for(recorded: Archive, who: Identity) -> None:
    for query in ("", "?follow=1"):
        status, body = await recorded.get(who, f"/events{query}")
        assert (status, set(json.loads(body))) == (403, {"error"})


async def test_what_happens_is_followed_as_it_happens(archive: Archive) -> None:
    await archive.write(STAGING)
    async with asyncio.timeout(20), archive.asking(STAGING_AUDITOR, "/events?follow=1") as answer:
        assert (await next_line(answer))["seq"] == 1
        for seq in (3, 5):
            await archive.write(PRODUCTION, STAGING)
            assert (await next_line(answer))["seq"] == seq


async def test_following_an_empty_log_begins_with_what_comes(archive: Archive) -> None:
    async with asyncio.timeout(20), archive.asking(OPERATOR, "/events?follow=1&kind=access") as answer:
        await archive.write(None, kind=Kind.NODE_STARTED)
        await archive.write(STAGING)
        assert (await next_line(answer))["kind"] == "access:denied"


async def test_following_ends_when_nobody_listens_any_more(archive: Archive) -> None:
    before = asyncio.all_tasks()
    async with archive.asking(OPERATOR, "/events?follow=1"):
        assert asyncio.all_tasks() - before
    await until(lambda: not asyncio.all_tasks() - before)


# Malformed ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/sessions?live=maybe", "live is 1 or 0."),
        ("/sessions?limit=0", "limit is a number from 1 to 5000."),
        ("/sessions?limit=-1", "limit is a number from 1 to 5000."),
        ("/sessions?limit=9999999999999999999999", "limit is a number from 1 to 5000."),
        ("/sessions?limit=%D9%A1", "limit is a number from 1 to 5000."),
        ("/sessions?limit=1&limit=2", "limit is there twice."),
        ("/sessions?who=carla", "There is no filter 'who'; there are: live, identity, target, limit."),
        ("/sessions/s-shell?x=1", "There is no filter 'x'; there are: none."),
        ("/sessions/s-shell/recording?format=gif", "format is v2, v3 or raw."),
        ("/events?scope=staging", "scope is written environment/region, like staging/eu."),
        ("/events?since=yesterday", "since is a span like 2h, or an instant like 2026-03-02T09:00:00Z."),
        ("/events?since=2026-03-02T09:00:00", "since is a span like 2h, or an instant like 2026-03-02T09:00:00Z."),
        ("/events?since=99999999999d", "since is a span like 2h, or an instant like 2026-03-02T09:00:00Z."),
        ("/events?after_seq=x", "after_seq is a number from 0 to 9007199254740992."),
        ("/events?kind=access:forgiven", "There is no kind of event 'access:forgiven'; there are: login:succeeded,"),
        ("/events?kind=*", "There is no kind of event '*'"),
    ],
)
async def test_a_filter_that_means_nothing_is_refused(recorded: Archive, path: str, sentence: str) -> None:
    status, body = await recorded.get(OPERATOR, path)
    assert status == 400
    assert json.loads(body)["error"].startswith(sentence)
