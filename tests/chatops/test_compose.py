"""Every chat from one configuration file: what listens, by what ways people are told, and what is refused."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bastion.app_chat import Chats, compose
from bastion.chatops.errands import Errands
from bastion.config import load
from bastion.core.errors import ConfigError
from tests.chatops.counter import desk_of, parts_of
from tests.fakes import FakeClock
from tests.office import Office, open_office
from tests.site import Site, install

SECRETS = {
    "mattermost-command-token": "x", "mattermost-bot-token": "x", "discord-bot-token": "x", "teams-app-password": "x",
    "smtp-password": "x", "webhook-secret": "whsec_" + base64.b64encode(bytes(32)).decode(),
}  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """The annotated example with everything in it that is only shown there."""
    site = install(tmp_path)
    ec = generate_private_key(SECP256R1()).public_key()
    signing_key = base64.b64encode(ec.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    discord_key = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    begun, lines = False, []
    for line in site.config.read_text().splitlines():
        begun = begun or line.startswith("  # mattermost:")
        lines.append(line.replace("# ", "", 1) if begun else line)
    text = "\n".join(lines).replace("MFkw…", signing_key).replace("64 hexadecimal digits", discord_key)
    site.config.write_text(text.replace("19:…@", "19:ops@") + "\n")
    for name, secret in SECRETS.items():
        path = site.folder / "etc" / name
        path.touch(mode=0o600)
        path.write_text(secret)
    return site


@pytest.fixture
async def office(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Office]:
    async with open_office(tmp_path, clock) as office:
        yield office


@asynccontextmanager
async def composed(site: Site, office: Office) -> AsyncIterator[Chats]:
    async with aiohttp.ClientSession() as session:
        yield compose(load(site.config), desk=desk_of(office), errands=Errands(), session=session, **parts_of(office))


async def test_what_the_example_shows_is_what_there_is(site: Site, office: Office) -> None:
    async with composed(site, office) as chats:
        assert sorted(route.path for route in chats.routes) == [
            "/chat/discord",
            "/chat/mattermost",
            "/chat/mattermost/interactive",
            "/chat/slack",
            "/chat/slack/events",
            "/chat/slack/interactive",
            "/chat/teams",
        ]
        assert sorted(chats.notices) == [
            "discord", "mail", "mattermost", "slack", "teams", "webhook https://siem.example.com/hooks/bastion",
        ]  # fmt: skip
        assert len(chats.background) == 1


async def test_socket_mode_alone_needs_no_route(site: Site, office: Office) -> None:
    site.edit("    signing_secret: {file:", "    # signing_secret: {file:")
    async with composed(site, office) as chats:
        assert not any(route.path.startswith("/chat/slack") for route in chats.routes)
        assert len(chats.background) == 1


@pytest.mark.parametrize(
    ("name", "secret", "sentence"),
    [
        ("webhook-secret", "hunter2", "notices.webhooks[0].secret: a webhook's secret begins with whsec_"),
        ("webhook-secret", "whsec_aGk=", "notices.webhooks[0].secret: a webhook's secret has at least 24 bytes"),
    ],
    ids=["no secret", "a short one"],
)
async def test_a_secret_that_is_none_is_said_without_being_shown(
    site: Site, office: Office, name: str, secret: str, sentence: str
) -> None:
    (site.folder / "etc" / name).write_text(secret)
    with pytest.raises(ConfigError) as refused:
        async with composed(site, office):
            pass
    assert refused.value.problems == [sentence]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("    guilds: [", "    guilds: []  # [", "chat.discord.guilds: must name at least one"),
        ("    tenants: [", "    tenants: []  # [", "chat.teams.tenants: must name at least one"),
        ("    teams: [q", "    teams: []  # [q", "chat.mattermost.teams: must name at least one"),
        ("    service_url: ", "    # service_url: ", "chat.teams.service_url: is missing, and channel needs it"),
        ("    bot_token: {file: FOLDER/etc/discord", "    # bot_token: {", "chat.discord.bot_token: is missing"),
        ("https://siem.example.com", "http://siem.example.com", "notices.webhooks[0].url: "),
    ],
    ids=["no guild", "no tenant", "no team", "no address", "no token", "no TLS"],
)
def test_a_chat_that_hears_nobody_or_cannot_speak_is_refused(site: Site, old: str, new: str, sentence: str) -> None:
    site.edit(old.replace("FOLDER", str(site.folder)), new)
    with pytest.raises(ConfigError) as refused:
        load(site.config)
    assert any(sentence in problem for problem in refused.value.problems), refused.value.problems
