"""Everything that can be known about a configuration before it is live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bastion.adapters.policy import CedarPolicies
from bastion.config import cases, load, yaml
from bastion.config.settings import GeoEntry, Settings
from bastion.core.errors import ConfigError
from bastion.core.grant import spell
from bastion.core.target import Catalogue


@dataclass(frozen=True, slots=True)
class Report:
    """What was looked at, and what is worth a word although it stops nothing."""

    targets: int
    policies: int
    policy_tests: int
    warnings: tuple[str, ...]


def check(path: Path, now: datetime, *, here: bool = True) -> Report:
    """Validate a configuration, its policies and their tests.

    Args:
        path: of the configuration.
        now: the moment the age of geo data is judged for.
        here: whether this is the machine it is for; if not, keys, secrets and geo data are not looked at.

    Raises:
        ConfigError: one line for each mistake, a policy test that fails among them.
    """
    settings = load(path, here=here)
    catalogue = settings.catalogue()
    policies = read_policies(settings)
    tested = run_cases(settings, policies, catalogue)
    warnings = tuple(_geo_warnings(settings.geo, now)) if here else ()
    return Report(len(settings.targets), len(policies), tested, (*warnings, *_issuer_warnings(settings)))


def read_policies(settings: Settings) -> CedarPolicies:
    """The policies that the settings name, for the catalogue that they give. Raises `ConfigError`."""
    path = settings.policy
    try:
        with path.open("rb") as file:
            content = file.read(yaml.MAX_SIZE + 1)
        if len(content) > yaml.MAX_SIZE:
            raise ConfigError([f"{path.name}:1: is larger than {yaml.MAX_SIZE} bytes"])
        text = content.decode()
    except OSError as error:
        raise ConfigError([f"{path}: is unreadable: {error.strerror or error}"]) from None
    except UnicodeDecodeError:
        raise ConfigError([f"{path.name}:1: is not UTF-8"]) from None
    return CedarPolicies(text, settings.catalogue(), source=path.name)


def run_cases(settings: Settings, policies: CedarPolicies, catalogue: Catalogue) -> int:
    """Run the policy tests; how many there were.

    Raises:
        ConfigError: one line for each that fails.
    """
    if settings.policy_tests is None:
        return 0
    table = cases.read(settings.policy_tests, catalogue)
    answers = ((line, case.name, cases.failure(case, policies, catalogue)) for line, case in table)
    failures = [
        f"{settings.policy_tests.name}:{line}: {name!r}: {why}" for line, name, why in answers if why is not None
    ]
    if failures:
        raise ConfigError(failures)
    return len(table)


def _geo_warnings(geo: GeoEntry, now: datetime) -> Iterator[str]:
    # Only a check of the machine itself opens the database.
    import maxminddb

    if geo.database is None:
        if not geo.networks:
            yield "geo: has neither database nor networks, so only networks in fences let anybody in"
        return
    if not geo.database.exists():
        yield f"geo.database: {geo.database} is not there yet, so only geo.networks have a country: bastion geo update"
        return
    try:
        with maxminddb.open_database(geo.database) as database:
            built = datetime.fromtimestamp(database.metadata().build_epoch, UTC)
    except (OSError, maxminddb.InvalidDatabaseError, ValueError) as error:
        yield f"geo.database: {geo.database} cannot be read, so only geo.networks have a country: {error}"
        return
    if now - built > geo.max_age:
        age, most = spell(now - built), spell(geo.max_age)
        yield f"geo.database: was built {age} ago, longer than geo.max_age ({most}): bastion geo update"


def _issuer_warnings(settings: Settings) -> Iterator[str]:
    first: dict[str, int] = {}
    for i, issuer in enumerate(settings.issuers):
        prefix = issuer.claims.group_prefix
        if prefix in first:
            yield (
                f"issuers[{i}].claims.group_prefix: the same as of issuers[{first[prefix]}], so a group of one "
                f"is the group of that name of the other"
            )
        first.setdefault(prefix, i)
