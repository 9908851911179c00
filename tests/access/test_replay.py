"""Who may look back at what, from where; and that looking leaves a trace first."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from bastion.core.audit import EventFilter, Kind
from bastion.core.errors import BastionError, NotFound, Refused
from bastion.core.geofence import Place
from bastion.core.identity import Identity
from bastion.core.session import Session
from tests.archive import (
    AUDITOR,
    CARL,
    FAR_AWAY,
    ON_PRODUCTION,
    OPERATOR,
    OTHERS,
    SESSIONS,
    SHELL,
    STAGING_AUDITOR,
    Archive,
    open_archive,
    viewer,
)
from tests.fakes import FakeClock
from tests.office import AMERICA, BERLIN, BOSTON, CARLA, NOWHERE, OTTO, PRODUCTION, STAGING
from tests.recorded import output, read

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def archive(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Archive]:
    """Empty, and the test's own."""
    async with open_archive(tmp_path, clock) as archive:
        yield archive


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recorded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Archive]:
    """With four sessions and some events, for tests that only look."""
    async with open_archive(tmp_path_factory.mktemp("recorded"), FakeClock()) as archive:
        for of in SESSIONS:
            await archive.recorded(of, of.id.encode())
        await archive.write(None, kind=Kind.NODE_STARTED)
        await archive.write(STAGING, PRODUCTION, AMERICA, None)
        yield archive


async def test_an_auditor_replays_a_session(recorded: Archive) -> None:
    lines = await recorded.replay.transcript(viewer(AUDITOR), SHELL.id)
    assert output(await read(lines)) == b"s-shell"


async def test_a_replay_is_in_the_audit_log_before_its_first_byte(archive: Archive) -> None:
    await archive.recorded(SHELL, b"x")
    await archive.replay.transcript(viewer(AUDITOR), SHELL.id)  # not a line of it was asked for
    (event,) = await archive.events("recording:replayed")
    assert (event.actor, event.identity) == (AUDITOR.id, CARLA.id)
    assert (event.session_id, event.target, event.scope) == (SHELL.id, SHELL.target, SHELL.scope)
    assert (event.address, event.country) == ("192.0.2.1", "DE")
    assert event.reasons == ("permitted by auditors",)


async def test_nothing_is_replayed_when_the_audit_log_cannot_be_written(archive: Archive) -> None:
    await archive.recorded(SHELL, b"x")
    with sqlite3.connect(archive.folder / "archive.sqlite") as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    database.close()
    with pytest.raises(BastionError) as refusal:
        await archive.replay.transcript(viewer(AUDITOR), SHELL.id)
    assert "full" in str(refusal.value)


DENIED = [
    pytest.param(CARLA, BERLIN, SHELL, Refused, "may not replay", id="whose session it was"),
    pytest.param(OPERATOR, BERLIN, SHELL, Refused, "may not replay", id="who administers but does not replay"),
    pytest.param(CARLA, BERLIN, OTHERS, NotFound, "no session 's-", id="another contractor"),
    pytest.param(OTTO, BERLIN, SHELL, NotFound, "no session 's-", id="somebody"),
    pytest.param(STAGING_AUDITOR, BERLIN, ON_PRODUCTION, NotFound, "no session 's-", id="another scope's auditor"),
    pytest.param(AUDITOR, BERLIN, FAR_AWAY, Refused, "region us", id="another region's place"),
    pytest.param(AUDITOR, BOSTON, SHELL, Refused, "region eu", id="outside the fence"),
    pytest.param(AUDITOR, NOWHERE, SHELL, Refused, "not known", id="nowhere"),
]


@pytest.mark.parametrize(("who", "place", "of", "error", "sentence"), DENIED)
async def test_a_recording_is_not_replayed_for(
    recorded: Archive, who: Identity, place: Place, of: Session, error: type[BastionError], sentence: str
) -> None:
    replayed = len(await recorded.events("recording:replayed"))
    with pytest.raises(error, match=sentence):
        await recorded.replay.transcript(viewer(who, place), of.id)
    assert len(await recorded.events("recording:replayed")) == replayed


async def test_what_may_not_be_known_looks_like_what_is_not_there(recorded: Archive) -> None:
    sentences = []
    for name in (OTHERS.id, "s-nothing"):
        with pytest.raises(NotFound) as error:
            await recorded.replay.session(viewer(OTTO), name)
        sentences.append(error.value.public.replace(name, ""))
    assert len(set(sentences)) == 1


