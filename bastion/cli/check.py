"""``bastion check`` and ``bastion policy``: is this configuration right, before it is live."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from bastion.cli import exits

if TYPE_CHECKING:
    from bastion.adapters.policy import CedarPolicies
    from bastion.config import Settings

T = TypeVar("T")

DEFAULT = Path("/etc/bastion/bastion.yaml")

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="BASTION_CONFIG", help="The configuration file.", show_default=True)
]
SkipSecrets = Annotated[
    bool,
    typer.Option("--skip-secrets", help="Do not look at keys, secrets and geo data: for git CI, which has none."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on standard output.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("check")(check)
    policy = typer.Typer(help="The policies: their schema and their tests.", no_args_is_help=True)
    policy.command("schema")(policy_schema)
    policy.command("test")(policy_test)
    app.add_typer(policy, name="policy")


def check(
    config: ConfigOption = DEFAULT,
    skip_secrets: SkipSecrets = False,
    as_json: AsJson = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the file's JSON Schema, for editors.")] = False,
) -> None:
    """Validate a configuration, its policies and their tests. Exit status 2 if anything is wrong."""
    if schema:
        typer.echo(schema_json(), nl=False)
        return

    report = _or_exit(lambda: validate(config, here=not skip_secrets), as_json=as_json)
    if as_json:
        counts = {"targets": report.targets, "policies": report.policies, "policy_tests": report.policy_tests}
        typer.echo(json.dumps({"ok": True, **counts, "warnings": report.warnings, "problems": []}))
        return
    for warning in report.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(
        f"{config}: {_count(report.targets, 'target')}, {_count(report.policies, 'policy', 'policies')} and "
        f"{_count(report.policy_tests, 'policy test')}: all right"
    )


def policy_schema() -> None:
    """Print the built-in Cedar schema: everything that policies can speak about."""
    from bastion.adapters.policy import schema_text

    typer.echo(schema_text(), nl=False)


def policy_test(config: ConfigOption = DEFAULT, as_json: AsJson = False) -> None:
    """Run the policy tests. Keys and secrets are not looked at. Exit status 2 if one fails."""

    def tested() -> int:
        from bastion.config import load

        settings = load(config, here=False)
        return _rehearse(settings, _policies(settings))

    number = _or_exit(tested, as_json=as_json)
    if as_json:
        typer.echo(json.dumps({"ok": True, "policy_tests": number, "problems": []}))
    else:
        typer.echo(f"{_count(number, 'policy test')}: all right")


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at and found right, and what is worth a word although it stops nothing."""

    targets: int
    policies: int
    policy_tests: int
    warnings: list[str]


def validate(path: Path, *, here: bool) -> Report:
    """Validate a configuration, its policies and their tests; with ``here`` also keys, secrets and geo data.

    Raises:
        ConfigError: one line for each mistake, a policy test that fails among them.
    """
    from bastion.adapters.clock import SystemClock
    from bastion.config import load, semantics, surroundings

    settings = load(path, here=here)
    policies = _policies(settings)
    tested = _rehearse(settings, policies)
    warnings = [*semantics.warnings(settings), *(surroundings.warnings(settings, SystemClock().now()) if here else ())]
    return Report(len(settings.targets), len(policies), tested, warnings)


def _policies(settings: Settings) -> CedarPolicies:
    from bastion.adapters.policy import CedarPolicies
    from bastion.config import read_policy

    return CedarPolicies(read_policy(settings), settings.catalogue(), source=settings.policy.name)


def _rehearse(settings: Settings, policies: CedarPolicies) -> int:
    from bastion.config import rehearsal

    if settings.policy_tests is None:
        return 0
    return rehearsal.run(settings.policy_tests, policies, settings.catalogue())


def schema_json() -> str:
    """What config/bastion.schema.json holds."""
    from bastion.config import schema

    return json.dumps(schema(), indent=2) + "\n"


def _or_exit(action: Callable[[], T], *, as_json: bool) -> T:
    """What ``action`` gives; or each problem on its own line, and exit status 2."""
    from bastion.core.errors import ConfigError

    try:
        return action()
    except ConfigError as error:
        if as_json:
            typer.echo(json.dumps({"ok": False, "problems": error.problems, "warnings": []}))
        else:
            for problem in error.problems:
                typer.echo(problem, err=True)
        raise typer.Exit(exits.USAGE) from None


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
