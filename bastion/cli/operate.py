"""What an operator runs on the bastion's own machine: serve, ca, check, geo, policy, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bastion.cli import exits

CONFIG = Path("/etc/bastion/bastion.yaml")
"""Where the configuration is looked for when no --config is given."""

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The configuration file", envvar="BASTION_CONFIG")]


def register(app: typer.Typer) -> None:
    from bastion.cli import check, geo

    app.command("serve")(serve)
    app.command("ca")(ca)
    app.command("targets")(targets)
    app.command("demo")(demo)
    check.register(app)
    geo.register(app)


def serve(
    config: ConfigOption = CONFIG,
    worker: Annotated[int | None, typer.Option(hidden=True, help="Be this one of several")] = None,
) -> None:
    """Run this node until it is told to stop (SIGTERM, SIGINT). SIGHUP reads the policy and configuration again.

    It then waits for live sessions as long as `drain` says; told a second time, it does not.
    """
    import signal

    from bastion.config import load
    from bastion.core.errors import ConfigError

    # Until there is something that could be read again; by default it would end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        if worker is None and (count := load(config).workers) > 1:
            from bastion.cli.workers import supervise

            raise typer.Exit(supervise(config, count))
        from bastion import app

        app.run(config, worker)
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(exits.USAGE) from None


def ca(
    scope: Annotated[str | None, typer.Argument(help="A scope, as in staging/eu; by default every one")] = None,
    config: ConfigOption = CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Print what targets must trust, and what clients need to know the bastion by."""
    import json

    from bastion import app
    from bastion.core.errors import ConfigError

    try:
        trust = app.trust(config, scope)
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(exits.USAGE) from None
    typer.echo(json.dumps(trust.as_json(), indent=2) if as_json else trust.as_text())


def targets(
    config: ConfigOption = CONFIG, as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False
) -> None:
    """List the targets, and the host keys that they have announced and that shall be put into the configuration."""
    import asyncio
    import json

    from bastion import app
    from bastion.core.errors import BastionError, ConfigError

    try:
        announced = asyncio.run(app.announced_keys(config))
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(exits.USAGE) from None
    except BastionError as error:
        typer.echo(error.public, err=True)
        raise typer.Exit(exits.REFUSED) from None
    if as_json:
        rows = [
            {"target": t.full_name, "host": t.host, "port": t.port, "new_host_keys": [key.line for key in keys]}
            for t, keys in announced.items()
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    for target, keys in announced.items():
        way = f" through {target.via.target.full_name}" if target.via else ""
        typer.echo(f"{target.full_name}  {target.host} port {target.port}{way}")
        for key in keys:
            typer.echo(f"  to be put into its host_keys: {key.line}")


def demo(
    once: Annotated[bool, typer.Option("--once", help="Leave after the walk, with 0 if every step held")] = False,
) -> None:
    """Walk through a visit on this machine, on loopback only, with an identity provider and targets of its own."""
    from bastion.demo.walk import run

    raise typer.Exit(run(once=once))
