"""What copies files: sftp, scp, rsync, git."""

from __future__ import annotations

import random
from pathlib import Path

from bastion.core.policy import Action
from tests.clients.desk import HOST, Content, Desk, Kept
from tests.clients.trees import grow, leaves

SIZE = 1_000_000
"""Bytes of a file; thirty of SFTP's pieces."""

WRITES = Action.SSH_SFTP_WRITE

MANY = 200

FEWER = 60
"""Files, where the way they take is much the same."""

SFTP = Action.SSH_SFTP_READ
"""What an sftp session is to begin with."""


def content(desk: Desk, name: str = "local", size: int = SIZE) -> bytes:
    """A file at the desk."""
    data = random.Random(name).randbytes(size)
    (desk.folder / name).write_bytes(data)
    return data


async def batch(desk: Desk, *commands: str) -> str:
    """Run sftp; what it said."""
    said = await desk.must("sftp", "-F", desk.config, "-b", "-", HOST, stdin="\n".join(commands).encode() + b"\n")
    return said.decode()


async def sftp(desk: Desk) -> list[Kept]:
    data = content(desk)
    said = await batch(
        desk, "mkdir sftp", "put local sftp/one", "rename sftp/one sftp/two", "chmod 640 sftp/two", "ls -l sftp",
        "get sftp/two back", "symlink two sftp/link", "get sftp/link linked", "rm sftp/link", "rm sftp/two",
        "rmdir sftp",
    )  # fmt: skip
    assert "-rw-r-----" in said
    assert (desk.folder / "back").read_bytes() == (desk.folder / "linked").read_bytes() == data
    assert not (desk.home / "sftp").exists()
    return [Kept(SFTP, files=[data], marks=["sftp/one", "sftp/two", "sftp/link"])]


async def sftp_recursive(desk: Desk) -> list[Kept]:
    tree = grow(desk.folder / "tree", MANY)
    await batch(desk, "put -r tree sftp-tree", "get -r sftp-tree back")
    assert leaves(desk.home / "sftp-tree") == leaves(desk.folder / "back") == leaves(tree)
    return [Kept(SFTP, files=[path.read_bytes() for path in tree.rglob("file-*") if path.stat().st_size])]


async def sftp_resumed(desk: Desk) -> list[Kept]:
    """`reput` and `reget` go on where a copy broke off."""
    data, half = content(desk), SIZE // 2
    (desk.home / "resumed").write_bytes(data[:half])
    (desk.folder / "back").write_bytes(data[:half])
    await batch(desk, "reput local resumed", "reget resumed back")
    assert (desk.home / "resumed").read_bytes() == (desk.folder / "back").read_bytes() == data
    return [Kept(SFTP, files=[data[half:]], marks=["resumed"])]


async def sftp_that_fails(desk: Desk) -> list[Kept]:
    """The target's own refusals arrive as such."""
    ran = await desk.run("sftp", "-F", desk.config, "-b", "-", HOST, stdin=b"get nothing\n")
    assert ran.status == 1
    assert "nothing" in ran.err
    assert "not found" in ran.err
    return [Kept(SFTP)]


async def scp_recursive(desk: Desk) -> list[Kept]:
    tree = grow(desk.folder / "tree", FEWER)
    await desk.must("scp", "-F", desk.config, "-r", "tree", f"{HOST}:scp-tree")
    await desk.must("scp", "-F", desk.config, "-r", f"{HOST}:scp-tree", "back")
    assert leaves(desk.home / "scp-tree") == leaves(desk.folder / "back") == leaves(tree)
    files = [path.read_bytes() for path in tree.rglob("file-*") if path.stat().st_size]
    return [Kept(SFTP, files=files)] * 2


