"""Issuers are asked again: who is refused ends, who was replaced meanwhile does not, and silence is no answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from bastion.access.endings import Endings
from bastion.access.freshness import FRESH_FOR, KEPT_FOR, Asked, Freshness
from bastion.access.keeping import Keeping
from bastion.adapters.coordination.memory import MemoryCoordination
from bastion.adapters.seal import FileSeal
from bastion.adapters.store import SqlStore, open_store
from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.ending import Cause
from bastion.core.errors import Unauthenticated, Unavailable
from bastion.core.identity import ClaimMapping, Identity, IdentityId, IdentityKind, Proof, Renewal, VerifiedClaims
from tests.fakes import FakeClock

ISSUER = "https://login.example.com"
ALICE, BOB = IdentityId(ISSUER, "alice"), IdentityId(ISSUER, "bob")
INTERVAL = timedelta(minutes=5)


class Issuer:
    """Answers what it is told to, and counts the questions."""

    issuer = ISSUER

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answer: Callable[[str], Awaitable[Renewal]] = self.stands_by

    async def renew(self, refresh_token: str, subject: str) -> Renewal:
        self.asked.append((subject, refresh_token))
        return await self.answer(subject)

    async def stands_by(self, subject: str) -> Renewal:
        return Renewal(None, refresh_token=f"next of {subject}")

    async def refuses(self, subject: str) -> Renewal:
        raise Unauthenticated("no", detail="invalid_grant")

    async def is_away(self, subject: str) -> Renewal:
        raise Unavailable("away")


class House:
    """What the checks work on."""

    def __init__(self, store: SqlStore, clock: FakeClock, folder: Path) -> None:
        self.store, self.clock, self.issuer = store, clock, Issuer()
        self.keeping = Keeping(seal=FileSeal(folder / "logins"))
        coordination = MemoryCoordination(clock=clock)
        parts = {"store": store, "coordination": coordination, "clock": clock, "node": "node-1"}
        self.freshness = Freshness(
            issuers=[Asked(self.issuer, ClaimMapping(), INTERVAL)],
            endings=Endings(**parts),  # type: ignore[arg-type]  # each has its own type
            keeping=self.keeping,
            **parts,  # type: ignore[arg-type]  # the same
        )

    async def log_in(self, who: IdentityId = ALICE, refresh_token: str | None = "first") -> None:
        now = self.clock.now()
        proof = Proof(VerifiedClaims(who.issuer, who.subject, {}, now), "id-token", refresh_token)
        async with self.store.transaction() as transaction:
            await transaction.save_identity(Identity(who, None, None, frozenset({"a"}), IdentityKind.PERSON, now), now)
            await transaction.keep_login(self.keeping.login(who, proof, now))

    async def later(self, by: timedelta = INTERVAL + timedelta(seconds=1)) -> None:
        self.clock.advance(by)
        await self.freshness.ask_due()

    async def ends(self) -> list[Event]:
        return list(await self.store.events(EventFilter(kind=Kind.IDENTITY_ENDED.value)))


@pytest.fixture
async def house(tmp_path: Path, clock: FakeClock) -> AsyncIterator[House]:
    store = await open_store(f"sqlite:///{tmp_path}/bastion.db")
    yield House(store, clock, tmp_path)
    await store.close()


async def test_each_login_is_asked_about_once_an_interval_with_the_newest_token(house: House) -> None:
    await house.log_in()
    await house.later(timedelta(minutes=4))
    assert house.issuer.asked == []
    await house.later()
    await house.later(timedelta(minutes=1))
    await house.later()
    assert house.issuer.asked == [("alice", "first"), ("alice", "next of alice")]
    assert await house.ends() == []


async def test_a_login_without_a_refresh_token_is_left_alone(house: House) -> None:
    await house.log_in(refresh_token=None)
    await house.later(FRESH_FOR * 2)
    assert (house.issuer.asked, await house.ends()) == ([], [])


async def test_a_refused_login_is_over_and_is_not_asked_about_again(house: House) -> None:
    await house.log_in()
    house.issuer.answer = house.issuer.refuses
    await house.later()
    await house.later()
    (event,) = await house.ends()
    assert (event.identity, event.reasons) == (ALICE, (Cause.REFUSED.value,))
    assert len(house.issuer.asked) == 1


async def test_a_refusal_of_a_login_that_was_replaced_meanwhile_ends_nobody(house: House) -> None:
    await house.log_in()

    async def logs_in_anew(subject: str) -> Renewal:
        await house.log_in(refresh_token="second")
        raise Unauthenticated("no", detail="invalid_grant")

    house.issuer.answer = logs_in_anew
    await house.later()
    assert await house.ends() == []
    house.issuer.answer = house.issuer.stands_by
    await house.later()
    assert house.issuer.asked[-1] == ("alice", "second")


async def test_an_answer_about_a_login_that_is_no_more_changes_nobody(house: House) -> None:
    await house.log_in()

    async def answers_late(subject: str) -> Renewal:
        async with house.store.transaction() as transaction:
            await transaction.end_identity(ALICE, house.clock.now())
        return Renewal(VerifiedClaims(ISSUER, "alice", {"groups": ["b"]}, house.clock.now()))

    house.issuer.answer = answers_late
    await house.later()
    assert (await house.store.identity(ALICE)).groups == {"a"}
    assert await house.store.login_of(ALICE) is None


async def test_an_issuer_that_is_away_is_asked_one_question_a_turn_and_nobody_ends_for_an_hour(house: House) -> None:
    await house.log_in(ALICE)
    await house.log_in(BOB)
    house.issuer.answer = house.issuer.is_away
    await house.later()
    assert len(house.issuer.asked) == 1
    assert await house.ends() == []
    await house.later(FRESH_FOR)
    assert {event.identity for event in await house.ends()} == {ALICE, BOB}
    assert {event.reasons for event in await house.ends()} == {(Cause.UNCONFIRMED.value,)}


async def test_an_answer_within_the_hour_begins_it_anew(house: House) -> None:
    await house.log_in()
    house.issuer.answer = house.issuer.is_away
    await house.later(FRESH_FOR - timedelta(minutes=1))
    house.issuer.answer = house.issuer.stands_by
    await house.later()
    house.issuer.answer = house.issuer.is_away
    await house.later(FRESH_FOR - timedelta(minutes=1))
    assert await house.ends() == []


async def test_a_login_of_a_month_ago_is_forgotten(house: House) -> None:
    await house.log_in()
    await house.later(KEPT_FOR + timedelta(seconds=1))
    assert (house.issuer.asked, await house.store.login_of(ALICE)) == ([], None)


async def test_what_is_kept_opens_for_its_own_identity_alone(house: House) -> None:
    await house.log_in()
    login = await house.store.login_of(ALICE)
    assert login is not None
    assert login.sealed is not None
    with pytest.raises(Unavailable):
        house.keeping.tokens(type(login)(BOB, login.sid, login.sealed, login.at, login.asked_at, login.confirmed_at))
