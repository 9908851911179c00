"""What is done over SFTP: a watcher for the relay that decides on each packet and describes each operation.

Version 3 of the protocol (draft-ietf-secsh-filexfer-02) with OpenSSH's extensions (its PROTOCOL file, section 4).
`watch` decides and describes; below it `flow` reassembles and passes on, `packets` and `requests` read, `pending` is
what was asked, `opened` what passed through a file, `transfer` its digest.
"""

from __future__ import annotations

from bastion.core.sftp.packets import SftpViolation
from bastion.core.sftp.watch import SftpWatch

__all__ = ["SftpViolation", "SftpWatch"]
