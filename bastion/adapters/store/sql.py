"""What is read, and where writing begins: the store's `bastion.ports.Store`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from bastion.adapters.store import queries
from bastion.adapters.store.engines import Engine
from bastion.adapters.store.failures import translated
from bastion.adapters.store.rows import (
    read_certificate,
    read_event,
    read_grant,
    read_identity,
    read_link,
    read_login,
    read_notice,
    read_request,
    read_review,
    read_session,
    read_token,
)
from bastion.adapters.store.statements import Answer
from bastion.adapters.store.transaction import SqlTransaction, found
from bastion.adapters.store.writer import Writer
from bastion.core.apitoken import ApiToken
from bastion.core.audit import Event, EventFilter
from bastion.core.errors import NotFound, Refused, Unavailable
from bastion.core.grant import Grant, Request, Review
from bastion.core.identity import Identity, IdentityId
from bastion.core.session import Session
from bastion.core.target import printable
from bastion.ports import ChatLink, Holder, IssuedCertificate, KeptLogin, KeptNotice, Proof, Transaction


class SqlStore:
    """The durable truth in an SQL database; see `bastion.adapters.store.open_store`.

    Reads see what is durable, and neither wait for the writer nor see what a block has not finished.
    """

    def __init__(self, *, engine: Engine) -> None:
        self._engine = engine
        self._writer = Writer(engine=engine)
        self._closed = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self._writer.block() as block:
            yield SqlTransaction(block=block, dialect=self._engine.dialect)

    async def identity(self, identity_id: IdentityId) -> Identity:
        return read_identity(await self._one(queries.identity(identity_id), "identity", str(identity_id)))

    async def ended_at(self, identity_id: IdentityId) -> datetime | None:
        rows = await self._all(queries.ended_at(identity_id))
        return rows[0].ended_at if rows else None

    async def confirmed_at(self, identity_id: IdentityId) -> datetime | None:
        rows = await self._all(queries.confirmed_at(identity_id))
        if not rows:
            return None
        newest: datetime = max(rows[0].seen_at, rows[0].asked_at or rows[0].seen_at)
        return newest if rows[0].ended_at is None or rows[0].ended_at < newest else None

    async def logins_to_ask(self, issuer: str, asked_before: datetime, limit: int = 100) -> Sequence[KeptLogin]:
        return [read_login(row) for row in await self._all(queries.logins_to_ask(issuer, asked_before, limit))]

    async def login_of(self, identity: IdentityId) -> KeptLogin | None:
        rows = await self._all(queries.login_of(identity))
        return read_login(rows[0]) if rows else None

    async def whose_login(self, issuer: str, sid: str) -> IdentityId | None:
        # Two people with one sid would mean that the issuer's word is not one: then it names nobody.
        rows = await self._all(queries.whose_login(issuer, sid)) if sid else []
        return read_login(rows[0]).identity if len(rows) == 1 else None

    async def api_token(self, token_id: str) -> ApiToken:
        return read_token(await self._one(queries.api_token(token_id), "token", token_id))

    async def api_tokens_of(self, owner: IdentityId) -> Sequence[ApiToken]:
        return [read_token(row) for row in await self._all(queries.api_tokens_of(owner))]

    async def find_identity(self, text: str) -> Identity:
        identities = [read_identity(row) for row in await self._all(queries.identities_named(text))]
        if not identities:
            raise NotFound(f"Nobody known here is {printable(text)!r}: they must log in once before.")
        if len(identities) > 1 and str(identities[0].id) != text:
            names = " or ".join(str(identity.id) for identity in identities[:5])
            raise Refused(f"{printable(text)!r} is the e-mail address of several identities: say {names}.")
        return identities[0]

    async def grants_of(self, identity: IdentityId, ended_after: datetime) -> Sequence[Grant]:
        return [read_grant(row) for row in await self._all(queries.grants_of(identity, ended_after))]

    async def holder(self, identity: IdentityId, ended_after: datetime) -> Holder:
        who, ended, grants = await self._together(
            queries.identity(identity), queries.ended_at(identity), queries.grants_of(identity, ended_after)
        )
        known = read_identity(found(who.first, "identity", str(identity)))
        return Holder(known, ended.rows[0].ended_at, [read_grant(row) for row in grants.rows])

    async def grants(self, live_at: datetime | None = None, limit: int = 200) -> Sequence[Grant]:
        return [read_grant(row) for row in await self._all(queries.latest_grants(live_at, limit))]

    async def grant(self, grant_id: str) -> Grant:
        return read_grant(await self._one(queries.grant(grant_id), "grant", grant_id))

    async def request(self, request_id: str) -> Request:
        return read_request(await self._one(queries.request(request_id), "request", request_id))

    async def waiting_requests(self, asked_after: datetime) -> Sequence[Request]:
        return [read_request(row) for row in await self._all(queries.waiting_requests(asked_after))]

    async def reviews(self, request_id: str) -> Sequence[Review]:
        return [read_review(row) for row in await self._all(queries.reviews_of(request_id))]

    async def grants_between(self, ended_after: datetime, ended_before: datetime) -> Sequence[Grant]:
        return [read_grant(row) for row in await self._all(queries.grants_between(ended_after, ended_before))]

    async def unheard(self, notice_ids: Sequence[str]) -> frozenset[str]:
        kept = await self._all(queries.kept_notices(notice_ids)) if notice_ids else []
        return frozenset(notice_ids) - {row.id for row in kept}

    async def broken_glass(self) -> Sequence[Request]:
        return [read_request(row) for row in await self._all(queries.broken_glass())]

    async def last_used(self, grant_ids: Sequence[str]) -> Mapping[str, datetime]:
        rows = await self._all(queries.last_used(grant_ids)) if grant_ids else []
        return {row.grant_id: row.at for row in rows}

    async def due_notices(self, now: datetime, limit: int = 50) -> Sequence[KeptNotice]:
        return [read_notice(row) for row in await self._all(queries.due_notices(now, limit))]

    async def certificate(self, serial: int) -> IssuedCertificate:
        return read_certificate(await self._one(queries.certificate(serial), "certificate", str(serial)))

    async def proof(self, serial: int) -> Proof:
        issued, grant, ended = await self._together(
            queries.certificate(serial), queries.grant_of_certificate(serial), queries.end_of_certificate(serial)
        )
        certificate = read_certificate(found(issued.first, "certificate", str(serial)))
        return Proof(certificate, read_grant(grant.rows[0]), ended.rows[0].ended_at)

    async def session(self, session_id: str) -> Session:
        if rows := await self._all(queries.session(session_id)):
            return read_session(rows[0])
        # No text is the beginning of every session, and so of none that was meant.
        rows = await self._all(queries.sessions_beginning(session_id)) if session_id else []
        if len(rows) > 1:
            raise Refused(f"Several sessions begin with {printable(session_id)!r}: give more of it.")
        return read_session(found(rows[0] if rows else None, "session", session_id))

    async def sessions(
        self, *, live: bool | None = None, identity: str | None = None, target: str | None = None, limit: int = 200
    ) -> Sequence[Session]:
        query = queries.latest_sessions(live=live, identity=identity, target=target, limit=limit)
        return [read_session(row) for row in await self._all(query)]

    async def sessions_of_node(self, node: str) -> Sequence[Session]:
        return [read_session(row) for row in await self._all(queries.open_sessions_of(node))]

    async def chat_link(self, platform: str, workspace: str, user: str) -> ChatLink:
        return read_link(
            await self._one(queries.chat_link(platform, workspace, user), "link of the chat account", user)
        )

    async def chat_links_of(self, identity: IdentityId) -> Sequence[ChatLink]:
        return [read_link(row) for row in await self._all(queries.chat_links_of(identity))]

    async def chat_posts(self, platform: str, request_id: str) -> Mapping[str, str]:
        return {row.part: row.message for row in await self._all(queries.chat_posts_of(platform, request_id))}

    async def events(self, wanted: EventFilter) -> Sequence[Event]:
        return [read_event(row) for row in await self._all(queries.matching_events(wanted))]

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await self._writer.close()
            await self._engine.close()

    async def _one(self, query: queries.Query, what: str, name: str) -> Any:
        rows = await self._all(query)
        return found(rows[0] if rows else None, what, name)

    async def _all(self, query: queries.Query) -> Sequence[Any]:
        return (await self._together(query))[0].rows

    async def _together(self, *asked: queries.Query) -> Sequence[Answer]:
        """The answers to several questions, of one moment."""
        if self._closed:
            raise Unavailable("The store is closed: this bastion is stopping.")
        with translated():
            return await self._engine.read(asked)
