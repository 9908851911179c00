"""The whole ``bastion`` command, of which only that much is imported that its first word needs."""

from __future__ import annotations

from importlib import import_module

import typer

HELP = "One recorded, fenced, time-limited door to servers, web apps and databases."

_MODULES = ("login", "config_ssh", "cert", "ssh", "access", "token", "records", "operate")
"""In the order of `--help`: from what a contractor needs first to what only an operator needs."""

_CLIENTS = {
    "login": "login",
    "whoami": "login",
    "logout": "login",
    "config-ssh": "config_ssh",
    "cert": "cert",
    "ssh": "ssh",
    "request": "access",
    "requests": "access",
    "approve": "access",
    "deny": "access",
    "grant": "access",
    "withdraw": "access",
    "extend": "access",
    "break-glass": "access",
    "revoke": "access",
    "access": "access",
    "token": "token",
    "sessions": "records",
    "replay": "records",
    "audit": "records",
}
"""Commands that only ask a bastion, each with its module: they start without the others, and never log. A command
that is not here works all the same; it starts a little later."""


def build(first_word: str | None = None) -> typer.Typer:
    """The command, with everything registered that ``first_word`` may mean."""
    app = typer.Typer(
        name="bastion",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # importing rich takes longer than everything else that --help does
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=HELP)(_begin)
    known = _CLIENTS.get(first_word or "")
    for module in _MODULES if known is None else (known,):
        import_module(f"bastion.cli.{module}").register(app)
    return app


def _begin(context: typer.Context) -> None:
    if context.invoked_subcommand not in _CLIENTS:
        _log_to_stderr()


def _log_to_stderr() -> None:
    """structlog prints to standard output, where an operator's ``--json`` belongs."""
    import sys

    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
