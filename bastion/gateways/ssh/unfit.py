"""Commands that would start at the target and then fail without a word, because what they go on with is not SSH."""

from __future__ import annotations

import re

_MOSH = re.compile(r"""(?:^|[\s;&|/'"])mosh-server['"\s]+new(?:['"\s]|$)""")
"""What mosh runs, under whatever path and behind whatever prelude its options put there (mosh(1), --server)."""

_NO_UDP = (
    "mosh goes on over UDP, and only SSH goes through the bastion. Use ssh, and tmux or screen at the target: "
    "what runs in them outlives a lost connection."
)


def why_unfit(command: str) -> str | None:
    """What to say instead of running ``command``; None for all but a few.

    This spares people a riddle and guards nothing: what they start in a shell can no more be reached than this.
    """
    return _NO_UDP if _MOSH.search(command) else None
