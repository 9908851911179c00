"""``bastion ssh``: everything that `bastion config-ssh` arranges, for this one connection."""

from __future__ import annotations

from typing import Annotated

import typer

from bastion.cli.cert import KeyOption, NoAgentOption

_TAKE_A_VALUE = frozenset("BbcDEeFIiJLlmOoPpQRSWw")
"""ssh's options that do (ssh(1), OpenSSH 10)."""


def register(app: typer.Typer) -> None:
    # Options after the first other word are ssh's.
    settings = {"ignore_unknown_options": True, "allow_interspersed_args": False}
    app.command("ssh", context_settings=settings)(ssh)


def ssh(
    words: Annotated[
        list[str],
        typer.Argument(metavar="[SSH-OPTIONS] [LOGIN@]TARGET [COMMAND]", help="As you would give them to ssh"),
    ],
    key: KeyOption = None,
    no_agent: NoAgentOption = False,
) -> None:
    """Connect with the system's ssh, fetching a certificate first if need be. Exit status: ssh's own."""
    import os

    from bastion.cli import exits, fresh
    from bastion.cli.cert import ensure_fresh, ssh_files
    from bastion.cli.client import fail

    at = destination(words)
    if at is None:
        fail("Which target? Write: bastion ssh web-1.staging.eu", exits.USAGE)
    _, _, target = words[at].rpartition("@")
    if fresh.domain_of(target) is None:
        fail("Which target? Write its full name, as in web-1.staging.eu", exits.USAGE)
    ensure_fresh(target, key, no_agent=no_agent)
    try:
        os.execvp("ssh", ["ssh", "-F", str(ssh_files().config), *words])  # noqa: S606 - no shell is what is wanted
    except OSError as error:
        fail(f"ssh cannot be started: {error.strerror}", exits.USAGE)


def destination(words: list[str]) -> int | None:
    """Which of ssh's arguments names the host: the first that is neither an option nor an option's value."""
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            at += 1
            break
        if not word.startswith("-") or word == "-":
            break
        takes = next((i for i, letter in enumerate(word[1:], 1) if letter in _TAKE_A_VALUE), None)
        at += 2 if takes == len(word) - 1 else 1
    return at if at < len(words) else None
