"""Requests and grants that are narrowed to paths."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for table in ("requests", "grants"):
        op.add_column(table, sa.Column("paths", sa.Text, nullable=False, server_default="[]"))
