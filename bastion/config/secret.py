"""Secrets are references: where one is kept, never what it is.

``{file: /path}``, ``{env: NAME}`` or ``{credential: name}`` (systemd's LoadCredential, systemd.exec(5)). A setting that
may be either, such as a database's URL, can also be plain, as long as no password is in it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from bastion.core.errors import ConfigError

MAX_SIZE = 64 * 1024
"""Bytes of one secret; a chain of certificates with its key is a tenth of that."""

HOW = "{file: /path/to/it}, {env: NAME} or {credential: name}"


@dataclass(frozen=True, slots=True)
class FileSecret:
    """A file that only its owner can read. ``path`` is absolute."""

    path: Path

    def reveal(self) -> str:
        """The file's text without one trailing newline. Raises `ConfigError`."""
        return _read(self.path, private=True)


@dataclass(frozen=True, slots=True)
class EnvSecret:
    """An environment variable."""

    name: str

    def reveal(self) -> str:
        """The variable's value. Raises `ConfigError`."""
        if not (value := os.environ.get(self.name)):
            raise ConfigError([f"the environment variable {self.name} is not set, or empty"])
        return value


@dataclass(frozen=True, slots=True)
class CredentialSecret:
    """A credential that systemd passes to the service; its directory is private, so the mode is systemd's affair."""

    name: str

    @property
    def path(self) -> Path:
        """Where systemd put it. Raises `ConfigError`."""
        if not (directory := os.environ.get("CREDENTIALS_DIRECTORY")):
            raise ConfigError([f"$CREDENTIALS_DIRECTORY is not set; add LoadCredential={self.name}:… to the unit"])
        return Path(directory) / self.name

    def reveal(self) -> str:
        """The credential's text without one trailing newline. Raises `ConfigError`."""
        return _read(self.path, private=False)


@dataclass(frozen=True, slots=True)
class Plain:
    """A value that was written into the file, because it is no secret."""

    value: str

    def reveal(self) -> str:
        """The value itself."""
        return self.value


Secret = FileSecret | EnvSecret | CredentialSecret


def parse_secret(raw: Any, base: Path) -> Secret:
    """Read a reference; paths are relative to ``base``.

    Raises:
        ValueError: it is none. The sentence never repeats what was written: it may be the secret.
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"is a secret, which is not written here: put it in a file of mode 0600 and write {HOW}")
    match dict(raw):
        case {"file": str(path), **rest} if path and not rest:
            return FileSecret(base / path)
        case {"env": str(name), **rest} if name and not rest:
            return EnvSecret(name)
        case {"credential": str(name), **rest} if name and not rest and "/" not in name and name not in (".", ".."):
            return CredentialSecret(name)
        case _:
            raise ValueError(f"must be one reference: {HOW}")


def parse_key(raw: Any, base: Path) -> FileSecret | CredentialSecret:
    """Read a reference to a key that OpenSSL opens itself, so that it has to be a file: it has a ``path``.

    Raises:
        ValueError: it is none.
    """
    match parse_secret(raw, base):
        case EnvSecret():
            raise ValueError("must be a {file: …} or a {credential: …}: a key is opened as a file")
        case secret:
            return secret


def parse_url(raw: Any, base: Path, schemes: tuple[str, ...], bare: str) -> Secret | Plain:
    """Read a URL of one of ``schemes``, the word ``bare``, or a reference to a secret that holds one.

    Raises:
        ValueError: it is none of these, or has a password in plain.
    """
    if not isinstance(raw, str):
        return parse_secret(raw, base)
    if raw == bare:
        return Plain(raw)
    try:
        url = urlsplit(raw)
        password = url.password is not None or any("pass" in key.lower() for key, _ in parse_qsl(url.query))
    except ValueError:
        raise ValueError(_must_be(schemes, bare)) from None
    if password:
        raise ValueError("has a password in plain: put the whole URL in a file of mode 0600 and write {file: /path}")
    if url.scheme not in schemes or "://" not in raw:
        raise ValueError(_must_be(schemes, bare))
    return Plain(raw)


def _must_be(schemes: tuple[str, ...], bare: str) -> str:
    return f"must be {bare}, or a URL that begins with {' or '.join(scheme + '://' for scheme in schemes)}"


def _read(path: Path, *, private: bool) -> str:
    try:
        # O_NONBLOCK: a named pipe without a writer would hold the start for ever.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError([f"{path} is not a file"])
            mode = stat.S_IMODE(status.st_mode)
            if private and mode & 0o077:
                raise ConfigError([f"{path} has mode {mode:04o} and others can read it: chmod 600 {path}"])
            content = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise ConfigError([f"{path} is unreadable: {error.strerror or error}"]) from None
    if len(content) > MAX_SIZE:
        raise ConfigError([f"{path} is larger than {MAX_SIZE} bytes"])
    try:
        text = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError([f"{path} is not UTF-8 text"]) from None
    if not text:
        raise ConfigError([f"{path} is empty"])
    return text
