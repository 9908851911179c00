"""Recordings in files: ``<directory>/<region>/<year>/<month>/<day>/<session>.rec``, sealed, chained and signed.

The format, for those who must read it without this program, is docs/recording-format.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from bastion.adapters.recordings.container import Chain, FileHeader
from bastion.adapters.recordings.keys import KEY, RecordingKeys, open_keys, sync_directory
from bastion.adapters.recordings.reading import Reader
from bastion.adapters.recordings.writing import FileRecorder, Packer, Syncer
from bastion.core.errors import NotFound, Unavailable
from bastion.core.recording import MAX_SIZE, Code, Entry, Header, entry_line
from bastion.core.session import End, Session
from bastion.core.target import LABEL, printable
from bastion.ports import Clock

FOLLOW_INTERVAL = 0.1
"""Seconds between looks at a recording that is being written."""

_BATCH = 64
"""Entries read in one go, outside the event loop: at most 16 MiB."""

_UNFINISHED_ENDS = frozenset({End.INTERRUPTED, End.RECORDER})
"""After these a recording may lack its manifest. After any other, somebody took it away."""


class FileRecordings:
    """Keeps the promises of `bastion.ports.Recordings` with local files."""

    def __init__(self, directory: Path, keys: Path, regions: Iterable[str], *, clock: Clock) -> None:
        """Recordings under ``directory`` for ``regions``, whose keys are in the directory ``keys`` (see `open_keys`).

        Raises:
            ConfigError: a key cannot be used. Nothing was started.
        """
        self.keys: Final[RecordingKeys] = open_keys(keys, regions)
        self._directory: Final = directory
        self._clock: Final = clock
        self._packer: Final = Packer()
        self._syncer: Final = Syncer()

    def start(
        self, session: Session, *, columns: int, rows: int, term: str, at: datetime, full_until: int | None = None
    ) -> FileRecorder:
        """Begin the recording of ``session``, see `bastion.ports.Recordings`. ``term`` is empty where there is no pty.

        Raises:
            Unavailable: it could not be begun, or there is one already; nothing was opened.
        """
        region = self.keys.regions.get(session.scope.region)
        if region is None:
            raise Unavailable(f"This node keeps no recordings of region {session.scope.region}.")
        path = self._path(session)
        key = secrets.token_bytes(KEY)
        header = FileHeader(session.id, str(session.scope), at.astimezone(UTC).isoformat(), region.id, "")
        header = header.with_key(region.wrap(key, header.named))
        about = _about(session, columns, rows, term, at).line()
        try:
            self._make_directory(path.parent)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        except OSError as error:
            raise Unavailable("The recording could not be begun, so nothing is opened.", detail=str(error)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # held as long as the writer lives, see seal_interrupted
            raw = header.to_bytes()
            return FileRecorder(
                descriptor=descriptor, path=path, session=session, header=raw, about=about, chain=Chain(key, raw),
                full_until=full_until, packer=self._packer, syncer=self._syncer, keys=self.keys, clock=self._clock,
            )  # fmt: skip
        except BaseException:
            os.close(descriptor)
            path.unlink()
            raise

    def seal_interrupted(self, session: Session) -> None:
        """Close the recording of a session whose node died. Idempotent.

        The part of a record that the crash cut short is dropped: its write never returned, so nobody was given it.

        Raises:
            NotFound: there is no recording of it.
            Unavailable: it was altered, or its writer is alive; nothing was changed.
        """
        path = self._path(session)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError as error:
            raise NotFound(f"There is no recording of {session.id} here.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.closing(Reader(path, session, self.keys)) as reader:
                for _ in reader.entries():
                    pass
            if reader.manifest is None:
                os.ftruncate(descriptor, reader.tally.size)
                _write_whole(
                    descriptor,
                    reader.tally.last_record(
                        session, self.keys, end=End.INTERRUPTED, exit_status=None, sealed=self._clock.now()
                    ),
                )
                os.fdatasync(descriptor)
        except BlockingIOError as error:
            raise Unavailable(f"The recording of {session.id} is still being written.") from error
        except OSError as error:
            raise Unavailable(f"The recording of {session.id} could not be closed.", detail=str(error)) from error
        finally:
            os.close(descriptor)

    def transcript(self, session: Session) -> AsyncIterator[bytes]:
        """The lines of one recording as far as it goes, see `bastion.ports.Recordings.transcript`."""
        return self._lines(session, follow=False)

    def follow(self, session: Session) -> AsyncIterator[bytes]:
        """The same, and then each line as it is recorded, until the recording is closed."""
        return self._lines(session, follow=True)

    def close(self) -> None:
        """Bring everything to the disk and stop the thread that does. Idempotent."""
        self._syncer.close()

    async def _lines(self, session: Session, *, follow: bool) -> AsyncIterator[bytes]:
        reader = await asyncio.to_thread(Reader, self._path(session), session, self.keys)
        try:
            yield reader.header.line()
            at = 0
            while True:
                entries, failure = await asyncio.to_thread(_batch, reader)
                for entry in entries:
                    yield entry_line(entry, at)
                    at = entry.at
                if failure is not None:
                    raise failure
                if not entries and (reader.manifest is not None or not follow):
                    break
                if not entries:
                    await asyncio.sleep(FOLLOW_INTERVAL)
            for entry in _closing(reader, session, at):
                yield entry_line(entry, at)
            if _is_cut(reader, session):
                raise Unavailable(
                    f"The recording of {session.id} was cut at byte {reader.tally.size} "
                    f"(record {reader.tally.records}): its signed end is missing."
                )
        finally:
            reader.close()

    def _path(self, session: Session) -> Path:
        """Made of names that are checked here: a path never comes from what somebody chose."""
        if not (LABEL.fullmatch(session.id) and LABEL.fullmatch(session.scope.region)):
            raise NotFound("That cannot be a session.")
        day = session.started_at.astimezone(UTC).strftime("%Y/%m/%d")
        return self._directory / session.scope.region / day / f"{session.id}.rec"

    def _make_directory(self, directory: Path) -> None:
        if directory.is_dir():
            return
        self._make_directory(directory.parent)
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        sync_directory(directory.parent)


def _about(session: Session, columns: int, rows: int, term: str, at: datetime) -> Header:
    return Header(
        columns=_size(columns, 80),
        rows=_size(rows, 24),
        term=printable(term, 64),
        timestamp=int(at.timestamp()),
        title=f"{session.login}@{session.target}",
        command=session.command,
        about={
            "session": session.id,
            "identity": str(session.identity),
            "display": session.display,
            "scope": str(session.scope),
            "grant": session.grant_id,
            "node": session.node,
        },
    )


def _size(claimed: int, usual: int) -> int:
    """A client may claim any size, and 0 where it does not know (RFC 4254, section 6.2)."""
    return min(claimed, MAX_SIZE) if claimed > 0 else usual


def _batch(reader: Reader) -> tuple[list[Entry], Unavailable | None]:
    """The next entries, and what came in the way of more: what is good is given before what is not is told."""
    entries: list[Entry] = []
    try:
        entries.extend(islice(reader.entries(), _BATCH))
    except Unavailable as error:
        return entries, error
    return entries, None


def _closing(reader: Reader, session: Session, at: int) -> Iterator[Entry]:
    """What the reader of a recording must know and the recorder could not write."""
    if (session.end if reader.manifest is None else reader.manifest.end) in _UNFINISHED_ENDS:
        for passed in (*reader.tally.passed.values(), *reader.tally.underway.values()):
            yield Entry(at, Code.MARKER, f"{passed} up to here".encode())
    if reader.manifest is not None and reader.manifest.end == End.INTERRUPTED:
        yield Entry(at, Code.MARKER, b"interrupted: the bastion stopped here; everything it had delivered is above")
    elif reader.manifest is None and session.end in _UNFINISHED_ENDS:
        dropped = f"; {reader.incomplete} bytes of an incomplete record were left out" if reader.incomplete else ""
        yield Entry(at, Code.MARKER, f"interrupted: the end of this recording is missing{dropped}".encode())


def _is_cut(reader: Reader, session: Session) -> bool:
    return reader.manifest is None and session.ended_at is not None and session.end not in _UNFINISHED_ENDS


def _write_whole(descriptor: int, data: bytes) -> None:
    written = 0
    while written < len(data):
        written += os.write(descriptor, data[written:])
