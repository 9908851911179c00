"""A login that begins at an SSH connection and ends in a browser: one code, one answer, one connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.access.confirmation import Confirmation, Question
from bastion.access.devicelogin import (
    ALPHABET,
    LIFETIME,
    Answer,
    DeviceLogins,
    Knock,
    Pending,
    answer_key,
    login_key,
    read_code,
)
from bastion.access.doorstep import Doorstep
from bastion.access.throttle import DEFAULT
from bastion.adapters.geo import MaxMindLocator
from bastion.core.audit import Kind
from bastion.core.errors import Conflict, NotFound, Refused, TooOften, Unavailable
from bastion.core.geofence import Address, Place, parse_address
from bastion.core.identity import Identity, Strength
from bastion.core.target import Destination, Scope
from tests.fakes import FakeClock
from tests.office import AMERICA, CARLA, FAR, NODE, OTTO, STAGING, WEB, Office, catalogue, open_office

HOME, OFFICE_ADDRESS, ABROAD, NOWHERE = map(parse_address, ("127.0.0.1", "127.0.0.2", "127.0.0.66", "127.0.0.99"))
"""The first two are in the EU's fence, the third in the United States', the last is nowhere."""

TO_WEB = Destination("deploy", WEB)
KEY = "SHA256:JXWfl+eDpO1lOWa/hWTaIM24n/jFMvVTxcQvxTLnKFQ"


@dataclass(frozen=True)
class Desk:
    """Both sides of a device login, and the clock that both read."""

    office: Office
    clock: FakeClock
    logins: DeviceLogins
    confirmation: Confirmation
    doorstep: Doorstep

    def place(self, address: Address) -> Place:
        country = {HOME: "DE", OFFICE_ADDRESS: "DE", ABROAD: "US"}.get(address)
        return Place(address, country, "test")

    async def begin(self, address: Address = HOME, destination: Destination = TO_WEB, key: str | None = KEY) -> Pending:
        return await self.logins.begin(address, destination, client="SSH-2.0-OpenSSH_9.2", key=key)

    async def approve(
        self, pending: Pending, who: Identity = CARLA, address: Address = HOME, typed: str | None = None
    ) -> Knock:
        return await self.confirmation.approve(pending.code, typed, who, self.place(address))

    async def is_kept(self, pending: Pending) -> bool:
        """Whether anything of it is left."""
        keys = login_key(pending.code), answer_key(pending.connection)
        return any([await self.office.coordination.holds(key) for key in keys]) or self.logins.waiting > 0


@pytest.fixture
async def desk(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Desk]:
    networks = {ip_network("127.0.0.0/29"): "DE", ip_network(f"{ABROAD}/32"): "US"}
    async with open_office(tmp_path, clock) as office:
        doorstep = Doorstep(
            locator=MaxMindLocator(None, networks, clock=clock), catalogue=catalogue(),
            throttle=office.throttle, store=office.store, clock=clock, node=NODE,
        )  # fmt: skip
        yield Desk(office, clock, _device_logins(office, doorstep, clock), office.confirmation(), doorstep)


def _device_logins(office: Office, doorstep: Doorstep, clock: FakeClock, max_waiting: int = 1000) -> DeviceLogins:
    return DeviceLogins(
        doorstep=doorstep, store=office.store, coordination=office.coordination, catalogue=catalogue(), clock=clock,
        node=NODE, max_waiting=max_waiting,
    )  # fmt: skip


# The honest way -------------------------------------------------------------------------------------------------------


async def test_whoever_approves_is_logged_in_and_the_event_says_how(desk: Desk) -> None:
    pending = await desk.begin()
    waiting = asyncio.create_task(desk.logins.wait(pending))
    long_ago = desk.clock.now() - timedelta(minutes=3)
    approver = CARLA.proven_by(Strength(long_ago, frozenset({"mfa"}), "urn:example:mfa"))
    knock = await desk.approve(pending, approver)
    assert (knock.target, knock.login, knock.key) == (WEB, "deploy", KEY)
    assert await waiting == approver
    event = (await desk.office.events(Kind.LOGIN_SUCCEEDED))[-1]
    assert (event.identity, event.target, event.login, event.scope) == (CARLA.id, WEB, "deploy", STAGING)
    assert (event.address, event.country) == ("127.0.0.1", "DE")
    assert event.details == {
        "for": "ssh", "method": "device code", "client": "SSH-2.0-OpenSSH_9.2", "key": KEY, "browser": "127.0.0.1",
    }  # fmt: skip
    assert not await desk.is_kept(pending)


async def test_the_question_says_everything_and_uses_nothing_up(desk: Desk) -> None:
    pending = await desk.begin()
    for _ in range(3):
        question = await desk.confirmation.look(pending.code, CARLA, desk.place(HOME))
        assert (question.pending, question.elsewhere) == (pending, False)
    assert (await desk.confirmation.look(pending.code, CARLA, desk.place(OFFICE_ADDRESS))).elsewhere
    assert pending.knock == Knock(HOME, "DE", "SSH-2.0-OpenSSH_9.2", WEB, STAGING, "deploy", KEY)


async def test_a_refusal_ends_the_login_and_is_an_event_of_who_refused(desk: Desk) -> None:
    pending = await desk.begin()
    await desk.confirmation.refuse(pending.code, OTTO, desk.place(OFFICE_ADDRESS))
    with pytest.raises(Refused, match="refused in the browser"):
        await desk.logins.wait(pending)
    event = (await desk.office.events(Kind.LOGIN_FAILED))[-1]
    assert (event.actor, event.identity, event.details["browser"]) == (OTTO.id, None, "127.0.0.2")
    assert not await desk.office.events(Kind.LOGIN_SUCCEEDED)
    assert not await desk.is_kept(pending)


# One code, one answer, one connection ---------------------------------------------------------------------------------


async def test_of_two_connections_that_wait_the_one_that_was_meant_is_logged_in(desk: Desk) -> None:
    """Otto begins one beside Carla's; what she answers to hers is no answer to his."""
    ottos, carlas = await desk.begin(), await desk.begin()
    await desk.approve(carlas, CARLA)
    assert await desk.logins.ask(ottos) is None
    logged_in = await desk.logins.ask(carlas)
    assert logged_in is not None
    assert logged_in.id == CARLA.id
    assert await desk.logins.ask(ottos) is None


