"""How a database becomes one of this version: alembic, run when the store is opened, in one transaction.

A step is a file in ``versions/``, written by hand and never changed after a release. Steps are inside the package, so
an installed bastion needs no alembic.ini and no command.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from weakref import WeakKeyDictionary

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from bastion.adapters.store.engines import Engine
from bastion.adapters.store.failures import translated
from bastion.core.errors import ConfigError

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
"""alembic keeps the migration under way in globals of its own: two at once would run each other's steps."""


async def migrate(engine: Engine) -> None:
    """Bring the database to the newest version this code has, or leave it as it was.

    Its transaction is a writer's, so of two nodes that start together one migrates and the other finds it done.

    Raises:
        ConfigError: the database is newer than the code, or cannot hold what is written; nothing was changed.
        Unavailable: the database does not answer; nothing was changed.
    """
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        with translated():
            await engine.run_sync(_upgrade, write=True)


def _upgrade(connection: Connection) -> None:
    _check_database(connection)
    config = Config()
    # ConfigParser would read a % in the path as an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    steps = ScriptDirectory.from_config(config)
    present, newest = MigrationContext.configure(connection).get_current_revision(), steps.get_current_head()
    if present == newest:
        return
    if present is not None and present not in {step.revision for step in steps.walk_revisions()}:
        raise ConfigError(
            [
                f"store.url: the database was written by a newer version of bastion (its tables are {present}, "
                f"this version knows up to {newest}). Install the newer version, or restore a backup."
            ]
        )
    command.upgrade(config, "head")


def _check_database(connection: Connection) -> None:
    """Refuse a database that would lose something: no write-ahead log, or an encoding that lacks characters."""
    if connection.dialect.name == "sqlite":
        mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        if mode != "wal":
            raise ConfigError(
                [f"store.url: SQLite cannot keep a write-ahead log there (it says {mode}); use a local disk."]
            )
    else:
        encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
        if encoding != "UTF8":
            raise ConfigError([f"store.url: the database's encoding is {encoding}; create one with ENCODING 'UTF8'."])
