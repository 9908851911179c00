"""What one setting alone cannot say: names that must be there, names that must differ, parts that need each other.

Each check takes what could be read, so that a mistake in one target does not hide a mistake in another.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from bastion.config import values
from bastion.config.problems import Problem
from bastion.config.secret import Plain
from bastion.config.settings import (
    CoordinationEntry,
    DiscordEntry,
    EnvironmentEntry,
    IssuerEntry,
    ListenEntry,
    MattermostEntry,
    RegionEntry,
    Settings,
    SignalEntry,
    SlackEntry,
    TargetEntry,
    TeamsEntry,
    WorkloadEntry,
)
from bastion.core.forward import OFF_LIMITS
from bastion.core.geofence import Network

S = TypeVar("S", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Readable:
    """The parts of a file that are right in themselves, by where they stand, and the names that the file gives."""

    raw: Mapping[str, Any]
    context: Mapping[str, Any]

    def listed(self, key: str, entry: type[S]) -> dict[int, S]:
        """The entries of a list that could be read, by index."""
        raw = self.raw.get(key)
        read = ((i, self._read(entry, item)) for i, item in enumerate(raw if isinstance(raw, list) else []))
        return {i: item for i, item in read if item is not None}

    def named(self, key: str, entry: type[S]) -> dict[str, S]:
        """The entries of a mapping that could be read, by name."""
        read = ((name, self._read(entry, item)) for name, item in self._mapping(key).items())
        return {name: item for name, item in read if item is not None}

    def names(self, key: str) -> Collection[str]:
        """Every name in a mapping, whether its entry could be read or not."""
        return self._mapping(key).keys()

    def one(self, entry: type[S], *path: str) -> S | None:
        raw: Any = self.raw
        for step in path:
            raw = raw.get(step) if isinstance(raw, Mapping) else None
        return self._read(entry, raw)

    def _mapping(self, key: str) -> Mapping[str, Any]:
        raw = self.raw.get(key)
        return raw if isinstance(raw, Mapping) else {}

    def _read(self, entry: type[S], raw: Any) -> S | None:
        try:
            return entry.model_validate(raw, context=dict(self.context))
        except ValidationError:
            return None


def problems(readable: Readable) -> Iterator[Problem]:
    """Every mistake that more than one setting makes."""
    for check in _CHECKS:
        yield from check(readable)


def warnings(settings: Settings) -> Iterator[str]:
    """What stops nothing, and may be meant: issuers whose groups cannot be told apart, targets with old algorithms."""
    first: dict[str, int] = {}
    for i, issuer in enumerate(settings.issuers):
        prefix = issuer.claims.group_prefix
        if prefix in first:
            other = f"issuers[{first[prefix]}]"
            yield f"issuers[{i}].claims.group_prefix: is that of {other}, so their groups of one name are one group"
        first.setdefault(prefix, i)
    if settings.workers > 1 and settings.store.url == Plain("sqlite"):
        yield "workers: share one SQLite file, in which one of them writes at a time; PostgreSQL takes them all"
    for i, target in enumerate(settings.targets):
        if target.algorithms:
            old = ", ".join(sorted(target.algorithms))
            yield f"targets[{i}].algorithms: lets {target.full_name} use what no other target may: {old}"


def _targets(readable: Readable) -> Iterator[Problem]:
    first: dict[str, int] = {}
    for i, entry in readable.listed("targets", TargetEntry).items():
        for key, name, section in (
            ("region", entry.region, "regions"),
            ("environment", entry.environment, "environments"),
        ):
            if name not in (known := readable.names(section)):
                yield Problem(("targets", i, key), f"there is no {key} {name}{_closest(name, known)}")
        name = entry.full_name
        if name in first:
            yield Problem(("targets", i, "name"), f"{name} is there already, as targets[{first[name]}]")
        first.setdefault(name, i)
        if not entry.host_keys and entry.host_ca is None:
            yield Problem(
                ("targets", i), f"{name} needs host_keys or host_ca: a host that cannot prove itself is no target"
            )
        for j, opening in enumerate(entry.forward):
            if opening.network is not None and any(_is_within(opening.network, n) for n in OFF_LIMITS):
                yield Problem(("targets", i, "forward", j), f"{opening.written} is off limits to every forward")
        if not entry.logins:
            yield Problem(("targets", i, "logins"), "must name at least one login: empty means nobody")


def _hops(readable: Readable) -> Iterator[Problem]:
    """A hop is trusted as far as the scope whose keys open it, and no target is behind itself."""
    listed = readable.listed("targets", TargetEntry)
    entries = {entry.full_name: entry for entry in listed.values()}
    if len(listed) < len(readable.raw.get("targets") or ()):
        return  # the hop may be the one that could not be read
    for i, entry in listed.items():
        if entry.via is None or entry.hop is None:
            continue
        path, hop = ("targets", i, "via"), entries.get(entry.hop)
        if hop is None:
            yield Problem(path, f"there is no target {entry.hop}{_closest(entry.hop, entries)}")
        elif hop.scope != entry.scope:
            yield Problem(path, f"{hop.full_name} is in {hop.scope}: a hop is in the scope of what is behind it")
        elif entry.via.login not in hop.logins:
            yield Problem(
                path, f"{hop.full_name} has no login {entry.via.login}{_closest(entry.via.login, hop.logins)}"
            )

        elif entry.full_name in (way := _way(entry, entries)):
            yield Problem(path, f"{entry.full_name} is behind itself: {' → '.join([entry.full_name, *way])}")


def _way(entry: TargetEntry, entries: Mapping[str, TargetEntry]) -> list[str]:
    """The names of what ``entry`` is behind, nearest first, until one comes again."""
    way: list[str] = []
    while (hop := entries.get(entry.hop or "")) is not None and hop.full_name not in way:
        way.append(hop.full_name)
        entry = hop
    return way


def _regions(readable: Readable) -> Iterator[Problem]:
    if readable.raw.get("regions") == {}:
        yield Problem(("regions",), "must name at least one region")
    for name, entry in readable.named("regions", RegionEntry).items():
        if not entry.fence.countries and not entry.fence.networks:
            yield Problem(
                ("regions", name, "fence"), "is empty, and an empty fence holds nobody: name countries or networks"
            )


def _environments(readable: Readable) -> Iterator[Problem]:
    """An environment is its own tier, so its name as another's tier would join the two without either saying so."""
    if readable.raw.get("environments") == {}:
        yield Problem(("environments",), "must name at least one environment")
    entries = readable.named("environments", EnvironmentEntry)
    for name, entry in entries.items():
        other = entries.get(entry.tier or "")
        if entry.tier != name and other is not None and other.tier is None:
            sentence = (
                f"{entry.tier} is an environment with its own tier; to join them, give both a tier: with one name"
            )
            yield Problem(("environments", name, "tier"), sentence)


