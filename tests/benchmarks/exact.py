"""Not how fast but whether: gigabytes and a hundred thousand files, byte-exact, and how long that took."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.cli.contractor import Contractor
from tests.clients.desk import Desk, seated
from tests.clients.exact import LARGE, MANY, Way, digest_of, is_recorded, write
from tests.clients.trees import grow, leaves

SIZE = 1_000_000_000
"""Bytes."""

FILES = 100_000

PATIENCE = 3600.0
"""Seconds."""


async def exact(bench: Bench) -> AsyncIterator[tuple[str, float]]:
    """Seconds for each way there and back. Raises AssertionError: something arrived that is not what was sent."""
    async with seated(Contractor(bench.stage)) as desk:
        desk.patience = PATIENCE
        desk.folder = bench.stage.folder / "exact"
        desk.folder.mkdir()
        digest = write(desk.folder / "exact", SIZE)
        for name, (there, back) in LARGE.items():
            yield f"ssh_exact_{name}_up_s", await _timed(desk, there)
            assert digest_of(desk.home / "exact") == digest
            yield f"ssh_exact_{name}_down_s", await _timed(desk, back)
            assert digest_of(desk.folder / "back") == digest
            if name != "rsync":  # whose stream is not the file's
                for session in (await desk.store.sessions())[:2]:
                    assert await is_recorded(desk, session, digest)
            _remove(desk.folder / "back", desk.home / "exact")
        _remove(desk.folder / "exact")
        wanted = leaves(grow(desk.folder / "exact", FILES, size=500))
        for name, (there, back) in MANY.items():
            yield f"ssh_exact_{name}_100k_up_s", await _timed(desk, there)
            assert leaves(desk.home / "exact") == wanted
            yield f"ssh_exact_{name}_100k_down_s", await _timed(desk, back)
            assert leaves(desk.folder / "back") == wanted
            _remove(desk.folder / "back", desk.home / "exact")


async def _timed(desk: Desk, way: Way) -> float:
    await desk.certify()
    began = time.perf_counter()
    await way(desk)
    return time.perf_counter() - began


def _remove(*paths: Path) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
