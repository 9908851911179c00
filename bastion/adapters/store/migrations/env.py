"""Run by alembic: migrate the connection that `bastion.adapters.store.migrations` is in a transaction on."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
