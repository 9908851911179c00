"""Where one request stands, read at this moment, and the card that shows it.

The card of a request is always drawn from here and never from what a message said before, so that buttons are there
exactly as long as there is something to press.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import assert_never

from bastion.access.ballot import grant_id_of
from bastion.chatops import messages
from bastion.chatops.cards import Button, Card, Deed, Link
from bastion.core.errors import NotFound
from bastion.core.grant import Approved, Closed, Grant, Outcome, Request, Review, Verdict, Waiting, outcome
from bastion.core.identity import Identity
from bastion.ports import Store


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


def card_of(story: Story, recordings: str | None = None) -> Card:
    """The card of a request, as it stands. ``recordings`` is a page that shows them."""
    lines = [messages.asking(story.request, story.beneficiary), messages.standing_of(story)]
    link = Link("Recordings", recordings) if recordings is not None and story.grant is not None else None
    return Card("\n".join(lines), _buttons(story), link)


def _buttons(story: Story) -> tuple[Button, ...]:
    if story.grant is not None:
        return ()
    match story.standing:
        case Waiting():
            return (Button(Deed.APPROVE, story.request.id), Button(Deed.REFUSE, story.request.id))
        case Approved() | Closed():
            return ()
        case _:
            assert_never(story.standing)
