"""What somebody asks for, as people write it, and what it means in the catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

from bastion.core import policy
from bastion.core.errors import NotFound, Refused
from bastion.core.files import parse_paths
from bastion.core.geofence import Network
from bastion.core.grant import MIN_APPROVALS, Request, check_duration, check_reason, parse_duration, spell
from bastion.core.policy import FILE_ACTIONS, SSH_ACTIONS, Action, Demands
from bastion.core.target import LOGIN, Catalogue, Scope, Target, printable
from bastion.core.ticket import MAX_TICKET

MAX_AHEAD = timedelta(days=30)
"""Until an agreed start."""

MAX_NAMES = 20
"""Targets, and logins, of one request: each pair is one question to the policies."""

MORE = "+"
"""Before an action: besides what a grant includes anyway."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Targets and logins by name, unchecked; ``duration`` and ``reason`` as they were given."""

    targets: tuple[str, ...]
    logins: tuple[str, ...]
    duration: timedelta
    reason: str
    crossing: bool = False
    actions: frozenset[Action] = SSH_ACTIONS
    starts_at: datetime | None = None
    """An agreed start; without one the clock starts with the approval."""
    network: Network | None = None
    """Narrows from where it may be used."""
    paths: frozenset[str] = frozenset()
    """Narrow it to reading and writing these files, and then ``actions`` is about nothing else."""
    ticket: str = ""
    """May be left to the reason, where it is found."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A wish that means something: existing targets of one scope, logins that all of them have."""

    scope: Scope
    targets: tuple[Target, ...]
    logins: tuple[str, ...]
    duration: timedelta
    reason: str
    crossing: bool
    actions: frozenset[Action]
    starts_at: datetime | None = None
    network: Network | None = None
    paths: frozenset[str] = frozenset()
    ticket: str = ""


def resolve(wish: Wish, catalogue: Catalogue) -> Asked:
    """What ``wish`` means.

    Raises:
        NotFound: a target does not exist.
        Refused: nothing or too much is named, the targets are of several scopes, a login is missing on one of them,
            the duration, the reason or a path cannot be used.
    """
    _check_count(wish.targets, "target")
    _check_count(wish.logins, "login")
    duration, reason = check_duration(wish.duration), check_reason(wish.reason)
    targets = tuple(dict.fromkeys(catalogue.find(name) for name in wish.targets))
    logins = tuple(dict.fromkeys(wish.logins))
    for target in targets:
        for login in logins:
            _check_login(target, login)
    if not wish.actions:
        raise Refused("Name at least one action, or leave them out to ask for what is usual.")
    return Asked(
        scope=_one_scope(targets),
        targets=targets,
        logins=logins,
        duration=duration,
        reason=reason,
        crossing=wish.crossing,
        actions=_of_files(wish.actions) if wish.paths else wish.actions,
        starts_at=wish.starts_at,
        network=wish.network,
        paths=parse_paths(wish.paths),
        ticket=check_ticket(wish.ticket),
    )


def recall(request: Request, catalogue: Catalogue) -> Asked:
    """What a stored request means by the catalogue of now, which may have changed since.

    Raises:
        Conflict: never; a target that is gone raises `NotFound`, a login that is gone `Refused`.
    """
    wish = Wish(
        targets=tuple(sorted(request.targets)),
        logins=tuple(sorted(request.logins)),
        duration=request.duration,
        reason=request.reason,
        crossing=request.crossing,
        actions=request.actions,
        starts_at=request.starts_at,
        network=request.network,
        paths=request.paths,
        ticket=request.ticket,
    )
    missing = [name for name in wish.targets if name not in catalogue.targets]
    if missing:
        raise NotFound(f"{missing[0]} is not configured any more; ask again for what is there.")
    return resolve(wish, catalogue)


def strictest(demands: Iterable[Demands]) -> Demands:
    """Everything that any of ``demands`` asks for. At least one approval is always needed (law 10).

    Raises:
        Refused: they name reviewers that no group is common to.
    """
    found = policy.strictest(demands)
    if found is None:
        raise Refused("These need different reviewers: ask for each target and login by itself.")
    return replace(found, approvals=max(found.approvals, MIN_APPROVALS))


