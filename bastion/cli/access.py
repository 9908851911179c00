"""The life of a request from a terminal: ``bastion request``, ``approve``, ``grant``, ``extend``, ``revoke``…"""

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


_Ticket = Annotated[str | None, typer.Option("--ticket", help="The ticket it is for, where a policy asks for one")]
_Start = Annotated[str | None, typer.Option("--from", metavar="START", help="As in 2026-03-02T09:00Z, or: in 2h")]
_Network = Annotated[str | None, typer.Option("--network", help="Use it from there only, as in 192.0.2.0/24")]
_Paths = Annotated[
    list[str] | None,
    typer.Option("--path", metavar="PATH", help="Read and write files there only, as in /var/log/; may be repeated"),
]
_Actions = Annotated[
    list[str] | None,
    typer.Option("--action", metavar="ACTION", help="ssh:exec: only that; +ssh:forward: that, too; repeatable"),
]
_Note = Annotated[str | None, typer.Option("--note", help="A remark that is kept with your answer")]


def register(app: typer.Typer) -> None:
    for name, command in (
        ("request", request),
        ("requests", requests),
        ("approve", approve),
        ("deny", deny),
        ("withdraw", withdraw),
        ("grant", grant),
        ("extend", extend),
        ("revoke", revoke),
        ("break-glass", break_glass),
        ("access", access),
    ):
        app.command(name)(command)


def request(
    targets: _Targets,
    logins: _Logins,
    duration: _Duration,
    reason: _Reason,
    crossing: _Crossing = False,
    ticket: _Ticket = None,
    start: _Start = None,
    network: _Network = None,
    paths: _Paths = None,
    actions: _Actions = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when it was answered; status 1 when it is not granted")
    ] = False,
    as_json: _AsJson = False,
) -> None:
    """Ask for access to a target for yourself."""
    wish = _wish(targets, logins, duration, reason, crossing)
    wish |= _narrower(ticket=ticket, starts_at=start, network=network, paths=paths, actions=actions)
    answer = _ask("POST", "/api/v1/requests", wish)
    waits = wait and answer["status"] == "waiting"
    if not (waits and as_json):
        _print(answer, as_json)
    if waits:
        _wait(answer["request"]["id"], as_json)


def grant(
    who: Annotated[str, typer.Argument(metavar="WHO", help=_WHO)],
    targets: _Targets,
    logins: _Logins,
    duration: _Duration,
    reason: _Reason,
    crossing: _Crossing = False,
    ticket: _Ticket = None,
    start: _Start = None,
    network: _Network = None,
    paths: _Paths = None,
    actions: _Actions = None,
    as_json: _AsJson = False,
) -> None:
    """Give somebody access to a target. It counts as your approval; where more are needed, it waits for them."""
    wish = _wish(targets, logins, duration, reason, crossing)
    wish |= _narrower(ticket=ticket, starts_at=start, network=network, paths=paths, actions=actions)
    _call("POST", "/api/v1/grants", as_json, {"who": who, **wish})


def extend(
    grant_id: Annotated[str, typer.Argument(metavar="ID", help="Of the grant, as in g-4t9z2m0wq7xh")],
    duration: _Duration,
    reason: _Reason,
    ticket: _Ticket = None,
    as_json: _AsJson = False,
) -> None:
    """Ask that a grant may end later; of anybody but its holder it counts as their approval of that."""
    body = {"duration": duration, "reason": reason, **_narrower(ticket=ticket)}
    _call("POST", f"/api/v1/grants/{_id('g', grant_id)}/extend", as_json, body)


