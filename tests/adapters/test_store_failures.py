"""What the store keeps and says when something breaks: the process, the disk, the server, a writer, the schema."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]  # it brings no types
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, column, text
from sqlalchemy.exc import DBAPIError

from bastion.adapters.store import SqlStore, migrations, open_store
from bastion.adapters.store.engines import Engine, open_engine
from bastion.adapters.store.postgresql import WRITER_LOCK
from bastion.adapters.store.queries import Query
from bastion.adapters.store.sqlite import SqliteEngine
from bastion.adapters.store.tables import metadata
from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.errors import ConfigError, Unavailable
from tests.services.postgres import PostgresServer
from tests.services.stores import OpenStore, execute

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
ALL = EventFilter(limit=1_000_000)
NEWEST = ScriptDirectory(Path(migrations.__file__).parent).get_current_head()
SHORT = timedelta(milliseconds=100)

SLOW = {
    "postgresql": "SELECT pg_sleep(0.3) AS n",
    "sqlite": "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3e6) SELECT max(n) AS n FROM n",
}
"""Queries that take some tenths of a second."""


async def append(store: SqlStore, *displays: str) -> list[int]:
    async with store.transaction() as tx:
        return [(await tx.append(Event(Kind.NODE_STARTED, NOW, "node-1", display=one))).seq for one in displays]


async def displays(store: SqlStore) -> list[str]:
    return [one.display for one in await store.events(ALL)]


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


# ----------------------------------------------------------------------------------------------------- the process dies

WRITE_FOR_EVER = """
import asyncio, sys
from datetime import UTC, datetime
from bastion.adapters.store import open_store
from bastion.core.audit import Event, Kind

async def write(store, name):
    while True:
        async with store.transaction() as tx:
            for part in range(3):
                last = await tx.append(Event(Kind.NODE_STARTED, datetime.now(UTC), "node-1", display=f"{name}/{part}"))
        print(last.seq, flush=True)

async def main():
    store = await open_store(sys.argv[1])
    await asyncio.gather(*(write(store, name) for name in "abcd"))

asyncio.run(main())
"""


async def test_what_was_kept_survives_kill_9(url: str) -> None:
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITE_FOR_EVER, url, stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    said = [await writer.stdout.readline() for _ in range(40)]
    writer.send_signal(signal.SIGKILL)
    said += (await writer.stdout.read()).splitlines()
    await writer.wait()
    kept = [int(line) for line in said if line]

    store = await open_store(url)
    written = await store.events(ALL)
    assert [one.seq for one in written] == list(range(1, len(written) + 1))
    assert len(kept) >= 40
    assert max(kept) <= len(written)
    assert [one.display[2:] for one in written] == ["0", "1", "2"] * (len(written) // 3), "whole blocks or nothing"
    assert await append(store, "and it goes on") == [len(written) + 1]
    await store.close()


# ----------------------------------------------------------------------------------------------------- the disk is full

FILL_THE_DISK = """
import asyncio, resource, sys
from datetime import UTC, datetime
from bastion.adapters.store import open_store
from bastion.core.audit import Event, EventFilter, Kind
from bastion.core.errors import Unavailable

async def write(store):
    async with store.transaction() as tx:
        for _ in range(5):
            await tx.append(Event(Kind.NODE_STARTED, datetime.now(UTC), "node-1", display="x" * 10_000))

async def main():
    store = await open_store(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    kept, answers = 0, []
    while not any(answers):
        answers = await asyncio.gather(*(write(store) for _ in range(4)), return_exceptions=True)
        kept += 5 * answers.count(None)
    assert {type(answer) for answer in answers} <= {Unavailable, type(None)}, answers
    print(answers[-1].public)
    assert kept > 0 and len(await store.events(EventFilter(limit=10_000))) == kept, kept
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    async with store.transaction() as tx:
        assert (await tx.append(Event(Kind.NODE_STARTED, datetime.now(UTC), "node-1"))).seq == kept + 1
    await store.close()

asyncio.run(main())
"""


def test_a_full_disk_keeps_nothing_by_halves_and_heals(sqlite_url: str) -> None:
    """The kernel refuses to let the file grow, as it does when there is no space."""
    done = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, sqlite_url], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The store")
    with closing(sqlite3.connect(file_of(sqlite_url))) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


# ------------------------------------------------------------------------------------------------- somebody else writes


@asynccontextmanager
async def somebody_writing(url: str) -> AsyncIterator[None]:
    """Another process that has begun to write and does not finish."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(file_of(url), isolation_level=None)) as file:
            file.execute("BEGIN IMMEDIATE")
            yield
        return
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"BEGIN; SELECT pg_advisory_xact_lock({WRITER_LOCK})")
        yield
    finally:
        await connection.close()


async def test_a_writer_that_does_not_get_its_turn_says_so_and_goes_on_later(url: str) -> None:
    store = await open_store(url, patience=SHORT)
    await append(store, "before")
    async with somebody_writing(url):
        answers = await asyncio.gather(*(append(store, "in vain") for _ in range(20)), return_exceptions=True)
        assert {type(answer) for answer in answers} == {Unavailable}
        assert "Something else has been writing" in str(answers[0])
        assert await displays(store) == ["before"], "readers do not wait for writers"
    assert await append(store, "after") == [2]
    await store.close()


