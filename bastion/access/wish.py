"""What somebody asks for, as people write it, and what it means in the catalogue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from bastion.core.errors import NotFound, Refused
from bastion.core.grant import Request, check_duration, check_reason
from bastion.core.policy import SSH_ACTIONS, Action, Demands
from bastion.core.target import LOGIN, Catalogue, Scope, Target, printable

MAX_NAMES = 20
"""Targets, and logins, of one request: each pair is one question to the policies."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Targets and logins by name, unchecked; ``duration`` and ``reason`` as they were given."""

    targets: tuple[str, ...]
    logins: tuple[str, ...]
    duration: timedelta
    reason: str
    crossing: bool = False
    actions: frozenset[Action] = SSH_ACTIONS


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


def resolve(wish: Wish, catalogue: Catalogue) -> Asked:
    """What ``wish`` means.

    Raises:
        NotFound: a target does not exist.
        Refused: nothing or too much is named, the targets are of several scopes, a login is missing on one of them,
            the duration or the reason cannot be used.
    """
    _check_count(wish.targets, "target")
    _check_count(wish.logins, "login")
    duration, reason = check_duration(wish.duration), check_reason(wish.reason)
    targets = tuple(dict.fromkeys(catalogue.find(name) for name in wish.targets))
    logins = tuple(dict.fromkeys(wish.logins))
    for target in targets:
        for login in logins:
            _check_login(target, login)
    return Asked(_one_scope(targets), targets, logins, duration, reason, wish.crossing, wish.actions)


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
    )
    missing = [name for name in wish.targets if name not in catalogue.targets]
    if missing:
        raise NotFound(f"{missing[0]} is not configured any more; ask again for what is there.")
    return resolve(wish, catalogue)


def strictest(demands: Iterable[Demands]) -> Demands:
    """Everything that any of ``demands`` asks for. At least one approval is always needed (law 10).

    Raises:
        Refused: they name reviewers that no group is common to. No groups at all would leave it to anybody, so this
            must not become the empty set.
    """
    approvals, mfa = 1, False
    longest: timedelta | None = None
    reviewers: frozenset[str] = frozenset()
    for demand in demands:
        approvals, mfa = max(approvals, demand.approvals), mfa or demand.mfa
        if demand.max_duration is not None:
            longest = demand.max_duration if longest is None else min(longest, demand.max_duration)
        if demand.reviewers:
            common = reviewers & demand.reviewers if reviewers else demand.reviewers
            if not common:
                raise Refused("These need different reviewers: ask for each target and login by itself.")
            reviewers = common
    return Demands(approvals, reviewers, longest, mfa)


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
