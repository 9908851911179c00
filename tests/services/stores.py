"""Fixtures of the durable store: every test that asks for `store` runs on SQLite and on PostgreSQL, both real."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]  # it brings no types
import pytest

from bastion.adapters.store import SqlStore, open_store
from tests.services.postgres import PostgresServer, postgres_server

OpenStore = Callable[[], Awaitable[SqlStore]]

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for the whole run."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/data/store.sqlite"


@pytest.fixture
async def postgres_url(postgres: PostgresServer) -> str:
    # A schema of its own for each test: a database of its own would take a quarter of a second.
    schema = f"test_{next(_numbers)}"
    await execute(postgres.url, f"CREATE SCHEMA {schema}")
    return f"{postgres.url}&search_path={schema}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """A database without tables."""
    name = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param]
    found: str = request.getfixturevalue(name)
    return found


@pytest.fixture
async def node(url: str) -> AsyncIterator[OpenStore]:
    """Open the same database once more, as another node does."""
    async with AsyncExitStack() as stores:

        async def opened() -> SqlStore:
            store = await open_store(url)
            stores.push_async_callback(store.close)
            return store

        yield opened


@pytest.fixture
async def store(node: OpenStore) -> SqlStore:
    return await node()


async def execute(url: str, statement: str) -> None:
    """One statement past all our code, as somebody with a database client would send it."""
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as file:
            file.execute(statement)
        return
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
