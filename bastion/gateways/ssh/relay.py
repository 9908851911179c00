"""Bytes between a client's channel and a target's, each recorded before it is delivered (law 6)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import asyncssh

from bastion.core.errors import Unavailable
from bastion.core.grant import spell
from bastion.core.session import End
from bastion.core.target import printable
from bastion.core.watching import Step, Violation, Watch
from bastion.ports import Recorder

STDERR: int = asyncssh.EXTENDED_DATA_STDERR

REFUSED_STATUS = 254
"""Exit status of `ssh` when the bastion refused or ended the session; 255 is ssh's own."""


EOF_WAIT = 0.1
"""Seconds between the end of a target's output and its being told, for the exit status to come first."""

MAX_SCREEN = 4096
"""Columns or rows; a larger window exists in no terminal."""


def screen(columns: int, rows: int) -> tuple[int, int]:
    """A window's size as it is recorded: clients without a terminal say 0, and hostile ones say anything."""
    return min(columns or 80, MAX_SCREEN), min(rows or 24, MAX_SCREEN)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a session ended: whose doing it was, and what the target's process said."""

    end: End
    status: int | None = None
    signal: tuple[str, bool, str, str] | None = None

    @property
    def is_polite(self) -> bool:
        """Whether one of the two sides was done, and nobody cut it off."""
        return self.end in (End.TARGET, End.CLIENT)


