"""``bastion login --device``: a real command on a machine without a browser, and a browser somewhere else."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import struct
import sys
import termios
from dataclasses import dataclass
from pathlib import Path

import pytest

from bastion.cli import devicecode, exits
from bastion.core.target import printable
from bastion.demo.browser import Page, ScriptedBrowser
from bastion.demo.stage import Stage, staged
from tests.cli.contractor import Contractor


@dataclass
class Waiting:
    """A command that has shown its page and code, and asks."""

    process: asyncio.subprocess.Process
    page: str
    code: str

    async def end(self) -> tuple[int | None, str, str]:
        out, err = await asyncio.wait_for(self.process.communicate(), 30)
        return self.process.returncode, out.decode(), err.decode()


async def begin(them: Contractor) -> Waiting:
    process = await them.start("bastion", "login", them.stage.url, "--device", "--json")
    assert process.stderr is not None
    text = ""
    while "it asks:" not in text:
        line = (await asyncio.wait_for(process.stderr.readline(), 30)).decode()
        assert line, f"it ended without a code: {text}"
        text += line
    (code,) = re.findall(r"\b[A-Z]{4}-[A-Z]{4}$", text.strip())
    (page,) = re.findall(r"^  (http\S+)$", text, re.M)
    return Waiting(process, page, code)


async def answer(waiting: Waiting, who: str, verdict: str) -> Page:
    browser = ScriptedBrowser()
    page = await asyncio.to_thread(browser.log_in, waiting.page, who)
    assert "Is this your terminal?" in page.text, page.text
    assert "everything that your grants allow" in page.text
    assert printable(os.uname().nodename, 40) in page.text
    assert waiting.code in page.text
    return await asyncio.to_thread(lambda: browser.submit(page, answer=verdict))


async def test_a_machine_without_a_browser_is_logged_in_as_whoever_said_yes(tmp_path: Path) -> None:
    async with staged(tmp_path / "stage") as stage:
        them = Contractor(stage, extra={"BROWSER": "false"})
        waiting = await begin(them)
        assert waiting.page == f"{stage.url}/device/{waiting.code}"
        page = await answer(waiting, "contractor", "approve")
        assert "its command line is logged in" in page.text
        status, out, err = await waiting.end()
        assert status == exits.OK, err
        assert json.loads(out)["identity"]["display"] == "contractor@example.com"
        done = await them.run("bastion", "whoami")
        assert (done.status, "contractor@example.com" in done.out) == (exits.OK, True), done
        await _leaves_a_trace(stage)

        again = await asyncio.to_thread(ScriptedBrowser().log_in, waiting.page, "contractor")
        assert again.status == 404  # one use

        refused = await begin(them)
        assert (await answer(refused, "contractor", "refuse")).status == 200
        status, out, err = await refused.end()
        assert (status, out) == (exits.REFUSED, "")
        assert err.splitlines()[-1] == "This login was refused in the browser."
        # What was there before is still there.
        assert (await them.run("bastion", "whoami")).status == exits.OK


async def _leaves_a_trace(stage: Stage) -> None:
    admin = Contractor(stage, "admin")
    await admin.log_in()
    events = [event for event in await admin.events("login:succeeded") if event["display"] == "contractor@example.com"]
    details = events[-1]["details"]
    assert isinstance(details, dict)
    assert (details["for"], details["method"]) == ("command line", "device code")


async def test_ctrl_c_leaves_no_login_behind(tmp_path: Path) -> None:
    async with staged(tmp_path / "stage") as stage:
        them = Contractor(stage)
        waiting = await begin(them)
        waiting.process.send_signal(2)
        status, _, err = await waiting.end()
        assert (status, "Traceback" in err) == (130, False), err
        assert (await them.run("bastion", "whoami")).status == exits.NOT_LOGGED_IN


@pytest.mark.parametrize(("columns", "is_drawn"), [(200, True), (30, False)], ids=["wide", "narrow"])
async def test_a_terminal_that_is_wide_enough_shows_a_qr_code(tmp_path: Path, columns: int, is_drawn: bool) -> None:
    """Read back by nothing here: that segno draws what scanners read is segno's own promise. Its width is ours."""
    code = "import bastion.cli.devicecode as d; print(d.drawing('https://bastion.example.com/device/WDJB-MJHT') or '')"
    outer, inner = pty.openpty()
    fcntl.ioctl(outer, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdin=inner, stdout=asyncio.subprocess.PIPE, stderr=inner,
        env=environment | {"PYTHONUTF8": "1"},
    )  # fmt: skip
    os.close(inner)
    out, _ = await asyncio.wait_for(process.communicate(), 20)
    os.close(outer)
    lines = out.decode().strip("\n").splitlines()
    assert bool(lines) is is_drawn
    assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= columns for line in lines)


def test_nothing_is_drawn_where_nobody_looks() -> None:
    assert devicecode.drawing("https://bastion.example.com/device/WDJB-MJHT") is None
