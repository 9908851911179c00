"""What a database is to this store: many readers who wait for nobody and cannot write, and one writer.

How each of the two is that is in `sqlite` and `postgresql`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from sqlalchemy import Connection, Executable

from bastion.adapters.store.postgresql import PostgresqlEngine
from bastion.adapters.store.queries import Query
from bastion.adapters.store.rows import Values
from bastion.adapters.store.sqlite import SqliteEngine
from bastion.adapters.store.statements import Answer
from bastion.core.errors import ConfigError

T = TypeVar("T")


class Pen(Protocol):
    """The one connection that writes. What the database raises comes as it is; see `failures`."""

    async def begin(self) -> None:
        """Begin a transaction in which no other writer's statements come between, of this node or another. What it
        raises may come from the first statement instead.
        """
        ...

    def run(self, statement: Executable, values: Values | None = None) -> Awaitable[Answer]:
        """Run one statement. Where the result is a future, it needs no task of its own."""
        ...

    async def commit(self) -> None:
        """When it returns, everything since `begin` is durable."""
        ...

    async def rollback(self) -> None: ...

    async def put_down(self, *, broken: bool) -> None:
        """Give the connection back. One that is ``broken`` is closed, which rolls back."""
        ...


class Engine(Protocol):
    """One database, open for one writer and for readers."""

    dialect: str

    async def read(self, asked: Sequence[Query]) -> Sequence[Answer]:
        """Ask several things of one moment."""
        ...

    async def pen(self) -> Pen:
        """The writing connection; whoever has it puts it down before another asks."""
        ...

    async def run_sync(self, work: Callable[[Connection], T], *, write: bool) -> T:
        """Let ``work`` use a connection as SQLAlchemy's own: in a writer's transaction, or as a reader."""
        ...

    def check(self) -> None:
        """Raises `Unavailable` when what is written now would be lost."""
        ...

    async def close(self) -> None: ...


def open_engine(url: str, patience: timedelta) -> Engine:
    """The database of ``url``; an SQLite file is made (0600) when there is none, PostgreSQL is not spoken to yet.

    Args:
        url: ``sqlite:///relative``, ``sqlite:////absolute`` or what libpq reads as ``postgresql://…``.
        patience: how long a writer waits for another process that is writing.

    Raises:
        ConfigError: it names no database that can be used here.
    """
    match url.partition(":")[0]:
        case "sqlite":
            return SqliteEngine(_sqlite_path(url), patience)
        case "postgresql" | "postgres":
            if not urlsplit(url).netloc:
                raise ConfigError(["store.url: write postgresql://user@host/database."])
            return PostgresqlEngine(url, patience)
        case scheme:
            raise ConfigError([f"store.url: {scheme[:20]!r} is not a store; write sqlite:///path or postgresql://…"])


def _sqlite_path(url: str) -> Path:
    path = url.removeprefix("sqlite:///")
    if path == url or not path or path.startswith(":memory:") or "?" in path:
        raise ConfigError(["store.url: write sqlite:/// and the path of a file; memory is not a store."])
    return Path(path).absolute()