class Relay:
    """One live session's two channels. Everything here is synchronous: a byte is recorded, then handed on."""

    def __init__(
        self,
        *,
        client: asyncssh.SSHServerChannel[bytes],
        recorder: Recorder,
        typed: bool,
        watch: Watch | None,
        time: Callable[[], float],
        began: float,
    ) -> None:
        self._client = client
        self._recorder = recorder
        self._typed = typed
        self._watch = watch
        self._time = time
        self._began = began
        self._target: asyncssh.SSHClientChannel[bytes] | None = None
        self._status: int | None = None
        self._signal: tuple[str, bool, str, str] | None = None
        self._eof_is_due = False
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        """Resolved once; from then on nothing is handed on in either direction."""

    @property
    def at(self) -> float:
        """Seconds since the session began."""
        return self._time() - self._began

    def open(self, target: asyncssh.SSHClientChannel[bytes]) -> None:
        """The target is there; bytes of the client may flow."""
        self._target = target
        if self.ended.done():
            target.abort()

    def leave_target(self) -> None:
        """Close the channel to the target, whatever still waits there for whoever has gone. Idempotent."""
        if self._target is not None:
            self._target.abort()

    def from_client(self, data: bytes) -> None:
        """What the client typed or sent."""
        if self.ended.done() or self._target is None:
            return
        try:
            if self._watch is not None:
                self._pass_on(self._watch.from_client(data))
                return
            self._recorder.input(self.at, data, typed=self._typed)
        except Unavailable:
            self.cut(End.RECORDER)
        except Violation as violation:
            self._violated(violation)
        else:
            self._target.write(data)

    def from_target(self, data: bytes, datatype: int | None) -> None:
        """What the target's process wrote."""
        if self.ended.done():
            return
        try:
            if datatype == STDERR:
                self._recorder.error_output(self.at, data)
            elif self._watch is not None:
                self._pass_on(self._watch.from_target(data))
                return
            else:
                self._recorder.output(self.at, data)
        except Unavailable:
            self.cut(End.RECORDER)
        except Violation as violation:
            self._violated(violation)
        else:
            self._client.write(data, datatype)

    def _pass_on(self, step: Step) -> None:
        for line in step.lines:
            self._recorder.mark(self.at, line)
        for file in step.underway:
            self._recorder.underway(self.at, file)
        if step.to_target and self._target is not None:
            self._target.write(step.to_target)
        if step.to_client:
            self._client.write(step.to_client)
        for sentence in step.says:
            self.say(sentence)
        if self._eof_is_due:
            self.client_eof()

    def _violated(self, violation: Violation) -> None:
        """Deliver what was right before the bad packet, and end: nothing of the packet itself is passed on."""
        try:
            self._pass_on(violation.before)
        except Unavailable:
            self.cut(End.RECORDER)
            return
        self.say(violation.public)
        self._end(Ended(End.POLICY))

    def resize(self, columns: int, rows: int, width: int, height: int) -> None:
        """The client's window has another size now; characters, then pixels."""
        if self.ended.done() or self._target is None:
            return
        try:
            self._recorder.resize(self.at, *screen(columns, rows))
        except Unavailable:
            self.cut(End.RECORDER)
        else:
            self._target.change_terminal_size(columns, rows, width, height)

    def signal(self, name: str) -> None:
        """The client sends a signal to the target's process."""
        if not self.ended.done() and self._target is not None:
            self.mark(f"signal {name}")
            self._target.send_signal(name)

    def send_break(self, msec: int) -> None:
        """The client sends a break of ``msec`` milliseconds (RFC 4335)."""
        if not self.ended.done() and self._target is not None:
            self.mark(f"break {msec} ms")
            self._target.send_break(msec)

    def client_eof(self) -> None:
        """The client sent its last; a watch may have some of that still."""
        if self.ended.done() or self._target is None:
            return
        self._eof_is_due = self._watch is not None and self._watch.owes_the_target
        if not self._eof_is_due:
            self._target.write_eof()

    def target_eof(self) -> None:
        """The target's process wrote its last; how it ended comes right behind, or much later if it goes on.

        OpenSSH's multiplexing client closes a channel when both sides have ended their output, and a status that comes
        after that is lost. So the end waits a moment for the status, which then goes first.
        """
        asyncio.get_running_loop().call_later(EOF_WAIT, self._pass_eof)

    def _pass_eof(self) -> None:
        if not self.ended.done() and not self._client.is_closing():
            self._client.write_eof()

    def target_exited(self, status: int) -> None:
        self._status = status

    def target_killed(self, signal: tuple[str, bool, str, str]) -> None:
        self._signal = signal
        if not self.ended.done():
            self.mark(f"ended by signal {printable(signal[0], 32)}{', core dumped' if signal[1] else ''}")

    def target_closed(self) -> None:
        self._end(Ended(End.TARGET, self._status, self._signal))

    def client_closed(self) -> None:
        self._end(Ended(End.CLIENT, self._status, self._signal))

    def client_lost(self, reason: str) -> None:
        """The connection to the client broke, or it answered no more."""
        if not self.ended.done():
            self.mark(f"the connection to the client was lost: {reason}")
            self.client_closed()

    def pause_client(self) -> None:
        """The target takes no more for now."""
        self._client.pause_reading()

    def resume_client(self) -> None:
        self._client.resume_reading()

    def pause_target(self) -> None:
        """The client takes no more for now."""
        if self._target is not None:
            self._target.pause_reading()

    def resume_target(self) -> None:
        if self._target is not None:
            self._target.resume_reading()

    def mark(self, label: str) -> None:
        """A line of the transcript."""
        try:
            self._recorder.mark(self.at, label)
        except Unavailable:
            self.cut(End.RECORDER)

    def warn(self, before: timedelta) -> None:
        """Tell the client that the grant is about to end."""
        self.say(f"Your grant ends in {spell(before)}. Work that is not finished needs a new one.")

    def cut(self, end: End) -> None:
        """End the session now, and tell the client why. Idempotent."""
        if self.ended.done():
            return
        self.say(end.sentence)
        self._end(Ended(end))

    def say(self, sentence: str) -> None:
        """A line of the bastion's own to the client's standard error, which the recording has first if it still can."""
        if self.ended.done() or self._client.is_closing():
            return
        line = f"\r\nbastion: {sentence}\r\n" if self._typed else f"bastion: {sentence}\n"
        try:
            self._recorder.error_output(self.at, line.encode())
        except Unavailable:
            pass  # The recorder failed, and saying so is the one thing that is delivered unrecorded.
        self._client.write_stderr(line.encode())

    def _end(self, ended: Ended) -> None:
        if self.ended.done():
            return
        if self._watch is not None:
            try:
                for line in self._watch.close():
                    self._recorder.mark(self.at, line)
            except Unavailable:
                ended = Ended(End.RECORDER, ended.status, ended.signal)
        self.ended.set_result(ended)


class TargetSession(asyncssh.SSHClientSession[bytes]):
    """The target's end of a relay."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._relay.open(chan)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._relay.from_target(data, datatype)

    def eof_received(self) -> bool:
        self._relay.target_eof()
        return True

    def exit_status_received(self, status: int) -> None:
        self._relay.target_exited(status)

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self._relay.target_killed((signal, core_dumped, msg, lang))

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._relay.say("The connection to the target was lost.")
        self._relay.target_closed()

    def pause_writing(self) -> None:
        self._relay.pause_client()

    def resume_writing(self) -> None:
        self._relay.resume_client()
