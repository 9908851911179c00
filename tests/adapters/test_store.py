"""What every `bastion.ports.Store` promises, held on SQLite and on PostgreSQL by the same tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_network
from typing import get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bastion.adapters.store import SqlStore
from bastion.core import notice as notices
from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.errors import Conflict, NotFound, Refused, Unavailable
from bastion.core.grant import Basis, Grant, Request, Review, Verdict
from bastion.core.hours import Hours
from bastion.core.identity import Identity, IdentityId, IdentityKind, Strength
from bastion.core.policy import Action, Demands
from bastion.core.session import End, Session
from bastion.core.target import Scope
from bastion.core.ticket import TicketPattern
from bastion.ports import ChatLink, Holder, IssuedCertificate, Proof
from tests.services.stores import OpenStore, execute

NOW = datetime(2026, 3, 2, 9, 0, 0, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)
SCOPE = Scope("staging", "eu")
ALICE = IdentityId("https://login.example.com", "alice")
BOB = IdentityId("https://login.example.com", "bob")
ALL = EventFilter(limit=1_000_000)


def identity(id: IdentityId = ALICE, email: str | None = None) -> Identity:
    return Identity(id, email, None, frozenset(), IdentityKind.PERSON, NOW)


def request(id: str = "r-1", asked_at: datetime = NOW) -> Request:
    names = frozenset({"web-1.staging.eu"}), frozenset({"deploy"}), frozenset({Action.SSH_SHELL})
    return Request(id, ALICE, ALICE, SCOPE, *names, HOUR, "a reason", asked_at, Demands())


def grant(id: str = "g-1", request_id: str = "r-1", starts_at: datetime = NOW, ends_at: datetime = NOW + HOUR) -> Grant:
    names = frozenset({"web-1.staging.eu"}), frozenset({"deploy"}), frozenset({Action.SSH_SHELL})
    return Grant(id, request_id, ALICE, SCOPE, *names, starts_at, ends_at, (BOB,), "a reason")


def session(id: str = "s-1", display: str = "alice", target: str = "web-1.staging.eu", at: datetime = NOW) -> Session:
    place = ("192.0.2.1", "DE", at, NOW + HOUR)
    return Session(id, "node-1", ALICE, display, target, SCOPE, "deploy", Action.SSH_EXEC, None, "g-1", 1, *place)


def event(display: str = "", kind: Kind = Kind.NODE_STARTED) -> Event:
    return Event(kind, NOW, "node-1", display=display)


async def append(store: SqlStore, *events: Event) -> list[int]:
    async with store.transaction() as tx:
        return [(await tx.append(one)).seq for one in events]


async def add_grant(store: SqlStore, one: Grant) -> None:
    async with store.transaction() as tx:
        await tx.add_request(request(one.request_id))
        await tx.add_grant(one)


async def add_sessions(store: SqlStore, *sessions: Session) -> None:
    await add_grant(store, grant())
    async with store.transaction() as tx:
        for one in sessions:
            await tx.add_session(one)


# ---------------------------------------------------------------------------------------------- what is read is written

FULL_IDENTITY = Identity(
    IdentityId("https://login.example.com/realm?a=1", "sub#ject \N{GREEK SMALL LETTER ALPHA}"),
    "Alice.O'Neil@Example.com",
    'Alice "Al" \N{FACE WITH TEARS OF JOY}',
    frozenset({"contractors", 'a "quoted", group', "\N{LATIN SMALL LETTER SHARP S}"}),
    IdentityKind.WORKLOAD,
    NOW.astimezone(timezone(timedelta(hours=-3, minutes=-30))),
    frozenset({"pwd", "otp"}),
    "urn:example:phishing-resistant",
)
CERTIFICATE = IssuedCertificate(
    7, "SHA256:abc", ALICE, SCOPE, "g-1", "192.0.2.1", NOW, NOW + HOUR, FULL_IDENTITY.strength
)
FULL_REQUEST = Request(
    "r-full",
    BOB,
    FULL_IDENTITY.id,
    Scope("production", "eu-west"),
    frozenset({"web-1.production.eu-west", "web-2.production.eu-west"}),
    frozenset({"deploy", "admin"}),
    frozenset(Action),
    timedelta(days=29, hours=23, microseconds=1),
    "it's 100 % \N{EM DASH} \\ needed_now",
    NOW,
    Demands(
        3,
        frozenset({"sre", "leads"}),
        timedelta(hours=2, microseconds=7),
        True,
        automatic=True,
        min_reason=20,
        tickets=frozenset({TicketPattern("[A-Z]+-[0-9]+"), TicketPattern("OPS-[0-9]{1,6}|SEC")}),
        hours=frozenset({Hours.parse("Mon-Fri 08:00-18:00 Europe/Berlin")}),
    ),
    crossing=True,
    withdrawn_at=NOW + timedelta(microseconds=1),
    starts_at=NOW + HOUR,
    network=ip_network("2001:db8::/32"),
    paths=frozenset({"/var/log/", "/srv/é*"}),
    ticket="OPS-1",
    extends="g-other",
    break_glass=True,
    closed_at=NOW + timedelta(microseconds=2),
    beside=frozenset({"staging", "dev"}),
)
EMPTY_REQUEST = replace(request("r-empty"), targets=frozenset(), logins=frozenset(), actions=frozenset(), reason="")
FULL_GRANT = Grant(
    "g-full",
    "r-full",
    FULL_IDENTITY.id,
    FULL_REQUEST.scope,
    FULL_REQUEST.targets,
    FULL_REQUEST.logins,
    FULL_REQUEST.actions,
    NOW,
    NOW + timedelta(microseconds=1),
    (BOB, ALICE, FULL_IDENTITY.id),
    FULL_REQUEST.reason,
    crossing=True,
    revoked_at=NOW,
    network=ip_network("192.0.2.0/24"),
    paths=frozenset({"/etc/motd"}),
    basis=Basis.BREAK_GLASS,
)
FULL_SESSION = Session(
    "s-full",
    "node-1",
    FULL_IDENTITY.id,
    "Alice",
    "web-1.production.eu-west",
    FULL_REQUEST.scope,
    "deploy",
    Action.SSH_EXEC,
    "printf '\x1b]0;\n' | tee \N{FACE WITH TEARS OF JOY}",
    "g-full",
    2**64 - 1,
    "2001:db8::1",
    None,
    NOW,
    NOW + HOUR,
    NOW + HOUR,
    End.CLIENT,
    2**32 - 1,
)


@pytest.mark.parametrize("one", [identity(), FULL_IDENTITY], ids=["least", "full"])
async def test_an_identity_is_read_as_it_was_saved(store: SqlStore, one: Identity) -> None:
    async with store.transaction() as tx:
        await tx.save_identity(one, NOW)
    assert await store.identity(one.id) == one


async def test_an_identity_is_known_by_its_last_login(store: SqlStore) -> None:
    for one in (identity(email="old@example.com"), identity(email="new@example.com")):
        async with store.transaction() as tx:
            await tx.save_identity(one, NOW)
    assert (await store.identity(ALICE)).email == "new@example.com"
    with pytest.raises(NotFound):
        await store.find_identity("old@example.com")


@pytest.mark.parametrize("one", [EMPTY_REQUEST, FULL_REQUEST], ids=["empty", "full"])
async def test_a_request_is_read_as_it_was_made(store: SqlStore, one: Request) -> None:
    async with store.transaction() as tx:
        await tx.add_request(one)
        assert await tx.request(one.id) == one
    assert await store.request(one.id) == one


async def test_a_review_keeps_its_reviewer_as_they_were(store: SqlStore) -> None:
    given_reviews = [
        Review("r-1", FULL_IDENTITY, Verdict.REFUSE, NOW),
        Review("r-1", identity(BOB), Verdict.APPROVE, NOW + HOUR),
    ]
    async with store.transaction() as tx:
        await tx.add_request(request())
        for review in reversed(given_reviews):
            await tx.add_review(review)
    async with store.transaction() as tx:
        await tx.save_identity(replace(FULL_IDENTITY, groups=frozenset()), NOW + HOUR)
        assert await tx.reviews("r-1") == given_reviews


@pytest.mark.parametrize("one", [grant(request_id="r-full"), FULL_GRANT], ids=["least", "full"])
async def test_a_grant_is_read_as_it_was_given(store: SqlStore, one: Grant) -> None:
    async with store.transaction() as tx:
        await tx.add_request(FULL_REQUEST)
        await tx.add_grant(one)
        assert await tx.grant(one.id) == one
    assert await store.grant(one.id) == one


async def test_a_proof_is_a_certificate_with_its_grant_and_the_end_of_its_holder(store: SqlStore) -> None:
    for each in (grant(), grant("g-2", "r-2")):
        await add_grant(store, each)
    async with store.transaction() as tx:
        await tx.save_identity(identity(), NOW)
        await tx.save_identity(identity(BOB), NOW)
        await tx.add_certificate(CERTIFICATE)
        await tx.end_identity(BOB, NOW)
    assert await store.proof(CERTIFICATE.serial) == Proof(CERTIFICATE, grant(), None)
    async with store.transaction() as tx:
        await tx.revoke_grant("g-1", NOW)
        await tx.end_identity(ALICE, NOW + HOUR)
    expected = Proof(CERTIFICATE, replace(grant(), revoked_at=NOW), NOW + HOUR)
    assert await store.proof(CERTIFICATE.serial) == expected
    with pytest.raises(NotFound):
        await store.proof(CERTIFICATE.serial + 1)


@pytest.mark.parametrize("serial", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
async def test_a_certificate_is_found_by_any_serial(store: SqlStore, serial: int) -> None:
    await add_grant(store, grant())
    one = replace(CERTIFICATE, serial=serial)
    async with store.transaction() as tx:
        await tx.add_certificate(one)
    assert await store.certificate(serial) == one


async def test_a_certificate_that_an_older_version_made_is_of_the_weakest_login_there_is(
    store: SqlStore, url: str
) -> None:
    await add_grant(store, grant())
    columns = "serial, fingerprint, issuer, subject, environment, region, grant_id, address, valid_after, valid_before"
    values = "7, 'SHA256:abc', 'https://idp', 'alice', 'staging', 'eu', 'g-1', '192.0.2.1', 0, 1"
    await execute(url, f"INSERT INTO certificates ({columns}) VALUES ({values})")
    assert (await store.certificate(7)).strength == Strength(datetime(1970, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("one", [replace(session(), grant_id="g-full"), FULL_SESSION], ids=["least", "full"])
async def test_a_session_is_read_as_it_was_kept(store: SqlStore, one: Session) -> None:
    async with store.transaction() as tx:
        await tx.add_request(FULL_REQUEST)
        await tx.add_grant(FULL_GRANT)
        await tx.add_session(one)
    assert await store.session(one.id) == one


async def test_a_chat_account_belongs_to_who_linked_it_last(store: SqlStore) -> None:
    first = ChatLink("slack", "T1", "U1", ALICE, NOW)
    async with store.transaction() as tx:
        await tx.link_chat(first)
    assert await store.chat_link("slack", "T1", "U1") == first
    second = replace(first, identity=BOB, linked_at=NOW + HOUR)
    async with store.transaction() as tx:
        await tx.link_chat(second)
    assert await store.chat_link("slack", "T1", "U1") == second
    with pytest.raises(NotFound):
        await store.chat_link("slack", "T2", "U1")


async def test_what_is_not_there_is_not_found(store: SqlStore) -> None:
    with pytest.raises(NotFound):
        await store.identity(ALICE)
    for ask in (store.request, store.grant, store.session, store.find_identity):
        with pytest.raises(NotFound):
            await ask("x-1")
    with pytest.raises(NotFound):
        await store.certificate(1)
    async with store.transaction() as tx:
        with pytest.raises(NotFound):
            await tx.request("r-1")
        with pytest.raises(NotFound):
            await tx.grant("g-1")
        with pytest.raises(NotFound):
            await tx.revoke_grant("g-1", NOW)
        with pytest.raises(NotFound):
            await tx.end_session("s-1", End.CLIENT, NOW)
        await tx.append(event())
    assert len(await store.events(ALL)) == 1, "not finding something does not spoil the rest of the block"


# -------------------------------------------------------------------------------------------------------- the audit log

FULL_EVENT = Event(
    Kind.ACCESS_ALLOWED,
    NOW,
    "node-1",
    identity=FULL_IDENTITY.id,
    actor=BOB,
    display="Alice",
    scope=SCOPE,
    target="web-1.staging.eu",
    login="deploy",
    address="192.0.2.1",
    country="DE",
    grant_id="g-1",
    session_id="s-1",
    reasons=("permitted by x", "\n"),
    details={"serial": 2**64 - 1, "ok": True, "none": None, "text": "\x00\x1b[2J"},
)


@pytest.mark.parametrize("one", [event(), FULL_EVENT], ids=["least", "full"])
async def test_an_event_is_read_as_it_was_written(store: SqlStore, one: Event) -> None:
    async with store.transaction() as tx:
        written = await tx.append(one)
    assert written == replace(one, seq=1)
    (read,) = await store.events(ALL)
    assert read == written
    assert read.to_json() == one.to_json(), "the bytes that a hash was made of"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(codec="utf-8"), max_size=300))
@example(text="\x00")
@example(text="'; DROP TABLE events; --")
@example(text="\N{FACE WITH TEARS OF JOY}\u202e\x1b]0;x\x07\r\n\u2028")
async def test_an_event_may_say_any_text(store: SqlStore, text: str) -> None:
    one = replace(FULL_EVENT, display=text, target=text, login=text, reasons=(text,), details={text: text})
    (seq,) = await append(store, one)
    (read,) = await store.events(EventFilter(identity=text, target=text, after_seq=seq - 1, limit=1))
    assert read == replace(one, seq=seq)


async def test_an_event_is_kept_however_long_a_name_a_peer_made_up(store: SqlStore) -> None:
    long = "".join(chr(33 + i * 7919 % 90) for i in range(100_000))
    one = replace(event(display=long), target=long, address=long, grant_id=long)
    await append(store, one)
    assert await store.events(EventFilter(target=long)) == [replace(one, seq=1)]


async def test_half_a_character_is_refused_by_a_sentence(store: SqlStore) -> None:
    with pytest.raises(Refused, match="characters that cannot be kept"):
        await append(store, event(display="\ud83d"))
    assert await append(store, event(display="after")) == [1]


async def test_numbers_have_no_gap_where_a_block_failed(store: SqlStore) -> None:
    assert await append(store, event(), event()) == [1, 2]

    async def fail() -> None:
        async with store.transaction() as tx:
            assert (await tx.append(event("lost"))).seq == 3
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await append(store, event()) == [3]
    assert "lost" not in [one.display for one in await store.events(ALL)]


TAMPERING = {
    "change": "UPDATE events SET line = '{}' WHERE seq = 1",
    "renumber": "UPDATE events SET seq = 7 WHERE seq = 3",
    "remove": "DELETE FROM events WHERE seq = 1",
    "remove the last": "DELETE FROM events WHERE seq = 3",
    "remove all": "DELETE FROM events",
    "leave a gap": "INSERT INTO events (seq, line, kind, at, who) VALUES (5, '{}', 'x', 0, '')",
    "begin below": "INSERT INTO events (seq, line, kind, at, who) VALUES (0, '{}', 'x', 0, '')",
    "insert again": "INSERT INTO events (seq, line, kind, at, who) VALUES (2, '{}', 'x', 0, '')",
    "upsert": "INSERT INTO events (seq, line, kind, at, who) VALUES (2, '{}', 'x', 0, '')"
    " ON CONFLICT (seq) DO UPDATE SET line = '{}'",
}


async def test_the_database_itself_refuses_to_change_events(
    store: SqlStore, url: str, subtests: pytest.Subtests
) -> None:
    await append(store, event("a"), event("b"), event("c"))
    for name, statement in TAMPERING.items():
        with subtests.test(name):
            with pytest.raises(Exception, match="append-only|without gaps"):
                await execute(url, statement)
            assert [one.display for one in await store.events(ALL)] == ["a", "b", "c"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
async def test_sqlite_refuses_a_replacing_insert(store: SqlStore, url: str) -> None:
    await append(store, event("a"), event("b"))
    with pytest.raises(Exception, match="without gaps"):
        await execute(url, "INSERT OR REPLACE INTO events (seq, line, kind, at, who) VALUES (2, '{}', 'x', 0, '')")
    assert [one.display for one in await store.events(ALL)] == ["a", "b"]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
async def test_postgresql_refuses_truncation(store: SqlStore, url: str) -> None:
    await append(store, event("a"))
    with pytest.raises(Exception, match="append-only"):
        await execute(url, "TRUNCATE events")
    assert [one.display for one in await store.events(ALL)] == ["a"]


FILTERS: dict[str, tuple[EventFilter, list[int]]] = {
    "everything": (EventFilter(), [1, 2, 3, 4]),
    "kind": (EventFilter(kind="access:allowed"), [2]),
    "kinds of a subject": (EventFilter(kind="access:*"), [2, 3]),
    "no such kind": (EventFilter(kind="access"), []),
    "a pattern is not a kind": (EventFilter(kind="a%:*"), []),
    "display, any case": (EventFilter(identity="\N{LATIN SMALL LETTER U WITH DIAERESIS}NTER"), [3]),
    "whom it is about": (EventFilter(identity="#alice"), [2]),
    "who did it": (EventFilter(identity="com#BOB"), [3]),
    "percent is a character": (EventFilter(identity="%"), [4]),
    "underscore is a character": (EventFilter(identity="a_b"), [4]),
    "slash is a character": (EventFilter(identity="/_"), []),
    "target": (EventFilter(target="web-1.staging.eu"), [2]),
    "a part is not the target": (EventFilter(target="web-1"), []),
    "scope": (EventFilter(scope=Scope("production", "eu")), [3]),
    "session": (EventFilter(session_id="s-1"), [2]),
    "grant": (EventFilter(grant_id="g-1"), [2, 3]),
    "since": (EventFilter(since=NOW + HOUR), [3, 4]),
    "all parts must match": (EventFilter(kind="access:*", grant_id="g-1", since=NOW + HOUR), [3]),
    "the last": (EventFilter(limit=2), [3, 4]),
    "the last that match": (EventFilter(kind="access:*", limit=1), [3]),
    "the first after": (EventFilter(after_seq=1, limit=2), [2, 3]),
    "after the last": (EventFilter(after_seq=4), []),
    "none": (EventFilter(limit=0), []),
    "less than none": (EventFilter(limit=-1), []),
}


async def test_events_are_those_wanted_in_order(store: SqlStore, subtests: pytest.Subtests) -> None:
    production = Scope("production", "eu")
    target = "web-1.staging.eu"
    await append(
        store,
        Event(Kind.NODE_STARTED, NOW, "node-1"),
        Event(Kind.ACCESS_ALLOWED, NOW, "n", ALICE, scope=SCOPE, target=target, session_id="s-1", grant_id="g-1"),
        Event(Kind.ACCESS_DENIED, NOW + HOUR, "n", None, BOB, "G\xfcnter", production, "web-1.x.eu", grant_id="g-1"),
        Event(Kind.LOGIN_FAILED, NOW + 2 * HOUR, "n", display="100% a_b"),
    )
    for name, (wanted, expected) in FILTERS.items():
        with subtests.test(name):
            assert [one.seq for one in await store.events(wanted)] == expected


# -------------------------------------------------------------------------------------------------- once, and only once


async def test_nobody_reviews_a_request_twice(store: SqlStore) -> None:
    async with store.transaction() as tx:
        await tx.add_request(request())
        await tx.add_review(Review("r-1", identity(BOB), Verdict.APPROVE, NOW))
    with pytest.raises(Conflict):
        async with store.transaction() as tx:
            await tx.add_review(Review("r-1", identity(BOB), Verdict.REFUSE, NOW))
    async with store.transaction() as tx:
        assert [review.verdict for review in await tx.reviews("r-1")] == [Verdict.APPROVE]


async def test_a_request_is_granted_once(store: SqlStore) -> None:
    await add_grant(store, grant("g-1"))
    with pytest.raises(Conflict):
        async with store.transaction() as tx:
            await tx.add_grant(grant("g-2"))
    with pytest.raises(NotFound):
        await store.grant("g-2")


async def test_a_serial_a_session_and_a_request_are_added_once(store: SqlStore) -> None:
    await add_sessions(store, session())
    async with store.transaction() as tx:
        await tx.add_certificate(CERTIFICATE)
    async with store.transaction() as tx:
        with pytest.raises(Conflict):
            await tx.add_certificate(replace(CERTIFICATE, fingerprint="SHA256:other"))
        with pytest.raises(Conflict):
            await tx.add_session(session(display="other"))
        with pytest.raises(Conflict):
            await tx.add_request(request())
        await tx.append(event("a conflict was found"))
    assert (await store.certificate(7)).fingerprint == "SHA256:abc"
    assert [one.display for one in await store.events(ALL)] == ["a conflict was found"]


async def test_what_refers_to_nothing_is_refused_with_its_whole_block(store: SqlStore) -> None:
    async def go_on_regardless() -> None:
        async with store.transaction() as tx:
            await tx.append(event("before"))
            with pytest.raises(Conflict):
                await tx.add_grant(grant(request_id="r-none"))
            # PostgreSQL would answer the COMMIT of this by rolling back without an error.

    with pytest.raises(Conflict):
        await go_on_regardless()
    assert await store.events(ALL) == []


async def test_a_revoked_grant_keeps_its_first_time(store: SqlStore) -> None:
    await add_grant(store, grant())
    async with store.transaction() as tx:
        revoked = await tx.revoke_grant("g-1", NOW)
        assert revoked == await tx.revoke_grant("g-1", NOW + HOUR) == replace(grant(), revoked_at=NOW)
    assert await store.grant("g-1") == revoked


async def test_a_withdrawn_request_keeps_its_first_time(store: SqlStore) -> None:
    async with store.transaction() as tx:
        await tx.add_request(request())
        assert (await tx.withdraw_request("r-1", NOW + HOUR)).withdrawn_at == NOW + HOUR
        assert (await tx.withdraw_request("r-1", NOW)).withdrawn_at == NOW + HOUR
        with pytest.raises(NotFound):
            await tx.withdraw_request("r-2", NOW)
    assert (await store.request("r-1")).withdrawn_at == NOW + HOUR
    assert await store.waiting_requests(NOW - HOUR) == []


async def test_a_break_glass_is_owed_until_it_is_answered_for(store: SqlStore) -> None:
    async with store.transaction() as tx:
        await tx.add_request(replace(request("r-1"), break_glass=True))
        await tx.add_request(request("r-2"))
    assert [one.id for one in await store.broken_glass()] == ["r-1"]
    async with store.transaction() as tx:
        await tx.close_request("r-1", NOW)
        assert (await tx.close_request("r-1", NOW + HOUR)).closed_at == NOW
    assert await store.broken_glass() == []


async def test_an_extension_lengthens_a_grant_and_its_open_sessions_only(store: SqlStore) -> None:
    await add_sessions(store, session("s-1"), session("s-2"))
    async with store.transaction() as tx:
        await tx.end_session("s-2", End.CLIENT, NOW)
        assert (await tx.extend_grant("g-1", NOW + 3 * HOUR)).ends_at == NOW + 3 * HOUR
        assert (await tx.extend_grant("g-1", NOW + 2 * HOUR)).ends_at == NOW + 3 * HOUR
    assert (await store.grant("g-1")).ends_at == NOW + 3 * HOUR
    assert [(await store.session(id)).until for id in ("s-1", "s-2")] == [NOW + 3 * HOUR, NOW + HOUR]
    async with store.transaction() as tx:
        await tx.revoke_grant("g-1", NOW)
    with pytest.raises(Conflict, match="was revoked"):
        async with store.transaction() as tx:
            await tx.extend_grant("g-1", NOW + 9 * HOUR)
    assert (await store.grant("g-1")).ends_at == NOW + 3 * HOUR


async def test_grants_are_found_by_their_end_unless_they_were_revoked(store: SqlStore) -> None:
    for number, hours in enumerate((1, 2, 3, 4)):
        await add_grant(store, grant(f"g-{number}", f"r-{number}", ends_at=NOW + hours * HOUR))
    async with store.transaction() as tx:
        await tx.revoke_grant("g-2", NOW)
    assert [one.id for one in await store.grants_between(NOW + HOUR, NOW + 4 * HOUR)] == ["g-1", "g-3"]


async def test_a_grant_was_last_used_when_its_last_session_was_there(store: SqlStore) -> None:
    await add_sessions(store, session("s-1"), session("s-2", at=NOW + HOUR))
    assert await store.last_used(["g-1", "g-2"]) == {"g-1": NOW + HOUR}
    async with store.transaction() as tx:
        await tx.end_session("s-1", End.CLIENT, NOW + 2 * HOUR)
    assert await store.last_used(["g-1"]) == {"g-1": NOW + 2 * HOUR}
    assert await store.last_used([]) == {}


NOTICES: list[notices.Notice] = [
    notices.Asked("q-1", NOW),
    notices.Reviewed("q-1", NOW, BOB, Verdict.REFUSE, 0),
    notices.Withdrawn("q-1", NOW, ALICE),
    notices.TimedOut("q-1", NOW),
    notices.Granted("q-1", NOW, "g-1"),
    notices.FirstConnected("q-1", NOW, "g-1", "s-1"),
    notices.EndingSoon("q-1", NOW, "g-1", NOW + HOUR),
    notices.Extended("q-2", NOW, "g-1", NOW + HOUR),
    notices.Ended("q-1", NOW, "g-1", notices.Why.EXPIRED),
    notices.Ended("q-1", NOW, "g-2", notices.Why.REVOKED, BOB),
    notices.BrokenGlass("q-1", NOW, "g-1"),
    notices.ReviewOverdue("q-1", NOW, "g-1", 3),
    notices.Acknowledged("q-1", NOW, "g-1", BOB, Verdict.APPROVE),
    notices.Unused("q-1", NOW, "g-1", NOW - HOUR),
]


async def test_every_notice_is_read_as_it_was_kept_and_kept_once(store: SqlStore) -> None:
    async with store.transaction() as tx:
        assert [await tx.add_notice(one, NOW) for one in NOTICES] == [True] * len(NOTICES)
        assert [await tx.add_notice(one, NOW + HOUR) for one in NOTICES] == [False] * len(NOTICES)
    kept = await store.due_notices(NOW)
    assert {one.notice.id: one.notice for one in kept} == {one.id: one for one in NOTICES}
    assert {type(one.notice) for one in kept} == set(get_args(notices.Notice))
    assert await store.unheard(["asked:q-1", "asked:q-2"]) == {"asked:q-2"}


async def test_a_notice_is_due_until_it_is_done(store: SqlStore) -> None:
    async with store.transaction() as tx:
        await tx.add_notice(notices.Asked("q-1", NOW), NOW + HOUR)
    assert await store.due_notices(NOW) == []
    (kept,) = await store.due_notices(NOW + HOUR)
    assert (kept.told, kept.tries) == (frozenset(), 0)
    async with store.transaction() as tx:
        await tx.put_off_notice(kept.notice.id, told=frozenset({"slack"}), due=NOW + 2 * HOUR)
    assert await store.due_notices(NOW + HOUR) == []
    (kept,) = await store.due_notices(NOW + 2 * HOUR)
    assert (kept.told, kept.tries) == (frozenset({"slack"}), 1)
    async with store.transaction() as tx:
        await tx.put_off_notice(kept.notice.id, told=frozenset({"slack", "mail"}), due=None)
    assert await store.due_notices(NOW + 99 * HOUR) == []
    assert await store.unheard(["asked:q-1"]) == frozenset()


async def test_an_ended_session_keeps_its_first_end(store: SqlStore) -> None:
    await add_sessions(store, session())
    async with store.transaction() as tx:
        ended = await tx.end_session("s-1", End.CLIENT, NOW, 3)
        assert ended == replace(session(), ended_at=NOW, end=End.CLIENT, exit_status=3)
        assert await tx.end_session("s-1", End.REVOKED, NOW + HOUR) == ended
    assert await store.session("s-1") == ended


async def test_text_that_a_dialect_cannot_keep_is_refused_on_both(store: SqlStore) -> None:
    await add_grant(store, grant())
    for command in ("\0", "\udcff"):
        async with store.transaction() as tx:
            with pytest.raises(Refused, match="cannot be kept"):
                await tx.add_session(replace(session(), command=command))
            await tx.append(event("refused"))
        with pytest.raises(Refused, match="cannot be kept"):
            await store.session(command)
    assert len(await store.events(ALL)) == 2


async def test_an_instant_without_a_zone_is_a_mistake_of_the_caller(store: SqlStore) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        await store.waiting_requests(NOW.replace(tzinfo=None))


# ------------------------------------------------------------------------------------------------------------ questions


async def test_somebody_is_found_by_id_or_by_the_only_verified_email(store: SqlStore) -> None:
    elsewhere = IdentityId("https://other.example.com", "alice")
    async with store.transaction() as tx:
        await tx.save_identity(identity(ALICE, "Alice@Example.com"), NOW)
        await tx.save_identity(identity(BOB, "bob#1@example.com"), NOW)
    assert (await store.find_identity(str(ALICE))).id == ALICE
    assert (await store.find_identity("alice@example.COM")).id == ALICE
    assert (await store.find_identity("bob#1@example.com")).id == BOB
    for nobody in ("", "alice", "%@example.com", "a_ice@example.com", str(elsewhere)):
        with pytest.raises(NotFound):
            await store.find_identity(nobody)
    async with store.transaction() as tx:
        await tx.save_identity(identity(elsewhere, "alice@example.com"), NOW)
    with pytest.raises(Refused, match=r"https://login.example.com#alice or https://other.example.com#alice"):
        await store.find_identity("alice@example.com")
    assert (await store.find_identity(str(elsewhere))).id == elsewhere


async def test_an_email_that_looks_like_an_id_does_not_hide_the_id(store: SqlStore) -> None:
    async with store.transaction() as tx:
        await tx.save_identity(identity(IdentityId("a", "b@example.com")), NOW)
        await tx.save_identity(identity(BOB, "a#b@example.com"), NOW)
    assert (await store.find_identity("a#b@example.com")).id == IdentityId("a", "b@example.com")


async def test_grants_of_somebody_are_theirs_with_the_latest_end_first(store: SqlStore) -> None:
    theirs = [replace(grant("g-1", "r-1"), revoked_at=NOW), grant("g-2", "r-2", ends_at=NOW + 2 * HOUR)]
    others = [replace(grant("g-3", "r-3"), identity=BOB), grant("g-4", "r-4", NOW - 2 * HOUR, NOW)]
    for one in theirs + others:
        await add_grant(store, one)
    assert await store.grants_of(ALICE, NOW) == [theirs[1], theirs[0]]
    assert [one.id for one in await store.grants_of(ALICE, NOW - HOUR)] == ["g-2", "g-1", "g-4"]
    assert await store.grants_of(IdentityId(ALICE.issuer, "nobody"), NOW - HOUR) == []


async def test_a_holder_is_somebody_with_their_end_and_their_grants(store: SqlStore) -> None:
    await add_grant(store, grant())
    await add_grant(store, replace(grant("g-2", "r-2"), identity=BOB))
    async with store.transaction() as tx:
        await tx.save_identity(identity(), NOW)
    assert await store.holder(ALICE, NOW) == Holder(identity(), None, [grant()])
    async with store.transaction() as tx:
        await tx.end_identity(ALICE, NOW)
    assert await store.holder(ALICE, NOW + HOUR) == Holder(identity(), NOW, [])
    with pytest.raises(NotFound):
        await store.holder(IdentityId(ALICE.issuer, "nobody"), NOW)


async def test_live_grants_are_those_that_are_live_then(store: SqlStore) -> None:
    for one in (
        grant("g-over", "r-1", NOW - 2 * HOUR, NOW),
        grant("g-live", "r-2", NOW - HOUR, NOW + HOUR),
        grant("g-first-instant", "r-3", NOW, NOW + HOUR),
        grant("g-later", "r-4", NOW + HOUR, NOW + 2 * HOUR),
        replace(grant("g-revoked", "r-5", NOW - HOUR, NOW + HOUR), revoked_at=NOW),
    ):
        await add_grant(store, one)
    assert [one.id for one in await store.grants(NOW)] == ["g-first-instant", "g-live"]
    assert all(one.is_live(NOW) for one in await store.grants(NOW))
    newest_first = ["g-later", "g-first-instant", "g-live", "g-revoked", "g-over"]
    assert [one.id for one in await store.grants()] == newest_first
    assert [one.id for one in await store.grants(limit=2)] == newest_first[:2]


async def test_waiting_requests_are_those_that_nobody_has_answered(store: SqlStore) -> None:
    async with store.transaction() as tx:
        await tx.add_request(request("r-old", NOW - HOUR))
        await tx.add_request(request("r-second", NOW + 2 * HOUR))
        await tx.add_request(request("r-first", NOW + HOUR))
        await tx.add_request(replace(request("r-withdrawn", NOW + HOUR), withdrawn_at=NOW + HOUR))
        await tx.add_request(request("r-granted", NOW + HOUR))
        await tx.add_grant(grant("g-1", "r-granted"))
        await tx.add_request(request("r-refused", NOW + HOUR))
        await tx.add_review(Review("r-refused", identity(BOB), Verdict.REFUSE, NOW + HOUR))
        await tx.add_review(Review("r-second", identity(BOB), Verdict.APPROVE, NOW + HOUR))
    assert [one.id for one in await store.waiting_requests(NOW - HOUR)] == ["r-first", "r-second"]


async def test_a_session_is_found_by_a_beginning_that_only_it_has(store: SqlStore) -> None:
    await add_sessions(store, session("s-abc1"), session("s-abc2"), session("s-x_1"), session("s-abc"))
    assert (await store.session("s-abc")).id == "s-abc", "the whole id is not the beginning of another"
    assert (await store.session("s-abc1")).id == "s-abc1"
    assert (await store.session("s-x")).id == "s-x_1"
    with pytest.raises(Refused, match="give more of it"):
        await store.session("s-ab")
    for nothing in ("", "%", "s-___", "S-ABC1", "s-abc12"):
        with pytest.raises(NotFound):
            await store.session(nothing)


async def test_sessions_are_narrowed_by_what_is_asked(store: SqlStore) -> None:
    await add_sessions(
        store,
        session("s-1", "Alice@example.com", at=NOW),
        session("s-2", "B\xd6B 100%", "db_1.staging.eu", NOW + HOUR),
        replace(session("s-3", at=NOW + 2 * HOUR), node="node-2"),
    )
    async with store.transaction() as tx:
        await tx.end_session("s-1", End.INTERRUPTED, NOW)

    async def ids(**wanted: object) -> list[str]:
        return [one.id for one in await store.sessions(**wanted)]  # type: ignore[arg-type]

    assert await ids() == ["s-3", "s-2", "s-1"]
    assert await ids(limit=1) == ["s-3"]
    assert await ids(live=True) == ["s-3", "s-2"]
    assert await ids(live=False) == ["s-1"]
    assert await ids(identity="alice@EXAMPLE") == ["s-1"]
    assert await ids(identity="b\xf6b") == ["s-2"]
    assert await ids(identity="com#ali") == ["s-3", "s-2", "s-1"]
    assert await ids(identity="%") == ["s-2"]
    assert await ids(target="staging") == ["s-3", "s-2", "s-1"]
    assert await ids(target="b_1") == ["s-2"]
    assert await ids(target="b-1") == ["s-3", "s-1"]
    assert await ids(target="web-1", live=True, identity="alice") == ["s-3"]
    assert [one.id for one in await store.sessions_of_node("node-1")] == ["s-2"]


# ---------------------------------------------------------------------------------------------- together, or not at all


async def test_a_block_that_raises_leaves_nothing(store: SqlStore) -> None:
    async def fail() -> None:
        async with store.transaction() as tx:
            await tx.add_request(request())
            await tx.append(event())
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await store.events(ALL) == []
    with pytest.raises(NotFound):
        await store.request("r-1")


async def test_a_block_sees_its_own_writes_and_readers_see_them_when_it_is_over(store: SqlStore) -> None:
    async with store.transaction() as tx:
        await tx.add_request(request())
        assert await tx.request("r-1") == request()
        async with asyncio.timeout(30):  # a reader that waited for the writer would wait for ever
            assert await store.waiting_requests(NOW - HOUR) == []
    assert await store.waiting_requests(NOW - HOUR) == [request()]


async def test_a_hundred_blocks_at_once_lose_nothing(store: SqlStore) -> None:
    async def one(number: int) -> list[int]:
        return await append(store, event(f"{number}"), event(f"{number}"))

    pairs = await asyncio.gather(*(one(number) for number in range(100)))
    assert sorted(seq for pair in pairs for seq in pair) == list(range(1, 201))
    assert all(second == first + 1 for first, second in pairs), "nobody writes between the two of one block"
    written = await store.events(ALL)
    assert [one.seq for one in written] == list(range(1, 201))
    for number, (first, second) in enumerate(pairs):
        assert written[first - 1].display == written[second - 1].display == str(number)


async def test_blocks_of_two_nodes_at_once_lose_nothing(store: SqlStore, node: OpenStore) -> None:
    stores = [store, await node()]
    seqs = await asyncio.gather(*(append(stores[number % 2], event(f"{number}")) for number in range(60)))
    assert sorted(seq for (seq,) in seqs) == list(range(1, 61))
    assert [one.seq for one in await store.events(ALL)] == list(range(1, 61))


async def test_blocks_write_in_the_order_in_which_they_came(store: SqlStore) -> None:
    await asyncio.gather(*(append(store, event(f"{number}")) for number in range(30)))
    assert [one.display for one in await store.events(ALL)] == [f"{number}" for number in range(30)]


async def test_of_two_approvals_at_once_one_grants(store: SqlStore, node: OpenStore) -> None:
    nodes = [store, await node()]
    for number in range(10):
        async with store.transaction() as tx:
            await tx.add_request(request(f"r-{number}"))

        async def approve(where: SqlStore, grant_id: str, request_id: str = f"r-{number}") -> str:
            async with where.transaction() as tx:
                await tx.add_grant(grant(grant_id, request_id))
                await tx.append(event(grant_id, Kind.GRANT_APPROVED))
            return grant_id

        tries = (approve(nodes[0], f"g-{number}a"), approve(nodes[1], f"g-{number}b"))
        answers = await asyncio.gather(*tries, return_exceptions=True)
        assert [type(answer) for answer in answers if not isinstance(answer, str)] == [Conflict]
    approved = [one.display for one in await store.events(ALL)]
    assert len(approved) == 10, "the event of the one that lost is lost with it"
    assert sorted(approved) == sorted(one.id for one in await store.grants())


async def test_of_two_reviews_at_once_the_second_sees_the_first(store: SqlStore, node: OpenStore) -> None:
    async def review(where: SqlStore, request_id: str, reviewer: IdentityId) -> int:
        async with where.transaction() as tx:
            before: Sequence[Review] = await tx.reviews(request_id)
            await tx.add_review(Review(request_id, identity(reviewer), Verdict.APPROVE, NOW))
            return len(before) + 1

    nodes = [store, await node()]
    for number in range(10):
        async with store.transaction() as tx:
            await tx.add_request(request(f"r-{number}"))
        counts = await asyncio.gather(review(nodes[0], f"r-{number}", ALICE), review(nodes[1], f"r-{number}", BOB))
        assert sorted(counts) == [1, 2]


async def test_a_block_that_fails_among_others_fails_alone(store: SqlStore) -> None:
    async def one(number: int) -> None:
        async with store.transaction() as tx:
            await tx.append(event(f"{number}"))
            if number % 3 == 0:
                raise LookupError
            if number % 3 == 1:
                await tx.add_grant(grant(request_id="r-none"))

    answers = await asyncio.gather(*(one(number) for number in range(30)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [LookupError, Conflict, type(None)] * 10
    assert [one.display for one in await store.events(ALL)] == [f"{number}" for number in range(2, 30, 3)]


async def test_somebody_who_is_cancelled_at_any_moment_costs_nobody_else(store: SqlStore) -> None:
    """Each other one is cancelled after another number of turns of the loop, so also in the middle of statements."""

    async def cancelled_after(turns: int) -> None:
        task = asyncio.create_task(append(store, *(event("cancelled"),) * 5))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})

    async def honest() -> None:
        own.extend(await append(store, event("honest"), event("honest")))

    own: list[int] = []
    everybody = (one for turns in range(0, 120, 3) for one in (honest(), cancelled_after(turns)))
    await asyncio.gather(*everybody)
    written = await store.events(ALL)
    assert [one.seq for one in written] == list(range(1, len(written) + 1))
    assert [one.seq for one in written if one.display == "honest"] == sorted(own)
    assert len(own) == 80
    assert len([one for one in written if one.display == "cancelled"]) % 5 == 0, "whole blocks or nothing"


async def test_a_statement_that_is_cancelled_costs_nobody_in_the_same_batch(store: SqlStore) -> None:
    """Somebody who hangs up in the right moment must not take down those whose COMMIT they share."""

    async def write_until_cancelled() -> None:
        async with store.transaction() as tx:
            while True:
                await tx.append(event("cancelled"))
                writing.set()

    for turns in range(20):
        writing = asyncio.Event()
        before, hasty, after = (
            asyncio.create_task(append(store, event("before"))),
            asyncio.create_task(write_until_cancelled()),
            asyncio.create_task(append(store, event("after"))),
        )
        await writing.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        hasty.cancel()
        assert await before == [2 * turns + 1]
        assert await after == [2 * turns + 2]
        assert (await asyncio.gather(hasty, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_a_block_cancelled_in_the_middle_leaves_nothing(store: SqlStore) -> None:
    begun = asyncio.Event()

    async def hang() -> None:
        async with store.transaction() as tx:
            await tx.append(event("hung"))
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hang())
    await begun.wait()
    neighbour = asyncio.create_task(append(store, event("neighbour")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await neighbour == [1]
    assert [one.display for one in await store.events(ALL)] == ["neighbour"]


async def test_a_block_inside_a_block_is_an_error_instead_of_a_deadlock(store: SqlStore) -> None:
    async with store.transaction() as outer:
        with pytest.raises(RuntimeError, match="inside"):
            async with store.transaction():
                pass
        await outer.append(event())
    assert len(await store.events(ALL)) == 1


async def test_nothing_is_written_through_a_block_that_is_over(store: SqlStore) -> None:
    async with store.transaction() as kept:
        await kept.append(event())
    with pytest.raises(LookupError):
        async with store.transaction() as lost:
            raise LookupError
    for over in (kept, lost):
        with pytest.raises(RuntimeError, match="over"):
            await over.append(event())
    assert len(await store.events(ALL)) == 1


async def test_a_closed_store_opens_nothing_and_closes_again(store: SqlStore) -> None:
    last = asyncio.gather(*(append(store, event(f"{number}")) for number in range(10)))
    await asyncio.sleep(0)
    await store.close()
    assert sorted(seq for (seq,) in await last) == list(range(1, 11)), "what was asked for before is done"
    with pytest.raises(Unavailable, match="closed"):
        await append(store, event())
    with pytest.raises(Unavailable, match="closed"):
        await store.events(ALL)
    await store.close()


async def test_what_was_kept_is_there_when_the_store_is_opened_again(store: SqlStore, node: OpenStore) -> None:
    await append(store, event("kept"))
    await store.close()
    assert [one.display for one in await (await node()).events(ALL)] == ["kept"]
