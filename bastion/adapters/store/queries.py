"""What is asked of the tables, as statements; who runs them, and on which connection, is decided elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Executable, and_, bindparam, exists, func, literal, or_, select

from bastion.adapters.store.columns import Instant, PlainText
from bastion.adapters.store.rows import Values, folded, key
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
from bastion.core.audit import EventFilter, Kind
from bastion.core.grant import Verdict
from bastion.core.identity import IdentityId, fold_email


class Query(NamedTuple):
    """A statement, and the values it is asked with. What is asked all the time is one statement, made once."""

    statement: Executable
    values: Values | None = None


def _whose(table: Any) -> Any:
    """Rows of the identity that `_who` gives."""
    return and_(table.c.issuer == bindparam("issuer"), table.c.subject == bindparam("subject"))


def _who(identity_id: IdentityId) -> Values:
    return {"issuer": identity_id.issuer, "subject": identity_id.subject}


_IDENTITY = select(identities).where(_whose(identities))
_ENDED_AT = select(identities.c.ended_at).where(_whose(identities))
_GRANT = select(grants).where(grants.c.id == bindparam("grant"))
_GRANTS_OF = (
    select(grants)
    .where(_whose(grants), grants.c.ends_at > bindparam("ended_after"))
    .order_by(grants.c.ends_at.desc(), grants.c.id)
)
_API_TOKEN = select(api_tokens).where(api_tokens.c.id == bindparam("token"))
_CERTIFICATE = select(certificates).where(certificates.c.serial == bindparam("certificate"))
_GRANT_OF_CERTIFICATE = (
    select(grants)
    .join(certificates, certificates.c.grant_id == grants.c.id)
    .where(certificates.c.serial == bindparam("certificate"))
)
_END_OF_CERTIFICATE = (
    select(identities.c.ended_at)
    .join(
        certificates,
        and_(certificates.c.issuer == identities.c.issuer, certificates.c.subject == identities.c.subject),
    )
    .where(certificates.c.serial == bindparam("certificate"))
)
_SESSION = select(sessions).where(sessions.c.id == bindparam("session"))
_DUE_NOTICES = (
    select(notices)
    .where(notices.c.due <= bindparam("now"))
    .order_by(notices.c.due, notices.c.id)
    .limit(bindparam("most"))
)
_GRANTS_BETWEEN = (
    select(grants)
    .where(
        grants.c.revoked_at.is_(None),
        grants.c.ends_at > bindparam("ended_after"),
        grants.c.ends_at <= bindparam("ended_before"),
    )
    .order_by(grants.c.ends_at, grants.c.id)
    .limit(bindparam("most"))
)
_GRANTS = select(grants).order_by(grants.c.starts_at.desc(), grants.c.id).limit(bindparam("most"))
_LIVE_GRANTS = _GRANTS.where(
    grants.c.revoked_at.is_(None), grants.c.starts_at <= bindparam("live_at"), grants.c.ends_at > bindparam("live_at")
)
_IS_OPEN = and_(
    requests.c.withdrawn_at.is_(None),
    requests.c.closed_at.is_(None),
    ~exists().where(grants.c.request_id == requests.c.id),
    ~exists().where(reviews.c.request_id == requests.c.id, reviews.c.verdict == Verdict.REFUSE.value),
)
_WAITING_REQUESTS = (
    select(requests)
    .where(requests.c.asked_at > bindparam("asked_after"), _IS_OPEN)
    .order_by(requests.c.asked_at, requests.c.id)
)
_BROKEN_GLASS = (
    select(requests)
    .where(requests.c.break_glass.is_(True), requests.c.closed_at.is_(None))
    .order_by(requests.c.asked_at, requests.c.id)
    .limit(bindparam("most"))
)
_NEWEST_EVENTS = select(events.c.seq, events.c.line).order_by(events.c.seq.desc()).limit(bindparam("most")).subquery()
_LAST_EVENTS = select(_NEWEST_EVENTS).order_by(_NEWEST_EVENTS.c.seq)


def identity(identity_id: IdentityId) -> Query:
    return Query(_IDENTITY, _who(identity_id))


def ended_at(identity_id: IdentityId) -> Query:
    return Query(_ENDED_AT, _who(identity_id))


def confirmed_at(identity_id: IdentityId) -> Query:
    asked = select(func.max(kept_logins.c.confirmed_at)).where(
        _is(kept_logins, identity_id), kept_logins.c.sealed.is_not(None)
    )
    row = select(identities.c.seen_at, identities.c.ended_at, asked.scalar_subquery().label("asked_at"))
    return Query(row.where(_is(identities, identity_id)))


def logins_to_ask(issuer: str, asked_before: datetime, limit: int) -> Query:
    due = and_(kept_logins.c.issuer == issuer, kept_logins.c.asked_at < asked_before, kept_logins.c.sealed.is_not(None))
    return Query(select(kept_logins).where(due).order_by(kept_logins.c.asked_at, kept_logins.c.subject).limit(limit))


def login_of(identity_id: IdentityId) -> Query:
    kept = select(kept_logins).where(_is(kept_logins, identity_id), kept_logins.c.sealed.is_not(None))
    return Query(kept.order_by(kept_logins.c.at.desc()).limit(1))


def whose_login(issuer: str, sid: str) -> Query:
    return Query(select(kept_logins).where(kept_logins.c.issuer == issuer, kept_logins.c.sid == sid))


def api_token(token_id: str) -> Query:
    return Query(_API_TOKEN, {"token": token_id})


def api_tokens_of(owner: IdentityId) -> Query:
    return Query(
        select(api_tokens).where(_is(api_tokens, owner)).order_by(api_tokens.c.made_at.desc(), api_tokens.c.id)
    )


def identities_named(text: str) -> Query:
    """Those whose id or folded e-mail ``text`` is; an id first."""
    by_email = identities.c.email_folded == fold_email(text)
    try:
        by_id = _is(identities, IdentityId.parse(text))
    except ValueError:
        return Query(select(identities).where(by_email).order_by(identities.c.issuer, identities.c.subject))
    return Query(select(identities).where(or_(by_id, by_email)).order_by(by_id.desc(), identities.c.issuer))


def request(request_id: str) -> Query:
    return Query(select(requests).where(requests.c.id == request_id))


def waiting_requests(asked_after: datetime) -> Query:
    return Query(_WAITING_REQUESTS, {"asked_after": asked_after})


def broken_glass(limit: int = 100) -> Query:
    return Query(_BROKEN_GLASS, {"most": limit})


def reviews_of(request_id: str) -> Query:
    return Query(select(reviews).where(reviews.c.request_id == request_id).order_by(reviews.c.at, reviews.c.issuer))


def grant(grant_id: str) -> Query:
    return Query(_GRANT, {"grant": grant_id})


def grants_of(identity_id: IdentityId, ended_after: datetime) -> Query:
    return Query(_GRANTS_OF, _who(identity_id) | {"ended_after": ended_after})


def latest_grants(live_at: datetime | None, limit: int) -> Query:
    if live_at is None:
        return Query(_GRANTS, {"most": max(0, limit)})
    return Query(_LIVE_GRANTS, {"live_at": live_at, "most": max(0, limit)})


def grants_between(ended_after: datetime, ended_before: datetime, limit: int = 500) -> Query:
    return Query(_GRANTS_BETWEEN, {"ended_after": ended_after, "ended_before": ended_before, "most": limit})


def last_used(grant_ids: Sequence[str]) -> Query:
    """The latest of all starts and ends; a session that has no end yet counts from its start."""
    at = func.max(func.coalesce(sessions.c.ended_at, sessions.c.started_at), type_=Instant())
    found = select(sessions.c.grant_id, at.label("at")).where(sessions.c.grant_id.in_(_texts(grant_ids)))
    return Query(found.group_by(sessions.c.grant_id))


def kept_notices(notice_ids: Sequence[str]) -> Query:
    return Query(select(notices.c.id).where(notices.c.id.in_(_texts(notice_ids))))


def due_notices(now: datetime, limit: int) -> Query:
    return Query(_DUE_NOTICES, {"now": now, "most": limit})


def certificate(serial: int) -> Query:
    return Query(_CERTIFICATE, {"certificate": serial})


def grant_of_certificate(serial: int) -> Query:
    return Query(_GRANT_OF_CERTIFICATE, {"certificate": serial})


def end_of_certificate(serial: int) -> Query:
    return Query(_END_OF_CERTIFICATE, {"certificate": serial})


def session(session_id: str) -> Query:
    return Query(_SESSION, {"session": session_id})


def sessions_beginning(text: str) -> Query:
    """Two at most, which is enough to know that ``text`` is ambiguous.

    Compared by `substr`: a LIKE regards case on one dialect and not on the other.
    """
    beginning = func.substr(sessions.c.id, 1, len(text), type_=PlainText())
    return Query(select(sessions).where(beginning == text).order_by(sessions.c.id).limit(2))


def latest_sessions(*, live: bool | None, identity: str | None, target: str | None, limit: int) -> Query:
    found = select(sessions)
    if live is not None:
        found = found.where(sessions.c.ended_at.is_(None) if live else sessions.c.ended_at.is_not(None))
    if identity is not None:
        found = found.where(sessions.c.who.contains(folded(identity), autoescape=True))
    if target is not None:
        found = found.where(sessions.c.target.contains(target.lower(), autoescape=True))
    return Query(found.order_by(sessions.c.started_at.desc(), sessions.c.id).limit(max(0, limit)))


def open_sessions_of(node: str) -> Query:
    found = select(sessions).where(sessions.c.node == node, sessions.c.ended_at.is_(None))
    return Query(found.order_by(sessions.c.started_at, sessions.c.id))


def chat_link(platform: str, workspace: str, user: str) -> Query:
    account = (chat_links.c.platform == platform, chat_links.c.workspace == workspace, chat_links.c.account == user)
    return Query(select(chat_links).where(*account))


def chat_links_of(identity: IdentityId) -> Query:
    owner = (chat_links.c.issuer == identity.issuer, chat_links.c.subject == identity.subject)
    return Query(select(chat_links).where(*owner).order_by(chat_links.c.linked_at, chat_links.c.account))


def chat_posts_of(platform: str, request_id: str) -> Query:
    return Query(select(chat_posts).where(chat_posts.c.platform == platform, chat_posts.c.request_id == request_id))


def matching_events(wanted: EventFilter) -> Query:
    """In order of ``seq``: the first after ``after_seq``, or with 0 the last."""
    if wanted == EventFilter(limit=wanted.limit):
        return Query(_LAST_EVENTS, {"most": max(0, wanted.limit)})
    found = select(events.c.seq, events.c.line)
    if wanted.kind is not None:
        found = found.where(events.c.kind.in_(_texts(_kinds(wanted.kind))))
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
        return Query(found.where(events.c.seq > wanted.after_seq).order_by(events.c.seq).limit(max(0, wanted.limit)))
    last = found.order_by(events.c.seq.desc()).limit(max(0, wanted.limit)).subquery()
    return Query(select(last).order_by(last.c.seq))


def _kinds(pattern: str) -> list[str]:
    """The kinds that ``pattern`` means. They are a closed set, so no pattern reaches the database."""
    if pattern.endswith(":*"):
        return [kind.value for kind in Kind if kind.value.startswith(pattern[:-1])]
    return [kind.value for kind in Kind if kind.value == pattern]


def _is(table: Any, identity_id: IdentityId) -> Any:
    return and_(table.c.issuer == identity_id.issuer, table.c.subject == identity_id.subject)


def _texts(values: Sequence[str]) -> list[Any]:
    """For IN: each a value of its own, so that the statement is complete before it is run."""
    return [literal(value, PlainText()) for value in values]
