"""What one client connection forwards. Each stream a client opens is a session of its own, and so is each listener.

They are decided, written, watched and cut as any session; what they carry goes through a `Pipe`. Everything is opened
at the target, through its line, and never from the bastion's own network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, assert_never

import asyncssh
import structlog

from bastion.access.admission import Admitted, Objection, Wish
from bastion.core.errors import BastionError, Refused
from bastion.core.forward import Named, Way, action_of, parse_peer, spelled
from bastion.core.policy import Action, Deny, NeedsGrant
from bastion.core.session import End
from bastion.core.target import Target, printable
from bastion.gateways.ssh.line import Line, Lines
from bastion.gateways.ssh.listening import Listening, OpenAtClient, prohibited
from bastion.gateways.ssh.pipe import Pipe, PipeEnd, Side
from bastion.gateways.ssh.visit import House, Visit

MAX_PATH = 104
"""Bytes of a socket's path, the least of what systems have (sun_path, unix(7))."""

_NOT_THERE = (
    "The target does not listen there: it is taken, or its sshd does not let it (AllowTcpForwarding, "
    "AllowStreamLocalForwarding)."
)

MAX_LISTENING = 64
"""Places at a time where a target listens for one client."""

Connect = Callable[[asyncssh.SSHClientConnection, Pipe], Awaitable[None]]
"""Opens the target's side of a pipe."""

Listen = Callable[[asyncssh.SSHClientConnection, Listening], Awaitable[asyncssh.SSHListener]]
"""Has the target listen, and bring streams to a listening."""

log = structlog.get_logger(__name__)


class _Over(BastionError):
    """It ended before it was open; nothing was opened."""


