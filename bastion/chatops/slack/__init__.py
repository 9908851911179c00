"""Slack: commands, buttons, the form and the app's home, over HTTP and over Socket Mode, answered in one place."""

from bastion.chatops.guard import MAX_BODY, MAX_INTERACTION, MAX_REFUSALS, MAX_SKEW
from bastion.chatops.slack.blocks import answer, escape
from bastion.chatops.slack.http import guard_of, routes
from bastion.chatops.slack.outgoing import SlackApi, SlackBoard
from bastion.chatops.slack.signature import verify

__all__ = [
    "MAX_BODY",
    "MAX_INTERACTION",
    "MAX_REFUSALS",
    "MAX_SKEW",
    "SlackApi",
    "SlackBoard",
    "answer",
    "escape",
    "guard_of",
    "routes",
    "verify",
]
