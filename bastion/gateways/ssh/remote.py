"""What a client has the target listen at for it (``-R``): a port of the target's loopback, or a Unix socket."""

from __future__ import annotations

import asyncio
import stat

import asyncssh

from bastion.core.errors import Refused
from bastion.core.policy import Action
from bastion.core.target import printable
from bastion.gateways.ssh.forward import Forwards, flaw_of_place
from bastion.gateways.ssh.internals import DoorConnection
from bastion.gateways.ssh.listening import Listening
from bastion.gateways.ssh.pipe import Pipe, Side

ANYWHERE = ("", "*", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::")  # noqa: S104 - words of clients; nothing is bound
"""Where clients ask to listen (RFC 4254, section 7.1); it is the target's loopback each time."""

WINDOW = 256 * 1024
"""Bytes that the target may send ahead in a stream that it brings: how many there will be, nobody knows yet."""

TIDYING = 2.0
"""Seconds that a target has to remove a socket, when whoever asked for it has gone already."""


async def listen_at_port(connection: DoorConnection, forwards: Forwards, host: str, port: int) -> Listening:
    """At the target's own loopback whatever interface was asked for, as sshd does it by default.

    Raises:
        BastionError: it does not listen; `public` says why.
    """
    if host not in ANYWHERE:
        raise Refused(f"{printable(host, 60)!r} is no place to listen at; the target's loopback is.")
    name = printable(f"from {host or '*'}:{port}")

    async def at_client(listening: Listening, pipe: Pipe, origin: str, origin_port: int) -> None:
        channel = connection.create_tunnel_channel()
        await channel.accept(lambda: pipe.side(Side.CLIENT), host, port or listening.get_port(), origin, origin_port)

    async def at_target(target: asyncssh.SSHClientConnection, listening: Listening) -> asyncssh.SSHListener:
        return await target.create_server(listening.accept, "localhost", port, window=WINDOW)

    wish = forwards.wish(Action.SSH_FORWARD_REMOTE, name)
    return await forwards.listen(wish, f"forward {name}", at_client, at_target)


async def listen_at_socket(connection: DoorConnection, forwards: Forwards, path: str) -> Listening:
    """At a Unix socket of the target, which is removed when it is over: sshd leaves it behind.

    Raises:
        BastionError: as `listen_at_port`.
    """
    wish = forwards.wish(Action.SSH_FORWARD_REMOTE_SOCKET, f"from socket {printable(path)}")
    if (flaw := flaw_of_place(path)) is not None:
        await forwards.refuse(wish, flaw)

    async def at_client(listening: Listening, pipe: Pipe, origin: str, origin_port: int) -> None:
        # The library's types want the session of a socket; ours is one for every kind of stream.
        await connection.create_socket_channel().accept(lambda: pipe.side(Side.CLIENT), path)  # type: ignore[arg-type, return-value]

    async def at_target(target: asyncssh.SSHClientConnection, listening: Listening) -> asyncssh.SSHListener:
        listener: asyncssh.SSHListener = await target.create_unix_server(listening.accept, path, window=WINDOW)

        async def tidy() -> None:
            listening.mark(f"socket {printable(path)} {await _removed(target, listener, path)}")

        listening.tidy = tidy
        return listener

    return await forwards.listen(wish, f"forward from socket {printable(path)}", at_client, at_target)


async def _removed(target: asyncssh.SSHClientConnection, listener: asyncssh.SSHListener, path: str) -> str:
    """Remove a socket that nobody listens at any more; what came of it, as the rest of a sentence."""
    try:
        async with asyncio.timeout(TIDYING):
            await listener.wait_closed()
            async with target.start_sftp_client() as sftp:
                if not stat.S_ISSOCK((await sftp.lstat(path)).permissions or 0):
                    return "is something else by now, and stays"
                await sftp.remove(path)
    except (OSError, asyncssh.Error, TimeoutError) as error:
        return f"could not be removed: {printable(str(error) or 'the target does not answer')}"
    return "removed"
