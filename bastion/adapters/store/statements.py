"""Statements compiled once: SQLAlchemy writes them, and running them needs nothing more of it.

What SQLAlchemy does for each execution (cache keys, contexts, result metadata, hops between threads) costs sixty times
what SQLite takes to find a row: see docs/adr/0022.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect, Executable
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from bastion.adapters.store.rows import Values

Convert = Callable[[Any], Any] | None
"""What makes of a value what the database keeps, or the other way round; None where they are the same."""


class Answer(NamedTuple):
    """What a statement gave back: its rows, whose columns are attributes, and how many it changed."""

    rows: Sequence[Any] = ()
    changed: int = -1

    @property
    def first(self) -> Any | None:
        """The first row, or None."""
        return self.rows[0] if self.rows else None


@dataclass(frozen=True, slots=True)
class Compiled:
    """One statement as a driver takes it: text with question marks, and the order and form of its values."""

    text: str
    _marks: tuple[tuple[str, Convert], ...]
    """Of each question mark: its value's name and form."""
    _own: Values
    """Values that the statement brings itself."""
    _row: type[Any]
    _columns: tuple[tuple[int, Callable[[Any], Any]], ...]
    """Those that have another form for us."""

    def parameters(self, values: Values) -> tuple[Any, ...]:
        """For the question marks. Raises what a column's type raises for a value that it refuses."""
        given = self._own | values
        return tuple(given[name] if convert is None else convert(given[name]) for name, convert in self._marks)

    def answer(self, found: Sequence[tuple[Any, ...]], changed: int) -> Answer:
        """The driver's rows as ours."""
        return Answer([self._read(row) for row in found], changed)

    def _read(self, found: tuple[Any, ...]) -> Any:
        row = list(found)
        for place, convert in self._columns:
            row[place] = convert(row[place])
        return self._row(*row)


class Statements:
    """The compiled forms of the statements of one database; those of statements that are gone go with them."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._known: WeakKeyDictionary[Executable, dict[tuple[str, ...], Compiled]] = WeakKeyDictionary()

    def compiled(self, statement: Executable, values: Values) -> Compiled:
        """``statement`` as it is run with values of these names."""
        forms, names = self._known.setdefault(statement, {}), tuple(values)
        if (known := forms.get(names)) is None:
            known = forms[names] = _compile(statement, names, self._dialect)
        return known


def _compile(statement: Any, names: tuple[str, ...], dialect: Dialect) -> Compiled:
    compiled: SQLCompiler = statement.compile(
        dialect=dialect, column_keys=list(names) or None, compile_kwargs={"render_postcompile": True}
    )
    marks = [(name, compiled.binds[name]) for name in compiled.positiontup or ()]
    columns = list(getattr(statement, "exported_columns", ()))
    readers = [(place, _type(column, dialect).result_processor(dialect, None)) for place, column in enumerate(columns)]
    return Compiled(
        compiled.string,
        tuple((name, _type(mark, dialect).bind_processor(dialect)) for name, mark in marks),
        {name: mark.effective_value for name, mark in marks if not mark.required},
        namedtuple("Row", [column.key for column in columns]),
        tuple((place, convert) for place, convert in readers if convert is not None),
    )


def _type(element: Any, dialect: Dialect) -> TypeEngine[Any]:
    """As the dialect has it."""
    kind: TypeEngine[Any] = element.type.dialect_impl(dialect)
    return kind
