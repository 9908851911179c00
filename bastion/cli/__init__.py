"""The command line. Modules here import at the top only what `--help` needs; the rest where it is used."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="bastion",
    help="One recorded, fenced, time-limited door to servers, web apps and databases.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def build() -> typer.Typer:
    """The command with everything registered."""
    from bastion.cli import access, cert, login, operate, records

    for module in (login, access, cert, records, operate):
        module.register(app)
    return app