async def test_of_two_that_answer_at_once_one_is_told_that_it_was_answered(desk: Desk) -> None:
    for _ in range(20):
        pending = await desk.begin()
        answers = await asyncio.gather(
            desk.approve(pending, CARLA), desk.approve(pending, OTTO), return_exceptions=True
        )
        refused = [answer for answer in answers if isinstance(answer, Conflict | NotFound)]
        assert (len(refused), len([a for a in answers if isinstance(a, Knock)])) == (1, 1)
        winner = OTTO if answers[0] in refused else CARLA
        assert (await desk.logins.wait(pending)).id == winner.id


async def test_a_code_that_was_looked_at_and_answered_meanwhile_is_not_answered_twice(desk: Desk) -> None:
    pending = await desk.begin()
    slow = Overtaken(
        prospects=desk.office.prospects(), throttle=desk.office.throttle, store=desk.office.store,
        coordination=desk.office.coordination, catalogue=catalogue(), clock=desk.clock, node=NODE,
    )  # fmt: skip
    with pytest.raises(Conflict, match="answered already"):
        await slow.approve(pending.code, None, CARLA, desk.place(HOME))
    assert not await desk.office.coordination.holds(answer_key(pending.connection))


async def test_a_code_that_means_another_login_by_now_is_not_answered(desk: Desk) -> None:
    """Codes are few enough to come again; whoever read about one connection does not log in on another."""
    pending, other = await desk.begin(), await desk.begin(key=None)
    slow = Exchanged(
        prospects=desk.office.prospects(), throttle=desk.office.throttle, store=desk.office.store,
        coordination=desk.office.coordination, catalogue=catalogue(), clock=desk.clock, node=NODE,
    )  # fmt: skip
    slow.other = replace(other, code=pending.code)
    with pytest.raises(Conflict, match="answered already"):
        await slow.approve(pending.code, None, CARLA, desk.place(HOME))
    assert not any([await desk.office.coordination.holds(answer_key(each.connection)) for each in (pending, other)])


