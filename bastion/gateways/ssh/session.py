"""One session channel of a client: ask admission, reach the target, relay, and end it for one stated reason."""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass
from typing import Any, assert_never, cast

import asyncssh
import structlog

from bastion.access.admission import Admitted, Terminal, Wish
from bastion.access.certification import Proven
from bastion.core.bulk import label
from bastion.core.errors import BastionError, Refused
from bastion.core.geofence import Address
from bastion.core.policy import Action, Deny, NeedsGrant
from bastion.core.scp import ScpCommand, ScpWatch, recognise
from bastion.core.session import End
from bastion.core.sftp import SftpWatch
from bastion.core.target import parse_destination, printable
from bastion.core.watching import Watch
from bastion.gateways.ssh.choosing import DUMB, Choosing, is_utf8
from bastion.gateways.ssh.internals import DoorConnection
from bastion.gateways.ssh.limits import SessionChannel
from bastion.gateways.ssh.line import NO_MORE, Line, Lines
from bastion.gateways.ssh.relay import REFUSED_STATUS, Ended, Relay, TargetSession, screen
from bastion.gateways.ssh.target import TargetUnreachable
from bastion.gateways.ssh.unfit import why_unfit
from bastion.gateways.ssh.visit import House, Visit

DRAIN = 30.0
"""Seconds in which a client has to take some of what the target sent before it closed."""

CUT = 0.4
"""Seconds a client whose session was cut has to read why; then its channel goes (law 7 gives one second)."""

INTERRUPT = b"\x03"
"""What a terminal in raw mode sends for Ctrl-C."""

MAX_EARLY = 4096
"""Bytes that somebody may type while they wait."""

TERM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
"""A terminal's name (term(7)): it goes into the recording's first line and the target's environment."""

NO_SCP = "Paths are limited here, and scp's old protocol cannot be held to them: leave out -O, or use sftp."

log = structlog.get_logger(__name__)


def _unwanted(opening: asyncio.Future[Any]) -> None:
    """What opens after the end closes itself; why it did not open is nobody's question any more."""
    if not opening.cancelled():
        opening.exception()


