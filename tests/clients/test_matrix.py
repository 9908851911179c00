"""The client matrix: real programs against a real sshd through a real bastion.

Each cell runs a program, holds what it did against what it does without a bastion (output, exit status, files), and
then what the bastion kept: each session's decision, start and end in the audit log, how it ended, and a whole, signed
recording of it. Programs come from `make tools`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

from tests.clients import editors, exact, files, forwards, mosh, openssh, others
from tests.clients.desk import Desk, Kept, Refused, desk

Cell = Callable[[Desk], Awaitable[Sequence[Kept | Refused]]]

MATRIX: dict[str, Cell] = {
    "ssh, a shell on a terminal": openssh.shell,
    "ssh, a shell without one": openssh.shell_without_a_terminal,
    "ssh -tt": openssh.terminal_by_force,
    "ssh, a command": openssh.execution,
    "ssh, exit codes": openssh.exit_codes,
    "ssh, exit by signal": openssh.exit_by_signal,
    "ssh, tar through pipes": openssh.pipes,
    "ssh, large input and output": exact.copied("exec"),
    "ssh, input that nobody reads": openssh.input_that_nobody_reads,
    "ssh -J": openssh.jump,
    "ssh login@target@bastion": openssh.without_a_jump,
    "ssh, ControlMaster": openssh.sharing_a_connection,
    "ssh -L": forwards.local,
    "ssh -L, a socket": forwards.socket,
    "ssh -D": forwards.dynamic,
    "ssh -R, port 0": forwards.remote,
    "ssh -R, a socket": forwards.remote_socket,
    "ssh -A": forwards.agent,
    "sftp": files.sftp,
    "sftp, recursive": files.sftp_recursive,
    "sftp, reput and reget": files.sftp_resumed,
    "sftp, a file that is not there": files.sftp_that_fails,
    "sftp, a large file": exact.copied("sftp"),
    "scp": exact.copied("scp"),
    "scp -r": files.scp_recursive,
    "scp -O": exact.copied("scp_old"),
    "scp -O -r": files.old_scp_recursive,
    "scp -3": files.scp_between_targets,
    "rsync": files.rsync,
    "rsync, a large file": exact.copied("rsync"),
    "rsync --append": files.rsync_resumed,
    "git push and clone": files.git,
    "plink": others.plink,
    "pscp": others.pscp,
    "psftp": others.psftp,
    "dbclient": others.dbclient,
    "paramiko": others.paramiko,
    "node's ssh2": others.node_ssh2,
    "ansible, pipelining": others.ansible_pipelining,
    "ansible, no pipelining": others.ansible_without_pipelining,
    "VS Code's way": editors.vscode,
    "JetBrains' way": editors.jetbrains,
    "mosh is refused": mosh.mosh,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def at_desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    async with desk(tmp_path_factory.mktemp("desk")) as running:
        yield running


@pytest.mark.parametrize("cell", MATRIX.values(), ids=list(MATRIX))
@pytest.mark.asyncio(loop_scope="module")
async def test_the_client_does_not_notice_and_the_bastion_does(at_desk: Desk, cell: Cell, tmp_path: Path) -> None:
    await at_desk.begin(tmp_path)
    await at_desk.check(await cell(at_desk))