class Exchanged(Confirmation):
    """The code stands for another login between this one's look and its answer."""

    other: Pending

    async def look(self, unverified_code: str, identity: Identity, place: Place) -> Question:
        question = await super().look(unverified_code, identity, place)
        key = login_key(question.pending.code)
        await self._coordination.take(key)
        await self._coordination.put_once(key, self.other.to_bytes(), LIFETIME)
        return question


class Overtaken(Confirmation):
    """Somebody else answers between this one's look and its answer."""

    async def look(self, unverified_code: str, identity: Identity, place: Place) -> Question:
        question = await super().look(unverified_code, identity, place)
        await self._coordination.take(login_key(question.pending.code))
        return question


async def test_a_code_works_once(desk: Desk) -> None:
    pending = await desk.begin()
    await desk.approve(pending)
    for again in (desk.approve, lambda p: desk.confirmation.refuse(p.code, CARLA, desk.place(HOME))):
        with pytest.raises(NotFound):
            await again(pending)
    assert (await desk.logins.wait(pending)).id == CARLA.id


async def test_the_answer_is_for_the_connection_that_showed_the_code(desk: Desk) -> None:
    first, second = await desk.begin(), await desk.begin()
    waiting = [asyncio.create_task(desk.logins.wait(pending)) for pending in (first, second)]
    await desk.approve(first)
    assert (await waiting[0]).id == CARLA.id
    assert not waiting[1].done()
    forged = replace(second, code=first.code)
    await desk.approve(second, OTTO)
    assert (await waiting[1]).id == OTTO.id
    desk.clock.advance(LIFETIME)
    with pytest.raises(Refused, match="Nobody confirmed"):
        await desk.logins.wait(forged)


async def test_a_code_ends_after_five_minutes_on_both_sides(desk: Desk) -> None:
    pending = await desk.begin()
    waiting = asyncio.create_task(desk.logins.wait(pending))
    desk.clock.advance(LIFETIME)
    with pytest.raises(NotFound):
        await desk.approve(pending)
    with pytest.raises(Refused, match="within five minutes"):
        await waiting
    assert (await desk.office.events(Kind.LOGIN_FAILED))[-1].reasons[0].startswith("Nobody confirmed")
    assert not await desk.is_kept(pending)


async def test_a_client_that_leaves_leaves_nothing_behind(desk: Desk) -> None:
    pending = await desk.begin()
    waiting = asyncio.create_task(desk.logins.wait(pending))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not await desk.is_kept(pending)
    with pytest.raises(NotFound):
        await desk.approve(pending)


async def test_a_client_that_leaves_just_after_the_approval_leaves_nothing_behind(desk: Desk) -> None:
    pending = await desk.begin()
    await desk.approve(pending)
    await desk.logins.withdraw(pending)
    assert not await desk.is_kept(pending)
    await desk.logins.withdraw(pending)


async def test_somebody_who_was_logged_out_after_approving_is_not_logged_in(desk: Desk) -> None:
    pending = await desk.begin()
    await desk.approve(pending)
    async with desk.office.store.transaction() as transaction:
        await transaction.end_identity(CARLA.id, desk.clock.now())
    with pytest.raises(Refused, match="logged out"):
        await desk.logins.wait(pending)
    assert not await desk.office.events(Kind.LOGIN_SUCCEEDED)


