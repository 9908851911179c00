"""Notices by e-mail: to whoever they concern and to the addresses that are configured, over STARTTLS, plain text."""

from __future__ import annotations

import asyncio
import re
import smtplib
import ssl
from collections.abc import Collection
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime

from bastion.chatops import messages
from bastion.chatops.story import link_of
from bastion.chatops.telling import Telling, telling_of
from bastion.core.errors import NotFound, Unavailable
from bastion.core.notice import Asked, Ended, EndingSoon, Extended, Granted, Notice, Reviewed, TimedOut
from bastion.core.target import printable
from bastion.ports import Clock, Store

SEND_SECONDS = 20
"""For the whole exchange with the server."""

_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", re.ASCII)
"""An address that no header can be cut at (HTML, section 4.10.5.1.5, which is narrower than RFC 5322)."""


@dataclass(frozen=True, slots=True)
class Server:
    """A mail server that speaks STARTTLS; ``user`` None sends without logging in. ``trust`` decides whom to believe."""

    host: str
    port: int
    user: str | None
    password: str | None
    trust: ssl.SSLContext


class Mail:
    """Writes one e-mail a notice. ``to`` gets all of them; whom a notice concerns gets those about themself."""

    def __init__(
        self, *, server: Server, sender: str, to: Collection[str], store: Store, clock: Clock, public_url: str
    ) -> None:
        self._server = server
        self._sender = sender
        self._to = tuple(to)
        self._store = store
        self._clock = clock
        self._public_url = public_url

    async def tell(self, notice: Notice) -> None:
        """Raises `Unavailable`: the server did not take it."""
        try:
            telling = await telling_of(self._store, notice, self._clock.now())
        except NotFound:
            return  # what it is about is gone
        recipients = self._recipients(telling)
        if not recipients:
            return
        written = self._written(telling, recipients)
        try:
            async with asyncio.timeout(SEND_SECONDS + 1):
                await asyncio.to_thread(_send, self._server, written)
        except (smtplib.SMTPException, OSError, TimeoutError) as error:
            raise Unavailable("The mail server did not take it.", detail=type(error).__name__) from None

    def _recipients(self, telling: Telling) -> list[str]:
        """Only an address that the identity provider has verified is anybody's."""
        concerned = isinstance(telling.notice, Asked | Reviewed | TimedOut | Granted | EndingSoon | Extended | Ended)
        own = telling.story.beneficiary.email
        wanted = [*self._to, *([own] if concerned and own is not None else [])]
        return [address for address in dict.fromkeys(wanted) if _ADDRESS.fullmatch(address)]

    def _written(self, telling: Telling, recipients: list[str]) -> EmailMessage:
        request, message = telling.story.request, EmailMessage()
        message["From"] = self._sender
        message["To"] = ", ".join(recipients)
        message["Date"] = format_datetime(self._clock.now())
        message["Subject"] = printable(f"[Bastion] {request.id}: {telling.line.splitlines()[0]}", 120)
        domain = self._sender.rpartition("@")[2].rstrip("> ")
        # One thread in a mail program for one request; and told twice, it is one e-mail in most of them.
        message["Message-ID"] = f"<{_safe(telling.notice.id)}@{domain}>"
        message["References"] = f"<{_safe(request.id)}@{domain}>"
        message["Auto-Submitted"] = "auto-generated"
        lines = [
            telling.line,
            "",
            messages.asking(request, telling.story.beneficiary),
            messages.standing_of(telling.story),
        ]
        if (grant := telling.story.grant) is not None:
            lines += ["", f"Its recordings, and its end: {link_of(grant.id, self._public_url).url}"]
        message.set_content("\n".join(printable(line, 900) for text in lines for line in text.split("\n")) + "\n")
        return message


def _send(server: Server, message: EmailMessage) -> None:
    with smtplib.SMTP(server.host, server.port, timeout=SEND_SECONDS) as connection:
        # Refused by a server that does not offer it: what is in here is not for everybody on the way.
        connection.starttls(context=server.trust)
        if server.user is not None:
            connection.login(server.user, server.password or "")
        connection.send_message(message)


def _safe(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "-" for c in name)[:200]
