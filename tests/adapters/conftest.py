"""The real services that adapters are tested on."""

from __future__ import annotations

from tests.services.stores import node, postgres, postgres_url, sqlite_url, store, url

__all__ = ["node", "postgres", "postgres_url", "sqlite_url", "store", "url"]
