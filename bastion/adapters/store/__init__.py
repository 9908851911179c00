"""The durable store on SQLAlchemy Core: one code, on SQLite (one node) or PostgreSQL (many).

From the caller inwards: `sql` answers questions and opens blocks, `writer` lets one block write at a time,
`transaction` says what is written, `queries` what is asked, `rows` and `columns` what a value looks like in a table,
`engines` what a database has to do, `sqlite` and `postgresql` how they do it, `statements` how a statement is run
without being made anew, `migrations` how a database becomes one of this version.
"""

from __future__ import annotations

from datetime import timedelta

from bastion.adapters.store.engines import open_engine
from bastion.adapters.store.migrations import migrate
from bastion.adapters.store.sql import SqlStore

__all__ = ["SqlStore", "open_store"]

PATIENCE = timedelta(seconds=5)
"""How long a writer waits for another process that writes: a hundred commits of a slow disk."""


async def open_store(url: str, *, patience: timedelta = PATIENCE) -> SqlStore:
    """Open the store and bring its tables to this version.

    Args:
        url: ``sqlite:///relative``, ``sqlite:////absolute`` or ``postgresql://…`` as libpq reads it.
        patience: how long a writer waits for another process before it is `Unavailable`.

    Raises:
        ConfigError: the URL names no database that can be used, or one of a newer version; nothing was changed.
        Unavailable: the database does not answer; nothing was changed.
    """
    engine = open_engine(url, patience)
    try:
        await migrate(engine)
    except BaseException:
        await engine.close()
        raise
    return SqlStore(engine=engine)
