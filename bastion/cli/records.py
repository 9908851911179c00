"""`bastion sessions`, `bastion replay`, `bastion audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bastion.core.recording import Entry, Header


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(sessions)
    app.command()(replay)
    app.command()(audit)


def sessions(
    live: Annotated[bool | None, typer.Option("--live/--ended", help="Only those that are live, or are not.")] = None,
    identity: Annotated[str | None, typer.Option(help="Part of who it was.")] = None,
    target: Annotated[str | None, typer.Option(help="Part of the target's full name.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=5000, help="How many, newest first.")] = 50,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """List sessions: your own, and those you may replay."""
    import json

    from bastion.cli.client import Client
    from bastion.cli.printed import print_sessions

    query = _given(live=None if live is None else str(int(live)), identity=identity, target=target, limit=str(limit))
    found = Client.from_login().call("GET", "/api/v1/sessions", query=query)["sessions"]
    if json_:
        for session in found:
            typer.echo(json.dumps(session))
    elif not found:
        typer.echo("No sessions.")
    else:
        print_sessions(found)


def replay(
    session: Annotated[str, typer.Argument(help="The session, or the beginning of its id.")],
    speed: Annotated[float, typer.Option(min=0.1, max=1000, help="2 is twice as fast.")] = 1.0,
    skip_idle: Annotated[float | None, typer.Option(min=0, help="Longest pause, in seconds.")] = None,
    search: Annotated[str | None, typer.Option(help="List the lines with this text instead of playing.")] = None,
    match_case: Annotated[bool, typer.Option("--match-case", help="With --search: A is not a.")] = False,
    context: Annotated[int, typer.Option(min=0, max=100, help="With --search: lines around each.")] = 1,
    plain: Annotated[bool, typer.Option("--plain", help="Print what was shown as plain lines, at once.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Print the transcript as it is kept: asciicast v3.")] = False,
    export: Annotated[str | None, typer.Option(help="v2 or v3: write an asciicast for other players.")] = None,
    output: Annotated[Path | None, typer.Option(help="With --export: the file to make.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="With --search: one JSON object per line.")] = False,
) -> None:
    """Replay a recording. Space pauses, + and - change the speed, q quits.

    Escape sequences that would act on your terminal, or lie to you, are left out.
    """
    from bastion.cli import exits
    from bastion.cli.client import fail

    if sum((search is not None, plain, raw, export is not None)) > 1:
        fail("Choose one of --search, --plain, --raw and --export.", exits.USAGE)
    if (export is None) != (output is None):
        fail("--export v2 or --export v3 goes with --output FILE.", exits.USAGE)
    if search == "":
        fail("--search needs some text.", exits.USAGE)
    if export is not None and output is not None:
        _export(session, export, output)
    elif raw:
        for line in _stream(session, "raw"):
            typer.echo(line)
    elif search is not None:
        _search(session, search, match_case=match_case, context=context, json_=json_)
    elif plain:
        _print_plain(session)
    else:
        _play(session, speed, skip_idle)


def audit(
    kind: Annotated[str | None, typer.Option(help="Like access:denied, or all of access.")] = None,
    identity: Annotated[str | None, typer.Option(help="Part of whom it is about, or who did it.")] = None,
    target: Annotated[str | None, typer.Option(help="The target's full name.")] = None,
    scope: Annotated[str | None, typer.Option(help="Like staging/eu.")] = None,
    session: Annotated[str | None, typer.Option(help="The session's id.")] = None,
    grant: Annotated[str | None, typer.Option(help="The grant's id.")] = None,
    since: Annotated[str | None, typer.Option(help="A span like 2h, or an instant.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=5000, help="How many, the last ones.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Show the audit log, a line for each event."""
    import json

    from bastion.cli.client import Client
    from bastion.cli.printed import event_line

    query = _given(
        kind=kind, identity=identity, target=target, scope=scope, session=session, grant=grant, since=since,
        limit=str(limit), follow="1" if follow else None,
    )  # fmt: skip
    client = Client.from_login()
    try:
        for line in _checked(client.stream("/api/v1/events", query)):
            event = json.loads(line)
            typer.echo(json.dumps(event) if json_ else event_line(event))
    except KeyboardInterrupt:
        if not follow:
            raise


# Recordings -----------------------------------------------------------------------------------------------------------


