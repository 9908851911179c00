"""What Slack sends, as values. Read only from what is verified: a signed body, or the socket that Slack opened to us.

The actor is always the user of the payload, in the workspace that this user belongs to: in a channel that two
workspaces share, a press comes with the team of the channel, and the user may be somebody else's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from bastion.access.linking import Account
from bastion.chatops.cards import Button
from bastion.core.target import printable

_ACCOUNT = re.compile(r"[A-Z0-9]{1,40}", re.ASCII)
_MESSAGE = re.compile(r"[0-9]{1,16}\.[0-9]{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SlashCommand:
    account: Account
    text: str
    trigger: str
    """Slack's id of this one invocation, and what opens a form for three seconds; its retries have the same."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of ours, by channel and time."""

    channel: str
    ts: str


@dataclass(frozen=True, slots=True)
class Pressed:
    """A button of ours. ``message`` is what it was on; None for the app's home."""

    account: Account
    button: Button
    trigger: str
    message: Message | None
    row: str
    """The block it was in, which says what kind of message that is."""


@dataclass(frozen=True, slots=True)
class Followed:
    """Somebody opened a link of ours. Slack tells; there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """The form was sent: its fields by name, unchecked."""

    account: Account
    fields: Mapping[str, str]


Interaction = Pressed | Followed | Submitted


@dataclass(frozen=True, slots=True)
class HomeOpened:
    account: Account
    event: str


@dataclass(frozen=True, slots=True)
class Challenge:
    """Slack asks whether this address is ours, once, when it is written into the app's settings."""

    text: str


@dataclass(frozen=True, slots=True)
class OtherEvent:
    """Something we did not ask to be told."""


Incoming = HomeOpened | Challenge | OtherEvent


def read_form(raw: bytes) -> dict[str, str]:
    """The fields of a form, each once. Raises `ValueError`."""
    pairs = parse_qsl(
        raw.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=40
    )
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def read_command(fields: Mapping[str, Any]) -> SlashCommand:
    """Raises `ValueError`: it is no command."""
    account = _account(fields.get("team_id"), fields.get("user_id"), fields.get("team_domain"), fields.get("user_name"))
    if not _text(fields, "trigger_id") or not _text(fields, "command"):
        raise ValueError("command or trigger_id is missing")
    return SlashCommand(account, _text(fields, "text"), _text(fields, "trigger_id"))


def read_interaction(payload: Mapping[str, Any]) -> Interaction:
    """Raises `ValueError`: it is none of ours."""
    user, team = _object(payload, "user"), _object(payload, "team")
    home = user.get("team_id") or team.get("id")
    domain = team.get("domain") if home == team.get("id") else ""
    account = _account(home, user.get("id"), domain, user.get("username") or user.get("name"))
    match payload.get("type"):
        case "block_actions":
            return _pressed(payload, account)
        case "view_submission":
            return Submitted(account, _fields(_object(_object(_object(payload, "view"), "state"), "values")))
        case _:
            raise ValueError("it is neither a pressed button nor a sent form")


def read_event(payload: Mapping[str, Any]) -> Incoming:
    """Raises `ValueError`: it is no event."""
    match payload.get("type"):
        case "url_verification":
            return Challenge(printable(_text(payload, "challenge"), 200))
        case "event_callback":
            event = _object(payload, "event")
            if event.get("type") != "app_home_opened" or event.get("tab", "home") != "home":
                return OtherEvent()
            return HomeOpened(_account(payload.get("team_id"), event.get("user"), "", ""), _text(payload, "event_id"))
        case _:
            raise ValueError("it is no event")


def _pressed(payload: Mapping[str, Any], account: Account) -> Pressed | Followed:
    actions = payload.get("actions")
    if not isinstance(actions, list) or len(actions) != 1 or not isinstance(actions[0], dict):
        raise ValueError("it is not one action")
    action = actions[0]
    if _text(action, "action_id") == "link":
        return Followed()
    container = payload.get("container")
    message = None
    if isinstance(container, dict) and container.get("type") == "message":
        message = Message(_text(container, "channel_id"), _text(container, "message_ts"))
        if not (_ACCOUNT.fullmatch(message.channel) and _MESSAGE.fullmatch(message.ts)):
            raise ValueError("the message of the button is missing")
    if not _text(payload, "trigger_id"):
        raise ValueError("trigger_id is missing")
    button = Button.parse(_text(action, "value"))
    return Pressed(account, button, _text(payload, "trigger_id"), message, _text(action, "block_id"))


def _fields(values: Mapping[str, Any]) -> dict[str, str]:
    """Each input by the name of its block: what was typed, or the value of what was chosen."""
    found = {}
    for name, actions in values.items():
        if not isinstance(actions, dict) or len(actions) != 1:
            raise ValueError("the form is not ours")
        state = next(iter(actions.values()))
        if not isinstance(state, dict):
            raise ValueError("the form is not ours")
        chosen = state.get("selected_option")
        value = chosen.get("value") if isinstance(chosen, dict) else state.get("value")
        if isinstance(value, str):
            found[name] = value
        elif state.get("selected_options"):
            found[name] = "yes"
    return found


def _account(workspace: Any, user: Any, workspace_name: Any, user_name: Any) -> Account:
    if not all(isinstance(part, str) and _ACCOUNT.fullmatch(part) for part in (workspace, user)):
        raise ValueError("team_id or user_id is missing")
    names = [printable(name) if isinstance(name, str) else "" for name in (workspace_name, user_name)]
    return Account("slack", workspace, user, names[0], names[1])


def _object(payload: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = payload.get(key)
    if not isinstance(value, dict):
        raise ValueError(f"{key} is missing")
    return value


def _text(payload: Mapping[str, Any], key: str) -> str:
    value = payload.get(key, "")
    return value if isinstance(value, str) else ""
