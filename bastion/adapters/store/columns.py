"""How values that databases do not have, or have differently, are kept in columns that both dialects have.

Each type gives back exactly what it was given. Text that one dialect could not keep is refused on both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy import BigInteger, Dialect, Text
from sqlalchemy.types import TypeDecorator

from bastion.core.errors import Refused
from bastion.core.identity import IdentityId

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TWO_63, _TWO_64 = 1 << 63, 1 << 64


class Instant(TypeDecorator[datetime]):
    """An aware instant as microseconds since 1970: SQLite forgets time zones, and integers sort as instants do."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone, so it is no instant")
        return (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + value * _MICROSECOND


class Span(TypeDecorator[timedelta]):
    """A span as microseconds."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> int | None:
        return None if value is None else value // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> timedelta | None:
        return None if value is None else value * _MICROSECOND


class PlainText(TypeDecorator[str]):
    """Text that both dialects keep.

    PostgreSQL has no NUL in text, and neither dialect has half a surrogate pair; both reach us from peers (JSON
    escapes, SSH strings), so they are refused by a sentence rather than found out by one database.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else check_text(value)


class Unsigned64(TypeDecorator[int]):
    """A certificate's serial (uint64 in PROTOCOL.certkeys), as the signed integer of the same 64 bits."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        if value is None:
            return None
        if not 0 <= value < _TWO_64:
            raise ValueError(f"{value} is not an unsigned number of 64 bits")
        return value - _TWO_64 if value >= _TWO_63 else value

    def process_result_value(self, value: int | None, dialect: Dialect) -> int | None:
        return None if value is None else value % _TWO_64


class Names(TypeDecorator[frozenset[str]]):
    """A set of names as a sorted JSON list."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Iterable[str] | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(sorted(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> frozenset[str] | None:
        return None if value is None else frozenset(json.loads(value))


class Identities(TypeDecorator[tuple[IdentityId, ...]]):
    """Identities in order, as a JSON list of issuer and subject."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Iterable[IdentityId] | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps([[one.issuer, one.subject] for one in value])

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[IdentityId, ...] | None:
        return None if value is None else tuple(IdentityId(issuer, subject) for issuer, subject in json.loads(value))


def check_text(text: str) -> str:
    """``text`` itself, when both dialects can keep it.

    Raises:
        Refused: it has a NUL or half a surrogate pair.
    """
    if "\0" in text or not _is_unicode(text):
        raise Refused("This text has characters that cannot be kept.", detail=ascii(text[:100]))
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
