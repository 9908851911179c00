"""Certificates: what is made is what OpenSSH reads, and nothing else is accepted."""

from __future__ import annotations

import ipaddress
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncssh
import pytest
from asyncssh.public_key import SSHOpenSSHCertificate
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.certificate import (
    CLOCK_TOLERANCE,
    MAX_LIFETIME,
    Accepted,
    Certificate,
    Rejected,
    access_certificate,
    certificate_line,
    judge_access,
    parse_certificate,
    parse_public_key,
    permits,
    signed,
    target_certificate,
    target_principal,
    to_be_signed,
)
from bastion.core.errors import Refused
from bastion.core.policy import Action
from bastion.core.target import Scope

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
ADDRESS = ipaddress.ip_address("192.0.2.7")
STAGING, PRODUCTION = Scope("staging", "eu"), Scope("production", "eu")


class Authority:
    """A scope's key, as a test holds it."""

    def __init__(self) -> None:
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.blob = self.key.public_data

    def sign(self, certificate: Certificate) -> bytes:
        body = to_be_signed(certificate, b"n" * 32)
        return signed(body, self.key.sign(body, b"ssh-ed25519"))


AUTHORITY, STRANGER = Authority(), Authority()
CLIENT = parse_public_key(asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode())


def issue(
    grant_ends_at: datetime = NOW + timedelta(hours=2), lifetime: timedelta = timedelta(minutes=10)
) -> Certificate:
    return access_certificate(
        CLIENT,
        serial=7,
        identity="ada@example.com",
        scope=STAGING,
        grant_id="g-4t9z2m0wq7xh",
        grant_ends_at=grant_ends_at,
        address=ADDRESS,
        authority=AUTHORITY.blob,
        lifetime=lifetime,
        now=NOW,
    )


def judge(certificate: Certificate, now: datetime = NOW, address: str = "192.0.2.7") -> Accepted | Rejected:
    return judge_access(
        certificate, authorities={AUTHORITY.blob: STAGING}, address=ipaddress.ip_address(address), now=now
    )


def test_a_fresh_certificate_is_accepted_for_its_scope_and_grant() -> None:
    verdict = judge(issue())
    assert isinstance(verdict, Accepted)
    assert (verdict.scope, verdict.grant_id) == (STAGING, "g-4t9z2m0wq7xh")


@pytest.mark.parametrize(
    "kind",
    [
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
    ],
)
def test_ssh_keygen_reads_what_is_made(kind: str, tmp_path: Path) -> None:
    key = parse_public_key(asyncssh.generate_private_key(kind).export_public_key().decode())
    path = tmp_path / "id-cert.pub"
    path.write_text(certificate_line(AUTHORITY.sign(replace(issue(), public_key=key)), "g-1"))
    printed = subprocess.run(["ssh-keygen", "-L", "-f", path], capture_output=True, text=True, check=True).stdout
    assert f"{kind}-cert-v01@openssh.com user certificate" in printed
    assert key.fingerprint in printed
    assert "access/staging/eu/g-4t9z2m0wq7xh" in printed
    assert "source-address 192.0.2.7/32" in printed
    assert "Serial: 7" in printed


def test_a_certificate_that_is_read_says_what_was_written() -> None:
    assert parse_certificate(AUTHORITY.sign(issue())) == issue()


def test_asyncssh_and_the_own_reader_agree() -> None:
    blob = AUTHORITY.sign(issue())
    theirs = asyncssh.import_certificate(certificate_line(blob, "x"))
    assert isinstance(theirs, SSHOpenSSHCertificate)
    assert list(theirs.principals) == list(parse_certificate(blob).principals)


def test_a_certificate_never_outlives_its_grant() -> None:
    assert issue(grant_ends_at=NOW + timedelta(minutes=3)).valid_before == NOW + timedelta(minutes=3)


@given(lifetime=st.timedeltas(timedelta(0), timedelta(days=9)), left=st.timedeltas(timedelta(0), timedelta(days=9)))
def test_no_lifetime_passes_the_grant_or_the_limit(lifetime: timedelta, left: timedelta) -> None:
    certificate = issue(grant_ends_at=NOW + left, lifetime=lifetime)
    assert certificate.valid_before <= min(NOW + left, NOW + MAX_LIFETIME)


