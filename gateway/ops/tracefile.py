# SPDX-License-Identifier: Apache-2.0
"""The file behind the trace: one SQLite database a worker, rows ordered by message and time.

Promises: readers in other processes see whole batches and never wait for the writer; a file that cannot be read is put
aside and a new one begun, for a trace is a help and not a promise; the oldest messages go first when space or age says so, and
what they took goes back to the file system if the file is larger than it may be. The file's log is bounded too.
Not here: which events are kept and when they are written (`ops/trace.py`); how much there may be (`ops/traceroom.py`).
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gateway.mail.job import QueueId, make_queue_id

BUSY = 5.0  # seconds to wait for another process's lock
LARGEST_READ = 16 << 20  # octets of one trace that are read back
VERSION = 1
PAGE = 16 << 10  # octets; a row in a smaller page would spill into one of its own
LOG_MAX, LOG_MIN, LOG_SHARE = 4 << 20, 4 * PAGE, 16  # octets of the log: this part of the trace, within bounds
LOGS = 4  # times that is left for the log itself, which grows by a batch before it is copied, and for the file to do so
LAST = "~"  # sorts behind all ids

# Queue ids sort by time, so the rows of a message lie together, new ones go to the end, and the oldest are a range.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS event (
    id TEXT NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (id, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS opened (generation INTEGER NOT NULL);
INSERT INTO opened SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM opened);
UPDATE opened SET generation = generation + 1;
"""
# Many rows a statement: each statement costs the thread a turn of the interpreter lock, which a busy loop holds long.
_ROW = "(?,?,?)"
_INSERTS = {number: "INSERT OR REPLACE INTO event VALUES " + ",".join([_ROW] * number) for number in (64, 8, 1)}  # noqa: S608 - constants
_SELECT = "SELECT body FROM event WHERE id = ? ORDER BY seq"


class TraceFile:
    """The writing side. All calls come from one thread.

    Every method may raise sqlite3.OperationalError (no space, no permission, locked: try later) or another
    sqlite3.DatabaseError (the file is broken or not ours: `put_aside` it).
    """

    def __init__(self, path: Path, most: int) -> None:
        """`most` octets are for the file and its log, see `shrink`."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._connection = _connect(path)
        self._log = 0
        self._bound_log(log_of(most))
        generation = int(self._connection.execute("SELECT generation FROM opened").fetchone()[0])
        self._sequence = generation << 40  # grows from one opening of the file to the next, whatever clocks do

    def write(self, rows: Sequence[tuple[QueueId, str]]) -> None:
        """Append entries (id, JSON object) in one transaction."""
        values: list[Any] = []
        for queue_id, body in rows:
            self._sequence += 1
            values += (queue_id, self._sequence, body)
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            at = 0
            for number, statement in _INSERTS.items():
                while len(values) - at >= 3 * number:
                    self._connection.execute(statement, values[at : at + 3 * number])
                    at += 3 * number

    def remove_before(self, moment: float) -> None:
        """Forget messages whose id was made before `moment` (Unix time)."""
        end = make_queue_id(max(0, int(moment * 1e6)), 0)
        while self._forget(end):
            pass

    def shrink(self, most: int) -> None:
        """Forget the oldest messages, and give the space back, until the file and its log take at most `most` octets."""
        self._bound_log(log_of(most))
        most -= LOGS * self._log
        while self.size() > most and self._forget(LAST):
            pass
        self._give_back(most)

    def _forget(self, end: str) -> bool:
        """Remove the oldest messages below `end`: a log full of them, for all that goes passes there. False if none is left."""
        cut, octets = "", 0
        query = "SELECT id, length(body) FROM event WHERE id < ? ORDER BY id, seq"
        with contextlib.closing(self._connection.execute(query, (end,))) as rows:
            for queue_id, length in rows:
                cut = queue_id
                octets += length
                if octets >= self._log:
                    break
        if cut:
            self._connection.execute("DELETE FROM event WHERE id <= ?", (cut,))
        return bool(cut)

    def _give_back(self, most: int) -> None:
        """Free pages beyond `most` leave the file, so many at a time as the log may hold."""
        pages, free, size = self._sizes()
        while free and pages * size > most:
            number = min(free, -(-(pages * size - most) // size), max(1, self._log // size))
            self._connection.executescript(f"PRAGMA incremental_vacuum({number})")  # `execute` would stop behind one page
            before, (pages, free, size) = pages, self._sizes()
            if pages == before:  # a file that was made without this
                return

    def empty_log(self) -> None:
        """Copy the log into the file and give its space back; not while somebody reads, and then the next time will do."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def size(self) -> int:
        """Octets in use; free pages are used again and do not count."""
        pages, free, size = self._sizes()
        return (pages - free) * size

    def _bound_log(self, octets: int) -> None:
        """So much is gathered in the log before it is copied into the file; a longer one is cut when it begins anew."""
        if octets != self._log:
            self._log = octets
            self._connection.execute(f"PRAGMA wal_autocheckpoint={octets // PAGE}")
            self._connection.execute(f"PRAGMA journal_size_limit={octets}")

    def _sizes(self) -> tuple[int, int, int]:
        """Pages, free ones among them, octets of each."""
        pages, free, size = (int(self._one(f"PRAGMA {name}")) for name in ("page_count", "freelist_count", "page_size"))
        return pages, free, size

    def close(self) -> None:
        self._connection.close()

    def _one(self, query: str, *values: int) -> Any:
        return self._connection.execute(query, values).fetchone()[0]


