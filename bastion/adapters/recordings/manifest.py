"""The signed end of a recording, and the sums that it states."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Self, assert_never

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bastion.adapters.recordings.container import MANIFEST, Altered, prefix_of
from bastion.adapters.recordings.keys import RecordingKeys
from bastion.core.recording import Code, Passed, Underway, parse_digest
from bastion.core.session import End, Session

SIGNATURE = 64
"""Bytes (RFC 8032, section 5.1.6)."""

_SIGNED = b"bastion recording manifest 1\n"
"""Before the signed bytes, so that no other thing this key signs can pass for a manifest."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a recording holds, and how its session ended. It is not encrypted: an outsider can check it."""

    session: str
    scope: str
    node: str
    key: str
    """Id of the signing key."""
    records: int
    size: int
    """Bytes of the file before this record."""
    sha256: str
    """Of those bytes, hexadecimal."""
    delivered: Mapping[str, int]
    """Bytes by the entries' code, as delivered; of a stream that is not kept in full, all of it."""
    started: str
    sealed: str
    duration: int
    """Microseconds from the start to the last entry."""
    end: str
    exit_status: int | None

    @classmethod
    def verify(cls, body: bytes, trusted: Mapping[str, Ed25519PublicKey]) -> Self:
        """The manifest, if a trusted key signed it. Raises `Altered`."""
        content, signature = body[:-SIGNATURE], body[-SIGNATURE:]
        try:
            manifest = cls(**json.loads(content))
            trusted[manifest.key].verify(signature, _SIGNED + content)
        except (ValueError, TypeError) as error:
            raise Altered("its manifest cannot be read") from error
        except KeyError as error:
            raise Altered("its manifest is signed by a key that is not trusted here") from error
        except InvalidSignature as error:
            raise Altered("the signature of its manifest is wrong") from error
        return manifest


class Tally:
    """The sums over a recording as far as it goes: the writer keeps them, and the reader makes them again."""

    __slots__ = ("_sha256", "delivered", "last_at", "passed", "records", "size", "underway")

    def __init__(self, header: bytes) -> None:
        self._sha256 = hashlib.sha256(header)
        self.size = len(header)
        self.records = 0
        self.delivered = dict.fromkeys((code.value for code in Code if code is not Code.DIGEST), 0)
        self.passed: dict[Code, Passed] = {}
        """By stream, how far those have come whose bytes are not kept."""
        self.underway: dict[int, Underway] = {}
        """By number, how far files have come that have not had their last line."""
        self.last_at = 0

    def count(self, record: bytes) -> None:
        """One more record, as it is in the file."""
        self._sha256.update(record)
        self.size += len(record)
        self.records += 1

    def deliver(self, code: Code, at: int, data: bytes) -> None:
        """What that record's entry held."""
        self.last_at = at
        if code is not Code.DIGEST:
            self.delivered[code] += len(data)
            return
        match parse_digest(data):
            case Passed() as passed:
                self.passed[passed.stream] = passed
                self.delivered[passed.stream] = passed.size
            case Underway(number, ""):
                self.underway.pop(number, None)
            case Underway() as file:
                self.underway[file.number] = file
            case digest:
                assert_never(digest)

    def last_record(
        self, session: Session, keys: RecordingKeys, *, end: End, exit_status: int | None, sealed: datetime
    ) -> bytes:
        """The signed manifest of everything counted, as the record that closes the file."""
        manifest = Manifest(
            session=session.id,
            scope=str(session.scope),
            node=session.node,
            key=keys.signing_id,
            records=self.records,
            size=self.size,
            sha256=self._sha256.hexdigest(),
            delivered=self.delivered,
            started=session.started_at.isoformat(),
            sealed=sealed.isoformat(),
            duration=self.last_at,
            end=end.value,
            exit_status=exit_status,
        )
        content = json.dumps(asdict(manifest), sort_keys=True, separators=(",", ":")).encode("ascii")
        body = content + keys.signing.sign(_SIGNED + content)
        return prefix_of(len(body), MANIFEST, self.records) + body

    def require(self, manifest: Manifest) -> None:
        """Raises `Altered`: the manifest speaks of something else."""
        counted = (self.records, self.size, self._sha256.hexdigest(), self.delivered, self.last_at)
        if counted != (manifest.records, manifest.size, manifest.sha256, dict(manifest.delivered), manifest.duration):
            raise Altered("it is not what its manifest says")
