"""Every sentence that answers a request, a review, a grant or a revocation: one place, for chats and command line.

Plain text that may hold what people chose (names, reasons). Whoever shows it escapes it whole, for the place where it
is shown; nothing here is markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, assert_never

from bastion.access.approval import Revoked
from bastion.access.ballot import Answer, Granted, TurnedDown, WaitingForOthers
from bastion.access.ending import Acknowledgement
from bastion.access.standing import Held, Pending
from bastion.core.grant import Approved, Basis, Closed, Grant, Request, Waiting, spell
from bastion.core.identity import Identity
from bastion.core.policy import SSH_ACTIONS
from bastion.core.session import Session
from bastion.core.target import printable

if TYPE_CHECKING:
    from bastion.chatops.story import Story

NOT_LINKED = (
    "This account belongs to nobody here yet. Open this once, log in and confirm; it works for ten minutes and for you "
    "alone:"
)
ALREADY_LINKED = "This account is linked to {who}. To link it to another identity, open this, log in and confirm:"
LOG_IN_AGAIN = "Nothing was done. Open this, log in, and try again:"
ANSWER_IT_THERE = "Answering this takes a login {how}, and a chat shows none. Open the request, and answer it there:"
NOT_FROM_A_CHAT = (
    "This takes a login {how} of whoever approves, and a chat shows none. Use the command line: bastion grant, or "
    "bastion extend."
)
BENEFICIARY_NOT_LINKED = "has not linked their account yet: they type /bastion link first, then try again."
RECEIVED_BEFORE = "This command has arrived before and is not done twice. See what came of it: /bastion who"
NOTHING_TO_ASK_FOR = "No policy lets you ask for anything here. Ask the people who write them."
HAVE = "What you have"
WAITING = "What waits"
NO_GRANT = "You have no live grant."
NO_REQUEST = "No request waits."
OUT_OF_ORDER = "The bastion cannot do this right now; try again in a moment."

HELP = """\
/bastion request web-1 as deploy for 2h because "…"   ask for access
/bastion grant @contractor web-1 as deploy for 2h because "…"   give it
/bastion approve q-…   /bastion deny q-…   answer a request
/bastion extend g-… for 1h because "…"   more time
/bastion revoke g-…   /bastion revoke @contractor web-1   end it
/bastion withdraw q-…   take a request back
/bastion break-glass web-1 as deploy for 1h because "…"   open it at once, where policy lets you, and be asked why
/bastion who   who you are here, what you may reach, what waits for you
/bastion sessions   what you have open
/bastion link   tie this account to your identity
Several targets or logins are written with commas. as crossing at the end: may be used beside other environments.
as deploy with ssh:forward for 2h: besides what is usual, also ssh:forward_remote, ssh:forward_socket or ssh:agent.
as deploy only ssh:exec for 2h: that and nothing else. as deploy within /var/log/ for 2h: read and write files there.
as deploy from 192.0.2.0/24 for 2h: to be used from there. These go together, in any order."""


def asked(request: Request, beneficiary: Identity) -> str:
    """After a request was made."""
    return f"{asking(request, beneficiary)}\n{_needs(request, request.demands.approvals)}"


def asking(request: Request, beneficiary: Identity) -> str:
    """Who asks for what, and why, with all that narrows it."""
    more = f"{spell(request.duration)} more of {request.extends}, " if request.extends is not None else ""
    length = "" if request.extends is not None else f" for {spell(request.duration)}"
    begins = f" from {moment(request.starts_at)}" if request.starts_at is not None else ""
    first = f"{request.id}: {beneficiary.display} asks for {more}{what(request)}{length}{begins}{_only_from(request)}."
    ticket = (f"Ticket: {request.ticket}",) if request.ticket else ()
    beside = (f"A crossing: there is a session in {listed(request.beside)}.",) if request.beside else ()
    return "\n".join((first, f"Reason: {request.reason}", *ticket, *beside))


def standing_of(story: Story) -> str:
    """Where a request stands: what it needs, or what became of it."""
    request, by = story.request, approved_by(story)
    if (grant := story.grant) is not None:
        if grant.revoked_at is not None:
            return f"{by} Ended early at {moment(grant.revoked_at)}, {grant.id}."
        if story.at >= grant.ends_at:
            return f"{by} Ended at {moment(grant.ends_at)}, {grant.id}."
        begins = f"from {moment(grant.starts_at)} " if story.at < grant.starts_at else ""
        return f"{by} May be used {begins}until {moment(grant.ends_at)}, {grant.id}."
    match story.standing:
        case Waiting(missing):
            return _needs(request, missing, f"{by} " if by else "")
        case Closed(reason):
            return f"Closed: {reason}."
        case Approved():
            return by
        case _:
            assert_never(story.standing)


def approved_by(story: Story) -> str:
    """Who answered for it, as a sentence; empty while nobody has."""
    if story.grant is not None and story.grant.basis is Basis.BREAK_GLASS:
        return "Opened by break-glass."
    if story.request.demands.automatic:
        return "Approved by policy."
    by = " and ".join(voter.display for voter in story.approvers)
    return f"Approved by {by}." if by else ""


def ending(story: Story) -> str:
    """Before the end of a grant; after it, that it is over."""
    who = story.beneficiary.display
    if (grant := story.grant) is None or grant.revoked_at is not None or story.at >= grant.ends_at:
        return f"{who}'s access has ended."
    return f"{who}'s access ends at {moment(grant.ends_at)}, in {spell(grant.ends_at - story.at)}."


def acknowledged(done: Acknowledgement) -> str:
    """After somebody answered for a break-glass."""
    who = done.beneficiary.display
    if done.grant.revoked_at is not None:
        return f"{done.request.id}: your answer counts. {who}'s access by break-glass is over; open sessions are cut."
    more = f" {_more(done.missing)} must answer." if done.missing else " It is closed."
    return f"{done.request.id}: your answer counts. {who}'s break-glass was right.{more}"


def withdrawn(request: Request) -> str:
    """After a request was taken back."""
    return f"{request.id} is withdrawn: nobody can answer it any more."


def sessions(live: Sequence[Session], now: datetime) -> str:
    """Live sessions of one person."""
    lines = (
        f"{each.target} as {each.login}, {spell(now - each.started_at)} so far, until {moment(each.until)}, {each.id}"
        for each in live
    )
    return "\n".join(lines) or "You have no open session."


def lasting(story: Story) -> str:
    """What a grant lets somebody do, as the end of a sentence."""
    if (grant := story.grant) is None:
        return "has no grant."
    begins = f"from {moment(grant.starts_at)} " if story.at < grant.starts_at else ""
    return f"may use {what(grant)} {begins}until {moment(grant.ends_at)}, {grant.id}."


def _more(missing: int) -> str:
    return "One more" if missing == 1 else f"{missing} more"


def _needs(request: Request, missing: int, approved: str = "") -> str:
    more = " more" if approved else ""
    people = f"one{more} approval" if missing == 1 else f"{missing}{more} approvals"
    by = f" by {' or '.join(sorted(request.demands.reviewers))}" if request.demands.reviewers else ""
    return f"{approved}It needs {people}{by} before {moment(request.times_out_at)}."


def answered(answer: Answer) -> str:
    """After a review, or a grant."""
    match answer:
        case Granted(request, beneficiary, grant, by) if request.extends is not None:
            hand = f"approved by {' and '.join(voter.display for voter in by)}" if by else "approved by policy"
            return f"{beneficiary.display} may use {what(grant)} until {moment(grant.ends_at)} now. {grant.id}, {hand}."
        case Granted(request, beneficiary, grant, by):
            hand = f"approved by {' and '.join(voter.display for voter in by)}" if by else _answered_by(grant)
            return "\n".join(
                (
                    f"{beneficiary.display} may use {what(grant)} until {moment(grant.ends_at)} "
                    f"({spell(request.duration)}).",
                    f"Reason: {grant.reason}",
                    f"Grant {grant.id}, {hand}.",
                )
            )
        case WaitingForOthers(request, beneficiary, missing):
            more = "one more approval" if missing == 1 else f"{missing} more approvals"
            return (
                f"{request.id}: your approval counts. {beneficiary.display} needs {more} for {what(request)} "
                f"before {moment(request.times_out_at)}."
            )
        case TurnedDown(request, beneficiary, reason):
            return f"{request.id} is closed, {reason}: {beneficiary.display} does not get {what(request)}."
        case _:
            assert_never(answer)


def _answered_by(grant: Grant) -> str:
    return "opened by break-glass" if grant.basis is Basis.BREAK_GLASS else "approved by policy"


def revoked(ended: Revoked) -> str:
    """After a revocation."""
    return "\n".join(
        f"Grant {grant.id} is revoked: {ended.beneficiary.display} may not use {what(grant)} any more. "
        "Open sessions are being cut."
        for grant in ended.grants
    )


def access(held: Sequence[Held], *, now: datetime) -> str:
    """What somebody may reach."""
    if not held:
        return NO_GRANT
    return "\n".join(["You may use:", *(f"  {held_line(each.grant, now)}" for each in held)])


def grants(held: Sequence[Held], *, now: datetime) -> str:
    """Live grants of several people."""
    return (
        "\n".join(f"{each.holder.display}: {held_line(each.grant, now)}" for each in held) or "There is no live grant."
    )


def pending(waiting: Sequence[Pending]) -> str:
    """Requests that wait."""
    return "\n".join(waiting_line(each) for each in waiting) or NO_REQUEST


def who(identity: Identity, held: Sequence[Held], waiting: Sequence[Pending], *, now: datetime) -> str:
    """Everything one person may want to know about themself."""
    parts = [you(identity), access(held, now=now)]
    if waiting:
        parts.append(pending(waiting))
    return "\n".join(parts)


def you(identity: Identity) -> str:
    """Whom this account belongs to."""
    return f"You are {identity.display} ({identity.id})."


def what(subject: Request | Grant) -> str:
    """``web-1.staging.eu as deploy``, what is unusual about the actions, and that it is a crossing."""
    crossing = ", as a crossing between environments," if subject.crossing else ""
    return f"{listed(subject.targets)} as {listed(subject.logins)}{_actions(subject)}{crossing}"


def _actions(subject: Request | Grant) -> str:
    if subject.actions == SSH_ACTIONS:
        return ""
    if subject.actions > SSH_ACTIONS:
        return f", with {listed(subject.actions - SSH_ACTIONS)} besides,"
    within = f" within {listed(subject.paths)}" if subject.paths else ""
    return f", only {listed(subject.actions)}{within},"


def _only_from(request: Request) -> str:
    return f", only from {request.network}" if request.network is not None else ""


def listed(names: Iterable[str]) -> str:
    """Names in order, with commas."""
    return ", ".join(sorted(names))


def moment(at: datetime) -> str:
    """To the minute; grants end on seconds that nobody needs to read."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def quoted(text: str) -> str:
    """What somebody typed, short and harmless."""
    return printable(text, 80)


def held_line(grant: Grant, now: datetime) -> str:
    """One live grant, in one line."""
    left = f"until {moment(grant.ends_at)} ({spell(grant.ends_at - now)} left)"
    narrowed = f" from {grant.network}" if grant.network is not None else ""
    return f"{what(grant)}{narrowed} {left}, {grant.id}"


def waiting_line(each: Pending) -> str:
    """One request that waits, in one line."""
    yours = " It waits for your answer." if each.answerable else " It waits for others."
    request = each.request
    length = spell(request.duration)
    deed = "opened" if request.break_glass else "asks for"
    how = f" {length} more of {request.extends}," if request.extends is not None else ""
    span = f" for {length} by break-glass" if request.break_glass else "" if how else f" for {length}"
    within = _only_from(request)
    reason = request.reason if request.reason.endswith((".", "!", "?", "…")) else f"{request.reason}."
    return (
        f"{request.id}: {each.beneficiary.display} {deed}{how} {what(request)}{span}{within}. Reason: {reason}{yours}"
    )
