"""Clients without a certificate, which know nothing of us: a code in the terminal, a page in a browser, and on it goes.

Real OpenSSH, plink, dbclient and paramiko, each on a terminal of its own; and a client without manners for the attacks.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncssh
import pytest
import segno
from asyncssh.packet import Boolean, Byte, SSHPacket, String, UInt32

from bastion.access.devicelogin import login_key
from bastion.access.throttle import DEFAULT
from bastion.core.audit import Kind
from bastion.core.certificate import fingerprint
from bastion.core.errors import Refused
from bastion.core.geofence import parse_address
from bastion.core.session import End
from bastion.gateways.ssh.internals import DoorConnection
from bastion.gateways.ssh.limits import Windows
from bastion.gateways.ssh.plainlogin import PATIENCE, Invitation, PlainLogin
from bastion.gateways.ssh.qr import drawn
from tests.gateways.forgery import Client as KeyHolder
from tests.gateways.wire import USERAUTH_FAILURE, USERAUTH_PK_OK, USERAUTH_SUCCESS, Wire, connected, userauth
from tests.plain import CODE, PROGRAMS, Plain, plain_logins, program
from tests.world import OUTSIDE, WEB_PRODUCTION, WEB_STAGING, World, until, world

DIRECT = f"deploy@{WEB_STAGING}"
PRODUCTION = f"deploy@{WEB_PRODUCTION}"

USERAUTH_INFO_REQUEST, USERAUTH_INFO_RESPONSE = 60, 61
"""RFC 4256, section 5; the first has the number of USERAUTH_PK_OK."""

SESSION_OPEN = Byte(90) + String(b"session") + UInt32(0) + UInt32(2**21) + UInt32(32768)

NOTHING_TO_ASK = String(b"") + String(b"")


@pytest.fixture
async def plain(bastion: World) -> AsyncIterator[Plain]:
    async with plain_logins(bastion) as running:
        yield running


# Every client, every outcome ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_key", [False, True], ids=["no key", "a plain key"])
@pytest.mark.parametrize("name", PROGRAMS)
async def test_the_login_goes_on_by_itself_once_somebody_has_finished_it_in_a_browser(
    plain: Plain, name: str, with_key: bool
) -> None:
    bastion, ada = plain.bastion, plain.person("ada")
    grant = await plain.bastion.grant(ada)
    key = bastion.key("plain") if with_key else None
    async with program(name, bastion, "echo reached; exit 3", key=key) as client:
        code = await client.code()
        page = await plain.browse("ada", code)
        assert page.status == 200, page.text
        assert await client.status() == 3, client.seen
        assert b"reached" in client.seen
    session = await bastion.only_session()
    assert (session.identity, session.target, session.login) == (ada.id, WEB_STAGING, "deploy")
    issued = await bastion.store.certificate(session.certificate_serial)
    assert (issued.identity, issued.grant_id, issued.address) == (ada.id, grant.id, "127.0.0.1")
    shown = asyncssh.read_public_key(f"{key}.pub").get_fingerprint() if key else "none was shown"
    assert shown in plain.last_question
    assert (issued.fingerprint == shown) if key else issued.fingerprint.startswith("connection SHA256:")


async def nobody_with_a_grant(plain: Plain) -> str:
    await plain.bastion.grant(plain.person("ada"))
    return "bob@example.com has no live grant on web-1.staging.eu"


async def a_grant_that_ended(plain: Plain) -> str:
    await plain.bastion.grant(plain.person("bob"), lasts=timedelta(minutes=5))
    plain.bastion.clock.skew = timedelta(minutes=5, seconds=1)
    return "ended at"


async def a_grant_for_another_login(plain: Plain) -> str:
    await plain.bastion.grant(plain.person("bob"), logins=frozenset({"admin"}))
    return "is for the login admin, not deploy"


async def a_grant_for_another_scope(plain: Plain) -> str:
    await plain.bastion.grant(plain.person("bob"), WEB_PRODUCTION)
    return "is for production/eu, not staging/eu"


DENIALS = [nobody_with_a_grant, a_grant_that_ended, a_grant_for_another_login, a_grant_for_another_scope]


@pytest.mark.parametrize("prepare", DENIALS, ids=lambda prepare: prepare.__name__.replace("_", " "))
@pytest.mark.parametrize("name", PROGRAMS)
async def test_without_a_grant_of_ones_own_the_client_reads_what_to_ask_for_and_is_not_let_in(
    plain: Plain, name: str, prepare: Callable[[Plain], Awaitable[str]]
) -> None:
    sentence = await prepare(plain)
    async with program(name, plain.bastion, "echo reached") as client:
        await plain.browse("bob", await client.code())
        assert await client.status() not in (0, 3)
        said = _unwrapped(client.seen)
    assert sentence in said
    assert 'Ask for one: /bastion request web-1.staging.eu as deploy for 2h because "..."' in said
    assert said.count("/device/") == 1, "it was asked again"
    assert not await plain.bastion.store.sessions()
    refusal = (await plain.bastion.events())[-1]
    assert (refusal.kind, refusal.identity) == (Kind.CERTIFICATE_REFUSED, plain.person("bob").id)


@pytest.mark.parametrize("name", PROGRAMS)
async def test_from_outside_the_fence_no_code_is_shown(plain: Plain, name: str) -> None:
    await plain.bastion.grant(plain.person("ada"))
    async with program(name, plain.bastion, "echo reached", bind=OUTSIDE) as client:
        assert await client.status() != 0
        said = _unwrapped(client.seen)
    assert "Nothing here can be reached from where you are" in said
    assert "/device/" not in said
    assert plain.bastion.logins.waiting == 0
    event = (await plain.bastion.events())[-1]
    assert (event.kind, event.address, event.country) == (Kind.LOGIN_FAILED, OUTSIDE, "BR")


def _unwrapped(seen: bytes) -> str:
    """What a client showed, without plink's frame and without line breaks."""
    lines = seen.decode().replace("\r", "").split("\n")
    return "".join(line[2:] if line[:2] in ("| ", "> ") else f" {line}" for line in lines)


