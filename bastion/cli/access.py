"""``bastion grant``, ``revoke``, ``request``, ``requests``, ``approve``, ``deny``, ``access``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

_AsJson = Annotated[bool, typer.Option("--json", help="Print the bastion's whole answer as JSON")]
_Targets = Annotated[
    list[str], typer.Argument(metavar="TARGET...", help="As in web-1.staging.eu; several of one scope are possible")
]
_Logins = Annotated[list[str], typer.Option("--as", metavar="LOGIN", help="Login on the target; may be repeated")]
_Duration = Annotated[str, typer.Option("--for", metavar="DURATION", help="As in 2h, 90m or 1h30m")]
_Reason = Annotated[str, typer.Option("--because", metavar="REASON", help="What it is for")]
_Crossing = Annotated[bool, typer.Option("--crossing", help="May be used beside sessions in other environments")]
_RequestId = Annotated[str, typer.Argument(metavar="ID", help="Of the request, as in q-4t9z2m0wq7xh")]
_WHO = "Somebody's verified e-mail, or issuer#subject"


def register(app: typer.Typer) -> None:
    for name, command in (
        ("request", request),
        ("requests", requests),
        ("approve", approve),
        ("deny", deny),
        ("grant", grant),
        ("revoke", revoke),
        ("access", access),
    ):
        app.command(name)(command)


def request(
    targets: _Targets,
    logins: _Logins,
    duration: _Duration,
    reason: _Reason,
    crossing: _Crossing = False,
    as_json: _AsJson = False,
) -> None:
    """Ask for access to a target for yourself."""
    _call("POST", "/api/v1/requests", as_json, _wish(targets, logins, duration, reason, crossing))


def grant(
    who: Annotated[str, typer.Argument(metavar="WHO", help=_WHO)],
    targets: _Targets,
    logins: _Logins,
    duration: _Duration,
    reason: _Reason,
    crossing: _Crossing = False,
    as_json: _AsJson = False,
) -> None:
    """Give somebody access to a target. It counts as your approval; where more are needed, it waits for them."""
    _call("POST", "/api/v1/grants", as_json, {"who": who, **_wish(targets, logins, duration, reason, crossing)})


def revoke(
    who_or_grant: Annotated[str, typer.Argument(metavar="GRANT-ID | WHO", help=f"A grant's id, or: {_WHO}")],
    target: Annotated[
        str | None, typer.Argument(metavar="TARGET", help="With WHO: every grant for this target")
    ] = None,
    as_json: _AsJson = False,
) -> None:
    """End a grant, by its id or by who has it for what. Its sessions are cut."""
    if target is not None:
        _call("POST", "/api/v1/grants/revoke", as_json, {"who": who_or_grant, "target": target})
    else:
        _call("POST", f"/api/v1/grants/{_id('g', who_or_grant)}/revoke", as_json, {})


def requests(as_json: _AsJson = False) -> None:
    """List requests that wait: yours, and those you may answer."""
    _call("GET", "/api/v1/requests", as_json)


def approve(request_id: _RequestId, as_json: _AsJson = False) -> None:
    """Approve a request. Nobody approves themselves."""
    _call("POST", f"/api/v1/requests/{_id('q', request_id)}/review", as_json, {"verdict": "approve"})


def deny(request_id: _RequestId, as_json: _AsJson = False) -> None:
    """Refuse a request, for everybody."""
    _call("POST", f"/api/v1/requests/{_id('q', request_id)}/review", as_json, {"verdict": "refuse"})


def access(as_json: _AsJson = False) -> None:
    """Show what you may reach now, and until when."""
    _call("GET", "/api/v1/access", as_json)


def _wish(targets: list[str], logins: list[str], duration: str, reason: str, crossing: bool) -> dict[str, Any]:
    wish: dict[str, Any] = {"targets": targets, "logins": logins, "duration": duration, "reason": reason}
    return wish | {"crossing": True} if crossing else wish


def _id(kind: str, text: str) -> str:
    """An id that goes into a path, so nothing but an id."""
    import re

    from bastion.cli import exits
    from bastion.core.target import printable

    if not re.fullmatch(rf"{kind}-[0-9a-z]{{4,40}}", text, re.ASCII):
        what = "a grant; give its id, or WHO and TARGET" if kind == "g" else "a request"
        typer.echo(f"{printable(text)!r} is not the id of {what}.", err=True)
        raise typer.Exit(exits.USAGE)
    return text


def _call(method: str, path: str, as_json: bool, body: dict[str, Any] | None = None) -> None:
    import json

    from bastion.cli.client import Client
    from bastion.core.target import printable

    answer = Client.from_login().call(method, path, body)
    if as_json:
        typer.echo(json.dumps({key: value for key, value in answer.items() if key != "text"}, indent=2))
        return
    for line in answer["text"].splitlines():
        typer.echo(printable(line, 4000))
