"""The figures of the audit log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime

import aiohttp

from tests.benchmarks.bench import Bench, percentile

SESSIONS = 50
"""Each leaves four events."""


async def visible(bench: Bench) -> AsyncIterator[tuple[str, float]]:
    """From an event's instant to its being in somebody's hands who asks for events again and again."""
    ran = await bench.stage.run("auditor", "bastion", "login", bench.stage.url)
    if ran.status:
        raise RuntimeError(ran.said)
    await bench.let_contractor_in()
    login = json.loads((bench.stage.ssh_config("auditor").parent.parent / "login.json").read_text())
    seen: list[float] = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {login['token']}"}) as session:
        asking = asyncio.create_task(_ask(session, f"{bench.stage.url}/api/v1/events", seen))
        for _ in range(SESSIONS):
            await bench.ssh(bench.through, "true")
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
    yield "audit_visible_ms_p50", percentile(seen, 50)
    yield "audit_visible_ms_p99", percentile(seen, 99)


async def _ask(session: aiohttp.ClientSession, url: str, seen: list[float]) -> None:
    """Ask for what came after the last event, and note how old each is; what was there before is not counted."""
    upto, is_first = 0, True
    while True:
        async with session.get(url, params={"after_seq": str(upto)}) as response:
            response.raise_for_status()
            lines = (await response.text()).splitlines()
        now = datetime.now(UTC)
        for event in map(json.loads, lines):
            upto = event["seq"]
            if not is_first:
                seen.append((now - datetime.fromisoformat(event["at"])).total_seconds() * 1000)
        is_first = False
        await asyncio.sleep(0.01)
