"""Large files and many files, there and back, exact to the byte: by every way that there is."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bastion.adapters.recordings.reading import Reader
from bastion.core.policy import Action
from bastion.core.recording import Code
from bastion.core.session import End, Session
from tests.clients.desk import HOST, Content, Desk, Kept
from tests.clients.files import SFTP, WRITES, batch
from tests.recorded import file_of

SIZE = 5_000_000
"""Bytes in the matrix: some windows. `make bench BENCH=ssh_exact` takes a gigabyte."""

PIECE = 2**24
"""Bytes written at a time."""


async def exec_there(desk: Desk) -> None:
    await desk.must("sh", "-c", f"{desk.remote_shell} {HOST} 'cat > exact' < exact")


async def exec_back(desk: Desk) -> None:
    await desk.must("sh", "-c", f"{desk.remote_shell} {HOST} 'cat exact' > back")


async def scp_there(desk: Desk) -> None:
    await desk.must("scp", "-F", desk.config, "-r", "exact", f"{HOST}:")


async def scp_back(desk: Desk) -> None:
    await desk.must("scp", "-F", desk.config, "-r", f"{HOST}:exact", "back")


async def old_scp_there(desk: Desk) -> None:
    await desk.must("scp", "-O", "-F", desk.config, "-r", "exact", f"{HOST}:")


async def old_scp_back(desk: Desk) -> None:
    await desk.must("scp", "-O", "-F", desk.config, "-r", f"{HOST}:exact", "back")


async def sftp_there(desk: Desk) -> None:
    await batch(desk, "put -r exact exact")


async def sftp_back(desk: Desk) -> None:
    await batch(desk, "get -r exact back")


async def rsync_there(desk: Desk) -> None:
    await desk.must("rsync", "-r", "-e", desk.remote_shell, "exact", f"{HOST}:")


async def rsync_back(desk: Desk) -> None:
    await desk.must("rsync", "-e", desk.remote_shell, f"{HOST}:exact", "back")


async def rsync_tree_back(desk: Desk) -> None:
    await desk.must("rsync", "-r", "-e", desk.remote_shell, f"{HOST}:exact/", "back/")


Way = Callable[[Desk], Awaitable[None]]

LARGE: dict[str, tuple[Way, Way]] = {
    "exec": (exec_there, exec_back),
    "scp": (scp_there, scp_back),
    "scp_old": (old_scp_there, old_scp_back),
    "sftp": (sftp_there, sftp_back),
    "rsync": (rsync_there, rsync_back),
}
"""One file: the way there, and the way back."""

MANY: dict[str, tuple[Way, Way]] = {"sftp": (sftp_there, sftp_back), "rsync": (rsync_there, rsync_tree_back)}
"""A folder of small files."""


def write(path: Path, size: int) -> str:
    """Fill a file with noise; its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for at in range(0, size, PIECE):
            piece = os.urandom(min(PIECE, size - at))
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def is_recorded(desk: Desk, session: Session, digest: str) -> bool:
    """Whether a recording has the content with this SHA-256, or a line with its digest."""
    assert session.end is End.TARGET
    return await asyncio.to_thread(_is_recorded, desk, session, digest)


def _is_recorded(desk: Desk, session: Session, digest: str) -> bool:
    """Entry by entry, not as the lines of a transcript, in which a gigabyte of noise is six of JSON."""
    streams, is_declared = {Code.OUTPUT: hashlib.sha256(), Code.INPUT: hashlib.sha256()}, False
    reader = Reader(file_of(desk.data, session), session, desk.recordings.keys)
    try:
        for entry in reader.entries():
            if entry.code in streams:
                streams[entry.code].update(entry.data)
            is_declared = is_declared or (entry.code is Code.MARKER and digest.encode() in entry.data)
        assert reader.manifest is not None
    finally:
        reader.close()
    return is_declared or any(stream.hexdigest() == digest for stream in streams.values())


def copied(way: str) -> Callable[[Desk], Awaitable[Sequence[Kept]]]:
    """A cell of the matrix: a file of some windows by one of `LARGE`, there and back."""

    async def cell(desk: Desk) -> Sequence[Kept]:
        there, back = LARGE[way]
        digest = write(desk.folder / "exact", SIZE)
        content = (desk.folder / "exact").read_bytes()
        await there(desk)
        assert digest_of(desk.home / "exact") == digest
        await back(desk)
        assert digest_of(desk.folder / "back") == digest
        (desk.home / "exact").unlink()
        match way:
            case "exec":
                return [Kept(Action.SSH_EXEC, into=Content(content)), Kept(Action.SSH_EXEC, out=Content(content))]
            case "scp_old":
                return [Kept(WRITES, "scp", files=[content]), Kept(SFTP, "scp", files=[content])]
            case "rsync":
                ways = ("rsync to the target", "rsync from the target")
                return [Kept(Action.SSH_EXEC, marks=[way]) for way in ways]
            case _:
                return [Kept(SFTP, files=[content])] * 2

    return cell