class Forwards:
    """The streams of one client connection to ``target``.

    Args:
        wish: what a session of this client is, but for its action and command.
        is_full: whether the client has as many channels as it may have.
    """

    def __init__(
        self,
        house: House,
        lines: Lines,
        target: Target,
        wish: Callable[[Action, str], Wish],
        is_full: Callable[[], bool],
    ) -> None:
        self._house = house
        self._lines = lines
        self._target = target
        self.wish = wish
        self._is_full = is_full
        self._live: set[Pipe] = set()
        self._listening: set[Listening] = set()
        self._is_closed = False

    async def to_host(self, host: str, port: int, origin: tuple[str, int], window: int) -> PipeEnd:
        """``-L`` and ``-D``: the client's end of a stream to where the client wants to go.

        The target may send ``window`` bytes ahead.

        Raises:
            ChannelOpenError: it is not opened; the client reads why.
        """
        peer = parse_peer(host, port)
        if isinstance(peer, Deny):
            raise await self._refusal(self.wish(Action.SSH_FORWARD, spelled(printable(host, 60), port)), peer)
        wish = self.wish(action_of(peer), f"to {peer}")
        ways: list[Way] = []

        async def objection() -> Deny | None:
            way = await self._house.lookup.way(peer, self._target)
            if isinstance(way, Deny):
                return way
            ways.append(way)
            return None

        def name() -> str:
            found = f" ({ways[0].addresses[0]})" if isinstance(peer, Named) else ""
            return f"forward to {peer}{found} from {spelled(printable(origin[0], 60), origin[1])}"

        async def connect(connection: asyncssh.SSHClientConnection, pipe: Pipe) -> None:
            await _connect(connection, pipe, ways[0], (str(wish.address), origin[1]), window)

        return await self._open(wish, name, connect, objection)

    async def to_socket(self, path: str, window: int) -> PipeEnd:
        """``-L`` to a Unix socket at the target.

        Raises:
            ChannelOpenError: as `to_host`.
        """
        wish = self.wish(Action.SSH_FORWARD_SOCKET, f"to socket {printable(path)}")
        if (flaw := flaw_of(path)) is not None:
            raise await self._refusal(wish, flaw)

        async def connect(connection: asyncssh.SSHClientConnection, pipe: Pipe) -> None:
            # The library's types want a session of text, and that of a socket; ours is one of bytes, for both.
            await connection.create_unix_connection(lambda: pipe.side(Side.TARGET), path, window=window)  # type: ignore[arg-type, return-value]

        return await self._open(wish, lambda: f"forward to socket {printable(path)}", connect)

    async def listen(self, wish: Wish, name: str, open_at_client: OpenAtClient, listen: Listen) -> Listening:
        """``-R``: have the target listen.

        Raises:
            BastionError: it does not; `public` says why.
        """
        if len(self._listening) >= MAX_LISTENING:
            raise Refused(f"The target listens in {MAX_LISTENING} places for this client already.")
        ready: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
        self._house.spawn(self._keep_listening(wish, name, open_at_client, listen, ready))
        return await ready

    async def _keep_listening(
        self,
        wish: Wish,
        name: str,
        open_at_client: OpenAtClient,
        listen: Listen,
        ready: asyncio.Future[Listening],
    ) -> None:
        """The whole life of one listener, as `_carry` is of a stream."""
        try:
            visit = Visit(self._house, await admit(self._house, wish))
        except BastionError as error:
            _fail(ready, error)
            return
        listening = Listening(name, visit, open_at_client, self._is_full)
        self._listening.add(listening)
        end, line = End.INTERRUPTED, None
        try:
            visit.watch(listening.cut)
            if self._is_closed:
                listening.cut(End.CLIENT)
            visit.mark(f"{name} opened")
            line = self._lines.take(visit.admitted)
            await asyncio.wait((line.opening, listening.ended), return_when=asyncio.FIRST_COMPLETED)
            if not listening.ended.done():
                listening.began(await listen(line.opening.result(), listening))
                if not ready.done():
                    ready.set_result(listening)
            end = await listening.ended
            _fail(ready, _Over(end.sentence))
        except (BastionError, asyncssh.Error) as error:
            end = End.TARGET
            _fail(ready, error if isinstance(error, BastionError) else Refused(_NOT_THERE))
        finally:
            listening.cut(end)
            self._listening.discard(listening)
            await _leave_tidy(listening)
            if line is not None:
                self._lines.leave(line, linger=end in (End.CLIENT, End.TARGET))
            await visit.finish(end)

    def close(self) -> None:
        """The client is gone."""
        self._is_closed = True
        for listening in list(self._listening):
            listening.cut(End.CLIENT)
        for pipe in list(self._live):
            pipe.cut(End.CLIENT)

    async def refuse(self, wish: Wish, deny: Deny) -> None:
        """Write it down, and raise it as `Refused`."""
        reason = " ".join(deny.reasons)
        await refuse(self._house, wish, reason)
        raise Refused(reason)

    async def _refusal(self, wish: Wish, deny: Deny) -> asyncssh.ChannelOpenError:
        reason = " ".join(deny.reasons)
        await refuse(self._house, wish, reason)
        return prohibited(reason)

    async def _open(
        self, wish: Wish, name: Callable[[], str], connect: Connect, objection: Objection | None = None
    ) -> PipeEnd:
        ready: asyncio.Future[PipeEnd] = asyncio.get_running_loop().create_future()
        self._house.spawn(self._carry(wish, name, connect, objection, ready))
        return await ready

    async def _carry(
        self,
        wish: Wish,
        name: Callable[[], str],
        connect: Connect,
        objection: Objection | None,
        ready: asyncio.Future[PipeEnd],
    ) -> None:
        """The whole life of one stream, in the order of every visit: admission, target, bytes, end."""
        try:
            visit = Visit(self._house, await admit(self._house, wish, objection))
        except BastionError as error:
            _fail(ready, prohibited(error.public))
            return
        pipe = Pipe(name(), mark=visit.mark, failed=lambda: pipe.cut(End.RECORDER))
        self._live.add(pipe)
        end, line = End.INTERRUPTED, None
        try:
            visit.watch(pipe.cut)
            if self._is_closed:
                pipe.cut(End.CLIENT)
            pipe.open()
            line = self._lines.take(visit.admitted)
            await joined(line, pipe, connect)
            if not ready.done():
                ready.set_result(pipe.side(Side.CLIENT))
            end = await pipe.ended
        except (BastionError, asyncssh.ChannelOpenError) as error:
            end = pipe.ended.result() if pipe.ended.done() else End.TARGET
            log.info("forward not opened", session=visit.admitted.session.id, error=str(error))
            _fail(ready, _told(error, end))
        finally:
            pipe.cut(end)
            self._live.discard(pipe)
            if line is not None:
                self._lines.leave(line, linger=end in (End.CLIENT, End.TARGET))
            await visit.finish(end)


