"""The menu on a client's channel: for who comes with a terminal and without a target's name."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import assert_never

import asyncssh
import structlog

from bastion.access.certification import Proven
from bastion.access.offering import Offering
from bastion.core.errors import BastionError
from bastion.core.geofence import Address
from bastion.core.menu import BEGIN, FINISH, Ask, Chosen, Go, Leave, Menu, Offer
from bastion.gateways.ssh.relay import screen

ESCAPE = 0.1
"""Seconds in which the rest of a key comes; a lone Escape has none."""

IDLE = 300.0
"""Seconds without a key, after which somebody has gone away from it."""

DUMB = ("dumb", "unknown", "")
"""Terminals that cannot move their cursor (terminfo)."""

log = structlog.get_logger(__name__)


def is_utf8(environment: Mapping[bytes, bytes]) -> bool:
    """Whether the client's locale is (locale(7)); one that says nothing gets ASCII."""
    said = next((environment[name] for name in (b"LC_ALL", b"LC_CTYPE", b"LANG") if environment.get(name)), b"")
    return said.upper().replace(b"-", b"").endswith(b"UTF8")


class Choosing:
    """One person in front of one menu."""

    def __init__(
        self, channel: asyncssh.SSHServerChannel[bytes], offering: Offering, proven: Proven, address: Address
    ) -> None:
        self._channel = channel
        self._offering = offering
        self._proven = proven
        self._address = address
        self._heard: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._menu: Menu | None = None
        self._is_stopped = False
        self.said = ""
        """What has become of what was asked for, to be read when the menu is gone."""
        self.rest = b""
        """What was typed after the choice."""

    def data_received(self, data: bytes) -> None:
        """One piece at a time: what comes while the bastion thinks waits in the channel."""
        self._channel.pause_reading()
        self._heard.put_nowait(data)

    def pause_writing(self) -> None:
        """The client does not read: what it missed need not be drawn, only what is there when it reads again."""
        self._is_stopped = True

    def resume_writing(self) -> None:
        self._is_stopped = False
        self._draw()

    def left(self) -> None:
        """The client is gone, or has closed its side."""
        self._heard.put_nowait(None)

    def resized(self, columns: int, lines: int) -> None:
        if self._menu is not None:
            self._menu.resize(*screen(columns, lines))
            self._draw()

    async def choose(self, size: tuple[int, int], *, utf8: bool) -> Offer | None:
        """Show the menu until something is chosen; None when nothing was.

        Raises:
            Refused, Unavailable: nothing can be offered; the sentence says why.
        """
        offers = await self._offering.offers(self._proven, self._address)
        title = f"{self._proven.scope}: where to? For another scope: bastion cert TARGET"
        columns, lines = screen(*size)
        self._menu = menu = Menu(title, offers, columns=columns, lines=lines, utf8=utf8)
        self._channel.write(BEGIN)
        try:
            return await self._until_chosen(menu)
        finally:
            self._menu = None
            self.rest = menu.rest + b"".join(self._heard.get_nowait() or b"" for _ in range(self._heard.qsize()))
            if not self._channel.is_closing():
                self._channel.write(FINISH)

    def _draw(self) -> None:
        if self._menu is not None and not self._is_stopped and not self._channel.is_closing():
            self._channel.write(self._menu.screen())

    async def _until_chosen(self, menu: Menu) -> Offer | None:
        while True:
            self._draw()
            match await self._next(menu):
                case None:
                    continue
                case Leave():
                    return None
                case Go(offer):
                    return offer
                case Ask(offer) as asked:
                    try:
                        self.said = await self._offering.ask(self._proven, self._address, asked)
                    except BastionError as error:
                        log.info("request from the menu refused", error=str(error))
                        menu.refused(error.public)
                    else:
                        return offer
                case other:
                    assert_never(other)

    async def _next(self, menu: Menu) -> Chosen | None:
        """What the next keys make of it; nothing for longer than anybody thinks is to leave."""
        self._channel.resume_reading()
        try:
            async with asyncio.timeout(ESCAPE if menu.rest else IDLE):
                data = await self._heard.get()
        except TimeoutError:
            return menu.settle() if menu.rest else Leave()
        return Leave() if data is None else menu.feed(data)
