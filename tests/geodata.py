"""Small databases in MaxMind's format, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mmdb_writer
from netaddr import IPSet  # type: ignore[import-untyped]  # it has no types

BUILT_AT = datetime(2026, 2, 1, tzinfo=UTC)


def country(code: str) -> dict[str, Any]:
    """A record as MaxMind's and DB-IP's Country databases have it."""
    return {"country": {"iso_code": code, "names": {"en": f"The country {code}"}}}


def write_database(
    path: Path, records: Mapping[str, Any], *, built_at: datetime = BUILT_AT, ip_version: int = 6
) -> Path:
    """Write a database that says ``records`` of networks: a country code, or a whole record."""
    writer = mmdb_writer.MMDBWriter(
        ip_version=ip_version,
        ipv4_compatible=ip_version == 6,
        database_type="Test-Country",
        languages=["en"],
        description="for tests",
    )
    for network, record in records.items():
        writer.insert_network(IPSet([network]), country(record) if isinstance(record, str) else record)
    with patch("mmdb_writer.time.time", built_at.timestamp):  # the writer has no argument for it
        writer.to_db_file(str(path))
    return path
