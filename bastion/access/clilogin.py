"""``bastion login --device``: a command line without a browser shows a code and asks until somebody has answered.

RFC 8628 as people know it; the bastion is the authorization server here, and its own command line the client. What is
asked in the browser, and by whom it may be answered, is `bastion.access.confirmation`'s, as for SSH clients.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from bastion.access.devicelogin import LIFETIME, DeviceLogins, Lapsed, Pending
from bastion.access.doorstep import Doorstep
from bastion.access.pkce import CHALLENGE, digest
from bastion.access.tokens import Audience, Token, Tokens
from bastion.core.errors import Refused, Unavailable
from bastion.core.geofence import Address
from bastion.core.identity import Identity
from bastion.core.remedy import Remedy
from bastion.ports import Coordination

INTERVAL = timedelta(seconds=2)
"""Between two questions of a command line."""

GRACE = timedelta(milliseconds=300)
"""How much earlier a question may come: clocks and networks are not that even."""

MEMORY = LIFETIME + timedelta(minutes=1)
"""A code that is over is known a little longer, so that whoever asks is told so, and the audit log too."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What the command line gets. Only it knows ``device_code``; people see ``pending.code``."""

    device_code: str
    pending: Pending


@dataclass(frozen=True, slots=True)
class Done:
    """Somebody has said yes."""

    token: Token
    identity: Identity


class Reason(StrEnum):
    """Why there is no token (RFC 8628, section 3.5). After the last two there never will be."""

    PENDING = "authorization_pending"
    TOO_FAST = "slow_down"
    DENIED = "access_denied"
    OVER = "expired_token"


@dataclass(frozen=True, slots=True)
class NotYet:
    """No token: ask again, or start again; the sentence says which."""

    reason: Reason
    sentence: str


class CommandLineLogins:
    """Begins such logins, and answers the command lines that ask for them."""

    def __init__(self, *, logins: DeviceLogins, doorstep: Doorstep, tokens: Tokens, coordination: Coordination) -> None:
        self._logins = logins
        self._doorstep = doorstep
        self._tokens = tokens
        self._coordination = coordination

    async def begin(self, address: Address, *, client: str, remedy: Remedy | None = None) -> Begun:
        """A code for people and one for the command line at ``address``. With a ``remedy`` no other login will do.

        Raises:
            Refused: outside every fence, or too often; nothing is kept.
            Unavailable: the audit log or the coordination did not answer.
        """
        pending = await self._logins.begin_command_line(address, client=client, remedy=remedy)
        begun = Begun(pending.connection, pending)
        if not await self._coordination.put_once(_key(begun.device_code), pending.to_bytes(), MEMORY):
            await self._logins.withdraw(pending)
            raise Unavailable("The login could not be started. Try again.", detail="device code is taken")
        return begun

    async def redeem(self, address: Address, unverified_code: str) -> Done | NotYet:
        """The token, once, for the command line that holds the device code and is where it was.

        Raises:
            Refused: outside every fence, or too many codes from there were none.
            Unavailable: a part did not answer; if somebody had said yes, it has to be done again.
        """
        place = self._doorstep.locate(address)
        pending = await self._known(unverified_code)
        if pending is None:
            if (too_often := await self._doorstep.throttle.failed(place)) is not None:
                raise too_often
            return NotYet(Reason.OVER, "This login was used already, or is over. Start again: bastion login --device")
        if pending.knock.address != address:
            sentence = "This login was begun from another address. Start again from where you are."
            await self._forget(unverified_code, pending)
            refusal = Refused(sentence, detail=f"begun from {pending.knock.address}")
            await self._doorstep.record_failure(place, refusal)
            return NotYet(Reason.DENIED, sentence)
        if not await self._coordination.put_once(f"device-asked:{digest(unverified_code)}", b"", INTERVAL - GRACE):
            return NotYet(Reason.TOO_FAST, "Ask less often.")
        return await self._ask(unverified_code, pending)

    async def _ask(self, device_code: str, pending: Pending) -> Done | NotYet:
        try:
            identity = await self._logins.ask(pending)
        except Refused as refusal:
            await self._forget(device_code, pending)
            reason = Reason.OVER if isinstance(refusal, Lapsed) else Reason.DENIED
            return NotYet(reason, refusal.public)
        if identity is None:
            return NotYet(Reason.PENDING, "Nobody has answered yet.")
        await self._forget(device_code, pending)
        return Done(await self._tokens.issue(identity, Audience.API), identity)

    async def _known(self, unverified_code: str) -> Pending | None:
        if not CHALLENGE.fullmatch(unverified_code):  # the shape of our secrets; nothing else becomes a key
            return None
        value = await self._coordination.peek(_key(unverified_code))
        pending = None if value is None else Pending.from_bytes(value)
        if pending is None or not hmac.compare_digest(pending.connection, unverified_code):
            return None
        return pending

    async def _forget(self, device_code: str, pending: Pending) -> None:
        await self._coordination.take(_key(device_code))
        await self._logins.withdraw(pending)


def _key(device_code: str) -> str:
    return f"device-code:{digest(device_code)}"
