"""Where addresses are, by networks and by databases that are whole, missing, replaced or broken."""

from __future__ import annotations

import os
import random
import resource
from collections.abc import Callable
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bastion.adapters.geo import LOOK_INTERVAL, NO_DATABASE, MaxMindLocator
from bastion.adapters.maxmind import Database, country_code, country_in, install
from bastion.core.geofence import Address, Fence, Network, Place, is_inside
from tests.fakes import FakeClock
from tests.geodata import BUILT_AT, country, write_database

RECORDS = {"203.0.113.0/24": "DE", "198.51.100.0/24": "US", "2001:db8::/32": "FR"}
GERMAN, AMERICAN, FRENCH, NOWHERE = map(ip_address, ["203.0.113.7", "198.51.100.7", "2001:db8::7", "192.0.2.7"])
STORED = {GERMAN: "DE", AMERICAN: "US", FRENCH: "FR", NOWHERE: None}

ADDRESSES = st.one_of(
    st.ip_addresses(),
    st.integers(0, 2**32 - 1).map(lambda n: IPv6Address(0xFFFF << 32 | n)),  # IPv4-mapped
    st.integers(0, 255).map(lambda n: IPv4Address(f"203.0.113.{n}")),
    st.just(IPv6Address("fe80::1%eth0")),
)
COUNTRIES = st.frozensets(st.sampled_from(["DE", "US", "FR", "NO", "ZZ", "None", ""]), max_size=4)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return write_database(tmp_path / "country.mmdb", RECORDS)


@pytest.fixture
def locator(database: Path, clock: FakeClock) -> MaxMindLocator:
    return MaxMindLocator(database, {}, clock=clock)


# -------------------------------------------------------------------------------------------------------- whole data


@pytest.mark.parametrize(
    ("address", "expected"),
    [(GERMAN, "DE"), (AMERICAN, "US"), (FRENCH, "FR"), (NOWHERE, None), (ip_address("2001:db9::1"), None)],
    ids=str,
)
def test_a_place_says_country_file_and_age_of_the_data(
    locator: MaxMindLocator, address: Address, expected: str | None
) -> None:
    assert locator.locate(address) == Place(address, expected, "country.mmdb", BUILT_AT)


def test_an_ipv4_mapped_address_is_where_its_ipv4_address_is(locator: MaxMindLocator) -> None:
    assert locator.locate(IPv6Address(f"::ffff:{GERMAN}")) == locator.locate(GERMAN)


def test_an_address_of_one_link_is_nowhere(database: Path, clock: FakeClock) -> None:
    locator = MaxMindLocator(database, {ip_network("::/0"): "DE"}, clock=clock)
    assert locator.locate(ip_address("fe80::1%eth0")).country is None


def test_an_ipv6_address_is_unknown_to_a_database_of_ipv4(tmp_path: Path, clock: FakeClock) -> None:
    database = write_database(tmp_path / "v4.mmdb", {"203.0.113.0/24": "DE"}, ip_version=4)
    locator = MaxMindLocator(database, {}, clock=clock)
    assert locator.locate(GERMAN).country == "DE"
    assert locator.locate(FRENCH).country is None


def test_the_age_of_the_data_is_counted_from_its_build(locator: MaxMindLocator, clock: FakeClock) -> None:
    assert locator.age(clock.now()) == clock.now() - BUILT_AT


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        pytest.param(country("DE"), "DE", id="maxmind and db-ip"),
        pytest.param({"country_code": "DE"}, "DE", id="flat"),
        pytest.param({"registered_country": {"iso_code": "DE"}}, None, id="where papers were filed is no place"),
        pytest.param({"represented_country": {"iso_code": "DE"}}, None, id="an embassy's flag is no place"),
        pytest.param({"country": {}, "registered_country": {"iso_code": "DE"}}, None, id="empty country"),
        pytest.param({"country": {}, "country_code": "DE"}, None, id="a country without code is not made up for"),
        pytest.param({"country": {"iso_code": ["DE"]}}, None, id="a list"),
        pytest.param({"country": {"iso_code": 49}}, None, id="a number"),
        pytest.param({"country": ["DE"]}, None, id="another shape"),
        pytest.param(["DE"], None, id="no mapping"),
        pytest.param("DE", None, id="no record"),
        pytest.param(None, None, id="nothing"),
    ],
)
def test_only_the_country_of_use_is_read_from_a_record(record: object, expected: str | None) -> None:
    assert country_in(record) == expected


