"""mosh begins with SSH and goes on with UDP, which does not come through: it is told so."""

from __future__ import annotations

from tests.clients.desk import HOST, STRAIGHT, Desk, Refused

SENTENCE = "mosh goes on over UDP, and only SSH goes through the bastion."


async def mosh(desk: Desk) -> list[Refused]:
    """Its two ways to find out where the server is."""
    shell = f"--ssh={desk.remote_shell}"
    for arguments in ([shell, STRAIGHT], [shell, "--experimental-remote-ip=remote", HOST]):
        ran = await desk.run("mosh", *arguments)
        assert ran.status != 0
        assert SENTENCE in ran.out.decode(), ran
    return [Refused(SENTENCE)]
