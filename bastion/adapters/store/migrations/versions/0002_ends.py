"""When an identity's proofs were declared over, and the logins that their issuers are asked about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("identities", sa.Column("ended_at", sa.BigInteger))
    op.create_table(
        "kept_logins",
        *(sa.Column(name, sa.Text, nullable=False) for name in ("issuer", "subject", "sid")),
        sa.Column("sealed", sa.LargeBinary),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("asked_at", sa.BigInteger),
        sa.Column("confirmed_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("issuer", "subject", "sid", name="pk_kept_logins"),
    )
    op.create_index("ix_kept_logins_issuer_sid", "kept_logins", ["issuer", "sid"])
    op.create_index("ix_kept_logins_issuer_asked_at", "kept_logins", ["issuer", "asked_at"])
