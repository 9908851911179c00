"""YAML 1.2, strictly, and with the line of everything.

Scalars are read by the core schema of YAML 1.2.2 (section 10.3.2) and nothing else: ``NO`` is text, ``22:22`` is text,
``2026-03-02`` is text. Refused are duplicate keys, tags, merge keys, several documents, keys that are not plain text,
and input made to exhaust the reader.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, assert_never

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

MAX_NODES = 100_000
"""With every alias counted as often as it is used: a billion laughs is a file of a few lines."""

MAX_DEPTH = 32
"""The configuration is six deep."""

Path = tuple[str | int, ...]
Value = str | int | float | bool | None

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o([0-7]+)")
_HEXADECIMAL = re.compile(r"0x([0-9a-fA-F]+)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_MAX_DIGITS = 20
"""Longer numbers stay text: no setting is one, and Python refuses to convert 4,301 digits."""
_WORDS: Mapping[str, Value] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


class YamlError(ValueError):
    """The text is not one usable document; ``line`` counts from 1."""

    def __init__(self, line: int, sentence: str) -> None:
        super().__init__(sentence)
        self.line = line


@dataclass(frozen=True, slots=True)
class Scalar:
    value: Value
    line: int
    size: int = 1


@dataclass(frozen=True, slots=True)
class Items:
    items: list[Node]
    line: int
    size: int


@dataclass(frozen=True, slots=True)
class Entries:
    entries: dict[str, tuple[int, Node]]
    """By key: the line of the key, and the value."""
    line: int
    size: int


Node = Scalar | Items | Entries


@dataclass(frozen=True, slots=True)
class Document:
    """One file, read. ``duplicates`` are the keys that were given twice: the path, the line, and the first line."""

    root: Node
    duplicates: list[tuple[Path, int, int]] = field(default_factory=list)

    def plain(self) -> Any:
        """The document as dicts, lists and scalars; of a duplicate key the first value."""
        return _plain(self.root)

    def line_of(self, path: Path) -> int:
        """The line of what ``path`` names, or of the nearest thing above that is there; of the file, the first."""
        node, line = self.root, 1
        for step in path:
            match node:
                case Entries(entries) if isinstance(step, str) and step in entries:
                    line, node = entries[step]
                case Items(items) if isinstance(step, int) and step < len(items):
                    node = items[step]
                    line = node.line
                case _:
                    return line
        return line


def parse(text: str) -> Document:
    """Read one document.

    Raises:
        YamlError: it is not YAML, or is what this module refuses. Duplicate keys are reported in the result instead,
            so that they can be told together with other mistakes.
    """
    reader = _Reader(YAML(typ="safe", pure=True).parse(text))
    try:
        return reader.document()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 1, f"is not YAML: {error.problem or error.context}") from None
    except YAMLError as error:
        raise YamlError(1, f"is not YAML: {str(error).splitlines()[0]}") from None


class _Reader:
    """Turns the parser's events into nodes, counting as it goes."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, Node | None] = {}
        self._duplicates: list[tuple[Path, int, int]] = []

    def document(self) -> Document:
        next(self._events)
        start = next(self._events)
        if not isinstance(start, DocumentStartEvent):
            raise YamlError(1, "is empty")
        if start.version is not None and tuple(start.version) != (1, 2):
            raise YamlError(_line(start), "is read as YAML 1.2; leave out the %YAML line")
        root = self._node(next(self._events), ())
        next(self._events)
        if isinstance(following := next(self._events), DocumentStartEvent):
            raise YamlError(_line(following), "has a second document; one file is one document")
        return Document(root, self._duplicates)

    def _node(self, event: Any, path: Path) -> Node:
        if len(path) > MAX_DEPTH:
            raise YamlError(_line(event), f"is nested more than {MAX_DEPTH} deep")
        if isinstance(event, AliasEvent):
            return self._alias(event)
        if event.tag not in (None, "!") and not (isinstance(event.tag, str) and event.tag == "tag:yaml.org,2002:str"):
            raise YamlError(_line(event), f"has the tag {str(event.tag)[:60]}; tags are not used here")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        node: Node
        if isinstance(event, ScalarEvent):
            node = Scalar(_scalar(event), _line(event))
        elif isinstance(event, SequenceStartEvent):
            node = self._sequence(_line(event), path)
        else:
            node = self._mapping(event, path)
        if node.size > MAX_NODES:
            raise YamlError(
                _line(event), f"has more than {MAX_NODES} values, aliases counted as often as they are used"
            )
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: AliasEvent) -> Node:
        if (node := self._anchors.get(event.anchor)) is None:
            raise YamlError(_line(event), f"*{event.anchor} names nothing that was written before it")
        return node

    def _sequence(self, line: int, path: Path) -> Items:
        items: list[Node] = []
        size = 1
        while not isinstance(event := next(self._events), SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
            size += items[-1].size
        return Items(items, line, size)

    def _mapping(self, start: MappingStartEvent, path: Path) -> Entries:
        entries: dict[str, tuple[int, Node]] = {}
        size = 1
        while not isinstance(event := next(self._events), MappingEndEvent):
            key, line = _key(event), _line(event)
            value = self._node(next(self._events), (*path, key))
            size += 1 + value.size
            if key in entries:
                self._duplicates.append(((*path, key), line, entries[key][0]))
            else:
                entries[key] = (line, value)
        return Entries(entries, _line(start), size)


def _key(event: Any) -> str:
    """The text of a key as it is written: a network or a number is a name here, ``NO`` and ``on`` are words."""
    if not isinstance(event, ScalarEvent):
        raise YamlError(_line(event), "has a key that is not plain text")
    if event.value == "<<" and event.implicit[0]:
        raise YamlError(_line(event), "has a merge key <<, which YAML 1.2 does not know; write the values out")
    return str(event.value)


def _scalar(event: ScalarEvent) -> Value:
    text = str(event.value)
    plain = event.implicit[0] and event.style in (None, "")
    if not plain or event.tag is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _MAX_DIGITS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if match := _OCTAL.fullmatch(text):
        return int(match[1], 8)
    if match := _HEXADECIMAL.fullmatch(text):
        return int(match[1], 16)
    return float(text) if _FLOAT.fullmatch(text) else text


def _plain(node: Node) -> Any:
    match node:
        case Scalar(value):
            return value
        case Items(items):
            return [_plain(item) for item in items]
        case Entries(entries):
            return {key: _plain(value) for key, (_, value) in entries.items()}
        case _:
            assert_never(node)


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
