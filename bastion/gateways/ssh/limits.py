"""What a client may cost: bounds that asyncssh leaves to the client's good will.

A client says itself how much it takes ahead (the window), in what pieces (the maximum packet), and may then read
nothing, or begin a key exchange and not go on with it. Whatever it says, each of its channels holds about a window of
its input and a buffer of its output here, and no more. The private names that are overridden are guarded by the same
test as those of `internals`.
"""

from __future__ import annotations

from typing import cast

import asyncssh
from asyncssh.channel import SSHAgentChannel
from asyncssh.constants import MSG_CHANNEL_OPEN
from asyncssh.packet import SSHPacket, SSHPacketLogger

from bastion.core.target import PASSED_ENVIRONMENT
from bastion.gateways.ssh.lean import LeanChannel, LeanServerConnection

MAX_FAILURES = 20
"""Failed attempts to log in on one connection; OpenSSH gives six, which agents with many keys exceed."""

MAX_CHANNELS = 32
"""Of one connection at a time; OpenSSH's own default is ten sessions (MaxSessions), and here jumps count too."""

MIN_PACKET = 1024
"""Bytes; a client that wants its output in smaller pieces wants the bastion's time. Real ones say 16 KiB and more."""

MAX_DEFERRED = 1000
"""Packets kept back during a key exchange; a client that asks for more answers meanwhile is not waiting for its end."""

JOINED = 4096
"""Bytes to which small pieces of waiting input are joined: a window of one-byte packets is a hundred times its size."""

MAX_VARIABLES = 32

MAX_VARIABLE = 1024
"""Bytes of a variable's name and value; a list of languages has fewer."""


class _RestrainedChannel(LeanChannel):
    """A channel whose waiting input is as large as its bytes."""

    def _accept_data(self, data: bytes, datatype: int | None = None) -> None:
        super()._accept_data(data, datatype)
        waiting = self._recv_buf
        if len(waiting) > 1 and waiting[-2][1] == datatype and len(waiting[-2][0]) < JOINED:
            last, _ = waiting.pop()
            waiting[-1] = (waiting[-1][0] + last, datatype)


class SessionChannel(_RestrainedChannel, asyncssh.SSHServerChannel[bytes]):
    """A session channel that takes no environment but a few names."""

    passed: tuple[str, ...] = PASSED_ENVIRONMENT
    """Of the target; see `Target.env`."""

    async def _finish_agent_req_request(self) -> None:
        """Ask for it; a refusal is said, since a client's own answer to it is silence."""
        reason = await cast(RestrainedConnection, self._conn).agent_refused()
        self._report_response(self._refuse(reason) if reason is not None else True)

    def _process_x11_req_request(self, packet: SSHPacket) -> bool:
        packet.get_remaining_payload()
        return self._refuse("X11 is not forwarded here: no recording could show what it gives away.")

    def _refuse(self, sentence: str) -> bool:
        self.write_stderr(f"bastion: {sentence}\n".encode())
        return False

    def _process_env_request(self, packet: SSHPacket) -> bool:
        name, value = packet.get_string(), packet.get_string()
        packet.check_end()
        too_much = len(self._env) >= MAX_VARIABLES or len(name + value) > MAX_VARIABLE
        if too_much or b"\0" in name + value or not any(_fits(name, passed) for passed in self.passed):
            return False
        self._env[name] = value
        return True


def _fits(name: bytes, passed: str) -> bool:
    stem = passed.removesuffix("*").encode()
    return name == stem or (passed.endswith("*") and name.startswith(stem))


class TunnelChannel(_RestrainedChannel, asyncssh.SSHTCPChannel[bytes]):
    """A forwarded stream, or the connection inside one of `ssh -J`."""


class SocketChannel(_RestrainedChannel, asyncssh.SSHUNIXChannel[bytes]):
    """A stream that is forwarded to or from a Unix socket."""


class AgentChannel(_RestrainedChannel, SSHAgentChannel):
    """A stream to the client's agent."""


class RestrainedConnection(LeanServerConnection):
    """A client's connection, within the bounds above."""

    _failures = 0

    async def reload_config(self) -> None:
        """asyncssh makes all of a connection's options anew, in another thread, for each name that somebody would log
        in as: a configuration file might say something else of that name. We have none.
        """

    @property
    def has_logged_in(self) -> bool:
        return self._auth_complete

    def send_userauth_failure(self, partial_success: bool) -> None:
        """Nobody goes on guessing: each attempt costs more here than there."""
        self._failures += 1
        if self._failures > MAX_FAILURES:
            self.disconnect(asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many attempts to log in.")
        else:
            super().send_userauth_failure(partial_success)

    def _process_channel_open(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        asked = SSHPacket(packet.get_remaining_payload())
        _, number, _, size = asked.get_string(), asked.get_uint32(), asked.get_uint32(), asked.get_uint32()
        if len(self._channels) >= MAX_CHANNELS or size < MIN_PACKET:
            reason = f"More than {MAX_CHANNELS} channels, or packets under {MIN_PACKET} bytes, are not available."
            self.send_channel_open_failure(number, asyncssh.OPEN_RESOURCE_SHORTAGE, reason, "en")
        else:
            super()._process_channel_open(pkttype, pktid, packet)

    _packet_handlers = {**asyncssh.SSHServerConnection._packet_handlers, MSG_CHANNEL_OPEN: _process_channel_open}

    def create_server_channel(
        self, encoding: str | None = None, errors: str = "strict", window: int = 0, max_pktsize: int = 0
    ) -> SessionChannel:
        return SessionChannel(
            self, self._loop, True, False, False, 0, 0, None, "strict", window or self._window, self._max_pktsize
        )

    def create_tunnel_channel(self) -> TunnelChannel:
        return TunnelChannel(self, self._loop, None, "strict", self._window, self._max_pktsize)

    def create_agent_channel(self, window: int = 0, max_pktsize: int = 0) -> AgentChannel:
        return AgentChannel(self, self._loop, None, "strict", self._window, self._max_pktsize)

    async def agent_refused(self) -> str | None:
        """Forward the client's agent, or say why not."""
        return "The agent is not forwarded here."

    def create_socket_channel(self) -> SocketChannel:
        return SocketChannel(self, self._loop, None, "strict", self._window, self._max_pktsize)

    def pause_writing(self) -> None:
        """The client does not read. Its channels stop, and so does reading what it asks: each answer would wait too."""
        super().pause_writing()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        super().resume_writing()

    def send_packet(self, pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None) -> None:
        super().send_packet(pkttype, *args, handler=handler)
        if len(self._deferred_packets) > MAX_DEFERRED:
            self.abort()