# Talked into it, and guessing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", [None, "", "BCDF-GHJK", "not a code"])
async def test_a_browser_elsewhere_needs_the_code_by_hand(desk: Desk, typed: str | None) -> None:
    pending = await desk.begin()
    with pytest.raises(Refused, match="your own terminal"):
        await desk.approve(pending, OTTO, OFFICE_ADDRESS, typed)
    assert await desk.office.coordination.holds(login_key(pending.code))
    await desk.approve(pending, OTTO, OFFICE_ADDRESS, pending.code.lower().replace("-", " "))
    assert (await desk.logins.wait(pending)).id == OTTO.id


async def test_a_browser_outside_the_targets_fence_answers_nothing(desk: Desk) -> None:
    pending = await desk.begin()
    for answer in (
        desk.approve(pending, CARLA, ABROAD, pending.code),
        desk.confirmation.refuse(pending.code, CARLA, desk.place(ABROAD)),
        desk.confirmation.look(pending.code, CARLA, desk.place(ABROAD)),
    ):
        with pytest.raises(Refused, match=r"cannot be reached from where this browser is \(127.0.0.66, US\)"):
            await answer
    event = (await desk.office.events(Kind.LOGIN_FAILED))[-1]
    assert (event.actor, event.details["browser"], event.target) == (CARLA.id, "127.0.0.66", WEB)
    await desk.approve(pending)


async def test_guesses_are_counted_by_person_and_address_together_and_hinder_nobody_else(desk: Desk) -> None:
    for _ in range(DEFAULT.failures):
        with pytest.raises(NotFound):
            await desk.confirmation.look("BCDF-GHJK", OTTO, desk.place(HOME))
    pending = await desk.begin()
    for _ in range(3):
        with pytest.raises(TooOften, match=r"Too many .* Try again in 10m\."):
            await desk.confirmation.look(pending.code, OTTO, desk.place(HOME))
    (event,) = await desk.office.events(Kind.LOGIN_THROTTLED)
    assert (event.identity, event.address, event.details["limit"]) == (OTTO.id, str(HOME), DEFAULT.failures)
    await desk.confirmation.look(pending.code, CARLA, desk.place(HOME))
    await desk.confirmation.look(pending.code, OTTO, desk.place(OFFICE_ADDRESS))
    desk.clock.advance(DEFAULT.window)
    with pytest.raises(NotFound):
        await desk.confirmation.look(pending.code, OTTO, desk.place(HOME))


async def test_codes_that_are_right_are_not_counted(desk: Desk) -> None:
    pending = await desk.begin()
    for _ in range(2 * DEFAULT.failures):
        await desk.confirmation.look(pending.code, OTTO, desk.place(HOME))


async def test_guesses_that_come_at_once_are_no_more_than_those_that_come_one_by_one(desk: Desk) -> None:
    looks = [desk.confirmation.look("BCDF-GHJK", OTTO, desk.place(HOME)) for _ in range(3 * DEFAULT.failures)]
    answers = await asyncio.gather(*looks, return_exceptions=True)
    assert sum(isinstance(answer, NotFound) for answer in answers) == DEFAULT.failures


# Before anybody has said who they are ---------------------------------------------------------------------------------


async def test_no_code_is_handed_out_to_where_nothing_can_be_reached_from(desk: Desk) -> None:
    with pytest.raises(Refused, match="Nothing here can be reached from where you are"):
        await desk.begin(NOWHERE)
    assert desk.logins.waiting == 0


@pytest.mark.parametrize(("address", "target", "scope"), [(ABROAD, WEB, STAGING), (HOME, FAR, AMERICA)])
async def test_no_code_is_handed_out_outside_the_fence_of_the_targets_region(
    desk: Desk, address: Address, target: str, scope: Scope
) -> None:
    with pytest.raises(Refused, match="cannot be reached from where you are"):
        await desk.begin(address, Destination("deploy", target))
    event = (await desk.office.events(Kind.LOGIN_FAILED))[-1]
    assert (event.target, event.scope, event.address) == (target, scope, str(address))
    assert desk.logins.waiting == 0


async def test_strangers_do_not_learn_which_targets_exist(desk: Desk) -> None:
    for name in ("no-such.staging.eu", "web-1"):  # the second is the name of two
        assert (await desk.begin(destination=Destination("deploy", name))).knock.scope is None


