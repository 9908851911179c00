"""``bastion cert``: fetch a certificate for a target's scope, and the lines that plain ssh needs to use it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    app.command("cert")(cert)


def cert(
    target: Annotated[str, typer.Argument(help="A target you have a grant on, as in web-1.staging.eu")],
    key: Annotated[
        Path | None, typer.Option(help="Your private key; by default one that bastion makes for you")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was issued as JSON")] = False,
) -> None:
    """Fetch a certificate, good for minutes, for the scope of a target. Then: ssh TARGET"""
    import json

    from bastion.cli.client import Client
    from bastion.cli.sshconfig import SshFiles

    files = SshFiles.of_this_user()
    private = key or files.ensure_key()
    public = Path(f"{private}.pub")
    if not public.is_file():
        typer.echo(f"{public} does not exist. Make it with: ssh-keygen -y -f {private} > {public}", err=True)
        raise typer.Exit(2)
    issued: dict[str, Any] = Client.from_login().call(
        "POST", "/api/v1/certificates", {"public_key": public.read_text(), "target": target}
    )
    scope = issued["principal"].split("/")[1:3]
    path = files.install(scope[0], scope[1], private, issued)
    if as_json:
        typer.echo(json.dumps({**issued, "path": str(path), "ssh_config": str(files.config)}))
        return
    typer.echo(f"Certificate for {scope[0]}/{scope[1]}, good until {issued['valid_before']}.")
    typer.echo(f"Use it: ssh -F {files.config} LOGIN@{target}")
    typer.echo(f'For plain "ssh LOGIN@{target}", once: put "Include {files.config}" first in ~/.ssh/config')
