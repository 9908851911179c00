"""How Slack shows our cards (https://docs.slack.dev/block-kit).

What people chose is only ever in ``plain_text``, which knows no mention, no link and no formatting; ``mrkdwn`` is used
for the two things that are ours alone, a mention made from Slack's own id and a link to the bastion.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, assert_never

from bastion.chatops import messages
from bastion.chatops.cards import Button, Card, Deed, Link
from bastion.chatops.desk import Announcement, Form, Home, Private, Reply
from bastion.chatops.form import BLANKS, Blank

MAX_SECTION = 2_900
"""Characters of one text; Slack's limit is 3,000 after it has escaped."""

MAX_BLOCKS = 90
"""Of a home; Slack's limit is 100."""

MAX_OPTIONS = 100
"""Of one list, Slack's limit."""

Block = dict[str, Any]

_MENTION = re.compile(r"(?<!\w)@(?=\w)")


def escape(text: str) -> str:
    """``text`` so that Slack shows it and obeys nothing in it: no mention pings, no control character passes."""
    shown = "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # "@here" without brackets pings only where an app asks Slack to look for names; a word joiner stops that, too.
    return _MENTION.sub("@\N{WORD JOINER}", shown)


def answer(reply: Reply, card: Card | None = None) -> dict[str, Any]:
    """A reply as Slack wants it, and the card of what it announces. The one real mention is made from Slack's id."""
    match reply:
        case Private(text, link):
            shown = f"{text}\n{link}" if link is not None else text
            blocks = [*sections(text), *([_line(f"<{link}>")] if link is not None else [])]
            return {"response_type": "ephemeral", "text": escape(shown), "mrkdwn": False, "blocks": blocks}
        case Announcement(text, to, _):
            mention = f"<@{to.user}> " if to is not None else ""
            blocks = [*sections(text), *([_line(mention.strip())] if to is not None else [])]
            if card is not None:
                blocks.extend(rows(card))
            body = {"response_type": "in_channel", "text": mention + escape(text), "mrkdwn": False}
            return body | {"blocks": blocks}
        case _:
            assert_never(reply)


def message(card: Card, row: str = "card") -> dict[str, Any]:
    """A card as a message: its text for notifications, its blocks for the eye. ``row`` says later where a press was."""
    called = [*(["<!channel>"] if card.loud else []), *([f"<@{card.to.user}>"] if card.to is not None else [])]
    blocks = [*sections(card.text), *([_line(" ".join(called))] if called else []), *rows(card, row)]
    return {"text": escape(card.text), "blocks": blocks, "mrkdwn": False}


def sections(text: str) -> list[Block]:
    """Plain text, in as many pieces as it needs."""
    return [{"type": "section", "text": _plain(piece)} for piece in _pieces(escape(text))]


def rows(card: Card, row: str = "card") -> list[Block]:
    """The buttons of a card, if it has any."""
    elements = [_button(button) for button in card.buttons]
    if card.link is not None:
        elements.append(_link(card.link))
    return [{"type": "actions", "block_id": row, "elements": elements}] if elements else []


def form_view(form: Form) -> dict[str, Any]:
    """The form of a request."""
    return {
        "type": "modal",
        "callback_id": "request",
        "title": _plain("Ask for access"),
        "submit": _plain("Ask"),
        "close": _plain("Cancel"),
        "blocks": [_input(blank, form) for blank in BLANKS],
    }


def done_view(reply: Reply) -> dict[str, Any]:
    """What the form becomes when it was sent."""
    said = reply if isinstance(reply, Private) else Private(reply.text)
    shown: list[Block] = answer(said)["blocks"]
    return {"type": "modal", "title": _plain("Ask for access"), "close": _plain("Close"), "blocks": shown}


def home_view(home: Home | Private) -> dict[str, Any]:
    """The app's home: what one person has, and what waits for them; for a stranger the link and nothing else."""
    match home:
        case Private():
            blocks: list[Block] = answer(home)["blocks"]
        case Home(who, have, waiting):
            blocks = [*sections(who), *_part(messages.HAVE, have, messages.NO_GRANT)]
            blocks += _part(messages.WAITING, waiting, messages.NO_REQUEST)
        case _:
            assert_never(home)
    return {"type": "home", "blocks": blocks[:MAX_BLOCKS]}


def _part(title: str, cards: Sequence[Card], nothing: str) -> Iterable[Block]:
    yield {"type": "header", "text": _plain(title)}
    for index, card in enumerate(cards):
        yield from sections(card.text)
        yield from rows(card, f"{title} {index}")
    if not cards:
        yield from sections(nothing)


def _input(blank: Blank, form: Form) -> Block:
    if blank.name == "target":
        options = [{"text": _plain(escape(name)), "value": name} for name in form.targets[:MAX_OPTIONS]]
        element: Block = {"type": "static_select", "action_id": "value", "options": options}
    elif blank.name == "crossing":
        option = {"text": _plain(blank.hint), "value": "yes"}
        element = {"type": "checkboxes", "action_id": "value", "options": [option]}
    else:
        element = {"type": "plain_text_input", "action_id": "value", "max_length": blank.longest}
        element["placeholder"] = _plain(blank.hint)
    return {
        "type": "input",
        "block_id": blank.name,
        "optional": blank.optional,
        "label": _plain(blank.label),
        "element": element,
    }


def _button(button: Button) -> Block:
    block = {"type": "button", "action_id": button.deed.value, "text": _plain(button.deed.label), "value": button.code}
    match button.deed:
        case Deed.APPROVE:
            return block | {"style": "primary"}
        case Deed.REFUSE:
            return block | {"style": "danger"}
        case Deed.EXTEND:
            return block
        case _:
            assert_never(button.deed)


def _link(link: Link) -> Block:
    return {"type": "button", "action_id": "link", "text": _plain(link.label), "url": link.url}


def _line(mrkdwn: str) -> Block:
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": mrkdwn}]}


def _plain(text: str) -> Block:
    return {"type": "plain_text", "text": text, "emoji": False}


def _pieces(text: str) -> Iterable[str]:
    """Whole lines together, up to the limit; a longer line is cut."""
    piece = ""
    for line in text.split("\n"):
        cut = [line[i : i + MAX_SECTION] for i in range(0, len(line), MAX_SECTION)] or [""]
        for part in cut:
            if piece and len(piece) + len(part) + 1 > MAX_SECTION:
                yield piece
                piece = part
            else:
                piece = f"{piece}\n{part}" if piece else part
    yield piece or " "
