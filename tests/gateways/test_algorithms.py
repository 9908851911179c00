"""What clients and targets are offered, seen from outside: by ssh-audit, by OpenSSH, and by servers that are old."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import asyncssh
import pytest

from bastion.core.algorithms import CIPHERS, LEGACY, MACS
from tests.services.sshd import StartSshd
from tests.world import WEB_STAGING, World, person

ADA = person("ada")
TARGET = f"deploy@{WEB_STAGING}@bastion"

ONE_LOOP = pytest.mark.asyncio(loop_scope="module")

NOT_QUANTUM_SAFE = "does not provide protection against post-quantum attacks"
"""The one warning that stays: of Curve25519, which is all that OpenSSH before 8.5 and PuTTY before 0.78 have."""


@ONE_LOOP
async def test_ssh_audit_finds_nothing_red(door: World) -> None:
    """Its test of connection rates is left out: that is ours to try, in test_attacks_resources."""
    audit = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("ssh-audit"), "--skip-rate-test", "-j", "-p", str(door.port), "127.0.0.1",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await audit.communicate()
    report = json.loads(out)
    found = {
        (verdict, offered["algorithm"], note)
        for part in ("kex", "key", "enc", "mac")
        for offered in report[part]
        for verdict in ("fail", "warn")
        for note in offered["notes"].get(verdict, ())
    }
    assert {row for row in found if row[0] == "fail"} == set()
    assert {(name, note) for _, name, note in found} == {
        ("curve25519-sha256", NOT_QUANTUM_SAFE),
        ("curve25519-sha256@libssh.org", NOT_QUANTUM_SAFE),
    }
    assert (report["cves"], report["recommendations"]) == ([], {})
    kex = [offered["algorithm"] for offered in report["kex"]]
    assert "mlkem768x25519-sha256" in kex
    assert "kex-strict-s-v00@openssh.com" in kex, "without it ChaCha20-Poly1305 is open to Terrapin (CVE-2023-48795)"


@ONE_LOOP
async def test_openssh_keeps_strictly_to_the_key_exchange(door: World) -> None:
    ran = await door.ssh(door.key("ada"), "-vvv", "bastion", "true")
    assert "will use strict KEX ordering" in ran.err


@ONE_LOOP
@pytest.mark.parametrize("option", [*(f"Ciphers={name}" for name in CIPHERS),
                                    *(f"Ciphers=aes128-ctr -oMACs={name}" for name in MACS)])  # fmt: skip
async def test_openssh_can_use_whatever_is_offered(door: World, option: str) -> None:
    ran = await door.ssh(door.key("ada"), *f"-o{option}".split(), "-vv", "bastion", "true")
    assert "Permission denied" in ran.err, ran.err
    assert "SSH2_MSG_NEWKEYS received" in ran.err


@ONE_LOOP
async def test_a_client_may_exchange_keys_that_no_quantum_computer_finds(door: World) -> None:
    """OpenSSH has it since 9.9, which not every machine of ours does; asyncssh has it as well."""
    with pytest.raises(asyncssh.PermissionDenied):
        await asyncssh.connect(
            "127.0.0.1", door.port, username="ada", kex_algs=["mlkem768x25519-sha256"], known_hosts=None, config=None,
            client_keys=None, agent_path=None, preferred_auth="publickey",
        )  # fmt: skip


@ONE_LOOP
@pytest.mark.parametrize(
    ("option", "lacking"),
    [
        ("KexAlgorithms=ecdh-sha2-nistp256", "key exchange method"),
        ("KexAlgorithms=diffie-hellman-group14-sha1", "key exchange method"),
        ("HostKeyAlgorithms=ssh-rsa", "host key type"),
        ("Ciphers=aes128-cbc", "cipher"),
        ("Ciphers=3des-cbc", "cipher"),
        ("Ciphers=aes128-ctr -oMACs=hmac-sha1-etm@openssh.com", "MAC"),
        ("Ciphers=aes128-ctr -oMACs=hmac-sha2-256", "MAC"),
    ],
)
async def test_what_is_weak_is_not_to_be_had(door: World, option: str, lacking: str) -> None:
    ran = await door.ssh(door.key("ada"), *f"-o{option}".split(), "bastion", "true")
    assert f"no matching {lacking} found" in ran.err


OLD = [
    pytest.param("KexAlgorithms diffie-hellman-group14-sha1", "diffie-hellman-group14-sha1", id="group14-sha1"),
    pytest.param("KexAlgorithms ecdh-sha2-nistp384", "ecdh-sha2-nistp384", id="a NIST curve"),
    pytest.param("Ciphers aes256-ctr\nMACs hmac-sha1", "hmac-sha1", id="HMAC of SHA-1"),
    pytest.param("Ciphers aes256-ctr\nMACs hmac-sha2-512", "hmac-sha2-512", id="MAC beside the encryption"),
]


@pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields")  # cryptography will give it up one day
@pytest.mark.parametrize(("lines", "name"), OLD)
async def test_an_old_target_is_reached_only_with_what_is_configured_for_it(
    bastion: World, start_sshd: StartSshd, lines: str, name: str
) -> None:
    """By the one name that it needs; by `legacy`, which is all of them; and not without."""
    bastion.put_staging_at(start_sshd(**bastion.staging_trusts(), extra=lines.splitlines()))
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)
    for allowed in (frozenset({name}), frozenset(LEGACY)):
        bastion.change_target(algorithms=allowed)
        assert (await bastion.ssh(key, TARGET, "echo here")).out == b"here\n"
    bastion.change_target(algorithms=frozenset(LEGACY) - {name})
    ran = await bastion.ssh(key, TARGET, "echo here")
    assert (ran.status, ran.out) == (254, b"")


async def test_a_target_that_proves_its_rsa_key_by_sha_1_is_reached_only_where_that_is_configured(
    bastion: World, start_sshd: StartSshd
) -> None:
    bastion.folder.joinpath("rsa").write_bytes(
        asyncssh.generate_private_key("ssh-rsa", key_size=2048).export_private_key()
    )
    bastion.folder.joinpath("rsa").chmod(0o600)
    old = start_sshd(**bastion.staging_trusts(), host_key=bastion.folder / "rsa", extra=["HostKeyAlgorithms ssh-rsa"])
    bastion.put_staging_at(old)
    await bastion.grant(ADA)
    key = await bastion.certify(ADA)
    assert (await bastion.ssh(key, TARGET, "echo here")).status == 254
    bastion.put_staging_at(old, algorithms=frozenset({"ssh-rsa"}))
    assert (await bastion.ssh(key, TARGET, "echo here")).out == b"here\n"
