"""The first tables, and the triggers that keep the audit log append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=False),
        _text("line"),
        _text("kind"),
        _number("at"),
        _text("who"),
        _text("scope", nullable=True),
        _text("target", nullable=True),
        _text("session_id", nullable=True),
        _text("grant_id", nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
    )
    for name in ("kind", "at", "target", "session_id", "grant_id"):
        op.create_index(f"ix_events_{name}", "events", [name])
    for statement in _APPEND_ONLY[op.get_context().dialect.name]:
        op.execute(statement)

    op.create_table(
        "identities",
        *_identity(),
        _text("email_folded", nullable=True),
        _number("seen_at"),
        sa.PrimaryKeyConstraint("issuer", "subject", name="pk_identities"),
    )
    op.create_index("ix_identities_email_folded", "identities", ["email_folded"])

    op.create_table(
        "requests",
        _text("id"),
        _text("asker_issuer"),
        _text("asker_subject"),
        _text("beneficiary_issuer"),
        _text("beneficiary_subject"),
        *_permission(),
        _number("duration"),
        _number("asked_at"),
        sa.Column("demands_approvals", sa.Integer, nullable=False),
        _text("demands_reviewers"),
        _number("demands_max_duration", nullable=True),
        sa.Column("demands_mfa", sa.Boolean, nullable=False),
        _number("withdrawn_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_requests"),
    )
    op.create_index("ix_requests_asked_at", "requests", ["asked_at"])

    op.create_table(
        "reviews",
        _text("request_id"),
        *_identity(),
        _text("verdict"),
        _number("at"),
        sa.PrimaryKeyConstraint("request_id", "issuer", "subject", name="pk_reviews"),
        sa.ForeignKeyConstraint(["request_id"], ["requests.id"], name="fk_reviews_request_id"),
    )

    op.create_table(
        "grants",
        _text("id"),
        _text("request_id"),
        _text("issuer"),
        _text("subject"),
        *_permission(),
        _number("starts_at"),
        _number("ends_at"),
        _text("approved_by"),
        _number("revoked_at", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_grants"),
        sa.ForeignKeyConstraint(["request_id"], ["requests.id"], name="fk_grants_request_id"),
        sa.UniqueConstraint("request_id", name="uq_grants_request_id"),
    )
    op.create_index("ix_grants_issuer_subject_ends_at", "grants", ["issuer", "subject", "ends_at"])
    op.create_index("ix_grants_ends_at", "grants", ["ends_at"])
    op.create_index("ix_grants_starts_at", "grants", ["starts_at"])

    op.create_table(
        "certificates",
        _number("serial"),
        _text("fingerprint"),
        _text("issuer"),
        _text("subject"),
        _text("environment"),
        _text("region"),
        _text("grant_id"),
        _text("address"),
        _number("valid_after"),
        _number("valid_before"),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"], name="fk_certificates_grant_id"),
    )

    op.create_table(
        "sessions",
        _text("id"),
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
        _text("grant_id"),
        _number("certificate_serial"),
        _text("address"),
        _text("country", nullable=True),
        _number("started_at"),
        _number("until"),
        _number("ended_at", nullable=True),
        _text("ending", nullable=True),
        _number("exit_status", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"], name="fk_sessions_grant_id"),
    )
    op.create_index("ix_sessions_started_at", "sessions", ["started_at"])
    op.create_index("ix_sessions_node_ended_at", "sessions", ["node", "ended_at"])

    op.create_table(
        "chat_links",
        _text("platform"),
        _text("workspace"),
        _text("account"),
        _text("issuer"),
        _text("subject"),
        _number("linked_at"),
        sa.PrimaryKeyConstraint("platform", "workspace", "account", name="pk_chat_links"),
    )


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def _number(name: str, *, nullable: bool = False) -> sa.Column[int]:
    """Instants and spans are microseconds."""
    return sa.Column(name, sa.BigInteger, nullable=nullable, autoincrement=False)


def _identity() -> list[sa.Column[object]]:
    names = ("issuer", "subject", "email", "name", "groups", "kind")
    columns = [_text(name, nullable=name in ("email", "name")) for name in names]
    return [*columns, _number("authenticated_at"), _text("amr")]  # type: ignore[list-item]


def _permission() -> list[sa.Column[object]]:
    names = ("environment", "region", "targets", "logins", "actions", "reason")
    return [*(_text(name) for name in names), sa.Column("crossing", sa.Boolean, nullable=False)]  # type: ignore[list-item]


_NEXT = "(SELECT coalesce(max(seq), 0) + 1 FROM events)"

_APPEND_ONLY = {
    "sqlite": (
        # INSERT OR REPLACE deletes without a DELETE trigger, so the insertion itself is held to the next number.
        f"""CREATE TRIGGER events_are_numbered BEFORE INSERT ON events WHEN NEW.seq IS NOT {_NEXT}
            BEGIN SELECT RAISE(ABORT, 'events are numbered without gaps'); END""",
        """CREATE TRIGGER events_are_not_changed BEFORE UPDATE ON events
            BEGIN SELECT RAISE(ABORT, 'events are append-only'); END""",
        """CREATE TRIGGER events_are_not_deleted BEFORE DELETE ON events
            BEGIN SELECT RAISE(ABORT, 'events are append-only'); END""",
    ),
    "postgresql": (
        f"""CREATE FUNCTION events_are_numbered() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF NEW.seq IS DISTINCT FROM {_NEXT} THEN
                    RAISE EXCEPTION 'events are numbered without gaps';
                END IF;
                RETURN NEW;
            END $$""",
        """CREATE FUNCTION events_are_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'events are append-only'; END $$""",
        """CREATE TRIGGER events_are_numbered BEFORE INSERT ON events
            FOR EACH ROW EXECUTE FUNCTION events_are_numbered()""",
        """CREATE TRIGGER events_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
            FOR EACH STATEMENT EXECUTE FUNCTION events_are_append_only()""",
    ),
}
