"""Calls to the Bot Connector: messages out, with a token of our own that is renewed before it ends."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import aiohttp

from bastion.chatops.calls import call
from bastion.chatops.cards import Card
from bastion.chatops.teams.drawing import activity
from bastion.core.errors import Unavailable
from bastion.ports import Clock

LOGIN = "https://login.microsoftonline.com"
SCOPE = "https://api.botframework.com/.default"

PLATFORM = "teams"

_EARLY = timedelta(minutes=5)
"""Before its end a token is renewed."""


class Connector:
    """Speaks as the bot. ``tenant`` is where the bot is registered."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        app_id: str,
        password: str,
        tenant: str,
        clock: Clock,
        login: str = LOGIN,
    ) -> None:
        self._session = session
        self._app_id = app_id
        self._password = password
        self._token_url = f"{login}/{tenant}/oauth2/v2.0/token"
        self._clock = clock
        self._token = ""
        self._until: datetime | None = None

    async def post(self, service_url: str, conversation: str, body: dict[str, Any]) -> str:
        """Say it; the activity's id. Raises `Unavailable`."""
        made = await self._call("POST", self._activities(service_url, conversation), body)
        return str(made["id"])

    async def update(self, service_url: str, conversation: str, activity_id: str, body: dict[str, Any]) -> None:
        """Replace an activity of ours. Raises `Unavailable`."""
        url = f"{self._activities(service_url, conversation)}/{quote(activity_id, safe='')}"
        await self._call("PUT", url, body)

    async def whisper(self, service_url: str, user: str, tenant: str, body: dict[str, Any]) -> None:
        """Say it to one person, in the conversation that they alone have with the bot. Raises `Unavailable`."""
        wanted = {"bot": {"id": f"28:{self._app_id}"}, "members": [{"id": user}], "tenantId": tenant, "isGroup": False}
        made = await self._call("POST", f"{service_url.rstrip('/')}/v3/conversations", wanted)
        await self.post(service_url, str(made["id"]), body)

    def _activities(self, service_url: str, conversation: str) -> str:
        return f"{service_url.rstrip('/')}/v3/conversations/{quote(conversation, safe='')}/activities"

    async def _call(self, method: str, url: str, body: dict[str, Any]) -> Any:
        headers = {"Authorization": f"Bearer {await self._bearer()}"}
        return await call(self._session, method, url, headers=headers, body=body)

    async def _bearer(self) -> str:
        now = self._clock.now()
        if self._until is None or now >= self._until - _EARLY:
            form = {
                "grant_type": "client_credentials",
                "client_id": self._app_id,
                "client_secret": self._password,
                "scope": SCOPE,
            }
            said = await call(self._session, "POST", self._token_url, headers={}, form=form)
            try:
                self._token, self._until = str(said["access_token"]), now + timedelta(seconds=int(said["expires_in"]))
            except (KeyError, TypeError, ValueError):
                raise Unavailable("Microsoft gave the bot no token.") from None
        return self._token


class TeamsBoard:
    """The channel in which requests are told. A message's name is its activity id."""

    platform = PLATFORM

    def __init__(self, *, connector: Connector, service_url: str, channel: str) -> None:
        self._connector = connector
        self._service_url = service_url
        self._channel = channel

    async def post(self, card: Card, row: str, under: str | None = None) -> str:
        """Raises `Unavailable`."""
        # A channel's thread is a conversation of its own, named by its first message.
        conversation = self._channel if under is None else f"{self._channel};messageid={under}"
        return await self._connector.post(self._service_url, conversation, activity(card, row))

    async def update(self, message: str, card: Card, row: str) -> None:
        """Raises `Unavailable`."""
        await self._connector.update(self._service_url, self._channel, message, activity(card, row))
