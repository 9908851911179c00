"""OpenSSH's own client."""

from __future__ import annotations

import asyncio

from bastion.core.policy import Action
from tests.clients.desk import HOST, STRAIGHT, Content, Desk, Kept
from tests.clients.trees import grow, leaves
from tests.plain import Client
from tests.recorded import until

LARGE = 4_000_000
"""Bytes; twice a channel's window."""


async def shell(desk: Desk) -> list[Kept]:
    """As a person has it: on a terminal, waiting for what the last command said before the next."""
    async with Client([*desk.ssh, HOST], desk.folder) as terminal:
        terminal.type("tty; echo $((40 + 2))\n")
        await terminal.sees("\n42\r\n")
        terminal.type("exit 3\n")
        assert await terminal.status() == 3, terminal.seen
        assert b"/dev/pts/" in terminal.seen
    return [Kept(Action.SSH_SHELL, status=3, out=Content(b"\n42\r\n"))]


async def shell_without_a_terminal(desk: Desk) -> list[Kept]:
    script = b"test -t 0 || echo piped; exit 5\n"
    ran = await desk.run(*desk.ssh, "-T", HOST, stdin=script)
    assert (ran.status, ran.out) == (5, b"piped\n"), ran
    return [Kept(Action.SSH_SHELL, status=5, out=b"piped\n", into=script)]


async def terminal_by_force(desk: Desk) -> list[Kept]:
    """`-tt`, as Ansible and scripts that run sudo use it, where the client has no terminal itself."""
    ran = await desk.run(*desk.ssh, "-tt", HOST, "test -t 0 && test -t 1 && echo forced; exit 6")
    assert (ran.status, ran.out) == (6, b"forced\r\n"), ran
    return [Kept(Action.SSH_EXEC, "test -t 0", 6, out=b"forced\r\n")]


async def execution(desk: Desk) -> list[Kept]:
    ran = await desk.run(*desk.ssh, HOST, "printf out; printf err >&2; exit 7")
    assert (ran.status, ran.out, ran.err) == (7, b"out", "err"), ran
    return [Kept(Action.SSH_EXEC, "printf out", 7, out=b"out", err=b"err")]


async def exit_codes(desk: Desk) -> list[Kept]:
    codes = (0, 1, 127, 254, 255)
    for code in codes:
        assert (await desk.run(*desk.ssh, STRAIGHT, f"exit {code}")).status == code
    return [Kept(Action.SSH_EXEC, f"exit {code}", code) for code in codes]


async def exit_by_signal(desk: Desk) -> list[Kept]:
    ran = await desk.run(*desk.ssh, HOST, "echo alive; kill -TERM $$")
    assert (ran.status, ran.out) == (255, b"alive\n"), ran  # ssh(1): 255 when there is no status
    return [Kept(Action.SSH_EXEC, "echo alive", None, out=b"alive\n")]


async def pipes(desk: Desk) -> list[Kept]:
    """`tar c | ssh tar x` there, and back."""
    tree = grow(desk.folder / "tree", 50)
    archive = await desk.must("tar", "-C", tree, "-c", ".")
    await desk.must(*desk.ssh, HOST, "mkdir piped && tar -C piped -x", stdin=archive)
    assert leaves(desk.home / "piped") == leaves(tree)
    back = await desk.must(*desk.ssh, HOST, "tar -C piped -c .")
    (desk.folder / "back").mkdir()
    await desk.must("tar", "-C", desk.folder / "back", "-x", stdin=back)
    assert leaves(desk.folder / "back") == leaves(tree)
    return [
        Kept(Action.SSH_EXEC, "mkdir piped", into=Content(archive)),
        Kept(Action.SSH_EXEC, "tar -C piped -c", out=Content(back)),
    ]


async def input_that_nobody_reads(desk: Desk) -> list[Kept]:
    """The command ends while the client still sends: its status arrives, and nothing hangs."""
    ran = await desk.run(*desk.ssh, HOST, "head -c 3; exit 9", stdin=b"abc" * LARGE)
    assert (ran.status, ran.out) == (9, b"abc"), ran
    return [Kept(Action.SSH_EXEC, "head -c 3", 9, out=b"abc")]


async def jump(desk: Desk) -> list[Kept]:
    said = await desk.must("ssh", "-F", desk.config, "-J", "bastion", HOST, "echo $LOGNAME")
    assert said == b"deploy\n"
    return [Kept(Action.SSH_EXEC, "echo", out=b"deploy\n")]


async def without_a_jump(desk: Desk) -> list[Kept]:
    assert await desk.must(*desk.ssh, STRAIGHT, "cat", stdin=b"straight") == b"straight"
    return [Kept(Action.SSH_EXEC, "cat", out=b"straight", into=b"straight")]


async def sharing_a_connection(desk: Desk) -> list[Kept]:
    """ControlMaster: eight sessions at once over one login."""
    master = await desk.start(*desk.ssh, "-M", "-N", "-S", "mux", HOST)
    try:
        await until((desk.folder / "mux").exists)
        sessions = [desk.run(*desk.ssh, "-S", "mux", HOST, f"cat; exit {n}", stdin=b"%d" % n) for n in range(8)]
        for number, ran in enumerate(await asyncio.gather(*sessions)):
            assert (ran.status, ran.out) == (number, b"%d" % number), ran
    finally:
        await desk.run(*desk.ssh, "-S", "mux", "-O", "exit", HOST)
        await desk.end(master)
    return [Kept(Action.SSH_EXEC, f"cat; exit {n}", n, out=b"%d" % n, into=b"%d" % n) for n in range(8)]
