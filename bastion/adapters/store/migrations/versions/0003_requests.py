"""What policies demand by now, requests narrower than a target, extensions, break-glass, and notices to be told."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _add("requests", "demands_automatic", sa.Boolean, sa.false())
    _add("requests", "demands_min_reason", sa.Integer, "0")
    for names in ("demands_tickets", "demands_hours", "beside"):
        _add("requests", names, sa.Text, "[]")
    _add("requests", "ticket", sa.Text, "")
    _add("requests", "break_glass", sa.Boolean, sa.false())
    for name, kind in (
        ("starts_at", sa.BigInteger),
        ("network", sa.Text),
        ("extends", sa.Text),
        ("closed_at", sa.BigInteger),
    ):
        op.add_column("requests", sa.Column(name, kind))
    op.create_index("ix_requests_break_glass_closed_at", "requests", ["break_glass", "closed_at"])
    _add("reviews", "note", sa.Text, "")
    op.add_column("grants", sa.Column("network", sa.Text))
    _add("grants", "basis", sa.Text, "reviewed")
    op.create_index("ix_sessions_grant_id", "sessions", ["grant_id"])
    op.create_table(
        "notices",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.Column("due", sa.BigInteger),
        sa.Column("told", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_notices"),
    )
    op.create_index("ix_notices_due", "notices", ["due"])


def _add(table: str, name: str, kind: type[sa.Boolean | sa.Integer | sa.Text], default: Any) -> None:
    """A column that rows of before have a value for; the code always gives one."""
    op.add_column(table, sa.Column(name, kind, nullable=False, server_default=default))