@pytest.mark.parametrize("code", ["de", "D", "DEU", "D1", "", " DE", "DE\n", "ÄÖ", "ZZ", "AA", "XX", "QM", None, b"DE"])
def test_what_is_no_country_code_is_unknown(code: object) -> None:
    assert country_code(code) is None


@pytest.mark.parametrize("code", ["DE", "NO", "QA", "AE", "ZA", "XK"])
def test_a_country_code_is_itself(code: str) -> None:
    assert country_code(code) == code


# ---------------------------------------------------------------------------------------------------------- networks


def test_the_longest_configured_network_wins_and_overrides_the_database(database: Path, clock: FakeClock) -> None:
    networks: dict[Network, str] = {
        ip_network("203.0.0.0/8", strict=False): "FR",
        ip_network("203.0.113.7/32"): "NO",
        ip_network("203.0.113.0/25"): "US",
        ip_network("2001:db8:1::/48"): "DE",
    }
    locator = MaxMindLocator(database, networks, clock=clock)
    assert locator.locate(GERMAN) == Place(GERMAN, "NO", "network 203.0.113.7/32")
    assert locator.locate(ip_address("203.0.113.8")).country == "US"
    assert locator.locate(ip_address("203.0.113.200")).country == "FR"
    assert locator.locate(ip_address("2001:db8:1::1")).country == "DE"
    assert locator.locate(FRENCH).country == "FR"
    assert locator.locate(AMERICAN).source == "country.mmdb"


def test_a_network_written_as_ipv4_mapped_holds_the_ipv4_addresses(database: Path, clock: FakeClock) -> None:
    locator = MaxMindLocator(database, {ip_network("::ffff:203.0.113.0/120"): "NO"}, clock=clock)
    assert locator.locate(GERMAN) == Place(GERMAN, "NO", "network 203.0.113.0/24")


def test_a_network_without_a_real_country_is_nowhere_and_not_where_the_database_says(
    database: Path, clock: FakeClock
) -> None:
    locator = MaxMindLocator(database, {ip_network("203.0.113.0/24"): "nowhere"}, clock=clock)
    assert locator.locate(GERMAN).country is None


@pytest.fixture(scope="module")
def with_networks(tmp_path_factory: pytest.TempPathFactory) -> MaxMindLocator:
    database = write_database(tmp_path_factory.mktemp("geo") / "country.mmdb", RECORDS)
    return MaxMindLocator(database, {ip_network("203.0.113.128/25"): "NO"}, clock=FakeClock())


@given(ADDRESSES)
@example(IPv6Address(f"::ffff:{GERMAN}"))
def test_any_address_has_a_place_and_only_a_country_that_is_stored_for_it(
    with_networks: MaxMindLocator, address: Address
) -> None:
    place = with_networks.locate(address)
    plain = address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
    networks = {"203.0.113.128/25": "NO", **RECORDS}
    holding = [c for n, c in networks.items() if plain.version == ip_network(n).version and plain in ip_network(n)]
    assert place.address == plain
    assert place.country == (holding[0] if holding else None)


@given(ADDRESSES, COUNTRIES)
def test_without_data_nothing_is_inside_a_fence_of_countries(address: Address, countries: frozenset[str]) -> None:
    place = MaxMindLocator(None, {}, clock=FakeClock()).locate(address)
    assert place.country is None
    assert place.data_from is None
    assert not is_inside(Fence(countries), place)


# --------------------------------------------------------------------------------------- missing and replaced files


def test_without_a_database_only_networks_are_places(clock: FakeClock) -> None:
    locator = MaxMindLocator(None, {ip_network("10.0.0.0/8"): "DE"}, clock=clock)
    assert locator.locate(ip_address("10.1.2.3")).country == "DE"
    assert locator.locate(GERMAN) == Place(GERMAN, None, NO_DATABASE)
    assert locator.age(clock.now()) is None