async def admit(house: House, wish: Wish, objection: Objection | None = None) -> Admitted:
    """Ask for a session without anybody who could wait for an approval; see `Admission.open` for ``objection``.

    Raises:
        Refused: no; it is written down.
        Unavailable: the bastion cannot do its part.
    """
    decision = await house.admission.open(wish, objection=objection)
    match decision:
        case Admitted():
            return decision
        case Deny(reasons) | NeedsGrant(reasons):
            raise Refused(" ".join(reasons))
        case _:
            assert_never(decision)


async def refuse(house: House, wish: Wish, reason: str) -> None:
    """Write down what was refused before anything was asked."""
    try:
        await house.admission.refuse_forward(wish, reason)
    except BastionError as error:
        log.error("refusal could not be written", error=str(error))


async def _leave_tidy(listening: Listening) -> None:
    if listening.tidy is None:
        return
    try:
        await listening.tidy()
    except BastionError as error:
        log.error("what was left at the target could not be recorded", error=str(error))


async def joined(line: Line, pipe: Pipe, connect: Connect) -> None:
    """Wait for the line, and for the target's side of ``pipe``; or for its end, whichever is first.

    Raises:
        TargetUnreachable: there is no line.
        ChannelOpenError: the target does not open it.
        _Over: it ended meanwhile; what opens later closes itself.
    """
    await asyncio.wait((line.opening, pipe.ended), return_when=asyncio.FIRST_COMPLETED)
    if pipe.ended.done():
        raise _Over(pipe.ended.result().sentence)
    opening: asyncio.Future[None] = asyncio.ensure_future(_awaited(connect(line.opening.result(), pipe)))
    await asyncio.wait((opening, pipe.ended), return_when=asyncio.FIRST_COMPLETED)
    if pipe.ended.done():
        opening.add_done_callback(lambda late: late.cancelled() or late.exception())
        raise _Over(pipe.ended.result().sentence)
    opening.result()


def flaw_of(path: str) -> Deny | None:
    """Why ``path`` cannot be a socket's, or None."""
    if not path or not path.isprintable() or len(path.encode()) > MAX_PATH:
        return Deny((f"{printable(path, 60)!r} cannot be the path of a socket.",))
    return None


def flaw_of_place(path: str) -> Deny | None:
    """Why no socket may be made at ``path``, or None. What it is relative to would be the target's to decide."""
    names = path.split("/")
    if names[0] or any(name in ("", ".", "..") for name in names[1:]):
        return Deny((f"{printable(path, 60)!r} is no place for a socket: write the whole path, from / on.",))
    return flaw_of(path)


async def _awaited(what: Awaitable[None]) -> None:
    await what


async def _connect(
    connection: asyncssh.SSHClientConnection, pipe: Pipe, way: Way, origin: tuple[str, int], window: int
) -> None:
    """To the first address of ``way`` that answers."""
    for address in way.addresses:
        try:
            await connection.create_connection(
                lambda: pipe.side(Side.TARGET), str(address), way.port, *origin, window=window
            )
        except asyncssh.ChannelOpenError as error:
            if error.code != asyncssh.OPEN_CONNECT_FAILED or address == way.addresses[-1]:
                raise
        else:
            return


def _fail(ready: asyncio.Future[Any], error: Exception) -> None:
    if not ready.done():
        ready.set_exception(error)


def _told(error: Exception, end: End) -> asyncssh.ChannelOpenError:
    match error:
        case asyncssh.ChannelOpenError(code=asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED):
            said = printable(error.reason)
            return prohibited(
                f"The target's sshd does not let it be forwarded (AllowTcpForwarding, PermitOpen): {said}"
            )
        case asyncssh.ChannelOpenError():
            said = printable(error.reason)
            return asyncssh.ChannelOpenError(error.code, f"The target could not connect: {said}")
        case BastionError():
            return asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, error.public)
        case _:
            return asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, end.sentence)
