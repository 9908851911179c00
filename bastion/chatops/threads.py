"""The thread that follows a request on one board: its card, always as it stands now, and under it what happened.

The order of each telling is: card, card drawn anew, line. The first two can be done again without anybody noticing; so
a crash or a chat that is away leads at worst to a line that is there twice.
"""

from __future__ import annotations

from dataclasses import replace

from bastion.chatops.board import Board
from bastion.chatops.cards import Card
from bastion.chatops.commands import Mention
from bastion.chatops.story import CARD, WARNING, Story, card_of, link_of, warning_of
from bastion.chatops.telling import Telling, telling_of
from bastion.core.errors import NotFound
from bastion.core.notice import Asked, Ended, EndingSoon, Extended, Granted, Notice, Unused
from bastion.ports import ChatPost, Clock, Store


class Threads:
    """Tells notices on one board. ``public_url`` is where browsers reach the bastion."""

    def __init__(self, *, board: Board, store: Store, clock: Clock, public_url: str) -> None:
        self._board = board
        self._store = store
        self._clock = clock
        self._public_url = public_url

    async def tell(self, notice: Notice) -> None:
        """Raises `Unavailable`: the chat or the store did not take it; nothing is lost by telling it again."""
        try:
            telling = await telling_of(self._store, notice, self._clock.now())
        except NotFound:
            return  # what it is about is gone, and so is whatever could be said of it
        root, is_new = await self._root(telling)
        if not is_new:
            await self._board.update(root, self._card(telling.story), CARD)
        await self._withdraw_warning(telling)
        await self._say(telling, root)

    async def _root(self, telling: Telling) -> tuple[str, bool]:
        """The message of the request, posted if it is not there."""
        request_id = telling.story.request.id
        posts = await self._store.chat_posts(self._board.platform, request_id)
        if CARD in posts:
            return posts[CARD], False
        message = await self._board.post(self._card(telling.story), CARD)
        await self._keep(request_id, CARD, message)
        return message, True

    async def _say(self, telling: Telling, root: str) -> None:
        match telling.notice:
            case Asked() if telling.own is telling.story:
                return  # the card says it
            case Asked():
                card = self._card(telling.own)
                await self._keep(telling.own.request.id, CARD, await self._board.post(card, CARD, root))
            case EndingSoon():
                card = replace(warning_of(telling.story), to=await self._holder(telling))
                message = await self._board.post(card, WARNING, root)
                await self._keep(telling.story.request.id, WARNING, message)
            case Granted():
                await self._board.post(Card(telling.line, to=await self._holder(telling)), "line", root)
            case Unused(_, _, grant_id, _):
                link = link_of(grant_id, self._public_url, "Look, or end it")
                await self._board.post(Card(telling.line, link=link), "line", root)
            case _:
                await self._update_own(telling)
                await self._board.post(Card(telling.line, loud=telling.is_loud), "line", root)

    async def _update_own(self, telling: Telling) -> None:
        """The card of a request for more time, which is in the thread of the grant."""
        if telling.own is telling.story:
            return
        posts = await self._store.chat_posts(self._board.platform, telling.own.request.id)
        if CARD in posts:
            await self._board.update(posts[CARD], self._card(telling.own), CARD)

    async def _withdraw_warning(self, telling: Telling) -> None:
        """A warning that is no longer true loses its buttons."""
        if not isinstance(telling.notice, Extended | Ended):
            return
        request_id = telling.story.request.id
        posts = await self._store.chat_posts(self._board.platform, request_id)
        if WARNING in posts:
            await self._board.update(posts[WARNING], replace(warning_of(telling.story), buttons=()), WARNING)
            async with self._store.transaction() as tx:
                await tx.forget_post(self._board.platform, request_id, WARNING)

    async def _holder(self, telling: Telling) -> Mention | None:
        """The account of whoever has the grant, to be notified; None where they have none on this platform."""
        links = await self._store.chat_links_of(telling.story.beneficiary.id)
        return next((Mention(link.user) for link in links if link.platform == self._board.platform), None)

    async def _keep(self, request_id: str, part: str, message: str) -> None:
        async with self._store.transaction() as tx:
            await tx.keep_post(ChatPost(request_id, self._board.platform, part, message))

    def _card(self, story: Story) -> Card:
        return card_of(story, self._public_url)
