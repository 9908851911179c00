"""What is asked of the tables, as statements; who runs them, and on which connection, is decided elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, exists, func, or_, select

from bastion.adapters.store.columns import Instant, PlainText
from bastion.adapters.store.rows import folded, key
from bastion.adapters.store.tables import (
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
from bastion.core.audit import EventFilter, Kind
from bastion.core.grant import Verdict
from bastion.core.identity import IdentityId, fold_email

Query = Select[Any]


def identity(identity_id: IdentityId) -> Query:
    return select(identities).where(_is(identities, identity_id))


def ended_at(identity_id: IdentityId) -> Query:
    return select(identities.c.ended_at).where(_is(identities, identity_id))


def confirmed_at(identity_id: IdentityId) -> Query:
    asked = select(func.max(kept_logins.c.confirmed_at)).where(
        _is(kept_logins, identity_id), kept_logins.c.sealed.is_not(None)
    )
    row = select(identities.c.seen_at, identities.c.ended_at, asked.scalar_subquery().label("asked_at"))
    return row.where(_is(identities, identity_id))


def logins_to_ask(issuer: str, asked_before: datetime, limit: int) -> Query:
    due = and_(kept_logins.c.issuer == issuer, kept_logins.c.asked_at < asked_before, kept_logins.c.sealed.is_not(None))
    return select(kept_logins).where(due).order_by(kept_logins.c.asked_at, kept_logins.c.subject).limit(limit)


def login_of(identity_id: IdentityId) -> Query:
    kept = select(kept_logins).where(_is(kept_logins, identity_id), kept_logins.c.sealed.is_not(None))
    return kept.order_by(kept_logins.c.at.desc()).limit(1)


def whose_login(issuer: str, sid: str) -> Query:
    return select(kept_logins).where(kept_logins.c.issuer == issuer, kept_logins.c.sid == sid)


def identities_named(text: str) -> Query:
    """Those whose id or folded e-mail ``text`` is; an id first."""
    by_email = identities.c.email_folded == fold_email(text)
    try:
        by_id = _is(identities, IdentityId.parse(text))
    except ValueError:
        return select(identities).where(by_email).order_by(identities.c.issuer, identities.c.subject)
    return select(identities).where(or_(by_id, by_email)).order_by(by_id.desc(), identities.c.issuer)


def request(request_id: str) -> Query:
    return select(requests).where(requests.c.id == request_id)


def waiting_requests(asked_after: datetime) -> Query:
    granted = exists().where(grants.c.request_id == requests.c.id)
    refused = exists().where(reviews.c.request_id == requests.c.id, reviews.c.verdict == Verdict.REFUSE.value)
    unended = and_(requests.c.withdrawn_at.is_(None), requests.c.closed_at.is_(None))
    waiting = and_(requests.c.asked_at > asked_after, unended, ~granted, ~refused)
    return select(requests).where(waiting).order_by(requests.c.asked_at, requests.c.id)


def broken_glass(limit: int = 100) -> Query:
    owed = and_(requests.c.break_glass.is_(True), requests.c.closed_at.is_(None))
    return select(requests).where(owed).order_by(requests.c.asked_at, requests.c.id).limit(limit)


def reviews_of(request_id: str) -> Query:
    return select(reviews).where(reviews.c.request_id == request_id).order_by(reviews.c.at, reviews.c.issuer)


def grant(grant_id: str) -> Query:
    return select(grants).where(grants.c.id == grant_id)


def grants_of(identity_id: IdentityId, ended_after: datetime) -> Query:
    found = select(grants).where(_is(grants, identity_id), grants.c.ends_at > ended_after)
    return found.order_by(grants.c.ends_at.desc(), grants.c.id)


def latest_grants(live_at: datetime | None, limit: int) -> Query:
    found = select(grants)
    if live_at is not None:
        found = found.where(grants.c.revoked_at.is_(None), grants.c.starts_at <= live_at, grants.c.ends_at > live_at)
    return found.order_by(grants.c.starts_at.desc(), grants.c.id).limit(max(0, limit))


def grants_between(ended_after: datetime, ended_before: datetime, limit: int = 500) -> Query:
    ended = and_(grants.c.revoked_at.is_(None), grants.c.ends_at > ended_after, grants.c.ends_at <= ended_before)
    return select(grants).where(ended).order_by(grants.c.ends_at, grants.c.id).limit(limit)


def last_used(grant_ids: Sequence[str]) -> Query:
    """The latest of all starts and ends; a session that has no end yet counts from its start."""
    at = func.max(func.coalesce(sessions.c.ended_at, sessions.c.started_at), type_=Instant())
    found = select(sessions.c.grant_id, at.label("at")).where(sessions.c.grant_id.in_(grant_ids))
    return found.group_by(sessions.c.grant_id)


def kept_notices(notice_ids: Sequence[str]) -> Query:
    return select(notices.c.id).where(notices.c.id.in_(notice_ids))


def due_notices(now: datetime, limit: int) -> Query:
    return select(notices).where(notices.c.due <= now).order_by(notices.c.due, notices.c.id).limit(limit)


def certificate(serial: int) -> Query:
    return select(certificates).where(certificates.c.serial == serial)


def session(session_id: str) -> Query:
    return select(sessions).where(sessions.c.id == session_id)


def sessions_beginning(text: str) -> Query:
    """Two at most, which is enough to know that ``text`` is ambiguous.

    Compared by `substr`: a LIKE regards case on one dialect and not on the other.
    """
    beginning = func.substr(sessions.c.id, 1, len(text), type_=PlainText())
    return select(sessions).where(beginning == text).order_by(sessions.c.id).limit(2)


def latest_sessions(*, live: bool | None, identity: str | None, target: str | None, limit: int) -> Query:
    found = select(sessions)
    if live is not None:
        found = found.where(sessions.c.ended_at.is_(None) if live else sessions.c.ended_at.is_not(None))
    if identity is not None:
        found = found.where(sessions.c.who.contains(folded(identity), autoescape=True))
    if target is not None:
        found = found.where(sessions.c.target.contains(target.lower(), autoescape=True))
    return found.order_by(sessions.c.started_at.desc(), sessions.c.id).limit(max(0, limit))


def open_sessions_of(node: str) -> Query:
    found = select(sessions).where(sessions.c.node == node, sessions.c.ended_at.is_(None))
    return found.order_by(sessions.c.started_at, sessions.c.id)


def chat_link(platform: str, workspace: str, user: str) -> Query:
    account = (chat_links.c.platform == platform, chat_links.c.workspace == workspace, chat_links.c.account == user)
    return select(chat_links).where(*account)


def chat_links_of(identity: IdentityId) -> Query:
    owner = (chat_links.c.issuer == identity.issuer, chat_links.c.subject == identity.subject)
    return select(chat_links).where(*owner).order_by(chat_links.c.linked_at, chat_links.c.account)


def chat_posts_of(platform: str, request_id: str) -> Query:
    return select(chat_posts).where(chat_posts.c.platform == platform, chat_posts.c.request_id == request_id)


def matching_events(wanted: EventFilter) -> Query:
    """In order of ``seq``: the first after ``after_seq``, or with 0 the last."""
    found = select(events.c.seq, events.c.line)
    if wanted.kind is not None:
        found = found.where(events.c.kind.in_(_kinds(wanted.kind)))
    if wanted.identity is not None:
        found = found.where(events.c.who.contains(folded(wanted.identity), autoescape=True))
    if wanted.scope is not None:
        found = found.where(events.c.scope == str(wanted.scope))
    if wanted.since is not None:
        found = found.where(events.c.at >= wanted.since)
    for column, value in (
        (events.c.target, wanted.target),
        (events.c.session_id, wanted.session_id),
        (events.c.grant_id, wanted.grant_id),
    ):
        if value is not None:
            found = found.where(column == key(value))
    if wanted.after_seq:
        return found.where(events.c.seq > wanted.after_seq).order_by(events.c.seq).limit(max(0, wanted.limit))
    last = found.order_by(events.c.seq.desc()).limit(max(0, wanted.limit)).subquery()
    return select(last).order_by(last.c.seq)


def _kinds(pattern: str) -> list[str]:
    """The kinds that ``pattern`` means. They are a closed set, so no pattern reaches the database."""
    if pattern.endswith(":*"):
        return [kind.value for kind in Kind if kind.value.startswith(pattern[:-1])]
    return [kind.value for kind in Kind if kind.value == pattern]


def _is(table: Any, identity_id: IdentityId) -> Any:
    return and_(table.c.issuer == identity_id.issuer, table.c.subject == identity_id.subject)
