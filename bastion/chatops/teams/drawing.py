"""How Teams shows our cards: adaptive cards 1.4 whose text is in runs, which know no Markdown and no mention."""

from __future__ import annotations

from typing import Any, assert_never

from bastion.chatops.cards import Button, Card, Deed
from bastion.chatops.desk import Private, Reply
from bastion.chatops.escaping import harmless

CARD = "application/vnd.microsoft.card.adaptive"
MESSAGE = "application/vnd.microsoft.activity.message"


def adaptive(card: Card, row: str) -> dict[str, Any]:
    """The card. Its buttons come back to the bot as ``adaptiveCard/action``."""
    actions = [_action(button, row) for button in card.buttons]
    if card.link is not None:
        actions.append({"type": "Action.OpenUrl", "title": card.link.label, "url": card.link.url})
    return {
        "type": "AdaptiveCard",
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "version": "1.4",
        "body": [_line(line) for line in harmless(card.text).split("\n")],
        "actions": actions,
    }


def activity(card: Card, row: str) -> dict[str, Any]:
    """A message with a card on it; its summary is what a notification shows."""
    attachment = {"contentType": CARD, "content": adaptive(card, row)}
    shown = {"type": "message", "summary": harmless(card.text)[:200], "attachments": [attachment]}
    return shown | ({"importance": "urgent"} if card.loud else {})


def plain(reply: Reply) -> dict[str, Any]:
    """A reply as a message of plain text, which Teams does not interpret."""
    match reply:
        case Private(text, link):
            shown = f"{text}\n{link}" if link is not None else text
            return {"type": "message", "textFormat": "plain", "text": harmless(shown)}
        case _:
            return {"type": "message", "textFormat": "plain", "text": harmless(reply.text)}


def _line(text: str) -> dict[str, Any]:
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text or " "}]}


def _action(button: Button, row: str) -> dict[str, Any]:
    action: dict[str, Any] = {
        "type": "Action.Execute",
        "title": button.deed.label,
        "verb": button.deed.value,
        "data": {"code": button.code, "row": row},
    }
    match button.deed:
        case Deed.APPROVE:
            return action | {"style": "positive"}
        case Deed.REFUSE:
            return action | {"style": "destructive"}
        case Deed.EXTEND:
            return action
        case _:
            assert_never(button.deed)