def _stream(session: str, style: str) -> Iterator[bytes]:
    """The lines of a recording. Exits with the bastion's sentence when it could not give all of them."""
    from urllib.parse import quote

    from bastion.cli.client import Client

    path = f"/api/v1/sessions/{quote(session, safe='')}/recording"
    return _checked(Client.from_login().stream(path, {"format": style}))


def _checked(lines: Iterable[bytes]) -> Iterator[bytes]:
    from bastion.cli import exits
    from bastion.cli.client import fail
    from bastion.cli.printed import escaped

    for line in lines:
        if line.startswith(b"# error: "):
            fail(escaped(line[len(b"# error: ") :].decode("utf-8", "replace")), exits.REFUSED)
        if line:
            yield line


def _read(session: str) -> tuple[Header, Iterator[Entry]]:
    from bastion.cli import exits
    from bastion.cli.client import fail
    from bastion.core.recording import Header, Lines

    lines = _stream(session, "raw")
    reader = Lines()

    def entries() -> Iterator[Entry]:
        try:
            for line in lines:
                if (entry := reader.read(line)) is not None:
                    yield entry
        except ValueError as error:
            fail(f"This is not a recording: {error}.", exits.REFUSED)

    try:
        return Header.parse(next(lines, b"")), entries()
    except ValueError as error:
        fail(f"This is not a recording: {error}.", exits.REFUSED)


def _play(session: str, speed: float, skip_idle: float | None) -> None:
    import sys

    from bastion.cli.player import Player, Quit, clock, keyboard, one_line
    from bastion.cli.printed import title
    from bastion.core.recording import Code

    header, entries = _read(session)
    last: dict[Code, Entry] = {}
    at = 0.0

    def noted() -> Iterator[Entry]:
        nonlocal at
        for entry in entries:
            last[entry.code], at = entry, entry.seconds
            yield entry

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    typer.echo(f"{title(header)}  {header.columns}x{header.rows}", err=True)
    if sys.stdout.isatty():
        with keyboard() as wait:
            player = Player(write, wait, speed, skip_idle)
            try:
                player.play(noted())
            except Quit:
                typer.echo(f"\n-- stopped at {clock(at)} --", err=True)
                return
    else:
        Player(write, lambda _: None).play(noted())  # a pipe has no use for pauses
    marker, exit_ = last.get(Code.MARKER), last.get(Code.EXIT)
    reason = f", {one_line(marker.data)}" if marker is not None else ""
    status = f", exit status {one_line(exit_.data)}" if exit_ is not None else ""
    typer.echo(f"\n-- end at {clock(at)}{status}{reason} --", err=True)


def _print_plain(session: str) -> None:
    from bastion.cli.player import shown_lines

    for _, line in shown_lines(*_read(session)):
        typer.echo(line)


def _search(session: str, text: str, *, match_case: bool, context: int, json_: bool) -> None:
    import json
    import re

    from bastion.cli.player import clock, find, shown_lines
    from bastion.cli.printed import escaped

    wanted = re.compile(re.escape(text), 0 if match_case else re.IGNORECASE)
    count = 0
    for match in find(shown_lines(*_read(session)), wanted, context):
        count += 1
        if json_:
            found = {"at": match.at, "line": match.line, "before": match.before, "after": match.after}
            typer.echo(json.dumps(found))
            continue
        if count > 1 and context:
            typer.echo("--")
        blank = " " * len(clock(0))
        for line in match.before:
            typer.echo(f"{blank}  {line}")
        marked = wanted.sub(lambda m: typer.style(m.group(), bold=True, reverse=True), match.line)
        typer.echo(f"{clock(match.at)}  {marked}")
        for line in match.after:
            typer.echo(f"{blank}  {line}")
    if not count and not json_:
        typer.echo(f"Nothing in {escaped(session)} shows {text!r}.", err=True)


def _export(session: str, style: str, output: Path) -> None:
    import os

    from bastion.cli import exits
    from bastion.cli.client import fail

    if style not in ("v2", "v3"):
        fail("--export is v2 or v3.", exits.USAGE)
    lines = _stream(session, style)
    first = next(lines, b"")
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        fail(f"{output}: {error.strerror}. Nothing was written.", exits.USAGE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(first + b"\n")
        file.writelines(line + b"\n" for line in lines)
    typer.echo(f"Written to {output}.", err=True)


def _given(**query: str | None) -> dict[str, str]:
    return {name: value for name, value in query.items() if value is not None}