async def _first(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of them is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


@dataclass(frozen=True, slots=True)
class Pty:
    term: str
    size: tuple[int, int, int, int]
    modes: dict[int, int]


class ClientSession(asyncssh.SSHServerSession[bytes]):
    """The client's end: collects what is wanted, then hands every byte to the relay."""

    def __init__(
        self, house: House, lines: Lines, proven: Proven, address: Address, username: str, target: str | None
    ) -> None:
        self._house = house
        self._lines = lines
        self._proven = proven
        self._address = address
        self._username = username
        self._fixed_target = target
        self._pty: Pty | None = None
        self._action = Action.SSH_SHELL
        self._command: str | None = None
        self._subsystem: str | None = None
        self._scp: ScpCommand | None = None
        self._relay: Relay | None = None
        """Takes every byte, once the target is there; `_opening` is the same from when it is being reached."""
        self._opening: Relay | None = None
        self._early: list[bytes] = []
        self._early_eof = False
        self._started = False
        self._gone = False
        self._unsaid: list[str] = []
        self._choosing: Choosing | None = None
        self._is_waiting = False
        """For an approval. A terminal sends Ctrl-C as a byte, so what comes meanwhile is looked at."""
        self._gave_up = False

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = cast(SessionChannel, chan)

    def pty_requested(self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Any) -> bool:
        """Before the session starts: whether there is a terminal decides what is recorded of what is typed."""
        if self._started or not TERM.fullmatch(term_type):
            return False
        self._pty = Pty(term_type, term_size, dict(term_modes))
        return True

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        self._action, self._command = Action.SSH_EXEC, command
        if self._pty is None and (scp := recognise(command)) is not None:
            self._action, self._scp = Action.SSH_SFTP_WRITE if scp.writes else Action.SSH_SFTP_READ, scp
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        if subsystem != "sftp":
            self._channel.write_stderr(f"bastion: there is no subsystem {printable(subsystem)!r} here.\n".encode())
            return False
        self._action, self._subsystem = Action.SSH_SFTP_READ, subsystem
        return True

    def session_started(self) -> None:
        self._started = True
        self._house.spawn(self._run())

    # What arrives before the target is there waits in order; the channel is paused, so it is one window at most.

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._relay is not None:
            self._relay.from_client(data)
        elif self._choosing is not None:
            self._choosing.data_received(data)
        else:
            self._early.append(data)
            if not self._is_waiting:
                self._channel.pause_reading()
            elif self._pty is not None and INTERRUPT in data:
                self._gave_up = True
            elif sum(map(len, self._early)) > MAX_EARLY:
                self._channel.pause_reading()

    def eof_received(self) -> bool:
        if self._relay is not None:
            self._relay.client_eof()
        else:
            self._early_eof = True
            self._leave_menu()
        return True

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._relay is not None:
            self._relay.resize(width, height, pixwidth, pixheight)
        elif self._pty is not None:
            self._pty = Pty(self._pty.term, (width, height, pixwidth, pixheight), self._pty.modes)
            if self._choosing is not None:
                self._choosing.resized(width, height)

    def signal_received(self, signal: str) -> None:
        if self._relay is not None:
            self._relay.signal(printable(signal, 32))

    def break_received(self, msec: int) -> bool:
        if self._relay is None:
            return False
        self._relay.send_break(msec)
        return True

    # A target may write as soon as its channel is open, which is before everything is handed over.

    def pause_writing(self) -> None:
        if self._opening is not None:
            self._opening.pause_target()
        elif self._choosing is not None:
            self._choosing.pause_writing()

    def resume_writing(self) -> None:
        if self._opening is not None:
            self._opening.resume_target()
        elif self._choosing is not None:
            self._choosing.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        self._leave_menu()
        if self._opening is not None and exc is not None:
            self._opening.client_lost(printable(str(exc)))
        elif self._opening is not None:
            self._opening.client_closed()

    def _leave_menu(self) -> None:
        if self._choosing is not None:
            self._choosing.left()

    @property
    def is_gone(self) -> bool:
        return self._gone

    def heard(self, unsaid: list[str]) -> None:
        """What is to be said as soon as it has started; the list may grow until then."""
        self._unsaid = unsaid

    def remark(self, sentence: str) -> None:
        """Something about the connection that its person should read."""
        if self._opening is not None:
            self._opening.say(sentence)

    async def _run(self) -> None:
        """The way of a visit, in order: destination, admission, target, relay, end."""
        try:
            admitted = await self._admit()
        except BastionError as error:
            log.warning("session refused", error=str(error))
            self._refuse(error.public)
            return
        if admitted is None:
            return
        visit = Visit(self._house, admitted)
        ended = Ended(End.INTERRUPTED)
        try:
            ended = await self._serve(visit)
        finally:
            await self._close(visit, ended)

    async def _admit(self) -> Admitted | None:
        """Ask for the session; None when it was denied and the client was told why."""
        if (closing := self._house.closing.sentence) is not None:
            raise Refused(closing)
        if self._wants_menu and not await self._has_chosen():
            self._channel.exit(0)
            return None
        wish = self._wish()
        if wish.command is not None and (reason := why_unfit(wish.command)) is not None:
            await self._house.admission.refuse_forward(wish, reason)
            self._refuse(reason)
            return None
        decision = await self._house.admission.open(wish)
        if isinstance(decision, NeedsGrant) and await self._has_waited(wish):
            decision = await self._house.admission.open(wish)
        match decision:
            case Admitted():
                return decision
            case Deny(reasons) | NeedsGrant(reasons):
                self._refuse("\n".join(reasons))
                return None
            case _:
                assert_never(decision)

    @property
    def _wants_menu(self) -> bool:
        """Whether somebody sits at a terminal that can show one, and has named no target in any way."""
        named = self._fixed_target is not None or "@" in self._username or "%" in self._username
        return not named and self._action is Action.SSH_SHELL and self._pty is not None and self._pty.term not in DUMB

    async def _has_chosen(self) -> bool:
        """Show the menu; whether a target was chosen, which from then on is as if its name had been typed."""
        assert self._pty is not None  # noqa: S101 - or there would be no menu
        house = self._house
        self._choosing = choosing = Choosing(self._channel, house.offering, self._proven, self._address)
        try:
            offer = await choosing.choose(self._pty.size[:2], utf8=is_utf8(self._channel.get_environment_bytes()))
        finally:
            self._choosing = None
        if offer is None:
            return False
        self._early = [choosing.rest] if choosing.rest else []
        self._username = f"{offer.login}@{offer.target}"
        if choosing.said:
            self._say(choosing.said)
        return True

    async def _has_waited(self, wish: Wish) -> bool:
        """Wait for the answer to a request that covers ``wish``; whether there is one that lets it go on."""
        self._is_waiting = True
        self._channel.resume_reading()
        try:
            return await self._house.admission.wait_for_grant(
                wish, say=self._say, gone=lambda: self._gone or self._gave_up
            )
        finally:
            self._is_waiting = False

    def _wish(self) -> Wish:
        destination = parse_destination(self._username)
        target = self._fixed_target or destination.target
        if target is None:
            raise Refused("Which target? Write: ssh login@target.environment.region@bastion")
        if self._fixed_target and destination.target:
            raise Refused("The target is named twice. Through -J, the user name is the login alone.")
        columns, rows = screen(*self._pty.size[:2]) if self._pty else screen(0, 0)
        return Wish(
            identity=self._proven.identity,
            scope=self._proven.scope,
            serial=self._proven.serial,
            strength=self._proven.strength,
            address=self._address,
            target=target,
            login=destination.login,
            action=self._action,
            command=self._command,
            terminal=Terminal(self._pty.term if self._pty else "", columns, rows),
            or_else=Action.SSH_SFTP_WRITE if self._subsystem is not None else None,
        )

    async def _serve(self, visit: Visit) -> Ended:
        """Everything between the open door and the end; the channel to the target is closed when this returns."""
        admitted = visit.admitted
        relay = Relay(
            client=self._channel,
            recorder=admitted.recorder,
            typed=self._pty is not None,
            watch=self._watch(admitted),
            time=asyncio.get_running_loop().time,
            began=visit.began,
        )
        visit.watch(relay.cut, relay.warn)
        if self._command is not None and (transfer := label(self._command)) is not None:
            relay.mark(transfer)
        self._opening = relay
        while self._unsaid:
            relay.say(self._unsaid.pop(0))
        if self._gone:
            relay.client_closed()
        if self._scp is not None and self._scp.limits(admitted.files) is None:
            relay.say(NO_SCP)
            return Ended(End.POLICY, REFUSED_STATUS)
        try:
            with self._house.closing.heard_by(relay.say):
                return await self._over_a_line(admitted, relay)
        except TargetUnreachable as error:
            log.warning("target unreachable", session=admitted.session.id, error=str(error))
            relay.say(error.public)
        except asyncssh.ChannelOpenError as error:
            relay.say(f"The target refused the session: {printable(str(error))}")
        return Ended(End.TARGET, REFUSED_STATUS)

    async def _over_a_line(self, admitted: Admitted, relay: Relay, *, refused: int = 0) -> Ended:
        """Take a line, and another one where the target takes no more sessions on that; at last one of its own."""
        line = self._lines.take(admitted, fresh=refused > 1, lending=self._channel.lends_agent)
        try:
            return await self._over(line, admitted, relay)
        except asyncssh.ChannelOpenError as error:
            if error.code not in NO_MORE or line.opened_for == admitted.session.id:
                raise
        finally:
            relay.leave_target()
            self._lines.leave(line, linger=not relay.ended.done() or relay.ended.result().is_polite)
        line.is_full = True
        return await self._over_a_line(admitted, relay, refused=refused + 1)

    async def _over(self, line: Line, admitted: Admitted, relay: Relay) -> Ended:
        await _first(line.opening, relay.ended)
        if relay.ended.done():
            return relay.ended.result()
        connection = line.opening.result()
        if line.opened_for != admitted.session.id:
            relay.mark(f"over the connection of {line.opened_for}")
        return await self._relay_until_the_end(connection, relay)

    async def _relay_until_the_end(self, connection: asyncssh.SSHClientConnection, relay: Relay) -> Ended:
        pty = self._pty
        opening = asyncio.ensure_future(
            connection.create_session(
                lambda: TargetSession(relay),
                self._command,
                subsystem=self._subsystem,
                env={name.decode(): value.decode() for name, value in self._environment().items()},
                request_pty="force" if pty else False,
                term_type=pty.term if pty else None,
                term_size=pty.size if pty else (),
                term_modes=pty.modes if pty else {},
                encoding=None,
                window=self._channel.window,
            )
        )
        await _first(opening, relay.ended)
        if relay.ended.done():
            opening.add_done_callback(_unwanted)
            return relay.ended.result()
        opening.result()
        self._hand_over(relay)
        return await relay.ended

    def _hand_over(self, relay: Relay) -> None:
        """Give the relay what came early, in order, then everything as it comes."""
        self._relay = relay
        for data in self._early:
            relay.from_client(data)
        self._early = []
        self._channel.resume_reading()
        if self._early_eof:
            relay.client_eof()

    def _environment(self) -> dict[bytes, bytes]:
        try:
            return {
                n: v for n, v in self._channel.get_environment_bytes().items() if n.isascii() and v.decode() is not None
            }
        except UnicodeDecodeError:
            return {}

    def _watch(self, admitted: Admitted) -> Watch | None:
        if self._subsystem is not None:
            return SftpWatch(admitted.files)
        if self._scp is not None and (limits := self._scp.limits(admitted.files)) is not None:
            return ScpWatch(self._scp, limits)
        return None

    async def _close(self, visit: Visit, ended: Ended) -> None:
        """End both sides, the recording, and the session's entry in the log, whatever happened before."""
        self._leave(ended)
        try:
            await self._drained(visit, ended)
        finally:
            await visit.finish(ended.end, ended.status)

    async def _drained(self, visit: Visit, ended: Ended) -> None:
        """Wait until the client has taken everything and closed: as long as it goes on taking, and nothing cuts it."""
        channel, cut = self._channel, asyncio.get_running_loop().create_future()
        visit.watch(lambda end: None if cut.done() else cut.set_result(end))
        closed = asyncio.ensure_future(channel.wait_closed())
        left = math.inf if ended.is_polite else 0
        try:
            while not closed.done() and not cut.done() and channel.waiting < left:
                left = channel.waiting
                await asyncio.wait((closed, cut), timeout=DRAIN, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((closed,), timeout=CUT)
            if not closed.done():
                cast(DoorConnection, channel.get_connection()).let_go(channel)
        finally:
            closed.cancel()

    def _leave(self, ended: Ended) -> None:
        """Tell the client how the process ended, and close. Nothing happens when the client closed already."""
        if ended.signal is not None:
            self._channel.exit_with_signal(*ended.signal)
        else:
            self._channel.exit(REFUSED_STATUS if ended.status is None else ended.status)

    def _refuse(self, reasons: str) -> None:
        if self._channel.is_closing():
            return
        self._say(reasons)
        self._channel.exit(REFUSED_STATUS)

    def _say(self, sentences: str) -> None:
        """To the client, while nothing of a target's is there to be mixed up with."""
        if self._channel.is_closing():
            return
        ending = "\r\n" if self._pty else "\n"
        lines = "".join(f"bastion: {line}{ending}" for line in sentences.splitlines())
        self._channel.write_stderr(lines.encode())
