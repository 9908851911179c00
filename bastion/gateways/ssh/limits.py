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
from asyncssh.constants import MSG_CHANNEL_OPEN, MSG_GLOBAL_REQUEST
from asyncssh.packet import SSHPacket, SSHPacketLogger

from bastion.core.target import PASSED_ENVIRONMENT
from bastion.gateways.ssh.lean import LeanChannel, LeanServerConnection

MAX_FAILURES = 20
"""Failed attempts to log in on one connection; OpenSSH gives six, which agents with many keys exceed."""

WINDOW = 2 * 1024 * 1024
"""Bytes a peer may send ahead at most; OpenSSH's own default (channels.h)."""

MIN_WINDOW = 64 * 1024
"""Bytes: two packets of OpenSSH's."""

AHEAD = 32 * 1024 * 1024
"""Bytes that all channels of a client may send ahead, besides `MIN_WINDOW` for each."""

SHARE = AHEAD // WINDOW
"""A new channel gets one part in so many of what is left: the first one `WINDOW`, the twentieth a third of it."""

MAX_ASKED = 256
"""Global requests that wait for their turn: a client that asks more at once does not want the answers."""

MIN_PACKET = 1024
"""Bytes; a client that wants its output in smaller pieces wants the bastion's time. Real ones say 16 KiB and more."""

MAX_DEFERRED = 1000
"""Packets kept back during a key exchange; a client that asks for more answers meanwhile is not waiting for its end."""

JOINED = 4096
"""Bytes to which small pieces of waiting input are joined: a window of one-byte packets is a hundred times its size."""

MAX_VARIABLES = 32

MAX_VARIABLE = 1024
"""Bytes of a variable's name and value; a list of languages has fewer."""


class Windows:
    """How many channels a client has, and how much they may send ahead; shared with connections inside its own."""

    def __init__(self, max_channels: int) -> None:
        self.max_channels = max_channels
        self._channels = 0
        self._left = AHEAD

    @property
    def are_used_up(self) -> bool:
        return self._channels >= self.max_channels

    def take(self) -> int:
        """The window of one more channel, which has to be given back."""
        window = max(MIN_WINDOW, self._left // SHARE)
        self._channels += 1
        self._left -= window
        return window

    def give(self, window: int) -> None:
        """A channel is gone."""
        self._channels -= 1
        self._left += window


class _RestrainedChannel(LeanChannel):
    """A channel whose waiting input is as large as its bytes."""

    @property
    def window(self) -> int:
        """Bytes that the client may send ahead."""
        return self._init_recv_window

    @property
    def waiting(self) -> int:
        """Bytes of output that the client has not taken."""
        return self._send_buf_len

    @property
    def is_live(self) -> bool:
        """Whether it was not closed from here."""
        return self._send_state != "closed"

    def drop(self) -> None:
        """Close it now, with all that waits in it: its client takes nothing of that."""
        self._close_send()
        self._discard_recv()

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

    lends_agent = False
    """Whether its client asked that the agent be forwarded for this session, and it is."""

    async def _finish_agent_req_request(self) -> None:
        """Ask for it; a refusal is said, since a client's own answer to it is silence."""
        reason = await cast(RestrainedConnection, self._conn).agent_refused()
        self.lends_agent = reason is None
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
    _windows: Windows

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
        if self._windows.are_used_up:
            reason = f"More than {self._windows.max_channels} channels of one client are not available."
        elif size < MIN_PACKET:
            reason = f"Packets under {MIN_PACKET} bytes are not available."
        else:
            super()._process_channel_open(pkttype, pktid, packet)
            return
        self.send_channel_open_failure(number, asyncssh.OPEN_RESOURCE_SHORTAGE, reason, "en")

    def _process_global_request(self, pkttype: int, pktid: int, packet: SSHPacket) -> None:
        if len(self._global_request_queue) >= MAX_ASKED:
            self.disconnect(asyncssh.DISC_BY_APPLICATION, f"More than {MAX_ASKED} requests wait for their answers.")
        else:
            super()._process_global_request(pkttype, pktid, packet)

    _packet_handlers = {
        **asyncssh.SSHServerConnection._packet_handlers,
        MSG_CHANNEL_OPEN: _process_channel_open,
        MSG_GLOBAL_REQUEST: _process_global_request,
    }

    @property
    def is_full(self) -> bool:
        """Whether its client has as many channels as it may have."""
        return self._windows.are_used_up

    def remove_channel(self, recv_chan: int) -> None:
        self._windows.give(self._channels[recv_chan].get_recv_window())
        super().remove_channel(recv_chan)

    def let_go(self, channel: SessionChannel) -> None:
        """End a channel whose client does not take its end; and the connection, if nothing else on it is live."""
        channel.drop()
        if not any(cast(_RestrainedChannel, each).is_live for each in self._channels.values()):
            self.abort()

    def create_server_channel(
        self, encoding: str | None = None, errors: str = "strict", window: int = 0, max_pktsize: int = 0
    ) -> SessionChannel:
        taken = self._windows.take()
        return SessionChannel(self, self._loop, True, False, False, 0, 0, None, "strict", taken, self._max_pktsize)

    def create_tunnel_channel(self) -> TunnelChannel:
        return TunnelChannel(self, self._loop, None, "strict", self._windows.take(), self._max_pktsize)

    def create_agent_channel(self, window: int = 0, max_pktsize: int = 0) -> AgentChannel:
        return AgentChannel(self, self._loop, None, "strict", self._windows.take(), self._max_pktsize)

    async def agent_refused(self) -> str | None:
        """Forward the client's agent, or say why not."""
        return "The agent is not forwarded here."

    def create_socket_channel(self) -> SocketChannel:
        return SocketChannel(self, self._loop, None, "strict", self._windows.take(), self._max_pktsize)

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