def parse_start(text: str, now: datetime) -> datetime:
    """Read an agreed start: ``in 2h``, or an instant with its offset, ``2026-03-02T09:00Z``.

    Raises:
        Refused: it is not written so, has passed, or is more than `MAX_AHEAD` away.
    """
    words = text.strip()
    if words.lower().startswith("in "):
        return now + parse_duration(words[3:])
    try:
        moment = datetime.fromisoformat(words)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Refused(f"{printable(words, 40)!r} is not a start. Write it like 2026-03-02T09:00Z, or: in 2h")
    return check_start(moment.astimezone(UTC), now)


def check_start(moment: datetime, now: datetime) -> datetime:
    """``moment`` itself, when a grant can be agreed to begin then.

    Raises:
        Refused: it has passed, or is more than `MAX_AHEAD` away.
    """
    if not now <= moment <= now + MAX_AHEAD:
        raise Refused(f"A start is at most {spell(MAX_AHEAD)} ahead, and not in the past.")
    return moment


def parse_network(text: str) -> Network:
    """Read ``192.0.2.0/24`` or one address.

    Raises:
        Refused: it is neither, or is every address there is.
    """
    try:
        network = ip_network(text.strip())
    except ValueError:
        raise Refused(f"{printable(text, 60)!r} is not a network. Write it like 192.0.2.0/24.") from None
    if network.prefixlen == 0:
        raise Refused("Every address is no network: leave it out.")
    return network


def parse_actions(names: Iterable[str]) -> frozenset[Action]:
    """Read ``ssh:exec`` and its like: those named and no others, or where each is written ``+ssh:forward`` those, too.

    Raises:
        Refused: one is not an action; the sentence has all that are.
    """
    known = {action.value: action for action in Action}
    written = tuple(names)
    wanted = tuple(name.removeprefix(MORE) for name in written)
    if unknown := [name for name in wanted if name not in known]:
        raise Refused(f"{printable(unknown[0], 40)!r} is not an action; there are: {', '.join(sorted(known))}.")
    added = bool(written) and all(name.startswith(MORE) for name in written)
    return frozenset(known[name] for name in wanted) | (SSH_ACTIONS if added else frozenset())


def _of_files(actions: frozenset[Action]) -> frozenset[Action]:
    """What is left of all actions where paths are named; whoever names actions has to know it."""
    if actions != SSH_ACTIONS and not actions <= FILE_ACTIONS:
        others = ", ".join(sorted(actions - FILE_ACTIONS))
        raise Refused(
            f"Paths narrow reading and writing files. {others} would not keep to them: ask for that by itself."
        )
    return actions & FILE_ACTIONS


def check_ticket(text: str) -> str:
    """The name of a ticket without space around it; none is empty.

    Raises:
        Refused: it is too long, or more than one word.
    """
    ticket = text.strip()
    if len(ticket) > MAX_TICKET or not ticket.isprintable() or " " in ticket:
        raise Refused(f"{printable(ticket, 40)!r} cannot be the name of a ticket.")
    return ticket


def _check_count(names: tuple[str, ...], what: str) -> None:
    if not names:
        raise Refused(f"Name at least one {what}.")
    if len(names) > MAX_NAMES:
        raise Refused(f"At most {MAX_NAMES} {what}s go into one request.")


def _check_login(target: Target, login: str) -> None:
    if not LOGIN.fullmatch(login):
        raise Refused(f"{printable(login)!r} cannot be a login name.")
    if login not in target.logins:
        raise Refused(f"{target.full_name} has no login {login}; it has {', '.join(sorted(target.logins))}.")


def _one_scope(targets: tuple[Target, ...]) -> Scope:
    scopes = sorted({target.scope for target in targets})
    if len(scopes) > 1:
        raise Refused(f"A grant is for one scope, and these are in {' and '.join(map(str, scopes))}: ask for each.")
    return scopes[0]
