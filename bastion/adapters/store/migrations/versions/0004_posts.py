"""Where in each chat a request is told, and an index to find the accounts of an identity."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "chat_posts",
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("platform", sa.Text, nullable=False),
        sa.Column("part", sa.Text, nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("request_id", "platform", "part", name="pk_chat_posts"),
    )
    op.create_index("ix_chat_links_issuer_subject", "chat_links", ["issuer", "subject"])
