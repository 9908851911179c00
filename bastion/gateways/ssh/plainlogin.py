"""A client without a certificate: it proves what key it has, shows a page and a code, and waits for a person.

Keyboard-interactive (RFC 4256) without a question: the text is shown, the client answers at once (section 3.2), and the
server lets it wait. A question would leave people sitting at "press Enter" after they have logged in; it is put to
those alone that would show nothing without.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from bastion.access.certification import Certification, Proven
from bastion.access.devicelogin import LIFETIME, DeviceLogins, Pending
from bastion.core.certificate import PublicKey, fingerprint, parse_public_key
from bastion.core.errors import Refused
from bastion.core.geofence import Address
from bastion.core.target import parse_destination
from bastion.gateways.ssh.qr import drawn

PATIENCE = LIFETIME.total_seconds() + 10
"""Seconds such a connection may take to log in: the code ends first, and its client reads so."""


def questions(client: str) -> list[tuple[str, bool]]:
    """What to ask ``client`` (its version line) beside a text, and whether what is typed may be seen.

    Node's ssh2 answers by itself what asks nothing, and never shows it.
    """
    return [("Press Enter, then wait here: ", True)] if client.startswith("SSH-2.0-ssh2js") else []


@dataclass(frozen=True, slots=True)
class Invitation:
    """What terminals show. ``public_url`` is the console's, without a slash at its end."""

    public_url: str
    qr_codes: bool = False
    """For OpenSSH, which shows them where the locale is UTF-8 and nonsense elsewhere; nobody can ask it which it is."""

    def link(self, pending: Pending) -> str:
        """Where a browser finishes it."""
        return f"{self.public_url}/device/{pending.code}"

    def picture(self, pending: Pending) -> str:
        """The link for phones, to be sent as a banner: of other texts OpenSSH shows 1024 characters, ASCII only."""
        wanted = self.qr_codes and pending.knock.client.startswith("SSH-2.0-OpenSSH")
        return drawn(self.link(pending)) if wanted else ""

    def text(self, pending: Pending) -> str:
        """Lines that fit into 80 columns, frames of clients included, as far as names and URLs are short."""
        knock, minutes = pending.knock, int(LIFETIME.total_seconds()) // 60
        return (
            f"bastion: to reach {knock.target} as {knock.login}, open in any browser:\n\n"
            f"    {self.link(pending)}\n\n"
            f"The page shows a code. Go on only if it is  {pending.code}\n"
            f"Waiting; good for {minutes} minutes, Ctrl-C gives up.\n"
        )


class PlainLogin:
    """The login of one connection. Whatever its end is, it has one: a client that is told no connects again."""

    def __init__(
        self, *, logins: DeviceLogins, certification: Certification, address: Address, invitation: Invitation
    ) -> None:
        self._logins = logins
        self._certification = certification
        self._address = address
        self._invitation = invitation
        self._key: PublicKey | None = None
        self._pending: Pending | None = None
        self.username = ""
        """Under which it was begun; it is finished under no other."""
        self.is_over = False

    @property
    def is_pending(self) -> bool:
        """Whether something would stay behind if the client left now."""
        return self._pending is not None

    def wants_proof(self, blob: bytes) -> bool:
        """Whether the client shall sign with this key: it is the first that can be certified."""
        return not self.is_over and self._key is None and _plain(blob) is not None

    def key_proven(self, blob: bytes) -> None:
        """The client signed this connection with ``blob``; the confirmation page shows it."""
        self._key = _plain(blob)

    async def challenge(self, username: str, client: str) -> tuple[str, str]:
        """Begin; the banner, which may be empty, and the text that the client shows.

        Raises:
            Refused, Unavailable: the sentence says why not; nothing was kept, and this login is over.
        """
        await self.withdraw()
        self.is_over = True
        key = self._key.fingerprint if self._key else None
        self._pending = await self._logins.begin(self._address, parse_destination(username), client=client, key=key)
        self.username, self.is_over = username, False
        return self._invitation.picture(self._pending), self._invitation.text(self._pending)

    async def finish(
        self, username: str, session_id: bytes, *, say: Callable[[str], None], gone: Callable[[], bool]
    ) -> Proven:
        """Wait for the person, then certify the connection for the target that it named, and for nothing else.

        Args:
            username: of the request that is answered, which must be the one that began.
            session_id: the connection's own (RFC 4253, section 7.2), to which the certificate is bound without a key.
            say: tells the client what it waits for, where a request of theirs for the target is open.
            gone: whether the client has left.

        Raises:
            Refused, Unavailable: nobody is logged in; the sentence says why, and this login is over.
        """
        pending, self.is_over = self._pending, True
        if pending is None or username != self.username:
            raise Refused("This login was not begun. Connect again.")
        identity = await self._logins.wait(pending)
        self._pending = None
        bound_to = self._key.fingerprint if self._key else f"connection {fingerprint(session_id)}"
        place = (identity, self._address, pending.knock.target, pending.knock.login)
        try:
            return await self._certification.issue_for_connection(*place, bound_to)
        except Refused:
            if not await self._certification.wait_for_grant(*place, say=say, gone=gone):
                raise
        return await self._certification.issue_for_connection(*place, bound_to)

    async def withdraw(self) -> None:
        """The client has left, or begins anew: nothing stays behind. Idempotent."""
        pending, self._pending = self._pending, None
        if pending is not None:
            await self._logins.withdraw(pending)


def _plain(blob: bytes) -> PublicKey | None:
    """The key, when it is of a type that is certified; RSA is not, for what its check can cost."""
    length = int.from_bytes(blob[:4], "big")
    try:
        name = blob[4 : 4 + length].decode("ascii")
        return parse_public_key(f"{name} {base64.b64encode(blob).decode()}")
    except (Refused, UnicodeDecodeError):
        return None
