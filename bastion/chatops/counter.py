"""What every platform does with somebody it has proven: once for each invocation, and never an error but a sentence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping

from bastion.access.linking import Account
from bastion.chatops import messages
from bastion.chatops.cards import Button, Card
from bastion.chatops.desk import Desk, Form, Private, Reply
from bastion.chatops.form import filled
from bastion.chatops.guard import Guard
from bastion.core.errors import Refused, Unavailable


class Counter:
    """A desk, and who is let near it. Empty ``workspaces`` let nobody."""

    def __init__(self, *, desk: Desk, guard: Guard, workspaces: Collection[str]) -> None:
        self._desk = desk
        self._guard = guard
        self._workspaces = frozenset(workspaces)

    def listens_to(self, account: Account) -> bool:
        return account.workspace in self._workspaces

    async def command(self, text: str, account: Account, invocation: str) -> Reply:
        """Carry out what was typed."""
        return await self._once(account, invocation, lambda: self._desk.carry_out(text, account))

    async def press(self, button: Button, account: Account, invocation: str) -> Reply:
        """Do what a button says."""
        return await self._once(account, invocation, lambda: self._desk.press(button, account))

    async def submit(self, fields: Mapping[str, str], account: Account, invocation: str) -> Reply:
        """Ask for what a form says."""

        async def ask() -> Reply:
            return await self._desk.submit(filled(fields), account)

        return await self._once(account, invocation, ask)

    async def form(self, account: Account) -> Form | Private:
        """The form, or why there is none."""
        try:
            return await self._desk.form(account)
        except Refused as refusal:
            return Private(refusal.public)

    async def card(self, request_id: str) -> Card:
        """Where a request stands."""
        return await self._desk.card(request_id)

    async def card_again(self, button: Button, row: str) -> Card:
        """What the message shows now that ``button`` was on."""
        return await self._desk.card_again(button, row)

    async def _once(self, account: Account, invocation: str, deed: Callable[[], Awaitable[Reply]]) -> Reply:
        # Never the first answer again: it may hold a link that is for one person.
        if not await self._guard.is_first(account.workspace, invocation):
            return Private(messages.RECEIVED_BEFORE)
        try:
            return await deed()
        except Refused as refusal:
            return Private(refusal.public)
        except Unavailable:
            return Private(messages.OUT_OF_ORDER)
