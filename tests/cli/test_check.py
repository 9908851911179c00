"""``bastion check`` through the real process: what is wrong is named on standard error, and nothing is started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from bastion.adapters.policy import schema_text
from bastion.cli import check
from bastion.cli.check import schema_json
from tests.geodata import write_database
from tests.site import Site, install


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return install(tmp_path)


def bastion(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as an operator does."""
    return subprocess.run(
        [sys.executable, "-m", "bastion", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def invoke(*arguments: str) -> Result:
    """The same commands without a process, where only the answer matters."""
    app = typer.Typer()
    check.register(app)
    return CliRunner().invoke(app, list(arguments))


def fresh_geo(site: Site, age: timedelta = timedelta(days=1)) -> None:
    (site.folder / "var").mkdir()
    write_database(site.folder / "var" / "country.mmdb", {"192.0.2.0/24": "DE"}, built_at=datetime.now(UTC) - age)


# ------------------------------------------------------------------------------------- what a bad configuration says

# How it is spoiled, a part of the (last) line that is then named, and the rest of the one line that is printed.
MISTAKES: dict[str, tuple[Callable[[Site], None], str, str]] = {
    "unknown key": (
        lambda site: site.edit("host: 10.20.1.5", "hots: 10.20.1.5\n    host: 10.20.1.5"),
        "hots:",
        "targets[0].hots: is not a known key; did you mean host?",
    ),
    "wrong type": (
        lambda site: site.edit("lifetime: 10m", "lifetime: 10"),
        "lifetime: 10",
        "certificates.lifetime: must be a duration, such as 10m, 1h30m or 45d",
    ),
    "duplicate target": (
        lambda site: site.edit("environment: production\n", "environment: staging\n"),
        "- name: web-1",
        "targets[1].name: web-1.staging.eu is there already, as targets[0]",
    ),
    "region without a fence": (
        lambda site: site.edit("    fence: {countries: [US]}\n", "    {}\n"),
        "  us:",
        "regions.us.fence: is missing: nobody could reach us; say from where, fence: {countries: [DE]}",
    ),
    "unreadable key": (
        lambda site: site.key.chmod(0o644),
        "key: {file",
        "tls.key: KEY has mode 0644 and others can read it: chmod 600 KEY",
    ),
    "missing key": (
        lambda site: site.key.unlink(),
        "key: {file",
        "tls.key: KEY is unreadable: No such file or directory",
    ),
    "NO, which is text and not false": (
        lambda site: site.edit("{countries: [US]}", "{countries: NO}"),
        "countries: NO",
        "regions.us.fence.countries: must be a list: [a, b], or one a line with a hyphen before each",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_bad_configuration_is_one_clear_error_and_exit_status_2(site: Site, mistake: str) -> None:
    spoil, marked, sentence = MISTAKES[mistake]
    spoil(site)
    line = max(n for n, text in enumerate(site.config.read_text().splitlines(), 1) if marked in text)
    assert_refused(site, f"bastion.yaml:{line}: {sentence.replace('KEY', str(site.key))}")


def test_a_policy_with_a_typo_is_one_clear_error_and_exit_status_2(site: Site) -> None:
    site.edit('Action::"review"', 'Action::"reveiw"', file=site.policy)
    line = site.line_of("reveiw", file=site.policy)
    assert_refused(site, f'policy.cedar:{line}: unrecognized action `Action::"reveiw"`; did you mean review?')


def assert_refused(site: Site, problem: str) -> None:
    before = sorted(site.folder.rglob("*"))
    done = bastion("check", "--config", str(site.config))
    assert done.stderr.splitlines() == [problem]
    assert done.stdout == ""
    assert done.returncode == 2
    assert sorted(site.folder.rglob("*")) == before, "a check leaves nothing behind"


def test_norway_is_a_country_and_a_good_configuration_is_all_right(site: Site) -> None:
    """``NO`` in the fence and in the networks of the example is what YAML 1.1 read as false."""
    fresh_geo(site)
    assert "NO" in site.config.read_text()
    done = bastion("check", "--config", str(site.config))
    assert done.stderr == ""
    assert done.stdout == f"{site.config}: 2 targets, 10 policies and 13 policy tests: all right\n"
    assert done.returncode == 0


def test_serve_starts_nothing_with_a_bad_configuration(site: Site) -> None:
    site.edit("node: bastion-1", "nodes: bastion-1")
    done = bastion("serve", "--config", str(site.config))
    assert done.stderr.splitlines() == [
        "bastion.yaml:1: node: is missing",
        f"bastion.yaml:{site.line_of('nodes:')}: nodes: is not a known key; did you mean node?",
    ]
    assert done.returncode == 2
    assert not (site.folder / "var").exists()


# ------------------------------------------------------------------------------------------------- what else it says


def test_scripts_get_json(site: Site) -> None:
    fresh_geo(site)
    good = invoke("check", "--config", str(site.config), "--json")
    assert json.loads(good.stdout) == {
        "ok": True, "targets": 2, "policies": 10, "policy_tests": 13, "warnings": [], "problems": [],
    }  # fmt: skip
    site.edit("lifetime: 10m", "lifetime: 10d")
    bad = invoke("check", "--config", str(site.config), "--json")
    problem = f"bastion.yaml:{site.line_of('10d')}: certificates.lifetime: 10d must be from 1m to 1h"
    assert json.loads(bad.stdout) == {"ok": False, "problems": [problem], "warnings": []}
    assert bad.exit_code == 2


def test_old_geo_data_is_a_warning(site: Site) -> None:
    fresh_geo(site, age=timedelta(days=50, hours=1))
    result = invoke("check", "--config", str(site.config))
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: geo.database: was built 50d1h ago, longer than geo.max_age (45d): bastion geo update\n"
    )


def test_old_algorithms_of_a_target_are_a_warning(site: Site) -> None:
    fresh_geo(site)
    site.edit("    # algorithms: [diffie-hellman-group14-sha256]", "    algorithms: [ssh-rsa, hmac-sha1]")
    result = invoke("check", "--config", str(site.config))
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: targets[1].algorithms: lets web-1.production.eu use what no other target may: hmac-sha1, ssh-rsa\n"
    )


def test_missing_geo_data_is_a_warning(site: Site) -> None:
    result = invoke("check", "--config", str(site.config))
    assert result.exit_code == 0
    assert "country.mmdb is not there yet, so only geo.networks have a country" in result.stderr


def test_a_file_that_is_no_geo_data_is_a_warning(site: Site) -> None:
    (site.folder / "var").mkdir()
    (site.folder / "var" / "country.mmdb").write_bytes(b"not a database")
    result = invoke("check", "--config", str(site.config))
    assert result.exit_code == 0
    assert "cannot be read, so only geo.networks have a country" in result.stderr


def test_two_issuers_whose_groups_are_mixed_are_a_warning(site: Site) -> None:
    fresh_geo(site)
    site.edit("\nworkloads:", "  - {issuer: https://other.example.com, client_id: bastion}\n\nworkloads:")
    result = invoke("check", "--config", str(site.config))
    assert result.exit_code == 0
    assert result.stderr == (
        "warning: issuers[1].claims.group_prefix: is that of issuers[0], so their groups of one name are one group\n"
    )


def test_git_ci_can_check_without_the_secrets(site: Site) -> None:
    site.key.unlink()
    result = invoke("check", "--config", str(site.config), "--skip-secrets")
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_schemas_are_printed() -> None:
    assert invoke("policy", "schema").stdout == schema_text()
    assert invoke("check", "--schema").stdout == schema_json()


# ------------------------------------------------------------------------------------------------------ policy tests

# What is replaced in the example's policies, which case then fails, and why.
CHANGES = {
    "a forbid that nobody thought of": (
        '@id("sre-administer")',
        '@id("no-weekends") forbid (principal, action in Action::"connect", resource) when { context.weekday > 5 };\n'
        '@id("sre-administer")',
        "a grant opens a shell on staging",
        "is not permitted: Forbidden by policy no-weekends.",
    ),
    "anybody may review": (
        'permit (principal in Group::"sre", action == Action::"review", resource);',
        'permit (principal, action == Action::"review", resource);',
        "contractors do not review",
        "is permitted by sre-review",
    ),
    "one approval less": (
        '@approvals("2")',
        '@approvals("1")',
        "production takes two approvals and two hours at most",
        "demands approvals 1, not 2",
    ),
    "another reviewer": (
        '@approvals("1")\n@reviewers("sre")',
        '@approvals("1")\n@reviewers("leads")',
        "contractors may ask for staging, with one approval",
        "demands reviewers leads, not sre",
    ),
    "a policy by another name": (
        '@id("auditors-replay")',
        '@id("replay")',
        "auditors replay everything, sre administer everything",
        "is permitted by replay, not by auditors-replay",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_policy_that_no_longer_says_what_is_expected_fails_its_test(site: Site, change: str) -> None:
    old, new, case, why = CHANGES[change]
    site.edit(old, new, file=site.policy)
    result = invoke("policy", "test", "--config", str(site.config))
    line = site.line_of(f"- name: {case}", file=site.tests)
    assert result.stderr.splitlines() == [f"policy_tests.yaml:{line}: {case!r} fails: it {why}"]
    assert result.exit_code == 2


def test_policy_tests_that_pass_are_counted(site: Site) -> None:
    site.key.unlink()
    result = invoke("policy", "test", "--config", str(site.config))
    assert (result.exit_code, result.stdout) == (0, "13 policy tests: all right\n")
    assert json.loads(invoke("policy", "test", "--config", str(site.config), "--json").stdout)["policy_tests"] == 13


# One case, and what is wrong with it.
CASES = {
    "{name: a, does: request, expect: maybe}": "[0].expect: must be permit or forbid",
    "{name: a, does: dance, expect: permit}": (
        "[0].does: must be one of ssh:shell, ssh:exec, ssh:sftp_read, ssh:sftp_write, ssh:forward_loopback, "
        "ssh:forward, ssh:forward_remote, ssh:forward_socket, ssh:forward_remote_socket, ssh:agent, "
        "request, cross, break_glass, review, replay, administer"
    ),
    "{name: a, does: review, target: web-9, expect: forbid}": "[0].target: There is no target 'web-9'.",
    "{name: a, does: review, target: web-1, expect: forbid}": (
        "[0].target: 'web-1' could be web-1.production.eu or web-1.staging.eu: give the full name."
    ),
    "{name: a, does: review, target: web-1.staging.eu, login: root, expect: forbid}": (
        "[0].login: web-1.staging.eu has no login root"
    ),
    "{name: a, does: 'ssh:shell', target: web-1.staging.eu, expect: forbid}": (
        "[0].does: ssh:shell needs a target and a login"
    ),
    "{name: a, does: review, scope: staging/ue, expect: forbid}": "[0].scope: there is no staging/ue",
    "{name: a, does: review, scope: staging, expect: forbid}": (
        "[0].scope: 'staging' is not a scope; it is written environment/region"
    ),
    "{name: a, does: review, scope: dev/eu, at: noon, expect: forbid}": (
        "[0].at: must be an instant with its offset, such as 2026-01-05T12:00:00Z"
    ),
    "{name: a, does: review, scope: dev/eu, country: NO, who: {group: [a]}, expect: forbid}": (
        "[0].who.group: is not a known key; did you mean groups?"
    ),
    "{name: a, does: review, scope: dev/eu, who: {kind: robot}, expect: forbid}": (
        "[0].who.kind: must be person or workload"
    ),
    "{name: a, does: review, scope: dev/eu, who: {mfa: perhaps}, expect: forbid}": (
        "[0].who.mfa: must be true or false"
    ),
    "{name: a, does: request, scope: dev/eu, expect: permit, demands: {approvals: two}}": (
        "[0].demands.approvals: must be a whole number"
    ),
    "{name: a, does: request, scope: dev/eu, expect: permit, demands: {max_duration: 0m}}": (
        "[0].demands.max_duration: 0s is not possible: a grant lasts from 1 minute to 30 days."
    ),
    "{name: a, does: request, scope: dev/eu, address: here, expect: permit}": "[0].address: must be an IP address",
}


@pytest.mark.parametrize("case", CASES)
def test_a_policy_test_that_asks_nothing_is_a_mistake(site: Site, case: str) -> None:
    site.tests.write_text(f"# one case\n- {case}\n")
    result = invoke("policy", "test", "--config", str(site.config))
    assert result.stderr.splitlines() == [f"policy_tests.yaml:2: {CASES[case]}"]
    assert result.exit_code == 2


def test_who_was_said_to_forbid_must_have_forbidden(site: Site) -> None:
    case = "{name: a, does: review, scope: dev/eu, expect: forbid, by: no-root-on-production}"
    site.tests.write_text(f"- {case}\n")
    result = invoke("policy", "test", "--config", str(site.config))
    assert result.stderr.startswith("policy_tests.yaml:1: 'a' fails: it is not forbidden by no-root-on-production")
    assert result.exit_code == 2
