"""Whatever is sent to the API by somebody who has read its description, it answers as that says; never with a 500."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from structlog.testing import capture_logs

from bastion.console import openapi
from bastion.core.limits import Limits
from tests.fakes import FakeClock
from tests.office import CARLA, SAM, open_office, wish
from tests.office_console import OfficeConsole, open_console

T = TypeVar("T")

PATIENT = Limits(strangers=1_000_000)
"""It tries very many tokens that are none, and the clock stands still."""

HERE = {"/requests", "/grants", "/access", "/break-glass", "/tokens"}
"""Beginnings of the paths that the office's console has."""

document = openapi.description()
document["paths"] = {
    path: operations
    for path, operations in document["paths"].items()
    if "/" + path.removeprefix(f"{openapi.PREFIX}/").split("/")[0] in HERE
}
schema = schemathesis.openapi.from_dict(document)


class Running:
    """A console in a thread of its own, since schemathesis asks synchronously."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.console, self.token = self._run(self._start(folder))

    def close(self) -> None:
        self._run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self, folder: Path) -> tuple[OfficeConsole, str]:
        office = await self._stack.enter_async_context(open_office(folder, FakeClock(), limits=PATIENT))
        await office.approval.request(CARLA, CARLA, wish(), None)
        console = await self._stack.enter_async_context(open_console(office))
        return console, await console.token(SAM)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with capture_logs():
        console = Running(tmp_path_factory.mktemp("office"))
        try:
            yield console
        finally:
            console.close()


@schema.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_api_answers_as_its_description_says(case: schemathesis.Case[Any], running: Running) -> None:
    response = case.call(base_url=running.console.url, headers={"Authorization": f"Bearer {running.token}"}, timeout=10)
    case.validate_response(
        response,
        excluded_checks=[
            # Refusals are by place, policy and state: what fits the description may be refused, with a sentence.
            schemathesis.checks.positive_data_acceptance,
        ],
    )
    assert response.status_code < 500
