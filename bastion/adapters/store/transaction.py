"""What is written: the store's `bastion.ports.Transaction`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Executable,
    Table,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from bastion.adapters.store import queries
from bastion.adapters.store.columns import Instant
from bastion.adapters.store.rows import (
    Values,
    certificate_values,
    event_values,
    grant_values,
    identity_values,
    link_values,
    login_values,
    notice_values,
    read_grant,
    read_request,
    read_review,
    read_session,
    read_token,
    request_values,
    review_values,
    searchable_email,
    session_values,
    token_values,
)
from bastion.adapters.store.tables import (
    api_tokens,
    certificates,
    chat_links,
    chat_posts,
    events,
    grants,
    identities,
    kept_logins,
    notices,
    requests,
    reviews,
    sessions,
)
from bastion.adapters.store.writer import Block
from bastion.core.apitoken import ApiToken
from bastion.core.audit import Event
from bastion.core.errors import Conflict, NotFound
from bastion.core.grant import Grant, Request, Review
from bastion.core.identity import Identity, IdentityId
from bastion.core.notice import Notice
from bastion.core.session import End, Session
from bastion.core.target import printable
from bastion.ports import ChatLink, ChatPost, IssuedCertificate, KeptLogin

_NEXT = select(func.coalesce(func.max(events.c.seq), 0) + 1).scalar_subquery()
_APPEND = insert(events).values(seq=_NEXT).returning(events.c.seq)
"""Made once: it is by far the most frequent statement, and making it costs more than running it."""

_END_SESSION = (
    update(sessions)
    .where(sessions.c.id == bindparam("session"), sessions.c.ended_at.is_(None))
    .values(ended_at=bindparam("at"), ending=bindparam("end"), exit_status=bindparam("status"))
    .returning(sessions)
)


class SqlTransaction:
    """One block's writes. Writers are one at a time, so what it read is still so when it writes."""

    def __init__(self, *, block: Block, dialect: str) -> None:
        self._block = block
        self._dialect = dialect

    async def append(self, event: Event) -> Event:
        return replace(event, seq=(await self._block.run(_APPEND, event_values(event))).rows[0].seq)

    async def save_identity(self, identity: Identity, seen_at: datetime) -> None:
        values = identity_values(identity) | {"email_folded": searchable_email(identity), "seen_at": seen_at}
        await self._replace(identities, values)

    async def add_request(self, request: Request) -> None:
        await self._add(requests, request_values(request), f"There is a request {request.id} already.")

    async def request(self, request_id: str) -> Request:
        return read_request(found(await self._first(queries.request(request_id)), "request", request_id))

    async def withdraw_request(self, request_id: str, at: datetime) -> Request:
        return await self._mark_request(request_id, requests.c.withdrawn_at, at)

    async def close_request(self, request_id: str, at: datetime) -> Request:
        return await self._mark_request(request_id, requests.c.closed_at, at)

    async def add_review(self, review: Review) -> None:
        await self._add(reviews, review_values(review), "You have answered this request already.")

    async def reviews(self, request_id: str) -> Sequence[Review]:
        rows = (await self._block.run(*queries.reviews_of(request_id))).rows
        return [read_review(row) for row in rows]

    async def add_grant(self, grant: Grant) -> None:
        await self._add(grants, grant_values(grant), "Somebody else has granted this request in the meantime.")

    async def grant(self, grant_id: str) -> Grant:
        return read_grant(found(await self._first(queries.grant(grant_id)), "grant", grant_id))

    async def revoke_grant(self, grant_id: str, at: datetime) -> Grant:
        first_time = func.coalesce(grants.c.revoked_at, literal(at, Instant()))
        statement = update(grants).where(grants.c.id == grant_id).values(revoked_at=first_time).returning(grants)
        return read_grant(found((await self._block.run(statement)).first, "grant", grant_id))

    async def extend_grant(self, grant_id: str, ends_at: datetime) -> Grant:
        if (grant := await self.grant(grant_id)).revoked_at is not None:
            raise Conflict(f"{grant_id} was revoked and cannot be extended.")
        if ends_at <= grant.ends_at:
            return grant
        await self._block.run(update(grants).where(grants.c.id == grant_id).values(ends_at=ends_at))
        open_sessions = update(sessions).where(sessions.c.grant_id == grant_id, sessions.c.ended_at.is_(None))
        await self._block.run(open_sessions.values(until=ends_at))
        return replace(grant, ends_at=ends_at)

    async def add_notice(self, notice: Notice, due: datetime) -> bool:
        return (await self._block.run(_new_row(self._dialect, notices), notice_values(notice, due))).changed == 1

    async def put_off_notice(self, notice_id: str, *, told: frozenset[str], due: datetime | None) -> None:
        values = {"told": told, "due": due, "tries": notices.c.tries + 1}
        await self._block.run(update(notices).where(notices.c.id == notice_id).values(values))

    async def add_certificate(self, certificate: IssuedCertificate) -> None:
        taken = f"There is a certificate with the serial {certificate.serial} already."
        await self._add(certificates, certificate_values(certificate), taken)

    async def add_session(self, session: Session) -> None:
        await self._add(sessions, session_values(session), f"There is a session {session.id} already.")

    async def end_session(self, session_id: str, end: End, at: datetime, exit_status: int | None = None) -> Session:
        ended = {"session": session_id, "at": at, "end": end.value, "status": exit_status}
        row = (await self._block.run(_END_SESSION, ended)).first or await self._first(queries.session(session_id))
        return read_session(found(row, "session", session_id))

    async def link_chat(self, link: ChatLink) -> None:
        await self._replace(chat_links, link_values(link))

    async def keep_post(self, post: ChatPost) -> None:
        values = {"request_id": post.request_id, "platform": post.platform, "part": post.part, "message": post.message}
        await self._replace(chat_posts, values)

    async def forget_post(self, platform: str, request_id: str, part: str) -> None:
        kept = chat_posts.c
        where = (kept.platform == platform, kept.request_id == request_id, kept.part == part)
        await self._block.run(delete(chat_posts).where(*where))

    async def end_identity(self, identity: IdentityId, at: datetime) -> bool:
        who = _is(identities, identity)
        latest = or_(identities.c.ended_at.is_(None), identities.c.ended_at < at)
        await self._block.run(update(identities).where(who, latest).values(ended_at=at))
        await self._block.run(delete(kept_logins).where(_is(kept_logins, identity)))
        return (await self._first(queries.identity(identity))) is not None

    async def add_api_token(self, token: ApiToken) -> None:
        await self._add(api_tokens, token_values(token), f"There is a token {token.id} already.")

    async def revoke_api_token(self, token_id: str, at: datetime) -> ApiToken:
        first_time = func.coalesce(api_tokens.c.revoked_at, literal(at, Instant()))
        statement = update(api_tokens).where(api_tokens.c.id == token_id).values(revoked_at=first_time)
        return read_token(found((await self._block.run(statement.returning(api_tokens))).first, "token", token_id))

    async def forget_api_tokens(self, older_than: datetime) -> None:
        await self._block.run(delete(api_tokens).where(api_tokens.c.ends_at < older_than))

    async def keep_login(self, login: KeptLogin) -> None:
        await self._block.run(
            update(kept_logins).where(_is(kept_logins, login.identity)).values(sealed=None, asked_at=None)
        )
        await self._replace(kept_logins, login_values(login))

    async def ask_again(
        self, login: KeptLogin, *, asked_at: datetime, confirmed_at: datetime, sealed: bytes | None
    ) -> bool:
        kept = kept_logins.c
        same = (
            _is(kept_logins, login.identity),
            kept.sid == login.sid,
            kept.sealed == login.sealed,
            kept.asked_at == login.asked_at,
        )
        values = {"asked_at": asked_at, "confirmed_at": confirmed_at, "sealed": sealed}
        return (await self._block.run(update(kept_logins).where(*same).values(values))).changed == 1

    async def forget_logins(self, older_than: datetime) -> None:
        await self._block.run(delete(kept_logins).where(kept_logins.c.at < older_than))

    async def _mark_request(self, request_id: str, column: Column[Any], at: datetime) -> Request:
        first_time = func.coalesce(column, literal(at, Instant()))
        statement = update(requests).where(requests.c.id == request_id).values({column: first_time})
        return read_request(found((await self._block.run(statement.returning(requests))).first, "request", request_id))

    async def _first(self, query: queries.Query) -> Any | None:
        return (await self._block.run(*query)).first

    async def _add(self, table: Table, values: Values, taken: str) -> None:
        """Add a row unless its like is there. Not found out by an error, which would end PostgreSQL's transaction."""
        if (await self._block.run(_new_row(self._dialect, table), values)).changed != 1:
            raise Conflict(taken)

    async def _replace(self, table: Table, values: Values) -> None:
        keys = [column.name for column in table.primary_key]
        rest = {name: value for name, value in values.items() if name not in keys}
        statement = _insert(self._dialect, table).values(values).on_conflict_do_update(index_elements=keys, set_=rest)
        await self._block.run(statement)


def _insert(dialect: str, table: Table) -> Any:
    """The two have the same words for what to do with a row that exists, and nothing in common for a type."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


@cache
def _new_row(dialect: str, table: Table) -> Executable:
    """Insert a row unless its like is there."""
    statement: Executable = _insert(dialect, table).on_conflict_do_nothing()
    return statement


def _is(table: Table, identity: IdentityId) -> ColumnElement[bool]:
    return and_(table.c.issuer == identity.issuer, table.c.subject == identity.subject)


def found(row: Any | None, what: str, name: str) -> Any:
    """``row`` itself.

    Raises:
        NotFound: there is none.
    """
    if row is None:
        raise NotFound(f"There is no {what} {printable(name)!r}.")
    return row