def _issuers(readable: Readable) -> Iterator[Problem]:
    if readable.raw.get("issuers") == []:
        yield Problem(("issuers",), "must name at least one: without an issuer nobody can log in")
    first: dict[str, int] = {}
    for i, entry in readable.listed("issuers", IssuerEntry).items():
        if entry.issuer in first:
            yield Problem(
                ("issuers", i, "issuer"), f"{entry.issuer} is there already, as issuers[{first[entry.issuer]}]"
            )
        first.setdefault(entry.issuer, i)
        if "openid" not in entry.scopes:
            yield Problem(("issuers", i, "scopes"), "must have openid in it (OpenID Connect Core 1.0, section 3.1.2.1)")


def _workloads(readable: Readable) -> Iterator[Problem]:
    """A token that was made for a login at the same issuer is a person's, and must not let in a machine."""
    clients = {(entry.issuer, entry.client_id) for entry in readable.listed("issuers", IssuerEntry).values()}
    for i, entry in readable.listed("workloads", WorkloadEntry).items():
        if (entry.issuer, entry.audience) in clients:
            yield Problem(
                ("workloads", i, "audience"),
                f"{entry.audience} is the client_id of people's logins there; give workloads an audience of their own",
            )


def _signals(readable: Readable) -> Iterator[Problem]:
    issuers, workloads = readable.listed("issuers", IssuerEntry), readable.listed("workloads", WorkloadEntry)
    if len(issuers) < len(readable.raw.get("issuers") or ()):
        return  # one mistake, one sentence: whom it names cannot be told before the issuers can be read
    known = {entry.issuer for entry in issuers.values()} | {entry.issuer for entry in workloads.values()}
    for i, entry in readable.listed("signals", SignalEntry).items():
        for j, issuer in enumerate(entry.about):
            if issuer not in known:
                yield Problem(("signals", i, "about", j), f"there is no issuer {issuer}{_closest(issuer, known)}")
        if not entry.about and entry.issuer not in known:
            sentence = "must name the issuers about whose people it speaks: it is none of them itself"
            yield Problem(("signals", i, "about"), sentence)


