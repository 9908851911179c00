"""A port or a socket at which the target listens for a client (``-R``): one session, whose streams are lines of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncssh

from bastion.core.errors import BastionError
from bastion.core.session import End
from bastion.gateways.ssh.pipe import Pipe, PipeEnd, Side
from bastion.gateways.ssh.visit import Visit

MAX_STREAMS = 32
"""At a time, of one listener."""

OpenAtClient = Callable[["Listening", Pipe, str, int], Awaitable[None]]
"""Opens the client's side of a pipe, for a stream that came from an address and port."""


def prohibited(reason: str) -> asyncssh.ChannelOpenError:
    """A channel that is not opened, and why: `ssh` prints the reason."""
    return asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, reason)


class Listening:
    """What the client's connection keeps of it, and what asyncssh asks for streams."""

    def __init__(self, name: str, visit: Visit, open_at_client: OpenAtClient, is_full: Callable[[], bool]) -> None:
        """``is_full``: whether the client has as many channels as it may have."""
        self._name = name
        self._visit = visit
        self._open_at_client = open_at_client
        self._is_full = is_full
        self._pipes: set[Pipe] = set()
        self._is_closing = False
        self._count = 0
        self._port = 0
        self._at_target: asyncssh.SSHListener | None = None
        self.tidy: Callable[[], Awaitable[None]] | None = None
        """Takes away what it leaves at the target when it is over. Raises `Unavailable`: that could not be recorded."""
        self.ended: asyncio.Future[End] = asyncio.get_running_loop().create_future()

    def began(self, at_target: asyncssh.SSHListener) -> None:
        """The target listens."""
        self._at_target = at_target
        self._port = at_target.get_port()
        if self.ended.done() or self._is_closing:
            self._stop_listening()

    def get_port(self) -> int:
        return self._port

    def mark(self, label: str) -> None:
        """A line of its transcript. Raises `Unavailable`."""
        self._visit.mark(label)

    def close(self) -> None:
        """The client wants no more of it. Streams that are open go on, as with sshd; it ends with the last of them."""
        self._is_closing = True
        self._stop_listening()
        self._end_when_idle()

    def cut(self, end: End) -> None:
        """End it, and every stream of it. Idempotent."""
        if self.ended.done():
            return
        self.ended.set_result(end)
        self._stop_listening()
        for pipe in list(self._pipes):
            pipe.cut(end)

    def _stop_listening(self) -> None:
        at_target, self._at_target = self._at_target, None
        if at_target is not None:
            at_target.close()

    def _end_when_idle(self) -> None:
        if self._is_closing and not self._pipes:
            self.cut(End.CLIENT)

    def _has_ended(self, pipe: Pipe) -> None:
        self._pipes.discard(pipe)
        self._end_when_idle()

    async def accept(self, host: str = "", port: int = 0) -> PipeEnd:
        """Somebody connected at the target.

        Raises:
            ChannelOpenError: the client does not take it, there are too many, or the session is over.
        """
        if self.ended.done() or self._is_closing or len(self._pipes) >= MAX_STREAMS or self._is_full():
            raise prohibited("Nobody takes this connection.")
        self._count += 1
        pipe = Pipe(f"{self._name} stream {self._count}", mark=self._visit.mark, failed=lambda: self.cut(End.RECORDER))
        self._pipes.add(pipe)
        pipe.ended.add_done_callback(lambda _: self._has_ended(pipe))
        try:
            pipe.open()
            await self._open_at_client(self, pipe, host, port)
        except BastionError as error:
            self.cut(End.RECORDER)
            raise prohibited(error.public) from None
        except BaseException:
            pipe.cut(End.CLIENT)
            raise
        return pipe.side(Side.TARGET)
