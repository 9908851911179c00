"""The decision: whether one identity, from one place, may do one thing at one target now.

The policy engine (`bastion.ports.Policies`) says what the written policies permit. The laws are here and hold whatever
it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from bastion.core.files import Limits
from bastion.core.geofence import Fence, Outside, Place
from bastion.core.hours import Hours
from bastion.core.identity import Identity
from bastion.core.remedy import Remedy, least
from bastion.core.target import Scope, Target
from bastion.core.ticket import TicketPattern

if TYPE_CHECKING:
    from bastion.core.grant import Grant


class Action(StrEnum):
    """What can be done at a target, under a grant."""

    SSH_SHELL = "ssh:shell"
    SSH_EXEC = "ssh:exec"
    SSH_SFTP_READ = "ssh:sftp_read"
    SSH_SFTP_WRITE = "ssh:sftp_write"
    SSH_FORWARD_LOOPBACK = "ssh:forward_loopback"
    """To ports of the target's own loopback, which a shell reaches anyway; VS Code lives on it."""
    SSH_FORWARD = "ssh:forward"
    """To other hosts, as far as the configuration names them for the target."""
    SSH_FORWARD_REMOTE = "ssh:forward_remote"
    """From a port of the target's loopback to the client's side."""
    SSH_FORWARD_SOCKET = "ssh:forward_socket"
    """To Unix sockets of the target."""
    SSH_FORWARD_REMOTE_SOCKET = "ssh:forward_remote_socket"
    """From a Unix socket that is made at the target to the client's side."""
    SSH_AGENT = "ssh:agent"
    """The client's keys, for use at the target by whoever is root there."""


SSH_ACTIONS = frozenset(
    {
        Action.SSH_SHELL,
        Action.SSH_EXEC,
        Action.SSH_SFTP_READ,
        Action.SSH_SFTP_WRITE,
        Action.SSH_FORWARD_LOOPBACK,
    }
)
"""What a grant includes when nobody said otherwise. The rest is asked for by name, and a person answers."""

FORWARDS = frozenset(
    {
        Action.SSH_FORWARD_LOOPBACK,
        Action.SSH_FORWARD,
        Action.SSH_FORWARD_REMOTE,
        Action.SSH_FORWARD_SOCKET,
        Action.SSH_FORWARD_REMOTE_SOCKET,
    }
)
"""Those of which it matters where they lead."""


FILE_ACTIONS = frozenset({Action.SSH_SFTP_READ, Action.SSH_SFTP_WRITE})
"""What can be limited to paths: everything else could leave them."""


class Power(StrEnum):
    """What can be done to access itself; the policies know these as actions too."""

    REQUEST = "request"
    CROSS = "cross"
    """To ask for what may be used beside another environment (law 4)."""
    BREAK_GLASS = "break_glass"
    """To open at once, for a short time, and be reviewed afterwards."""
    REVIEW = "review"
    REPLAY = "replay"
    ADMINISTER = "administer"


@dataclass(frozen=True, slots=True)
class Demands:
    """What the permits that allowed a request ask for in return; of several permits the strictest of each."""

    approvals: int = 1
    reviewers: frozenset[str] = frozenset()
    """Groups; empty leaves it to the review policies alone."""
    max_duration: timedelta | None = None
    mfa: bool = False
    automatic: bool = False
    """Nobody has to answer: the policy did. Of several permits each must say so."""
    min_reason: int = 0
    """Characters."""
    tickets: frozenset[TicketPattern] = frozenset()
    """A ticket that every one of them matches must be named."""
    hours: frozenset[Hours] = frozenset()
    """A grant begins within every one of them, and ends when the first of them does."""


def strictest(demands: Iterable[Demands]) -> Demands | None:
    """What satisfies every one of ``demands``, or None when nobody could; of none it is the least there is.

    Two that name reviewers with no group in common are the case of None: the empty intersection must not become "no
    group named", which would leave it to anybody who may review.
    """
    result: Demands | None = None
    for each in demands:
        if result is None:
            result = each
            continue
        reviewers = result.reviewers or each.reviewers
        if each.reviewers and not (reviewers := reviewers & each.reviewers):
            return None
        durations = [d for d in (result.max_duration, each.max_duration) if d is not None]
        result = Demands(
            approvals=max(result.approvals, each.approvals),
            reviewers=reviewers,
            max_duration=min(durations, default=None),
            mfa=result.mfa or each.mfa,
            automatic=result.automatic and each.automatic,
            min_reason=max(result.min_reason, each.min_reason),
            tickets=result.tickets | each.tickets,
            hours=result.hours | each.hours,
        )
    return Demands() if result is None else result


