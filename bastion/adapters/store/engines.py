"""What differs between the two dialects: connecting, being the only writer, knowing that the store is still there.

Each database is opened twice: once for the one writer of this process, once for readers, who never wait for it and
cannot write.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]  # it brings no types
from sqlalchemy import URL, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from bastion.core.errors import ConfigError, Unavailable

READERS = 4
"""Connections for reading, each a thread on SQLite and a backend on PostgreSQL."""

CONNECT_PATIENCE = timedelta(seconds=10)
STATEMENT_PATIENCE = timedelta(seconds=30)
"""A PostgreSQL server that is there and does not answer is as good as gone after this."""

WRITER_LOCK = int.from_bytes(b"bastion")
"""The key of PostgreSQL's advisory lock; it is this database's own, so no other application's meets it."""


@dataclass(frozen=True, slots=True)
class Engines:
    """One database, open for one writer and for readers."""

    write: AsyncEngine
    read: AsyncEngine
    check: Callable[[], None]
    """Raises `Unavailable` when what is written now would be lost."""

    async def close(self) -> None:
        await self.write.dispose()
        await self.read.dispose()


def open_engines(url: str, patience: timedelta) -> Engines:
    """Engines for ``url``; an SQLite file is made (0600) when there is none, PostgreSQL is not spoken to yet.

    Args:
        url: ``sqlite:///relative``, ``sqlite:////absolute`` or what libpq reads as ``postgresql://…``.
        patience: how long a writer waits for another process that is writing.

    Raises:
        ConfigError: it names no database that can be used here.
    """
    match url.partition(":")[0]:
        case "sqlite":
            return _sqlite(_sqlite_path(url), patience)
        case "postgresql" | "postgres":
            return _postgresql(url, patience)
        case scheme:
            raise ConfigError([f"store.url: {scheme[:20]!r} is not a store; write sqlite:///path or postgresql://…"])


def _sqlite_path(url: str) -> Path:
    path = url.removeprefix("sqlite:///")
    if path == url or not path or path.startswith(":memory:") or "?" in path:
        raise ConfigError(["store.url: write sqlite:/// and the path of a file; memory is not a store."])
    return Path(path).absolute()


def _sqlite(path: Path, patience: timedelta) -> Engines:
    _make_private(path)
    _keep_a_log_ahead(path, patience)
    write = _sqlite_engine(path, 1, patience, "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON")
    # Without IMMEDIATE a transaction that reads before it writes fails, or loses an update, when two meet.
    _begin_with(write, "BEGIN IMMEDIATE")
    read = _sqlite_engine(path, READERS, patience, "PRAGMA query_only=ON")
    return Engines(write, read, partial(_check_file, path, _inode(path)))


def _sqlite_engine(path: Path, connections: int, patience: timedelta, *pragmas: str) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        # None: sqlite3 would otherwise begin transactions of its own, later than we ask for them.
        connect_args={"isolation_level": None, "timeout": patience.total_seconds()},
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,
    )

    def prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(pragma)
        cursor.close()

    event.listen(engine.sync_engine, "connect", prepare)
    return engine


def _make_private(path: Path) -> None:
    """The file and, where it is not there yet, its directory are nobody else's; SQLite's other files get its mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise ConfigError([f"store.url: {path} cannot be used: {error.strerror}."]) from error
    # Refused rather than mended: until we have looked inside, it may be any file that a typing mistake names.
    if mode & 0o077:
        raise ConfigError([f"store.url: others can open {path} (its mode is {mode:03o}). Run chmod 600 on it."])


def _keep_a_log_ahead(path: Path, patience: timedelta) -> None:
    """Switch the file to a write-ahead log, which it then keeps for every connection.

    SQLite does not wait for its turn here: of nodes that start together all but one are told "locked" at once, whatever
    the timeout (https://www.sqlite.org/c3ref/busy_handler.html: the handler is not called where it could deadlock).
    What else is wrong with the file is found, and said, by whoever looks into it next.
    """
    give_up = time.monotonic() + patience.total_seconds()
    with contextlib.closing(sqlite3.connect(path, timeout=patience.total_seconds(), isolation_level=None)) as file:
        while True:
            try:
                file.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= give_up:
                    return
            time.sleep(0.01)


def _inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _check_file(path: Path, opened: tuple[int, int]) -> None:
    # SQLite goes on writing to a file that was deleted or replaced, and nobody would ever read it again.
    try:
        present = _inode(path)
    except OSError as error:
        raise Unavailable("The store's file is gone. Tell the operator.", detail=f"{path}: {error.strerror}") from error
    if present != opened:
        raise Unavailable("The store's file was replaced. The bastion must be restarted.", detail=str(path))


def _postgresql(url: str, patience: timedelta) -> Engines:
    if not urlsplit(url).netloc:
        raise ConfigError(["store.url: write postgresql://user@host/database."])
    # Each bounds or hardens what the server's own configuration may have loosened.
    common = {"application_name": "bastion", "lock_timeout": _milliseconds(patience)}
    write = _postgresql_engine(
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
    _begin_with(write, f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
    read = _postgresql_engine(url, READERS, "AUTOCOMMIT", common | {"default_transaction_read_only": "on"})
    return Engines(write, read, lambda: None)


def _postgresql_engine(url: str, connections: int, isolation: Any, settings: dict[str, str]) -> AsyncEngine:
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


def _begin_with(engine: AsyncEngine, statement: str) -> None:
    """Begin every transaction so that no other writer's come between its statements, on this node or another."""
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql(statement))


def _milliseconds(span: timedelta) -> str:
    return str(int(span / timedelta(milliseconds=1)))
