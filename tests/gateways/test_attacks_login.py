"""Logging in as somebody else, or before one's turn: over a real socket, by a client without manners."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from asyncssh.packet import Boolean, Byte, String, UInt32

from bastion.access.certification import Proven
from bastion.core.audit import Kind
from bastion.core.certificate import Rejected
from bastion.core.geofence import Address
from bastion.gateways.ssh.door import MAX_OFFERS
from bastion.gateways.ssh.limits import MAX_FAILURES
from tests.gateways.forgery import Client, certificate_of
from tests.gateways.wire import (
    CHANNEL_REFUSED,
    DEBUG,
    GLOBAL_REQUEST,
    IGNORE,
    SERVICE_ACCEPT,
    SERVICE_REQUEST,
    UNIMPLEMENTED,
    USERAUTH_FAILURE,
    USERAUTH_PK_OK,
    USERAUTH_SUCCESS,
    Gone,
    connected,
    jump,
    offered,
    userauth,
)
from tests.world import WEB_PRODUCTION, WEB_STAGING, World, person, until

shared = pytest.mark.asyncio(loop_scope="module")

ADA, BOB = person("ada"), person("bob")
DIRECT = f"deploy@{WEB_STAGING}"

OFFERED_METHODS = String(b"publickey,keyboard-interactive")

USERAUTH_INFO_REQUEST = 60
"""The number is USERAUTH_PK_OK's, too (RFC 4256, section 5)."""

SESSION_OPEN = Byte(90) + String(b"session") + UInt32(0) + UInt32(2**21) + UInt32(32768)


@dataclass
class Holder:
    """Somebody with a grant, a key and its certificate."""

    blob: bytes
    client: Client


async def holder(bastion: World, who: str = "ada", target: str = WEB_STAGING) -> Holder:
    await bastion.grant(person(who), target)
    client = Client()
    return Holder(await certificate_of(bastion, person(who), client, target), client)


async def nobody_came_in(bastion: World) -> None:
    """Nothing was opened, and no target was reached."""
    assert not await bastion.store.sessions()
    assert not any("Accepted" in line for line in bastion.staging.log() + bastion.production.log())


@dataclass
class SlowJudge:
    """Certification that waits before each verdict, until it is told."""

    bastion: World
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0

    def __post_init__(self) -> None:
        self._judge = self.bastion.certification.judge
        self.bastion.certification.judge = self.judge  # type: ignore[method-assign]  # a store that is slow

    async def judge(self, blob: bytes, address: Address) -> Proven | Rejected:
        self.asked += 1
        await self.may_answer.wait()
        return await self._judge(blob, address)


async def test_the_honest_way_works(bastion: World) -> None:
    """Without this, nothing below would mean anything."""
    ada = await holder(bastion)
    async with connected(bastion.port) as wire:
        await wire.log_in(DIRECT, ada.blob, ada.client)
        ran = await wire.execute("echo hello; echo oops >&2; exit 3")
        assert (ran.out, ran.err, ran.status) == (b"hello\n", b"oops\n", 3)


