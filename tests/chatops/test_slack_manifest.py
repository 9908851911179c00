"""The app's manifest: by Slack's rules, and asking for what the bastion uses and for nothing else.

The rules are those of Slack's published schema (github.com/slackapi/manifest-schema, schemas/manifest.schema.2.0.0.json
at c50cfa8), for the parts that an app like this one has; what an app has besides is refused here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML

from bastion.chatops.commands import parse
from bastion.chatops.slack import outgoing
from bastion.chatops.slack.wire import HomeOpened, OtherEvent, read_event
from bastion.core.errors import Refused

Url = Annotated[str, Field(pattern=r"^https://", max_length=3000)]
Scope = Annotated[str, Field(min_length=1, max_length=50)]


class Rules(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Display(Rules):
    name: Annotated[str, Field(min_length=1, max_length=35)]
    description: Annotated[str, Field(min_length=1, max_length=140)]
    background_color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{3}([0-9a-fA-F]{3})?$")]


class AppHome(Rules):
    home_tab_enabled: bool
    messages_tab_enabled: bool
    messages_tab_read_only_enabled: bool


class BotUser(Rules):
    display_name: Annotated[str, Field(min_length=1, max_length=80)]
    always_online: bool


class SlashCommand(Rules):
    command: Annotated[str, Field(pattern=r"^/", min_length=2, max_length=32)]
    url: Url
    description: Annotated[str, Field(min_length=1, max_length=2000)]
    usage_hint: Annotated[str, Field(min_length=1, max_length=1000)]
    should_escape: bool


class Features(Rules):
    app_home: AppHome
    bot_user: BotUser
    slash_commands: Annotated[list[SlashCommand], Field(min_length=1, max_length=50)]


class Scopes(Rules):
    bot: Annotated[list[Scope], Field(max_length=255)]


class OAuth(Rules):
    scopes: Scopes


class Interactivity(Rules):
    is_enabled: bool
    request_url: Url


class Subscriptions(Rules):
    request_url: Url
    bot_events: Annotated[list[Annotated[str, Field(min_length=1, max_length=50)]], Field(max_length=100)]


class Settings(Rules):
    interactivity: Interactivity
    event_subscriptions: Subscriptions
    org_deploy_enabled: bool
    socket_mode_enabled: bool
    token_rotation_enabled: bool


class Manifest(Rules):
    display_information: Display
    features: Features
    oauth_config: OAuth
    settings: Settings

    @model_validator(mode="after")
    def _home(self) -> Manifest:
        """Whoever subscribes to a home has one (https://docs.slack.dev/reference/events/app_home_opened)."""
        if (
            "app_home_opened" in self.settings.event_subscriptions.bot_events
        ) != self.features.app_home.home_tab_enabled:
            raise ValueError("a home that nobody opens, or none that is opened")
        return self


SCOPES = {
    "chat_postMessage": {"chat:write"},
    "chat_update": {"chat:write"},
    "chat_postEphemeral": {"chat:write"},
    "views_open": set[str](),
    "views_publish": set[str](),
    "apps_connections_open": set[str](),
}
"""What each method takes of the bot's token (https://docs.slack.dev/reference/methods); the last one takes an app-level
token with ``connections:write``, which no manifest asks for."""


def written() -> Any:
    return YAML(typ="safe").load(Path("deploy/slack-manifest.yaml").read_text())


@pytest.fixture
def manifest() -> Manifest:
    return Manifest.model_validate(written())


def test_a_manifest_that_slack_would_refuse_is_refused_here() -> None:
    for path, value in {
        ("features", "slash_commands"): [],
        ("features", "slash_commands", 0, "command"): "bastion",
        ("features", "workflow"): {},
        ("display_information", "name"): "x" * 36,
        ("settings", "interactivity", "request_url"): "http://bastion.example.com",
        ("features", "app_home", "home_tab_enabled"): False,
    }.items():
        broken = inside = written()
        for step in path[:-1]:
            inside = inside[step]
        inside[path[-1]] = value
        with pytest.raises(ValidationError):
            Manifest.model_validate(broken)


def test_every_scope_is_used_and_every_use_has_its_scope(manifest: Manifest) -> None:
    called = set(re.findall(r"self\._client\.(\w+)", Path(outgoing.__file__).read_text()))
    assert called == SCOPES.keys()
    needed = {"commands"}.union(*(SCOPES[method] for method in called))
    assert sorted(manifest.oauth_config.scopes.bot) == sorted(needed)


def test_the_events_are_those_that_are_listened_to(manifest: Manifest) -> None:
    def read(event: str) -> object:
        inside = {"type": event, "user": "U0CARLA", "tab": "home"}
        return read_event({"type": "event_callback", "team_id": "T0", "event_id": "Ev1", "event": inside})

    events = manifest.settings.event_subscriptions.bot_events
    assert [type(read(event)) for event in events] == [HomeOpened]
    assert isinstance(read("message.channels"), OtherEvent)


def test_the_command_is_the_one_that_is_understood(manifest: Manifest) -> None:
    """Its hint names words that `parse` knows; and Slack says who is mentioned, not only how they are called."""
    (command,) = manifest.features.slash_commands
    assert (command.command, command.should_escape) == ("/bastion", True)
    with pytest.raises(Refused) as refused:
        parse("nonsense")
    known = refused.value.public.partition("There are: ")[2].rstrip(".").split(", ")
    assert set(command.usage_hint.split(" · ")) <= set(known)


def test_the_addresses_are_the_routes_there_are(manifest: Manifest) -> None:
    source = (Path(outgoing.__file__).parent / "http.py").read_text()
    routes = {f"https://bastion.example.com{path}" for path in re.findall(r'web\.post\("(/chat/slack[^"]*)"', source)}
    (command,), settings = manifest.features.slash_commands, manifest.settings
    assert {command.url, settings.interactivity.request_url, settings.event_subscriptions.request_url} == routes