async def test_everybody_who_waits_in_vain_waits_once(sqlite_url: str) -> None:
    """Twenty that queue are told together, instead of each trying for as long again after the one before."""
    store = await open_store(sqlite_url, patience=timedelta(seconds=1))
    async with somebody_writing(sqlite_url), asyncio.timeout(5):
        await asyncio.gather(*(append(store, "in vain") for _ in range(20)), return_exceptions=True)
    await store.close()


# ------------------------------------------------------------------------------------------------- the database is gone


@pytest.mark.parametrize("become", ["deleted", "replaced"])
async def test_a_file_that_is_not_there_any_more_is_not_written_to(sqlite_url: str, become: str) -> None:
    store = await open_store(sqlite_url)
    await append(store, "kept")
    file_of(sqlite_url).rename(file_of(sqlite_url).with_name("elsewhere"))
    if become == "replaced":
        file_of(sqlite_url).write_bytes(b"")
    with pytest.raises(Unavailable, match="gone|replaced"):
        await append(store, "lost")
    await store.close()


async def test_a_server_that_is_gone_is_unavailable_until_it_is_back(
    postgres: PostgresServer, postgres_url: str
) -> None:
    store = await open_store(postgres_url)
    await append(store, "before")
    await displays(store)
    postgres.stop()
    try:
        for _ in range(2):
            with pytest.raises(Unavailable):
                await append(store, "lost")
            with pytest.raises(Unavailable):
                await store.events(ALL)
        with pytest.raises(Unavailable):
            await open_store(postgres_url)
    finally:
        postgres.start()
    assert await append(store, "after") == [2]
    assert await displays(store) == ["before", "after"]
    await store.close()


async def test_a_connection_that_is_lost_in_the_middle_loses_its_whole_batch_and_nothing_else(
    postgres_url: str,
) -> None:
    store = await open_store(postgres_url)
    await append(store, "before")
    joined = asyncio.Event()

    async def first() -> None:
        async with store.transaction() as tx:
            await tx.append(Event(Kind.NODE_STARTED, NOW, "node-1", display="first"))
            await joined.wait()

    async def second() -> None:
        async with store.transaction() as tx:
            await tx.append(Event(Kind.NODE_STARTED, NOW, "node-1", display="second"))
            killed = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            await execute(postgres_url, killed)
            await tx.append(Event(Kind.NODE_STARTED, NOW, "node-1", display="second"))

    both = asyncio.gather(first(), second(), return_exceptions=True)
    await asyncio.sleep(0)  # both have asked for their turn
    joined.set()
    assert [type(answer) for answer in await both] == [Unavailable, Unavailable]
    assert await append(store, "after") == [2]
    assert await displays(store) == ["before", "after"]
    await store.close()


# ----------------------------------------------------------------------------------------------------- how it is opened


async def test_the_file_and_its_folder_are_nobody_elses(sqlite_url: str) -> None:
    store = await open_store(sqlite_url)
    await append(store, "x")
    file = file_of(sqlite_url)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    files = list(file.parent.iterdir())
    assert {one.name for one in files} == {"store.sqlite", "store.sqlite-wal", "store.sqlite-shm"}
    assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}
    await store.close()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
async def test_a_file_that_others_can_open_is_refused_and_left_alone(sqlite_url: str, mode: int) -> None:
    await (await open_store(sqlite_url)).close()
    file_of(sqlite_url).chmod(mode)
    with pytest.raises(ConfigError, match=f"its mode is {mode:o}"):
        await open_store(sqlite_url)
    assert stat.S_IMODE(file_of(sqlite_url).stat().st_mode) == mode


async def settings_of(engine: Engine, *statements: str) -> list[object]:
    """What the connection says that writes."""

    def asked(connection: Connection) -> list[object]:
        return [connection.exec_driver_sql(statement).scalar_one() for statement in statements]

    return await engine.run_sync(asked, write=True)


async def test_sqlite_is_set_to_survive_a_power_cut_and_to_hold_its_references(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url, SHORT)
    pragmas = ("PRAGMA journal_mode", "PRAGMA synchronous", "PRAGMA foreign_keys")
    assert await settings_of(engine, *pragmas) == ["wal", 2, 1]  # 2 is FULL
    await engine.close()


async def test_postgresql_is_set_to_survive_a_power_cut_whatever_its_own_setting(postgres_url: str) -> None:
    engine = open_engine(f"{postgres_url}&synchronous_commit=off&default_transaction_isolation=serializable", SHORT)
    wanted = ("SHOW synchronous_commit", "SHOW transaction_isolation")
    assert await settings_of(engine, *wanted) == ["on", "read committed"]
    await engine.close()


