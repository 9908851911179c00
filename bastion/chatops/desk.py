"""Carries out a command for somebody whom a chat has proven to be one account of one workspace.

A chat says nothing about a person's address or whether they are a guest; so the place of what is done here is not
known, and an account counts for exactly the identity that linked it: its groups, as of its last login, are what the
policies judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import assert_never

from bastion.access.approval import Approval, Holding
from bastion.access.askable import Choice
from bastion.access.ballot import Granted, TurnedDown, WaitingForOthers
from bastion.access.drafting import MoreTime
from bastion.access.linking import Account, Linking
from bastion.access.standing import Pending, Standing
from bastion.access.wish import Wish
from bastion.chatops import messages
from bastion.chatops.cards import Button, Card, Deed
from bastion.chatops.commands import (
    ApproveCommand,
    BreakGlassCommand,
    Command,
    DenyCommand,
    ExtendCommand,
    GrantCommand,
    HelpCommand,
    LinkCommand,
    Mention,
    RequestCommand,
    RevokeGrantCommand,
    RevokeTargetCommand,
    SessionsCommand,
    WhoCommand,
    WithdrawCommand,
    parse,
)
from bastion.chatops.story import WARNING, card_of, story_of, warning_of
from bastion.core.audit import Event, Kind
from bastion.core.errors import NotFound, Refused, Unauthenticated
from bastion.core.grant import Grant, Verdict
from bastion.core.identity import Identity, Strength
from bastion.core.remedy import StepUpNeeded
from bastion.ports import Clock, Store

EXTENSION = timedelta(hours=1)
"""What the button asks for at most; more is asked for in words."""

MAX_CHOICE = 100
"""Targets that a form offers; the longest list a chat shows."""


@dataclass(frozen=True, slots=True)
class Private:
    """For the one who typed the command. ``link`` is for them alone."""

    text: str
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Announcement:
    """For everybody in the channel; ``to`` is the account it concerns, to be notified.

    ``subject`` is the request whose card shows how it goes on.
    """

    text: str
    to: Mention | None
    subject: str | None = None


Reply = Private | Announcement


@dataclass(frozen=True, slots=True)
class Form:
    """What the form of a request offers."""

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Home:
    """What one person has and what waits for them, each with its buttons."""

    who: str
    have: tuple[Card, ...]
    waiting: tuple[Card, ...]


class Desk:
    """Commands in, replies out; whatever the chat. ``public_url`` is where browsers reach the bastion."""

    def __init__(
        self,
        *,
        approval: Approval,
        standing: Standing,
        choice: Choice,
        linking: Linking,
        store: Store,
        clock: Clock,
        node: str,
        public_url: str,
    ) -> None:
        self._approval = approval
        self._standing = standing
        self._choice = choice
        self._linking = linking
        self._store = store
        self._clock = clock
        self._node = node
        self._public_url = public_url.rstrip("/")

    async def carry_out(self, text: str, account: Account) -> Reply:
        """Do what ``text`` says as the identity that linked ``account``; who has not linked gets a link, nothing else.

        Raises:
            Refused: it was not done; the sentence is for the one who typed it.
        """
        actor = await self._known(account)
        return actor if isinstance(actor, Private) else await self._obey(parse(text), actor, account)

    async def press(self, button: Button, account: Account) -> Reply:
        """Do what a button says, as whoever linked ``account``: the one who pressed, whoever's message it is on.

        Raises:
            Refused: it was not done; the sentence is for the one who pressed.
        """
        actor = await self._known(account)
        if isinstance(actor, Private):
            return actor
        match button.deed:
            case Deed.APPROVE:
                return await self._review(button.subject, actor, Verdict.APPROVE)
            case Deed.REFUSE:
                return await self._review(button.subject, actor, Verdict.REFUSE)
            case Deed.EXTEND:
                return await self._press_extend(button, actor)
            case _:
                assert_never(button.deed)

    async def form(self, account: Account) -> Form | Private:
        """What the account's owner may ask for.

        Raises:
            Refused: nothing.
        """
        actor = await self._known(account)
        if isinstance(actor, Private):
            return actor
        targets = tuple(each.target for each in self._choice.of(actor, MAX_CHOICE))
        if not targets:
            raise Refused(messages.NOTHING_TO_ASK_FOR)
        return Form(targets)

    async def submit(self, wish: Wish, account: Account) -> Reply:
        """Ask for what a filled form says. Raises as `carry_out`."""
        actor = await self._known(account)
        return actor if isinstance(actor, Private) else await self._ask(wish, actor)

    async def home(self, account: Account) -> Home | Private:
        """What the account's owner has, and what waits for them."""
        actor = await self._known(account)
        if isinstance(actor, Private):
            return actor
        now = self._clock.now()
        held = await self._standing.access_of(actor, None)
        return Home(
            messages.you(actor),
            tuple([await self._held_card(each.grant, now) for each in held]),
            tuple(_pending_card(each) for each in await self._waiting(actor)),
        )

    async def card(self, request_id: str) -> Card:
        """The card of a request as it stands now; of one that is not there, that it is not."""
        try:
            return card_of(await story_of(self._store, request_id, self._clock.now()), self._public_url)
        except NotFound as missing:
            return Card(missing.public)

    async def card_again(self, button: Button, row: str) -> Card:
        """What the message now shows that ``button`` was on."""
        if row != WARNING:
            return await self.card(button.request_id)
        try:
            return warning_of(await story_of(self._store, button.request_id, self._clock.now()))
        except NotFound as missing:
            return Card(missing.public)

    async def _held_card(self, grant: Grant, now: datetime) -> Card:
        story = await story_of(self._store, grant.request_id, now)
        return replace(card_of(story, self._public_url), text=messages.held_line(grant, now))

    async def _press_extend(self, button: Button, actor: Identity) -> Reply:
        """As much again as was asked for, an hour at most, for the same reason."""
        grant = await self._store.grant(button.subject)
        request = await self._store.request(grant.request_id)
        seen = datetime.fromtimestamp(button.seen, UTC) if button.seen is not None else None
        # The button has whole seconds, and the grant may end between two.
        same = seen is not None and int(grant.ends_at.timestamp()) == button.seen
        more = MoreTime(
            duration=min(request.duration, EXTENSION),
            reason=grant.reason,
            ticket=request.ticket,
            seen_end=grant.ends_at if same else seen,
        )
        return await self._extend(grant.id, more, actor)

    async def _extend(self, grant_id: str, more: MoreTime, actor: Identity) -> Reply:
        try:
            answer = await self._approval.extend(grant_id, _as_in_a_chat(actor), more, None)
        except StepUpNeeded as needed:
            raise Refused(messages.NOT_FROM_A_CHAT.format(how=_how(needed))) from None
        if isinstance(answer, Granted):
            return Announcement(messages.answered(answer), None, answer.request.id)
        return Announcement(messages.asked(answer.request, answer.beneficiary), None, answer.request.id)

    async def _known(self, account: Account) -> Identity | Private:
        """Who acts through ``account``; or the link that a stranger gets, or the way to a login that lasts."""
        try:
            return await self._linking.actor_of(account)
        except Unauthenticated as over:
            return Private(f"{over.public} {messages.LOG_IN_AGAIN}", f"{self._public_url}/login")
        except NotFound:
            offer = await self._offer(account, messages.NOT_LINKED)
            await self._note_stranger(account)
            return offer

    async def _obey(self, command: Command, actor: Identity, account: Account) -> Reply:
        match command:
            case GrantCommand(mention, wish):
                beneficiary = await self._mentioned(mention, account)
                answer = await self._grant(actor, beneficiary, wish)
                return Announcement(messages.answered(answer), mention, answer.request.id)
            case RequestCommand(wish):
                return await self._ask(wish, actor)
            case RevokeGrantCommand(grant_id):
                ended = await self._approval.revoke(grant_id, actor, None)
                return Announcement(messages.revoked(ended), None, ended.grants[0].request_id)
            case RevokeTargetCommand(mention, target):
                beneficiary = await self._mentioned(mention, account)
                ended = await self._approval.revoke(Holding(beneficiary, target), actor, None)
                return Announcement(messages.revoked(ended), mention, ended.grants[0].request_id)
            case ApproveCommand(request_id):
                return await self._review(request_id, actor, Verdict.APPROVE)
            case DenyCommand(request_id):
                return await self._review(request_id, actor, Verdict.REFUSE)
            case ExtendCommand(grant_id, duration, reason):
                return await self._extend(grant_id, MoreTime(duration, reason), actor)
            case WithdrawCommand(request_id):
                withdrawn = await self._approval.withdraw(request_id, actor, None)
                return Announcement(messages.withdrawn(withdrawn), None, request_id)
            case BreakGlassCommand(wish):
                opened = await self._approval.break_glass(actor, wish, None)
                return Announcement(messages.answered(opened), None, opened.request.id)
            case SessionsCommand():
                return Private(await self._sessions(actor))
            case WhoCommand():
                return Private(await self._who(actor))
            case LinkCommand():
                return await self._offer(account, messages.ALREADY_LINKED.format(who=actor.display))
            case HelpCommand():
                return Private(messages.HELP)
            case _:
                assert_never(command)

    async def _grant(self, actor: Identity, beneficiary: Identity, wish: Wish) -> Granted | WaitingForOthers:
        try:
            return await self._approval.grant(_as_in_a_chat(actor), beneficiary, wish, None)
        except StepUpNeeded as needed:
            raise Refused(messages.NOT_FROM_A_CHAT.format(how=_how(needed))) from None

    async def _ask(self, wish: Wish, actor: Identity) -> Announcement:
        answer = await self._approval.ask(actor, actor, wish, None)
        said = messages.answered(answer) if isinstance(answer, Granted) else messages.asked(answer.request, actor)
        return Announcement(said, None, answer.request.id)

    async def _sessions(self, actor: Identity) -> str:
        live = await self._store.sessions(live=True, identity=str(actor.id))
        return messages.sessions([each for each in live if each.identity == actor.id], self._clock.now())

    async def _note_stranger(self, account: Account) -> None:
        details = {"platform": account.platform, "workspace": account.workspace, "user": account.user}
        reasons = ("the account is not linked",)
        async with self._store.transaction() as tx:
            await tx.append(
                Event(Kind.CHAT_REFUSED, at=self._clock.now(), node=self._node, reasons=reasons, details=details)
            )

    async def _review(self, request_id: str, actor: Identity, verdict: Verdict) -> Reply:
        try:
            return await self._answer(request_id, _as_in_a_chat(actor), verdict)
        except StepUpNeeded as needed:
            link = f"{self._public_url}/requests/{request_id}"
            return Private(messages.ANSWER_IT_THERE.format(how=_how(needed)), link)

    async def _answer(self, request_id: str, actor: Identity, verdict: Verdict) -> Reply:
        if (await self._store.request(request_id)).break_glass:
            done = await self._approval.acknowledge(request_id, actor, verdict, None)
            return Announcement(messages.acknowledged(done), None, request_id)
        answer = await self._approval.review(request_id, actor, verdict, None)
        match answer:
            case Granted() | TurnedDown():
                return Announcement(messages.answered(answer), None, request_id)
            case WaitingForOthers():
                return Private(messages.answered(answer))
            case _:
                assert_never(answer)

    async def _who(self, actor: Identity) -> str:
        held = await self._standing.access_of(actor, None)
        return messages.who(actor, held, await self._waiting(actor), now=self._clock.now())

    async def _waiting(self, actor: Identity) -> Sequence[Pending]:
        """What was opened without being asked first waits longest for an answer."""
        return [*await self._standing.owed(actor, None), *await self._standing.pending(actor, None)]

    async def _mentioned(self, mention: Mention, account: Account) -> Identity:
        try:
            return await self._linking.identity_of(account.platform, account.workspace, mention.user)
        except NotFound:
            raise Refused(f"{mention.user} {messages.BENEFICIARY_NOT_LINKED}") from None

    async def _offer(self, account: Account, text: str) -> Private:
        code = await self._linking.offer(account)
        return Private(text, f"{self._public_url}/link/{account.platform}/{code}")


def _as_in_a_chat(reviewer: Identity) -> Identity:
    """A chat shows no login: what its owner has proven elsewhere, whoever has their chat has not (ADR 31)."""
    return reviewer.proven_by(Strength(datetime.fromtimestamp(0, UTC)))


def _how(needed: StepUpNeeded) -> str:
    return needed.remedy.how or "that is recent"


def _pending_card(each: Pending) -> Card:
    buttons = (Button(Deed.APPROVE, each.request.id), Button(Deed.REFUSE, each.request.id))
    return Card(messages.waiting_line(each), buttons if each.answerable else ())