def test_a_missing_file_is_a_warning_and_every_address_is_unknown_until_it_comes(
    tmp_path: Path, clock: FakeClock
) -> None:
    with capture_logs() as logs:
        locator = MaxMindLocator(tmp_path / "country.mmdb", {}, clock=clock)
        assert locator.locate(GERMAN) == Place(GERMAN, None, "country.mmdb")
        for _ in range(5):
            clock.advance(LOOK_INTERVAL)
            locator.locate(GERMAN)
    assert [line["log_level"] for line in logs] == ["warning"]
    assert "unknown country" in logs[0]["event"]
    write_database(tmp_path / "country.mmdb", RECORDS)
    clock.advance(LOOK_INTERVAL)
    assert locator.locate(GERMAN).country == "DE"


def test_a_replaced_file_is_picked_up_after_a_second_and_not_looked_at_before(
    locator: MaxMindLocator, database: Path, clock: FakeClock
) -> None:
    later = BUILT_AT + timedelta(days=7)
    write_database(database.with_name("new"), {"203.0.113.0/24": "NO"}, built_at=later).replace(database)
    assert locator.locate(GERMAN).country == "DE"
    clock.advance(LOOK_INTERVAL)
    assert locator.locate(GERMAN) == Place(GERMAN, "NO", "country.mmdb", later)
    assert locator.age(clock.now()) == clock.now() - later


def test_a_clock_that_is_set_back_does_not_stop_the_looking(
    locator: MaxMindLocator, database: Path, clock: FakeClock
) -> None:
    write_database(database, {"203.0.113.0/24": "NO"})
    clock.advance(-timedelta(days=1))
    assert locator.locate(GERMAN).country == "NO"


def in_place_of(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "half written over": lambda path: path.write_bytes(path.read_bytes()[:700]),
    "another format": lambda path: path.write_text("network,country\n203.0.113.0/24,NO\n"),
    "a folder": lambda path: in_place_of(path, Path.mkdir),
    "a pipe that nobody writes to": lambda path: in_place_of(path, os.mkfifo),
    "a link to itself": lambda path: in_place_of(path, lambda path: path.symlink_to(path)),
    "an endless device": lambda path: in_place_of(path, lambda path: path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("break_it", BREAKAGES.values(), ids=BREAKAGES)
def test_a_broken_new_file_keeps_the_old_data_and_is_logged_once(
    locator: MaxMindLocator, database: Path, clock: FakeClock, break_it: Callable[[Path], object]
) -> None:
    break_it(database)
    with capture_logs() as logs:
        for _ in range(5):
            clock.advance(LOOK_INTERVAL)
            assert locator.locate(GERMAN) == Place(GERMAN, "DE", "country.mmdb", BUILT_AT)
    assert [line["log_level"] for line in logs] == ["warning"]
    assert "older data stays" in logs[0]["event"]


def test_a_file_that_could_not_be_opened_for_a_moment_is_tried_again(
    locator: MaxMindLocator, database: Path, clock: FakeClock
) -> None:
    write_database(database, {"203.0.113.0/24": "NO"})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))  # as when a flood has used up all descriptors
    try:
        clock.advance(LOOK_INTERVAL)
        assert locator.locate(GERMAN).country == "DE"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    clock.advance(LOOK_INTERVAL)
    assert locator.locate(GERMAN).country == "NO"


def test_after_a_broken_file_a_whole_one_is_taken(locator: MaxMindLocator, database: Path, clock: FakeClock) -> None:
    database.write_bytes(b"broken")
    clock.advance(LOOK_INTERVAL)
    locator.locate(GERMAN)
    write_database(database, {"203.0.113.0/24": "NO"})
    clock.advance(LOOK_INTERVAL)
    assert locator.locate(GERMAN).country == "NO"


# --------------------------------------------------------------------------------------------------------- corruption


@given(st.integers(0, 1_000_000))
def test_a_file_cut_anywhere_gives_no_country_that_was_not_stored(whole: bytes, scratch: Path, cut: int) -> None:
    scratch.write_bytes(whole[: cut % len(whole)])
    locator = MaxMindLocator(scratch, {}, clock=FakeClock())
    for address, stored in STORED.items():
        assert locator.locate(address).country in (None, stored)


@given(st.integers(0, 1_000_000), st.integers(1, 1_000_000))
def test_a_file_with_a_piece_missing_gives_no_country_that_was_not_stored(
    whole: bytes, scratch: Path, start: int, length: int
) -> None:
    start %= len(whole)
    scratch.write_bytes(whole[:start] + whole[start + length % len(whole) :])
    locator = MaxMindLocator(scratch, {}, clock=FakeClock())
    for address in STORED:
        assert locator.locate(address).country in (None, *RECORDS.values())


