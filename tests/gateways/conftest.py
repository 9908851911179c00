"""The world of the SSH tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.world import World, world


@pytest.fixture
async def bastion(tmp_path: Path) -> AsyncIterator[World]:
    """A bastion with two real targets, listening on the loopback."""
    async with world(tmp_path) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One for all tests of a module that only knock: nothing that they leave behind is another's business.

    They are marked `asyncio(loop_scope="module")`.
    """
    async with world(tmp_path_factory.mktemp("door")) as running:
        yield running