REJECTIONS: dict[str, tuple[Callable[[Certificate], Certificate], str]] = {
    "no principals": (lambda c: replace(c, principals=()), "exactly one grant"),
    "an empty principal": (lambda c: replace(c, principals=("",)), "exactly one grant"),
    "any principal": (lambda c: replace(c, principals=("*",)), "exactly one grant"),
    "two principals": (lambda c: replace(c, principals=(*c.principals, "root")), "exactly one grant"),
    "a comma": (lambda c: replace(c, principals=(c.principals[0] + ",root",)), "cannot exist"),
    "a newline": (lambda c: replace(c, principals=(c.principals[0] + "\nroot",)), "cannot exist"),
    "a NUL": (lambda c: replace(c, principals=(c.principals[0] + "\0",)), "cannot exist"),
    "a look-alike letter": (
        lambda c: replace(c, principals=("access/staging/eu/g-4t9z2m0wq7\u0445h",)),
        "cannot exist",
    ),
    "a grant without a name": (lambda c: replace(c, principals=("access/staging/eu/",)), "cannot exist"),
    "another scope's principal": (lambda c: replace(c, principals=("access/production/eu/g-1",)), "exactly one grant"),
    "a target's principal": (lambda c: replace(c, principals=("staging/eu/deploy",)), "exactly one grant"),
    "another authority": (lambda c: replace(c, authority=STRANGER.blob), "not made by this bastion"),
    "an unknown critical option": (
        lambda c: replace(c, critical_options={**c.critical_options, "force-command": b"\0\0\0\2id"}),
        "options",
    ),
    "no source address": (lambda c: replace(c, critical_options={}), "options"),
    "any source address": (
        lambda c: replace(c, critical_options={"source-address": b"\0\0\0\x090.0.0.0/0"}),
        "another address",
    ),
    "a year of validity": (lambda c: replace(c, valid_before=NOW + timedelta(days=365)), "longer than any"),
}


@pytest.mark.parametrize(("change", "sentence"), REJECTIONS.values(), ids=list(REJECTIONS))
def test_a_certificate_is_rejected_with(change: Callable[[Certificate], Certificate], sentence: str) -> None:
    verdict = judge(change(issue()))
    assert isinstance(verdict, Rejected)
    assert sentence in verdict.reason


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        pytest.param(NOW - timedelta(minutes=1), "not valid before", id="a clock one minute behind"),
        pytest.param(NOW + timedelta(minutes=10), "ended at", id="on its last instant"),
        pytest.param(NOW + timedelta(minutes=11), "ended at", id="a clock one minute ahead of its end"),
    ],
)
def test_a_certificate_out_of_its_time_is_rejected(now: datetime, sentence: str) -> None:
    verdict = judge(issue(), now=now)
    assert isinstance(verdict, Rejected)
    assert sentence in verdict.reason


def test_a_certificate_from_another_address_is_rejected() -> None:
    verdict = judge(issue(), address="192.0.2.8")
    assert isinstance(verdict, Rejected)
    assert "another address" in verdict.reason


def test_a_host_certificate_is_not_read_as_a_user_certificate() -> None:
    blob = AUTHORITY.sign(issue())
    position = blob.index(b"\0\0\0\0\0\0\0\7\0\0\0\1") + 8
    with pytest.raises(Refused):
        parse_certificate(blob[:position] + b"\0\0\0\2" + blob[position + 4 :])


def test_a_certificate_signed_by_a_certificate_is_not_read() -> None:
    inner = AUTHORITY.sign(issue())
    with pytest.raises(Refused):
        parse_certificate(AUTHORITY.sign(replace(issue(), authority=inner)))


@given(data=st.data())
def test_no_cut_or_changed_certificate_crashes_the_reader(data: st.DataObject) -> None:
    blob = bytearray(AUTHORITY.sign(issue()))
    if data.draw(st.booleans()):
        del blob[data.draw(st.integers(0, len(blob) - 1)) :]
    else:
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse_certificate(bytes(blob))
    except Refused:
        pass


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(blob: bytes) -> None:
    with pytest.raises(Refused):
        parse_certificate(blob)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 AAAA",
        "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7",
        "ssh-ed25519 " + "A" * 8000,
        "ecdsa-sha2-nistp256 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\nssh-ed25519 AAAA",
    ],
)
def test_what_is_not_one_good_public_key_is_refused(line: str) -> None:
    with pytest.raises(Refused):
        parse_public_key(line)


def test_a_target_certificate_names_one_login_of_one_scope_and_is_short() -> None:
    certificate = target_certificate(
        CLIENT,
        serial=1,
        session_id="s-1",
        identity="ada@example.com",
        scope=PRODUCTION,
        login="deploy",
        authority=AUTHORITY.blob,
        lifetime=timedelta(minutes=1),
        now=NOW,
        permitted=(),
    )
    assert certificate.principals == (target_principal(PRODUCTION, "deploy"),) == ("production/eu/deploy",)
    assert certificate.valid_before - certificate.valid_after == timedelta(minutes=1) + CLOCK_TOLERANCE
    assert certificate.extensions == {}


def test_a_target_certificate_permits_what_it_is_told_and_nothing_else() -> None:
    assert permits({Action.SSH_SFTP_READ, Action.SSH_SFTP_WRITE}) == frozenset()
    assert permits({Action.SSH_SHELL, Action.SSH_SFTP_READ}) == {"permit-pty"}