# OpenSSH, as people use it --------------------------------------------------------------------------------------------


async def test_a_name_without_a_target_is_told_how_to_name_one(plain: Plain) -> None:
    async with program("openssh", plain.bastion, "true", user="deploy") as client:
        assert await client.status() == 255
        await client.sees("Write: ssh login@target.environment.region@bastion")


async def test_a_target_that_does_not_exist_is_said_to_who_has_logged_in(plain: Plain) -> None:
    async with program("openssh", plain.bastion, "true", user="deploy@nowhere.staging.eu") as client:
        await plain.browse("ada", await client.code())
        assert await client.status() == 255
        await client.sees("There is no target 'nowhere.staging.eu'.")


async def test_a_refusal_in_the_browser_ends_the_login(plain: Plain) -> None:
    await plain.bastion.grant(plain.person("ada"))
    async with program("openssh", plain.bastion, "true") as client:
        await plain.browse("ada", await client.code(), answer="refuse")
        assert await client.status() == 255
        await client.sees("refused in the browser")


async def test_ctrl_c_leaves_nothing_behind(plain: Plain) -> None:
    await plain.bastion.grant(plain.person("ada"))
    async with program("openssh", plain.bastion, "true") as client:
        code = await client.code()
        client.type("\x03")
        assert await client.status() == -signal.SIGINT
    await until(lambda: plain.bastion.logins.waiting == 0)
    assert not await plain.bastion.coordination.holds(login_key(code))
    page = await plain.browse("ada", code)
    assert (page.status, "No login waits with this code" in page.text) == (404, True)


async def test_a_code_that_nobody_confirms_ends_the_login_with_a_sentence(plain: Plain) -> None:
    async with program("openssh", plain.bastion, "true") as client:
        code = await client.code()
        plain.bastion.clock.skew = timedelta(minutes=5, seconds=1)
        assert await client.status() == 255
        await client.sees("Nobody confirmed this login within five minutes")
    assert (await plain.browse("ada", code)).status == 404