async def test_a_statement_whose_transaction_did_not_begin_is_not_kept(sqlite_url: str) -> None:
    """SQLite would keep it at once and by itself: the lock that was in the way is gone when it comes."""
    store = await open_store(sqlite_url)
    engine, insert = SqliteEngine(file_of(sqlite_url), SHORT), text("INSERT INTO events (seq) VALUES (1)")
    with closing(sqlite3.connect(file_of(sqlite_url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await engine.begin()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await engine.run(insert)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        await engine.run(insert)
    assert await displays(store) == []
    await engine.close()
    await store.close()


async def test_what_is_asked_together_is_of_one_moment(store: SqlStore, url: str) -> None:
    """Whatever is written between the first answer and the last."""
    engine = open_engine(url, SHORT)
    count, slow = (text(one).columns(column("n")) for one in ("SELECT count(*) AS n FROM events", SLOW[engine.dialect]))
    asked = asyncio.create_task(engine.read([Query(count), Query(slow), Query(count)]))
    written = 0
    while not asked.done():
        written += len(await append(store, "meanwhile"))
    before, _, after = await asked
    assert before.rows[0].n == after.rows[0].n < written
    await engine.close()


async def test_readers_cannot_write(store: SqlStore, url: str) -> None:
    await append(store, "kept")
    engine = open_engine(url, SHORT)
    with pytest.raises((DBAPIError, sqlite3.Error), match="read-?only"):
        await engine.read([Query(text("DELETE FROM chat_links"))])
    await engine.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "sqlite",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///x?mode=memory",
        "mysql://h/d",
        "postgresql:",
    ],
)
async def test_an_url_that_is_not_a_store_is_a_mistake_in_the_configuration(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^store\.url: "):
        await open_store(url)


async def test_a_path_that_cannot_be_a_file_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^store\.url: .* cannot be used"):
        await open_store(f"sqlite:///{tmp_path}")


async def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("not a database, and more than a header of text" * 100)
    (tmp_path / "notes").chmod(0o600)
    with pytest.raises(Unavailable):
        await open_store(f"sqlite:///{tmp_path}/notes")
    assert (tmp_path / "notes").read_text().startswith("not a database")


async def test_a_password_is_in_no_error(postgres: PostgresServer) -> None:
    with pytest.raises(Unavailable) as raised:
        await open_store(f"postgresql://bastion:hunter2@/nowhere?host={postgres.folder}")
    assert "nowhere" in str(raised.value)
    assert "hunter2" not in str(raised.value)


async def test_a_database_that_cannot_keep_all_text_is_refused(postgres: PostgresServer) -> None:
    await execute(postgres.url, "CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(ConfigError, match="encoding is SQL_ASCII"):
        await open_store(f"postgresql://bastion@/ascii?host={postgres.folder}")


# ----------------------------------------------------------------------------------------------------------- migrations


async def test_the_migrations_make_the_tables_that_the_code_expects(store: SqlStore, url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    engine = open_engine(url, SHORT)
    assert await engine.run_sync(differences, write=False) == []
    await engine.close()


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(store: SqlStore, url: str) -> None:
    await append(store, "kept")
    await store.close()
    await execute(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match=r"newer version of bastion \(its tables are 9999"):
        await open_store(url)
    await execute(url, f"UPDATE alembic_version SET version_num = '{NEWEST}'")
    store = await open_store(url)
    assert await displays(store) == ["kept"]
    await store.close()


async def test_nodes_that_start_at_the_same_moment_migrate_once(url: str, node: OpenStore) -> None:
    """Each in a thread with a loop of its own, so that only the database is between them, as it is between machines."""
    together = threading.Barrier(4)

    async def start() -> list[int]:
        together.wait()
        store = await open_store(url)
        try:
            return await append(store, "started")
        finally:
            await store.close()

    seqs = await asyncio.gather(*(asyncio.to_thread(lambda: asyncio.run(start())) for _ in range(4)))
    assert sorted(seq for (seq,) in seqs) == [1, 2, 3, 4]
    assert len(await displays(await node())) == 4


def test_nodes_that_make_the_file_at_the_same_moment_wait_for_one_another(tmp_path: Path) -> None:
    """SQLite itself does not, when a new file is switched to a write-ahead log: one round in twenty failed at once."""
    for round_ in range(60):
        together, path = threading.Barrier(6), tmp_path / f"{round_}.sqlite"

        def start(together: threading.Barrier = together, path: Path = path) -> None:
            together.wait()
            asyncio.run(open_engine(f"sqlite:///{path}", timedelta(seconds=5)).close())
            with closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as file:
                assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
                file.execute("BEGIN IMMEDIATE")

        with ThreadPoolExecutor(6) as threads:
            for started in [threads.submit(start) for _ in range(6)]:
                started.result()


async def test_stores_opened_together_in_one_process_do_not_run_each_others_migrations(tmp_path: Path) -> None:
    stores = await asyncio.gather(*(open_store(f"sqlite:///{tmp_path}/{number}.sqlite") for number in range(5)))
    for number, store in enumerate(stores):
        assert await append(store, f"{number}") == [1]
        assert await displays(store) == [f"{number}"]
        await store.close()
