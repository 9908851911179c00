"""Waiting at a terminal for the answer to a request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from bastion.cli.client import Client

SECONDS = 20
"""For the bastion to answer when nothing happens; it answers at once when something does."""

PAUSE = 0.5
"""Seconds before asking again: a bastion at which too many wait answers everybody at once."""

LONGEST = 300
"""Seconds that an ssh waits, as the bastion itself lets one."""


def until_answered(client: Client, request_id: str, longest: float | None = None) -> dict[str, Any]:
    """The request when it waits for nobody any more, or after ``longest`` seconds. Standard error says for what it
    waits and who has answered; Ctrl-C gives up, and the request stays open.
    """
    said, began, path = "", time.monotonic(), f"/api/v1/requests/{request_id}"
    told: dict[str, Any] = client.call("GET", path)
    while told["stage"] == "asked":
        given = sum(review["verdict"] == "approve" for review in told["reviews"])
        sentence = f"Waiting for approval of {request_id} ({given} of {told['approvals']}). Ctrl-C to give up."
        if sentence != said:
            typer.echo(sentence, err=True)
            said = sentence
        if longest is not None and time.monotonic() - began >= longest:
            typer.echo(f"{request_id} was not answered in time. It stays open: try again later.", err=True)
            break
        seen = len(told["reviews"])
        told = client.call("GET", path, query={"wait": str(SECONDS), "answers": str(seen)})
        if told["stage"] == "asked" and len(told["reviews"]) == seen:
            time.sleep(PAUSE)
    return told


def wait_for(client: Client, target: str, longest: float | None = None) -> None:
    """Wait with whoever is logged in for what they have asked of ``target``, which may be a short name; not at all when
    they have a grant there, or have asked for nothing. What became of it is for the next step to find out.
    """
    waiting = [each for each in client.call("GET", "/api/v1/requests")["requests"] if _means(target, each)]
    if not waiting or any(_means(target, grant) for grant in client.call("GET", "/api/v1/access")["grants"]):
        return
    me = client.call("GET", "/api/v1/whoami")["identity"]["id"]
    for request in waiting:
        if request["identity"] == me and request["starts_at"] is None:
            told = until_answered(client, request["id"], longest)
            if told["stage"] != "asked":
                typer.echo(f"{request['id']} is {told['stage']}.", err=True)
            return


def _means(wanted: str, permission: dict[str, Any]) -> bool:
    names = permission["targets"]
    return any(wanted.lower() in (name, name.partition(".")[0]) for name in names)
