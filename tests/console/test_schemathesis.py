"""Whatever is sent to the API by somebody who has read its description, it answers as that says; never with a 500."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.schemas import BaseSchema
from structlog.testing import capture_logs

from bastion.console import openapi
from bastion.core.limits import Limits
from tests.fakes import FakeClock
from tests.office import CARLA, SAM, open_office, wish
from tests.office_console import open_console
from tests.whole import whole

T = TypeVar("T")

PATIENT = Limits(strangers=1_000_000)
"""It tries very many tokens that are none, and the clock stands still."""

HERE = {"/requests", "/grants", "/access", "/break-glass", "/tokens"}
"""Beginnings of the paths that the office's console has."""

Start = Callable[[Path, AsyncExitStack], Coroutine[Any, Any, tuple[str, str]]]


def described(*, here: bool) -> BaseSchema:
    """The operations that the office's console has, or all the others."""
    document = openapi.description()
    document["paths"] = {
        path: operations
        for path, operations in document["paths"].items()
        if ("/" + path.removeprefix(f"{openapi.PREFIX}/").split("/")[0] in HERE) is here
    }
    return schemathesis.openapi.from_dict(document)


life, rest = described(here=True), described(here=False)


@rest.hook
def filter_query(context: Any, query: dict[str, str] | None) -> bool:
    """What is followed does not end; there are other tests of that."""
    return (query or {}).get("follow") not in ("1", "true")


class Running:
    """A console in a thread of its own, since schemathesis asks synchronously."""

    def __init__(self, folder: Path, start: Start) -> None:
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url, self.token = self._run(start(folder, self._stack))

    def close(self) -> None:
        self._run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def answers(self, case: schemathesis.Case[Any], token: str) -> None:
        """That ``case`` is answered as it is described."""
        response = case.call(base_url=self.url, headers={"Authorization": f"Bearer {token}"}, timeout=10)
        case.validate_response(
            response,
            excluded_checks=[
                # Refusals are by place, policy and state: what fits the description may be refused, with a sentence.
                schemathesis.checks.positive_data_acceptance,
            ],
        )
        assert response.status_code < 500

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


async def an_office(folder: Path, stack: AsyncExitStack) -> tuple[str, str]:
    """In which somebody waits for an answer of Sam, who asks."""
    office = await stack.enter_async_context(open_office(folder, FakeClock(), limits=PATIENT))
    await office.approval.request(CARLA, CARLA, wish(), None)
    console = await stack.enter_async_context(open_console(office))
    return console.url, await console.token(SAM)


async def a_bastion(folder: Path, stack: AsyncExitStack) -> tuple[str, str]:
    """All of one, in which Alice, who asks, has a grant."""
    bastion = await stack.enter_async_context(whole(folder, more="throttle: {strangers: 1000, begun: 1000}"))
    await bastion.grant(bastion.alice)
    async with bastion.browser() as browser:
        return bastion.url, await bastion.token(browser)


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with capture_logs():
        console = Running(tmp_path_factory.mktemp("console"), request.param)
        try:
            yield console
        finally:
            console.close()


@pytest.mark.parametrize("running", [an_office], indirect=True)
@life.parametrize()
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_api_answers_as_its_description_says(case: schemathesis.Case[Any], running: Running) -> None:
    running.answers(case, running.token)


@pytest.mark.parametrize("running", [a_bastion], indirect=True)
@rest.parametrize()
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_rest_of_it_does_so_too(case: schemathesis.Case[Any], running: Running) -> None:
    """Nobody logs out: whoever does asks nothing after it."""
    running.answers(case, "x" if case.path.endswith("/logout") else running.token)
