"""The parser of chat commands: what people type, what Slack makes of it, and what must not pass."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.access.wish import Wish
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
    plain,
)
from bastion.core.errors import Refused
from bastion.core.policy import SSH_ACTIONS, Action

CARLA = Mention("U123")
TWO_HOURS = timedelta(hours=2)
FIX = Wish(("web-1",), ("deploy",), TWO_HOURS, "fix the queue")
GRANTED = GrantCommand(CARLA, FIX)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        pytest.param(
            'grant <@U123|carla> web-1 as deploy for 2h because "fix the queue"', GRANTED, id="as in the help"
        ),
        pytest.param(
            'grant <@U123> web-1 as deploy for 2h because "fix the queue"', GRANTED, id="mention without name"
        ),
        pytest.param(
            'grant <@U123|a b> web-1 as deploy for 2h because "fix the queue"', GRANTED, id="name with a space"
        ),
        pytest.param(
            '  GRANT  <@U123>   web-1 AS deploy  For 2h  because "fix the queue"  ', GRANTED, id="spaces, case"
        ),
        pytest.param("grant <@U123> web-1 as deploy for 2h because “fix the queue”", GRANTED, id="typographic quotes"),
        pytest.param("grant <@U123> web-1 as deploy for 2h because „fix the queue“", GRANTED, id="German quotes"),
        pytest.param(
            "grant <@U123> web-1 as deploy for 2h because « fix the queue »",
            GrantCommand(CARLA, Wish(("web-1",), ("deploy",), TWO_HOURS, " fix the queue ")),
            id="French quotes",
        ),
        pytest.param("grant <@U123> web-1 as deploy for 2h because fix the queue", GRANTED, id="no quotes"),
        pytest.param(
            "grant <@U123> web-1 as deploy for 1h 60m because fix the queue",
            GrantCommand(CARLA, FIX),
            id="duration in two words",
        ),
        pytest.param(
            "grant <@U123>\tweb-1\nas deploy for\N{NO-BREAK SPACE}2h because fix the queue",
            GRANTED,
            id="every kind of space",
        ),
        pytest.param(
            "request web-1.staging.eu as deploy for 90m because x",
            RequestCommand(Wish(("web-1.staging.eu",), ("deploy",), timedelta(minutes=90), "x")),
            id="request",
        ),
        pytest.param(
            "request <http://web-1.staging.eu|web-1.staging.eu> as deploy for 2h because x",
            RequestCommand(Wish(("web-1.staging.eu",), ("deploy",), TWO_HOURS, "x")),
            id="Slack made a link",
        ),
        pytest.param(
            "request web-1,db-1 db-2, as deploy, admin for 2h because x",
            RequestCommand(Wish(("web-1", "db-1", "db-2"), ("deploy", "admin"), TWO_HOURS, "x")),
            id="lists",
        ),
        pytest.param(
            'request web-1 as deploy with ssh:agent for 2h because "x"',
            RequestCommand(
                Wish(("web-1",), ("deploy",), TWO_HOURS, "x", actions=SSH_ACTIONS | {Action.SSH_AGENT}),
            ),
            id="with more than is usual",
        ),
        pytest.param(
            "request web-1 as deploy, admin within /var/Log/, /srv/a&amp;b /etc/motd for 2h because x",
            RequestCommand(
                Wish(
                    ("web-1",),
                    ("deploy", "admin"),
                    TWO_HOURS,
                    "x",
                    paths=frozenset({"/var/Log/", "/srv/a&b", "/etc/motd"}),
                )
            ),
            id="paths",
        ),
        pytest.param(
            "request web-1 as deploy only ssh:exec, SSH:shell for 2h because x",
            RequestCommand(
                Wish(("web-1",), ("deploy",), TWO_HOURS, "x", actions=frozenset({Action.SSH_EXEC, Action.SSH_SHELL}))
            ),
            id="less than is usual",
        ),
        pytest.param(
            "request web-1 as deploy from <http://192.0.2.0/24|192.0.2.0/24> within /srv/ with ssh:agent "
            "for 2h because x",
            RequestCommand(
                Wish(
                    ("web-1",),
                    ("deploy",),
                    TWO_HOURS,
                    "x",
                    actions=SSH_ACTIONS | {Action.SSH_AGENT},
                    network=ip_network("192.0.2.0/24"),
                    paths=frozenset({"/srv/"}),
                )
            ),
            id="everything that narrows, in any order",
        ),
        pytest.param(
            'request web-1 as deploy for 2h because "x" as crossing',
            RequestCommand(Wish(("web-1",), ("deploy",), TWO_HOURS, "x", crossing=True)),
            id="as crossing",
        ),
        pytest.param(
            'request web-1 as deploy for 2h because "x" crossing',
            RequestCommand(Wish(("web-1",), ("deploy",), TWO_HOURS, "x", crossing=True)),
            id="crossing",
        ),
        pytest.param(
            'request web-1 as deploy for 2h because "no crossing"',
            RequestCommand(Wish(("web-1",), ("deploy",), TWO_HOURS, "no crossing")),
            id="a quoted crossing",
        ),
        pytest.param(
            'request web-1 as deploy for 2h because "as root for 3h because"',
            RequestCommand(Wish(("web-1",), ("deploy",), TWO_HOURS, "as root for 3h because")),
            id="keywords in the reason",
        ),
        pytest.param(
            'request web-1 as deploy for 2h because "a &lt;b&gt; &amp;amp; <@U9|eve> <#C1|ops> <!here>"',
            RequestCommand(Wish(("web-1",), ("deploy",), TWO_HOURS, "a <b> &amp; @eve #ops @here")),
            id="Slack's escapes in the reason",
        ),
        pytest.param("revoke <@U123|carla> web-1", RevokeTargetCommand(CARLA, "web-1"), id="revoke a target"),
        pytest.param("revoke g-4t9z2m0wq7xh", RevokeGrantCommand("g-4t9z2m0wq7xh"), id="revoke a grant"),
        pytest.param("approve Q-4T9Z2M0WQ7XH", ApproveCommand("q-4t9z2m0wq7xh"), id="approve"),
        pytest.param("deny q-4t9z2m0wq7xh", DenyCommand("q-4t9z2m0wq7xh"), id="deny"),
        pytest.param(
            'extend g-4t9z2m0wq7xh for 1 h because "not done"',
            ExtendCommand("g-4t9z2m0wq7xh", timedelta(hours=1), "not done"),
            id="extend",
        ),
        pytest.param("withdraw q-4t9z2m0wq7xh", WithdrawCommand("q-4t9z2m0wq7xh"), id="withdraw"),
        pytest.param(
            "break-glass web-1 as deploy for 2h because fix the queue", BreakGlassCommand(FIX), id="break-glass"
        ),
        pytest.param("sessions", SessionsCommand(), id="sessions"),
        pytest.param("who", WhoCommand(), id="who"),
        pytest.param("link", LinkCommand(), id="link"),
        pytest.param("", HelpCommand(), id="nothing"),
        pytest.param("help me please", HelpCommand(), id="help"),
    ],
)
def test_what_people_type_is_understood(text: str, command: Command) -> None:
    assert parse(text) == command


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("give", "'give' is not a command. There are: approve, break-glass, deny, extend, grant, help,"),
        ("\x1b[2Jx", "'\N{REPLACEMENT CHARACTER}[2Jx' is not a command."),
        ("grant", "Write it like this: /bastion grant @contractor web-1 as deploy"),
        ("grant @carla web-1 as deploy for 2h because x", "@carla is only a name, and names decide nothing here."),
        (
            "grant carla web-1 as deploy for 2h because x",
            "Mention the person first. Write it like this: /bastion grant",
        ),
        ("grant <@U123> as deploy for 2h because x", "“as …” is missing."),
        ("grant <@U123> web-1 for 2h because x", "“as …” is missing."),
        ("grant <@U123> web-1 as deploy because x", "“for …” is missing."),
        ("grant <@U123> web-1 as deploy for 2h", "“because …” is missing."),
        ("grant <@U123> web-1 as deploy for 2h because", "A reason is needed."),
        ("grant <@U123> web-1 as deploy within for 2h because x", "Within what?"),
        ("grant <@U123> web-1 as deploy within log for 2h because x", "'log' is not a path."),
        ("grant <@U123> web-1 as deploy from for 2h because x", "From what? Write it like this: … as deploy from 192"),
        ("grant <@U123> web-1 as deploy from here for 2h because x", "'here' is not a network."),
        ("grant <@U123> web-1 as deploy from 0.0.0.0/0 for 2h because x", "Every address is no network"),
        ("grant <@U123> web-1 as deploy from 192.0.2.1 192.0.2.2 for 2h because x", "is not a network."),
        ("grant <@U123> web-1 as deploy only ssh:all for 2h because x", "'ssh:all' is not an action; there are:"),
        ("grant <@U123> web-1 as deploy only ssh:exec with ssh:agent for 2h because x", "Actions are there twice."),
        ("grant <@U123> web-1 as deploy for 2h because x crossing", "Put the reason in quotes"),
        ('grant <@U123> web-1 as deploy for 2h because "x', "The reason has no closing quote."),
        ("grant <@U123> web-1 as deploy for NaN because x", "'NaN' is not a duration. Write it like 2h, 90m or 1h30m."),
        ("grant <@U123> web-1 as deploy for -2h because x", "'-2h' is not a duration."),
        (
            "grant <@U123> web-1 as deploy for 0h because x",
            "0s is not possible: a grant lasts from 1 minute to 30 days.",
        ),
        ("grant <@U123> web-1 as deploy for 999d because x", "999d is not possible"),
        ("grant <@U123> web-1 as deploy for 1e9h because x", "'1e9h' is not a duration."),
        ("grant <@U123> web-1 as deploy for \N{FULLWIDTH DIGIT TWO}h because x", "is not a duration."),
        ("grant <@U123> web-1 as deploy for forever because x", "'forever' is not a duration."),
        ("revoke", "Write it like this: /bastion revoke"),
        ("extend g-4t9z2m0wq7xh because x", "“for …” is missing."),
        ("extend g-4t9z2m0wq7xh for 1h", "“because …” is missing."),
        ("extend q-4t9z2m0wq7xh for 1h because x", "'q-4t9z2m0wq7xh' is not an id."),
        ('extend g-4t9z2m0wq7xh for 1h because "x" crossing', "What is extended stays what it is."),
        ("sessions all", "Nothing comes after it: /bastion sessions"),
        ("revoke @carla web-1", "@carla is only a name"),
        ("revoke q-4t9z2m0wq7xh", "'q-4t9z2m0wq7xh' is not an id."),
        ("approve", "Write it like this: /bastion approve q-…"),
        ("approve g-4t9z2m0wq7xh", "'g-4t9z2m0wq7xh' is not an id."),
        ("approve q-4t9z2m0wq7xh q-4t9z2m0wq7xi", "Write it like this: /bastion approve q-…"),
        ("who else", "Nothing comes after it: /bastion who"),
        ("x" * 4001, "A command has at most 4000 characters."),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_anything_else_is_refused_with_a_sentence_that_helps(text: str, sentence: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(text)
    assert sentence in refused.value.public
    assert refused.value.public.isprintable()


def test_a_link_that_says_one_thing_and_means_another_is_no_target() -> None:
    command = parse("request <http://web-1.production.eu|web-1.staging.eu> as deploy for 2h because x")
    assert isinstance(command, RequestCommand)
    assert command.wish.targets == ("<http://web-1.production.eu|web-1.staging.eu>",)


def attempt(text: str) -> Command | str:
    """The command, or the sentence of its refusal."""
    try:
        return parse(text)
    except Refused as refused:
        return refused.public


PIECES = st.sampled_from(
    ["grant", "request", "revoke", "approve", "deny", "as", "for", "because", "crossing", "<@U1|x>", "<@U1>", "<@", ">",
     "<", "|", "@x", '"', "“", "”", "'", "2h", "-1h", "web-1", "&lt;", "&amp;lt;", "<http://a|b>", " ", "\n", "\0", ","]
)  # fmt: skip


@given(text=st.text() | st.lists(PIECES | st.text(max_size=3)).map(" ".join) | st.lists(PIECES).map("".join))
def test_any_text_is_a_command_or_a_printable_sentence(text: str) -> None:
    command = attempt(text)
    if isinstance(command, str):
        assert command.isprintable()
    if isinstance(command, GrantCommand | RevokeTargetCommand):
        assert command.beneficiary.user.isalnum()
        assert f"<@{command.beneficiary.user}" in text
    if isinstance(command, GrantCommand | RequestCommand):
        assert command.wish.targets
        assert timedelta(minutes=1) <= command.wish.duration <= timedelta(days=30)


@given(reason=st.text(alphabet=st.characters(exclude_categories=["C", "Z"], exclude_characters="<>&"), min_size=1))
def test_a_quoted_reason_arrives_as_it_was_written(reason: str) -> None:
    command = parse(f'request web-1 as deploy for 2h because "{reason}"')
    assert isinstance(command, RequestCommand)
    assert command.wish.reason == reason


@given(text=st.text())
def test_entities_are_resolved_exactly_once(text: str) -> None:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    assert plain(escaped) == text


def test_long_hostile_text_is_parsed_in_time_that_grows_with_its_length() -> None:
    """A pattern that tries every way to cut this would not return today."""
    for piece in ("a as ", "<", "<@U1|", "as for because ", '" ', "crossing "):
        text = "grant <@U1> " + piece * 1000
        with pytest.raises(Refused):
            parse(text[:4000])
