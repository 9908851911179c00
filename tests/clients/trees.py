"""Folders of files to copy, and whether a copy is exact."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path


def grow(folder: Path, files: int, *, size: int = 3000) -> Path:
    """Make ``folder`` with that many small files in it, names and contents that trip careless copiers among them."""
    source = random.Random(files)
    for number in range(files):
        path = folder / f"part {number % 7}" / "é" / f"file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.randbytes(source.randrange(size)) if number else b"")
    (folder / "-n * $(x)").write_bytes(b"\xff\n\r\n\x03")
    return folder


def leaves(folder: Path) -> dict[str, str]:
    """Each file below ``folder`` with its digest."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
