"""Calls to Slack's Web API, through its own client, which is imported when one is made: nobody else pays for it.

Every call has a deadline, and its failure is `Unavailable` with Slack's own word for it; no message text is in any log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from bastion.chatops.cards import Card
from bastion.chatops.slack.blocks import message
from bastion.chatops.slack.wire import Message
from bastion.core.errors import Unavailable

SLACK = "https://slack.com/api/"

CALL_SECONDS = 10
"""For one call."""

FORM_SECONDS = 2
"""For the form: Slack's trigger lives for three."""

_QUIET: dict[str, Any] = {"unfurl_links": False, "unfurl_media": False, "link_names": False, "parse": "none"}
"""Nothing in a text is looked up, drawn or notified."""


class SlackApi:
    """What the bot does. ``channel`` is where announcements go; None leaves them to the channel a command came from."""

    def __init__(self, *, token: str, channel: str | None, base_url: str = SLACK) -> None:
        from slack_sdk.errors import SlackApiError
        from slack_sdk.web.async_client import AsyncWebClient

        self.channel = channel
        self._client = AsyncWebClient(token=token, base_url=base_url, timeout=CALL_SECONDS)
        self._refused = SlackApiError

    async def open_view(self, trigger: str, view: dict[str, Any]) -> None:
        """Raises `Unavailable`: the form is not open."""
        await self._call(self._client.views_open, seconds=FORM_SECONDS, trigger_id=trigger, view=view)

    async def publish_home(self, user: str, view: dict[str, Any]) -> None:
        await self._call(self._client.views_publish, user_id=user, view=view)

    async def post(
        self, channel: str, body: dict[str, Any], thread: str | None = None, *, loud: bool = False
    ) -> Message:
        """A message that the channel sees; with ``thread`` an answer to the one of that time, which the
        channel sees, too, when it is ``loud``."""
        said = await self._call(
            self._client.chat_postMessage,
            channel=channel,
            thread_ts=thread,
            reply_broadcast=loud or None,
            **_QUIET,
            **_body(body),
        )
        return Message(str(said["channel"]), str(said["ts"]))

    async def update(self, message: Message, body: dict[str, Any]) -> None:
        """Replace a message of ours."""
        await self._call(
            self._client.chat_update, channel=message.channel, ts=message.ts, parse="none", **_body(body, "mrkdwn")
        )

    async def whisper(self, channel: str, user: str, body: dict[str, Any]) -> None:
        """For one person's eyes, in a channel."""
        await self._call(
            self._client.chat_postEphemeral, channel=channel, user=user, parse="none", **_body(body, "mrkdwn")
        )

    async def whisper_directly(self, user: str, body: dict[str, Any]) -> None:
        """For one person, as a direct message of the app."""
        await self.post(user, body)

    async def socket_url(self, app_token: str) -> str:
        """Where the next socket of Socket Mode is opened."""
        said = await self._call(self._client.apps_connections_open, app_token=app_token)
        return str(said["url"])

    async def _call(self, method: Callable[..., Awaitable[Any]], seconds: float = CALL_SECONDS, **fields: Any) -> Any:
        import aiohttp

        try:
            async with asyncio.timeout(seconds):
                return await method(**fields)
        except self._refused as error:
            # A text instead of an answer comes when what answered was not Slack's API: a proxy, or nobody.
            said = getattr(error.response, "data", None)
            word = said.get("error", "") if isinstance(said, dict) else "no answer of Slack's"
            raise Unavailable("Slack refused this.", detail=str(word)[:80]) from None
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable("Slack cannot be reached.", detail=type(error).__name__) from None


def _body(body: dict[str, Any], *without: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in ("response_type", *without)}


class SlackBoard:
    """The channel in which requests are told. A message's name is its channel and its time."""

    platform = "slack"

    def __init__(self, *, api: SlackApi, channel: str) -> None:
        self._api = api
        self._channel = channel

    async def post(self, card: Card, row: str, under: str | None = None) -> str:
        """Raises `Unavailable`."""
        thread = under.partition("/")[2] if under is not None else None
        said = await self._api.post(self._channel, message(card, row), thread, loud=card.loud and thread is not None)
        return f"{said.channel}/{said.ts}"

    async def update(self, name: str, card: Card, row: str) -> None:
        """Raises `Unavailable`."""
        channel, _, ts = name.partition("/")
        await self._api.update(Message(channel, ts), message(card, row))
