"""Every way a database fails, as one of the errors that the rest of the product knows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg  # type: ignore[import-untyped]  # it brings no types
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from bastion.core.errors import Conflict, Unavailable

_NO_ANSWER = "The store does not answer, so nothing can be opened or changed. Try again; tell the operator if it lasts."
_IS_FULL = "The store's disk is full, so nothing can be opened or changed. Tell the operator."
_IS_BUSY = "Something else has been writing to the store for too long. Try again in a moment."

_FULL = ("database or disk is full", "no space left on device", "could not extend file")
_BUSY = ("database is locked", "lock timeout")


@contextmanager
def translated() -> Iterator[None]:
    """Raise what the database raises as ours; around calls to the database only, never around a caller's block.

    Raises:
        Conflict: a constraint held; the row exists already, or what it refers to does not.
        Unavailable: anything else.
    """
    try:
        yield
    except (IntegrityError, sqlite3.IntegrityError) as error:
        detail = _first_line(error.orig if isinstance(error, IntegrityError) else error)
        raise Conflict("Something else has changed since; look again and repeat.", detail=detail) from error
    except StatementError as error:
        # A value that its column refused, before the database saw the statement.
        if not isinstance(error, DBAPIError) and error.orig is not None:
            raise error.orig from None
        raise unavailable(error.orig or error) from error
    except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, sqlite3.Error, OSError) as error:
        raise unavailable(error) from error


def unavailable(error: BaseException) -> Unavailable:
    """What to say of ``error``: the sentence for people, the driver's own words for the log."""
    detail = _first_line(error)
    words = detail.lower()
    if any(sign in words for sign in _FULL):
        return Unavailable(_IS_FULL, detail=detail)
    if any(sign in words for sign in _BUSY):
        return Unavailable(_IS_BUSY, detail=detail)
    return Unavailable(_NO_ANSWER, detail=detail)


def _first_line(error: BaseException | None) -> str:
    """Without the lines that quote rows and statements: what people did is in the audit log, not in ours."""
    return str(error).partition("\n")[0] or type(error).__name__
