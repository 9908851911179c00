"""The tables as the code sees them now. How a database got there is in `migrations`; a test holds the two together."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
)

from bastion.adapters.store.columns import Identities, Instant, Names, PlainText, Span, Unsigned64

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _text(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, PlainText, nullable=nullable)


def _instant(name: str, *, nullable: bool = False) -> Column[object]:
    return Column(name, Instant, nullable=nullable)


def _strength() -> list[Column[object]]:
    """How and when somebody authenticated."""
    return [
        Column("authenticated_at", Instant, nullable=False),
        Column("amr", Names, nullable=False),
        Column("acr", PlainText),
    ]


def _identity() -> list[Column[object]]:
    """A whole identity: as of a login, or as it was when it reviewed."""
    return [
        Column("issuer", PlainText, nullable=False),
        Column("subject", PlainText, nullable=False),
        Column("email", PlainText),
        Column("name", PlainText),
        Column("groups", Names, nullable=False),
        Column("kind", PlainText, nullable=False),
        *_strength(),
    ]


def _permission() -> list[Column[object]]:
    """What is asked for and what is given, which are the same columns."""
    return [
        Column("environment", PlainText, nullable=False),
        Column("region", PlainText, nullable=False),
        Column("targets", Names, nullable=False),
        Column("logins", Names, nullable=False),
        Column("actions", Names, nullable=False),
        Column("paths", Names, nullable=False),
        Column("reason", PlainText, nullable=False),
        Column("crossing", Boolean, nullable=False),
    ]


events = Table(
    "events",
    metadata,
    # INTEGER makes it SQLite's rowid, which costs no second index.
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    _text("line"),
    _text("kind"),
    _instant("at"),
    _text("who"),
    _text("scope", nullable=True),
    _text("target", nullable=True),
    _text("session_id", nullable=True),
    _text("grant_id", nullable=True),
    Index(None, "kind"),
    Index(None, "at"),
    Index(None, "target"),
    Index(None, "session_id"),
    Index(None, "grant_id"),
)

identities = Table(
    "identities",
    metadata,
    *_identity(),
    _text("email_folded", nullable=True),
    _instant("seen_at"),
    _instant("ended_at", nullable=True),
    PrimaryKeyConstraint("issuer", "subject"),
    Index(None, "email_folded"),
)

requests = Table(
    "requests",
    metadata,
    Column("id", PlainText, primary_key=True),
    _text("asker_issuer"),
    _text("asker_subject"),
    _text("beneficiary_issuer"),
    _text("beneficiary_subject"),
    *_permission(),
    Column("duration", Span, nullable=False),
    _instant("asked_at"),
    Column("demands_approvals", Integer, nullable=False),
    Column("demands_reviewers", Names, nullable=False),
    Column("demands_max_duration", Span),
    Column("demands_mfa", Boolean, nullable=False),
    _instant("withdrawn_at", nullable=True),
    Column("demands_automatic", Boolean, nullable=False),
    Column("demands_min_reason", Integer, nullable=False),
    Column("demands_tickets", Names, nullable=False),
    Column("demands_hours", Names, nullable=False),
    _instant("starts_at", nullable=True),
    _text("network", nullable=True),
    _text("ticket"),
    _text("extends", nullable=True),
    Column("break_glass", Boolean, nullable=False),
    _instant("closed_at", nullable=True),
    Column("beside", Names, nullable=False),
    Index(None, "asked_at"),
    Index(None, "break_glass", "closed_at"),
)

reviews = Table(
    "reviews",
    metadata,
    Column("request_id", ForeignKey(requests.c.id), nullable=False),
    *_identity(),
    _text("verdict"),
    _instant("at"),
    _text("note"),
    PrimaryKeyConstraint("request_id", "issuer", "subject"),
)

grants = Table(
    "grants",
    metadata,
    Column("id", PlainText, primary_key=True),
    Column("request_id", ForeignKey(requests.c.id), nullable=False),
    _text("issuer"),
    _text("subject"),
    *_permission(),
    _instant("starts_at"),
    _instant("ends_at"),
    Column("approved_by", Identities, nullable=False),
    _instant("revoked_at", nullable=True),
    _text("network", nullable=True),
    _text("basis"),
    UniqueConstraint("request_id"),
    Index(None, "issuer", "subject", "ends_at"),
    Index(None, "ends_at"),
    Index(None, "starts_at"),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", Unsigned64, primary_key=True, autoincrement=False),
    _text("fingerprint"),
    _text("issuer"),
    _text("subject"),
    _text("environment"),
    _text("region"),
    Column("grant_id", ForeignKey(grants.c.id), nullable=False),
    _text("address"),
    _instant("valid_after"),
    _instant("valid_before"),
    *_strength(),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", PlainText, primary_key=True),
    _text("node"),
    _text("issuer"),
    _text("subject"),
    _text("display"),
    _text("who"),
    _text("target"),
    _text("environment"),
    _text("region"),
    _text("login"),
    _text("action"),
    _text("command", nullable=True),
    Column("grant_id", ForeignKey(grants.c.id), nullable=False),
    Column("certificate_serial", Unsigned64, nullable=False),
    _text("address"),
    _text("country", nullable=True),
    _instant("started_at"),
    _instant("until"),
    _instant("ended_at", nullable=True),
    _text("ending", nullable=True),
    Column("exit_status", BigInteger),
    Index(None, "started_at"),
    Index(None, "node", "ended_at"),
    Index(None, "grant_id"),
)

chat_links = Table(
    "chat_links",
    metadata,
    _text("platform"),
    _text("workspace"),
    _text("account"),
    _text("issuer"),
    _text("subject"),
    _instant("linked_at"),
    PrimaryKeyConstraint("platform", "workspace", "account"),
    Index(None, "issuer", "subject"),
)

chat_posts = Table(
    "chat_posts",
    metadata,
    _text("request_id"),
    _text("platform"),
    _text("part"),
    _text("message"),
    PrimaryKeyConstraint("request_id", "platform", "part"),
)

kept_logins = Table(
    "kept_logins",
    metadata,
    _text("issuer"),
    _text("subject"),
    _text("sid"),
    Column("sealed", LargeBinary),
    _instant("at"),
    _instant("asked_at", nullable=True),
    _instant("confirmed_at"),
    PrimaryKeyConstraint("issuer", "subject", "sid"),
    Index(None, "issuer", "sid"),
    Index(None, "issuer", "asked_at"),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", PlainText, primary_key=True),
    _text("issuer"),
    _text("subject"),
    _text("name"),
    Column("uses", Names, nullable=False),
    _text("network"),
    Column("digest", LargeBinary, nullable=False),
    *_strength(),
    _instant("made_at"),
    _instant("ends_at"),
    _instant("revoked_at", nullable=True),
    Index(None, "issuer", "subject"),
)

notices = Table(
    "notices",
    metadata,
    Column("id", PlainText, primary_key=True),
    _text("line"),
    _instant("due", nullable=True),
    Column("told", Names, nullable=False),
    Column("tries", Integer, nullable=False),
    Index(None, "due"),
)
"""``due`` is when it is to be told next; NULL when it is done."""
