"""Files in the MaxMind DB format, version 2: what they say of an address, and how a new one is put in place."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import maxminddb

from bastion.core.geofence import Address

MAX_SIZE = 1 << 30
"""Bytes. It is held in memory; the largest that is sold has about half of this."""

_CODE = re.compile(r"[A-Z]{2}")
_USER_ASSIGNED = re.compile(r"AA|Q[M-Z]|X[A-Z]|ZZ")


def country_code(value: object) -> str | None:
    """``value`` if it is an ISO 3166-1 alpha-2 code in upper case, else None.

    Codes that the standard leaves to its users (AA, QM–QZ, XA–XZ, ZZ) are no countries: databases write "unknown" and
    "anonymous" with them. Kosovo's XK is the exception that all of them make.
    """
    if not isinstance(value, str) or not _CODE.fullmatch(value):
        return None
    return None if _USER_ASSIGNED.fullmatch(value) and value != "XK" else value


def country_in(record: object) -> str | None:
    """The country where a record says that its addresses are used.

    ``country.iso_code`` (MaxMind, DB-IP) or else a flat ``country_code``. Never ``registered_country``: that is where
    the owner of the network filed its papers. The networks of satellite and VPN providers are used from anywhere, and
    ``country`` is left out of exactly the records where nobody knows from where.
    """
    if not isinstance(record, dict):
        return None
    country = record.get("country")
    return country_code(country.get("iso_code") if isinstance(country, dict) else record.get("country_code"))


class Database:
    """One file, read into memory.

    Not mapped: a mapped file that somebody cuts short kills the process (SIGBUS), and one that somebody writes over
    changes its answers. And by the reader in Python, for which a corrupt file is an exception and never a bad pointer.

    Raises:
        OSError, ValueError: the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        content = _read(path)
        try:
            self._reader = maxminddb.open_database(io.BytesIO(content), maxminddb.MODE_FD)
            self._knows_ipv6 = self._reader.metadata().ip_version == 6
            self.built_at = datetime.fromtimestamp(self._reader.metadata().build_epoch, UTC)
        except Exception as error:  # the reader keeps no list of what a corrupt file can raise
            raise ValueError(f"{path} is not a usable MaxMind database: {error}") from error

    def country(self, address: Address) -> str | None:
        """None where the data does not know.

        Raises:
            ValueError: the record is corrupt.
        """
        if address.version == 6 and not self._knows_ipv6:
            return None
        try:
            return country_in(self._reader.get(address))
        except Exception as error:  # as above
            raise ValueError(f"{self.name} is corrupt at {address}: {error!r}") from error


def _read(path: Path) -> bytes:
    """Everything in the file, provided that nobody wrote to it meanwhile."""
    # Without blocking: to open a pipe would wait for a writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode) or before.st_size > MAX_SIZE:
            raise ValueError(f"{path} is not a file of at most {MAX_SIZE >> 20} MiB")
        content = file.read(MAX_SIZE + 1)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(content) != after.st_size:
        raise ValueError(f"{path} is being written")
    return content


@dataclass(frozen=True, slots=True)
class Installed:
    """What a new database is: how many of its networks have a country, and from when it is."""

    networks: int
    built_at: datetime


def install(source: Path, destination: Path) -> Installed:
    """Put a copy of ``source`` at ``destination``, at once and durably, after reading every record of the copy.

    Raises:
        OSError, ValueError: nothing was changed at ``destination``.
    """
    descriptor, name = tempfile.mkstemp(dir=destination.parent, prefix=f".{destination.name}.")
    copy = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file, source.open("rb") as original:
            shutil.copyfileobj(original, file)
            os.fchmod(file.fileno(), 0o644)  # public data, and the bastion may run as another user than the operator
            file.flush()
            os.fsync(file.fileno())
        try:
            installed = Installed(_count_countries(copy), Database(copy).built_at)
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), str(source))) from error
        copy.rename(destination)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    _sync_folder(destination.parent)
    return installed


def _count_countries(path: Path) -> int:
    """How many networks have a country, after reading every record there is.

    With the fast reader in C where there is one: the copy is ours alone, and a crash would install nothing.

    Raises:
        ValueError: a record is corrupt, or no network has a country.
    """
    networks = found = 0
    try:
        with maxminddb.open_database(path) as reader:
            most = reader.metadata().node_count + 1  # leaves of a binary tree; more, and the tree has loops
            for _, record in reader:
                networks += 1
                found += country_in(record) is not None
                if networks > most:
                    raise ValueError("its search tree has loops")
    except OSError:
        raise
    except Exception as error:  # as above
        raise ValueError(f"{path} is not a usable MaxMind database: {error}") from error
    if not found:
        raise ValueError(f"{path} has no countries; a Country or City database is needed")
    return found


def _sync_folder(folder: Path) -> None:
    """Make a rename durable (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
