"""The key of one session at a target: made in memory, certified, shown, forgotten."""

from __future__ import annotations

from asyncssh import SSHKeyPair
from asyncssh.packet import String
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bastion.core.certificate import CERTIFIED_KEYS, PublicKey

_TYPE = "ssh-ed25519"
_CERTIFIED = CERTIFIED_KEYS[_TYPE].encode()


class SessionKey(SSHKeyPair):
    """A key pair as asyncssh takes it, without the way over text: asyncssh would parse the certificate that was made
    just now, and check our own signature.
    """

    def __init__(self) -> None:
        self._private = Ed25519PrivateKey.generate()
        # RFC 8709, section 4.
        raw = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public = PublicKey(_TYPE, String(_TYPE) + String(raw))
        super().__init__(_CERTIFIED, _TYPE.encode(), (_TYPE.encode(),), (_CERTIFIED,), self.public.blob, None)

    def certify(self, certificate: bytes) -> None:
        """From now on it is shown with ``certificate``, a blob over this very key."""
        self.public_data = certificate

    def set_sig_algorithm(self, sig_algorithm: bytes) -> None:
        """There is one, and the certificate's type stays the algorithm's name (PROTOCOL.certkeys)."""

    def sign(self, data: bytes) -> bytes:
        """A signature blob (RFC 8709, section 6)."""
        return String(_TYPE) + String(self._private.sign(data))
