"""The composition of chats and notices: who listens where, and by what ways people are told."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from bastion.chatops import discord, mattermost, slack, teams
from bastion.chatops.board import Board
from bastion.chatops.counter import Counter
from bastion.chatops.desk import Desk
from bastion.chatops.errands import Errands
from bastion.chatops.guard import Guard
from bastion.chatops.mail import Mail, Server
from bastion.chatops.slack.face import Face
from bastion.chatops.slack.socket import Socket
from bastion.chatops.threads import Threads
from bastion.chatops.webhook import Webhook, signing_key
from bastion.config.settings import DiscordEntry, MattermostEntry, Settings, SlackEntry, TeamsEntry
from bastion.core.errors import ConfigError
from bastion.ports import Clock, Coordination, Locator, Notices, Store


@dataclass(slots=True)
class Chats:
    """Composed: the routes of the console, the ways of telling by their names, and what runs in the background."""

    routes: list[web.RouteDef] = field(default_factory=list)
    notices: dict[str, Notices] = field(default_factory=dict)
    background: list[Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What every platform is made from."""

    settings: Settings
    desk: Desk
    errands: Errands
    session: aiohttp.ClientSession
    store: Store
    coordination: Coordination
    locator: Locator
    clock: Clock
    node: str

    def guard(self, platform: str) -> Guard:
        return Guard(
            platform=platform,
            coordination=self.coordination,
            store=self.store,
            locator=self.locator,
            clock=self.clock,
            node=self.node,
        )

    def counter(self, guard: Guard, workspaces: Collection[str]) -> Counter:
        return Counter(desk=self.desk, guard=guard, workspaces=workspaces)

    def threads(self, board: Board) -> Threads:
        return Threads(board=board, store=self.store, clock=self.clock, public_url=self.settings.public_url)


def compose(
    settings: Settings,
    *,
    desk: Desk,
    errands: Errands,
    session: aiohttp.ClientSession,
    store: Store,
    coordination: Coordination,
    locator: Locator,
    clock: Clock,
    node: str,
) -> Chats:
    """Everything about chats for one node.

    Raises:
        ConfigError: a secret cannot be read, or a key is none.
    """
    parts = _Parts(settings, desk, errands, session, store, coordination, locator, clock, node)
    chats = Chats()
    builders: Mapping[str, Callable[[Any, _Parts, Chats], None]] = {
        "slack": _slack,
        "mattermost": _mattermost,
        "discord": _discord,
        "teams": _teams,
    }
    for name, entry in settings.chat.platforms().items():
        try:
            builders[name](entry, parts, chats)
        except ValueError as error:
            raise ConfigError([f"chat.{name}: {error}"]) from None
    _ways(parts, chats)
    return chats


def _slack(entry: SlackEntry, parts: _Parts, chats: Chats) -> None:
    api = None
    if entry.bot_token is not None:
        api = slack.SlackApi(token=entry.bot_token.reveal(), channel=entry.channel)
    if entry.signing_secret is not None:
        chats.routes += slack.routes(
            desk=parts.desk,
            signing_secret=entry.signing_secret.reveal(),
            workspaces=entry.workspaces,
            api=api,
            errands=parts.errands,
            coordination=parts.coordination,
            store=parts.store,
            locator=parts.locator,
            clock=parts.clock,
            node=parts.node,
        )
    if api is not None and entry.app_token is not None:
        guard = parts.guard("slack")
        face = Face(desk=parts.desk, guard=guard, workspaces=entry.workspaces, api=api, errands=parts.errands)
        token = entry.app_token.reveal()
        chats.background.append(Socket(face=face, guard=guard, api=api, app_token=token, session=parts.session).run)
    if api is not None and entry.channel is not None:
        chats.notices["slack"] = parts.threads(slack.SlackBoard(api=api, channel=entry.channel))


def _mattermost(entry: MattermostEntry, parts: _Parts, chats: Chats) -> None:
    proofs = mattermost.Proofs(command_token=entry.command_token.reveal(), signing_key=entry.signing_key)
    drawing = mattermost.Drawing(proofs, f"{parts.settings.public_url}/chat/mattermost/interactive")
    board = None
    if entry.bot_token is not None and entry.channel is not None:
        board = mattermost.MattermostBoard(
            session=parts.session,
            url=entry.url,
            token=entry.bot_token.reveal(),
            channel=entry.channel,
            drawing=drawing,
        )
        chats.notices["mattermost"] = parts.threads(board)
    guard = parts.guard("mattermost")
    counter = parts.counter(guard, entry.teams)
    chats.routes += mattermost.routes(counter=counter, guard=guard, drawing=drawing, told_elsewhere=board is not None)


def _discord(entry: DiscordEntry, parts: _Parts, chats: Chats) -> None:
    board = None
    if entry.bot_token is not None and entry.channel is not None:
        board = discord.DiscordBoard(session=parts.session, token=entry.bot_token.reveal(), channel=entry.channel)
        chats.notices["discord"] = parts.threads(board)
    guard = parts.guard("discord")
    chats.routes += discord.routes(
        counter=parts.counter(guard, entry.guilds),
        guard=guard,
        public_key=entry.public_key,
        board=board,
        errands=parts.errands,
    )


def _teams(entry: TeamsEntry, parts: _Parts, chats: Chats) -> None:
    framework = teams.BotFramework(app_id=entry.app_id, session=parts.session, clock=parts.clock)
    connector = teams.Connector(
        session=parts.session,
        app_id=entry.app_id,
        password=entry.app_password.reveal(),
        tenant=entry.app_tenant,
        clock=parts.clock,
    )
    board = None
    if entry.channel is not None and entry.service_url is not None:
        board = teams.TeamsBoard(connector=connector, service_url=entry.service_url, channel=entry.channel)
        chats.notices["teams"] = parts.threads(board)
    guard = parts.guard("teams")
    chats.routes += teams.routes(
        counter=parts.counter(guard, entry.tenants),
        guard=guard,
        framework=framework,
        connector=connector,
        board=board,
        errands=parts.errands,
    )


def _ways(parts: _Parts, chats: Chats) -> None:
    """E-mail and webhooks, which tell and do not listen."""
    for index, entry in enumerate(parts.settings.notices.webhooks):
        try:
            key = signing_key(entry.secret.reveal())
        except ValueError as error:
            raise ConfigError([f"notices.webhooks[{index}].secret: {error}"]) from None
        chats.notices[f"webhook {entry.url}"] = Webhook(
            url=entry.url, key=key, session=parts.session, store=parts.store, clock=parts.clock
        )
    if (mail := parts.settings.notices.mail) is not None:
        password = mail.password.reveal() if mail.password is not None else None
        server = Server(mail.host, mail.port, mail.user, password, ssl.create_default_context())
        chats.notices["mail"] = Mail(
            server=server,
            sender=mail.sender,
            to=mail.to,
            store=parts.store,
            clock=parts.clock,
            public_url=parts.settings.public_url,
        )
