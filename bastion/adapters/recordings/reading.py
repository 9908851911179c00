"""Reading a recording: nothing is believed before its seal, and its place, were checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from bastion.adapters.recordings.container import (
    ABOUT,
    ENTRY,
    LONGEST_HEADER,
    MANIFEST,
    PACKED,
    PLAIN,
    PREFIX,
    Altered,
    Chain,
    FileHeader,
    read_entry,
    read_prefix,
)
from bastion.adapters.recordings.keys import RecordingKeys
from bastion.adapters.recordings.manifest import Manifest, Tally
from bastion.adapters.recordings.writing import MAX_DATA
from bastion.core.errors import NotFound, Unavailable
from bastion.core.recording import Entry, Header
from bastion.core.session import Session


class Reader:
    """The entries of one file, live or closed.

    After `entries` has ended: ``manifest`` is the verified end of the recording, or None as long as it has none, and
    ``incomplete`` is how many bytes at the end of the file are not a whole record.
    """

    def __init__(self, path: Path, session: Session, keys: RecordingKeys) -> None:
        """Open and check the beginning.

        Raises:
            NotFound: there is no such recording.
            Unavailable: it was altered, it is another session's, or it does not even begin.
        """
        self.manifest: Manifest | None = None
        self.incomplete = 0
        self._session = session
        self._keys = keys
        try:
            self._file: BinaryIO = path.open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"There is no recording of {session.id} here.") from error
        except OSError as error:
            raise Unavailable(f"The recording of {session.id} cannot be read.", detail=str(error)) from error
        try:
            self._begin()
        except BaseException:
            self._file.close()
            raise

    def _begin(self) -> None:
        try:
            header, raw = FileHeader.parse(self._file.read(LONGEST_HEADER))
            self.tally = Tally(raw)
            if (header.session, header.scope) != (self._session.id, str(self._session.scope)):
                raise Altered(f"it belongs to {header.session} in {header.scope}")
            key = self._keys.regions.get(self._session.scope.region)
            if key is None or key.id != header.region_key:
                raise Unavailable(f"The region's key that sealed {header.session} ({header.region_key}) is not here.")
            self._chain = Chain(key.unwrap(bytes.fromhex(header.wrapped_key), header.named), raw)
            about = self._record()
            if about is None or about[0] != ABOUT:
                raise Altered("it does not say what it is")
            self.header = Header.parse(about[1])
        except (Altered, ValueError) as error:
            raise self._unavailable(str(error), 0, 0) from error

    def entries(self) -> Iterator[Entry]:
        """Every whole entry after those given before, in order.

        Raises:
            Unavailable: the next bytes are not what was written; everything given before them was.
        """
        try:
            while self.manifest is None and (record := self._record()) is not None:
                kind, body = record
                if kind in (PLAIN, PACKED):
                    yield self._entry(kind, body)
                elif kind != MANIFEST:
                    raise Altered("there is a record of no known kind")
        except Altered as error:
            raise self._unavailable(str(error), self.tally.size, self.tally.records) from error
        except OSError as error:
            raise Unavailable(f"The recording of {self._session.id} cannot be read.", detail=str(error)) from error

    def close(self) -> None:
        """Idempotent."""
        self._file.close()

    def _record(self) -> tuple[int, bytes] | None:
        """Kind and body of the next record; None if the file does not hold the whole of it (yet)."""
        self._file.seek(self.tally.size)
        prefix = self._file.read(PREFIX.size)
        if len(prefix) < PREFIX.size:
            self.incomplete = len(prefix)
            return None
        if not any(prefix):
            self._zeros(prefix)
            return None
        length, kind = read_prefix(prefix, self.tally.records)
        body = self._file.read(length)
        if len(body) < length:
            self.incomplete = len(prefix + body)
            return None
        if kind == MANIFEST:
            return kind, self._end(body)
        plain = self._chain.open(prefix, body)
        self.tally.count(prefix + body)
        return kind, plain

    def _zeros(self, found: bytes) -> None:
        """A power cut leaves zeros where bytes never reached the disk; nothing else may follow them.

        Only here is the rest of the file looked at: behind a record that is merely short, a live writer may have
        written more in the meantime.
        """
        self.incomplete = len(found)
        while rest := self._file.read(1 << 16):
            if any(rest):
                raise Altered("this is not where a record begins")
            self.incomplete += len(rest)

    def _entry(self, kind: int, body: bytes) -> Entry:
        data = body[ENTRY.size :]
        if kind == PACKED:
            try:
                if zstandard.get_frame_parameters(data).content_size > MAX_DATA:
                    raise Altered("an entry is larger than any writer makes it")
                data = zstandard.ZstdDecompressor().decompress(data)
            except zstandard.ZstdError as error:
                raise Altered("its content cannot be unpacked") from error
        entry = read_entry(body[: ENTRY.size], data)
        try:
            self.tally.deliver(entry.code, entry.at, entry.data)
        except ValueError as error:
            raise Altered("its content cannot be read") from error
        return entry

    def _end(self, body: bytes) -> bytes:
        manifest = Manifest.verify(body, self._keys.trusted)
        if (manifest.session, manifest.scope) != (self._session.id, str(self._session.scope)):
            raise Altered(f"its manifest belongs to {manifest.session}")
        self.tally.require(manifest)
        if self._file.read(1):
            raise Altered("something follows its end")
        self.manifest = manifest
        self.incomplete = 0
        return body

    def _unavailable(self, reason: str, offset: int, record: int) -> Unavailable:
        where = f"at byte {offset} (record {record})"
        return Unavailable(f"The recording of {self._session.id} was altered {where}: {reason}.")
