"""How and when whoever got a certificate had logged in, and the issuer's own word for how everywhere.

Of certificates that are there already it is not known, so they came of the weakest and oldest login there is. That is
also what a node writes that does not know these columns yet.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("certificates", sa.Column("authenticated_at", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("certificates", sa.Column("amr", sa.Text, nullable=False, server_default="[]"))
    for table in ("certificates", "identities", "reviews", "api_tokens"):
        op.add_column(table, sa.Column("acr", sa.Text))
