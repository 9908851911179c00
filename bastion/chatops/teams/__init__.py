"""Microsoft Teams, as a bot: the Bot Framework's tokens in, adaptive cards out."""

from bastion.chatops.teams.connector import Connector, TeamsBoard
from bastion.chatops.teams.http import routes
from bastion.chatops.teams.token import BotFramework, InboundToken

__all__ = ["BotFramework", "Connector", "InboundToken", "TeamsBoard", "routes"]
