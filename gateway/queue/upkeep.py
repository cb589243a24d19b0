# SPDX-License-Identifier: Apache-2.0
"""What the writer's thread does to the database file between transactions.

Promises: nothing is lost if any of it fails: the log holds it, or the database stays as large as it was.
Fails with: `DatabaseError`.
Not here: when (`store.py`), and the shrinking at start (`recovery.py`).
"""

from gateway.queue.disk import PAGE_SIZE, Connection


def checkpoint(connection: Connection) -> None:
    """Copy the log into the database, so that it is begun anew; it keeps its size, and with that its place on the disk."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def empty_log(connection: Connection) -> None:
    """The same, and give the log's place back."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def free_inside(connection: Connection) -> int:
    """Octets of the database that mail has left."""
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0]) * PAGE_SIZE


def shrink(connection: Connection, most: int) -> None:
    """Give free pages back to the file system if half of the database or more is free and no more than `most` octets stay.

    The log is empty afterwards in any case.
    """
    free = free_inside(connection)
    used = int(connection.execute("PRAGMA page_count").fetchone()[0]) * PAGE_SIZE - free
    if free < used or used > most:
        checkpoint(connection)
        return
    connection.execute("PRAGMA temp_store = MEMORY")  # it is small, and there may be no other disk
    try:
        connection.execute("VACUUM")
        checkpoint(connection)  # this makes the file smaller, now or the next time if somebody reads in it
    finally:
        connection.execute("PRAGMA temp_store = DEFAULT")