@pytest.mark.parametrize(
    ("who", "place", "seen"),
    [
        pytest.param(AUDITOR, BERLIN, {"s-shell", "s-others", "s-production"}, id="auditor in Berlin"),
        pytest.param(AUDITOR, BOSTON, {"s-far"}, id="auditor in Boston"),
        pytest.param(AUDITOR, NOWHERE, set(), id="auditor nowhere"),
        pytest.param(STAGING_AUDITOR, BERLIN, {"s-shell", "s-others"}, id="staging's auditor"),
        pytest.param(OPERATOR, BERLIN, {"s-shell", "s-others", "s-production"}, id="operator"),
        pytest.param(CARLA, BERLIN, {"s-shell", "s-production"}, id="her own"),
        pytest.param(CARLA, BOSTON, {"s-far"}, id="her own, of where she is"),
        pytest.param(CARL, BERLIN, {"s-others"}, id="his own"),
        pytest.param(OTTO, BERLIN, set(), id="nobody's"),
    ],
)
async def test_lists_show(recorded: Archive, who: Identity, place: Place, seen: set[str]) -> None:
    assert {session.id for session in await recorded.replay.sessions(viewer(who, place))} == seen
    assert {session.id for session in await recorded.replay.sessions(viewer(who, place), live=True)} == set()


async def test_a_session_of_a_target_that_is_gone_takes_power_over_the_whole_scope(archive: Archive) -> None:
    gone = replace(SHELL, id="s-gone", target="old-1.staging.eu")
    await archive.recorded(gone, b"x")
    assert output(await read(await archive.replay.transcript(viewer(STAGING_AUDITOR), gone.id))) == b"x"
    with pytest.raises(NotFound):
        await archive.replay.transcript(viewer(OTTO), gone.id)


async def test_a_session_of_a_region_that_is_gone_is_shown_to_nobody(archive: Archive) -> None:
    gone = replace(SHELL, id="s-gone", scope=replace(SHELL.scope, region="moon"))
    await archive.began(gone)
    for who in (AUDITOR, OPERATOR, CARLA):
        with pytest.raises(Refused):
            await archive.replay.transcript(viewer(who), gone.id)
        assert gone.id not in {each.id for each in await archive.replay.sessions(viewer(who))}


@pytest.mark.parametrize(
    ("who", "place", "seen"),
    [
        pytest.param(OPERATOR, BERLIN, ["in staging/eu", "in production/eu", "in None"], id="operator"),
        pytest.param(AUDITOR, BERLIN, ["in staging/eu", "in production/eu"], id="auditor"),
        pytest.param(AUDITOR, BOSTON, ["in staging/us"], id="auditor in Boston"),
        pytest.param(STAGING_AUDITOR, BERLIN, ["in staging/eu"], id="staging's auditor"),
    ],
)
async def test_the_audit_log_shows(recorded: Archive, who: Identity, place: Place, seen: list[str]) -> None:
    for wanted in (EventFilter(), EventFilter(after_seq=1), EventFilter(kind="access:*")):
        found = await recorded.replay.events(viewer(who, place), wanted)
        assert [event.display for event in found.events if event.kind is Kind.ACCESS_DENIED] == seen


@pytest.mark.parametrize("who", [CARLA, OTTO], ids=["contractor", "somebody"])
async def test_the_audit_log_is_not_shown_to(recorded: Archive, who: Identity) -> None:
    with pytest.raises(Refused, match="audit log"):
        await recorded.replay.events(viewer(who), EventFilter())


async def test_the_last_events_are_those_that_may_be_seen(archive: Archive) -> None:
    await archive.write(STAGING, STAGING, *[PRODUCTION] * 20)
    seen = await archive.replay.events(viewer(STAGING_AUDITOR), EventFilter(limit=2))
    assert len(seen.events) == 2
    assert seen.upto == 22  # what was not shown is not looked at again


async def test_pages_of_the_audit_log_leave_nothing_out(archive: Archive) -> None:
    await archive.write(STAGING, *[PRODUCTION, STAGING] * 10)
    seqs: list[int] = []
    after = 1
    while page := (
        seen := await archive.replay.events(viewer(STAGING_AUDITOR), EventFilter(after_seq=after, limit=3))
    ).events:
        seqs += [event.seq for event in page]
        after = seen.upto
    assert seqs == list(range(3, 22, 2))
