"""Where forwards lead: no spelling, no answer of a resolver and no list reaches what is off limits."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.core.forward import OFF_LIMITS, Literal, Loopback, Named, OffLimits, Way, action_of, judge, parse_peer
from bastion.core.geofence import Address
from bastion.core.opening import Opening, is_host_name
from bastion.core.policy import Action, Deny

EVERYWHERE = (Opening.parse("0.0.0.0/0:1-65535"), Opening.parse("[::/0]:1-65535"), Opening.parse("db.internal:1-65535"))
OWN = ipaddress.ip_address("10.9.9.9")
OFF = OffLimits(names=frozenset({"bastion.example.com"}), addresses=frozenset({OWN}), ports_beside=frozenset({2222}))


def way(host: str, *answers: str, port: int = 443, openings: Sequence[Opening] = EVERYWHERE) -> Way | Deny:
    peer = parse_peer(host, port)
    if isinstance(peer, Deny):
        return peer
    return judge(peer, [ipaddress.ip_address(a) for a in answers], openings, OFF)


def spellings(address: ipaddress.IPv4Address) -> list[str]:
    """What inet_aton(3) and getaddrinfo(3) take for ``address``, and IPv6 that means it."""
    number, (a, b, c, d) = int(address), address.packed
    return [
        str(address), f"{address}.", f"{number}", f"{number:#x}", f"{number:#o}".replace("0o", "0"), f"{number:#X}",
        f"{a}.{number & 0xFFFFFF}", f"{a}.{b}.{number & 0xFFFF}", f"{a:#x}.{b:#x}.{c:#x}.{d:#x}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}", f"{a:03d}.{b:03d}.{c:03d}.{d:03d}", f" {address}", f"[{address}]",
        f"::ffff:{address}", f"::FFFF:{address}", f"0:0:0:0:0:ffff:{address}", f"::{address}", f"64:ff9b::{address}",
        str(ipaddress.IPv6Address(0x2002 << 112 | number << 80)), f"::ffff:{a:02x}{b:02x}:{c:02x}{d:02x}",
        f"{address}\0.example.com", f"{address}%eth0", f"x@{address}", f"{address}:80", f"http://{address}",
    ]  # fmt: skip


def within(network: ipaddress.IPv4Network) -> st.SearchStrategy[ipaddress.IPv4Address]:
    first, last = int(network.network_address), int(network.broadcast_address)
    return st.integers(first, last).map(ipaddress.IPv4Address)


FORBIDDEN = st.one_of([within(n) for n in OFF_LIMITS if isinstance(n, ipaddress.IPv4Network)] + [st.just(OWN)])


@given(FORBIDDEN, st.integers(0, len(spellings(ipaddress.IPv4Address(1))) - 1), st.integers(1, 65535))
def test_no_spelling_of_a_forbidden_address_leads_anywhere_but_to_the_targets_loopback(
    address: ipaddress.IPv4Address, spelling: int, port: int
) -> None:
    found = way(spellings(address)[spelling], port=port)
    if isinstance(found, Way):
        assert address.is_loopback
        assert all(each.is_loopback for each in found.addresses)


@given(st.lists(st.one_of(FORBIDDEN, within(ipaddress.IPv4Network("10.0.0.0/8"))), min_size=1), st.data())
def test_a_name_with_one_forbidden_answer_leads_nowhere(answers: list[Address], data: st.DataObject) -> None:
    shown = [data.draw(st.sampled_from([str(a), f"::ffff:{a}", f"64:ff9b::{a}"])) for a in answers]
    forbidden = any(a == OWN or any(a in n for n in OFF_LIMITS if n.version == 4) for a in answers)
    for host in ("db.internal", "DB.internal.", "elsewhere.example.com"):
        found = way(host, *shown)
        assert isinstance(found, Deny) is forbidden


@given(st.text(max_size=40), st.integers(-1, 70000))
def test_whatever_is_written_is_an_address_a_name_or_refused(host: str, port: int) -> None:
    """And what is sent to the target is an address in its usual spelling."""
    found = way(host, "10.1.2.3", port=port)
    if isinstance(found, Way):
        assert 0 < found.port < 65536
        for address in found.addresses:
            assert str(ipaddress.ip_address(str(address))) == str(address)
    else:
        assert all(reason.isprintable() for reason in found.reasons)


@given(st.text(alphabet="0123456789abcdefx.", min_size=1, max_size=20))
def test_nothing_that_a_resolver_takes_for_an_address_is_a_name(text: str) -> None:
    try:
        socket.inet_aton(text)
    except (OSError, ValueError):
        return
    assert not is_host_name(text)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "Localhost."])
def test_localhost_is_every_loopback_and_is_not_looked_up(host: str) -> None:
    assert parse_peer(host, 80) == Loopback((ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")), 80)
    assert way(host, "10.0.0.1", openings=()) == way("localhost", openings=())


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1"), ("127.9.0.1", "127.9.0.1"), ("::1", "::1"), ("0:0:0:0:0:0:0:1", "::1"),
     ("::ffff:127.0.0.1", "127.0.0.1")],
)  # fmt: skip
def test_a_loopback_address_is_that_one_alone(host: str, address: str) -> None:
    assert way(host, openings=()) == Way((ipaddress.ip_address(address),), 443)


def test_each_kind_has_its_action() -> None:
    assert action_of(Loopback((), 1)) is Action.SSH_FORWARD_LOOPBACK
    assert action_of(Literal(OWN, 1)) is action_of(Named("a", 1)) is Action.SSH_FORWARD


LISTS = [
    Opening.parse("db.internal:5432"),
    Opening.parse("10.20.0.0/16:443"),
    Opening.parse("[2001:db8::/32]:8000-8099"),
]


@pytest.mark.parametrize(
    ("host", "port", "answers", "there"),
    [
        ("db.internal", 5432, ("10.20.3.4",), "10.20.3.4"),
        ("DB.Internal.", 5432, ("192.0.2.1",), "192.0.2.1"),
        ("db.internal", 5433, ("192.0.2.1",), None),
        ("db.internal.example.com", 5432, ("192.0.2.1",), None),
        ("10.20.255.255", 443, (), "10.20.255.255"),
        ("10.21.0.0", 443, (), None),
        ("10.20.0.1", 80, (), None),
        ("web.internal", 443, ("10.20.0.1", "10.20.0.2"), "10.20.0.1"),
        ("web.internal", 443, ("10.20.0.1", "10.21.0.2"), None),
        ("web.internal", 443, (), None),
        ("2001:db8::7", 8050, (), "2001:db8::7"),
        ("2001:db8::7", 8100, (), None),
    ],
)
def test_the_list_says_where_and_at_which_ports(
    host: str, port: int, answers: tuple[str, ...], there: str | None
) -> None:
    found = way(host, *answers, port=port, openings=LISTS)
    assert (str(found.addresses[0]) if isinstance(found, Way) else None) == there


def test_an_empty_list_is_nowhere() -> None:
    for host in ("10.20.0.1", "db.internal", "2001:db8::1"):
        assert isinstance(way(host, "10.20.0.1", openings=()), Deny)


def test_the_bastion_is_not_reached_by_name_or_beside_the_target() -> None:
    assert isinstance(way("bastion.example.com", "192.0.2.1"), Deny)
    assert isinstance(way("BASTION.example.com.", "192.0.2.1"), Deny)
    assert isinstance(way("localhost", port=2222), Deny)


@pytest.mark.parametrize(
    "text",
    ["db.internal", "db.internal:0", "db.internal:65536", "db.internal:9-8", "DB.internal:1", "10.20.0.1/16:443",
     "10.1:443", "0x7f000001:80", "2130706433:80", "127.0.0.1:80", "localhost:80", "[::1]:80", "2001:db8::1:443",
     "*:443", "", ":443", "db.internal:443 ", "[db.internal]:443", "fe80::1%eth0:80", "a..b:1", "db.internal:080"],
)  # fmt: skip
def test_what_is_not_an_entry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Opening.parse(text)
