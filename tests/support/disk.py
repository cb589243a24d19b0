# SPDX-License-Identifier: Apache-2.0
"""A disk that fails on cue: the n-th write, sync, rename or commit, once or from then on.

Every act that makes something durable is counted under its name: "write", "sync", "directory", "rename", "remove" for
files, "allocate" for the reserve; "begin", "statement", "commit" for the database. `acts` is the list of them, so a test can
walk through all.
"""

import errno
import math
import os
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gateway.queue.disk import Connection, Disk

_WORDS = {"BEGIN": "begin", "COMMIT": "commit", "INSERT": "statement", "DELETE": "statement", "UPDATE": "statement"}


def database_full() -> sqlite3.Error:
    return _error("database or disk is full", sqlite3.SQLITE_FULL)


def sync_failed() -> sqlite3.Error:
    return _error("disk I/O error", sqlite3.SQLITE_IOERR_FSYNC)


def no_room_for_index() -> sqlite3.Error:
    """What a full disk says when a database is opened: the index of its log is a file that SQLite maps."""
    return _error("disk I/O error", sqlite3.SQLITE_IOERR_SHMSIZE)


def _error(text: str, code: int) -> sqlite3.Error:
    err = sqlite3.OperationalError(text)
    err.sqlite_errorcode = code
    return err


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def io_error() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))


class FailingDisk(Disk):
    """Counts while it is `armed`. `fail` says when and how; `space` and `whole` are what `free` and `size` answer, if set.

    A failing commit is not made, unless `late`: then it is made and reported as failed (the worst that a sync can do).
    """

    def __init__(self) -> None:
        self.acts: list[str] = []
        self.armed = False
        self.late = False
        self.connections = 0
        self.space: tuple[int, int | None] | None = None
        self.whole = 0
        self.page_limit = 0
        self._at = -1
        self._on = ""
        self._times = 1.0
        self._full = False

    def fail(
        self, at: int, *, on: str = "", times: int = 1, for_ever: bool = False, full: bool = False, late: bool = False
    ) -> None:
        """Fail act number `at` (from 0; of those named `on`, if given) with an I/O error, or with "no space" if `full`.

        So many `times` in a row, or `for_ever`.
        """
        self.acts.clear()
        self.armed = True
        self._at, self._on, self._full, self.late = at, on, full, late
        self._times = math.inf if for_ever else times

    def heal(self) -> None:
        """Count on, fail no more."""
        self._at = -1

    def act(self, name: str) -> bool:
        """Note an act; True if it must fail."""
        if not self.armed:
            return False
        number = sum(act == self._on for act in self.acts) if self._on else len(self.acts)
        self.acts.append(name)
        if self._at < 0 or (self._on and name != self._on):
            return False
        return self._at <= number < self._at + self._times

    def database_error(self) -> sqlite3.Error:
        return database_full() if self._full else sync_failed()

    def _file(self, name: str) -> None:
        if self.act(name):
            raise no_space() if self._full else io_error()

    # --- the door

    def _open(self, path: Path) -> Connection:
        self.connections += 1
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=_factory(self))
        if self.page_limit:
            connection.execute(f"PRAGMA max_page_count = {self.page_limit}")
        return connection

    def sync_file(self, path: Path) -> None:
        self._file("sync")
        super().sync_file(path)

    def sync_directory(self, path: Path) -> None:
        self._file("directory")
        super().sync_directory(path)

    def rename(self, source: Path, target: Path) -> None:
        self._file("rename")
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._file("remove")
        super().remove(path)

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        pieces = list(chunks)
        if pieces:
            super().write(path, [pieces[0][: len(pieces[0]) // 2]])  # half a file, then the fault
        self._file("write")
        super().write(path, pieces)

    def allocate(self, path: Path, octets: int) -> None:
        self._file("allocate")
        super().allocate(path, octets)

    def free(self, path: Path) -> tuple[int, int | None]:
        return self.space or super().free(path)

    def size(self, path: Path) -> int:
        return self.whole or super().size(path)


def _factory(disk: FailingDisk) -> type[sqlite3.Connection]:
    class FailingConnection(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            return self._run(sql, lambda: super(FailingConnection, self).execute(sql, parameters))

        def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
            return self._run(sql, lambda: super(FailingConnection, self).executemany(sql, parameters))

        def _run(self, sql: str, run: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
            name = _WORDS.get(sql.split(" ", 1)[0])
            if name is None or not disk.act(name):
                return run()
            if disk.late and name == "commit":
                run()
            raise disk.database_error()

    return FailingConnection