async def test_an_offer_before_the_signature_changes_nothing(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.offer(DIRECT, ada.blob)
        await wire.expect(USERAUTH_PK_OK)
        wire.prove(DIRECT, ada.blob, ada.client)
        await wire.expect(USERAUTH_SUCCESS)
        assert (await wire.execute("echo in")).out == b"in\n"


# Who signed -----------------------------------------------------------------------------------------------------------


async def test_a_second_request_under_another_name_while_the_first_is_judged_is_judged_alone(bastion: World) -> None:
    """asyncssh before 2.24.1 logged the first one's key in under the second one's name."""
    ada = await holder(bastion)
    judge = SlowJudge(bastion)
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.prove(DIRECT, ada.blob, ada.client)
        await until(lambda: judge.asked)
        wire.send(userauth(f"admin@{WEB_STAGING}", b"none"))
        await wire.expect(USERAUTH_FAILURE)
        judge.may_answer.set()
        wire.send(SESSION_OPEN)
        assert "before authentication" in await wire.gone()
    await nobody_came_in(bastion)


async def test_an_offer_pipelined_after_a_signature_takes_the_signature_with_it(bastion: World) -> None:
    """Two requests in one segment: neither the first one's proof nor its name is left to the second."""
    ada = await holder(bastion)
    judge = SlowJudge(bastion)
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.prove(DIRECT, ada.blob, ada.client)
        wire.offer(f"admin@{WEB_STAGING}", ada.blob)
        await until(lambda: judge.asked)
        judge.may_answer.set()
        await wire.expect(USERAUTH_PK_OK)
        wire.send(SESSION_OPEN)
        assert "before authentication" in await wire.gone()
    await nobody_came_in(bastion)


async def test_an_offer_is_not_a_login(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.offer(DIRECT, ada.blob)
        await wire.expect(USERAUTH_PK_OK)
        wire.send(SESSION_OPEN)
        assert "before authentication" in await wire.gone()
    await nobody_came_in(bastion)


async def test_the_victims_certificate_offered_and_ones_own_key_signed(bastion: World) -> None:
    """What is recorded is who signed, not who was offered last."""
    ada, bob = await holder(bastion), await holder(bastion, "bob")
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        for _ in range(2):
            wire.offer(DIRECT, ada.blob)
            await wire.expect(USERAUTH_PK_OK)
        wire.prove(DIRECT, ada.blob, bob.client)
        await wire.expect(USERAUTH_FAILURE)
        wire.prove(DIRECT, bob.blob, bob.client)
        await wire.expect(USERAUTH_SUCCESS)
        assert (await wire.execute("true")).status == 0
    assert (await bastion.only_session()).identity == BOB.id


async def test_a_certificate_of_another_scope_that_was_only_offered_opens_nothing_there(bastion: World) -> None:
    staging, production = await holder(bastion), await holder(bastion, target=WEB_PRODUCTION)
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.offer(f"deploy@{WEB_PRODUCTION}", production.blob)
        await wire.expect(USERAUTH_PK_OK)
        wire.prove(f"deploy@{WEB_PRODUCTION}", staging.blob, staging.client)
        await wire.expect(USERAUTH_FAILURE)
        wire.prove("deploy", staging.blob, staging.client)
        await wire.expect(USERAUTH_SUCCESS)
        assert b"Which target?" in (await wire.execute("true")).err
        wire.open(b"direct-tcpip", String(WEB_PRODUCTION) + UInt32(22) + String(b"127.0.0.1") + UInt32(1))
        assert "is for staging/eu" in await wire.refused()
    await nobody_came_in(bastion)


async def test_the_name_is_that_of_the_signature_and_not_of_an_earlier_offer(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.offer(f"admin@{WEB_STAGING}", ada.blob)
        await wire.expect(USERAUTH_PK_OK)
        wire.prove(DIRECT, ada.blob, ada.client)
        await wire.expect(USERAUTH_SUCCESS)
        assert (await wire.execute("true")).status == 0
    assert (await bastion.only_session()).login == "deploy"


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param({"session_id": b"\0" * 32}, id="no session"),
        pytest.param({"session_id": b""}, id="an empty session id"),
        pytest.param({"says": userauth(f"admin@{WEB_STAGING}", b"publickey")}, id="another request"),
        pytest.param({"says": b"\0"}, id="next to nothing"),
    ],
)
async def test_a_signature_over_something_else_proves_nothing(bastion: World, lie: dict[str, bytes]) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.prove(DIRECT, ada.blob, ada.client, **lie)
        await wire.expect(USERAUTH_FAILURE)


async def test_a_signature_made_for_another_connection_proves_nothing(bastion: World) -> None:
    """A server that a victim logs in to cannot pass the login on."""
    ada = await holder(bastion)
    async with connected(bastion.port) as honest, connected(bastion.port) as thief:
        await honest.begin_auth()
        await thief.begin_auth()
        thief.prove(DIRECT, ada.blob, ada.client, session_id=honest.session_id)
        await thief.expect(USERAUTH_FAILURE)


async def test_a_key_whose_certificate_is_not_shown_does_not_log_in(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.offer(DIRECT, ada.client.public)
        await wire.expect(USERAUTH_PK_OK)
        wire.prove(DIRECT, ada.client.public, ada.client)
        assert (await wire.expect(USERAUTH_FAILURE))[1:] == OFFERED_METHODS + Boolean(True)
        wire.send(SESSION_OPEN)
        assert "before authentication" in await wire.gone()
    await nobody_came_in(bastion)


async def test_a_grant_revoked_between_offer_and_signature_does_not_log_in(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.offer(DIRECT, ada.blob)
        await wire.expect(USERAUTH_PK_OK)
        await bastion.revoke((await bastion.store.grants())[0])
        wire.prove(DIRECT, ada.blob, ada.client)
        await wire.expect(USERAUTH_FAILURE)
    assert "was revoked at" in wire.banners[0]


async def test_a_certificate_that_ends_between_offer_and_signature_does_not_log_in(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.offer(DIRECT, ada.blob)
        await wire.expect(USERAUTH_PK_OK)
        bastion.clock.skew = timedelta(minutes=10, seconds=1)
        wire.prove(DIRECT, ada.blob, ada.client)
        await wire.expect(USERAUTH_FAILURE)


async def test_a_grant_revoked_after_the_login_opens_no_more_sessions(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as wire:
        await wire.log_in(DIRECT, ada.blob, ada.client)
        await bastion.revoke((await bastion.store.grants())[0])
        ran = await wire.execute("true")
    assert ran.status == 254
    assert b"was revoked" in ran.err
    await nobody_came_in(bastion)


# What is not offered --------------------------------------------------------------------------------------------------

METHODS = {
    "none": b"",
    "password": Boolean(False) + String(b"secret"),
    "password, with a new one": Boolean(True) + String(b"secret") + String(b"secret2"),
    "keyboard-interactive": String(b"") + String(b""),
    "hostbased": b"".join(map(String, (b"ssh-ed25519", b"key", b"localhost", b"root", b"signature"))),
    "gssapi-with-mic": UInt32(0),
    "gssapi-keyex": String(b"mic"),
    "": b"",
    "x" * 5000: b"",
}


@pytest.mark.parametrize("method", METHODS, ids=[name[:30] or "no method" for name in METHODS])
async def test_nothing_logs_in_by_itself_but_a_certificate(bastion: World, method: str) -> None:
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.send(userauth(DIRECT, method.partition(",")[0].encode(), METHODS[method]))
        if method == "keyboard-interactive":
            await wire.expect(USERAUTH_INFO_REQUEST)
        else:
            assert (await wire.expect(USERAUTH_FAILURE))[1:] == OFFERED_METHODS + Boolean(False)
        wire.send(SESSION_OPEN)
        assert "before authentication" in await wire.gone()


@pytest.mark.parametrize("service", [b"ssh-userauth", b"", b"root"])
async def test_a_login_for_another_service_than_connections_ends_the_connection(bastion: World, service: bytes) -> None:
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.send(userauth(DIRECT, b"none", service=service))
        assert "service" in await wire.gone()


# Before one's turn ----------------------------------------------------------------------------------------------------

EARLY = {
    "a session": SESSION_OPEN,
    "a forward": Byte(90) + String(b"direct-tcpip") + UInt32(0) * 3 + String(WEB_STAGING) + UInt32(22),
    "a request of a channel": Byte(98) + UInt32(0) + String(b"exec") + Boolean(True) + String(b"id"),
    "data for a channel": Byte(94) + UInt32(0) + String(b"id\n"),
    "a forwarding listener": Byte(GLOBAL_REQUEST) + String(b"tcpip-forward") + Boolean(True) + String(b"") + UInt32(0),
    "a keepalive": Byte(GLOBAL_REQUEST) + String(b"keepalive@openssh.com") + Boolean(True),
    "proof of the host keys": Byte(GLOBAL_REQUEST) + String(b"hostkeys-prove-00@openssh.com") + Boolean(True),
    "the server's success": Byte(USERAUTH_SUCCESS),
    "the server's agreement": Byte(USERAUTH_PK_OK) + String(b"ssh-ed25519") + String(b""),
}


@pytest.mark.parametrize("payload", EARLY.values(), ids=list(EARLY))
@shared
async def test_before_the_login_there_is_nothing_else(door: World, payload: bytes) -> None:
    async with connected(door.port) as wire:
        await wire.begin_auth()
        wire.send(payload)
        assert await wire.gone()
    await nobody_came_in(door)


@pytest.mark.parametrize("payload", EARLY.values(), ids=list(EARLY))
@shared
async def test_before_the_keys_there_is_nothing_else(door: World, payload: bytes) -> None:
    async with connected(door.port) as wire:
        await wire.hello()
        wire.send(payload)
        await wire.gone()


async def test_a_login_before_the_keys_ends_the_connection(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as wire:
        await wire.hello()
        wire.send(Byte(SERVICE_REQUEST) + String(b"ssh-userauth"))
        wire.prove(DIRECT, ada.blob, ada.client)
        await wire.gone()


async def test_a_login_before_its_service_was_asked_for_does_not_open_a_session(bastion: World) -> None:
    """RFC 4252, section 4, asks for the service first. The proof is the same either way, so a session is not at stake:
    what is, is that no state in between lets anything through that is unproven."""
    bob, ada = await holder(bastion, "bob"), await holder(bastion)
    async with connected(bastion.port) as wire:
        await wire.exchange_keys()
        wire.prove(DIRECT, bob.blob, ada.client)
        wire.send(SESSION_OPEN)
        await wire.gone()
    await nobody_came_in(bastion)


@pytest.mark.parametrize("service", [b"ssh-connection", b"ssh-userauth2", b""])
async def test_no_other_service_comes_before_the_login(bastion: World, service: bytes) -> None:
    async with connected(bastion.port) as wire:
        await wire.exchange_keys()
        wire.send(Byte(SERVICE_REQUEST) + String(service))
        assert "service" in await wire.gone()


async def test_the_service_may_be_asked_for_again_until_somebody_has_logged_in(bastion: World) -> None:
    """paramiko asks before every method it tries."""
    ada = await holder(bastion)
    again = Byte(SERVICE_REQUEST) + String(b"ssh-userauth")
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        wire.send(again)
        await wire.expect(SERVICE_ACCEPT)
        wire.prove(DIRECT, ada.blob, ada.client)
        await wire.expect(USERAUTH_SUCCESS)
        wire.send(again)
        assert "service" in await wire.gone()


async def test_after_the_login_another_name_cannot_be_taken(bastion: World) -> None:
    ada, bob = await holder(bastion), await holder(bastion, "bob")
    async with connected(bastion.port) as wire:
        await wire.log_in(DIRECT, ada.blob, ada.client)
        wire.prove(f"admin@{WEB_STAGING}", bob.blob, bob.client)
        assert (await wire.execute("true")).status == 0
        wire.prove(DIRECT, bob.blob, bob.client)
        assert await wire.gone()
    session = await bastion.only_session()
    assert (session.identity, session.login) == (ADA.id, "deploy")


# Key exchange ---------------------------------------------------------------------------------------------------------

INJECTED = {
    "IGNORE": Byte(IGNORE) + String(b""),
    "DEBUG": Byte(DEBUG) + Boolean(False) + String(b"") + String(b""),
    "UNIMPLEMENTED": Byte(UNIMPLEMENTED) + UInt32(0),
    "a number that nobody uses": Byte(199),
}


async def test_strict_key_exchange_is_offered(bastion: World) -> None:
    async with connected(bastion.port) as wire:
        await wire.hello()
        assert b"kex-strict-s-v00@openssh.com" in offered(wire.server_kexinit)


@pytest.mark.parametrize("payload", INJECTED.values(), ids=list(INJECTED))
@pytest.mark.parametrize("where", ["at the beginning", "before NEWKEYS"])
@shared
async def test_a_packet_slipped_into_a_strict_key_exchange_ends_the_connection(
    door: World, payload: bytes, where: str
) -> None:
    """Terrapin (CVE-2023-48795): what is slipped in shifts the numbers of what is cut out later."""
    first, before_newkeys = ([payload], []) if where == "at the beginning" else ([], [payload])
    async with connected(door.port) as wire:
        try:
            await wire.exchange_keys(strict=True, first=first, before_newkeys=before_newkeys)
            reason = await wire.gone()
        except Gone as gone:
            reason = str(gone)
        assert re.search("Strict key exchange violation|before key exchange was complete", reason)


@pytest.mark.parametrize(
    "kex", ["diffie-hellman-group18-sha512", "diffie-hellman-group-exchange-sha256", "diffie-hellman-group14-sha1",
            "rsa2048-sha256", "curve448-sha512", "gss-group18-sha512-x"]
)  # fmt: skip
async def test_a_key_exchange_that_costs_the_bastion_more_than_the_client_is_not_offered(
    bastion: World, kex: str
) -> None:
    """Before any login: group 18 costs it a hundred times what curve25519 does, and the client nothing
    (CVE-2002-20001)."""
    async with connected(bastion.port) as wire:
        await wire.hello()
        assert kex.encode() not in offered(wire.server_kexinit)
        with pytest.raises(Gone):
            await wire.exchange_keys(kex=kex.encode())


# Guessing -------------------------------------------------------------------------------------------------------------


async def test_a_connection_does_not_go_on_guessing(bastion: World) -> None:
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        for _ in range(MAX_FAILURES):
            wire.send(userauth(DIRECT, b"none"))
            await wire.expect(USERAUTH_FAILURE)
        wire.send(userauth(DIRECT, b"none"))
        assert "Too many" in await wire.gone()


async def test_certificates_that_are_right_cannot_be_offered_without_end(bastion: World) -> None:
    """Each offer asks the store."""
    ada = await holder(bastion)
    judge = SlowJudge(bastion)
    judge.may_answer.set()
    async with connected(bastion.port) as wire:
        await wire.begin_auth()
        for _ in range(MAX_OFFERS):
            wire.offer(DIRECT, ada.blob)
            await wire.expect(USERAUTH_PK_OK)
        wire.offer(DIRECT, ada.blob)
        assert "Too many" in await wire.gone()
    assert judge.asked == MAX_OFFERS


# SSH inside SSH -------------------------------------------------------------------------------------------------------


async def test_the_inner_connection_of_a_jump_works(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as outer:
        await outer.log_in("ada", ada.blob, ada.client)
        inner = await jump(outer, WEB_STAGING)
        await inner.log_in("deploy", ada.blob, ada.client)
        assert (await inner.execute("echo inside")).out == b"inside\n"


async def test_the_inner_connection_needs_a_login_of_its_own(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as outer:
        await outer.log_in("ada", ada.blob, ada.client)
        inner = await jump(outer, WEB_STAGING)
        await inner.begin_auth()
        inner.send(SESSION_OPEN)
        assert "before authentication" in await inner.gone()
    await nobody_came_in(bastion)


async def test_the_inner_login_signs_the_inner_connection(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as outer:
        await outer.log_in("ada", ada.blob, ada.client)
        inner = await jump(outer, WEB_STAGING)
        await inner.begin_auth()
        inner.prove("deploy", ada.blob, ada.client, session_id=outer.session_id)
        await inner.expect(USERAUTH_FAILURE)


async def test_somebody_elses_certificate_does_not_open_the_inner_connection(bastion: World) -> None:
    """Ada lends Bob her way through the bastion."""
    ada, bob = await holder(bastion), await holder(bastion, "bob")
    async with connected(bastion.port) as outer:
        await outer.log_in("ada", ada.blob, ada.client)
        inner = await jump(outer, WEB_STAGING)
        await inner.begin_auth()
        inner.prove("deploy", bob.blob, bob.client)
        await inner.expect(USERAUTH_FAILURE)
        assert "somebody else's" in inner.banners[0]
    await nobody_came_in(bastion)


async def test_ssh_inside_ssh_inside_ssh_is_refused(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as outer:
        await outer.log_in("ada", ada.blob, ada.client)
        inner = await jump(outer, WEB_STAGING)
        await inner.log_in("deploy", ada.blob, ada.client)
        inner.open(b"direct-tcpip", String(WEB_STAGING) + UInt32(22) + String(b"127.0.0.1") + UInt32(1))
        assert "does not include ssh:forward" in await inner.refused()


async def test_the_user_name_inside_does_not_choose_another_target(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as outer:
        await outer.log_in("ada", ada.blob, ada.client)
        inner = await jump(outer, WEB_STAGING)
        await inner.log_in(f"deploy@{WEB_PRODUCTION}", ada.blob, ada.client)
        assert b"named twice" in (await inner.execute("true")).err
    await nobody_came_in(bastion)


async def test_each_refusal_of_a_forward_is_in_the_audit_log(bastion: World) -> None:
    ada = await holder(bastion)
    async with connected(bastion.port) as outer:
        await outer.log_in("ada", ada.blob, ada.client)
        outer.open(b"direct-tcpip", String(WEB_PRODUCTION) + UInt32(22) + String(b"127.0.0.1") + UInt32(1))
        await outer.expect(CHANNEL_REFUSED)
    (denial,) = await bastion.events(Kind.ACCESS_DENIED)
    assert (denial.identity, denial.target) == (ADA.id, WEB_PRODUCTION)
