# SPDX-License-Identifier: Apache-2.0
"""The one writer of a shard: operations that arrive while the last sync runs share the next one.

A *flight* is one transaction: (1) the loop takes what waits, (2) runs its *quick* operations itself, (3) the writer thread
runs the others, (4) commits, (5) hands all results back in one call, (6) checkpoints when the log has grown.
Quick are those that touch only pages written a moment ago (accept; the end of a message that was never out of memory). Each
statement in the thread must win the interpreter back from the loop, which under load can take longer than the statement
itself. All that may have to wait for the disk is done by the thread.

Promises: `then` of an operation runs on the loop, after its commit, in the order of commits, whoever waits or was cancelled.
One failed operation does not spoil the others of its flight. A failed commit or sync fails the whole flight, is never taken
for done, and the connection is made anew before the next one (after a failed fsync its pages cannot be trusted); a full disk
is no reason for that. When the disk is full, new mail is refused; what *insists* (outcomes, which make room when mail is gone)
and what only reads is tried again at once, for outcomes with the room of the reserve. The log stays as small as the disk wants.
Fails with: `MailError` 451 or 452, given to `failed` (or raised by `run`).
Not here: what the operations are (`rows.py`), opening and mending the file (`database.py`), is there room (`space.py`).
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from gateway.mail import reply
from gateway.mail.reply import MailError
from gateway.queue import upkeep
from gateway.queue.disk import Connection, DatabaseError, is_full, is_refusal, mail_error
from gateway.queue.flight import Flight, Operation, Plenty, Request, Room

T = TypeVar("T")

FLIGHT_MAX = 500  # operations in one transaction
QUICK_MAX = 64  # of them on the loop: some 30 µs each, so the loop is held for some 2 ms
QUICK_OCTETS = 1 << 20  # and this much content
CHECKPOINT_OCTETS = 32 << 20  # of log; a checkpoint of 45 MiB took 20 to 60 ms
# Under load a sync is shared by more operations if it waits a little: with two workers 0.3 commits a message in place of 0.5,
# and 1.3 ms of CPU in place of 1.5. A client that is alone never waits.
GATHER = 0.006  # seconds from one take-off to the next
CROWD = 3  # operations in the last flight that are a load
COMMIT_OCTETS = 64 << 10  # what a commit writes beside the content: whole pages of tables and indexes


class Store:
    """`opener` makes a connection to the checked database; `trouble` hears of faults, on the loop."""

    def __init__(self, opener: Callable[[], Connection], trouble: Callable[[str], None], room: Room | None = None) -> None:
        self._opener = opener
        self._trouble = trouble
        self._room = room or Plenty()
        self._connection: Connection | None = None
        self._waiting: deque[Request] = deque()
        self._flights: SimpleQueue[Flight | None] = SimpleQueue()
        self._busy = False  # the connection is the thread's
        self._planned = False
        self._crowded = False  # the last flight was
        self._took_off = 0.0  # in the loop's time
        self._closing: asyncio.Future[None] | None = None
        self._unlogged = 0  # octets written since the last checkpoint
        self._untidy = False  # the thread shall look for free pages
        self._unfit = ""  # why the last checkpoint failed
        self.work = {"commits": 0, "operations": 0}  # a commit is one sync, shared by operations
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write_all, name="queue-writer", daemon=True)

    def start(self) -> None:
        """Raises DatabaseError if there is no connection to be had."""
        self._connection = self._opener()
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Call on the loop. Exactly one of `then` and `failed` will be called."""
        if self._closing is not None:
            self._loop.call_soon(request.failed, MailError(reply.QUEUE_WRITE, "the queue is closed"))
            return
        self._waiting.append(request)
        if not (self._busy or self._planned):
            self._plan()

    async def run(self, operation: Operation[T], *, writes: bool = True, then: Callable[[T], None] | None = None) -> T:
        """One operation in the thread; raises MailError. If the caller is cancelled, operation and `then` are still done."""
        done: asyncio.Future[T] = self._loop.create_future()

        def resolve(result: T) -> None:
            if then is not None:
                then(result)
            if not done.done():
                done.set_result(result)

        def refuse(err: MailError) -> None:
            if not done.done():
                done.set_exception(err)

        self.submit(Request(operation, resolve, refuse, writes=writes, insists=True))
        return await done

    def tidy(self) -> None:
        """Have free pages counted, and given back if the database can be made small."""
        if not self._untidy and self._closing is None:
            self._untidy = True
            self.submit(Request(lambda _: None, lambda _: None, lambda _: None, writes=False))

    async def close(self) -> None:
        """Do what waits, write the log into the database, stop the thread."""
        if self._closing is None:
            self._closing = self._loop.create_future()
            if not (self._busy or self._planned):
                self._closing.set_result(None)
        await self._closing
        if self._thread.is_alive():
            self._flights.put(None)
            await asyncio.to_thread(self._thread.join)

    # --- on the loop

    def _plan(self) -> None:
        """Let the next flight go: in the next turn of the loop, or under load when a few more have gathered."""
        self._planned = True
        left = self._took_off + GATHER - self._loop.time() if self._crowded else 0.0
        if left > 0:
            self._loop.call_later(left, self._take_off)
        else:
            self._loop.call_soon(self._take_off)

    def _take_off(self) -> None:
        """Fill a transaction and hand it to the thread."""
        self._planned = False
        if not self._waiting:
            self._land_for_good()
            return
        taken = self._load()
        flight = self._sort(taken)
        self._busy, self._crowded, self._took_off = True, len(taken) >= CROWD, self._loop.time()
        connection = self._connection
        if flight.begun and connection is not None:
            try:
                connection.execute("BEGIN IMMEDIATE")
                for request in flight.requests[: flight.begun]:
                    request.result = request.run(connection)
            except Exception:  # whatever an operation raises, the thread finds out which one it was  # noqa: BLE001
                flight.spoiled = True
        else:
            flight.begun = 0
        self._flights.put(flight)

    def _load(self) -> list[Request]:
        """What waits, in turn, but no more than the log has room for."""
        waiting, octets = self._waiting, 0
        taken: list[Request] = []
        while waiting and len(taken) < FLIGHT_MAX and (not taken or octets + waiting[0].octets <= self._room.log):
            octets += waiting[0].octets
            taken.append(waiting.popleft())
        return taken

    def _sort(self, taken: list[Request]) -> Flight:
        """Quick ones first. They concern messages that no other operation of the flight does, so the order is free."""
        quick: list[Request] = []
        rest: list[Request] = []
        octets = 0
        for request in taken:
            if request.quick and len(quick) < QUICK_MAX and octets < QUICK_OCTETS:
                quick.append(request)
                octets += request.octets
            else:
                rest.append(request)
        return Flight(quick + rest, any(request.writes for request in taken), len(quick))

    def _landed(self, flight: Flight, *, free: bool) -> None:
        """Tell everybody; then the next flight may go."""
        for fault in flight.faults:
            self._trouble(fault)
        self.work["operations"] += len(flight.requests)
        for request in flight.requests:
            try:
                if request.error is None:
                    request.then(request.result)
                else:
                    request.failed(request.error)
            except Exception as err:  # one bad callback must not keep the others from hearing  # noqa: BLE001
                self._trouble(f"after a commit: {err!r}")
        if free:
            self._released()

    def _released(self) -> None:
        self._busy = False
        if self._waiting:
            self._plan()
        else:
            self._take_off()

    def _land_for_good(self) -> None:
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)

    # --- in the thread

    def _write_all(self) -> None:
        while (flight := self._flights.get()) is not None:
            self._fly(flight)
            self._insist(flight)
            checkpoint = self._unlogged >= min(CHECKPOINT_OCTETS, self._room.log)
            last = not (checkpoint or self._untidy)
            self._loop.call_soon_threadsafe(partial(self._landed, flight, free=last))
            if checkpoint:
                self._keep_up(upkeep.checkpoint, "checkpoint")
            if self._untidy:
                self._keep_up(partial(upkeep.shrink, most=self._room.copy_max), "shrink")
                self._untidy = False
            if not last:
                self._loop.call_soon_threadsafe(self._released)
        if self._connection is not None:
            self._keep_up(upkeep.empty_log, "checkpoint")
            self._drop_connection()

    def _fly(self, flight: Flight) -> None:
        try:
            if self._connection is None:
                self._connection = self._opener()
            self._execute(flight, self._connection)
        except Exception as err:  # the border of the thread: every waiter is told  # noqa: BLE001
            fault = mail_error(err, "commit")
            for request in flight.requests:
                request.error = request.error or fault
            flight.faults.append(f"{fault.detail}; {len(flight.requests)} operations failed")
            flight.faults.extend(self._undo() if is_full(err) else self._drop_connection())

    def _insist(self, flight: Flight) -> None:
        """Run what is stuck again: reads, then outcomes together, with the reserve, and one by one until one finds no room.

        Before each try the log is begun anew. It keeps its size: its blocks are all that nobody else can take from us.
        """
        stuck = sorted((request for request in flight.requests if request.stuck), key=lambda request: request.octets)
        writes = [request for request in stuck if request.writes]
        self._fly_again([request for request in stuck if not request.writes], flight)
        self._fly_again(writes, flight)
        if any(request.stuck for request in writes) and self._room.give_up():
            self._fly_again([request for request in writes if request.stuck], flight)
        for request in writes:
            if request.stuck:
                self._fly_again([request], flight)
            if request.stuck:
                return

    def _fly_again(self, requests: list[Request], first: Flight) -> None:
        """Those that find no room once more are stuck as before, and that was told; any other fault was not."""
        if not requests:
            return
        for request in requests:
            request.error = None
        if any(request.writes for request in requests):
            self._keep_up(upkeep.checkpoint, "checkpoint")
        again = Flight(requests, any(request.writes for request in requests))
        self._fly(again)
        if not any(request.stuck for request in requests):
            first.faults.extend(again.faults)

    def _execute(self, flight: Flight, connection: Connection) -> None:
        """Run what the loop has not run, and commit. Raises what BEGIN or COMMIT raise."""
        if flight.writes and not connection.in_transaction:
            connection.execute("BEGIN IMMEDIATE")
        if not flight.spoiled:
            try:
                for request in flight.requests[flight.begun :]:
                    request.result = request.run(connection)
            except Exception:  # found out one by one  # noqa: BLE001
                flight.spoiled = True
        if flight.spoiled:
            self._one_by_one(flight, connection)
        if connection.in_transaction:
            connection.execute("COMMIT")
            self.work["commits"] += 1
            self._unlogged += COMMIT_OCTETS + sum(request.octets for request in flight.requests)
        if self._room.tight:
            self._count_free(flight, connection)
        if flight.suspect:
            flight.faults.extend(self._drop_connection())

    def _count_free(self, flight: Flight, connection: Connection) -> None:
        """What is committed stays so, whatever comes of this."""
        try:
            self._room.inside = upkeep.free_inside(connection)
        except DatabaseError as err:
            flight.faults.append(f"free pages: {err}")
            flight.suspect = True

    def _one_by_one(self, flight: Flight, connection: Connection) -> None:
        """Start the transaction again with a savepoint for each operation, so that only the bad ones are undone."""
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        connection.execute("BEGIN IMMEDIATE" if flight.writes else "BEGIN")
        for request in flight.requests:
            connection.execute("SAVEPOINT operation")
            try:
                request.result = request.run(connection)
            except Exception as err:  # an operation may fail in any way; the others go on
                request.error = mail_error(err, "store")
                if not is_refusal(err):
                    flight.faults.append(request.error.detail)
                    flight.suspect = flight.suspect or request.error.reply is not reply.NO_SPACE
                if not connection.in_transaction:  # SQLite has undone everything (disk full, I/O error)
                    raise
                connection.execute("ROLLBACK TO operation")
            connection.execute("RELEASE operation")

    def _drop_connection(self) -> list[str]:
        """Close it; whatever it did not commit is gone. The faults of doing so."""
        connection, self._connection = self._connection, None
        if connection is None:
            return []
        try:
            with contextlib.closing(connection):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except DatabaseError as err:
            return [f"close: {err}"]
        return []

    def _undo(self) -> list[str]:
        """The connection goes on, without what it has not committed: to open a new one takes room as well."""
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except DatabaseError as err:
            return [f"rollback: {err}", *self._drop_connection()]
        return []

    def _keep_up(self, work: Callable[[Connection], None], name: str) -> None:
        """Work on the file that may fail: the log still holds everything. With no room, the reserve is tried, too."""
        if self._connection is None:
            return
        try:
            try:
                work(self._connection)
            except DatabaseError as err:
                if not (is_full(err) and self._room.give_up()):
                    raise
                work(self._connection)
        except DatabaseError as err:
            if self._unfit != str(err):  # told once
                self._unfit = str(err)
                self._loop.call_soon_threadsafe(self._trouble, f"{name}: {err}")
        else:
            self._unlogged, self._unfit = 0, ""  # they all end with an empty log
