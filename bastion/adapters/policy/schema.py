"""The built-in Cedar schema, ``bastion.cedarschema``: without it nothing is ever asked."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import cedarpy


@cache
def schema_text() -> str:
    """The schema as it is written, with its comments."""
    return files(__package__).joinpath("bastion.cedarschema").read_text("utf-8")


@cache
def schema() -> cedarpy.Schema:
    """The schema, parsed."""
    return cedarpy.Schema.from_str(schema_text())


@cache
def words() -> frozenset[str]:
    """Every name in the schema, for suggestions: entity types, attributes, actions."""
    return frozenset(re.findall(r"[A-Za-z_]\w*(?::\w+)*", _without_comments()))


@cache
def attributes() -> frozenset[str]:
    """Every name of an attribute, of whatever."""
    return frozenset(re.findall(r"(\w+)\??: ", _without_comments()))


def _without_comments() -> str:
    return re.sub(r"//[^\n]*", "", schema_text())
