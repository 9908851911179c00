"""One chat account belongs to one identity, because its owner said so on both sides.

The chat proves the account: it hands out a code for it, to that account alone. The browser proves the identity: whoever
is logged in opens the code, is shown which account it is for, and confirms. Names in a chat decide nothing.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from bastion.core.audit import Event, Kind
from bastion.core.errors import NotFound, Refused, Unauthenticated, Unavailable
from bastion.core.geofence import Place
from bastion.core.grant import spell
from bastion.core.identity import Identity
from bastion.ports import ChatLink, Clock, Coordination, Store

LIFETIME = timedelta(minutes=10)
"""Of a code, and again of the question whether to confirm."""

LOGIN_WITHIN = timedelta(hours=12)
"""How long ago an issuer may last have stood by somebody who acts from a chat."""

MAX_OFFERS = 10
"""Codes that one account gets within `LIFETIME`."""

_SECRET_BYTES = 20
_SECRET = re.compile(r"[A-Za-z0-9_-]{27}", re.ASCII)
"""What `secrets.token_urlsafe` makes of that many bytes."""


@dataclass(frozen=True, slots=True)
class Account:
    """One account of a chat. The names are what the chat calls them today: shown, never compared."""

    platform: str
    workspace: str
    user: str
    workspace_name: str = ""
    user_name: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """Asks the logged-in person whether ``account`` is theirs. ``token`` answers yes, once, for that person alone."""

    account: Account
    token: str


class Linking:
    """Makes links, and finds whom an account belongs to.

    Args:
        login_within: how long a login is believed of somebody who acts from a chat. Where the issuer is asked about
            logins (`bastion.access.freshness`), each answer counts as one.
    """

    def __init__(
        self,
        *,
        store: Store,
        coordination: Coordination,
        clock: Clock,
        node: str,
        login_within: timedelta = LOGIN_WITHIN,
    ) -> None:
        self._store = store
        self._coordination = coordination
        self._clock = clock
        self._node = node
        self._login_within = login_within

    async def identity_of(self, platform: str, workspace: str, user: str) -> Identity:
        """Whose account it is, as of their last login. Raises `NotFound` when nobody has linked it."""
        link = await self._store.chat_link(platform, workspace, user)
        return await self._store.identity(link.identity)

    async def actor_of(self, account: Account) -> Identity:
        """Who acts through ``account``. A link says whose it is for good; that they still are somebody here, and in
        which groups, only a login says, and it must not be over or old.

        Raises:
            NotFound: nobody has linked it.
            Unauthenticated: they were logged out or disabled, or have not logged in for too long. An event says so.
        """
        actor = await self.identity_of(account.platform, account.workspace, account.user)
        confirmed_at = await self._store.confirmed_at(actor.id)
        if confirmed_at is None:
            reason = "Your login is over."
        elif self._clock.now() - confirmed_at >= self._login_within:
            reason = f"You have not logged in for {spell(self._login_within)}."
        else:
            return actor
        await self._note_stale(account, actor, reason)
        raise Unauthenticated(reason)

    async def offer(self, account: Account) -> str:
        """A code for ``account``; to be shown to that account alone.

        Raises:
            Refused: the account has asked for too many.
        """
        asked = await self._coordination.count(f"link-offers:{_name(account)}", LIFETIME)
        if asked.number > MAX_OFFERS:
            raise Refused(f"Too many links were asked for. Use the last one, or wait {spell(asked.left)}.")
        return await self._keep("link-code", asdict(account))

    async def open(self, code: str, identity: Identity) -> Question:
        """Take ``code``, which works once, and make the question to ``identity``.

        Raises:
            NotFound: there is no such code, or no longer.
        """
        kept = await self._take("link-code", code)
        account = Account(**kept)
        return Question(account, await self._keep("link-question", {"account": kept, "identity": str(identity.id)}))

    async def confirm(self, token: str, identity: Identity, place: Place) -> Account:
        """Link the account that the question was about. The link and its event are written together.

        Raises:
            NotFound: there is no such question, or no longer.
            Refused: it was put to somebody else; nothing was linked, and the question is void.
        """
        kept = await self._take("link-question", token)
        if kept["identity"] != str(identity.id):
            raise Refused("This question was put to somebody else. Type /bastion link again.")
        account, now = Account(**kept["account"]), self._clock.now()
        async with self._store.transaction() as tx:
            await tx.link_chat(ChatLink(account.platform, account.workspace, account.user, identity.id, now))
            await tx.append(
                Event(
                    kind=Kind.CHAT_LINKED,
                    at=now,
                    node=self._node,
                    identity=identity.id,
                    display=identity.display,
                    address=str(place.address),
                    country=place.country,
                    details={"platform": account.platform, "workspace": account.workspace, "user": account.user},
                )
            )
        return account

    async def _note_stale(self, account: Account, actor: Identity, reason: str) -> None:
        event = Event(
            kind=Kind.CHAT_REFUSED,
            at=self._clock.now(),
            node=self._node,
            identity=actor.id,
            display=actor.display,
            reasons=(reason,),
            details={"platform": account.platform, "workspace": account.workspace, "user": account.user},
        )
        async with self._store.transaction() as tx:
            await tx.append(event)

    async def _keep(self, what: str, value: object) -> str:
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        if not await self._coordination.put_once(f"{what}:{secret}", json.dumps(value).encode(), LIFETIME):
            raise Unavailable("No link could be made. Try again.", detail=f"{what} exists")
        return secret

    async def _take(self, what: str, unverified_secret: str) -> dict[str, Any]:
        kept = None
        if _SECRET.fullmatch(unverified_secret):
            kept = await self._coordination.take(f"{what}:{unverified_secret}")
        if kept is None:
            raise NotFound("This link is used or older than ten minutes. Type /bastion link again.")
        value: dict[str, Any] = json.loads(kept)
        return value


def _name(account: Account) -> str:
    return "/".join((account.platform, account.workspace, account.user))
