"""``bastion token``: tokens by which scripts use the API in your name, for hours and for what you say."""

from __future__ import annotations

from typing import Annotated, Any

import typer

_AsJson = Annotated[bool, typer.Option("--json", help="Print the bastion's whole answer as JSON")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Tokens by which scripts use the bastion in your name, for hours.")
    group.command("create")(create)
    group.command("list")(list_)
    group.command("revoke")(revoke)
    app.add_typer(group, name="token")


def create(
    name: Annotated[str, typer.Argument(help="What it is for, as in nightly-report")],
    uses: Annotated[
        list[str], typer.Option("--may", metavar="USE", help="read, request, review, revoke, connect, audit; repeated")
    ],
    duration: Annotated[str, typer.Option("--for", metavar="DURATION", help="As in 1h; 12h at most")] = "1h",
    network: Annotated[
        str | None, typer.Option("--network", help="Where it may be used, as in 192.0.2.0/24; else from here only")
    ] = None,
    as_json: _AsJson = False,
) -> None:
    """Make a token. It is printed this once; what it may do is never more than you may.

    A script gives it as BASTION_TOKEN, with BASTION_URL, or in the header Authorization: Bearer.
    """
    body: dict[str, Any] = {"name": name, "uses": uses, "duration": duration}
    answer = _ask("POST", "/api/v1/tokens", body | ({"network": network} if network else {}))
    if as_json:
        _print(answer, as_json)
    else:
        _print(answer, as_json, err=True)  # so that $(bastion token create …) is the token
        typer.echo(answer["secret"])


def list_(as_json: _AsJson = False) -> None:
    """Your tokens."""
    _print(_ask("GET", "/api/v1/tokens"), as_json)


def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="Of the token, as in t-4t9z2m0wq7xh")],
    as_json: _AsJson = False,
) -> None:
    """End a token now."""
    import re

    from bastion.cli import exits
    from bastion.cli.client import fail
    from bastion.core.target import printable

    if not re.fullmatch(r"t-[0-9a-z]{12}", token_id, re.ASCII):
        fail(f"{printable(token_id)!r} is not the id of a token.", exits.USAGE)
    _print(_ask("POST", f"/api/v1/tokens/{token_id}/revoke", {}), as_json)


def _ask(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    from bastion.cli.client import Client

    return Client.from_login().call(method, path, body)


def _print(answer: Any, as_json: bool, *, err: bool = False) -> None:
    import json

    from bastion.core.target import printable

    if as_json:
        typer.echo(json.dumps({key: value for key, value in answer.items() if key != "text"}, indent=2))
        return
    for line in answer["text"].splitlines():
        typer.echo(printable(line, 4000), err=err)