def _geo(readable: Readable) -> Iterator[Problem]:
    geo = readable.raw.get("geo")
    networks = geo.get("networks") if isinstance(geo, Mapping) else None
    first: dict[object, str] = {}
    for written in networks if isinstance(networks, Mapping) else ():
        try:
            network = values.network(written)
        except ValueError:
            continue
        if network in first:
            yield Problem(("geo", "networks", written), f"is the same network as {first[network]}")
        first.setdefault(network, written)


def _listeners(readable: Readable) -> Iterator[Problem]:
    listen = readable.one(ListenEntry, "listen")
    if listen is not None and listen.ssh == listen.http and listen.ssh.port != 0:
        yield Problem(("listen", "http"), f"{listen.http} is what listen.ssh has; give each its own port")
    try:
        url = values.public_url(readable.raw.get("public_url"))
    except ValueError:
        return
    if readable.raw.get("tls") is None and not values.is_loopback(str(urlsplit(url).hostname)):
        yield Problem(("tls",), "is missing; it can be left out only when public_url is on loopback")


def _workers(readable: Readable) -> Iterator[Problem]:
    try:
        count = values.workers(readable.raw.get("workers", 1))
    except ValueError:
        return
    coordination = readable.one(CoordinationEntry, "coordination") or CoordinationEntry()
    if count > 1 and coordination.url == Plain("memory"):
        yield Problem(("workers",), "needs coordination.url to be a Redis server: memory is that of one process")


def _chat(readable: Readable) -> Iterator[Problem]:
    slack = readable.one(SlackEntry, "chat", "slack")
    if slack is not None and not slack.workspaces:
        yield Problem(
            ("chat", "slack", "workspaces"), "must name at least one team id: empty means nobody is listened to"
        )
    if slack is not None and slack.signing_secret is None and slack.app_token is None:
        yield Problem(("chat", "slack"), "needs signing_secret, for HTTP, or app_token, for Socket Mode")
    if slack is not None and slack.bot_token is None:
        for key in ("app_token", "channel"):
            if getattr(slack, key) is not None:
                yield Problem(("chat", "slack", "bot_token"), f"is missing, and {key} needs it")
    for platform, entry, listed, needed in (
        ("mattermost", readable.one(MattermostEntry, "chat", "mattermost"), "teams", "bot_token"),
        ("discord", readable.one(DiscordEntry, "chat", "discord"), "guilds", "bot_token"),
        ("teams", readable.one(TeamsEntry, "chat", "teams"), "tenants", "service_url"),
    ):
        if entry is not None and not getattr(entry, listed):
            yield Problem(("chat", platform, listed), "must name at least one: empty means nobody is listened to")
        if entry is not None and entry.channel is not None and getattr(entry, needed) is None:
            yield Problem(("chat", platform, needed), "is missing, and channel needs it")


_CHECKS: tuple[Callable[[Readable], Iterator[Problem]], ...] = (
    _targets, _hops, _regions, _environments, _issuers, _workloads, _signals, _geo, _listeners, _workers, _chat,
)  # fmt: skip


def _is_within(network: Network, other: Network) -> bool:
    return network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]  # of one version


def _closest(word: str, known: Collection[str]) -> str:
    close = get_close_matches(word, sorted(known), 1)
    return f"; did you mean {close[0]}?" if close else ""
