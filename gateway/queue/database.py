# SPDX-License-Identifier: Apache-2.0
"""The file of a shard: made, recognised, checked, put aside if it is broken.

Promises: a file that appears under its name is complete (it is made under another and renamed); a broken or foreign one is
renamed, never deleted and never written to, and what can be read of it is copied over. A newer schema is left alone.
Fails with: `NewerSchema`; `OSError` or `DatabaseError` when the disk does not work at all.
Not here: what the rows mean (`rows.py`), files of bodies (`recovery.py`).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.queue.disk import Connection, DatabaseError, Disk, is_corrupt, move
from gateway.queue.sql import SCHEMA

VERSION = 1
APPLICATION_ID = 0x6D677731  # "mgw1"
CHECK_MAX = 256 << 20  # octets of a database that is checked page by page at start: 0.3 s if it is in memory
TABLES = {"messages": 11, "contents": 5, "recipients": 9}  # and their columns
_MAGIC = b"SQLite format 3\0"
_HEADER = 100  # octets of it, with the application id at 68 and the user version at 60


class NewerSchema(Exception):
    """The queue was written by a newer version of this program; start that one, or empty the queue with it."""


@dataclass(frozen=True, slots=True)
class Salvage:
    """A broken database was put aside. `lost` counts messages that are known to be unreadable."""

    reason: str
    aside: Path
    saved: int
    lost: int

    def __str__(self) -> str:
        return f"{self.reason}; put aside as {self.aside.name}, {self.saved} messages saved from it, {self.lost} or more lost"


def prepare(path: Path, disk: Disk, now: float) -> Salvage | None:
    """Make sure that a sound database is at `path`. Returns what had to be done about a broken one."""
    if not path.exists():
        _create(path, disk)
        return None
    reason = _foreign(path) or _damage(path, disk)
    if not reason:
        return None
    aside = _put_aside(path, now)
    fresh = path.with_suffix(".new")
    connection = _build(fresh, disk)
    try:
        saved, lost = _copy(aside, connection, disk)
    finally:
        connection.close()
    _publish(fresh, path, disk)
    return Salvage(reason, aside, saved, lost)


def _create(path: Path, disk: Disk) -> None:
    fresh = path.with_suffix(".new")
    _build(fresh, disk).close()  # the last connection takes the log into the file and removes it
    _publish(fresh, path, disk)


def _build(fresh: Path, disk: Disk) -> Connection:
    for leftover in _family(fresh):
        disk.remove(leftover)
    disk.write(fresh, [])  # for our eyes only; SQLite gives its other files the same mode
    connection = disk.connect(fresh)
    try:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def _publish(fresh: Path, path: Path, disk: Disk) -> None:
    disk.sync_file(fresh)
    disk.rename(fresh, path)
    disk.sync_directory(path.parent)


def _family(path: Path) -> list[Path]:
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


def _foreign(path: Path) -> str:
    """Why this is no database of ours, from its first octets; nothing is opened, so nothing is changed."""
    if not path.is_file():
        return "is not a file"
    with path.open("rb") as file:
        header = file.read(_HEADER)
    if not header:
        return "is empty"
    if len(header) < _HEADER or not header.startswith(_MAGIC):
        return "is not an SQLite database"
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        return "is the database of another program"
    return ""


def _damage(path: Path, disk: Disk) -> str:
    """What is wrong inside. Raises NewerSchema."""
    try:
        connection = disk.connect(path)
    except DatabaseError as err:
        if is_corrupt(err):
            return f"is damaged ({err})"
        raise
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise NewerSchema(f"{path} has schema {version}, this program knows {VERSION}")
        if sum(member.stat().st_size for member in _family(path) if member.exists()) <= CHECK_MAX:
            verdict = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
            if verdict != "ok":
                return f"is damaged ({verdict.splitlines()[-1]})"
        for table in TABLES:
            connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchone()  # noqa: S608  # a name from the table above
    except DatabaseError as err:
        return f"is damaged ({err})"
    finally:
        connection.close()
    return ""


def _put_aside(path: Path, now: float) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    aside = path.with_name(f"{path.name}.broken-{stamp}")
    count = 1
    while aside.exists():
        count += 1
        aside = path.with_name(f"{path.name}.broken-{stamp}.{count}")
    for member, target in zip(_family(path), _family(aside), strict=True):
        if member.exists():
            move(member, target)
    return aside


def _copy(aside: Path, target: Connection, disk: Disk) -> tuple[int, int]:
    """Whole messages only: how many were copied, and how many were there but cannot be read."""
    if not aside.is_file() or _foreign(aside):
        return 0, 0
    try:
        source = disk.connect(aside, readonly=True)
    except DatabaseError:
        return 0, 1
    saved = lost = 0
    try:
        for n in _numbers(source):
            try:
                rows = {table: source.execute(f"SELECT * FROM {table} WHERE n = ?", (n,)).fetchall() for table in TABLES}  # noqa: S608
                _insert(target, rows)
                saved += 1
            except DatabaseError:
                lost += 1
    finally:
        source.close()
    return saved, lost


def _numbers(source: Connection) -> Iterator[int]:
    """Numbers of messages, from both ends, as far as a damaged page lets us read."""
    seen: set[int] = set()
    for order in ("ASC", "DESC"):
        try:
            for (n,) in source.execute(f"SELECT n FROM messages NOT INDEXED ORDER BY n {order}"):  # noqa: S608  # one of two words
                if n in seen:
                    return
                seen.add(n)
                yield n
        except DatabaseError:
            continue  # counted by nobody: how many there were is what cannot be read


def _insert(target: Connection, rows: dict[str, list[tuple[object, ...]]]) -> None:
    if not all(rows.values()):
        raise DatabaseError("incomplete")
    target.execute("BEGIN")
    try:
        for table, columns in TABLES.items():
            target.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * columns)})", rows[table])  # noqa: S608
    except DatabaseError:
        target.execute("ROLLBACK")
        raise
    target.execute("COMMIT")
