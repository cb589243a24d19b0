# SPDX-License-Identifier: Apache-2.0
"""One shard of the queue: `ports.Intake`, `ports.Work` and `ports.QueueAdmin`.

    <directory>/<shard>.sqlite     messages, recipients, small bodies
    <directory>/<shard>.spool/     large bodies, one file each
    <directory>/<shard>.reserve    room that is given up when the disk is full

Promises: whoever opens a shard holds the lock of the data directory (`infra/datadir.py`), so claims live in memory: after
a crash or a stop everything that is not settled is queued. `close` leaves no task, no thread and no log file behind.
Fails with: `NewerSchema`, `OSError` or `DatabaseError` from `open`; MailError 4yz from the rest.
Not here: any of the work; this file only puts the parts together.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from gateway.mail.envelope import Transaction
from gateway.mail.events import Lifecycle, Trouble
from gateway.mail.job import Due, Job, Outcome, QueueId
from gateway.mail.listing import MessageView, Selector
from gateway.mail.message import Message
from gateway.mail.verdict import Verdict
from gateway.ports import Bouncer, Clock, EventSink
from gateway.queue.admin import Admin
from gateway.queue.content import Spool
from gateway.queue.database import NewerSchema, unfinished
from gateway.queue.disk import DatabaseError, Disk, is_full
from gateway.queue.intake import Taking
from gateway.queue.options import QueueOptions
from gateway.queue.reader import Reader
from gateway.queue.recovery import recover
from gateway.queue.reserve import Reserve
from gateway.queue.settle import Settling
from gateway.queue.shard import Shard
from gateway.queue.space import Space
from gateway.queue.sql import QUERIES
from gateway.queue.store import Store
from gateway.queue.work import Claims

__all__ = ["NewerSchema", "QueueManager", "existing_shards"]


def existing_shards(directory: Path) -> list[int]:
    """Numbers of the shards that have a database in `directory`, if only under the name of one half made."""
    stems = {path.stem for path in directory.glob("*.sqlite")} | {Path(name).stem for name in unfinished(directory)}
    return sorted(int(stem) for stem in stems if stem.isdecimal())


class QueueManager:
    """Everything but the constructor wants the running loop in which `open` was called.

    `drain_only` is for the shard of a worker that is no more: it is delivered, but takes nothing (but its own bounces).
    """

    def __init__(
        self,
        directory: Path,
        shard: int,
        options: QueueOptions,
        *,
        clock: Clock,
        events: EventSink,
        bouncer: Bouncer,
        drain_only: bool = False,
        disk: Disk | None = None,
    ) -> None:
        self.number = shard
        self._options = options
        self._clock = clock
        self._events = events
        self._bouncer = bouncer
        self._drain_only = drain_only
        self._disk = disk or Disk()
        self._path = directory / f"{shard}.sqlite"
        self._spool = Spool(directory / f"{shard}.spool", self._disk)
        self._opened = False
        reserve = Reserve(directory / f"{shard}.reserve", self._disk)
        log = self._path.with_name(f"{self._path.name}-wal")
        self._space = Space(directory, self._disk, clock, options.min_free, reserve=reserve, log=log)

    @property
    def spool_directory(self) -> Path:
        """Where the edge writes `<queue id>.tmp`."""
        return self._spool.directory

    def work(self) -> Mapping[str, int]:
        """`commits` (one sync each) and the `operations` that shared them, since the start."""
        return dict(self._store.work)

    async def open(self) -> None:
        """Make or mend the files, then be ready. Messages that wait are claimable when it returns."""
        self._store = Store(partial(self._disk.connect, self._path), self._trouble, self._space)
        self._space.told, self._space.tidy = self._told_of_space, self._store.tidy
        self._shard = Shard(self._options, self._clock, self._events, self._spool, self._store)
        faults: list[tuple[str, QueueId | None]] = []
        now = self._shard.time.now()

        def recovery() -> None:
            faults.clear()
            recover(
                self._path,
                self._spool,
                self._disk,
                self._options,
                now=now,
                tell=lambda detail, about: faults.append((detail, about)),
            )

        await asyncio.to_thread(self._with_reserve, recovery)
        for fault in faults:
            self._shard.trouble(*fault)
        await asyncio.to_thread(self._space.open)
        self._reader = Reader(partial(self._disk.connect, self._path, readonly=True))
        self._claims = Claims(self._shard)
        self._settling = Settling(self._shard, self._claims, self._bouncer)
        self._taking = Taking(self._shard, self._space, drain_only=self._drain_only)
        self._admin = Admin(self._shard, self._reader, self._settling, self.number)
        self._with_reserve(self._store.start)
        self._opened = True
        self._shard.last = await self._store.run(
            lambda connection: int(connection.execute(QUERIES["last_number"]).fetchone()[0]), writes=False
        )
        await self._claims.open()

    def _with_reserve(self, work: Callable[[], None]) -> None:
        """To open a database takes some room. On a full disk it gets that of the reserve which a killed process left."""
        try:
            work()
        except (DatabaseError, OSError) as err:
            if not (is_full(err) and self._space.give_up()):
                raise
            work()

    def _trouble(self, detail: str) -> None:
        self._shard.trouble(detail)

    def _told_of_space(self, short: str) -> None:
        now = self._clock.now()
        if short:
            self._events.emit(Trouble(time=now, area="queue.space", detail=f"no new mail is taken: {short}"))
        else:
            self._events.emit(Lifecycle(time=now, what="space", detail="new mail is taken again"))

    def reload(self, options: QueueOptions) -> None:
        """New options for what happens from now on; dues that are set already stay."""
        self._options = self._shard.options = options
        self._shard.cache.limit = options.memory
        self._space.limit = options.min_free
        self._space.look_again()

    async def close(self) -> None:
        """Finish what was begun. Outcomes that could not be recorded are given up: their messages stay queued.

        One that was never opened, or closed already, has nothing to do.
        """
        if not self._opened:
            return
        self._opened = False
        await self._claims.close()
        await self._shard.end_tasks()
        await self._space.close()
        await self._store.close()
        await self._shard.end_tasks()
        await self._reader.close()
        self._shard.pool.shutdown()

    # --- ports.Intake

    async def accept(self, tx: Transaction, verdict: Verdict) -> QueueId:
        return await self._taking.accept(tx, verdict)

    def pressure(self) -> bool:
        return self._space.check()

    # --- ports.Work

    async def claim(self, limit: int) -> Sequence[Job]:
        return await self._claims.claim(limit)

    async def load(self, job: Job) -> Message:
        return await self._claims.load(job)

    async def settle(self, job: Job, outcomes: Sequence[tuple[Due, Outcome]]) -> None:
        self._space.check()  # the disk may get full without new mail
        await self._settling.settle(job, outcomes)

    async def release(self, job: Job) -> None:
        await self._claims.release(job)

    # --- ports.QueueAdmin

    async def find(self, selector: Selector, limit: int) -> Sequence[MessageView]:
        return await self._admin.find(selector, limit)

    async def content(self, queue_id: QueueId) -> bytes | None:
        return await self._admin.content(queue_id)

    async def operate(self, command: str, selector: Selector, *, dry_run: bool) -> Sequence[QueueId]:
        return await self._admin.operate(command, selector, dry_run=dry_run)

    async def counts(self) -> Mapping[str, int]:
        return await self._admin.counts()
