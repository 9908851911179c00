"""The configuration: one YAML file, read strictly, checked wholly, frozen.

`load` gives `Settings` or a `ConfigError` that names every mistake by its line and path. In the order of reading:
`yaml` (text and lines), `settings` (each setting), `semantics` (settings among themselves), `surroundings` (files).
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from bastion.config import semantics, surroundings, yaml
from bastion.config.problems import Problem, lines, of_validation
from bastion.config.settings import Settings, schema
from bastion.config.values import HostPort
from bastion.core.errors import ConfigError

__all__ = ["HostPort", "Settings", "load", "read_document", "read_policy", "schema"]

MAX_SIZE = 1 << 20
"""Bytes of one file, whether configuration, policies or tests."""


def load(path: Path, *, here: bool = True) -> Settings:
    """Read and check a configuration.

    Args:
        path: of the file; relative paths in it begin at its directory.
        here: whether this is the machine it is for. If not (git CI), keys and secrets are not looked at.

    Raises:
        ConfigError: one line for each mistake, in the order of the file; nothing was started.
    """
    document = read_document(path)
    base = path.absolute().parent
    raw = document.plain()
    if not isinstance(raw, dict):
        raise ConfigError([f"{path.name}:1: must be a mapping: lines of key: value"])
    found = [Problem(at, f"is there already, on line {first}", line) for at, line, first in document.duplicates]
    settings = None
    try:
        settings = Settings.model_validate(raw, context={"base": base})
    except ValidationError as error:
        found += of_validation(error, Settings)
    found += semantics.problems(semantics.Readable(raw, {"base": base}))
    if settings is not None:
        found += surroundings.nearby(settings)
        found += surroundings.on_this_machine(settings) if here else ()
    if settings is None or found:
        raise ConfigError(lines(found, document, path.name))
    return settings


def read_policy(settings: Settings) -> str:
    """The text of the policy file. Raises `ConfigError`."""
    return _read_text(settings.policy)


def read_document(path: Path) -> yaml.Document:
    """Read one YAML file.

    Raises:
        ConfigError: it cannot be read, is not UTF-8, or is not YAML as `bastion.config.yaml` reads it.
    """
    try:
        return yaml.parse(_read_text(path))
    except yaml.YamlError as error:
        raise ConfigError([f"{path.name}:{error.line}: {error}"]) from None


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise ConfigError([f"{path}: is not a file"])
        with path.open("rb") as file:
            content = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise ConfigError([f"{path}: is unreadable: {error.strerror or error}"]) from None
    if len(content) > MAX_SIZE:
        raise ConfigError([f"{path.name}:1: is larger than {MAX_SIZE} bytes"])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([f"{path.name}:{line}: is not UTF-8"]) from None
