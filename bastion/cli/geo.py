"""`bastion geo`: where an address is, and putting a new database in place."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from bastion.cli import exits
from bastion.cli.operate import CONFIG, ConfigOption

if TYPE_CHECKING:
    from bastion.config import Settings
    from bastion.core.geofence import Place
    from bastion.core.target import Region


def register(app: typer.Typer) -> None:
    geo = typer.Typer(no_args_is_help=True, help="Where addresses are, and the database that says so.")
    geo.command("lookup")(lookup)
    geo.command("update")(update)
    app.add_typer(geo, name="geo")


def lookup(
    address: Annotated[str, typer.Argument(help="An IPv4 or IPv6 address")],
    config: ConfigOption = CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON")] = False,
) -> None:
    """Say where an address is, by which data, and which regions can be reached from there."""
    import json

    from bastion.adapters.clock import SystemClock
    from bastion.adapters.geo import MaxMindLocator
    from bastion.core.geofence import parse_address
    from bastion.core.target import printable

    _log_to_stderr()
    try:
        parsed = parse_address(address)
    except ValueError:
        _fail(f"{printable(address)!r} is not an IP address.")
    settings, clock = _load(config), SystemClock()
    locator = MaxMindLocator(settings.geo.database, settings.geo.networks, clock=clock)
    age = locator.age(clock.now())
    found = _described(locator.locate(parsed), age, settings.catalogue().regions.values())
    if age is not None and age > settings.geo.max_age:
        typer.echo(f"The geo data is {age.days} days old: get a newer file and run bastion geo update FILE.", err=True)
    typer.echo(json.dumps(found, indent=2) if as_json else _as_text(found))


def update(
    file: Annotated[Path, typer.Argument(help="A Country or City database in MaxMind's format (.mmdb)")],
    config: ConfigOption = CONFIG,
) -> None:
    """Check a database and put it where the configuration says. A running bastion takes it up within a second."""
    from bastion.adapters.maxmind import install

    destination = _load(config).geo.database
    if destination is None:
        _fail("The configuration names no geo.database to put it at.")
    try:
        installed = install(file, destination)
    except (OSError, ValueError) as error:
        _fail(f"Nothing was changed: {error}")
    typer.echo(f"Installed at {destination}: {installed.networks} networks, data of {installed.built_at:%Y-%m-%d}.")


def _load(config: Path) -> Settings:
    from bastion.config import load
    from bastion.core.errors import ConfigError

    try:
        return load(config, here=False)  # where secrets are does not matter to places
    except ConfigError as error:
        _fail("\n".join(error.problems))


def _described(place: Place, age: timedelta | None, regions: Iterable[Region]) -> dict[str, Any]:
    return {
        "address": str(place.address),
        "country": place.country,
        "source": place.source,
        "data_from": None if place.data_from is None else place.data_from.isoformat(),
        "age_days": None if place.data_from is None or age is None else age.days,
        "regions": {region.name: _judged(region, place) for region in regions},
    }


def _judged(region: Region, place: Place) -> dict[str, Any]:
    from bastion.core.geofence import Inside

    judgement = region.fence.judge(place)
    return {"inside": isinstance(judgement, Inside), "reason": judgement.reason}


def _as_text(found: dict[str, Any]) -> str:
    data = "" if found["data_from"] is None else f", built {found['data_from'][:10]}, {found['age_days']} days ago"
    lines = [f"{found['address']} is in {found['country'] or 'an unknown country'} (by {found['source']}{data})"]
    for name, region in found["regions"].items():
        lines.append(f"  {name}: {'inside' if region['inside'] else 'outside'}, {region['reason']}")
    return "\n".join(lines)


def _log_to_stderr() -> None:
    """Standard output is for the answer, which a script reads."""
    import sys

    import structlog

    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def _fail(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(exits.USAGE)
