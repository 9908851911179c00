"""What can be reached: scopes, targets, and the names people give them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from bastion.core.errors import NotFound, Refused
from bastion.core.geofence import Fence
from bastion.core.opening import Opening

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
LABEL = re.compile(_LABEL)
"""One DNS label (RFC 1123, section 2.1), lower case: names of environments, regions and targets."""

FULL_UNTIL = 16 * 2**20
"""Bytes of each stream without a terminal that are kept in full, unless configured: more than anybody reads."""

LOGIN = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
"""A login name of a target (useradd(8), Debian's NAME_REGEX)."""

PASSED_ENVIRONMENT = ("LANG", "LC_*", "COLORTERM")
"""Variables a client may set where nothing is configured: what programs say it in, and nothing they obey."""


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """One environment in one region. Written ``staging/eu``."""

    environment: str
    region: str

    def __str__(self) -> str:
        return f"{self.environment}/{self.region}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``environment/region``.

        Raises:
            ValueError: it is not two names with one slash between them.
        """
        environment, _, region = text.partition("/")
        if not (LABEL.fullmatch(environment) and LABEL.fullmatch(region)):
            raise ValueError(f"{text!r} is not a scope; it is written environment/region")
        return cls(environment, region)


@dataclass(frozen=True, slots=True)
class Environment:
    """dev, staging, production… Environments of one ``tier`` may be used together (law 4)."""

    name: str
    tier: str


@dataclass(frozen=True, slots=True)
class Region:
    """A place with a residency rule, reachable from inside its fence only."""

    name: str
    fence: Fence


@dataclass(frozen=True, slots=True)
class Hop:
    """A target of the same scope through which another one is reached, and the login that forwards there."""

    login: str
    target: Target


@dataclass(frozen=True, slots=True)
class Target:
    """An SSH host. ``host`` and ``port`` are where the bastion reaches it; people say ``full_name``.

    At least one of ``host_keys`` (OpenSSH public key lines) and ``host_ca`` is set: a target whose key cannot be
    verified is not a target.
    """

    name: str
    scope: Scope
    host: str
    port: int
    logins: frozenset[str]
    host_keys: tuple[str, ...] = ()
    host_ca: str | None = None
    algorithms: frozenset[str] = frozenset()
    """Names of `algorithms.LEGACY` that it may use besides the strong ones."""
    via: Hop | None = None
    """None: the bastion reaches it directly."""
    forward: tuple[Opening, ...] = ()
    """What forwards through it may reach besides its own loopback."""
    env: tuple[str, ...] = PASSED_ENVIRONMENT
    """Variables that a client may set, some by their beginning and ``*``."""
    full_until: int | None = FULL_UNTIL
    """Bytes of each stream without a terminal that are kept in full; of more, size and digest. None keeps all."""

    @property
    def full_name(self) -> str:
        """``web-1.staging.eu``: unique in one configuration."""
        return f"{self.name}.{self.scope.environment}.{self.scope.region}"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Everything the configuration names, by name."""

    environments: Mapping[str, Environment]
    regions: Mapping[str, Region]
    targets: Mapping[str, Target] = field(default_factory=dict)
    """By full name."""

    def find(self, name: str) -> Target:
        """The target that ``name`` means: a full name, or a short one that only one target has.

        Raises:
            NotFound: no target has that name.
            Refused: several targets have that short name; the sentence lists their full names.
        """
        wanted = name.lower()
        if (target := self.targets.get(wanted)) is not None:
            return target
        matches = sorted(full for full, target in self.targets.items() if target.name == wanted)
        if len(matches) == 1:
            return self.targets[matches[0]]
        if matches:
            raise Refused(f"{name!r} could be {' or '.join(matches)}: give the full name.")
        raise NotFound(f"There is no target {printable(name)!r}.")

    def tier_of(self, scope: Scope) -> str:
        """The tier of a scope's environment."""
        return self.environments[scope.environment].tier

    def scopes(self) -> list[Scope]:
        """Every scope that has a target, in order."""
        return sorted({target.scope for target in self.targets.values()})


def catalogue_of(
    environments: Iterable[Environment], regions: Iterable[Region], targets: Iterable[Target]
) -> Catalogue:
    """A catalogue from its parts; the configuration has checked already that names are unique."""
    return Catalogue(
        environments={e.name: e for e in environments},
        regions={r.name: r for r in regions},
        targets={t.full_name: t for t in targets},
    )


@dataclass(frozen=True, slots=True)
class Destination:
    """What a client asked for in its user name: a login, and perhaps a target."""

    login: str
    target: str | None


def parse_destination(username: str) -> Destination:
    """Read ``deploy``, ``deploy@web-1.staging.eu`` or ``deploy%web-1`` (for clients that cut at the first ``@``).

    Raises:
        Refused: the login or the target could not be a name of one.
    """
    login, separator, target = username.partition("@") if "@" in username else username.partition("%")
    if not LOGIN.fullmatch(login):
        raise Refused(f"{printable(login)!r} cannot be a login name. Write login@target@bastion.")
    if not separator:
        return Destination(login, None)
    labels = target.lower().split(".")
    if len(labels) not in (1, 3) or not all(LABEL.fullmatch(label) for label in labels):
        raise Refused(f"{printable(target)!r} cannot be a target. Write login@target.environment.region@bastion.")
    return Destination(login, target.lower())


def printable(text: str, limit: int = 100) -> str:
    """``text`` cut to ``limit`` and without anything a terminal could obey, for sentences that quote a peer."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:limit])
