"""Certificates that nobody should accept, and the one that everybody does, to be shown over the wire."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol, TypeAlias

import asyncssh

from bastion.core.certificate import (
    Certificate,
    access_certificate,
    parse_public_key,
    signed,
    to_be_signed,
)
from bastion.core.grant import Grant
from bastion.core.identity import Identity, Strength
from bastion.ports import IssuedCertificate
from tests.world import STAGING, World

Sign: TypeAlias = Callable[[bytes], Awaitable[bytes]]
Change: TypeAlias = Callable[[Certificate], Certificate]


@dataclass
class Client:
    """Somebody's key, as the raw client signs with it."""

    private: asyncssh.SSHKey = field(default_factory=lambda: asyncssh.generate_private_key("ssh-ed25519"))

    @property
    def line(self) -> str:
        return self.private.export_public_key().decode()

    @property
    def public(self) -> bytes:
        """The key's blob (RFC 4253, section 6.6)."""
        return self.private.public_data

    def sign(self, data: bytes) -> bytes:
        return self.private.sign(data, self.private.sig_algorithms[0])


class Certifiable(Protocol):
    """Somebody who has a key."""

    @property
    def line(self) -> str:
        """As in a ``.pub`` file."""
        ...


async def certificate_of(bastion: World, identity: Identity, client: Client, target: str) -> bytes:
    """A certificate as the bastion issues it, for an identity that has a grant."""
    line, _ = await bastion.certification.issue(identity, bastion.place("127.0.0.1"), client.line, target)
    return blob_of(line)


def blob_of(line: str) -> bytes:
    return asyncssh.import_certificate(line).public_data


async def forge(
    bastion: World,
    grant: Grant,
    client: Certifiable,
    *,
    change: Change = lambda certificate: certificate,
    authority: bytes | None = None,
    sign: Sign | None = None,
    edit: Callable[[bytes], bytes] = lambda body: body,
    known: bool = True,
) -> bytes:
    """A certificate made with the bastion's own keys, right in everything but what the arguments change.

    Args:
        bastion: whose keys and store are used.
        grant: what it proves.
        client: whose key is certified.
        change: to its contents.
        authority: the blob of the key that is said to have signed.
        sign: who signs.
        edit: the bytes to be signed, for what no contents can say.
        known: whether the store has it, as it has every certificate that was issued.
    """
    now = bastion.clock.now()
    certificate = change(
        access_certificate(
            parse_public_key(client.line), serial=secrets.randbits(63), identity="ada@example.com", scope=STAGING,
            grant_id=grant.id, grant_ends_at=grant.ends_at, address=ipaddress.ip_address("127.0.0.1"),
            authority=authority or bastion.signer.access_authority(STAGING), lifetime=timedelta(minutes=10), now=now,
        )
    )  # fmt: skip
    if known:
        await remember(bastion, grant, certificate)
    body = edit(to_be_signed(certificate, secrets.token_bytes(32)))
    return signed(body, await (sign or _by_access_key(bastion))(body))


def _by_access_key(bastion: World) -> Sign:
    return lambda body: bastion.signer.sign_access(STAGING, body)


async def remember(bastion: World, grant: Grant, certificate: Certificate) -> None:
    """Put a certificate into the store, as issuing does."""
    issued = IssuedCertificate(
        serial=certificate.serial,
        fingerprint=certificate.public_key.fingerprint,
        identity=grant.identity,
        scope=grant.scope,
        grant_id=grant.id,
        address="127.0.0.1",
        valid_after=certificate.valid_after,
        valid_before=certificate.valid_before,
        strength=Strength(certificate.valid_after),
    )
    async with bastion.store.transaction() as transaction:
        await transaction.add_certificate(issued)
