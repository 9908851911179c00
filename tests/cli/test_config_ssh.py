"""``bastion config-ssh``: what it does to somebody's ``~/.ssh/config``, and that plain ssh works after it."""

from __future__ import annotations

import asyncio
import os
import re
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.cli import exits
from bastion.cli.managed import BEGIN, END, MADE, NotEdited, edit, with_block, without_block
from bastion.demo.stage import LOGIN, PRODUCTION_WEB, STAGING_WEB
from tests.cli.contractor import Contractor, contractor, grant

LINES = ["Match all", 'Include "/somewhere/hosts"']
OWN = b"Compression yes\nHost work\n    User me\n"


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(None, id="no file"),
        pytest.param(b"", id="empty file"),
        pytest.param(OWN, id="own content"),
        pytest.param(OWN.rstrip(b"\n"), id="no newline at the end"),
        pytest.param(OWN.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(b"\xff\xfe\x00 not text \x80", id="not UTF-8"),
        pytest.param(b"\n\n\n", id="empty lines"),
        pytest.param(b"# >>> other >>>\n# <<< other <<<\n", id="another program's block"),
    ],
)
def test_what_was_written_is_there_once_and_undone_to_the_byte(before: bytes | None) -> None:
    once = with_block(before, LINES)
    assert with_block(once, LINES) == once
    assert once.endswith(before or b"")
    assert once.count(END.encode()) == 1
    assert without_block(once) == before


@given(st.one_of(st.none(), st.binary()), st.lists(st.text("abc #<>", min_size=1), max_size=3))
def test_any_content_survives(before: bytes | None, lines: list[str]) -> None:
    if before is not None and (b"# >>> bastion" in before or b"# <<< bastion" in before):
        return
    assert without_block(with_block(with_block(before, ["x"]), [f"  {line}" for line in lines])) == before


def test_a_block_that_its_owner_moved_stays_there_and_what_they_added_stays_too() -> None:
    moved = OWN + with_block(None, LINES) + b"# mine\n"
    changed = with_block(moved, ["Match all"])
    assert changed.startswith(OWN)
    assert changed.endswith(b"# mine\n")
    assert without_block(changed) == OWN + b"# mine\n"


def test_a_file_that_this_made_and_somebody_added_to_is_not_removed() -> None:
    assert MADE.encode() in with_block(None, LINES)
    assert without_block(with_block(None, LINES) + OWN) == OWN


def test_line_ends_are_those_of_the_file() -> None:
    assert with_block(b"Host a\r\n", LINES).count(b"\r\n") == with_block(b"Host a\r\n", LINES).count(b"\n")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"{BEGIN}\nMatch all\n", id="no end"),
        pytest.param(f"Match all\n{END}\n", id="no beginning"),
        pytest.param(f"{END}\n{BEGIN}\n", id="the wrong way round"),
        pytest.param(f"{BEGIN}\n{END}\n" * 2, id="twice"),
    ],
)
def test_an_altered_block_is_left_alone(text: str) -> None:
    with pytest.raises(NotEdited, match="by hand"):
        with_block(text.encode(), LINES)
    with pytest.raises(NotEdited, match="by hand"):
        without_block(text.encode())


