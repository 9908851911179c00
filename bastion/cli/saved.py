"""What the command line remembers of a login: one file, its owner's alone."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


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
        with path().open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                return None
            body: dict[str, Any] = json.load(file)
        expires_at = body.get("expires_at")
        return SavedLogin(
            url=str(body["url"]),
            token=body.get("token"),
            expires_at=datetime.fromisoformat(expires_at).astimezone(UTC) if expires_at else None,
            display=str(body.get("display", "")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def save(login: SavedLogin) -> None:
    """Replace what was saved, all or nothing.

    Raises:
        OSError: it cannot be written; what was saved before is still there.
    """
    file = path()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    body = {
        "url": login.url,
        "token": login.token,
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
