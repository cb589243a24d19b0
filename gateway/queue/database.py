# SPDX-License-Identifier: Apache-2.0
"""The file of a shard: made, recognised, checked, put aside if it is broken.

A broken file is exchanged in steps, and the process may die after any of them:
1 what can be read is copied to `N.new`, while the broken file keeps its name: a death here and the next start begins anew;
2 the copy is synced and named `N.sqlite.broken-<time>.saved`: from here on the next start goes on with step 3;
3 the broken file and its log are renamed to `N.sqlite.broken-<time>`, so that no log stands beside a database it is not of;
4 the copy gets the name of the database.

Promises: a file that appears under its name is complete (it is made under another and renamed); a broken or foreign one is
renamed, never deleted. A newer schema is left alone, and so is a sound database when the disk fails while it is looked at.
An older schema becomes ours (`migrate`) in the transaction that makes a database ready: a death before leaves the older one.
A database that was made here has version `NEW` until the spool was compared with it (`recovery.py`).
Fails with: `NewerSchema`; `OSError` or `DatabaseError` when the disk does not work at all.
Not here: what the rows mean (`rows.py`), files of bodies (`recovery.py`).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.queue.disk import Connection, DatabaseError, Disk, is_corrupt, is_unreadable, lacks_table
from gateway.queue.sql import MIGRATIONS, SCHEMA

VERSION = 2
NEW = 0  # no file of the spool may be removed yet: its row may have been in a database that is gone
APPLICATION_ID = 0x6D677731  # "mgw1"
CHECK_MAX = 256 << 20  # octets of a database that is checked page by page at start: 0.3 s if it is in memory
TABLES = {"messages": 12, "contents": 5, "recipients": 10}  # and their columns
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


@dataclass(frozen=True, slots=True)
class Missing:
    """There was no database, but there had been one: `remains` are files of it."""

    aside: Path
    remains: tuple[str, ...]

    def __str__(self) -> str:
        return f"was missing and is made anew, empty; what is in {', '.join(self.remains)} is not in the queue"


def prepare(path: Path, disk: Disk, now: float) -> Salvage | Missing | None:
    """Make sure that a sound database is at `path`. Returns what had to be done about a broken or missing one."""
    fresh = path.with_suffix(".new")
    if halves := _copies(path.parent, path.name):
        return _resume(halves[-1], path, disk)
    if not path.exists():
        broken = _broken(path)
        if broken and fresh.exists():  # moved aside, and then the copy was not finished
            _move(path, broken[-1], disk)
            return _salvage("had been put aside", broken[-1], path, broken[-1], disk)
        return _replace_missing(path, broken, disk, now)
    if reason := _foreign(path) or _damage(path, disk):
        return _salvage(reason, path, path, beside(path, "broken", now), disk)
    _remove(fresh, disk)
    return None


def migrate(connection: Connection) -> None:
    """From an older schema to ours, within the transaction that is open. A database in the making is told by its columns."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    columns = connection.execute("SELECT count(*) FROM pragma_table_info('messages')").fetchone()[0]
    if version == NEW:
        version = VERSION if columns == TABLES["messages"] else 1
    for step in range(version + 1, VERSION + 1):
        for statement in MIGRATIONS[step]:
            connection.execute(statement)


def unfinished(directory: Path) -> list[str]:
    """Names of databases that were being exchanged when the process died; they may be there under another name only."""
    return [copy.name.partition(".broken-")[0] for copy in _copies(directory, "*.sqlite")]


