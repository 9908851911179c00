"""Relays between the client that started it and an sftp-server, through a watcher: ``sftp -D "python this …"``.

Arguments: the sftp-server, a file for the lines, what the grant includes (``read,write``), paths that narrow it.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from pathlib import Path

from bastion.core.files import FileRights, Limits, parse_paths
from bastion.core.sftp import SftpViolation, SftpWatch
from bastion.core.watching import Step


def relay(server: str, transcript: Path, rights: str, *paths: str) -> int:
    limits = Limits().within_also(parse_paths(paths))
    watch = SftpWatch(FileRights(limits if "read" in rights else None, limits if "write" in rights else None))
    with (
        transcript.open("a", encoding="utf-8") as lines,
        subprocess.Popen([server, "-e"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target,
        selectors.DefaultSelector() as selector,
    ):
        assert target.stdin is not None
        assert target.stdout is not None
        to_target, from_target = target.stdin.fileno(), target.stdout.fileno()

        def deliver(step: Step) -> None:
            for line in step.lines:
                lines.write(line + "\n")
            lines.flush()
            _write(to_target, step.to_target)
            _write(1, step.to_client)

        selector.register(0, selectors.EVENT_READ, watch.from_client)
        selector.register(from_target, selectors.EVENT_READ, watch.from_target)
        try:
            while len(selector.get_map()) == 2:
                for key, _ in selector.select():
                    if data := os.read(key.fd, 32 * 1024):
                        deliver(key.data(data))
                    else:
                        selector.unregister(key.fd)
        except SftpViolation as violation:
            deliver(violation.before)
        lines.writelines(line + "\n" for line in watch.close())
    return target.returncode


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


if __name__ == "__main__":
    sys.exit(relay(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
