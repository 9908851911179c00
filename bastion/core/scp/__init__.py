"""What is done over scp's own protocol (`scp -O`, old clients): files are lines with size and digest, as with SFTP.

The remote side of scp is a command that a shell runs. `command` recognises those that can be nothing else; `watch`
follows what is spoken then.
"""

from __future__ import annotations

from bastion.core.scp.command import ScpCommand, recognise
from bastion.core.scp.watch import ScpWatch

__all__ = ["ScpCommand", "ScpWatch", "recognise"]
