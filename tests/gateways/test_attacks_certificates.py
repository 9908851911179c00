"""Certificates that must not log anybody in, shown over a real socket by somebody who has their key.

Each is right in everything but one thing: it is signed by the bastion's own keys wherever that is not the attack, and
the store knows it wherever that is not the attack. `as_it_is_issued` shows that nothing else keeps them out.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import asyncssh
import pytest
from asyncssh.packet import MPInt, String, UInt32
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bastion.core.audit import Kind
from bastion.core.certificate import Certificate, access_principal, certificate_line, parse_certificate
from bastion.core.grant import Grant
from tests.gateways.forgery import Change, Client, certificate_of, forge
from tests.gateways.wire import (
    USERAUTH_FAILURE,
    USERAUTH_PK_OK,
    USERAUTH_SUCCESS,
    Key,
    connected,
)
from tests.world import OUTSIDE, PRODUCTION, STAGING, WEB_PRODUCTION, WEB_STAGING, World, person

shared = pytest.mark.asyncio(loop_scope="module")

ADA, BOB = person("ada"), person("bob")
DIRECT = f"deploy@{WEB_STAGING}"


@dataclass
class Shown:
    """What a client shows, and what it signs with."""

    blob: bytes
    key: Key


async def shown(bastion: World, change: Change = lambda certificate: certificate) -> Shown:
    grant, client = await bastion.grant(ADA), Client()
    return Shown(await forge(bastion, grant, client, change=change), client)


async def logs_in(bastion: World, show: Shown, *, username: str = DIRECT, bind: str = "127.0.0.1") -> list[str] | None:
    """The banners of a login that failed, both as an offer and signed; None when it succeeded."""
    async with connected(bastion.port, bind) as wire:
        await wire.begin_auth()
        wire.offer(username, show.blob)
        offer = (await wire.expect(USERAUTH_FAILURE, USERAUTH_PK_OK))[0]
        wire.prove(username, show.blob, show.key)
        proof = (await wire.expect(USERAUTH_FAILURE, USERAUTH_SUCCESS))[0]
        if proof == USERAUTH_SUCCESS:
            assert offer == USERAUTH_PK_OK
            return None
        return wire.banners


# What is signed by the right key --------------------------------------------------------------------------------------


def as_it_is_issued(certificate: Certificate) -> Certificate:
    return certificate


def with_principals(*names: str) -> Change:
    return lambda certificate: replace(certificate, principals=names)


def with_principal(rewrite: Callable[[str], str]) -> Change:
    return lambda certificate: replace(certificate, principals=(rewrite(certificate.principals[0]),))


def with_options(**options: bytes) -> Change:
    def change(certificate: Certificate) -> Certificate:
        added = {name.replace("_", "-"): value for name, value in options.items()}
        return replace(certificate, critical_options={**certificate.critical_options, **added})

    return change


def valid(begins: timedelta, ends: timedelta) -> Change:
    def change(certificate: Certificate) -> Certificate:
        after = certificate.valid_after
        return replace(certificate, valid_after=after + begins, valid_before=after + ends)

    return change


def without_options(certificate: Certificate) -> Certificate:
    return replace(certificate, critical_options={})


def for_ever(certificate: Certificate) -> Certificate:
    return replace(
        certificate,
        valid_after=datetime.fromtimestamp(0, UTC),
        valid_before=datetime.fromtimestamp(253_402_300_799, UTC),
    )


def source(text: str) -> Change:
    return with_options(source_address=String(text))


_GRANT = "does not name exactly one grant"
_IMPOSSIBLE = "names a grant that cannot exist"
_OPTIONS = "options that are not understood"
_ADDRESS = "for another address"
_UNKNOWN = "is not known here"
_ANOTHER = "is not the one that was made under its number"
_UNREADABLE = "cannot be read"

CHANGES: dict[str, tuple[Change, str]] = {
    "no principals": (with_principals(), _GRANT),
    "an empty principal": (with_principals(""), _GRANT),
    "every principal": (with_principals("*"), _GRANT),
    "the login as principal": (with_principals("deploy"), _GRANT),
    "the user name as principal": (with_principals(DIRECT), _GRANT),
    "the target's principal": (with_principals(f"{STAGING}/deploy"), _GRANT),
    "the scope and nothing after it": (with_principal(lambda p: p.rpartition("/")[0] + "/"), _IMPOSSIBLE),
    "the scope and every grant": (with_principal(lambda p: p.rpartition("/")[0] + "/*"), _IMPOSSIBLE),
    "another scope's principal": (with_principal(lambda p: p.replace(str(STAGING), str(PRODUCTION))), _GRANT),
    "the principal twice": (lambda c: replace(c, principals=c.principals * 2), _GRANT),
    "the login besides the principal": (lambda c: replace(c, principals=(*c.principals, "deploy")), _GRANT),
    "an empty one besides the principal": (lambda c: replace(c, principals=(*c.principals, "")), _GRANT),
    "two principals with a comma": (with_principal(lambda p: f"{p},deploy"), _IMPOSSIBLE),
    "a comma first": (with_principal(lambda p: f",{p}"), _GRANT),
    "a newline after": (with_principal(lambda p: f"{p}\n"), _IMPOSSIBLE),
    "a newline and another": (with_principal(lambda p: f"{p}\ndeploy"), _IMPOSSIBLE),
    "a NUL after": (with_principal(lambda p: f"{p}\0"), _IMPOSSIBLE),
    "a NUL and another": (with_principal(lambda p: f"{p}\0deploy"), _IMPOSSIBLE),
    "a blank before": (with_principal(lambda p: f" {p}"), _GRANT),
    "a blank after": (with_principal(lambda p: f"{p} "), _IMPOSSIBLE),
    "a look-alike letter": (with_principal(lambda p: p.replace("a", "\N{CYRILLIC SMALL LETTER A}", 1)), _GRANT),
    "a full-width digit": (with_principal(lambda p: p[:-1] + "\N{FULLWIDTH DIGIT ONE}"), _IMPOSSIBLE),
    "capitals": (with_principal(str.upper), _GRANT),
    "a grant in capitals": (with_principal(lambda p: p[:-12] + p[-12:].upper()), _ANOTHER),
    "a grant that does not exist": (with_principals(access_principal(STAGING, "g-0000000000000")), _ANOTHER),
    "a way up": (with_principal(lambda p: p.replace("g-", "../g-")), _IMPOSSIBLE),
    "expired": (valid(timedelta(minutes=-20), timedelta(minutes=-10)), "certificate ended at"),
    "expired this very second": (valid(timedelta(minutes=-10), timedelta(0)), "certificate ended at"),
    "not yet valid": (valid(timedelta(minutes=1), timedelta(minutes=10)), "is not valid before"),
    "ends before it begins": (valid(timedelta(minutes=1), timedelta(minutes=-1)), "is not valid before"),
    "good for too long": (valid(timedelta(0), timedelta(hours=1, seconds=1)), "longer than any is"),
    "good for ever": (for_ever, "longer than any is"),
    "from any address": (without_options, _OPTIONS),
    "from another address": (source("127.0.0.2/32"), _ADDRESS),
    "from a network": (source("127.0.0.0/8"), _ADDRESS),
    "from everywhere": (source("0.0.0.0/0"), _ADDRESS),
    "from this address and everywhere": (source("127.0.0.1/32,0.0.0.0/0"), _ADDRESS),
    "from this address written as IPv6": (source("::ffff:127.0.0.1/128"), _ADDRESS),
    "from this address without a length": (source("127.0.0.1"), _ADDRESS),
    "a command that is forced": (with_options(force_command=String("true")), _OPTIONS),
    "an option that nobody knows": (with_options(verify_required=b""), _OPTIONS),
    "an option of somebody's own": (with_options(**{"x@example.com": b""}), _OPTIONS),
}


async def test_as_it_is_issued_it_logs_in(bastion: World) -> None:
    """Without this, nothing below would mean anything."""
    assert await logs_in(bastion, await shown(bastion)) is None


@pytest.mark.parametrize(("change", "sentence"), CHANGES.values(), ids=list(CHANGES))
@shared
async def test_a_certificate_is_refused_with(door: World, change: Change, sentence: str) -> None:
    banners = await logs_in(door, await shown(door, change))
    assert banners is not None
    # asyncssh itself refuses some options before they are judged; then there is no sentence.
    assert not banners or sentence in banners[0]
    assert banners or sentence in (_OPTIONS, _ADDRESS)


# What asyncssh would let pass -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("username", ["deploy", DIRECT, "", "root", "*"])
@shared
async def test_a_certificate_without_principals_opens_no_user_name(door: World, username: str) -> None:
    """asyncssh lets it in as anybody."""
    assert await logs_in(door, await shown(door, with_principals()), username=username)


# Who has signed -------------------------------------------------------------------------------------------------------


async def by_the_target_key(bastion: World, grant: Grant, client: Client) -> bytes:
    """The key that targets trust makes no access, though it is the bastion's and the same scope's."""
    return await forge(
        bastion, grant, client, authority=bastion.signer.target_authority(STAGING),
        sign=lambda body: bastion.signer.sign_target(STAGING, body),
    )  # fmt: skip


async def by_another_scopes_key(bastion: World, grant: Grant, client: Client) -> bytes:
    return await forge(
        bastion, grant, client, authority=bastion.signer.access_authority(PRODUCTION),
        sign=lambda body: bastion.signer.sign_access(PRODUCTION, body),
    )  # fmt: skip


async def by_a_key_of_ones_own(bastion: World, grant: Grant, client: Client) -> bytes:
    mine = Client()
    return await forge(bastion, grant, client, authority=mine.public, sign=signer(mine))


async def by_ones_own_key_in_the_bastions_name(bastion: World, grant: Grant, client: Client) -> bytes:
    return await forge(bastion, grant, client, sign=signer(Client()))


async def by_the_certified_key_itself(bastion: World, grant: Grant, client: Client) -> bytes:
    return await forge(bastion, grant, client, authority=client.public, sign=signer(client))


async def by_a_certificate(bastion: World, grant: Grant, client: Client) -> bytes:
    """A chain: the bastion has certified a key, and that key certifies (PROTOCOL.certkeys forbids it)."""
    return await forge(bastion, grant, client, authority=await forge(bastion, grant, client), sign=signer(client))


async def by_nobody(bastion: World, grant: Grant, client: Client) -> bytes:
    async def empty(_: bytes) -> bytes:
        return b""

    return await forge(bastion, grant, client, sign=empty)


async def by_the_access_key_over_something_else(bastion: World, grant: Grant, client: Client) -> bytes:
    return await forge(bastion, grant, client, sign=lambda _: bastion.signer.sign_access(STAGING, b"something else"))


async def by_the_access_key_and_changed_since(bastion: World, grant: Grant, client: Client) -> bytes:
    blob = await forge(bastion, grant, client, change=lambda c: replace(c, principals=("access/staging/eu/g-1",)))
    return blob.replace(b"g-1", b"g-2")


async def as_a_host_certificate(bastion: World, grant: Grant, client: Client) -> bytes:
    def edit(body: bytes) -> bytes:
        key_id = String(f"ada@example.com {grant.id}")
        return body.replace(UInt32(1) + key_id, UInt32(2) + key_id)

    return await forge(bastion, grant, client, edit=edit)


async def with_something_after_its_end(bastion: World, grant: Grant, client: Client) -> bytes:
    return await forge(bastion, grant, client) + b"\0"


async def that_the_bastion_does_not_remember(bastion: World, grant: Grant, client: Client) -> bytes:
    """Whoever takes the access key makes certificates that are right in themselves; the store has not seen them."""
    return await forge(bastion, grant, client, known=False)


async def under_the_number_of_ones_other_one(bastion: World, grant: Grant, client: Client) -> bytes:
    other = parse_certificate(await certificate_of(bastion, ADA, Client(), WEB_STAGING))
    return await forge(bastion, grant, client, change=lambda c: replace(c, serial=other.serial), known=False)


async def under_the_number_of_somebody_elses(bastion: World, grant: Grant, client: Client) -> bytes:
    await bastion.grant(BOB)
    other = parse_certificate(await certificate_of(bastion, BOB, Client(), WEB_STAGING))
    return await forge(bastion, grant, client, change=lambda c: replace(c, serial=other.serial), known=False)


async def with_somebody_elses_grant(bastion: World, grant: Grant, client: Client) -> bytes:
    """Known under its number, but for another grant."""
    bobs, serial = await bastion.grant(BOB), 4711
    await forge(bastion, grant, client, change=lambda c: replace(c, serial=serial))
    principals = (access_principal(STAGING, bobs.id),)
    return await forge(
        bastion, grant, client, change=lambda c: replace(c, serial=serial, principals=principals), known=False
    )


async def with_a_revoked_grant(bastion: World, grant: Grant, client: Client) -> bytes:
    await bastion.revoke(grant)
    return await forge(bastion, grant, client)


def signer(client: Client) -> Callable[[bytes], Awaitable[bytes]]:
    async def sign(body: bytes) -> bytes:
        return client.sign(body)

    return sign


_STRANGER = "was not made by this bastion"

FORGERIES: list[tuple[Callable[[World, Grant, Client], Awaitable[bytes]], str | None]] = [
    (by_the_target_key, _STRANGER),
    (by_another_scopes_key, _GRANT),
    (by_a_key_of_ones_own, _STRANGER),
    (by_ones_own_key_in_the_bastions_name, None),
    (by_the_certified_key_itself, _STRANGER),
    (by_a_certificate, _UNREADABLE),
    (by_nobody, None),
    (by_the_access_key_over_something_else, None),
    (by_the_access_key_and_changed_since, None),
    (as_a_host_certificate, _UNREADABLE),
    (with_something_after_its_end, _UNREADABLE),
    (that_the_bastion_does_not_remember, _UNKNOWN),
    (under_the_number_of_ones_other_one, "is not the one that was made under its number"),
    (under_the_number_of_somebody_elses, "is not the one that was made under its number"),
    (with_somebody_elses_grant, "is not the one that was made under its number"),
    (with_a_revoked_grant, "was revoked at"),
]


@pytest.mark.parametrize(
    ("make", "sentence"), FORGERIES, ids=[make.__name__.replace("_", " ") for make, _ in FORGERIES]
)
@shared
async def test_a_certificate_is_refused_when_it_was_made(
    door: World, make: Callable[[World, Grant, Client], Awaitable[bytes]], sentence: str | None
) -> None:
    grant, client = await door.grant(ADA), Client()
    banners = await logs_in(door, Shown(await make(door, grant, client), client))
    assert banners == [] if sentence is None else banners and sentence in banners[0]


async def test_the_forged_host_certificate_is_one(bastion: World) -> None:
    grant, client = await bastion.grant(ADA), Client()
    blob = await as_a_host_certificate(bastion, grant, client)
    path = bastion.folder / "host-cert.pub"
    path.write_text(certificate_line(blob, "forged"))
    process = await asyncio.create_subprocess_exec("ssh-keygen", "-L", "-f", str(path), stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert b"host certificate" in out


async def test_strangers_certificates_leave_no_event_and_our_own_do(bastion: World) -> None:
    grant, client = await bastion.grant(ADA), Client()
    await logs_in(bastion, Shown(await by_a_key_of_ones_own(bastion, grant, client), client))
    await logs_in(bastion, Shown(await by_ones_own_key_in_the_bastions_name(bastion, grant, client), client))
    assert not await bastion.events(Kind.CONNECTION_REFUSED)
    await logs_in(bastion, Shown(await by_another_scopes_key(bastion, grant, client), client))
    assert await bastion.events(Kind.CONNECTION_REFUSED)


# Whose is it, and from where ------------------------------------------------------------------------------------------


async def test_a_certificate_without_its_key_is_paper(bastion: World) -> None:
    stolen = Shown((await shown(bastion)).blob, Client())
    assert await logs_in(bastion, stolen) == []


async def test_a_certificate_opens_from_its_address_only(bastion: World) -> None:
    show = await shown(bastion)
    banners = await logs_in(bastion, show, bind="127.0.0.2")
    assert banners
    assert _ADDRESS in banners[0]
    banners = await logs_in(bastion, show, bind=OUTSIDE)
    assert banners
    assert "127.0.0.66 is in BR" in banners[0]


async def test_a_certificate_of_one_scope_does_not_log_in_for_a_target_of_another(bastion: World) -> None:
    banners = await logs_in(bastion, await shown(bastion), username=f"deploy@{WEB_PRODUCTION}")
    assert banners
    assert "does not open production/eu" in banners[0]


async def test_ipv4_mapped_addresses_are_the_ipv4_addresses_that_they_are(bastion: World) -> None:
    """On a socket for both, an IPv4 client is `::ffff:127.0.0.1`."""
    show = await shown(bastion)
    listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    server = await asyncio.get_running_loop().create_server(bastion.gateway._greet, sock=listening)
    port = listening.getsockname()[1]
    async with connected(port) as wire:
        await wire.log_in(DIRECT, show.blob, show.key)
        assert (await wire.execute("true")).status == 0
    server.close()
    assert (await bastion.only_session()).address == "127.0.0.1"


# Keys of other kinds --------------------------------------------------------------------------------------------------


def _rsa_certificate(bits: int, authority: bytes, exponent: int) -> bytes:
    """A certificate over an RSA key of ``bits``, as anybody can write one down; nobody needs to have its key."""
    modulus = (1 << bits) - 0x2F
    body = b"".join(
        (
            String(b"ssh-rsa-cert-v01@openssh.com"), String(b"n" * 32), MPInt(exponent), MPInt(modulus),
            struct.pack(">QI", 1, 1), String(b"ada"), String(String(b"deploy")), struct.pack(">QQ", 0, 2**63),
            String(b""), String(b""), String(b""), String(authority),
        )
    )  # fmt: skip
    return body + String(String(b"rsa-sha2-512") + String(b"\x7f" * (bits // 8)))


@pytest.mark.parametrize("bits", [3072, 16384, 60000])
@shared
async def test_giant_rsa_keys_cost_nothing(door: World, bits: int) -> None:
    """Certified, as a plain key, and as the authority whose signature asyncssh would check (CVE-2026-39829)."""
    modulus = (1 << bits) - 0x2F
    exponent = modulus - 2 if bits == 3072 else 2**63 - 1
    giant = String(b"ssh-rsa") + MPInt(exponent) + MPInt(modulus)
    blobs = [_rsa_certificate(bits, giant, exponent), giant]
    began = time.process_time()
    async with connected(door.port) as wire:
        await wire.begin_auth()
        login = time.process_time() - began
        for blob in blobs * 8:
            wire.offer(DIRECT, blob)
            await wire.expect(USERAUTH_FAILURE)
        spent = time.process_time() - began - login
    assert spent < 0.25, f"{spent} s of CPU for sixteen offers"


class SecurityKey:
    """An sk-ssh-ed25519@openssh.com key in software; ``flags`` are what it says of the person (bit 0: touched)."""

    TYPE, APPLICATION = b"sk-ssh-ed25519@openssh.com", b"ssh:"

    def __init__(self, flags: int) -> None:
        self._private = Ed25519PrivateKey.generate()
        self._flags = flags
        self.public = b"".join(
            map(
                String, (b"sk-ssh-ed25519@openssh.com", self._private.public_key().public_bytes_raw(), self.APPLICATION)
            )
        )
        self.line = f"sk-ssh-ed25519@openssh.com {base64.b64encode(self.public).decode()}"

    def sign(self, data: bytes) -> bytes:
        """OpenSSH's PROTOCOL.u2f: the application, the flags and a counter are signed with the message's digest."""
        counter = 7
        said = bytes([self._flags]) + UInt32(counter)
        over = hashlib.sha256(self.APPLICATION).digest() + said + hashlib.sha256(data).digest()
        return String(self.TYPE) + String(self._private.sign(over)) + said


@pytest.mark.parametrize(("flags", "enters"), [(0, False), (1, True), (4, False), (5, True)])
@shared
async def test_a_security_key_must_have_been_touched(door: World, flags: int, enters: bool) -> None:
    await door.grant(ADA)
    key = SecurityKey(flags)
    line, _ = await door.certification.issue(ADA, door.place("127.0.0.1"), key.line, WEB_STAGING)
    blob = asyncssh.import_certificate(line).public_data
    assert (await logs_in(door, Shown(blob, key)) is None) is enters


async def test_a_certificate_cannot_excuse_its_key_from_being_touched(bastion: World) -> None:
    """`no-touch-required` is a promise of whoever signs, and the bastion never makes it."""
    grant, key = await bastion.grant(ADA), SecurityKey(flags=0)
    blob = await forge(
        bastion, grant, key, change=lambda c: replace(c, extensions={**c.extensions, "no-touch-required": b""})
    )
    assert await logs_in(bastion, Shown(blob, key)) == []
