"""The world of the SSH tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.world import World, world


@pytest.fixture
async def bastion(tmp_path: Path) -> AsyncIterator[World]:
    """A bastion with two real targets, listening on the loopback."""
    async with world(tmp_path) as running:
        yield running
