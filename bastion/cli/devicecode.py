"""`bastion login --device`: a page and a code on the terminal, and asking until somebody has answered (RFC 8628)."""

from __future__ import annotations

import os
import platform
import sys
import time
from typing import Any

import typer

from bastion import __version__
from bastion.cli import exits
from bastion.cli.client import Client, fail
from bastion.core.remedy import Remedy
from bastion.core.target import printable

SLOWER = 5
"""Seconds more between questions when told that they come too fast (section 3.5)."""

SPARE_COLUMNS = 4


def log_in(client: Client, remedy: Remedy | None = None) -> dict[str, Any]:
    """The bastion's answer when somebody has said yes in a browser. Exits with a sentence when that does not happen."""
    name = f"bastion {__version__} on {printable(platform.node(), 40) or 'an unnamed machine'}"
    wish = {"client": name} | ({"step_up": str(remedy)} if remedy else {})
    begun = client.call("POST", "/api/v1/device", wish)
    try:
        address, code = str(begun["verification_uri_complete"]), str(begun["user_code"])
        device_code, interval = str(begun["device_code"]), float(begun["interval"])
        until = time.monotonic() + float(begun["expires_in"])
    except (KeyError, TypeError, ValueError):
        fail("The bastion's answer cannot be read; is this the URL of a bastion?", exits.REFUSED)
    _show(address, code)
    while True:
        if time.monotonic() > until + interval:
            fail("Nobody answered in time. Start again: bastion login --device", exits.NOT_LOGGED_IN)
        time.sleep(interval)
        reply = client.ask("POST", "/api/v1/token/device", {"device_code": device_code})
        if reply.status == 200:
            answer: dict[str, Any] = reply.body
            return answer
        match reply.body.get("error") if isinstance(reply.body, dict) else None:
            case "authorization_pending":
                pass
            case "slow_down":
                interval += SLOWER
            case "access_denied" | "expired_token":
                fail(printable(str(reply.body.get("error_description", "It was refused.")), 500), exits.REFUSED)
            case _:
                fail(reply.sentence, exits.REFUSED)


def _show(address: str, code: str) -> None:
    typer.echo(f"Open this page in any browser:\n\n  {printable(address, 500)}\n", err=True)
    if (drawn := drawing(address)) is not None:
        typer.echo(drawn, err=True)
    typer.echo(f"Go on only if it shows this code, or type it where it asks:  {printable(code)}", err=True)


def drawing(address: str) -> str | None:
    """A QR code of ``address``, when standard error is a terminal that is wide enough and has the characters for it."""
    import io

    import segno

    if not sys.stderr.isatty() or (sys.stderr.encoding or "").lower().replace("-", "") != "utf8":
        return None
    code = segno.make(address, micro=False, error="l")
    columns, _ = code.symbol_size(border=2)
    if os.get_terminal_size(sys.stderr.fileno()).columns < columns + SPARE_COLUMNS:
        return None
    text = io.StringIO()
    code.terminal(out=text, border=2, compact=True)
    return text.getvalue()
