"""Writing a recording: every call hands its bytes to the operating system before it returns (law 6)."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from pathlib import Path
from typing import Final

import zstandard

from bastion.adapters.recordings.container import ABOUT, PACKED, PLAIN, Chain, entry_head
from bastion.adapters.recordings.keys import RecordingKeys, sync_directory
from bastion.adapters.recordings.manifest import Tally
from bastion.core.errors import Unavailable
from bastion.core.recording import Code, Stream, Underway, mask_typed
from bastion.core.session import End, Session
from bastion.ports import Clock

SYNC_INTERVAL = 0.5
"""Seconds after which written bytes are on the disk itself, and not only the operating system's. A power cut, not a
crash of the bastion, can cost this much."""

MAX_DATA = 256 * 1024
"""Bytes of one entry; longer ones become several. Bounds what a reader must hold."""

WORTH_PACKING = 96
"""Bytes; a zstd frame of less saves nothing."""

LEVEL = zstandard.ZstdCompressionParameters.from_level(-1, min_match=7, hash_log=12)
"""A third faster than level 1 on text, three times on what does not compress: measured, see docs/adr/0003."""


class Packer:
    """One compressor for all recordings of a node: its tables take a megabyte, and it holds nothing between calls."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdCompressor(compression_params=LEVEL)
        self._lock = threading.Lock()  # a compressor is not safe for two threads, and sessions may end in others

    def pack(self, data: bytes) -> tuple[int, bytes]:
        """The kind of record, and the data as it stands in it."""
        if len(data) < WORTH_PACKING:
            return PLAIN, data
        with self._lock:
            packed = self._zstd.compress(data)
        return (PACKED, packed) if len(packed) < len(data) else (PLAIN, data)


class Syncer:
    """A thread that brings written bytes to the disk, so that no session waits for it."""

    def __init__(self) -> None:
        self._soiled: set[FileRecorder] = set()
        self._lock = threading.Lock()
        self._some = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def soil(self, recorder: FileRecorder) -> None:
        """Sync ``recorder`` within `SYNC_INTERVAL`."""
        with self._lock:
            self._soiled.add(recorder)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="recordings-sync", daemon=True)
                self._thread.start()
        self._some.set()

    def close(self) -> None:
        """Sync what there is, and end the thread. Idempotent."""
        self._stopping.set()
        self._some.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._some.wait()
            self._stopping.wait(SYNC_INTERVAL)
            self._some.clear()
            with self._lock:
                soiled, self._soiled = self._soiled, set()
            for recorder in soiled:
                recorder.sync()


