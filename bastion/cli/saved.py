"""What the command line remembers of a login: one file, its owner's alone, and the token in the system's keyring.

The keyring needs the extra ``bastion[keyring]`` and a keyring to talk to; without one the token is in the file. It is
never in both: whichever is written, the other is emptied first.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE = "bastion"
"""What the keyring's own programs show the token under; its user name there is the bastion's URL."""

MIN_PRIORITY = 1
"""Below it a keyring is one that keeps nothing, or keeps it as plain text (`keyring.backend`, on priorities)."""


@dataclass(frozen=True, slots=True)
class SavedLogin:
    """The bastion last logged in to, and the token for it while there is one."""

    url: str
    token: str | None = None
    expires_at: datetime | None = None
    display: str = ""

    def __repr__(self) -> str:
        return f"SavedLogin({self.url!r}, until={self.expires_at})"

    def is_good(self, now: datetime) -> bool:
        """Whether there is a token that is not over yet. The bastion may still say otherwise."""
        return self.token is not None and self.expires_at is not None and now < self.expires_at

    def without_token(self) -> SavedLogin:
        """The URL alone."""
        return replace(self, token=None, expires_at=None, display="")


def path() -> Path:
    """``$XDG_CONFIG_HOME/bastion/login.json`` (XDG Base Directory Specification: a relative value is ignored)."""
    home = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".config") / "bastion" / "login.json"


def load() -> SavedLogin | None:
    """What was saved; None when nothing was, or it cannot be read as that, or others can read it."""
    try:
        body = _read()
        expires_at = body.get("expires_at")
        login = SavedLogin(
            url=str(body["url"]),
            token=body.get("token"),
            expires_at=datetime.fromisoformat(expires_at).astimezone(UTC) if expires_at else None,
            display=str(body.get("display", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return replace(login, token=_from_keyring(login.url)) if body.get("in_keyring") is True else login


def save(login: SavedLogin) -> None:
    """Replace what was saved, all or nothing.

    Raises:
        OSError: it cannot be written; what was saved before is still there, or nobody is logged in.
    """
    keyring = _keyring() if login.token is not None or _is_in_keyring() else None
    if keyring is None:
        _write(login, in_keyring=False)
        return
    old = load()
    _write(login.without_token(), in_keyring=False)  # first: a crash on the way logs out, and leaves no second copy
    if old is not None:
        _empty(keyring, old.url)
    if login.token is not None:
        _write(login, in_keyring=_put(keyring, login.url, login.token))


def _read() -> dict[str, Any]:
    with path().open(encoding="utf-8") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise PermissionError("others can read it")
        body: dict[str, Any] = json.load(file)
        return body


def _write(login: SavedLogin, *, in_keyring: bool) -> None:
    file = path()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    body = {
        "url": login.url,
        "token": None if in_keyring else login.token,
        "in_keyring": in_keyring,
        "expires_at": login.expires_at.isoformat() if login.expires_at else None,
        "display": login.display,
    }
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        json.dump(body, out)
        out.flush()
        os.fsync(out.fileno())
    draft.replace(file)


# The keyring ----------------------------------------------------------------------------------------------------------


def _keyring() -> KeyringBackend | None:
    """The system's, when there is one that keeps secrets."""
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:  # the extra is not installed
        return None
    try:
        backend = keyring.get_keyring()
        return backend if backend.priority >= MIN_PRIORITY else None
    except (KeyringError, RuntimeError):  # RuntimeError: its own word for a keyring that is not there
        return None


def _is_in_keyring() -> bool:
    try:
        return _read().get("in_keyring") is True
    except (OSError, ValueError, AttributeError):
        return False


def _from_keyring(url: str) -> str | None:
    backend = _keyring()
    if backend is None:
        return None
    from keyring.errors import KeyringError

    try:
        return backend.get_password(SERVICE, url)
    except (KeyringError, RuntimeError):  # locked, or not there in this session: nobody is logged in
        return None


def _put(backend: KeyringBackend, url: str, token: str) -> bool:
    """Whether it keeps the token; not when its owner refuses to unlock it."""
    from keyring.errors import KeyringError

    try:
        backend.set_password(SERVICE, url, token)
    except (KeyringError, RuntimeError):
        _empty(backend, url)
        return False
    return True


def _empty(backend: KeyringBackend, url: str) -> None:
    from keyring.errors import KeyringError

    try:
        backend.delete_password(SERVICE, url)
    except (KeyringError, RuntimeError):
        pass  # there is nothing under this name
