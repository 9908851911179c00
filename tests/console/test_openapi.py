"""The description of the API says what there is, and what is there keeps to it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bastion.console import openapi
from tests.fakes import FakeClock
from tests.office import CARLA, SAM, WEB, open_office
from tests.office_console import OfficeConsole, open_console


@pytest.fixture
async def console(tmp_path: Path, clock: FakeClock) -> AsyncIterator[OfficeConsole]:
    async with open_office(tmp_path, clock) as office, open_console(office) as console:
        yield console


def test_the_description_has_every_route_of_the_api_and_no_other() -> None:
    """Read in the source, so that no module's routes can be forgotten here."""
    source = "\n".join(path.read_text() for path in Path(openapi.__file__).parents[1].rglob("*.py"))
    written = re.findall(r'web\.(get|post|put|patch|delete)\(\s*f?"(?:\{PREFIX\}|/api/v1)(/[^"]*)"', source)
    described = {(operation.method, operation.path) for operation in openapi.OPERATIONS}
    assert set(written) == described
    assert len(openapi.OPERATIONS) == len(described)


async def test_anybody_may_read_it_and_it_is_whole(console: OfficeConsole) -> None:
    status, body = await console.call(None, "GET", "/openapi.json")
    assert (status, body) == (200, json.loads(json.dumps(openapi.description())))
    names = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(body)))
    assert names == body["components"]["schemas"].keys()


GUARDED = [each for each in openapi.OPERATIONS if re.match(r"/(requests|grants|access|break-glass|tokens)", each.path)]
"""What the console of these tests has."""


@pytest.mark.parametrize("operation", GUARDED, ids=lambda each: f"{each.method} {each.path}")
async def test_what_takes_a_login_answers_nobody_without_one(
    console: OfficeConsole, operation: openapi.Operation
) -> None:
    status, _ = await console.call(None, operation.method, operation.path.replace("{id}", "q-0000"))
    assert status == 401


async def test_an_answer_has_all_that_is_described(console: OfficeConsole) -> None:
    asked = {"targets": [WEB], "logins": ["deploy"], "duration": "2h", "reason": "deploy the fix"}
    _, answer = await console.call(CARLA, "POST", "/requests", asked)
    _, told = await console.call(SAM, "GET", f"/requests/{answer['request']['id']}")
    schemas = openapi.SCHEMAS
    assert answer["request"].keys() == schemas["Request"]["properties"].keys()
    assert told.keys() == schemas["Told"]["properties"].keys()
