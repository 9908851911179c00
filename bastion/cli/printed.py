"""Sessions and events as people read them, whatever the names in them are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

    from bastion.core.recording import Header

_WIDE = 160
"""Columns of a table that no terminal limits."""

_FIXED = 14 + 12 + 11 + 4 * 2
"""Columns for what has one width (the id, the start, the state) and the gaps."""


def escaped(text: object) -> str:
    """``text`` with everything written out that a terminal could obey or that would not be seen."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def event_line(event: dict[str, Any]) -> str:
    """One event as a person reads it: when, what, who, where, from where, why."""
    who = event.get("display") or event.get("identity") or ""
    by = f" by {event['actor']}" if event.get("actor") else ""
    where = event.get("target") or event.get("scope") or ""
    if where and event.get("login"):
        where = f"{event['login']}@{where}"
    place = event.get("address") or ""
    if place and event.get("country"):
        place = f"{place} ({event['country']})"
    names = [event[name] for name in ("grant_id", "session_id") if event.get(name)]
    details = [f"{name}={value}" for name, value in event.get("details", {}).items() if value not in (None, "")]
    reasons = "; ".join(event.get("reasons", ()))
    when = str(event.get("at", ""))[:19].replace("T", " ") + "Z"
    parts = (when, f"{event.get('kind', ''):21}", f"{who}{by}", where, place, *names, *details, reasons)
    return escaped("  ".join(str(part) for part in parts if part))


def title(header: Header) -> str:
    """Whose recording it is, and of when."""
    from datetime import UTC, datetime

    when = datetime.fromtimestamp(header.timestamp, tz=UTC)
    about = header.about
    return escaped(f"{about.get('session', '')}  {header.title}  {about.get('display', '')}  {when:%Y-%m-%d %H:%M} UTC")


def print_sessions(found: list[dict[str, Any]]) -> None:
    """A table that fits the terminal: the longest of who and where are cut. ``found`` is not empty."""
    from datetime import datetime

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if Console().is_terminal else _WIDE)
    whos = [escaped(session["display"]) for session in found]
    targets = [escaped(f"{session['login']}@{session['target']}") for session in found]
    room = max(20, console.width - _FIXED)
    where = min(max(map(len, targets)), max(room - max(map(len, whos)), room * 2 // 3))
    who_room = max(3, min(max(map(len, whos)), room - where))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name, width in (("SESSION", 14), ("STARTED", 12), ("WHO", who_room), ("TARGET", where), ("STATE", 11)):
        table.add_column(name, no_wrap=True, overflow="ellipsis", width=width)
    for session, who, target in zip(found, whos, targets, strict=True):
        started = datetime.fromisoformat(session["started_at"])
        row = (escaped(session["id"]), f"{started:%b %d %H:%M}", who, target)
        table.add_row(*map(Text, row), _state(session))
    console.print(table)


def _state(session: dict[str, Any]) -> Text:
    """Live, or how it ended."""
    from rich.text import Text

    state = str(session["state"])
    style = {"live": "bold green", "interrupted": "bold red"}.get(state, "")
    return Text(escaped(state), style=style)