def log_of(most: int) -> int:
    """Octets that the log of a trace of `most` may grow to; also what is written or removed in one transaction."""
    return max(LOG_MIN, min(LOG_MAX, most // LOG_SHARE))


def put_aside(path: Path) -> None:
    """Rename a broken file (the newest one is kept). Its log belongs to it and would poison the new one. Raises OSError."""
    path.replace(path.with_name(f"{path.name}.broken"))
    for suffix in ("-wal", "-shm"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size={PAGE}")
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # both before the first table
        connection.execute("PRAGMA journal_mode=WAL")
        # No sync: after a power cut the newest traces, or the file, may be gone. A kill of the process loses nothing here.
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA temp_store=MEMORY")  # statement journals would be a file for each batch
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise sqlite3.DatabaseError(f"{path}: version {version} is not ours")
        connection.executescript(f"{_SCHEMA} PRAGMA user_version = {VERSION};")
    except BaseException:
        connection.close()
        raise
    path.chmod(0o600)
    return connection


def read(path: Path, queue_id: QueueId) -> list[dict[str, Any]]:
    """The entries about one message, oldest first; none if the file is missing, empty or broken. From any process."""
    with contextlib.suppress(sqlite3.Error, ValueError), contextlib.closing(_reader(path)) as connection:
        return list(_entries(connection, queue_id))
    return []


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=BUSY, check_same_thread=False)


def _entries(connection: sqlite3.Connection, queue_id: QueueId) -> Iterator[dict[str, Any]]:
    left = LARGEST_READ
    for (body,) in connection.execute(_SELECT, (queue_id,)):
        left -= len(body)
        if left < 0:
            return
        yield json.loads(body)


def find_in(directory: Path, queue_id: QueueId) -> Mapping[str, Any] | None:
    """The trace of a message from the files of all workers in `directory`: {"id", "events"}. None if there is none."""
    events = [entry for path in sorted(directory.glob("*.sqlite")) for entry in read(path, queue_id)]
    return assemble(queue_id, events)


def assemble(queue_id: QueueId, events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """A trace from entries of one or several files, in the order of their times."""
    if not events:
        return None
    return {"id": queue_id, "events": sorted(events, key=lambda entry: str(entry.get("time", "")))}
