"""``bastion config-ssh``: after it, ``ssh web-1.staging.eu`` just works; ``--undo`` leaves no trace in ~/.ssh."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bastion.cli.cert import KeyOption, NoAgentOption

if TYPE_CHECKING:
    from bastion.cli.sshconfig import Reached, SshFiles


def register(app: typer.Typer) -> None:
    app.command("config-ssh")(config_ssh)


def config_ssh(
    key: KeyOption = None,
    no_agent: NoAgentOption = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take out again what this command wrote")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be written; write nothing")] = False,
) -> None:
    """Let plain ssh reach your targets: a few lines in ~/.ssh/config, which fetch certificates as they are needed."""
    from bastion.cli import exits
    from bastion.cli.cert import ssh_files
    from bastion.cli.client import fail
    from bastion.cli.managed import NotEdited, edit, with_block

    path = Path.home() / ".ssh" / "config"
    try:
        if undo:
            _undo(path, dry_run=dry_run)
            return
        files = ssh_files()
        reached = _reached(files)
        lines = block(reached, files.hosts, key, no_agent=no_agent)
        if dry_run:
            typer.echo("\n".join(lines))
            return
        with files.locked():
            files.write(reached)
            edit(path, lambda text: with_block(text, lines))
    except NotEdited as reason:
        fail(f"{reason}", exits.USAGE)
    except (OSError, ValueError) as error:
        fail(f"The configuration for ssh cannot be written: {error}", exits.USAGE)
    typer.echo(f"{path} now lets you: ssh TARGET, as in web-1.{next(iter(reached.scopes))}")
    typer.echo("Not any more: bastion config-ssh --undo")


def block(reached: Reached, hosts: Path, key: Path | None, *, no_agent: bool) -> list[str]:
    """The lines for ``~/.ssh/config``.

    ssh asks `bastion cert --refresh` first, which has nothing to do most of the time; what it wrote is read after it.
    The host name goes to a shell: one with a quote in it, which could leave its own quotes, is none of ours.

    Raises:
        ValueError: a path cannot be written into an ssh_config.
    """
    from bastion.cli.sshconfig import included, quoted

    patterns = ",".join([*(f"*.{domain}" for domain in sorted(reached.scopes)), "!*'*"])
    options = [f"--key '{quoted(key.absolute())}'"] if key is not None else ["--no-agent"] if no_agent else []
    command = " ".join([*(f"'{quoted(word)}'" for word in _this_command()), "cert --refresh", *options, "'%n'"])
    return [
        f'Match originalhost "{patterns}" exec "{command}"',
        "Match all",
        f'Include "{included(hosts)}"',
    ]


def _this_command() -> list[str]:
    """What runs this very program from anywhere, whatever is in the folder that ssh is called in."""
    import sys

    import bastion

    started = Path(sys.argv[0])
    if started.name == "bastion":
        return [str(started.absolute())]
    package = Path(bastion.__file__).resolve().parents[1]
    return ["/usr/bin/env", f"PYTHONPATH={package}", sys.executable, "-P", "-m", "bastion"]


def _reached(files: SshFiles) -> Reached:
    """What the bastion says of itself, and of what this person may reach. Exits when they may reach nothing."""
    from bastion.cli import exits
    from bastion.cli.client import Client, fail

    client = Client.from_login()
    said = client.call("GET", "/api/v1/ssh")
    if not said["scopes"]:
        fail("There is nothing yet that you may reach or ask for. Try again when there is.", exits.REFUSED)
    reached = files.reached().at(said["ssh_address"], said["ssh_host_key"]).with_scopes(said["scopes"])
    return reached.with_grants(client.call("GET", "/api/v1/access")["grants"])


def _undo(path: Path, *, dry_run: bool) -> None:
    """Raises NotEdited."""
    from bastion.cli.managed import edit, without_block

    if dry_run:
        typer.echo(f"{path} would be as it was before.")
    elif edit(path, without_block):
        typer.echo(f"{path} is as it was before.")
    else:
        typer.echo(f"There is nothing of bastion's in {path}.")
