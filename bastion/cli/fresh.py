"""Whether there is nothing to do: asked by ssh_config's ``Match exec`` before every connection.

So it imports next to nothing and asks nobody but the ssh-agent. What it reads is what `bastion.cli.sshconfig` wrote: a
certificate's comment says until when it is good *by this machine's clock*, and who has the key.
"""

from __future__ import annotations

import binascii
import os
import time
from collections.abc import Sequence
from pathlib import Path

SPARE = 60
"""Seconds that a certificate must still be good for; connecting and a second hop take some."""

IN_AGENT = "agent"
"""In the place of a key's path: only the ssh-agent has it."""


def directory() -> Path:
    """Where everything for OpenSSH is; perhaps not there yet."""
    home = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".config") / "bastion" / "ssh"


def domain_of(name: str) -> str | None:
    """``staging.eu`` for ``web-1.staging.eu``; None for what cannot be the full name of a target."""
    labels = name.lower().split(".")
    well_formed = all(label.isascii() and label.replace("-", "").isalnum() and label[0] != "-" for label in labels)
    return f"{labels[1]}.{labels[2]}" if len(labels) == 3 and well_formed else None


def certificate_of(domain: str) -> Path:
    """The file of a scope's certificate."""
    return directory() / f"{domain}-cert.pub"


def note(until: float, key: str) -> str:
    """The comment of a certificate: when it ends, in seconds since 1970 by this machine's clock, and where its key is:
    a path or `IN_AGENT`."""
    return f"bastion until={int(until)} key={key}"


def is_fresh(words: Sequence[str]) -> bool:
    """Whether the certificate for the target in ``words`` can be used as it is: ``[--key PATH] [--no-agent] TARGET``.

    Anything unexpected is no: the whole command then looks into it, and has the words to say what is wrong.
    """
    wanted, rest = None, list(words)
    if rest[:1] == ["--key"] and len(rest) > 1:
        wanted, rest = rest[1], rest[2:]
    if rest[:1] == ["--no-agent"]:
        rest = rest[1:]
    domain = domain_of(rest[0]) if len(rest) == 1 else None
    try:
        return domain is not None and _is_good(certificate_of(domain).read_text(), wanted, "--no-agent" in words)
    except (OSError, ValueError):
        return False


def _is_good(line: str, wanted: str | None, no_agent: bool) -> bool:
    _, data, word, until, key = line.rstrip("\n").split(" ", 4)
    if word != "bastion" or float(until.removeprefix("until=")) - time.time() < SPARE:
        return False
    key = key.removeprefix("key=")
    if wanted is not None:
        return key == wanted
    if key != IN_AGENT:
        return Path(key).exists()
    return not no_agent and _is_in_agent(binascii.a2b_base64(data))


def _is_in_agent(blob: bytes) -> bool:
    from bastion.cli.agent import Agent, NoAgent

    try:
        with Agent.of_this_session() as agent:
            return agent.holds(blob)
    except NoAgent:
        return False
