"""Where one request stands, read at this moment, and the card that shows it.

The card of a request is always drawn from here and never from what a message said before, so that buttons are there
exactly as long as there is something to press.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from bastion.access.ballot import grant_id_of
from bastion.chatops import messages
from bastion.chatops.cards import Button, Card, Deed, Link
from bastion.core.errors import NotFound
from bastion.core.grant import Approved, Basis, Closed, Grant, Outcome, Request, Review, Verdict, Waiting, outcome
from bastion.core.identity import Identity
from bastion.core.request import answers_owed
from bastion.ports import Store

CARD, WARNING = "card", "warning"
"""Parts of a thread: where a request stands, and the last word before an end."""

NEAR = timedelta(minutes=20)
"""A little more than the time before an end at which a warning is given."""


@dataclass(frozen=True, slots=True)
class Story:
    """A request, what was answered to it, and what became of it."""

    request: Request
    beneficiary: Identity
    reviews: Sequence[Review]
    grant: Grant | None
    standing: Outcome
    at: datetime

    @property
    def approvers(self) -> tuple[Identity, ...]:
        """Those whose votes made the grant; before it is made, those who have approved."""
        if self.grant is not None:
            return tuple(r.reviewer for r in self.reviews if r.reviewer.id in self.grant.approved_by)
        return tuple(r.reviewer for r in self.reviews if r.verdict is Verdict.APPROVE)


async def story_of(store: Store, request_id: str, now: datetime) -> Story:
    """Everything about one request. Raises `NotFound`."""
    request = await store.request(request_id)
    beneficiary = await store.identity(request.beneficiary)
    reviews = await store.reviews(request_id)
    try:
        grant = await store.grant(grant_id_of(request))
    except NotFound:
        grant = None
    return Story(request, beneficiary, reviews, grant, outcome(request, beneficiary, reviews, now), now)


def card_of(story: Story, public_url: str) -> Card:
    """The card of a request, as it stands; of a grant with the way to its page, which has its recordings."""
    lines = [messages.asking(story.request, story.beneficiary), messages.standing_of(story)]
    link = link_of(story.grant.id, public_url) if story.grant is not None else None
    return Card("\n".join(lines), _buttons(story), link)


def link_of(grant_id: str, public_url: str, label: str = "Recordings") -> Link:
    """The page of a grant. It asks who looks."""
    return Link(label, f"{public_url}/grants/{grant_id}")


def warning_of(story: Story) -> Card:
    """The last word before the end of a grant: with a button while that is near, without when it has been put off."""
    grant = story.grant
    is_near = grant is not None and grant.ends_at - story.at <= NEAR
    return Card(messages.ending(story), _more_time(story) if is_near else ())


def _buttons(story: Story) -> tuple[Button, ...]:
    both = (Button(Deed.APPROVE, story.request.id), Button(Deed.REFUSE, story.request.id))
    if story.grant is not None:
        owed = answers_owed(story.request, story.beneficiary, story.reviews)
        return both if owed else _more_time(story)
    match story.standing:
        case Waiting():
            return both
        case Approved() | Closed():
            return ()
        case _:
            assert_never(story.standing)


def _more_time(story: Story) -> tuple[Button, ...]:
    """What was opened by break-glass is short, and stays so."""
    grant = story.grant
    if grant is None or grant.basis is Basis.BREAK_GLASS or not grant.is_live(story.at):
        return ()
    return (Button(Deed.EXTEND, grant.id, int(grant.ends_at.timestamp())),)
