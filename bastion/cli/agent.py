"""The user's ssh-agent: what it holds, and keys put into it that never touch a disk (draft-ietf-sshm-ssh-agent).

Only what is needed here, and imports that cost nothing: the agent is asked before every `ssh`.
"""

from __future__ import annotations

import os
import socket
import struct

_FAILURE, _SUCCESS = 5, 6
_LIST, _LISTED = 11, 12
_REMOVE = 18
_ADD_CONSTRAINED = 25
_FOR_SECONDS = 1
"""Message numbers and the lifetime constraint (sections 6.1 and 3.2.7.1)."""

MAX_MESSAGE = 256 * 1024
"""Bytes; OpenSSH's own limit (AGENT_MAX_LEN)."""

TIMEOUT = 5.0
"""Seconds. Some agents ask their owner first; listing and adding should not take that long."""


class NoAgent(Exception):
    """There is no agent, it does not answer, or it does not do what was asked; the caller does without."""


class Agent:
    """One connection to the agent that ``SSH_AUTH_SOCK`` names. Close it, or use it in a ``with`` block."""

    def __init__(self, path: str) -> None:
        """Connect. Raises `NoAgent`."""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(TIMEOUT)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise NoAgent(f"the ssh-agent does not answer: {error}") from None

    @classmethod
    def of_this_session(cls) -> Agent:
        """Raises `NoAgent`."""
        path = os.environ.get("SSH_AUTH_SOCK", "")
        if not path:
            raise NoAgent("there is no ssh-agent")
        return cls(path)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def holds(self, blob: bytes) -> bool:
        """Whether the key or certificate with this public blob is in it. Raises `NoAgent`."""
        kind, body = self._ask(bytes((_LIST,)))
        if kind != _LISTED:
            raise NoAgent("the ssh-agent does not say what it holds")
        strings, at = [], 4
        while at + 4 <= len(body):
            (size,) = struct.unpack_from(">I", body, at)
            strings.append(body[at + 4 : at + 4 + size])
            at += 4 + size
        return blob in strings[::2]  # each is followed by its comment

    def add(self, certificate: bytes, public: bytes, seed: bytes, comment: str, seconds: int) -> None:
        """Put an Ed25519 key with its certificate into it, to be forgotten after ``seconds``.

        Args:
            certificate: the blob of an ``ssh-ed25519-cert-v01@openssh.com``.
            public: 32 bytes.
            seed: 32 bytes; with ``public`` behind it, what RFC 8032 calls the private key (draft, section 3.2.3).
            comment: shown by ``ssh-add -l``.
            seconds: at least 1.

        Raises:
            NoAgent: it does not take keys, or not with a lifetime.
        """
        parts = (b"ssh-ed25519-cert-v01@openssh.com", certificate, public, seed + public, comment.encode())
        constraint = struct.pack(">BI", _FOR_SECONDS, seconds)
        kind, _ = self._ask(bytes((_ADD_CONSTRAINED,)) + b"".join(map(_string, parts)) + constraint)
        if kind != _SUCCESS:
            raise NoAgent("the ssh-agent takes no key that is to end")

    def remove(self, blob: bytes) -> None:
        """Forget a key; nothing happens when it is not there."""
        self._ask(bytes((_REMOVE,)) + _string(blob))

    def _ask(self, message: bytes) -> tuple[int, bytes]:
        try:
            self._socket.sendall(_string(message))
            (size,) = struct.unpack(">I", self._read(4))
            if not 0 < size <= MAX_MESSAGE:
                raise NoAgent("the ssh-agent answers nonsense")
            answer = self._read(size)
        except OSError as error:
            raise NoAgent(f"the ssh-agent does not answer: {error}") from None
        return answer[0], answer[1:]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise NoAgent("the ssh-agent hung up")
            data += more
        return data


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
