"""Where each policy of a Cedar file begins: the engine's own messages name no line."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

import cedarpy

_TOKEN = re.compile(r'//[^\n]*|"(?:\\.|[^"\\])*"|;|\s+|[^\s;"/]+|.', re.DOTALL)
_UNFINISHED = "unexpected end of input"


MAX_NESTING = 100
"""Brackets. At a thousand the engine overflows its stack and takes the whole process with it."""

MAX_LINKS = 500
"""Operators and attributes of one policy; a chain of four thousand does the same."""

_STRING = re.compile(r'"(?:\\.|[^"\\])*"', re.DOTALL)
_LINK = re.compile(r"[.+*!-]|&&|\|\||[=<>]+|\b(?:if|in|has|is|like)\b")


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy as it is written: its text with comments blanked, and the line of its first word."""

    text: str
    line: int

    def line_of(self, *words: str) -> int:
        """The line of the first of ``words`` that the policy has as a whole word, else the one it begins on."""
        for word in words:
            if found := re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", self.text):
                return self.line + self.text.count("\n", 0, found.start())
        return self.line


def split(text: str) -> list[Statement]:
    """The policies of ``text`` in order, each with the semicolon that ends it; the last one may lack it."""
    statements: list[Statement] = []
    parts: list[str] = []
    line = first = 1
    for match in _TOKEN.finditer(text):
        token = match.group()
        silent = token.isspace() or token.startswith("//")
        if not silent and not parts:
            first = line
        if parts or not silent:
            parts.append("" if token.startswith("//") else token)
        line += token.count("\n")
        if token == ";":
            statements.append(Statement("".join(parts), first))
            parts = []
    if parts:
        statements.append(Statement("".join(parts), first))
    return statements


def unbearable(statement: Statement) -> bool:
    """Whether parsing ``statement`` could end the process; asked before the engine sees it."""
    code = _STRING.sub('""', statement.text)
    depth = deepest = 0
    for character in code:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest > MAX_NESTING or len(_LINK.findall(code)) > MAX_LINKS


def syntax_problems(statements: list[Statement]) -> list[tuple[int, str]]:
    """The line and the sentence of every policy that cannot be parsed, each tried alone.

    The engine stops at the first mistake of a file, and does not say where it is.
    """
    problems = []
    for statement in statements:
        if (error := _syntax_error(statement.text)) is not None:
            line = _line_of_syntax_error(statement, error)
            problems.append((line, f"{error}, in the policy that begins on line {statement.line}"))
    return problems


def _line_of_syntax_error(statement: Statement, error: str) -> int:
    """The last line of the shortest beginning that is more wrong than merely unfinished."""
    if effect := re.search(r"effect: (\S+)", error):  # noticed by the engine at the end of the policy only
        return statement.line_of(effect[1])
    lines = statement.text.splitlines(keepends=True)
    broken = bisect_left(range(len(lines)), True, key=lambda n: _is_broken("".join(lines[: n + 1])))
    return statement.line + min(broken, len(lines) - 1)


def _is_broken(beginning: str) -> bool:
    return _syntax_error(beginning) not in (None, _UNFINISHED)


def _syntax_error(text: str) -> str | None:
    try:
        cedarpy.PolicySet.from_str(text).to_pst()
    except ValueError as error:
        return str(error)
    return None
