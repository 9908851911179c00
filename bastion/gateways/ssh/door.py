"""Who is calling: one client connection from its first packet to its channels, and SSH inside SSH for ``ssh -J``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any, Literal, cast

import asyncssh
import structlog
from asyncssh.auth import KbdIntChallenge, KbdIntResponse

from bastion.access.admission import Wish
from bastion.access.certification import Proven
from bastion.access.patience import LONGEST
from bastion.core.certificate import Rejected
from bastion.core.errors import BastionError, NotFound, Refused
from bastion.core.geofence import Address
from bastion.core.policy import Action
from bastion.core.target import Catalogue, Scope, Target, parse_destination, printable
from bastion.gateways.listener import NamedTransport
from bastion.gateways.ssh.forward import Forwards, refuse
from bastion.gateways.ssh.hostproof import ProvenConnection
from bastion.gateways.ssh.internals import DoorConnection
from bastion.gateways.ssh.limits import Windows
from bastion.gateways.ssh.listening import Listening, prohibited
from bastion.gateways.ssh.pipe import Pipe, Side
from bastion.gateways.ssh.plainlogin import PATIENCE, PlainLogin, questions
from bastion.gateways.ssh.remote import listen_at_port, listen_at_socket
from bastion.gateways.ssh.rounds import Rounds
from bastion.gateways.ssh.session import ClientSession
from bastion.gateways.ssh.visit import House

MAX_OFFERS = 20
"""Certificates judged on one connection; an agent with more keys than that needs IdentitiesOnly."""

MAX_BANNERS = 3

log = structlog.get_logger(__name__)


class Door(asyncssh.SSHServer):
    """One client connection. ``inside`` is the target of the connection that ``ssh -J`` runs inside another one, with
    which it shares its ``windows``.
    """

    def __init__(
        self,
        *,
        house: House,
        catalogue: Catalogue,
        options: asyncssh.SSHServerConnectionOptions,
        address: Address,
        inside: str | None = None,
        outer: Proven | None = None,
        windows: Windows | None = None,
    ) -> None:
        self._house = house
        self._catalogue = catalogue
        self._options = options
        self._address = address
        self._inside = inside
        self._outer = outer
        self._windows = windows or Windows(house.max_channels)
        self._offers = 0
        self._told: list[str] = []
        self._judged: dict[bytes, Proven] = {}
        self._proven: Proven | None = None
        self._username = ""
        self._named = ""
        self._is_lost = False
        self._lines = house.lines()
        self._sessions: list[ClientSession] = []
        self._agent: Listening | None = None
        self._unsaid: list[str] = []
        """Why a listener was refused, for the first session: clients print nothing else of it."""
        self._rounds: Rounds[Proven] | None = None
        self._plain = PlainLogin(
            logins=house.logins, certification=house.certification, address=address, invitation=house.invitation
        )

    @property
    def _client(self) -> str:
        """The client's version line."""
        return cast(str, self._connection.get_extra_info("client_version", ""))

    def open(self) -> DoorConnection:
        """The protocol that reads this connection's bytes."""
        return DoorConnection(asyncio.get_running_loop(), self._options, self, self, self._windows)

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = cast(DoorConnection, conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if "_forwards" in self.__dict__:
            self._forwards.close()
        self._lines.close()
        if self._rounds is not None:
            self._rounds.close()
        if self._plain.is_pending:
            self._house.spawn(self._plain.withdraw())

    def begin_auth(self, username: str) -> bool:
        self._named = username
        if (closing := self._house.closing.sentence) is not None:
            # Not earlier: what a client has sent and nobody has read resets the connection, and the sentence with it.
            self._connection.disconnect(asyncssh.DISC_BY_APPLICATION, closing)
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def recognise_certificate(self, blob: bytes) -> bool:
        recognised = self._house.certification.recognise(blob)
        if isinstance(recognised, Rejected):
            self._tell(recognised.reason)
            return False
        return True

    def wants_proof(self, blob: bytes) -> bool:
        """Whether the client shall prove that it has a plain key, which by itself opens nothing."""
        return self.kbdint_auth_supported() and self._plain.wants_proof(blob)

    def key_proven(self, blob: bytes) -> None:
        self._plain.key_proven(blob)

    def kbdint_auth_supported(self) -> bool:
        """Once, and not inside another connection: what that one may reach is decided already.

        Nor for a client that has certificates and names no target: it came to go on from here (``ssh -J``), and would
        only read that it should name one.
        """
        names_target = "@" in self._named or "%" in self._named
        return self._inside is None and not self._plain.is_over and (names_target or not self._offers)

    async def get_kbdint_challenge(self, username: str, lang: str, submethods: str) -> KbdIntChallenge:
        try:
            picture, text = await self._plain.challenge(username, self._client)
        except BastionError as error:
            return _said(error, self._client)
        self._connection.allow_login(PATIENCE)
        if picture:
            self._connection.send_auth_banner(picture)
        return "", text, "", questions(self._client)

    async def validate_kbdint_response(self, username: str, responses: KbdIntResponse) -> KbdIntChallenge:
        """The client has shown the text, whatever it answered: wait for the browser, and perhaps for an approval."""
        if self._rounds is None:
            if self._plain.is_over:
                return False
            session_id = self._connection.session_id
            self._rounds = Rounds(
                lambda say: self._plain.finish(username, session_id, say=say, gone=lambda: self._is_lost)
            )
        if username != self._plain.username:
            return False
        if (said := await self._rounds.next()) is not None:
            self._connection.allow_login(LONGEST.total_seconds() + 10)
            return "", said, "", questions(self._client)
        rounds, self._rounds = self._rounds, None
        try:
            self._proven = rounds.result()
        except BastionError as error:
            return _said(error, self._client, rounds.unsaid())
        self._username = username
        return True

    async def judge_certificate(self, username: str, blob: bytes) -> bool:
        """Ask whether this certificate may be used here; the client reads why not as a banner."""
        self._offers += 1
        if self._offers > MAX_OFFERS:
            self._connection.disconnect(asyncssh.DISC_TOO_MANY_CONNECTIONS, "Too many certificates were offered.")
            return False
        try:
            verdict = await self._house.certification.judge(blob, self._address)
        except BastionError as error:
            log.error("certificate could not be judged", error=str(error))
            verdict = Rejected(error.public)
        if isinstance(verdict, Proven) and self._outer is not None and verdict.identity != self._outer.identity:
            verdict = Rejected("The certificate for the target is somebody else's than the one for the bastion.")
        if isinstance(verdict, Proven) and (wanted := self._wanted_scope(username)) not in (None, verdict.scope):
            verdict = Rejected(f"The certificate for {verdict.scope} does not open {wanted}.")
        if isinstance(verdict, Rejected):
            self._tell(verdict.reason)
            return False
        self._judged[blob] = verdict
        return True

    def _wanted_scope(self, username: str) -> Scope | None:
        """The scope of the target that is named already: a client with several certificates finds the right one."""
        try:
            name = self._inside or parse_destination(username).target
            return self._catalogue.find(name).scope if name else None
        except Refused:
            return None

    def _tell(self, reason: str) -> None:
        if reason not in self._told and len(self._told) < MAX_BANNERS:
            self._told.append(reason)
            self._connection.send_auth_banner(f"bastion: {reason}\n")

    def certificate_proven(self, username: str, blob: bytes) -> bool:
        """Only what was signed counts; the offers before it, under whatever name, are forgotten."""
        proven = self._judged.get(blob)
        if proven is None:
            return False
        self._proven, self._username = proven, username
        self._judged = {}
        return True

    def auth_completed(self) -> None:
        if self._proven is None or self._connection.get_extra_info("username") != self._username:
            self._connection.abort()

    def session_requested(self) -> Any:
        if self._proven is None:
            return False
        session = ClientSession(self._house, self._lines, self._proven, self._address, self._username, self._inside)
        self._sessions = [each for each in self._sessions if not each.is_gone]
        if not self._sessions:
            session.heard(self._unsaid)
        self._sessions.append(session)
        channel = self._connection.create_server_channel()
        if self._target is not None:
            channel.passed = self._target.env
        return channel, session

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        """``ssh -J bastion target``, whose inner connection is ended here, and recorded; or a forward at the target."""
        if self._proven is None:
            raise prohibited("Log in first.")
        if self._inside is None and (self._target is None or self._is_target(dest_host)):
            return self._connection.create_tunnel_channel(), self._jump(self._proven, dest_host)
        forwards, channel = self._forwards, self._connection.create_tunnel_channel()
        return channel, forwards.to_host(dest_host, dest_port, (orig_host, orig_port), channel.window)

    def unix_connection_requested(self, dest_path: str) -> Any:
        forwards, channel = self._forwards, self._connection.create_socket_channel()
        return channel, forwards.to_socket(dest_path, channel.window)

    def _is_target(self, name: str) -> bool:
        try:
            self._catalogue.find(name)
        except NotFound:
            return False
        except Refused:
            return True  # Of several; which, has to be said.
        return True

    async def _jump(self, proven: Proven, name: str) -> InnerConnection:
        try:
            target = self._catalogue.find(name)
        except Refused as refusal:
            raise await self._refusal(proven, printable(name), refusal.public) from None
        if target.scope != proven.scope:
            reason = f"This certificate is for {proven.scope}; {target.full_name} is in {target.scope}."
            raise await self._refusal(proven, target.full_name, reason)
        door = Door(
            house=self._house,
            catalogue=self._catalogue,
            options=self._options,
            address=self._address,
            inside=target.full_name,
            outer=proven,
            windows=self._windows,
        )
        return InnerConnection(door.open(), self._address)

    async def _refusal(self, proven: Proven, target: str, reason: str) -> asyncssh.ChannelOpenError:
        await refuse(self._house, self._wish(proven, target, "", Action.SSH_SHELL, None), reason)
        return prohibited(reason)

    @cached_property
    def _target(self) -> Target | None:
        """The one that this connection is for, as soon as it has logged in; None where it names none."""
        try:
            named = parse_destination(self._username).target
            name = self._inside if named is None else named if self._inside is None else None
            return None if name is None else self._catalogue.find(name)
        except Refused:
            return None

    @cached_property
    def _forwards(self) -> Forwards:
        """Raises ChannelOpenError: the connection names no target."""
        proven, target = self._proven, self._target
        if proven is None or target is None:
            raise prohibited("Forwards need a target: ssh -L … login@target.environment.region@bastion")
        login = parse_destination(self._username).login
        return Forwards(
            self._house,
            self._lines,
            target,
            lambda action, command: self._wish(proven, target.full_name, login, action, command),
            lambda: self._connection.is_full,
        )

    def _wish(self, proven: Proven, target: str, login: str, action: Action, command: str | None) -> Wish:
        return Wish(
            identity=proven.identity,
            scope=proven.scope,
            serial=proven.serial,
            strength=proven.strength,
            address=self._address,
            target=target,
            login=login,
            action=action,
            command=command,
        )

    async def agent_refused(self) -> str | None:
        """Forward the client's agent, once for all sessions of the connection; or why not."""
        if self._agent is not None and not self._agent.ended.done():
            return None

        async def at_client(listening: Listening, pipe: Pipe, host: str, port: int) -> None:
            # The library's types want the session of a socket; ours is one for every kind of stream.
            await self._connection.create_agent_channel().open(lambda: pipe.side(Side.CLIENT))  # type: ignore[arg-type, return-value]

        async def at_target(connection: asyncssh.SSHClientConnection, listening: Listening) -> Any:
            lent = cast(ProvenConnection, connection)
            lent.lend(listening.accept)  # type: ignore[arg-type]  # as above
            return Lent(lent)

        try:
            forwards = self._forwards
            wish = forwards.wish(Action.SSH_AGENT, "the agent")
            self._agent = await forwards.listen(wish, "agent", at_client, at_target)
        except (BastionError, asyncssh.ChannelOpenError) as error:
            return f"The agent is not forwarded here. {_sentence(error)}"
        return None

    async def server_requested(self, listen_host: str, listen_port: int) -> Any:
        """``-R``."""
        return await self._listens(
            lambda forwards: listen_at_port(self._connection, forwards, listen_host, listen_port)
        )

    async def unix_server_requested(self, listen_path: str) -> Any:
        """``-R`` with a socket at the target."""
        return await self._listens(lambda forwards: listen_at_socket(self._connection, forwards, listen_path))

    async def _listens(self, listen: Callable[[Forwards], Awaitable[Listening]]) -> Listening | Literal[False]:
        """A refusal has no words in SSH, so they are said wherever a client may show some."""
        try:
            return await listen(self._forwards)
        except (BastionError, asyncssh.ChannelOpenError) as error:
            self._connection.send_debug(f"bastion: {_sentence(error)}", always_display=True)
            for session in self._sessions:
                session.remark(_sentence(error))
            if _sentence(error) not in self._unsaid and len(self._unsaid) < MAX_BANNERS:
                self._unsaid.append(_sentence(error))
            return False


def _sentence(error: BastionError | asyncssh.ChannelOpenError) -> str:
    return error.public if isinstance(error, BastionError) else error.reason


def _said(error: BastionError, client: str, before: str = "") -> KbdIntChallenge:
    """A text, which clients show and answer, and are refused then: plink drops late banners.

    OpenSSH writes what is not ASCII in octal here, so the dots of our sentences are three.
    """
    log.info("login refused", error=str(error))
    return "", f"{before}bastion: {error.public.replace('…', '...')}\n", "", questions(client)


class Lent:
    """What ends the lending of an agent, as a listener is ended."""

    def __init__(self, connection: ProvenConnection) -> None:
        self._connection = connection

    def get_port(self) -> int:
        return 0

    def close(self) -> None:
        self._connection.lend(None)


class InnerConnection(asyncssh.SSHTCPSession[bytes]):
    """Feeds the bytes of a forwarding channel to an SSH connection of its own, under the client's true address."""

    def __init__(self, connection: DoorConnection, address: Address) -> None:
        self._connection = connection
        self._address = address

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        port = chan.get_connection().get_extra_info("peername")[1]
        self._connection.connection_made(cast(asyncio.Transport, _Inner(chan, (str(self._address), port))))

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._connection.data_received(data)

    def eof_received(self) -> bool:
        self._connection.eof_received()
        return False

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)


class _Inner(NamedTransport):
    """A channel as a transport: there is no socket of its own to tune."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default if name == "socket" else super().get_extra_info(name, default)
