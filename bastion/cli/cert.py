"""``bastion cert``: fetch a certificate for a target's scope, for plain ssh to use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bastion.cli.fetch import Fetched
    from bastion.cli.sshconfig import SshFiles

KeyOption = Annotated[
    Path | None,
    typer.Option(help="Your private key, also on a security key; by default one that bastion makes for you"),
]
NoAgentOption = Annotated[
    bool, typer.Option("--no-agent", help="Keep the key that bastion makes in a file, not in the ssh-agent")
]


def register(app: typer.Typer) -> None:
    app.command("cert")(cert)


def cert(
    target: Annotated[str, typer.Argument(help="A target you have a grant on, as in web-1.staging.eu")],
    key: KeyOption = None,
    no_agent: NoAgentOption = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", hidden=True, help="Only if the one there is about to end; say nothing")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="If a request of yours for it waits, wait with it")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was issued as JSON")] = False,
) -> None:
    """Fetch a certificate, good for minutes, for the scope of a target. Then: ssh TARGET"""
    import json

    if refresh:
        ensure_fresh(target, key, no_agent=no_agent)
        return
    if wait:
        from bastion.cli.client import Client
        from bastion.cli.waiting import wait_for

        wait_for(Client.from_login(), target)
    fetched, config = _fetch(target, key, no_agent=no_agent)
    if as_json:
        typer.echo(json.dumps({**fetched.answer, "path": str(fetched.path), "ssh_config": str(config)}))
        return
    kept = "Its key is in your ssh-agent alone." if fetched.in_agent else ""
    typer.echo(f"Certificate for {fetched.domain}, good until {fetched.answer['valid_before']}. {kept}".rstrip())
    typer.echo(f"Use it: ssh -F {config} LOGIN@{target}")
    typer.echo('For plain "ssh LOGIN@TARGET", once: bastion config-ssh')


def ensure_fresh(target: str, key: Path | None, *, no_agent: bool) -> None:
    """Fetch a certificate unless the one for ``target`` (a full name) can be used as it is; while a request for it is
    open, wait for the answer first, unless ssh is only asked what it would do.

    Exits with a sentence on standard error when there is none to be had.
    """
    import os
    from datetime import UTC, datetime

    from bastion.cli import exits, fresh, saved
    from bastion.cli.client import Client, fail
    from bastion.cli.dryrun import is_dry_run
    from bastion.cli.fetch import fetch
    from bastion.cli.waiting import LONGEST, wait_for

    if fresh.domain_of(target) is None:
        raise typer.Exit(exits.USAGE)  # a host that ssh_config's pattern matched and that is not ours: not a word
    words = [*(["--key", str(key.absolute())] if key else []), *(["--no-agent"] if no_agent else []), target]
    files = ssh_files()
    with files.locked():
        if fresh.is_fresh(words):
            return
    login = saved.load()
    if not os.environ.get("BASTION_TOKEN") and (login is None or not login.is_good(datetime.now(UTC))):
        fail("Not logged in: bastion login", exits.NOT_LOGGED_IN)
    client = Client.from_login()
    if not is_dry_run():
        wait_for(client, target, LONGEST)  # holding the lock, it would keep other connections waiting, too
    with files.locked():
        if not fresh.is_fresh(words):
            fetch(client, files, target, key=key, use_agent=not no_agent)


def _fetch(target: str, key: Path | None, *, no_agent: bool) -> tuple[Fetched, Path]:
    from bastion.cli.client import Client
    from bastion.cli.fetch import fetch

    client, files = Client.from_login(), ssh_files()
    with files.locked():
        return fetch(client, files, target, key=key, use_agent=not no_agent), files.config


def ssh_files() -> SshFiles:
    """Where they are. Exits with a sentence when they cannot be there."""
    from bastion.cli import exits, fresh
    from bastion.cli.client import fail
    from bastion.cli.sshconfig import SshFiles

    try:
        return SshFiles.of_this_user()
    except OSError as error:
        fail(f"{fresh.directory()} cannot be made: {error.strerror or error}", exits.USAGE)
