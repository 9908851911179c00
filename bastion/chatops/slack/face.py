"""What Slack wants of us, answered; whichever way it came. Whoever calls has verified that it is Slack."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, assert_never

from bastion.access.linking import Account
from bastion.chatops import messages
from bastion.chatops.counter import Counter
from bastion.chatops.desk import Announcement, Desk, Private, Reply
from bastion.chatops.errands import Errands
from bastion.chatops.form import Misfilled, filled
from bastion.chatops.guard import Guard
from bastion.chatops.slack import blocks
from bastion.chatops.slack.outgoing import SlackApi
from bastion.chatops.slack.wire import (
    Followed,
    HomeOpened,
    Interaction,
    Pressed,
    SlashCommand,
    Submitted,
)
from bastion.core.errors import Refused, Unavailable


class Face:
    """Slack's side of the desk. Without ``api`` (no bot token) there are commands, and neither forms nor buttons."""

    def __init__(
        self, *, desk: Desk, guard: Guard, workspaces: Collection[str], api: SlackApi | None, errands: Errands
    ) -> None:
        self._desk = desk
        self._guard = guard
        self._counter = Counter(desk=desk, guard=guard, workspaces=workspaces)
        self._api = api
        self._errands = errands

    def listens_to(self, account: Account) -> bool:
        """Whether the account's workspace is listed. Empty listens to nobody."""
        return self._counter.listens_to(account)

    async def command(self, command: SlashCommand, *, fresh: bool) -> dict[str, Any]:
        """The answer to a command. One that is not ``fresh``, or was begun before, is not done again."""
        if not fresh:
            # Never the first answer again: it may hold a link that is for one person, and the retry header is unsigned.
            return blocks.answer(Private(messages.RECEIVED_BEFORE))
        if self._api is not None and not command.text.strip():
            return await self._open_form(self._api, command)
        return await self._shown(await self._counter.command(command.text, command.account, command.trigger))

    async def interaction(self, interaction: Interaction) -> dict[str, Any]:
        """What to answer at once. The rest is told through the API, when what was decided is durable."""
        match interaction:
            case Followed():
                return {}
            case Pressed():
                await self._press(interaction)
                return {}
            case Submitted(account, fields):
                return await self._submit(account, fields)
            case _:
                assert_never(interaction)

    async def home(self, opened: HomeOpened) -> None:
        """Draw somebody's home anew. Slack's retries draw it once."""
        if self._api is not None and await self._guard.is_first(opened.account.workspace, opened.event):
            self._errands.run(self._draw_home(self._api, opened.account))

    async def _shown(self, reply: Reply) -> dict[str, Any]:
        if not isinstance(reply, Announcement) or reply.subject is None or self._api is None:
            return blocks.answer(reply)
        if self._api.channel is not None:
            # The thread of the request tells everybody; a second card where it was typed would not follow it.
            return blocks.answer(Private(reply.text))
        return blocks.answer(reply, await self._desk.card(reply.subject))

    async def _open_form(self, api: SlackApi, command: SlashCommand) -> dict[str, Any]:
        if not await self._guard.is_first(command.account.workspace, command.trigger):
            return blocks.answer(Private(messages.RECEIVED_BEFORE))
        form = await self._counter.form(command.account)
        if isinstance(form, Private):
            return blocks.answer(form)
        try:
            await api.open_view(command.trigger, blocks.form_view(form))
        except Unavailable:
            return blocks.answer(Private(messages.OUT_OF_ORDER))
        return {}

    async def _submit(self, account: Account, fields: Mapping[str, str]) -> dict[str, Any]:
        try:
            reply = await self._desk.submit(filled(fields), account)
        except Misfilled as refusal:
            return {"response_action": "errors", "errors": {refusal.blank: refusal.public}}
        except Refused as refusal:
            return {"response_action": "errors", "errors": {"target": refusal.public}}
        except Unavailable:
            return {"response_action": "errors", "errors": {"target": messages.OUT_OF_ORDER}}
        return {"response_action": "update", "view": blocks.done_view(reply)}

    async def _press(self, pressed: Pressed) -> None:
        if self._api is not None:
            reply = await self._counter.press(pressed.button, pressed.account, pressed.trigger)
            self._errands.run(self._tell(self._api, pressed, reply))

    async def _tell(self, api: SlackApi, pressed: Pressed, reply: Reply) -> None:
        """The answer to the one who pressed, and the message as it stands now: its stale buttons vanish."""
        if pressed.message is None:
            await api.whisper_directly(pressed.account.user, blocks.answer(reply))
            await self._draw_home(api, pressed.account)
            return
        if not (isinstance(reply, Announcement) and api.channel is not None):
            await api.whisper(pressed.message.channel, pressed.account.user, blocks.answer(reply))
        if isinstance(reply, Private) and reply.link is not None:
            return  # a stranger changes no message, not even to what it would be anyway
        card = await self._desk.card_again(pressed.button, pressed.row)
        await api.update(pressed.message, blocks.message(card, pressed.row))

    async def _draw_home(self, api: SlackApi, account: Account) -> None:
        await api.publish_home(account.user, blocks.home_view(await self._desk.home(account)))
