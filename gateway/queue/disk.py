# SPDX-License-Identifier: Apache-2.0
"""The door to the disk: the database connection, sync, rename, free space.

Promises: everything in the queue that makes data durable goes through one `Disk`, so a test can put one there that fails
on cue. The words of SQLite's errors are understood here and nowhere else.
Fails with: `OSError`, and `DatabaseError` from the connection.
Not here: what is written (`store.py`, `content.py`).
"""

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from gateway.mail import reply
from gateway.mail.reply import MailError

Connection = sqlite3.Connection
DatabaseError = sqlite3.Error

# 4,000 messages of 4 KiB in and out: 277 MB of log with pages of 4096, 433 with 8192, if each has its own commit; if forty
# share one, 43 and 49. No difference in time stood out of the noise.
PAGE_SIZE = 4096
CACHE_KIB = 32 << 10

_FULL = {sqlite3.SQLITE_FULL}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_REFUSED = {
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_RANGE,
    sqlite3.SQLITE_ERROR,
}


class Disk:
    """The real one."""

    def connect(self, path: Path, *, readonly: bool = False) -> Connection:
        """A connection in WAL mode whose commits are synced; used by one thread at a time."""
        connection = self._open(path)
        try:
            # The owner of the directory lock is alone, so a lock that is held is a fault and not worth a wait.
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # in WAL mode: one sync for each commit
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # the writer chooses the moment
            # Debian's SQLite overwrites what is deleted, which writes each page of content a second time when it is delivered.
            connection.execute("PRAGMA secure_delete = OFF")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            connection.execute("PRAGMA cache_spill = OFF")  # a statement must not write; the commit does
            connection.execute(f"PRAGMA query_only = {'ON' if readonly else 'OFF'}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _open(self, path: Path) -> Connection:
        return sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def sync_file(self, path: Path) -> None:
        """fsync of a file that is complete."""
        self._sync(path, os.O_RDONLY)

    def sync_directory(self, path: Path) -> None:
        """fsync of a directory: names in it that were made or changed survive a crash."""
        self._sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def _sync(self, path: Path, flags: int) -> None:
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Take a file away; one that is not there is no fault."""
        path.unlink(missing_ok=True)

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Make a file for our eyes only, complete but not yet synced."""
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for chunk in chunks:
                file.write(chunk)

    def allocate(self, path: Path, octets: int) -> None:
        """Make a file, or make it as long, whose blocks are there and not only its length; if that fails there is none."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, min(octets, os.fstat(descriptor).st_size))
            try:
                os.posix_fallocate(descriptor, 0, octets)
            except OSError as err:
                if err.errno not in _NO_FALLOCATE:
                    raise
                self._fill(descriptor, octets)
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(descriptor)

    def _fill(self, descriptor: int, octets: int) -> None:
        """For file systems that cannot allocate: the sync makes them say now that there is no room."""
        at = 0
        while at < octets:
            at += os.pwrite(descriptor, bytes(min(1 << 20, octets - at)), at)
        os.fsync(descriptor)

    def free(self, path: Path) -> tuple[int, int | None]:
        """Octets and inodes that we may still use; None where the file system does not count inodes."""
        state = os.statvfs(path)
        return state.f_bavail * state.f_frsize, state.f_favail if state.f_files else None

    def file_size(self, path: Path) -> int:
        """Octets of a file; 0 if there is none."""
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0

    def size(self, path: Path) -> int:
        """Octets of the whole file system."""
        state = os.statvfs(path)
        return state.f_blocks * state.f_frsize


def _code(err: BaseException) -> int:
    return getattr(err, "sqlite_errorcode", 0) & 0xFF  # the primary one of an extended code


def is_corrupt(err: BaseException) -> bool:
    """The file is not a database, or a damaged one."""
    return isinstance(err, DatabaseError) and _code(err) in _BROKEN


def lacks_table(err: BaseException) -> bool:
    """The statement does not fit the database: it has no such table."""
    return isinstance(err, DatabaseError) and _code(err) == sqlite3.SQLITE_ERROR


def is_unreadable(err: BaseException) -> bool:
    """The rows are damaged or not what they must be; asking again would not help. Text that is no UTF-8 has code 0."""
    return isinstance(err, DatabaseError) and _code(err) in _BROKEN | _REFUSED | {0}


def is_refusal(err: BaseException) -> bool:
    """The statement was wrong (a doubled id, say); the disk and the connection are well."""
    return not isinstance(err, (OSError, DatabaseError)) or _code(err) in _REFUSED


def is_full(err: BaseException) -> bool:
    """There is no room. The index of the log, a file that SQLite maps, has a code of its own for that."""
    if isinstance(err, OSError):
        return err.errno in _NO_SPACE
    return _code(err) in _FULL or getattr(err, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHMSIZE


def mail_error(err: BaseException, doing: str) -> MailError:
    """What a client is told about a disk fault: 452 when it is full, 451 otherwise (RULES: never 5yz)."""
    if isinstance(err, MailError):
        return err
    return MailError(reply.NO_SPACE if is_full(err) else reply.QUEUE_WRITE, f"{doing}: {type(err).__name__}: {err}")


def move(source: Path, target: Path) -> None:
    """Put a broken file or folder aside, whatever it is."""
    shutil.move(source, target)