@given(st.randoms(use_true_random=False), st.integers(1, 40), ADDRESSES)
def test_a_file_with_overwritten_bytes_never_crashes_the_locator(
    whole: bytes, scratch: Path, dice: random.Random, times: int, address: Address
) -> None:
    broken = bytearray(whole)
    for _ in range(times):
        broken[dice.randrange(len(broken))] = dice.randrange(256)
    scratch.write_bytes(broken)
    locator = MaxMindLocator(scratch, {}, clock=FakeClock())
    for asked in (address, GERMAN, AMERICAN, FRENCH):
        country = locator.locate(asked).country
        assert country is None or country_code(country) == country


@given(st.binary(max_size=300))
def test_a_file_of_anything_never_crashes_the_locator(scratch: Path, content: bytes) -> None:
    scratch.write_bytes(content + b"\xab\xcd\xefMaxMind.com" + content)
    assert MaxMindLocator(scratch, {}, clock=FakeClock()).locate(GERMAN).country is None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_database(tmp_path_factory.mktemp("geo") / "whole.mmdb", RECORDS).read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("geo") / "country.mmdb"


def test_cutting_a_file_while_it_is_in_use_changes_nothing(
    locator: MaxMindLocator, database: Path, clock: FakeClock
) -> None:
    """A mapped file would kill the process here (SIGBUS)."""
    os.truncate(database, 0)
    assert locator.locate(GERMAN).country == "DE"
    clock.advance(LOOK_INTERVAL)
    assert locator.locate(FRENCH).country == "FR"


@pytest.mark.parametrize("epoch", [2**63, 10**15], ids=["no time at all", "a year of eight digits"])
def test_a_build_time_that_is_none_makes_the_file_unusable(tmp_path: Path, epoch: int) -> None:
    database = write_database(tmp_path / "country.mmdb", RECORDS)
    content = database.read_bytes()
    at = content.rindex(b"build_epoch") + len(b"build_epoch")
    size = content[at] & 0x1F
    database.write_bytes(content[:at] + bytes([8, 2]) + epoch.to_bytes(8, "big") + content[at + 2 + size :])
    with pytest.raises(ValueError, match="not a usable MaxMind database"):
        Database(database)


# ------------------------------------------------------------------------------------------------------- installation


def test_an_installed_database_is_a_readable_copy_and_its_source_stays(database: Path, tmp_path: Path) -> None:
    installed = install(database, tmp_path / "installed.mmdb")
    assert (installed.networks, installed.built_at) == (3, BUILT_AT)
    assert (tmp_path / "installed.mmdb").read_bytes() == database.read_bytes()
    assert (tmp_path / "installed.mmdb").stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in tmp_path.iterdir()) == ["country.mmdb", "installed.mmdb"]


def test_a_running_locator_takes_up_what_was_installed(
    locator: MaxMindLocator, database: Path, clock: FakeClock
) -> None:
    newer = write_database(database.with_name("newer"), {"203.0.113.0/24": "NO"})
    install(newer, database)
    clock.advance(LOOK_INTERVAL)
    assert locator.locate(GERMAN).country == "NO"


def no_countries(path: Path) -> object:
    return write_database(path, {"203.0.113.0/24": {"autonomous_system_number": 64496}})


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "No such file"),
    "a folder": (lambda path: in_place_of(path, Path.mkdir), "Is a directory"),
    "not a database": (lambda path: path.write_text("hello"), "not a usable MaxMind database"),
    "cut short": (lambda path: os.truncate(path, 700), "not a usable MaxMind database"),
    "of another kind": (no_countries, "no countries"),
    "corrupt in one record": (
        lambda path: path.write_bytes(path.read_bytes().replace(b"\x42DE", b"\xe3DE")),
        "not a usable MaxMind database",
    ),
}


@pytest.mark.parametrize(("break_it", "why"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_used_is_not_installed(
    database: Path, tmp_path: Path, break_it: Callable[[Path], object], why: str
) -> None:
    source = tmp_path / "new" / "source.mmdb"
    source.parent.mkdir()
    install(database, source)
    break_it(source)
    before = database.read_bytes()
    with pytest.raises((OSError, ValueError), match=why) as refusal:
        install(source, database)
    assert str(source) in str(refusal.value)
    assert database.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["country.mmdb"]
