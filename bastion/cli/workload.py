"""A machine's login: the token that its platform gave it, exchanged for one of the bastion's (RFC 8693)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bastion.cli.client import Client

MAX_TOKEN = 64 * 1024
"""Bytes; the bastion takes no longer request."""


def log_in(client: Client, file: Path) -> dict[str, Any]:
    """What the bastion answers to the token in ``file``, in the form that every login has. Exits when it says no."""
    from bastion.cli import exits
    from bastion.cli.client import fail

    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": _read(file),
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    }
    reply = client.ask("POST", "/api/v1/token/exchange", form=form)
    if reply.status != 200:
        fail(reply.sentence, exits.REFUSED)
    answer: dict[str, Any] = reply.body
    return {name: answer[name] for name in ("expires_at", "identity")} | {"token": answer["access_token"]}


def _read(file: Path) -> str:
    from bastion.cli import exits
    from bastion.cli.client import fail

    try:
        with file.open("rb") as opened:
            token = opened.read(MAX_TOKEN).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} cannot be read as a token: {error}", exits.USAGE)
    if not token:
        fail(f"{file} is empty; your platform puts its token there.", exits.USAGE)
    return token
