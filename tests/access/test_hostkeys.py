"""What targets announce about their host keys counts as far as a configured key vouches for it, and no farther."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from bastion.access.hostkeys import MAX_LEARNED, HostKeys
from bastion.adapters.store import SqlStore, open_store
from bastion.core.audit import EventFilter, Kind
from bastion.core.target import Scope, Target
from tests.fakes import FakeClock

PINNED, NEW, NEWER = "ssh-ed25519 AAAA1", "ssh-ed25519 AAAA2", "ssh-ed25519 AAAA3"
WEB = Target("web-1", Scope("staging", "eu"), "web-1", 22, frozenset({"deploy"}), (f"{PINNED} root@web-1",))
ANNOUNCED = {"by": PINNED, "session_id": "s-1"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = await open_store(f"sqlite:///{tmp_path}/bastion.db")
    yield store
    await store.close()


@pytest.fixture
def keys(store: SqlStore, clock: FakeClock) -> HostKeys:
    return HostKeys(store=store, clock=clock, node="test-1")


async def lines(keys: HostKeys, target: Target = WEB) -> list[str]:
    return [key.line for key in await keys.learned(target)]


async def kinds(store: SqlStore) -> list[Kind]:
    return [event.kind for event in await store.events(EventFilter(kind="hostkey:*"))]


async def test_a_key_that_the_configured_one_vouches_for_is_learned_once(keys: HostKeys, store: SqlStore) -> None:
    for _ in "again and again":
        await keys.announced(WEB, [PINNED, NEW], **ANNOUNCED)
    assert await lines(keys) == [NEW]
    assert await kinds(store) == [Kind.HOSTKEY_LEARNED]


async def test_every_node_knows_it(keys: HostKeys, store: SqlStore, clock: FakeClock) -> None:
    await keys.announced(WEB, [PINNED, NEW], **ANNOUNCED)
    assert await lines(HostKeys(store=store, clock=clock, node="test-2")) == [NEW]


async def test_a_key_that_is_not_announced_any_more_is_forgotten(keys: HostKeys, store: SqlStore) -> None:
    await keys.announced(WEB, [PINNED, NEW], **ANNOUNCED)
    await keys.announced(WEB, [PINNED, NEWER], **ANNOUNCED)
    assert await lines(keys) == [NEWER]
    assert await kinds(store) == [Kind.HOSTKEY_LEARNED, Kind.HOSTKEY_LEARNED, Kind.HOSTKEY_FORGOTTEN]


async def test_a_learned_key_vouches_for_no_other(keys: HostKeys) -> None:
    await keys.announced(WEB, [PINNED, NEW], **ANNOUNCED)
    await keys.announced(WEB, [NEW, NEWER], by=NEW, session_id="s-2")
    assert await lines(keys) == [NEW]


async def test_a_key_ends_with_the_one_that_vouched_for_it(keys: HostKeys) -> None:
    await keys.announced(WEB, [PINNED, NEW], **ANNOUNCED)
    assert await lines(keys, replace(WEB, host_keys=("ssh-ed25519 AAAA4",))) == []


async def test_a_key_that_was_put_into_the_configuration_is_no_longer_learned(keys: HostKeys) -> None:
    await keys.announced(WEB, [PINNED, NEW], **ANNOUNCED)
    assert await lines(keys, replace(WEB, host_keys=(PINNED, NEW))) == []


async def test_keys_of_another_type_or_target_are_nothing(keys: HostKeys) -> None:
    await keys.announced(WEB, [PINNED, "ssh-rsa AAAA2"], **ANNOUNCED)
    assert await lines(keys) == []
    await keys.announced(WEB, [PINNED, NEW], **ANNOUNCED)
    assert await lines(keys, replace(WEB, name="web-2")) == []


async def test_a_host_that_announces_too_many_teaches_nothing(keys: HostKeys) -> None:
    many = [f"ssh-ed25519 AAAB{number}" for number in range(MAX_LEARNED + 1)]
    await keys.announced(WEB, [PINNED, *many], **ANNOUNCED)
    assert await lines(keys) == []
