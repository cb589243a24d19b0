# SPDX-License-Identifier: Apache-2.0
"""What is done to a shard before it is used: the database made sound, stamps mended, files and rows compared.

There are no claims to undo: claims live in memory, so all that is not settled is queued.

Promises: a file is removed only if its name is one of ours and no row needs it; beside a database that was made anew (the
old one was broken or missing) bodies without a row are put aside instead, however often the process dies over that. A row
whose file is missing is held for a human.
Fails with: as `database.prepare`.
"""

from collections.abc import Callable
from pathlib import Path

from gateway.mail.job import QueueId, parse_queue_id
from gateway.queue import rows
from gateway.queue.content import Spool
from gateway.queue.database import NEW, VERSION, NewerSchema, beside, migrate, prepare
from gateway.queue.disk import Connection, Disk, move
from gateway.queue.options import QueueOptions
from gateway.queue.schedule import longest_wait
from gateway.queue.sql import QUERIES

__all__ = ["NewerSchema", "recover"]

Tell = Callable[[str, QueueId | None], None]

OLDEST = 1_577_836_800.0  # 2020: a stamp before it is that of a clock without battery
SHRINK_PAGES = 16 << 10  # free pages that are worth giving back
FILE_LOST = "its content file is missing or too short"


def recover(path: Path, spool: Spool, disk: Disk, options: QueueOptions, *, now: float, tell: Tell) -> None:
    """Blocking. `tell` hears each fault, with the id of the message that it is about."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    spool.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = prepare(path, disk, now)
    if found:
        tell(f"{path.name} {found}", None)
    aside = found.aside if found else beside(path, "missing", now)
    connection = disk.connect(path)
    try:
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        new = version == NEW
        migrate(connection)
        _mend_stamps(connection, options, now)
        orphans, incomplete = _compare(connection, spool, tell)
        if new and orphans:
            _put_aside(orphans, aside.with_name(f"{aside.name}.spool"), disk, tell)
        if version != VERSION:
            connection.execute(f"PRAGMA user_version = {VERSION}")
        for file in incomplete if new else [*orphans, *incomplete]:
            disk.remove(file)
        connection.execute("COMMIT")
        _shrink(connection)
    finally:
        connection.close()


def _mend_stamps(connection: Connection, options: QueueOptions, now: float) -> None:
    """Times that no right clock can have written, so that nothing waits for a year that is far away."""
    furthest = now + longest_wait(options)
    connection.execute(QUERIES["mend_created"], (now, OLDEST))
    connection.execute(QUERIES["mend_message_due"], (now, furthest))
    connection.execute(QUERIES["mend_recipient_due"], (now, furthest))


def _compare(connection: Connection, spool: Spool, tell: Tell) -> tuple[list[Path], list[Path]]:
    """Files against rows, both ways. Returns the bodies that have no row, and the files that were never complete."""
    needed: dict[QueueId, tuple[int, int, int]] = {
        row[1]: (row[0], row[2], row[3]) for row in connection.execute(QUERIES["filed"])
    }
    sizes: dict[str, int] = {}
    orphans: list[Path] = []
    incomplete: list[Path] = []
    for file in spool.directory.iterdir():
        if parse_queue_id(file.name.removesuffix(".tmp")) is None or not file.is_file():
            tell(f"{file.name} in the spool is not ours and is left alone", None)
        elif file.name in needed:
            sizes[file.name] = file.stat().st_size
        else:
            (incomplete if file.name.endswith(".tmp") else orphans).append(file)
    for queue_id, (n, held, size) in needed.items():
        if sizes.get(queue_id, -1) < size and not held:
            rows.hold(connection, [n], FILE_LOST)
            tell(f"held: {FILE_LOST}", queue_id)
    return orphans, incomplete


def _put_aside(orphans: list[Path], folder: Path, disk: Disk, tell: Tell) -> None:
    """Their rows were in a database that is gone. Durable when it returns: the next start would remove what is left."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for file in orphans:
        move(file, folder / file.name)
    for directory in (folder, folder.parent, orphans[0].parent):
        disk.sync_directory(directory)
    tell(f"{len(orphans)} files of messages that the new database does not know; put aside in {folder.name}", None)


def _shrink(connection: Connection) -> None:
    """Give the room of a backlog that is gone back to the file system; what is copied for that is small."""
    free = connection.execute("PRAGMA freelist_count").fetchone()[0]
    if free > SHRINK_PAGES and free > 0.75 * connection.execute("PRAGMA page_count").fetchone()[0]:
        connection.execute("VACUUM")
