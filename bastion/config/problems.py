"""What is wrong with a file, in sentences: ``bastion.yaml:42: targets[1].port: must be a number from 1 to 65535``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from bastion.config.yaml import Document, Path
from bastion.core.target import LABEL

_SENTENCES: Mapping[str, str] = {
    "missing": "is missing",
    "tuple_type": "must be a list: [a, b], or one a line with a hyphen before each",
    "dict_type": "must be a mapping: lines of key: value",
    "model_type": "must be a mapping: lines of key: value",
    "model_attributes_type": "must be a mapping: lines of key: value",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where, and the sentence that its path begins."""

    path: Path
    sentence: str
    line: int | None = None
    """Where the path alone does not say it: of the second of two keys."""


def lines(problems: Iterable[Problem], document: Document, source: str) -> list[str]:
    """Every problem as one line of text, in the order of the file, each once."""
    placed = {
        (problem.line or document.line_of(problem.path), spell(problem.path), problem.sentence) for problem in problems
    }
    return [f"{source}:{line}: {path + ': ' if path else ''}{sentence}" for line, path, sentence in sorted(placed)]


def spell(path: Path) -> str:
    """``targets[1].port``; a key that is more than a name stands in quotes: ``geo.networks["10.0.0.0/8"]``."""
    spelled = ""
    for step in path:
        if isinstance(step, int):
            spelled += f"[{step}]"
        elif LABEL.fullmatch(step.lower().replace("_", "-")):
            spelled += f".{step}"
        else:
            spelled += f'["{_printable(step)}"]'
    return spelled.removeprefix(".")


def of_validation(error: ValidationError, model: type[BaseModel]) -> Iterator[Problem]:
    """The problems that pydantic found, one for each mistake, in our words."""
    for detail in error.errors(include_url=False, include_input=False):
        path = tuple(step for step in detail["loc"] if step != "[key]")
        match detail["type"]:
            case "value_error":
                sentence = str(detail["ctx"]["error"])
            case "extra_forbidden":
                known = _keys_at(model, path[:-1])
                close = get_close_matches(str(path[-1]), sorted(known), 1)
                sentence = "is not a known key" + (f"; did you mean {close[0]}?" if close else "")
            case "missing" if path[-1] == "fence":
                sentence = f"is missing: nobody could reach {path[-2]}; say from where, fence: {{countries: [DE]}}"
            case "literal_error" | "enum":
                sentence = f"must be {detail['ctx']['expected'].replace(chr(39), '')}"
            case kind:
                sentence = _SENTENCES.get(kind, detail["msg"])
        yield Problem(path, sentence)


def _keys_at(model: type[BaseModel], path: Path) -> set[str]:
    """The keys that the section at ``path`` can have."""
    kind: Any = model
    for step in path:
        section = _section(kind)
        if section is not None and isinstance(step, str) and step in section.model_fields:
            kind = section.model_fields[step].annotation
    section = _section(kind)
    return set(section.model_fields) if section is not None else set()


def _section(kind: Any) -> type[BaseModel] | None:
    """The section itself, or the one in a list, a mapping or an optional of sections."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((found for part in get_args(kind) if (found := _section(part)) is not None), None)


def _printable(key: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in key[:60])
