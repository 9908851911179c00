"""PostgreSQL, through SQLAlchemy and asyncpg: a backend that writes, and some that read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]  # it brings no types
from sqlalchemy import Connection, CursorResult, Executable, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from bastion.adapters.store.queries import Query
from bastion.adapters.store.rows import Values
from bastion.adapters.store.statements import Answer

T = TypeVar("T")

READERS = 4
"""Backends that read."""

CONNECT_PATIENCE = timedelta(seconds=10)
STATEMENT_PATIENCE = timedelta(seconds=30)
"""A server that is there and does not answer is as good as gone after this."""

WRITER_LOCK = int.from_bytes(b"bastion")
"""The key of the advisory lock; it is this database's own, so no other application's meets it."""


class PostgresqlEngine:
    """Keeps `bastion.adapters.store.engines.Engine` with a server."""

    dialect = "postgresql"

    def __init__(self, url: str, patience: timedelta) -> None:
        # Each bounds or hardens what the server's own configuration may have loosened.
        common = {"application_name": "bastion", "lock_timeout": _milliseconds(patience)}
        self._write = _engine(
            url,
            1,
            "READ COMMITTED",
            common
            | {
                "synchronous_commit": "on",
                # A node that hangs in the middle of a transaction must not keep every other from writing.
                "idle_in_transaction_session_timeout": _milliseconds(STATEMENT_PATIENCE),
            },
        )
        begin = f"SELECT pg_advisory_xact_lock({WRITER_LOCK})"
        event.listen(self._write.sync_engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        self._read = _engine(url, READERS, "AUTOCOMMIT", common | {"default_transaction_read_only": "on"})
        self._snapshots = self._read.execution_options(isolation_level="REPEATABLE READ")

    async def read(self, asked: Sequence[Query]) -> Sequence[Answer]:
        async with (self._read if len(asked) == 1 else self._snapshots).connect() as connection:
            return [_answer(await connection.execute(*query)) for query in asked]

    async def pen(self) -> PostgresqlPen:
        return PostgresqlPen(await self._write.connect())

    async def run_sync(self, work: Callable[[Connection], T], *, write: bool) -> T:
        async with (self._write if write else self._read).begin() as connection:
            return await connection.run_sync(work)

    def check(self) -> None:
        """A server that is gone says so itself."""

    async def close(self) -> None:
        await self._write.dispose()
        await self._read.dispose()


class PostgresqlPen:
    """Keeps `bastion.adapters.store.engines.Pen`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def begin(self) -> None:
        await self._connection.begin()

    async def run(self, statement: Executable, values: Values | None = None) -> Answer:
        return _answer(await self._connection.execute(statement, values))

    async def commit(self) -> None:
        await self._connection.commit()

    async def rollback(self) -> None:
        await self._connection.rollback()

    async def put_down(self, *, broken: bool) -> None:
        if broken:
            await self._connection.invalidate()
        await self._connection.close()


def _answer(result: CursorResult[Any]) -> Answer:
    return Answer(result.all(), result.rowcount) if result.returns_rows else Answer(changed=result.rowcount)


def _engine(url: str, connections: int, isolation: Any, settings: dict[str, str]) -> AsyncEngine:
    async def connect() -> Any:
        # asyncpg reads the URL itself, as libpq would: sslmode, passfile and several hosts work.
        return await asyncpg.connect(
            url,
            timeout=CONNECT_PATIENCE.total_seconds(),
            command_timeout=STATEMENT_PATIENCE.total_seconds(),
            server_settings=settings,
        )

    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        isolation_level=isolation,
        pool_size=connections,
        max_overflow=0,
        pool_pre_ping=True,
        hide_parameters=True,
    )


def _milliseconds(span: timedelta) -> str:
    return str(int(span / timedelta(milliseconds=1)))
