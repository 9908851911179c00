"""ChaCha20-Poly1305 as OpenSSH has it, which its clients ask for first, without three ciphers set up for each packet.

The keystream of a packet begins with its authenticator's key, and goes on with what hides the packet (OpenSSH's
PROTOCOL.chacha20poly1305), so both come from one call; and a cipher is set up once, and only told the next nonce.
"""

from __future__ import annotations

from asyncssh.encryption import ChachaEncryption, Encryption
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.poly1305 import Poly1305

_BLOCK = bytes(64)
"""The keystream's first block: a key for the authenticator, and the rest unused."""

_KEY = 32
"""Bytes of the authenticator's key."""


class LeanChaCha(Encryption):
    """For one direction, until the next keys."""

    def __init__(self, key: bytes, length_key: bytes) -> None:
        self._packets = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
        self._lengths = Cipher(ChaCha20(length_key, bytes(16)), mode=None).encryptor()

    @classmethod
    def of(cls, encryption: ChachaEncryption) -> LeanChaCha:
        """With the keys of asyncssh's own."""
        cipher = encryption._cipher
        return cls(cipher._key, cipher._adkey)

    def encrypt_packet(self, seq: int, header: bytes, packet: bytes) -> tuple[bytes, bytes]:
        keystream = self._begin(seq)
        sealed = self._lengths.update(header) + self._packets.update(packet)
        return sealed, Poly1305.generate_tag(keystream, sealed)

    def decrypt_header(self, seq: int, first_block: bytes, header_len: int) -> tuple[bytes, bytes]:
        self._lengths.reset_nonce(_nonce(seq))
        return first_block, self._lengths.update(first_block[:header_len])

    def decrypt_packet(self, seq: int, first: bytes, rest: bytes, header_len: int, mac: bytes) -> bytes | None:
        sealed = first + rest
        try:
            Poly1305.verify_tag(self._begin(seq), sealed, mac)
        except InvalidSignature:
            return None
        return self._packets.update(sealed[header_len:])

    def _begin(self, seq: int) -> bytes:
        """Go to the packet ``seq``; the key of its authenticator."""
        nonce = _nonce(seq)
        self._lengths.reset_nonce(nonce)
        self._packets.reset_nonce(nonce)
        return self._packets.update(_BLOCK)[:_KEY]


def _nonce(seq: int) -> bytes:
    """The block to begin with, and the packet's number."""
    return seq.to_bytes(16)