async def old_scp_recursive(desk: Desk) -> list[Kept]:
    tree = grow(desk.folder / "tree", FEWER)
    await desk.must("scp", "-O", "-F", desk.config, "-r", "tree", f"{HOST}:old-tree")
    await desk.must("scp", "-O", "-F", desk.config, "-r", f"{HOST}:old-tree", "back")
    assert leaves(desk.home / "old-tree") == leaves(desk.folder / "back") == leaves(tree)
    files = [path.read_bytes() for path in tree.rglob("*") if path.is_file()]
    return [Kept(WRITES, "scp -r -t", files=files), Kept(SFTP, "scp -r -f", files=files)]


async def scp_between_targets(desk: Desk) -> list[Kept]:
    """`scp -3` through the desk: two connections of one client at once."""
    data = random.Random(3).randbytes(SIZE)
    (desk.home / "three").write_bytes(data)
    await desk.must("scp", "-F", desk.config, "-3", f"{HOST}:three", f"{HOST}:four")
    assert (desk.home / "four").read_bytes() == data
    return [Kept(SFTP, files=[data], marks=["three"]), Kept(SFTP, files=[data], marks=["four"])]


async def rsync(desk: Desk) -> list[Kept]:
    """A tree there, a change, the difference, and all of it back."""
    tree, copied, back = grow(desk.folder / "tree", MANY), desk.home / "rsynced", desk.folder / "back"
    command = ["rsync", "-a", "--delete", "--stats", "-e", desk.remote_shell]
    await desk.must(*command, "tree/", f"{HOST}:rsynced/")
    assert leaves(copied) == leaves(tree)
    changed = next(path for path in sorted(tree.rglob("file-*")) if path.stat().st_size)
    changed.write_bytes(changed.read_bytes() + b"changed")
    next(tree.rglob("file-1")).unlink()
    stats = (await desk.must(*command, "tree/", f"{HOST}:rsynced/")).decode()
    assert "Number of regular files transferred: 1\n" in stats
    assert leaves(copied) == leaves(tree)
    await desk.must(*command, f"{HOST}:rsynced/", "back/")
    assert leaves(back) == leaves(tree)
    there, here = Kept(Action.SSH_EXEC, "rsync --server"), Kept(Action.SSH_EXEC, "rsync --server --sender")
    return [here, there, there]


async def rsync_resumed(desk: Desk) -> list[Kept]:
    data, half = content(desk), SIZE // 2
    (desk.home / "appended").write_bytes(data[:half])
    said = await desk.must("rsync", "--append", "--stats", "-e", desk.remote_shell, "local", f"{HOST}:appended")
    assert (desk.home / "appended").read_bytes() == data
    assert f"Literal data: {half:,} bytes" in said.decode()
    return [Kept(Action.SSH_EXEC, "rsync --server")]


async def git(desk: Desk) -> list[Kept]:
    """A push of a repository with some history, and a clone of it."""
    who = {f"GIT_{role}_{part}": "ada@example.com" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    more = who | {"GIT_SSH_COMMAND": desk.remote_shell}
    tree = grow(desk.folder / "work", 30)
    await desk.must("git", "init", "-q", "--bare", "-b", "main", desk.home / "repository.git")
    await desk.must("git", "init", "-q", "-b", "main", "work")
    for message in ("first", "second"):
        (tree / "message").write_text(message)
        await desk.must("git", "-C", "work", "add", "-A")
        await desk.must("git", "-C", "work", "commit", "-q", "-m", message, more=more)
    await desk.must("git", "-C", "work", "push", "-q", f"{HOST}:repository.git", "main", more=more)
    await desk.must("git", "clone", "-q", f"{HOST}:repository.git", "cloned", more=more)
    heads = [await desk.must("git", "-C", name, "rev-parse", "HEAD") for name in ("work", "cloned")]
    assert heads[0] == heads[1]
    assert _checked_out(desk.folder / "cloned") == _checked_out(tree)
    return [
        Kept(Action.SSH_EXEC, "git-receive-pack 'repository.git'", into=Content(b"PACK")),
        Kept(Action.SSH_EXEC, "git-upload-pack 'repository.git'", out=Content(b"PACK")),
    ]


def _checked_out(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in leaves(folder).items() if not name.startswith(".git/")}
