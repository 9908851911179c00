"""Block Kit as Slack's own SDK knows it: what we send is read by it, checked by it, and written again the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.basic_objects import JsonObject
from slack_sdk.models.blocks import Block
from slack_sdk.models.views import View

MAX_BLOCKS = {"message": 50, "home": 100, "modal": 100}
"""https://docs.slack.dev/reference/block-kit/blocks; the SDK does not count them."""


def problems(shown: Mapping[str, Any]) -> Iterator[str]:
    """What Slack would not take of a message or a view; each a sentence."""
    kind, blocks = shown.get("type", "message"), shown["blocks"]
    if len(blocks) > MAX_BLOCKS[kind]:
        yield f"{len(blocks)} blocks in a {kind}"
    for block in blocks:
        yield from _unfit(Block.parse(block), block)
    if kind != "message":
        yield from _unfit(View(**shown), shown)


def _unfit(parsed: JsonObject | None, written: Mapping[str, Any]) -> Iterator[str]:
    try:
        if parsed is None or parsed.to_dict() != written:
            yield f"Slack knows no such thing: {written}"
    except SlackObjectFormationError as error:
        yield f"{error}: {written}"
