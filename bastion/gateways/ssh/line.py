"""The connections to a target that the channels of one client connection share, as `ssh` shares its own.

A line opens when the first channel needs it and closes after the last. What runs over it is decided, written, recorded
and cut channel by channel, as if each had a line of its own; the certificate that opened it permits what the grant and
the policies let that session do, so a channel that needs more gets another line.
"""

from __future__ import annotations

import asyncio

import asyncssh

from bastion.access.admission import Admission, Admitted
from bastion.core.certificate import PERMITS, permits
from bastion.core.policy import Action
from bastion.core.target import Target
from bastion.gateways.ssh.target import Connector

LINGER = 10.0
"""Seconds a line without a channel is kept: Ansible and its like run one command after another."""

NO_MORE = (asyncssh.OPEN_CONNECT_FAILED, asyncssh.OPEN_RESOURCE_SHORTAGE)
"""Codes by which a target refuses a session that it would take on another connection (OpenSSH, and the RFC's own)."""


class Line:
    """One connection to ``target``, opened for a session and named after it in the target's log."""

    def __init__(
        self,
        target: Target,
        login: str,
        permitted: frozenset[str],
        is_lending: bool,
        opened_for: str,
        opening: asyncio.Task[asyncssh.SSHClientConnection],
    ) -> None:
        self._target = target
        self._login = login
        self._permitted = permitted
        self._is_lending = is_lending
        self._is_closed = False
        self.opened_for = opened_for
        """The id of the session that its certificate names."""
        self.opening = opening
        self.channels = 0
        self.is_full = False
        """The target takes no more sessions on it (MaxSessions of sshd_config(5)), until one of them leaves."""
        self.closing: asyncio.TimerHandle | None = None
        opening.add_done_callback(self._opened)

    def serves(self, admitted: Admitted, needed: frozenset[str], *, lending: bool) -> bool:
        """Whether a channel of ``admitted``, whose certificate would have to permit ``needed``, may use it.

        sshd shows the client's agent to every session of a connection on which it was asked for once. So those that
        ask for it have lines of their own.
        """
        return (
            lending is self._is_lending
            and (self._target, self._login) == (admitted.target, admitted.session.login)
            and needed <= self._permitted
            and not self.is_full
            and not self.is_lost
        )

    @property
    def is_lost(self) -> bool:
        """Whether it can never be used again."""
        if self._is_closed or not self.opening.done():
            return self._is_closed
        return self.opening.cancelled() or self.opening.exception() is not None or self.opening.result().is_closed()

    def close(self) -> None:
        """Idempotent; whoever still uses it hears that it was lost."""
        self._is_closed = True
        if self.closing is not None:
            self.closing.cancel()
        if self.opening.done():
            self._opened(self.opening)
        self.opening.cancel()

    def _opened(self, opening: asyncio.Task[asyncssh.SSHClientConnection]) -> None:
        failed = opening.cancelled() or opening.exception() is not None
        if self._is_closed and not failed:
            opening.result().abort()


class Lines:
    """Every line of one client connection."""

    def __init__(self, *, admission: Admission, connector: Connector) -> None:
        self._admission = admission
        self._connector = connector
        self._lines: list[Line] = []
        self._is_closed = False

    def take(self, admitted: Admitted, *, fresh: bool = False, lending: bool = False) -> Line:
        """A line for one channel of ``admitted``, which may still be opening. Give it back with `leave`.

        With ``lending`` the client's agent is there for it.
        """
        needed = permits({admitted.session.action})
        lending = lending or admitted.session.action is Action.SSH_AGENT
        usable = (line for line in self._lines if not fresh and line.serves(admitted, needed, lending=lending))
        line = next(usable, None) or self._open(admitted, lending=lending)
        if line.closing is not None:
            line.closing.cancel()
        line.channels += 1
        return line

    def leave(self, line: Line, *, linger: bool) -> None:
        """The channel is gone. With ``linger`` the line waits a little for the next one, if this was its last."""
        line.channels -= 1
        line.is_full = False
        if line.channels > 0:
            return
        if linger and not line.is_lost and not self._is_closed:
            line.closing = asyncio.get_running_loop().call_later(LINGER, self._close, line)
        else:
            self._close(line)

    def close(self) -> None:
        """The client is gone, and every line goes with the last that still tidies up there."""
        self._is_closed = True
        for line in list(self._lines):
            if line.channels == 0:
                self._close(line)

    def _open(self, admitted: Admitted, *, lending: bool) -> Line:
        session, own = admitted.session, permits({admitted.session.action})
        others = [action for action in PERMITS if not permits({action}) <= own]
        if not lending:
            others.remove(Action.SSH_AGENT)
        permitted = own | permits(self._admission.permitted(admitted, others))
        opening = asyncio.ensure_future(self._connector.connect(admitted.target, session, permitted))
        line = Line(admitted.target, session.login, permitted, lending, session.id, opening)
        self._lines.append(line)
        return line

    def _close(self, line: Line) -> None:
        line.close()
        if line in self._lines:
            self._lines.remove(line)
