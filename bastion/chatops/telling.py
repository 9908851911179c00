"""A notice in words: what happened, and the request it is about as it stands now. The same words for every way out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from bastion.chatops import messages
from bastion.chatops.story import Story, story_of
from bastion.core.errors import NotFound
from bastion.core.grant import Verdict
from bastion.core.identity import IdentityId
from bastion.core.notice import (
    Acknowledged,
    Asked,
    BrokenGlass,
    Ended,
    EndingSoon,
    Extended,
    FirstConnected,
    Granted,
    Notice,
    Reviewed,
    ReviewOverdue,
    TimedOut,
    Unused,
    Why,
    Withdrawn,
)
from bastion.ports import Store

MAX_RECORDINGS = 5
"""Named in one message; the rest are found with ``bastion sessions``."""


@dataclass(frozen=True, slots=True)
class Telling:
    """``story`` is of the request that the thread belongs to; ``own`` of the request itself, where that is for more
    time. ``line`` is what is new."""

    notice: Notice
    story: Story
    own: Story
    line: str

    @property
    def is_loud(self) -> bool:
        """Whether everybody is to look up: access was opened before anybody answered for it."""
        return isinstance(self.notice, BrokenGlass | ReviewOverdue)


async def telling_of(store: Store, notice: Notice, now: datetime) -> Telling:
    """Everything that is to be said of a notice. Raises `NotFound`: what it is about is gone."""
    own = await story_of(store, notice.request_id, now)
    story = own
    if own.request.extends is not None:
        story = await story_of(store, f"q-{own.request.extends[2:]}", now)
    return Telling(notice, story, own, await _line(store, notice, story, own))


async def _line(store: Store, notice: Notice, story: Story, own: Story) -> str:
    who = story.beneficiary.display
    match notice:
        case Asked():
            return messages.asked(own.request, own.beneficiary)
        case Reviewed(_, _, reviewer, Verdict.REFUSE, _):
            return f"{await _name(store, reviewer)} refused."
        case Reviewed(_, _, reviewer, _, missing):
            more = "one more approval is needed" if missing == 1 else f"{missing} more approvals are needed"
            return (
                f"{await _name(store, reviewer)} approved; {more}."
                if missing
                else (f"{await _name(store, reviewer)} approved.")
            )
        case Withdrawn(_, _, by):
            return f"{await _name(store, by)} took the request back."
        case TimedOut():
            return "Nobody answered in time; the request is closed."
        case Granted():
            return f"{messages.approved_by(story)} {who} {messages.lasting(story)}"
        case FirstConnected(_, _, _, session_id):
            session = await store.session(session_id)
            return f"{who} connected for the first time, to {session.target} as {session.login}."
        case EndingSoon(_, _, _, ends_at):
            return f"{who}'s access ends at {messages.moment(ends_at)}."
        case Extended(_, _, _, ends_at):
            return f"Extended until {messages.moment(ends_at)}. {messages.approved_by(own)}".strip()
        case Ended(_, _, grant_id, why, by):
            return await _over(store, who, why, by) + await _recorded(store, story, grant_id)
        case BrokenGlass():
            return (
                f"{who} opened {messages.what(story.request)} by break-glass, before anybody was asked. "
                "Somebody else has to answer for it now."
            )
        case ReviewOverdue(_, _, _, turn):
            return f"Nobody has answered for {who}'s break-glass yet. This is reminder {turn}."
        case Acknowledged(_, _, _, reviewer, Verdict.REFUSE):
            return f"{await _name(store, reviewer)} did not agree with the break-glass; the access is over."
        case Acknowledged(_, _, _, reviewer, _):
            return f"{await _name(store, reviewer)} agreed with the break-glass afterwards."
        case Unused(_, _, _, since):
            return f"{who} has not used this access since {messages.moment(since)}. It can be ended."
        case _:
            assert_never(notice)


async def _over(store: Store, who: str, why: Why, by: IdentityId | None) -> str:
    match why:
        case Why.EXPIRED:
            return f"{who}'s access has ended: its time is over."
        case Why.GIVEN_BACK:
            return f"{who} has given the access back."
        case Why.REVOKED:
            hand = f" by {await _name(store, by)}" if by is not None else ""
            return f"{who}'s access was revoked{hand}. Open sessions are cut."
        case _:
            assert_never(why)


async def _recorded(store: Store, story: Story, grant_id: str) -> str:
    """How to look back at what was done, for those who may."""
    every = await store.sessions(identity=str(story.beneficiary.id))
    mine = [each.id for each in every if each.grant_id == grant_id]
    more = f" and {len(mine) - MAX_RECORDINGS} more" if len(mine) > MAX_RECORDINGS else ""
    shown = "".join(f"\nbastion replay {session_id}" for session_id in mine[:MAX_RECORDINGS])
    return f"\nLook back:{shown}{more}" if mine else "\nIt was not used."


async def _name(store: Store, identity: IdentityId) -> str:
    try:
        return (await store.identity(identity)).display
    except NotFound:
        return str(identity)
