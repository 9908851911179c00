"""What every store promises of ended identities and kept logins, on SQLite and on PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest

from bastion.adapters.store import SqlStore
from bastion.core.apitoken import ApiToken, Use
from bastion.core.errors import Conflict, NotFound
from bastion.core.identity import Identity, IdentityId, IdentityKind, Strength
from bastion.ports import KeptLogin

NOW = datetime(2026, 3, 2, 9, 0, 0, 123456, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ALICE = IdentityId("https://login.example.com", "alice")
BOB = IdentityId("https://login.example.com", "bob")


def kept(who: IdentityId = ALICE, sid: str = "sid-1", sealed: bytes | None = b"\x00\xffsealed") -> KeptLogin:
    return KeptLogin(who, sid, sealed, NOW, NOW, NOW)


async def keep(store: SqlStore, *logins: KeptLogin) -> None:
    async with store.transaction() as transaction:
        for login in logins:
            await transaction.keep_login(login)


async def save(store: SqlStore, who: IdentityId, seen_at: datetime = NOW) -> None:
    async with store.transaction() as transaction:
        await transaction.save_identity(Identity(who, None, None, frozenset(), IdentityKind.PERSON, NOW), seen_at)


async def end(store: SqlStore, who: IdentityId, at: datetime) -> bool:
    async with store.transaction() as transaction:
        return await transaction.end_identity(who, at)


async def test_an_end_stands_through_the_next_login_and_never_moves_back(store: SqlStore) -> None:
    await save(store, ALICE)
    await save(store, BOB)
    assert await store.ended_at(ALICE) is None
    assert await end(store, ALICE, NOW)
    await save(store, ALICE, NOW + MINUTE)
    assert await end(store, ALICE, NOW - MINUTE)
    assert await store.ended_at(ALICE) == NOW
    assert await end(store, ALICE, NOW + MINUTE)
    assert await store.ended_at(ALICE) == NOW + MINUTE
    assert await store.ended_at(BOB) is None


async def test_an_identity_is_vouched_for_by_a_login_or_a_later_answer_until_it_is_ended(store: SqlStore) -> None:
    assert await store.confirmed_at(ALICE) is None
    await save(store, ALICE)
    assert await store.confirmed_at(ALICE) == NOW
    await keep(store, kept(), kept(BOB, "sid-2"))
    async with store.transaction() as transaction:
        await transaction.ask_again(kept(), asked_at=NOW, confirmed_at=NOW + 2 * MINUTE, sealed=b"next")
    assert await store.confirmed_at(ALICE) == NOW + 2 * MINUTE
    assert await end(store, ALICE, NOW + 3 * MINUTE)
    assert await store.confirmed_at(ALICE) is None
    await save(store, ALICE, NOW + 3 * MINUTE)
    assert await store.confirmed_at(ALICE) is None
    await save(store, ALICE, NOW + 4 * MINUTE)
    assert await store.confirmed_at(ALICE) == NOW + 4 * MINUTE


def api_token(token_id: str = "t-000000000001", owner: IdentityId = ALICE, made_at: datetime = NOW) -> ApiToken:
    return ApiToken(
        token_id, owner, "nightly", frozenset({Use.READ, Use.AUDIT}), ip_network("2001:db8::/64"), b"\x00\xff" * 16,
        Strength(NOW - MINUTE, frozenset({"mfa"}), "urn:example:mfa"), made_at, made_at + MINUTE,
    )  # fmt: skip


async def test_a_token_is_read_as_it_was_made_revoked_once_and_forgotten(store: SqlStore) -> None:
    first, second, bobs = api_token(), api_token("t-2", made_at=NOW + MINUTE), api_token("t-3", BOB)
    async with store.transaction() as transaction:
        for token in (first, second, bobs):
            await transaction.add_api_token(token)
        with pytest.raises(Conflict):
            await transaction.add_api_token(first)
    assert await store.api_tokens_of(ALICE) == [second, first]
    async with store.transaction() as transaction:
        await transaction.revoke_api_token(first.id, NOW)
        await transaction.revoke_api_token(first.id, NOW + MINUTE)
    assert await store.api_token(first.id) == replace(first, revoked_at=NOW)
    async with store.transaction() as transaction:
        await transaction.forget_api_tokens(NOW + 2 * MINUTE)
    assert await store.api_tokens_of(ALICE) == [second]
    with pytest.raises(NotFound):
        await store.api_token(first.id)


async def test_nobody_is_ended_who_is_not_known(store: SqlStore) -> None:
    assert not await end(store, ALICE, NOW)
    assert await store.ended_at(ALICE) is None


async def test_an_end_forgets_the_kept_logins_of_that_identity_alone(store: SqlStore) -> None:
    await save(store, ALICE)
    await keep(store, kept(), kept(BOB, "sid-2"))
    await end(store, ALICE, NOW)
    assert await store.login_of(ALICE) is None
    assert await store.whose_login(ALICE.issuer, "sid-1") is None
    assert await store.login_of(BOB) == kept(BOB, "sid-2")


async def test_a_newer_login_takes_over_and_the_older_one_is_still_known_by_its_sid(store: SqlStore) -> None:
    newer = replace(kept(sid="sid-2"), at=NOW + MINUTE, asked_at=NOW + MINUTE)
    await keep(store, kept(), newer)
    assert await store.login_of(ALICE) == newer
    assert await store.whose_login(ALICE.issuer, "sid-1") == ALICE
    assert await store.logins_to_ask(ALICE.issuer, NOW + 2 * MINUTE) == [newer]


async def test_a_sid_is_its_issuers_own_and_an_ambiguous_or_empty_one_is_nobodys(store: SqlStore) -> None:
    await keep(store, kept(), kept(BOB), kept(sid=""))
    assert await store.whose_login(ALICE.issuer, "sid-1") is None
    assert await store.whose_login(ALICE.issuer, "") is None
    assert await store.whose_login("https://other.example.com", "sid-1") is None


async def test_logins_are_asked_about_longest_ago_first_and_only_with_something_to_ask_with(store: SqlStore) -> None:
    silent, early = replace(kept(sid="sid-2"), asked_at=None), replace(kept(BOB), asked_at=NOW - MINUTE)
    await keep(store, kept(), early)
    assert await store.logins_to_ask(ALICE.issuer, NOW + MINUTE) == [early, kept()]
    assert await store.logins_to_ask(ALICE.issuer, NOW) == [early]
    await keep(store, silent)
    assert await store.logins_to_ask(ALICE.issuer, NOW + MINUTE) == [early]


async def test_of_two_who_ask_about_a_login_one_has_it(store: SqlStore) -> None:
    await keep(store, kept())
    answers = []
    for _ in range(2):
        async with store.transaction() as transaction:
            moved = await transaction.ask_again(kept(), asked_at=NOW + MINUTE, confirmed_at=NOW, sealed=b"next")
            answers.append(moved)
    assert answers == [True, False]
    assert await store.login_of(ALICE) == replace(kept(sealed=b"next"), asked_at=NOW + MINUTE)


async def test_an_answer_about_a_login_that_was_replaced_changes_nothing(store: SqlStore) -> None:
    await keep(store, kept(), kept(sealed=b"another"))
    async with store.transaction() as transaction:
        assert not await transaction.ask_again(kept(), asked_at=NOW, confirmed_at=NOW, sealed=b"stale")
    assert await store.login_of(ALICE) == kept(sealed=b"another")


async def test_old_logins_are_forgotten(store: SqlStore) -> None:
    await keep(store, kept(), replace(kept(BOB, "sid-2"), at=NOW + MINUTE))
    async with store.transaction() as transaction:
        await transaction.forget_logins(NOW + MINUTE)
    assert await store.login_of(ALICE) is None
    assert await store.login_of(BOB) is not None
