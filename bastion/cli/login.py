"""`bastion login`, `bastion whoami`, `bastion logout`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from datetime import datetime

    from bastion.cli.client import Client
    from bastion.cli.loopback import Loopback
    from bastion.core.remedy import Remedy

MAX_URL = 16_000
"""Characters: there is an ID token in it."""

WAIT_SECONDS = 300
"""For somebody to log in in their browser."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(login)
    app.command()(whoami)
    app.command()(logout)


def login(
    url: Annotated[
        str | None, typer.Argument(metavar="[URL]", help="The bastion, like https://bastion.example.com; remembered.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address to open; open nothing.")] = False,
    device: Annotated[
        bool, typer.Option("--device", help="Log in with a browser on another machine, by a code; for servers.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Log in anew, where a policy wants it more recent.")] = False,
    mfa: Annotated[
        bool, typer.Option("--mfa", help="Log in anew, with a second factor, where a policy demands one.")
    ] = False,
    acr: Annotated[
        str | None, typer.Option(metavar="KIND", help="Log in anew, as what the identity provider calls so.")
    ] = None,
    amr: Annotated[
        str | None, typer.Option(metavar="METHOD,…", help="Log in anew, by these methods; hwk is a hardware key.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="For CI jobs and services: exchange the token in this file.", envvar="BASTION_TOKEN_FILE"),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Log in with your browser. The login lasts one hour."""
    from bastion.cli import exits, saved
    from bastion.cli.client import Client, fail

    known = saved.load()
    if url is None:
        if known is None:
            fail("Which bastion? Run: bastion login https://bastion.example.com", exits.USAGE)
        url = known.url
    client = Client(url)
    if token_file is not None:
        answer = _by_token(client, token_file)
    else:
        remedy = _remedy(fresh=fresh, mfa=mfa, acr=acr, amr=amr)
        answer = _by_device(client, remedy) if device else _by_browser(client, remedy, open_it=not no_browser)
    until = _remember(client, answer)
    if json_:
        _print_json({"url": client.url, "identity": answer["identity"], "expires_at": answer["expires_at"]})
    else:
        typer.echo(f"You are logged in as {_shown(answer['identity']['display'])} until {until:%H:%M %Z}.")


def _remedy(*, fresh: bool, mfa: bool, acr: str | None, amr: str | None) -> Remedy | None:
    """Exits with a sentence for what no login could be."""
    from bastion.cli import exits
    from bastion.cli.client import fail
    from bastion.core.identity import MFA
    from bastion.core.remedy import Remedy

    methods = [*(amr.split(",") if amr else []), *([MFA] if mfa else [])]
    words = [*([f"acr={acr}"] if acr else []), *([f"amr={','.join(methods)}"] if methods else [])]
    if not words and not fresh:
        return None
    try:
        return Remedy.parse(" ".join(words) or "fresh")
    except ValueError as error:
        fail(f"Nobody can be asked for such a login: {error}", exits.USAGE)


def whoami(json_: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False) -> None:
    """Show who the bastion takes you for, and where."""
    from bastion.cli.client import Client

    answer = Client.from_login().call("GET", "/api/v1/whoami")
    if json_:
        _print_json(answer)
        return
    identity = answer["identity"]
    typer.echo(f"{_shown(identity['display'])}  ({_shown(identity['id'])})")
    typer.echo(f"groups   {_shown(', '.join(identity['groups']) or 'none')}")
    typer.echo(f"from     {_shown(answer['address'])} ({_shown(answer['country'] or 'country unknown')})")
    typer.echo(f"until    {_local(answer['expires_at']):%Y-%m-%d %H:%M %Z}")


def logout() -> None:
    """End the login, here and at the bastion."""
    from bastion.cli import exits, saved
    from bastion.cli.client import Client, fail

    known = saved.load()
    if known is None or known.token is None:
        typer.echo("You were not logged in.")
        return
    saved.save(known.without_token())  # first: whatever the bastion answers, this machine has forgotten it
    # Certificates are good for minutes; but whoever logs out means now.
    _forget_certificates()
    reply = Client(known.url, known.token).ask("POST", "/api/v1/logout")
    if reply.status not in (200, 401):  # 401: it does not count any more, which is what was wanted
        fail(f"Forgotten here, but the bastion did not end it: {reply.sentence}", exits.REFUSED)
    typer.echo("You are logged out.")
    if reply.status == 200 and (onward := reply.body.get("end_session_url")):
        typer.echo(f"To log out at your identity provider, too, open:\n\n  {_shown(onward, MAX_URL)}\n", err=True)


def _forget_certificates() -> None:
    """Exits with a sentence when it cannot be done."""
    from bastion.cli import exits, fresh
    from bastion.cli.client import fail
    from bastion.cli.sshconfig import SshFiles

    try:
        SshFiles(fresh.directory()).forget()
    except OSError as error:
        fail(f"A certificate could not be removed: {error}", exits.REFUSED)


def step_up(client: Client, remedy: Remedy) -> Client:
    """Log in anew, as a policy wants it, with a browser on this machine; the client to ask again with.

    Exits with a sentence when it came to nothing.
    """
    answer = _by_browser(client, remedy, open_it=True)
    _remember(client, answer)
    return client.as_holder_of(answer["token"])


def _by_browser(client: Client, remedy: Remedy | None, *, open_it: bool) -> dict[str, Any]:
    """What the bastion answers when somebody has logged in with a browser on this machine."""
    from bastion.access.pkce import challenge_of, new_secret
    from bastion.cli import exits
    from bastion.cli.client import fail
    from bastion.cli.loopback import Loopback

    verifier, state = new_secret(), new_secret()
    with Loopback(state) as loopback:
        _send_to_browser(client.url, loopback, challenge_of(verifier), state, remedy, open_it=open_it)
        code = loopback.wait(WAIT_SECONDS)
        if code is None:
            fail("Nobody logged in within five minutes. Start again: bastion login", exits.NOT_LOGGED_IN)
        reply = client.ask("POST", "/api/v1/token", {"code": code, "verifier": verifier})
        if reply.status != 200:
            fail(reply.sentence, exits.REFUSED)
        loopback.answer(f"{client.url}/login/closed")
    answer: dict[str, Any] = reply.body
    return answer


def _by_device(client: Client, remedy: Remedy | None) -> dict[str, Any]:
    """The same with a browser on any machine (RFC 8628)."""
    from bastion.cli import devicecode

    return devicecode.log_in(client, remedy)


def _by_token(client: Client, file: Path) -> dict[str, Any]:
    """The same without anybody: a workload proves itself by its platform's token."""
    from bastion.cli import workload

    return workload.log_in(client, file)


def _send_to_browser(
    url: str, loopback: Loopback, challenge: str, state: str, remedy: Remedy | None, *, open_it: bool
) -> None:
    from urllib.parse import urlencode

    wish = {"port": loopback.port, "challenge": challenge, "state": state} | (remedy.query if remedy else {})
    address = f"{url}/login/cli?{urlencode(wish)}"
    typer.echo(f"Log in with a browser on this machine:\n\n  {address}\n", err=True)
    if open_it:
        import threading
        import webbrowser

        # In a thread of its own: what $BROWSER names may run until its window is closed.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def _remember(client: Client, answer: dict[str, Any]) -> datetime:
    """Keep the login. The certificates of the one before go: they are no stronger than it was, whatever this one is."""
    from datetime import UTC, datetime

    from bastion.cli import exits, saved
    from bastion.cli.client import fail

    until = datetime.fromisoformat(answer["expires_at"]).astimezone(UTC)
    try:
        saved.save(saved.SavedLogin(client.url, answer["token"], until, answer["identity"]["display"]))
    except OSError as error:
        fail(f"The login cannot be kept in {saved.path()}: {error.strerror}", exits.REFUSED)
    _forget_certificates()
    return until.astimezone()


def _local(moment: str) -> datetime:
    from datetime import datetime

    return datetime.fromisoformat(moment).astimezone()


def _shown(text: str, most: int = 500) -> str:
    from bastion.core.target import printable

    return printable(text, most)


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))