@dataclass(frozen=True, slots=True)
class Permitted:
    """A clean Allow: at least one permit, no forbid, no evaluation error. ``policies`` are their ids."""

    policies: tuple[str, ...]
    demands: Demands = Demands()
    limits: Limits = Limits()
    """Of files that are read or written, where that was asked about."""
    keeps_everything: bool = False
    """Of what a session without a terminal says, however much that is; see `Target.full_until`."""


@dataclass(frozen=True, slots=True)
class NotPermitted:
    """Anything but a clean Allow. ``reasons`` are sentences; never empty."""

    reasons: tuple[str, ...]
    remedy: Remedy | None = None
    """After which it would be permitted."""


Ruling = Permitted | NotPermitted


@dataclass(frozen=True, slots=True)
class Access:
    """One wish: an identity with a certificate for ``scope`` wants to do ``action`` as ``login`` at ``target``."""

    identity: Identity
    scope: Scope
    target: Target
    login: str
    action: Action
    place: Place


@dataclass(frozen=True, slots=True)
class Occupied:
    """A live session of the same identity, as law 4 sees it."""

    session_id: str
    environment: str
    tier: str


@dataclass(frozen=True, slots=True)
class Allow:
    """Open, under ``grant``, and not past its end."""

    grant: Grant
    reasons: tuple[str, ...]
    crossing: bool = False


@dataclass(frozen=True, slots=True)
class NeedsGrant:
    """Nothing forbids it, and no live grant covers it."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deny:
    """No, and a grant would not change it."""

    reasons: tuple[str, ...]
    remedy: Remedy | None = None
    """What would."""


Decision = Allow | NeedsGrant | Deny


def decide(
    access: Access,
    *,
    fence: Fence,
    tier: str,
    occupied: Sequence[Occupied],
    grants: Sequence[Grant],
    rulings: dict[str, Ruling],
    now: datetime,
) -> Decision:
    """Judge one wish. Place first (law 2), then the certificate's scope (3), the tier (4), the grant (1), the policy.

    Args:
        access: the wish.
        fence: of the target's region.
        tier: of the target's environment.
        occupied: the identity's live sessions, on every node.
        grants: every grant the identity has or recently had; those that do not cover explain the answer.
        rulings: by grant id, what the policies say when that grant alone is linked. A grant without a ruling is not
            permitted.
        now: the moment it is judged for.
    """
    judgement = fence.judge(access.place)
    if isinstance(judgement, Outside):
        return Deny((f"{judgement.reason}: region {access.target.scope.region} cannot be reached from there.",))
    if access.scope != access.target.scope:
        return Deny(
            (
                f"This certificate is for {access.scope}; {access.target.full_name} is in {access.target.scope}. "
                f"Get one for it: bastion cert {access.target.full_name}",
            )
        )
    if access.login not in access.target.logins:
        return Deny((f"{access.target.full_name} has no login {access.login}.",))

    covering, near_misses = [], []
    for grant in sorted(grants, key=lambda g: g.ends_at, reverse=True):
        shortfall = grant.shortfall(
            access.identity.id,
            access.target.scope,
            access.target.full_name,
            access.login,
            access.action,
            now,
            address=access.place.address,
        )
        if shortfall is None:
            covering.append(grant)
        elif grant.identity == access.identity.id:
            near_misses.append(f"Grant {grant.id} {shortfall}.")
    if not covering:
        return NeedsGrant(_missing(access, near_misses))

    elsewhere = sorted({held.environment for held in occupied if held.tier != tier})
    if elsewhere:
        covering = [grant for grant in covering if grant.crossing]
        if not covering:
            return Deny(
                (
                    f"You have a session open in {' and '.join(elsewhere)}; environments do not touch. "
                    f"End it first, or ask for a grant that is approved as a crossing.",
                )
            )

    refusals: list[str] = []
    remedies: list[Remedy | None] = []
    for grant in covering:
        ruling = rulings.get(grant.id, NotPermitted(("no policy was asked",)))
        match ruling:
            case Permitted(policies):
                return Allow(grant, (judgement.reason, *(f"permitted by {p}" for p in policies)), bool(elsewhere))
            case NotPermitted(reasons, remedy):
                refusals.extend(reasons)
                remedies.append(remedy)
            case _:
                assert_never(ruling)
    return Deny(tuple(dict.fromkeys(refusals)), least(remedies))


def _missing(access: Access, near_misses: list[str]) -> tuple[str, ...]:
    name = access.target.full_name
    ask = f'Ask for one: /bastion request {name} as {access.login} for 2h because "…"'
    return (
        f"No live grant lets {access.identity.display} use {access.action} as {access.login} on {name}.",
        *near_misses[:3],
        ask,
    )
