"""A real browser without a window: Debian's Chromium, driven by playwright, at loopback addresses of choice."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from bastion.demo.tools import UNPACKED, MissingTool, tool_environment

PHONE, DESKTOP = {"width": 360, "height": 640}, {"width": 1280, "height": 800}
"""A small phone of today, and a small laptop; CSS pixels."""

_PROGRAMS = ("lib/chromium/chromium-headless-shell", "lib/chromium/chromium")

_FONTS = """\
<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig>
  <dir>/usr/share/fonts</dir><dir>{unpacked}/usr/share/fonts</dir><cachedir>{folder}</cachedir>
  <match><edit name="family" mode="append" binding="weak"><string>DejaVu Sans</string></edit></match>
  <alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
</fontconfig>
"""
"""The machine's own settings may not be there; and these letters are wider than most, so what fits with them fits."""


def find_chromium() -> Path:
    """The program itself: the script of that name in /usr/bin looks for it where it was not unpacked.

    Raises:
        MissingTool: it is not there; ``make tools`` brings it.
    """
    for root in (Path("/usr"), UNPACKED / "usr"):
        for program in _PROGRAMS:
            if (found := root / program).is_file():
                return found
    raise MissingTool("Chromium is not on this machine. To bring it, run make tools.")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The browser, until the block is left. Each ``new_context`` of it is a person with cookies of their own."""
    with tempfile.TemporaryDirectory(prefix="chromium-") as folder:
        fonts = Path(folder) / "fonts.conf"
        fonts.write_text(_FONTS.format(unpacked=UNPACKED, folder=folder))
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=find_chromium(),
                env={"PATH": os.environ["PATH"], "HOME": folder, "FONTCONFIG_FILE": str(fonts), **_libraries()},
                # The sandbox needs what containers do not give; here it would guard the tests from themselves.
                args=["--no-sandbox"],
            )
            try:
                yield browser
            finally:
                await browser.close()


def _libraries() -> dict[str, str]:
    """Where unpacked libraries are; one of them looks for a part of itself in a folder of its own."""
    environment = tool_environment()
    if (path := environment.get("LD_LIBRARY_PATH")) is None:
        return {}
    parts = [str(part) for part in (UNPACKED / "usr/lib").glob("*-linux-*/pulseaudio")]
    return {"LD_LIBRARY_PATH": os.pathsep.join([path, *parts])}


@asynccontextmanager
async def proxy_from(address: str) -> AsyncIterator[str]:
    """A SOCKS proxy (RFC 1928) whose connections come from ``address``, for a browser that cannot choose: its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            _, methods = await reader.readexactly(2)
            await reader.readexactly(methods)
            writer.write(b"\x05\x00")
            request = await reader.readexactly(5)
            assert request[:4] == b"\x05\x01\x00\x03", request  # a name, which is what Chromium asks for always
            host = (await reader.readexactly(request[4])).decode()
            port = int.from_bytes(await reader.readexactly(2), "big")
            theirs, ours = await asyncio.open_connection(host, port, local_addr=(address, 0))
            writer.write(b"\x05\x00\x00\x01" + bytes(6))
            await relay(reader, writer, theirs, ours)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"socks5://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def door_from(address: str, port: int) -> AsyncIterator[int]:
    """A port that leads to ``port``, whose connections come from ``address``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            theirs, ours = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            await relay(reader, writer, theirs, ours)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, theirs: asyncio.StreamReader, ours: asyncio.StreamWriter
) -> None:
    """Carry bytes both ways until both have ended."""

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
        sink.close()

    await asyncio.gather(carry(reader, ours), carry(theirs, writer))
