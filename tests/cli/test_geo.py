"""`bastion geo`, with the annotated configuration and a small database."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from bastion.cli import exits, geo
from tests.geodata import write_database

EXAMPLES = Path(__file__).parents[2] / "config"
RECORDS = {"203.0.113.0/24": "DE", "198.51.100.0/24": "US"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The annotated configuration, with its database in our folder: not there yet."""
    for example in EXAMPLES.iterdir():
        shutil.copy(example, tmp_path)
    config = tmp_path / "bastion.yaml"
    text = config.read_text()
    assert "database: /var/lib/bastion/country.mmdb" in text
    config.write_text(text.replace("/var/lib/bastion/country.mmdb", "country.mmdb"))
    return config


def run(*words: str | Path) -> Result:
    app = typer.Typer()
    geo.register(app)
    return CliRunner().invoke(app, ["geo", *map(str, words)])


def test_lookup_says_where_by_what_and_which_regions_are_open_from_there(config: Path) -> None:
    write_database(config.with_name("country.mmdb"), RECORDS, built_at=datetime.now(UTC))
    result = run("lookup", "203.0.113.7", "--config", config)
    assert result.exit_code == exits.OK
    assert result.stdout.splitlines() == [
        f"203.0.113.7 is in DE (by country.mmdb, built {datetime.now(UTC):%Y-%m-%d}, 0 days ago)",
        "  eu: inside, 203.0.113.7 is in DE",
        "  us: outside, 203.0.113.7 is in DE, which the fence does not hold",
    ]
    assert result.stderr == ""


def test_lookup_gives_json_to_scripts(config: Path) -> None:
    result = run("lookup", "::ffff:10.30.1.1", "--config", config, "--json")
    found = json.loads(result.stdout)
    assert (found["address"], found["country"], found["source"]) == ("10.30.1.1", "NO", "network 10.30.0.0/16")
    assert (found["data_from"], found["age_days"]) == (None, None)
    assert {name: region["inside"] for name, region in found["regions"].items()} == {"eu": True, "us": False}


def test_lookup_without_data_says_so_beside_the_answer(config: Path) -> None:
    result = run("lookup", "203.0.113.7", "--config", config)
    assert result.exit_code == exits.OK
    assert "is in an unknown country" in result.stdout
    assert "eu: outside" in result.stdout
    assert "cannot be read" in result.stderr


def test_lookup_warns_of_old_data(config: Path) -> None:
    write_database(config.with_name("country.mmdb"), RECORDS, built_at=datetime(2024, 1, 1, tzinfo=UTC))
    assert "days old" in run("lookup", "203.0.113.7", "--config", config).stderr


@pytest.mark.parametrize("address", ["203.0.113", "example.com", "", "fe80::1%eth0", "1.2.3.4\x1b[2J"])
def test_lookup_of_what_is_no_address_is_one_sentence(config: Path, address: str) -> None:
    result = run("lookup", "--config", config, "--", address)
    assert result.exit_code == exits.USAGE
    assert result.stderr.endswith("is not an IP address.\n")
    assert "\x1b" not in result.stderr


def test_update_installs_a_database_where_the_configuration_says(config: Path, tmp_path: Path) -> None:
    new = write_database(tmp_path / "new.mmdb", RECORDS)
    result = run("update", new, "--config", config)
    assert (result.exit_code, result.stderr) == (exits.OK, "")
    assert "2 networks, data of 2026-02-01" in result.stdout
    assert "is in DE" in run("lookup", "203.0.113.7", "--config", config).stdout


def test_update_refuses_a_broken_file_and_changes_nothing(config: Path, tmp_path: Path) -> None:
    installed = write_database(config.with_name("country.mmdb"), RECORDS)
    before = installed.read_bytes()
    (tmp_path / "new.mmdb").write_bytes(before[:500])
    result = run("update", tmp_path / "new.mmdb", "--config", config)
    assert result.exit_code == exits.USAGE
    assert result.stderr.startswith("Nothing was changed: ")
    assert installed.read_bytes() == before


def test_update_without_a_configured_place_says_what_to_do(config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text().replace("  database: country.mmdb", "  # no database"))
    result = run("update", write_database(tmp_path / "new.mmdb", RECORDS), "--config", config)
    assert result.exit_code == exits.USAGE
    assert "geo.database" in result.stderr


def test_a_broken_configuration_is_named_by_its_lines(config: Path) -> None:
    config.write_text(config.read_text() + "\nnonsense: true\n")
    result = run("lookup", "203.0.113.7", "--config", config)
    assert result.exit_code == exits.USAGE
    assert "nonsense" in result.stderr
    assert "Traceback" not in result.stderr
