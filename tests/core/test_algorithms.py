"""What is offered everywhere, and what an old target may be given."""

from __future__ import annotations

import pytest

from bastion.core.algorithms import LEGACY, QUANTUM_SAFE, STRONG, host_key_algorithms

WEAK = ("sha1", "md5", "cbc", "3des", "arcfour", "group1-", "dss", "umac-64")


def test_nothing_weak_is_offered_everywhere() -> None:
    assert [name for name in STRONG if name == "ssh-rsa" or any(part in name for part in WEAK)] == []
    assert [name for name in STRONG if "hmac" in name and "etm" not in name] == []
    assert not set(STRONG) & set(LEGACY)


def test_what_an_old_target_may_be_given_rests_on_sha_1_at_worst() -> None:
    weak = {name for name in LEGACY if any(part in name for part in WEAK)}
    assert weak == {"diffie-hellman-group14-sha1", "hmac-sha1"}
    assert "ssh-rsa" in LEGACY


def test_what_a_quantum_computer_cannot_read_later_comes_first() -> None:
    assert STRONG[: len(QUANTUM_SAFE)] == QUANTUM_SAFE


@pytest.mark.parametrize(
    ("keys", "certified", "extra", "expected"),
    [
        pytest.param(["ssh-ed25519 AAAA"], False, set(), ["ssh-ed25519"], id="one key, one way"),
        pytest.param(["ssh-rsa AAAA"], False, set(), ["rsa-sha2-512", "rsa-sha2-256"], id="RSA never by SHA-1"),
        pytest.param(
            ["ssh-rsa AAAA"], False, {"ssh-rsa"}, ["rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"], id="RSA where it is old"
        ),
        pytest.param(["ssh-ed25519 AAAA"], False, {"ssh-rsa"}, ["ssh-ed25519"], id="old, without such a key"),
        pytest.param(
            ["ecdsa-sha2-nistp256 AAAA", "ssh-ed25519 AAAA"],
            False,
            set(),
            ["ssh-ed25519", "ecdsa-sha2-nistp256"],
            id="Ed25519 before the others",
        ),  # fmt: skip
        pytest.param([], False, set(), [], id="nothing known is nothing"),
    ],
)
def test_a_target_is_asked_for_the_keys_that_are_known(
    keys: list[str], certified: bool, extra: set[str], expected: list[str]
) -> None:
    assert host_key_algorithms(keys, certified=certified, extra=frozenset(extra)) == expected


def test_a_certificate_may_be_of_any_type_and_comes_before_plain_keys() -> None:
    names = host_key_algorithms(["ssh-ed25519 AAAA"], certified=True)
    assert names[0] == "ssh-ed25519-cert-v01@openssh.com"
    assert names[-1] == "ssh-ed25519"
    assert all(name.endswith("-cert-v01@openssh.com") for name in names[:-1])
