"""SQLite, embedded: its files, and the threads that wait for them so that nobody else does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from sqlalchemy import Connection, Executable, StaticPool, create_engine, event
from sqlalchemy.dialects import sqlite as dialects

from bastion.adapters.store.queries import Query
from bastion.adapters.store.rows import Values
from bastion.adapters.store.statements import Answer, Statements
from bastion.core.errors import ConfigError, Unavailable

T = TypeVar("T")

READERS = 4
"""Threads that read, each with a connection."""

STATEMENTS = 256
"""That SQLite keeps prepared for each connection; there are about a hundred."""

_STATEMENTS = Statements(dialects.dialect())


class SqliteEngine:
    """Keeps `bastion.adapters.store.engines.Engine`, and `Pen`, with one file."""

    dialect = "sqlite"

    def __init__(self, path: Path, patience: timedelta) -> None:
        """Raises `ConfigError`: the file cannot be used."""
        _make_private(path)
        _keep_a_log_ahead(path, patience)
        self._path = path
        self._patience = patience
        self._opened = _inode(path)
        self._writer = _Threads(1, lambda: self._connect("synchronous=FULL", "foreign_keys=ON"))
        self._transaction = _Transaction()
        self._readers = _Threads(READERS, lambda: self._connect("query_only=ON"))

    async def read(self, asked: Sequence[Query]) -> Sequence[Answer]:
        runs = [_running(*query) for query in asked]
        return await self._readers.do(lambda connection: _of_one_moment(connection, runs))

    async def pen(self) -> SqliteEngine:
        return self

    async def begin(self) -> None:
        """Not waited for: the first statement is next in the same thread, and raises what this does."""
        self._transaction = _Transaction()
        self._writer.ask(self._transaction.begin).add_done_callback(asyncio.Future.exception)

    def run(self, statement: Executable, values: Values | None = None) -> asyncio.Future[Answer]:
        return self._writer.ask(self._transaction.inside(_running(statement, values)))

    async def commit(self) -> None:
        await self._writer.do(sqlite3.Connection.commit)

    async def rollback(self) -> None:
        await self._writer.do(sqlite3.Connection.rollback)

    async def put_down(self, *, broken: bool) -> None:
        if broken:
            await self._writer.drop()

    async def run_sync(self, work: Callable[[Connection], T], *, write: bool) -> T:
        def alone(connection: sqlite3.Connection) -> T:
            engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool, hide_parameters=True)
            if write:
                event.listen(engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE"))
            with engine.begin() as transaction:
                return work(transaction)

        return await (self._writer if write else self._readers).do(alone)

    def check(self) -> None:
        # SQLite goes on writing to a file that was deleted or replaced, and nobody would ever read it again.
        try:
            present = _inode(self._path)
        except OSError as error:
            detail = f"{self._path}: {error.strerror}"
            raise Unavailable("The store's file is gone. Tell the operator.", detail=detail) from error
        if present != self._opened:
            raise Unavailable("The store's file was replaced. The bastion must be restarted.", detail=str(self._path))

    async def close(self) -> None:
        await asyncio.to_thread(self._readers.close)
        await asyncio.to_thread(self._writer.close)

    def _connect(self, *pragmas: str) -> sqlite3.Connection:
        # None: sqlite3 would otherwise begin transactions of its own, later than we ask for them.
        connection = sqlite3.connect(
            self._path, self._patience.total_seconds(), isolation_level=None, cached_statements=STATEMENTS
        )
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        return connection


def _running(statement: Executable, values: Values | None) -> Callable[[sqlite3.Connection], Answer]:
    """The whole of one statement, its rows read, for a connection's thread: going there costs more than most of them.

    Raises:
        Refused: a value cannot be kept.
    """
    compiled = _STATEMENTS.compiled(statement, values or {})
    parameters = compiled.parameters(values or {})

    def run(connection: sqlite3.Connection) -> Answer:
        cursor = connection.execute(compiled.text, parameters)
        return compiled.answer(cursor.fetchall(), cursor.rowcount)

    return run


class _Transaction:
    """One of the writer's, from its beginning; SQLite would keep a statement outside of any at once."""

    _failure: BaseException | None = None

    def begin(self, connection: sqlite3.Connection) -> None:
        try:
            # Without IMMEDIATE a transaction that reads before it writes fails, or loses an update, when two meet.
            connection.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            self._failure = error
            raise

    def inside(self, run: Callable[[sqlite3.Connection], T]) -> Callable[[sqlite3.Connection], T]:
        """``run``, if the transaction is still there."""

        def inside(connection: sqlite3.Connection) -> T:
            if not connection.in_transaction:
                raise self._failure or sqlite3.OperationalError("the transaction is over")
            return run(connection)

        return inside


def _of_one_moment(connection: sqlite3.Connection, runs: Sequence[Callable[[sqlite3.Connection], T]]) -> list[T]:
    """What several reads give of one snapshot (https://www.sqlite.org/isolation.html); one by itself is one anyway."""
    if len(runs) == 1:
        return [runs[0](connection)]
    connection.execute("BEGIN")
    try:
        return [run(connection) for run in runs]
    finally:
        connection.rollback()


_Job = tuple[Callable[[sqlite3.Connection], Any] | None, asyncio.Future[Any]]


class _Threads:
    """Threads that do what is asked of them, each in order, and on a connection that is its own.

    The first one that has nothing to do is asked: its connection has just read the pages that are wanted next.
    """

    def __init__(self, count: int, connect: Callable[[], sqlite3.Connection]) -> None:
        self._threads = [_Thread(connect) for _ in range(count)]

    async def do(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """What ``job`` returns or raises. It is done even if the caller is cancelled meanwhile."""
        return await self.ask(job)

    async def drop(self) -> None:
        """Close a connection; another is opened when there is something to do."""
        await self.ask(None)

    def ask(self, job: Callable[[sqlite3.Connection], T] | None) -> asyncio.Future[T]:
        """The same, as a future."""
        return min(self._threads, key=_Thread.owed).ask(job)

    def close(self) -> None:
        """Wait until everything that was asked is done. Idempotent."""
        for thread in self._threads:
            thread.close()


class _Thread:
    """A thread with a connection, both made when there is something to do."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._owed = 0

    def owed(self) -> int:
        """How many answers wait for it."""
        return self._owed

    def ask(self, job: Callable[[sqlite3.Connection], T] | None) -> asyncio.Future[T]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sqlite", daemon=True)
            self._thread.start()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._owed += 1
        self._jobs.put((job, done))
        return done

    def close(self) -> None:
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while (job := self._jobs.get()) is not None:
            connection = self._do(connection, *job)
        if connection is not None:
            connection.close()

    def _do(
        self,
        connection: sqlite3.Connection | None,
        job: Callable[[sqlite3.Connection], Any] | None,
        done: asyncio.Future[Any],
    ) -> sqlite3.Connection | None:
        """One job; the connection for the next. After an error nobody knows its state, so it is closed."""
        result, failure, is_sound = None, None, job is not None
        try:
            if job is not None:
                connection = connection or self._connect()
                result = job(connection)
        except BaseException as error:  # noqa: BLE001 - raised where the job was asked for
            failure = error
            is_sound = not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.IntegrityError)
        if connection is not None and not is_sound:
            connection.close()
            connection = None
        with contextlib.suppress(RuntimeError):  # its loop is closed, so nobody waits
            done.get_loop().call_soon_threadsafe(self._settle, done, result, failure)
        return connection

    def _settle(self, done: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
        self._owed -= 1
        if done.cancelled():
            return
        if failure is None:
            done.set_result(result)
        else:
            done.set_exception(failure)


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