class FileRecorder:
    """One recording while it is written; keeps the promises of `bastion.ports.Recorder`.

    After a call has raised, every later one raises too, and the file ends with the last whole record. Calls come from
    one thread at a time; `finish` waits for the disk, so it is better made in another than the event loop's.
    """

    __slots__ = (
        "_chain", "_clock", "_closing", "_descriptor", "_failure", "_full_until", "_keys", "_named", "_packer", "_path",
        "_session", "_soiled", "_streams", "_syncer", "_tally",
    )  # fmt: skip

    def __init__(
        self, *, descriptor: int, path: Path, session: Session, header: bytes, about: bytes, chain: Chain,
        full_until: int | None, packer: Packer, syncer: Syncer, keys: RecordingKeys, clock: Clock,
    ) -> None:  # fmt: skip
        """``descriptor`` is an empty file, opened to append, and belongs to the recorder from now on.

        Raises:
            Unavailable: the beginning could not be written.
        """
        self._descriptor = descriptor
        self._path: Final = path
        self._session: Final = session
        self._chain: Final = chain
        self._full_until: Final = full_until
        self._streams: Final[dict[Code, Stream]] = {}
        self._packer: Final = packer
        self._syncer: Final = syncer
        self._keys: Final = keys
        self._clock: Final = clock
        self._tally: Final = Tally(header)
        self._closing: Final = threading.Lock()
        self._failure: str | None = None
        self._soiled = False
        self._named = False
        self._write(header)
        self._append(chain.seal(ABOUT, about))

    def output(self, at: float, data: bytes) -> None:
        self._pass(Code.OUTPUT, at, data)

    def error_output(self, at: float, data: bytes) -> None:
        self._pass(Code.ERROR, at, data)

    def input(self, at: float, data: bytes, *, typed: bool) -> None:
        self._pass(Code.INPUT, at, mask_typed(data) if typed else data)

    def resize(self, at: float, columns: int, rows: int) -> None:
        self._entry(Code.RESIZE, at, b"%dx%d" % (columns, rows))

    def mark(self, at: float, label: str) -> None:
        self._entry(Code.MARKER, at, label.encode("utf-8", "backslashreplace"))

    def underway(self, at: float, file: Underway) -> None:
        self._entry(Code.DIGEST, at, file.to_bytes())

    def finish(self, at: float, end: End, exit_status: int | None) -> None:
        """Close with a signed manifest, synced to disk. Idempotent.

        Raises:
            Unavailable: the manifest could not be written; what was recorded before is as it was.
        """
        if self._descriptor < 0:
            return
        try:
            if self._failure is None:
                for code, data in (entry for stream in self._streams.values() for entry in stream.close()):
                    self._entry(code, at, data)
                if exit_status is not None:
                    self._entry(Code.EXIT, at, b"%d" % exit_status)
            self._write(
                self._tally.last_record(
                    self._session, self._keys, end=end, exit_status=exit_status, sealed=self._clock.now()
                )
            )
            self._sync()
        except OSError as error:
            raise self._fail(error) from error
        finally:
            self._close()

    def abandon(self) -> None:
        """Close without an end, as a crash would. Idempotent."""
        self._close()

    def sync(self) -> None:
        """Bring what was written to the disk; a failure is told to the session by its next call."""
        with self._closing:
            if self._descriptor < 0:
                return
            try:
                self._sync()
            except OSError as error:
                self._fail(error)

    def _pass(self, code: Code, at: float, data: bytes) -> None:
        if self._full_until is None:
            self._entry(code, at, data)
            return
        if code not in self._streams:
            self._streams[code] = Stream(code, self._full_until)
        for each, content in self._streams[code].take(data):
            self._entry(each, at, content)

    def _entry(self, code: Code, at: float, data: bytes) -> None:
        if self._failure is not None:
            raise Unavailable(self._failure)
        if len(data) > MAX_DATA:
            for start in range(0, len(data), MAX_DATA):
                self._entry(code, at, data[start : start + MAX_DATA])
            return
        moment = max(self._tally.last_at, round(at * 1_000_000))
        kind, packed = self._packer.pack(data)
        self._append(self._chain.seal(kind, entry_head(code, moment) + packed))
        self._tally.deliver(code, moment, data)

    def _append(self, record: bytes) -> None:
        self._write(record)
        self._tally.count(record)
        if not self._soiled:
            self._soiled = True
            self._syncer.soil(self)

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):  # a disk that is almost full takes a part, and says why the next time
                written += os.write(self._descriptor, memoryview(data)[written:])
        except OSError as error:
            raise self._fail(error) from error

    def _fail(self, error: OSError) -> Unavailable:
        """Nothing is recorded any more. Half a record is taken back, so that a later manifest finds its place."""
        self._failure = "The recording could not be written, and nothing goes unrecorded here."
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, self._tally.size)
        reason = errno.errorcode.get(error.errno or 0, "unknown error")
        return Unavailable(self._failure, detail=f"{self._path}: {reason}")

    def _sync(self) -> None:
        self._soiled = False  # first, so that what is written meanwhile asks for another sync
        os.fdatasync(self._descriptor)
        if not self._named:
            sync_directory(self._path.parent)
            self._named = True

    def _close(self) -> None:
        with self._closing:
            descriptor, self._descriptor = self._descriptor, -1
            self._failure = self._failure or "This recording is closed."
            if descriptor >= 0:
                os.close(descriptor)
