"""Tokens at rest: in the keyring or in the file, never in both, through the real keyring package."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError, PasswordSetError

from bastion.cli import exits, saved
from tests.cli.test_login import Machine, console, machine
from tests.services.identity import Console

__all__ = ["console", "machine"]

URL, OTHER = "https://bastion.example.com", "https://other.example.com"
TOKEN = "a.secret.token"
UNTIL = datetime(2026, 3, 2, 12, tzinfo=UTC)


class FileKeyring(KeyringBackend):
    """A keyring that keeps what it is given in a file, so that two processes see the same one."""

    priority: float = 5
    path = Path()

    def _all(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.path.read_text()) if self.path.exists() else {}
        return found

    def get_password(self, service: str, username: str) -> str | None:
        return self._all().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self.path.write_text(json.dumps(self._all() | {f"{service} {username}": password}))

    def delete_password(self, service: str, username: str) -> None:
        kept = self._all()
        if kept.pop(f"{service} {username}", None) is None:
            raise PasswordDeleteError("not found")
        self.path.write_text(json.dumps(kept))


class EnvironmentKeyring(FileKeyring):
    """The same, for a program of its own: the environment says where."""

    @property
    def path(self) -> Path:  # type: ignore[override]
        return Path(os.environ["TEST_KEYRING"])


class RefusingKeyring(FileKeyring):
    """Its owner does not unlock it to write."""

    def set_password(self, service: str, username: str, password: str) -> None:
        raise PasswordSetError("denied")


class LockedKeyring(FileKeyring):
    def get_password(self, service: str, username: str) -> str | None:
        raise KeyringLocked("locked")


class PlaintextKeyring(FileKeyring):
    priority = 0.5


class NoKeyring(FileKeyring):
    """What the package itself gives where there is none."""

    priority = 0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    before = keyring.get_keyring()
    use(NoKeyring, tmp_path)
    yield tmp_path
    keyring.set_keyring(before)


def use(kind: type[FileKeyring], folder: Path) -> FileKeyring:
    backend = kind()
    backend.path = folder / "keyring.json"
    keyring.set_keyring(backend)
    return backend


def login(url: str = URL, token: str | None = TOKEN) -> saved.SavedLogin:
    return saved.SavedLogin(url, token, UNTIL, "alice@corp.example")


def copies(folder: Path) -> dict[str, int]:
    """How often the token is where."""
    return {
        path.name: path.read_text().count(TOKEN)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and TOKEN in path.read_text()
    }


def test_without_a_keyring_the_token_is_in_a_file_of_its_owner_alone(home: Path) -> None:
    saved.save(login())
    assert saved.load() == login()
    assert copies(home) == {"login.json": 1}
    assert stat.S_IMODE(saved.path().stat().st_mode) == 0o600


def test_with_a_keyring_the_token_is_there_alone(home: Path) -> None:
    use(FileKeyring, home)
    saved.save(login())
    assert saved.load() == login()
    assert copies(home) == {"keyring.json": 1}
    assert stat.S_IMODE(saved.path().stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", [RefusingKeyring, PlaintextKeyring], ids=["refuses", "keeps plain text"])
def test_a_keyring_that_does_not_keep_it_safe_is_not_used(home: Path, kind: type[FileKeyring]) -> None:
    use(kind, home)
    saved.save(login())
    assert saved.load() == login()
    assert copies(home) == {"login.json": 1}


def test_a_keyring_that_comes_later_takes_the_token_over_at_the_next_login(home: Path) -> None:
    saved.save(login())
    use(FileKeyring, home)
    assert saved.load() == login()
    saved.save(login())
    assert copies(home) == {"keyring.json": 1}


def test_a_keyring_that_has_gone_means_nobody_is_logged_in_and_a_login_goes_to_the_file(home: Path) -> None:
    backend = use(FileKeyring, home)
    saved.save(login())
    use(NoKeyring, home)
    known = saved.load()
    assert known is not None
    assert (known.url, known.token, known.is_good(UNTIL - timedelta(hours=1))) == (URL, None, False)
    backend.path.unlink()
    saved.save(login())
    assert copies(home) == {"login.json": 1}


def test_a_locked_keyring_means_nobody_is_logged_in(home: Path) -> None:
    use(FileKeyring, home)
    saved.save(login())
    use(LockedKeyring, home)
    known = saved.load()
    assert known is not None
    assert known.token is None


@pytest.mark.parametrize("kind", [None, FileKeyring], ids=["file", "keyring"])
def test_logging_out_leaves_no_copy_and_remembers_the_url(home: Path, kind: type[FileKeyring] | None) -> None:
    if kind is not None:
        use(kind, home)
    saved.save(login())
    saved.save(login().without_token())
    assert copies(home) == {}
    assert saved.load() == saved.SavedLogin(URL)


def test_another_bastion_leaves_nothing_of_the_first(home: Path) -> None:
    use(FileKeyring, home)
    saved.save(login())
    saved.save(login(OTHER, "another.token"))
    assert copies(home) == {}
    known = saved.load()
    assert known is not None
    assert known.token == "another.token"


def test_a_process_that_dies_between_leaves_no_second_copy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FileKeyring, home)
    saved.save(login(token="the.old.token"))

    def die(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(saved, "_put", die)
    with pytest.raises(KeyboardInterrupt):
        saved.save(login())
    assert copies(home) == {}
    assert saved.load() == saved.SavedLogin(URL)


async def test_the_commands_work_with_a_keyring(console: Console, machine: Machine) -> None:
    kept = machine.folder / "keyring.json"
    extra = {
        "PYTHON_KEYRING_BACKEND": "tests.cli.test_saved.EnvironmentKeyring",
        "TEST_KEYRING": str(kept),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = await machine.run("login", console.url, **extra)
    assert done.status == exits.OK, done.err
    (token,) = json.loads(kept.read_text()).values()
    assert token not in machine.file.read_text()
    done = await machine.run("whoami", **extra)
    assert (done.status, "alice@corp.example" in done.out) == (exits.OK, True), done.err
    done = await machine.run("whoami", PYTHON_KEYRING_BACKEND="keyring.backends.null.Keyring")
    assert done.status == exits.NOT_LOGGED_IN
    done = await machine.run("logout", **extra)
    assert (done.status, json.loads(kept.read_text())) == (exits.OK, {}), done.err
    done = await machine.run("whoami", **extra)
    assert done.status == exits.NOT_LOGGED_IN


def test_without_the_extra_the_keyring_is_not_missed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(FileKeyring, home)
    saved.save(login())
    for name in [name for name in sys.modules if name.split(".")[0] == "keyring"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "keyring", None)
    known = saved.load()
    assert known is not None
    assert known.token is None
    saved.save(login())
    known = saved.load()
    assert known is not None
    assert known.token == TOKEN