def beside(path: Path, kind: str, now: float) -> Path:
    """A name for what is put aside that nothing has yet."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    aside = path.with_name(f"{path.name}.{kind}-{stamp}")
    count = 1
    while any(path.parent.glob(f"{aside.name}*")):
        count += 1
        aside = path.with_name(f"{path.name}.{kind}-{stamp}.{count}")
    return aside


def _salvage(reason: str, source: Path, path: Path, aside: Path, disk: Disk) -> Salvage:
    """Copy what can be read of `source`, and exchange."""
    fresh = path.with_suffix(".new")
    connection = _build(fresh, disk)
    try:
        connection.execute("PRAGMA synchronous = OFF")  # all of it is synced at once when it is complete
        saved, lost = _copy(source, connection, disk)
        _take_in_log(connection)
    finally:
        connection.close()
    disk.sync_file(fresh)
    copy = aside.with_name(f"{aside.name}.saved")
    disk.rename(fresh, copy)
    disk.sync_directory(path.parent)
    _exchange(copy, path, disk)
    return Salvage(reason, aside, saved, lost)


def _exchange(copy: Path, path: Path, disk: Disk) -> Path:
    """Steps 3 and 4, or what is left of them. Returns where the broken file is."""
    aside = copy.with_suffix("")
    _move(path, aside, disk)
    disk.sync_directory(path.parent)
    disk.rename(copy, path)
    disk.sync_directory(path.parent)
    return aside


def _resume(copy: Path, path: Path, disk: Disk) -> Salvage:
    aside = _exchange(copy, path, disk)
    connection = disk.connect(path)
    try:
        saved = int(connection.execute("SELECT count(*) FROM messages").fetchone()[0])
    finally:
        connection.close()
    return Salvage("was damaged at a start that did not end", aside, saved, 0)


def _replace_missing(path: Path, broken: list[Path], disk: Disk, now: float) -> Missing | None:
    """An empty database. Those that were put aside long ago are not read: their mail may have been delivered since."""
    aside = beside(path, "missing", now)
    remains = (*_move(path, aside, disk), *(each.name for each in broken))
    disk.sync_directory(path.parent)
    fresh = path.with_suffix(".new")
    connection = _build(fresh, disk)
    try:
        _take_in_log(connection)
    finally:
        connection.close()
    disk.sync_file(fresh)
    disk.rename(fresh, path)
    disk.sync_directory(path.parent)
    return Missing(aside, remains) if remains else None


def _copies(directory: Path, name: str) -> list[Path]:
    """Complete copies that have not yet become the database."""
    return sorted(directory.glob(f"{name}.broken-*.saved"))


def _broken(path: Path) -> list[Path]:
    """What was put aside, the newest last."""
    asides = path.parent.glob(f"{path.name}.broken-*")
    return sorted(aside for aside in asides if not aside.name.endswith(("-wal", "-shm", ".spool")))


def _build(fresh: Path, disk: Disk) -> Connection:
    _remove(fresh, disk)
    disk.write(fresh, [])  # for our eyes only; SQLite gives its other files the same mode
    connection = disk.connect(fresh)
    try:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {NEW}; COMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def _take_in_log(connection: Connection) -> None:
    """Into the file, which is then complete without it. The last `close` does so as well, but does not tell if it fails."""
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise DatabaseError("the log of a new database cannot be written into it")


def _remove(path: Path, disk: Disk) -> None:
    for member in _family(path):
        disk.remove(member)


def _move(path: Path, aside: Path, disk: Disk) -> list[str]:
    """What there is of a database and its log; the new names."""
    pairs = [pair for pair in zip(_family(path), _family(aside), strict=True) if pair[0].exists()]
    for member, target in pairs:
        disk.rename(member, target)
    return [target.name for _, target in pairs]


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
    """What is wrong inside. Raises NewerSchema, and DatabaseError for a fault of the disk, which may pass."""
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
            connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()  # noqa: S608  # a name from the table above
    except DatabaseError as err:
        if is_corrupt(err) or lacks_table(err):
            return f"is damaged ({err})"
        raise
    finally:
        connection.close()
    return ""


def _copy(path: Path, target: Connection, disk: Disk) -> tuple[int, int]:
    """Whole messages only: how many were copied, and how many were there but cannot be read.

    Raises DatabaseError for a fault of the disk: a copy without what can be read must not take the place of the file.
    """
    if not path.is_file() or _foreign(path):
        return 0, 0
    try:
        source = disk.connect(path, readonly=True)
    except DatabaseError as err:
        if is_unreadable(err):
            return 0, 1
        raise
    saved = lost = 0
    try:
        for n in _numbers(source):
            try:
                rows = {table: source.execute(f"SELECT * FROM {table} WHERE n = ?", (n,)).fetchall() for table in TABLES}  # noqa: S608
                _insert(target, rows)
                saved += 1
            except DatabaseError as err:
                if not is_unreadable(err):
                    raise
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
        except DatabaseError as err:
            if not is_unreadable(err):
                raise
            continue  # counted by nobody: how many there were is what cannot be read


def _insert(target: Connection, rows: dict[str, list[tuple[object, ...]]]) -> None:
    if not all(rows.values()):
        raise DatabaseError("incomplete")
    target.execute("BEGIN")
    try:
        for table, columns in TABLES.items():
            whole = [(*row, *(None,) * (columns - len(row))) for row in rows[table]]  # those of an older schema are shorter
            target.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * columns)})", whole)  # noqa: S608
        target.execute("COMMIT")
    except DatabaseError:
        if target.in_transaction:  # a full disk ends it by itself
            target.execute("ROLLBACK")
        raise
