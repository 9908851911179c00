"""A real OpenSSH server for tests: the one that the demo runs."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from bastion.demo.sshd import Sshd, SshdFailed, make_host_key, running_sshd

__all__ = ["Sshd", "SshdFailed", "StartSshd", "make_host_key", "running_sshd", "start_sshd"]


class StartSshd(Protocol):
    """What the fixture `start_sshd` gives."""

    def __call__(
        self,
        *,
        principals: Mapping[str, Collection[str]],
        user_authorities: Sequence[str] = (),
        host_key: Path | None = None,
        host_certificate: Path | None = None,
        extra: Sequence[str] = (),
        address: str = "127.0.0.1",
    ) -> Sshd:
        """Start one more server, in a folder of its own; see `running_sshd`."""
        ...


@pytest.fixture
def start_sshd(tmp_path: Path) -> Iterator[StartSshd]:
    """Start servers that end with the test."""
    with ExitStack() as servers:

        def start(
            *,
            principals: Mapping[str, Collection[str]],
            user_authorities: Sequence[str] = (),
            host_key: Path | None = None,
            host_certificate: Path | None = None,
            extra: Sequence[str] = (),
            address: str = "127.0.0.1",
        ) -> Sshd:
            folder = Path(tempfile.mkdtemp(prefix="sshd-", dir=tmp_path))
            return servers.enter_context(
                running_sshd(
                    folder,
                    principals=principals,
                    user_authorities=user_authorities,
                    host_key=host_key,
                    host_certificate=host_certificate,
                    extra=extra,
                    address=address,
                )
            )

        yield start
