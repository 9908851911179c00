"""Asking the bastion for what may take a stronger or fresher login than the one there is."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import typer

from bastion.cli import exits
from bastion.cli.client import Client, fail
from bastion.core.remedy import Remedy


def ask(client: Client, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[Client, Any]:
    """What the bastion answers; after a login made anew, when that is all it wants and somebody sits at a terminal.

    So whatever waits for this goes on by itself. Returns the client to go on with, too; exits as `Client.call`.
    """
    reply = client.ask(method, path, body)
    remedy = _remedy(reply.body) if reply.status == 401 else None
    if remedy is not None and sys.stderr.isatty() and not os.environ.get("BASTION_TOKEN"):
        from bastion.cli.login import step_up

        typer.echo(reply.sentence, err=True)
        client = step_up(client, remedy)
        return client, client.call(method, path, body)
    if reply.status >= 300:
        fail(reply.sentence, exits.NOT_LOGGED_IN if reply.status == 401 else exits.REFUSED)
    return client, reply.body


def _remedy(body: Any) -> Remedy | None:
    """What kind of login would do, where the bastion says so."""
    try:
        return Remedy.parse(body["step_up"])
    except (TypeError, KeyError, ValueError):
        return None
