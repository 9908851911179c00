"""Handing a browser's login to a command line: asked once more, then one code, one use, one minute, one verifier."""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlencode

from bastion.access.doorstep import Doorstep
from bastion.access.login import LoggedIn, ToCommandLine
from bastion.access.pkce import CHALLENGE, digest, matches, new_secret
from bastion.access.tokens import Audience, Token, Tokens
from bastion.core.errors import Refused, Unavailable
from bastion.core.geofence import Address
from bastion.core.identity import Identity, IdentityId, Strength
from bastion.ports import Coordination, Store

CONFIRM_LIFETIME = timedelta(minutes=5)
"""While somebody reads the question."""

CODE_LIFETIME = timedelta(minutes=1)
"""From the redirect to the command line's request; both are on the same machine."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """A login on its way to a command line."""

    identity: IdentityId
    strength: Strength
    binding: str
    command_line: ToCommandLine

    def to_bytes(self) -> bytes:
        to = self.command_line
        values = [str(self.identity), self.strength.to_json(), self.binding, to.port, to.challenge, to.state]
        return json.dumps(values).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> _Offer:
        identity, strength, binding, port, challenge, state = json.loads(value)
        to = ToCommandLine(port, challenge, state)
        return cls(IdentityId.parse(identity), Strength.from_json(strength), binding, to)


class Handover:
    """From a browser that is logged in to a command line that will be."""

    def __init__(self, *, doorstep: Doorstep, tokens: Tokens, store: Store, coordination: Coordination) -> None:
        self._doorstep = doorstep
        self._tokens = tokens
        self._store = store
        self._coordination = coordination

    async def offer(self, login: LoggedIn, command_line: ToCommandLine, binding: str) -> str:
        """A ticket for the page that asks whether to go on. It is good in this browser only.

        Without the question, a link on any web page could give a program of this machine a login.

        Raises:
            Unavailable: it could not be kept.
        """
        ticket = new_secret()
        identity = login.identity
        offer = _Offer(identity.id, identity.strength, digest(binding), command_line)
        await self._keep(f"login-offer:{ticket}", offer, CONFIRM_LIFETIME)
        return ticket

    async def confirm(self, address: Address, ticket: str, binding: str | None) -> str:
        """The loopback URL to send the browser to, with the one-time code in it. Never another host.

        Raises:
            Refused: outside every fence, or the ticket is not this browser's, used, or too old.
        """
        place = await self._doorstep.admit(address)
        offer = await self._take("login-offer", ticket)
        if offer is None or binding is None or not hmac.compare_digest(offer.binding, digest(binding)):
            refusal = Refused(
                "This question was answered already, or is not this browser's. Start again: bastion login"
            )
            await self._doorstep.record_failure(place, refusal)
            raise refusal
        code = new_secret()
        await self._keep(f"login-code:{code}", offer, CODE_LIFETIME)
        query = urlencode({"code": code, "state": offer.command_line.state})
        return f"http://127.0.0.1:{offer.command_line.port}/callback?{query}"

    async def redeem(self, address: Address, code: str, verifier: str) -> tuple[Token, Identity]:
        """A token for the command line that began with the challenge of ``verifier``.

        Raises:
            Refused: outside every fence, or the code is used, too old, or another command line's. It is used up.
        """
        place = await self._doorstep.admit(address)
        offer = await self._take("login-code", code)
        if offer is None or not matches(offer.command_line.challenge, verifier):
            refusal = Refused(
                "This login code was used already, is too old, or is not yours. Start again: bastion login"
            )
            await self._doorstep.record_failure(place, refusal)
            raise refusal
        identity = (await self._store.identity(offer.identity)).proven_by(offer.strength)
        return await self._tokens.issue(identity, Audience.API), identity

    async def _keep(self, key: str, offer: _Offer, lifetime: timedelta) -> None:
        if not await self._coordination.put_once(key, offer.to_bytes(), lifetime):
            raise Unavailable("The login could not be handed over. Try again.", detail="key is taken")

    async def _take(self, kind: str, unverified: str) -> _Offer | None:
        if not CHALLENGE.fullmatch(unverified):  # the shape of our secrets; nothing else becomes a key
            return None
        value = await self._coordination.take(f"{kind}:{unverified}")
        return None if value is None else _Offer.from_bytes(value)
