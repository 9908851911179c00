"""Who somebody is, by what an issuer signed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.errors import Unauthenticated
from bastion.core.identity import ClaimMapping, Identity, IdentityId, IdentityKind, VerifiedClaims, identity_from
from tests.core.values import ISSUER, NOW, person


def identity(
    mapping: ClaimMapping | None = None, *, subject: str = "u-1", issuer: str = ISSUER, **claims: Any
) -> Identity:
    return identity_from(VerifiedClaims(issuer, subject, claims, NOW), mapping or ClaimMapping())


def test_claims_become_one_person() -> None:
    seconds = int((NOW - timedelta(minutes=3)).timestamp())
    found = identity(
        email="carla@example.com",
        email_verified=True,
        name="Carla C.",
        groups=["contractors", "eu"],
        auth_time=seconds,
        amr=["pwd", "otp"],
    )
    assert found == Identity(
        id=IdentityId(ISSUER, "u-1"),
        email="carla@example.com",
        name="Carla C.",
        groups=frozenset({"contractors", "eu"}),
        kind=IdentityKind.PERSON,
        authenticated_at=NOW - timedelta(minutes=3),
        amr=frozenset({"pwd", "otp"}),
    )


@pytest.mark.parametrize(
    "subject",
    [
        pytest.param("", id="empty"),
        pytest.param("u" * 256, id="too long"),
        pytest.param("u\n1", id="with a line break"),
        pytest.param("u\x1b[2J", id="with an escape sequence"),
        pytest.param("u\u202e1", id="written backwards"),
        pytest.param("u\u200b1", id="with an invisible character"),
        pytest.param("u\ud800", id="with half a surrogate pair"),
    ],
)
def test_a_subject_that_nobody_can_read_is_nobody(subject: str) -> None:
    with pytest.raises(Unauthenticated, match="subject that cannot be used"):
        identity(subject=subject)


def test_a_subject_may_be_as_long_as_the_standard_lets_it() -> None:
    assert identity(subject="u" * 255).id.subject == "u" * 255


def test_an_issuer_with_a_fragment_is_refused_because_two_people_would_be_written_alike() -> None:
    assert str(IdentityId("https://a", "b#c")) == str(IdentityId("https://a#b", "c"))
    with pytest.raises(Unauthenticated):
        identity(issuer="https://a#b", subject="c")


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({}, id="without one"),
        pytest.param({"email": "carla@example.com"}, id="nobody verified"),
        pytest.param({"email": "carla@example.com", "email_verified": False}, id="verified is false"),
        pytest.param({"email": "carla@example.com", "email_verified": "true"}, id="verified is a word"),
        pytest.param({"email": "carla@example.com", "email_verified": 1}, id="verified is a number"),
        pytest.param({"email": "carla@evil@example.com", "email_verified": True}, id="two at signs"),
        pytest.param({"email": "carla", "email_verified": True}, id="no at sign"),
        pytest.param({"email": "@example.com", "email_verified": True}, id="no mailbox"),
        pytest.param({"email": "carla @example.com", "email_verified": True}, id="a space"),
        pytest.param({"email": "carla@example.com\n", "email_verified": True}, id="a line break at the end"),
        pytest.param({"email": "c\u202earla@example.com", "email_verified": True}, id="written backwards"),
        pytest.param({"email": ["carla@example.com"], "email_verified": True}, id="a list"),
    ],
)
def test_an_email_that_is_not_verified_or_not_plain_is_dropped(claims: dict[str, Any]) -> None:
    found = identity(**claims)
    assert found.email is None
    assert found.display == "u-1"


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        pytest.param(None, set(), id="null"),
        pytest.param("sre", set(), id="a word is not a list of one"),
        pytest.param({"sre": True}, set(), id="an object"),
        pytest.param(["sre", 7, None, ["sre2"]], {"sre"}, id="what is not a word is left out"),
        pytest.param(["sre", "s\x00re", "s\u200bre"], {"sre"}, id="look-alikes are left out"),
    ],
)
def test_only_plain_group_names_count(groups: object, expected: set[str]) -> None:
    assert identity(groups=groups).groups == expected


def test_a_prefix_keeps_the_groups_of_two_issuers_apart() -> None:
    partner = ClaimMapping(groups="roles", group_prefix="partner:")
    assert identity(partner, roles=["admins"], groups=["sre"]).groups == {"partner:admins"}


def test_a_name_is_shown_without_what_a_terminal_could_obey() -> None:
    assert identity(name="Carla\x1b[31m\u202e C.").name == "Carla[31m C."


@pytest.mark.parametrize(
    ("auth_time", "expected"),
    [
        pytest.param(None, NOW, id="absent: the moment of verification"),
        pytest.param(1_700_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), id="an integer"),
        pytest.param(1_700_000_000.5, datetime(2023, 11, 14, 22, 13, 20, 500_000, UTC), id="a fraction"),
        pytest.param(4_000_000_000, NOW, id="in the future: not later than the verification"),
    ],
)
def test_the_time_of_the_login_is_what_the_issuer_says_and_never_later_than_now(
    auth_time: float | None, expected: datetime
) -> None:
    assert identity(auth_time=auth_time).authenticated_at == expected


@pytest.mark.parametrize("auth_time", ["1700000000", True, [], 10**30, -(10**13), float("nan"), float("inf")], ids=repr)
def test_an_old_login_does_not_pass_for_a_fresh_one_by_an_unreadable_time(auth_time: object) -> None:
    with pytest.raises(Unauthenticated, match="login time"):
        identity(auth_time=auth_time)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param(person("a"), person("a"), True, id="the same id"),
        pytest.param(person("a", email="x@e.org"), person("a", email="y@e.org"), True, id="the same id, a new address"),
        pytest.param(person("a"), person("b"), False, id="no address is not the same address"),
        pytest.param(person("a"), person("a", issuer="https://other"), False, id="the same subject of another issuer"),
        pytest.param(person("a", email="x@e.org"), person("b", email="x@e.org"), True, id="the same address"),
        pytest.param(person("a", email="X@e.org"), person("b", email="x@E.org"), True, id="in capitals"),
        pytest.param(
            person("a", email="stra\u00dfe@e"), person("b", email="STRASSE@e"), True, id="of capitals that differ"
        ),
        pytest.param(
            person("a", email="ren\u00e9@e"), person("b", email="rene\u0301@e"), True, id="composed differently"
        ),
        pytest.param(person("a", email="x@e.org"), person("b", email="y@e.org"), False, id="different addresses"),
    ],
)
def test_one_person_is_one_person_under_every_name(one: Identity, other: Identity, same: bool) -> None:
    assert one.is_same_person_as(other) is same
    assert other.is_same_person_as(one) is same


@given(issuer=st.text(min_size=1).filter(lambda t: "#" not in t), subject=st.text(min_size=1))
def test_an_identity_is_read_back_as_it_was_written(issuer: str, subject: str) -> None:
    assert IdentityId.parse(str(IdentityId(issuer, subject))) == IdentityId(issuer, subject)


@pytest.mark.parametrize("text", ["", "#", "https://a#", "#b", "https://a"])
def test_half_an_identity_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="issuer#subject"):
        IdentityId.parse(text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    claims=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("email", "email_verified", "name", "groups", "auth_time", "amr"), _JSON)
    ),
    subject=st.text(),
)
def test_no_claims_make_anything_but_a_readable_person_or_nobody(claims: dict[str, Any], subject: str) -> None:
    try:
        found = identity(subject=subject, **claims)
    except Unauthenticated:
        return
    assert found.id == IdentityId(ISSUER, subject)
    shown = [found.display, found.name or "", *found.groups]
    assert all(text.isprintable() for text in shown)
    assert found.authenticated_at <= NOW
    assert found.kind is IdentityKind.PERSON