async def test_the_session_ends_with_its_grant_as_any_other(plain: Plain) -> None:
    grant = await plain.bastion.grant(plain.person("ada"))
    async with program("openssh", plain.bastion, "echo reached; sleep 60") as client:
        await plain.browse("ada", await client.code())
        await client.sees("reached")
        await plain.bastion.revoke(grant)
        await client.status()
        await client.sees("Your grant was revoked.")
    await until(lambda: plain.bastion.supervision.live == 0)

    async def over() -> bool:
        return (await plain.bastion.only_session()).end is End.REVOKED

    await until(over)


async def test_openssh_is_shown_a_code_for_phones_where_that_is_configured_and_others_are_not(tmp_path: Path) -> None:
    async with world(tmp_path, qr_codes=True) as bastion:
        async with program("openssh", bastion, "true") as client:
            link = f"{bastion.public_url}/device/{await client.code()}"
            await client.sees("Go on only if it is")
            assert drawn(link).replace("\n", "\r\n").encode() in client.seen
        async with program("dbclient", bastion, "true") as client:
            await client.code()
            assert "█".encode() not in client.seen


def test_a_qr_code_is_drawn_module_by_module() -> None:
    """Read back from the half blocks, it is what the encoder made, in its quiet zone."""
    link = "https://bastion.example.com/device/WDJB-MJHT"
    lines = drawn(link).splitlines()
    above = [[half in "█▀" for half in line] for line in lines]
    below = [[half in "█▄" for half in line] for line in lines]
    light = [row for pair in zip(above, below, strict=True) for row in pair]
    made = [[not module for module in row] for row in segno.make_qr(link, error="l").matrix_iter(border=4)]
    assert light[: len(made)] == made
    assert max(map(len, lines)) <= 60


# Whose login it is ----------------------------------------------------------------------------------------------------


async def test_what_ada_begins_and_bob_finishes_is_bobs(plain: Plain) -> None:
    """CVE-2023-48712: there, ada would have been logged in as herself by bob's proof, or bob as ada."""
    await plain.bastion.grant(plain.person("ada"))
    async with program("openssh", plain.bastion, "echo reached", key=plain.bastion.key("ada")) as client:
        await plain.browse("bob", await client.code())
        assert await client.status() == 255
    assert not await plain.bastion.store.sessions()
    await plain.bastion.grant(plain.person("bob"))
    async with program("openssh", plain.bastion, "echo reached", key=plain.bastion.key("ada")) as client:
        await plain.browse("bob", await client.code())
        assert await client.status() == 0
    assert (await plain.bastion.only_session()).identity == plain.person("bob").id


async def test_a_browser_elsewhere_is_warned_and_does_not_get_by_with_a_link(plain: Plain) -> None:
    await plain.bastion.grant(plain.person("ada"))
    async with program("openssh", plain.bastion, "echo reached") as client:
        code = await client.code()
        page = await plain.browse("ada", code, source="127.0.0.2")
        assert (page.status, "your own terminal" in page.text) == (403, True)
        assert "does not come from where you are" in plain.last_question
        assert client.process.returncode is None
        page = await plain.browse("ada", code, source="127.0.0.2", typed=code)
        assert (page.status, await client.status()) == (200, 0)


async def test_a_browser_outside_the_fence_finishes_nothing(plain: Plain) -> None:
    await plain.bastion.grant(plain.person("ada"))
    async with program("openssh", plain.bastion, "echo reached") as client:
        code = await client.code()
        page = await plain.browse("ada", code, source=OUTSIDE, typed=code)
        assert page.status == 403
        assert plain.bastion.logins.waiting == 1


async def test_a_code_answers_the_connection_that_showed_it_and_no_other(plain: Plain) -> None:
    await plain.bastion.grant(plain.person("ada"))
    async with (
        program("openssh", plain.bastion, "echo one") as one,
        program("openssh", plain.bastion, "echo two") as two,
    ):
        first, second = await one.code(), await two.code()
        assert (await plain.browse("ada", first)).status == 200
        assert (await plain.browse("ada", first)).status == 404
        assert await one.status() == 0
        assert two.process.returncode is None
        await plain.browse("ada", second)
        assert await two.status() == 0


