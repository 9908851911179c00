"""Which commands are answered with a sentence instead of being run."""

from __future__ import annotations

import pytest

from bastion.gateways.ssh.unfit import why_unfit


@pytest.mark.parametrize(
    "command",
    [
        "mosh-server 'new' '-c' '256' '-s' '-l' 'LANG=C.UTF-8'",
        "mosh-server new",
        "/usr/local/bin/mosh-server new -p 60001",
        "LC_ALL=C.UTF-8 mosh-server 'new'",
        "sh -c '[ -n \"$SSH_CONNECTION\" ] && printf \"%s\" \"$SSH_CONNECTION\"' ; mosh-server 'new' '-c' '8'",
    ],
)
def test_what_mosh_runs_is_recognised(command: str) -> None:
    assert "UDP" in (why_unfit(command) or "")


@pytest.mark.parametrize(
    "command", ["", "true", "mosh-server", "mosh-server --version", "pkill mosh-server", "cat mosh-server newer",
                "ls /usr/share/mosh-server-new", "apt-get install mosh"]
)  # fmt: skip
def test_everything_else_is_run(command: str) -> None:
    assert why_unfit(command) is None