async def test_without_a_target_there_is_nothing_to_log_in_to(desk: Desk) -> None:
    with pytest.raises(Refused, match="login@target.environment.region@bastion"):
        await desk.begin(destination=Destination("deploy", None))


async def test_one_address_begins_so_many_and_no_more_and_others_are_not_kept_out(desk: Desk) -> None:
    for _ in range(DEFAULT.begun):
        await desk.begin()
    for _ in range(5):
        with pytest.raises(TooOften, match=r"Too many logins were begun .* Try again in 10m\."):
            await desk.begin()
    assert desk.logins.waiting == DEFAULT.begun
    assert len(await desk.office.events(Kind.LOGIN_THROTTLED)) == 1
    await desk.begin(OFFICE_ADDRESS)


async def test_an_office_whose_people_finish_what_they_begin_is_never_held_up(desk: Desk) -> None:
    for _ in range(DEFAULT.begun + 5):
        pending = await desk.begin()
        await desk.approve(pending)
        assert (await desk.logins.wait(pending)).id == CARLA.id


async def test_a_node_waits_for_so_many_and_no_more(desk: Desk) -> None:
    logins = _device_logins(desk.office, desk.doorstep, desk.clock, max_waiting=2)
    first, _ = [await logins.begin(address, TO_WEB, client="", key=None) for address in (HOME, OFFICE_ADDRESS)]
    with pytest.raises(Unavailable, match="Too many logins wait"):
        await logins.begin(HOME, TO_WEB, client="", key=None)
    await logins.withdraw(first)
    await logins.begin(HOME, TO_WEB, client="", key=None)


async def test_when_the_audit_log_is_gone_nobody_is_logged_in(desk: Desk) -> None:
    pending = await desk.begin()
    await desk.approve(pending)
    await desk.office.store.close()
    with pytest.raises(Unavailable):
        await desk.logins.wait(pending)
    assert not await desk.is_kept(pending)


# Codes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("WDJB-MJHT", "WDJB-MJHT"),
        ("wdjbmjht", "WDJB-MJHT"),
        (" wdjb mjht\n", "WDJB-MJHT"),
        ("W-D-J-B-M-J-H-T", "WDJB-MJHT"),
        ("WDJB-MJH", None),
        ("WDJB-MJHTX", None),
        ("WDJB-MJHA", None),
        ("WDJB-MJH0", None),
        ("", None),
        ("ＷDJB-MJHT", None),
    ],
)
def test_a_code_is_read_however_it_was_written_and_nothing_else_is(typed: str, code: str | None) -> None:
    assert read_code(typed) == code


@given(st.text())
def test_what_is_read_as_a_code_has_the_one_form_of_codes(text: str) -> None:
    code = read_code(text)
    assert code is None or (len(code) == 9 and code[4] == "-" and set(code) <= {*ALPHABET, "-"})


def test_codes_spell_no_words_and_have_no_look_alikes() -> None:
    assert not set(ALPHABET) & set("AEIOUY0123456789")


async def test_what_is_kept_is_read_back_as_it_was(desk: Desk) -> None:
    for destination in (TO_WEB, Destination("deploy", "nowhere")):
        pending = await desk.begin(destination=destination, key=None)
        assert Pending.from_bytes(pending.to_bytes()) == pending
    strength = Strength(CARLA.authenticated_at, frozenset({"pwd", "otp"}), "urn:example:mfa")
    answer = Answer(True, CARLA.id, strength, "127.0.0.1", desk.clock.now())
    assert Answer.from_bytes(answer.to_bytes()) == answer


async def test_what_a_client_calls_itself_cannot_command_a_terminal(desk: Desk) -> None:
    pending = await desk.logins.begin(HOME, TO_WEB, client="SSH-2.0-\x1b]0;x\x07" + "y" * 500, key=None)
    assert pending.knock.client.isprintable()
    assert len(pending.knock.client) <= 100