# A client without manners ---------------------------------------------------------------------------------------------


async def challenged(wire: Wire, username: str = DIRECT) -> str:
    """Begin the login; its code."""
    wire.send(userauth(username, b"keyboard-interactive", NOTHING_TO_ASK))
    packet = SSHPacket(await wire.expect(USERAUTH_INFO_REQUEST))
    packet.get_byte()
    _, instruction, _ = (packet.get_string() for _ in range(3))
    assert packet.get_uint32() == 0, "it asks something"
    found = CODE.search(instruction)
    assert found is not None
    return found[1].decode()


def answer(wire: Wire, *responses: str) -> None:
    wire.send(
        Byte(USERAUTH_INFO_RESPONSE) + UInt32(len(responses)) + b"".join(String(r.encode()) for r in responses)
    )  # fmt: skip


async def approved(plain: Plain, code: str) -> None:
    ada = replace(plain.person("ada"), authenticated_at=plain.bastion.clock.now())
    await plain.confirmation.approve(code, None, ada, plain.bastion.place("127.0.0.1"))


async def test_an_answer_in_the_terminal_is_no_login(plain: Plain) -> None:
    await plain.bastion.grant(plain.person("ada"))
    async with connected(plain.bastion.port) as wire:
        await wire.begin_auth()
        answer(wire, await challenged(wire), "yes", "ada@example.com")
        wire.send(SESSION_OPEN)
        assert "before authentication" in await wire.gone()
    await until(lambda: plain.bastion.logins.waiting == 0)


async def test_an_answer_that_nobody_asked_for_ends_the_connection(plain: Plain) -> None:
    async with connected(plain.bastion.port) as wire:
        await wire.begin_auth()
        answer(wire)
        assert "not in progress" in await wire.gone()


async def test_another_name_taken_on_the_way_is_not_the_one_that_was_approved(plain: Plain) -> None:
    """The approval is for staging; the request that comes in its place names production."""
    await plain.bastion.grant(plain.person("ada"))
    await plain.bastion.grant(plain.person("ada"), WEB_PRODUCTION)
    async with connected(plain.bastion.port) as wire:
        await wire.begin_auth()
        first = await challenged(wire)
        answer(wire)
        await approved(plain, first)
        wire.send(userauth(PRODUCTION, b"keyboard-interactive", NOTHING_TO_ASK))
        payload = await wire.expect(USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_INFO_REQUEST)
        if payload[0] == USERAUTH_SUCCESS:  # the approval was faster: then it counts, and what came after does not
            assert (await wire.execute("true")).status == 0
            assert (await plain.bastion.only_session()).target == WEB_STAGING
            return
        if payload[0] == USERAUTH_INFO_REQUEST:
            answer(wire)
        wire.send(SESSION_OPEN)
        assert "before authentication" in await wire.gone()
    assert not await plain.bastion.store.sessions()


async def test_what_began_under_one_name_is_not_finished_under_another(plain: Plain) -> None:
    """asyncssh does not let it come so far; should it ever, this does not either."""
    bastion = plain.bastion
    login = PlainLogin(
        logins=bastion.logins, certification=bastion.certification, address=parse_address("127.0.0.1"),
        invitation=Invitation(bastion.public_url),
    )  # fmt: skip
    await login.challenge(DIRECT, "a client")
    with pytest.raises(Refused, match="was not begun"):
        await login.finish(PRODUCTION, b"the connection", say=lambda _: None, gone=lambda: False)
    await login.withdraw()
    assert bastion.logins.waiting == 0


async def test_beginning_under_another_name_makes_the_first_code_void(plain: Plain) -> None:
    await plain.bastion.grant(plain.person("ada"))
    async with connected(plain.bastion.port) as wire:
        await wire.begin_auth()
        first = await challenged(wire)
        second = await challenged(wire, PRODUCTION)
        assert not await plain.bastion.coordination.holds(login_key(first))
        assert await plain.bastion.coordination.holds(login_key(second))
        assert plain.bastion.logins.waiting == 1