def break_glass(
    targets: Annotated[list[str] | None, typer.Argument(metavar="[TARGET...]", help="As in web-1.staging.eu")] = None,
    logins: Annotated[list[str] | None, typer.Option("--as", metavar="LOGIN", help="Login on the target")] = None,
    duration: Annotated[str, typer.Option("--for", metavar="DURATION", help="As in 30m")] = "30m",
    reason: Annotated[str, typer.Option("--because", metavar="REASON", help="What has happened")] = "",
    ticket: _Ticket = None,
    network: _Network = None,
    paths: _Paths = None,
    actions: _Actions = None,
    confirm: Annotated[str | None, typer.Option("--confirm", metavar="ID", help="It was right: answer for it")] = None,
    object_: Annotated[
        str | None, typer.Option("--object", metavar="ID", help="It was not right: answer for it, and end it")
    ] = None,
    note: _Note = None,
    as_json: _AsJson = False,
) -> None:
    """In an emergency: access at once. Every reviewer is told, and somebody has to answer for it afterwards.

    With neither targets nor an id, list what nobody has answered for yet.
    """
    if confirm or object_:
        path = f"/api/v1/requests/{_id('q', confirm or object_ or '')}/acknowledge"
        verdict = "approve" if confirm else "refuse"
        _call("POST", path, as_json, {"verdict": verdict, **_narrower(note=note)})
    elif targets:
        wish = _wish(targets, logins or [], duration, reason, False)
        wish |= _narrower(ticket=ticket, network=network, paths=paths, actions=actions)
        _call("POST", "/api/v1/break-glass", as_json, wish)
    else:
        _call("GET", "/api/v1/break-glass", as_json)


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


def approve(request_id: _RequestId, note: _Note = None, as_json: _AsJson = False) -> None:
    """Approve a request. Nobody approves themselves."""
    body = {"verdict": "approve", **_narrower(note=note)}
    _call("POST", f"/api/v1/requests/{_id('q', request_id)}/review", as_json, body)


def deny(request_id: _RequestId, note: _Note = None, as_json: _AsJson = False) -> None:
    """Refuse a request, for everybody."""
    body = {"verdict": "refuse", **_narrower(note=note)}
    _call("POST", f"/api/v1/requests/{_id('q', request_id)}/review", as_json, body)


def withdraw(request_id: _RequestId, as_json: _AsJson = False) -> None:
    """Take back a request that nobody has answered yet."""
    _call("POST", f"/api/v1/requests/{_id('q', request_id)}/withdraw", as_json, {})


def access(
    review: Annotated[
        bool, typer.Option("--review", help="Everybody's, where you review or administer: who, used when, until when")
    ] = False,
    unused: Annotated[
        str | None, typer.Option("--unused", metavar="DURATION", help="Of those, what nobody used so long, as in 7d")
    ] = None,
    ending: Annotated[
        str | None, typer.Option("--ending", metavar="DURATION", help="Of those, what ends so soon, as in 1h")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Of those, a table for a spreadsheet")] = False,
    as_json: _AsJson = False,
) -> None:
    """Show what you may reach now, and until when; or review what everybody may."""
    if not (review or unused or ending or as_csv):
        _call("GET", "/api/v1/access", as_json)
        return
    query = _narrower(unused=unused, ending=ending)
    if as_csv:
        from bastion.cli.client import Client

        for line in Client.from_login().stream("/api/v1/access/review", query | {"format": "csv"}):
            typer.echo(line.decode(errors="replace"))
    else:
        _print(_ask("GET", "/api/v1/access/review", None, query), as_json)


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


def _narrower(**named: Any) -> dict[str, Any]:
    """What was given."""
    return {name: value for name, value in named.items() if value}


def _wait(request_id: str, as_json: bool) -> None:
    """Until it was answered. Ctrl-C leaves it open."""
    from bastion.cli import exits
    from bastion.cli.client import Client
    from bastion.cli.waiting import until_answered

    told = until_answered(Client.from_login(), request_id)
    _print(told, as_json)
    if told["stage"] not in ("granted", "agreed", "done"):
        raise typer.Exit(exits.REFUSED)


def _ask(method: str, path: str, body: dict[str, Any] | None = None, query: dict[str, str] | None = None) -> Any:
    from bastion.cli import strongly
    from bastion.cli.client import Client

    if query is not None:
        return Client.from_login().call(method, path, body, query)
    return strongly.ask(Client.from_login(), method, path, body)[1]


def _call(method: str, path: str, as_json: bool, body: dict[str, Any] | None = None) -> None:
    _print(_ask(method, path, body), as_json)


def _print(answer: Any, as_json: bool) -> None:
    import json

    from bastion.core.target import printable

    if as_json:
        typer.echo(json.dumps({key: value for key, value in answer.items() if key != "text"}, indent=2))
        return
    for line in answer["text"].splitlines():
        typer.echo(printable(line, 4000))
