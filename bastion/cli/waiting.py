"""Waiting at a terminal for the answer to a request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from bastion.cli.client import Client

SECONDS = 0.5
"""Between looks."""


def wait_for(client: Client, target: str) -> None:
    """Return when no request of the one who is logged in waits for ``target``, which may be a short name.

    What became of it is for the next step to find out. Ctrl-C gives up; the request stays open.
    """
    me, said = client.call("GET", "/api/v1/whoami")["identity"]["id"], ""
    while True:
        waiting = [
            request["id"]
            for request in client.call("GET", "/api/v1/requests")["requests"]
            if request["identity"] == me and any(_means(target, name) for name in request["targets"])
        ]
        if not waiting:
            return
        if (sentence := f"Waiting for approval of {', '.join(waiting)}. Ctrl-C to give up.") != said:
            typer.echo(sentence, err=True)
            said = sentence
        time.sleep(SECONDS)


def _means(wanted: str, full_name: str) -> bool:
    return wanted.lower() in (full_name, full_name.partition(".")[0])