def put(path: Path) -> bool:
    return edit(path, lambda text: with_block(text, LINES))


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640])
def test_the_mode_is_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "config"
    path.write_bytes(OWN)
    path.chmod(mode)
    assert put(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert not put(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_and_its_folder_are_the_owners_alone_and_the_file_goes_again(tmp_path: Path) -> None:
    path = tmp_path / ".ssh" / "config"
    assert put(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert edit(path, without_block)
    assert not path.exists()


def test_the_owner_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(OWN)
    try:
        path.chmod(0o600)
        os.chown(path, 12345, 12345)
    except PermissionError:
        pytest.skip("only root can give a file away")
    assert put(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12345)


def test_a_link_within_the_folder_is_followed_and_stays_one(tmp_path: Path) -> None:
    real, path = tmp_path / "config.real", tmp_path / "config"
    real.write_bytes(OWN)
    path.symlink_to("config.real")
    assert put(path)
    assert path.is_symlink()
    assert real.read_bytes().endswith(OWN)
    assert edit(path, without_block)
    assert real.read_bytes() == OWN


@pytest.mark.parametrize("exists", [True, False], ids=["a file", "nothing"])
def test_a_link_to_elsewhere_is_refused_with_its_end(tmp_path: Path, exists: bool) -> None:
    elsewhere = tmp_path / "dotfiles" / "ssh_config"
    elsewhere.parent.mkdir()
    if exists:
        elsewhere.write_bytes(OWN)
    folder = tmp_path / ".ssh"
    folder.mkdir()
    (folder / "config").symlink_to(elsewhere)
    with pytest.raises(NotEdited, match=r"is a link to .*dotfiles.* by hand .* config-ssh --dry-run"):
        put(folder / "config")
    assert elsewhere.exists() is exists
    assert not exists or elsewhere.read_bytes() == OWN


@pytest.mark.parametrize("what", ["folder", "pipe", "no place for a folder"])
def test_what_cannot_be_edited_says_so_and_stays(tmp_path: Path, what: str) -> None:
    path = tmp_path / ".ssh" / "config"
    if what == "no place for a folder":
        (tmp_path / ".ssh").write_text("a file")
    else:
        path.parent.mkdir()
        path.mkdir() if what == "folder" else os.mkfifo(path)
    with pytest.raises(NotEdited, match="config"):
        put(path)


def test_a_folder_that_cannot_be_written_to_says_so() -> None:
    with pytest.raises(NotEdited, match="cannot be changed"):
        put(Path("/proc/self/.ssh/config"))  # root could write anywhere else


def test_what_somebody_else_writes_meanwhile_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(OWN)
    others = iter([b"# theirs\n" + OWN])

    def change(text: bytes | None) -> bytes:
        if (their := next(others, None)) is not None:
            path.write_bytes(their)  # after we read it, before we write it
        return with_block(text, LINES)

    assert edit(path, change)
    assert path.read_bytes().endswith(b"# theirs\n" + OWN)
    assert list(tmp_path.iterdir()) == [path]


async def test_after_config_ssh_plain_ssh_just_works(tmp_path: Path) -> None:
    async with contractor(tmp_path / "stage", granted=False) as them:
        them.config.parent.mkdir(mode=0o700)
        them.config.write_bytes(OWN)
        dry = await them.run("bastion", "config-ssh", "--dry-run")
        assert (dry.status, 'Match originalhost "*.staging.eu,' in dry.out) == (exits.OK, True), dry
        assert them.config.read_bytes() == OWN

        together = await asyncio.gather(*(them.run("bastion", "config-ssh") for _ in range(4)))
        assert [done.status for done in together] == [exits.OK] * 4, together
        written = them.config.read_bytes()
        assert written.endswith(OWN)
        assert written.count(END.encode()) == 1
        assert "production" not in written.decode()  # no policy lets a contractor ask for it

        denied = await them.ssh(STAGING_WEB, "true")
        assert denied.status == 255
        assert "no live grant on web-1.staging.eu" in denied.err

        await grant(them)
        # Nothing was fetched by hand, and nobody said as whom: the grant has one login.
        done = await them.ssh(STAGING_WEB, "echo I am $LOGNAME; exit 3")
        assert (done.status, done.out) == (3, f"I am {LOGIN}\n"), done.err
        assert len(await them.events("certificate:issued")) == 1

        first = them.certificate.read_bytes()
        many = await asyncio.gather(*(them.ssh(f"{LOGIN}@{STAGING_WEB}", f"echo {n}") for n in range(4)))
        assert [done.out for done in many] == [f"{n}\n" for n in range(4)]
        assert them.certificate.read_bytes() == first

        await _its_last_seconds(them)
        many = await asyncio.gather(*(them.ssh(STAGING_WEB, f"echo {n}") for n in range(4)))
        assert [done.out for done in many] == [f"{n}\n" for n in range(4)], many
        assert len(await them.events("certificate:issued")) == 2  # one for the four of them
        assert them.certificate.read_bytes() != first

        # Of other hosts nothing changes: not what is asked, nor whom.
        shown = await them.run("ssh", "-G", "-F", str(them.config), "work")
        assert {"user me", "compression yes"} <= set(shown.out.splitlines())
        assert "proxyjump" not in shown.out

        assert (await them.run("bastion", "logout")).status == exits.OK
        assert not them.certificate.exists()
        done = await them.ssh(STAGING_WEB, "true")
        assert done.status == 255
        assert done.err.splitlines()[0] == "Not logged in: bastion login"

        undone = await them.run("bastion", "config-ssh", "--undo")
        assert (undone.status, them.config.read_bytes()) == (exits.OK, OWN), undone
        again = await them.run("bastion", "config-ssh", "--undo")
        assert (again.status, "There is nothing" in again.out) == (exits.OK, True)


async def _its_last_seconds(them: Contractor) -> None:
    text = them.certificate.read_text()
    them.certificate.write_text(re.sub(r"until=\d+", f"until={int(time.time()) + 30}", text))


async def test_a_host_name_that_tries_to_be_a_command_is_none(tmp_path: Path) -> None:
    """OpenSSH before 9.6 hands any name to the shell of Match exec, and a link in a repository can bring one."""
    async with contractor(tmp_path / "stage") as them:
        assert (await them.run("bastion", "config-ssh")).status == exits.OK
        for name in (
            "x';touch${IFS}hacked;'.staging.eu",
            "$(touch${IFS}hacked).staging.eu",
            "`touch${IFS}hacked`.staging.eu",
            "--help.staging.eu",
            "a.b.staging.eu",
        ):
            done = await them.run("ssh", "-F", str(them.config), "-G", "--", name)
            assert not Path("hacked").exists(), name
            assert not (them.home / "hacked").exists(), name
            assert "Traceback" not in done.err
        assert not them.certificate.exists()
        assert PRODUCTION_WEB not in them.config.read_text()