async def test_a_key_that_is_only_offered_is_not_shown_as_proven(plain: Plain) -> None:
    """Anybody can offer anybody's key (CVE-2023-42818)."""
    victim, thief = KeyHolder(), KeyHolder()
    async with connected(plain.bastion.port) as wire:
        await wire.begin_auth()
        wire.offer(DIRECT, victim.public)
        await wire.expect(USERAUTH_PK_OK)
        wire.prove(DIRECT, victim.public, thief)
        assert (await wire.expect(USERAUTH_FAILURE))[-1:] == Boolean(False)
        await plain.browse("ada", await challenged(wire))
        assert "none was shown" in plain.last_question
        assert fingerprint(victim.public) not in plain.last_question


async def test_a_proven_key_opens_nothing_whose_ever_it_is(plain: Plain) -> None:
    holder = KeyHolder()
    await plain.bastion.grant(plain.person("ada"))
    async with connected(plain.bastion.port) as wire:
        await wire.begin_auth()
        for _ in range(3):
            wire.prove(DIRECT, holder.public, holder)
            await wire.expect(USERAUTH_FAILURE)
        wire.send(SESSION_OPEN)
        assert "before authentication" in await wire.gone()


async def test_a_connection_that_breaks_while_it_waits_leaves_nothing_behind(plain: Plain) -> None:
    async with connected(plain.bastion.port) as wire:
        await wire.begin_auth()
        code = await challenged(wire)
        answer(wire)
        assert plain.bastion.logins.waiting == 1
    await until(lambda: plain.bastion.logins.waiting == 0)
    assert not await plain.bastion.coordination.holds(login_key(code))


# Stalling -------------------------------------------------------------------------------------------------------------


async def test_a_login_that_waits_outlives_the_time_that_others_have(tmp_path: Path) -> None:
    """The 30 seconds of half-open connections are one here."""
    async with world(tmp_path, login_timeout=1.0) as bastion, plain_logins(bastion) as plain:
        await bastion.grant(plain.person("ada"))
        async with connected(bastion.port) as stalled, program("openssh", bastion, "echo reached") as client:
            await stalled.begin_auth()
            code = await client.code()
            assert await stalled.gone() == ""
            assert client.process.returncode is None
            await plain.browse("ada", code)
            assert await client.status() == 0


async def test_asyncssh_still_cuts_logins_by_the_timer_that_is_prolonged_here() -> None:
    options = asyncssh.SSHServerConnectionOptions(login_timeout=30, server_host_keys=[_host_key()])
    connection = DoorConnection(asyncio.get_running_loop(), options, asyncssh.SSHServer(), None, Windows(8))  # type: ignore[arg-type]  # nothing is judged
    first = connection._login_timer
    connection.allow_login(PATIENCE)
    second = connection._login_timer
    assert first is not None
    assert second is not None
    assert first.cancelled()
    assert second.when() - first.when() == pytest.approx(PATIENCE - 30, abs=5)
    connection._cancel_login_timer()
    assert second.cancelled()


def _host_key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


async def test_two_hundred_half_open_and_two_hundred_waiting_connections_keep_nobody_out(plain: Plain) -> None:
    bastion = plain.bastion
    await bastion.grant(plain.person("ada"))
    async with AsyncExitStack() as flood:
        for _ in range(200):
            _, writer = await asyncio.open_connection("127.0.0.1", bastion.port)
            flood.callback(writer.close)
        refused = 0
        for _ in range(200):
            wire = await flood.enter_async_context(connected(bastion.port))
            await wire.begin_auth()
            wire.send(userauth(DIRECT, b"keyboard-interactive", NOTHING_TO_ASK))
            refused += b"Too many logins" in await wire.expect(USERAUTH_INFO_REQUEST)
        assert refused == 200 - DEFAULT.begun
        async with program("openssh", bastion, "echo reached", bind="127.0.0.2") as client:
            code = await client.code()
            await plain.browse("ada", code, source="127.0.0.2")
            assert await client.status() == 0
        assert bastion.logins.waiting == DEFAULT.begun
    await until(lambda: bastion.logins.waiting == 0)
