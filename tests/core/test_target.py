"""What can be reached, and the names people give it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.errors import NotFound, Refused
from bastion.core.target import (
    LABEL,
    LOGIN,
    Destination,
    Environment,
    Region,
    Scope,
    catalogue_of,
    parse_destination,
    printable,
)
from tests.core.values import EU, PRODUCTION, STAGING, WEB_1

LABELS = st.from_regex(LABEL, fullmatch=True)
LOGINS = st.from_regex(LOGIN, fullmatch=True)

PRODUCTION_WEB_1 = replace(WEB_1, scope=PRODUCTION)
DB_1 = replace(WEB_1, name="db-1")

CATALOGUE = catalogue_of(
    [Environment("staging", "nonproduction"), Environment("production", "production")],
    [Region("eu", EU)],
    [WEB_1, PRODUCTION_WEB_1, DB_1],
)


@given(environment=LABELS, region=LABELS)
def test_a_scope_is_read_back_as_it_was_written(environment: str, region: str) -> None:
    assert Scope.parse(str(Scope(environment, region))) == Scope(environment, region)


@pytest.mark.parametrize(
    "text",
    ["", "/", "staging", "staging/", "/eu", "staging/eu/deploy", "Staging/eu", "staging/e u", "staging/eu\n", "-a/eu",
     "a-/eu", "staging,production/eu", "*/eu", "a" * 64 + "/eu", "st\u00e4ging/eu", "staging/\uff45u"],
    ids=repr,
)  # fmt: skip
def test_what_is_not_two_plain_names_is_no_scope(text: str) -> None:
    with pytest.raises(ValueError, match="environment/region"):
        Scope.parse(text)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param("web-1.staging.eu", WEB_1, id="by its full name"),
        pytest.param("WEB-1.Staging.EU", WEB_1, id="in capitals, as host names may be"),
        pytest.param("web-1.production.eu", PRODUCTION_WEB_1, id="its namesake in another scope"),
        pytest.param("db-1", DB_1, id="by a short name that is only one's"),
    ],
)
def test_a_target_is_found(name: str, target: object) -> None:
    assert CATALOGUE.find(name) is target


def test_a_short_name_of_several_targets_opens_none_of_them() -> None:
    with pytest.raises(Refused, match=r"web-1\.production\.eu or web-1\.staging\.eu"):
        CATALOGUE.find("web-1")


@pytest.mark.parametrize("name", ["", "web-2", "web-1.staging", "web-1.staging.eu.", ".", "web-1.staging.us"], ids=repr)
def test_a_name_that_no_target_has_is_not_found(name: str) -> None:
    with pytest.raises(NotFound):
        CATALOGUE.find(name)


def test_a_hostile_name_is_quoted_harmlessly() -> None:
    with pytest.raises(NotFound) as error:
        CATALOGUE.find("web\x1b]0;owned\x07\u202e" + "x" * 1000)
    assert error.value.public.isprintable()
    assert len(error.value.public) < 200


def test_the_catalogue_knows_the_tier_of_a_scope_and_every_scope_in_use() -> None:
    assert CATALOGUE.tier_of(STAGING) == "nonproduction"
    assert CATALOGUE.tier_of(PRODUCTION) == "production"
    assert CATALOGUE.scopes() == [PRODUCTION, STAGING]


@pytest.mark.parametrize(
    ("username", "destination"),
    [
        pytest.param("deploy", Destination("deploy", None), id="a login alone"),
        pytest.param("deploy@web-1", Destination("deploy", "web-1"), id="with a short name"),
        pytest.param("deploy@web-1.staging.eu", Destination("deploy", "web-1.staging.eu"), id="with a full name"),
        pytest.param("deploy%web-1.staging.eu", Destination("deploy", "web-1.staging.eu"), id="with a percent sign"),
        pytest.param("deploy@WEB-1.Staging.EU", Destination("deploy", "web-1.staging.eu"), id="in capitals"),
    ],
)
def test_a_user_name_says_where_to(username: str, destination: Destination) -> None:
    assert parse_destination(username) == destination


@pytest.mark.parametrize(
    "username",
    [
        "", "@", "%", "@web-1", "deploy@", "deploy%", "Deploy@web-1", "deploy@web-1@web-2", "deploy%web-1@web-2",
        "deploy@web-1%web-2", "deploy@web-1.staging", "deploy@a.b.c.d", "deploy@web-1..eu", "de ploy@web-1",
        "deploy@web-1\n", "deploy\n@web-1", "deploy\x00@web-1", "../deploy@web-1", "deploy@../../etc",
        "deploy@-oProxyCommand", "-oProxyCommand=x", "1deploy", "d\u0435ploy",
        "d" * 33, "deploy@" + "w" * 64, "deploy@w\u00e9b-1",
    ],
    ids=repr,
)  # fmt: skip
def test_a_user_name_that_cannot_be_one_is_refused(username: str) -> None:
    with pytest.raises(Refused) as error:
        parse_destination(username)
    assert error.value.public.isprintable()


@given(login=LOGINS, labels=st.lists(LABELS, min_size=3, max_size=3) | st.lists(LABELS, min_size=1, max_size=1),
       separator=st.sampled_from("@%"))  # fmt: skip
def test_every_login_and_target_can_be_asked_for_both_ways(login: str, labels: list[str], separator: str) -> None:
    name = ".".join(labels)
    assert parse_destination(f"{login}{separator}{name}") == Destination(login, name)


@given(username=st.text(max_size=200))
def test_no_user_name_makes_anything_but_plain_names_or_a_refusal(username: str) -> None:
    try:
        found = parse_destination(username)
    except Refused:
        return
    assert LOGIN.fullmatch(found.login)
    assert found.target is None or all(LABEL.fullmatch(label) for label in found.target.split("."))


@given(text=st.text(alphabet=st.characters()), limit=st.integers(0, 50))
def test_what_is_quoted_from_a_peer_is_short_and_printable(text: str, limit: int) -> None:
    quoted = printable(text, limit)
    assert len(quoted) <= limit
    assert all(c.isprintable() for c in quoted)
    if text.isprintable():
        assert quoted == text[:limit]
