"""Where somebody is, and whether a fence holds that place."""

from __future__ import annotations

from collections.abc import Set
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.geofence import Fence, Inside, Network, Outside, Place, is_inside, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        pytest.param("192.0.2.1", IPv4Address("192.0.2.1"), id="IPv4"),
        pytest.param("2001:db8::1", IPv6Address("2001:db8::1"), id="IPv6"),
        pytest.param("::ffff:192.0.2.1", IPv4Address("192.0.2.1"), id="IPv4 as a dual-stack socket shows it"),
        pytest.param("::FFFF:C000:0201", IPv4Address("192.0.2.1"), id="the same in hexadecimal"),
        pytest.param("::192.0.2.1", IPv6Address("::c000:201"), id="the deprecated IPv4-compatible form stays IPv6"),
    ],
)
def test_an_address_is_read_as_the_peer_really_has_it(text: str, address: IPv4Address | IPv6Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", " 192.0.2.1", "192.0.2.1\n", "192.0.2", "192.0.2.01", "0xC0.0.2.1", "3221225985", "192.0.2.1/32",
        "fe80::1%eth0", "::ffff:192.0.2.1%eth0", "[2001:db8::1]", "192.0.2.1:22", "localhost",
        "\u0661.\u0662.\u0663.\u0664",
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_not_exactly_an_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


def place(address: str, country: str | None) -> Place:
    return Place(parse_address(address), country, "test")


def fence(countries: Set[str], *networks: str) -> Fence:
    return Fence(frozenset(countries), tuple(ip_network(network) for network in networks))


@pytest.mark.parametrize(
    ("holder", "held", "reason"),
    [
        pytest.param(fence({"DE"}), place("192.0.2.1", "DE"), "192.0.2.1 is in DE", id="by country"),
        pytest.param(
            fence(set(), "10.20.0.0/16"), place("10.20.255.255", None), "10.20.255.255 is in 10.20.0.0/16",
            id="by network, whatever the country",
        ),
        pytest.param(
            fence({"DE"}, "10.20.0.0/16"), place("10.20.0.0", "US"), "10.20.0.0 is in 10.20.0.0/16",
            id="by network, in another country",
        ),
        pytest.param(
            fence(set(), "10.20.0.0/16"), place("::ffff:10.20.0.9", None), "10.20.0.9 is in 10.20.0.0/16",
            id="by network, reached over IPv6 sockets",
        ),
        pytest.param(
            fence(set(), "2001:db8::/32"), place("2001:db8::9", None), "2001:db8::9 is in 2001:db8::/32", id="IPv6"
        ),
    ],
)  # fmt: skip
def test_inside_says_by_what(holder: Fence, held: Place, reason: str) -> None:
    assert holder.judge(held) == Inside(reason)
    assert is_inside(holder, held)


@pytest.mark.parametrize(
    ("holder", "stranger", "reason"),
    [
        pytest.param(
            Fence(), place("192.0.2.1", "DE"), "which the fence does not hold", id="an empty fence holds nothing"
        ),
        pytest.param(fence({"DE"}), place("192.0.2.1", "US"), "192.0.2.1 is in US", id="another country"),
        pytest.param(fence({"DE"}), place("192.0.2.1", None), "is not known", id="an unknown country is outside"),
        pytest.param(Fence(), place("192.0.2.1", None), "is not known", id="nothing and nowhere"),
        pytest.param(fence(set(), "10.20.0.0/16"), place("10.21.0.0", None), "is not known", id="one past the network"),
        pytest.param(fence(set(), "10.20.0.0/16"), place("10.19.255.255", None), "is not known", id="one before it"),
        pytest.param(
            fence(set(), "0.0.0.0/0"), place("2001:db8::1", None), "is not known", id="all of IPv4 holds no IPv6"
        ),
        pytest.param(fence(set(), "::/0"), place("10.20.0.1", None), "is not known", id="all of IPv6 holds no IPv4"),
        pytest.param(fence({"DE"}), place("192.0.2.1", "de"), "is in de", id="countries are in capitals"),
    ],
)
def test_outside_says_why(holder: Fence, stranger: Place, reason: str) -> None:
    judgement = holder.judge(stranger)
    assert isinstance(judgement, Outside)
    assert reason in judgement.reason
    assert not is_inside(holder, stranger)


_ADDRESSES = st.ip_addresses()
_COUNTRIES = st.sampled_from(["DE", "FR", "US", "NO", "GB"])


@st.composite
def _networks(draw: st.DrawFn) -> Network:
    address = draw(_ADDRESSES)
    return ip_network((address, draw(st.integers(0, address.max_prefixlen))), strict=False)


@given(
    countries=st.frozensets(_COUNTRIES),
    networks=st.lists(_networks(), max_size=3),
    address=_ADDRESSES,
    country=st.none() | _COUNTRIES,
)
def test_a_place_is_inside_only_by_a_country_or_network_of_the_fence(
    countries: frozenset[str], networks: list[Network], address: IPv4Address | IPv6Address, country: str | None
) -> None:
    named = country is not None and country in countries
    in_network = any(
        network.version == address.version
        and int(network.network_address) <= int(address) <= int(network.broadcast_address)
        for network in networks
    )
    fence = Fence(countries, tuple(networks))
    assert is_inside(fence, Place(address, country, "test")) is (named or in_network)


@given(address=_ADDRESSES)
def test_every_address_is_read_back_as_it_was_written(address: IPv4Address | IPv6Address) -> None:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    assert parse_address(str(address)) == (mapped or address)
    assert ip_address(str(parse_address(str(address)))) == parse_address(str(address))


def test_a_place_of_an_unknown_country_says_so() -> None:
    assert str(place("192.0.2.1", None)) == "192.0.2.1 (unknown country, by test)"
