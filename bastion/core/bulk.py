"""What kind of transfer a command is that speaks a protocol of its own: a label for the transcript, and no more.

The client chooses its command, so nothing is decided by this. What counts is the stream's bytes, size and SHA-256.
"""

from __future__ import annotations

import re

_RSYNC = re.compile(r"(?:\S*/)?rsync --server(?P<sender> --sender)?(?: |$)")
_GIT = re.compile(r"(?:\S*/)?git[- ](?P<service>upload-pack|upload-archive|receive-pack)(?: |$)")


def label(command: str) -> str | None:
    """``rsync from the target``, ``git to the target``; None where the command is not known as a transfer."""
    if (rsync := _RSYNC.match(command)) is not None:
        return f"rsync {'from' if rsync['sender'] else 'to'} the target"
    if (git := _GIT.match(command)) is not None:
        return f"git {'to' if git['service'] == 'receive-pack' else 'from'} the target"
    return None
