# SPDX-License-Identifier: Apache-2.0
"""Work for delivery: claims and content.

Promises: a message is claimed by one caller at a time; a claim that is cancelled, released or forgotten (its lease ends)
makes the message claimable again. An unreadable row or file costs that message only.
Fails with: MailError 451 from `load`.
Not here: settling (`settle.py`).
"""

import asyncio
from collections.abc import Sequence
from functools import partial

from gateway.mail import reply
from gateway.mail.events import Held
from gateway.mail.job import Job
from gateway.mail.message import FileBody, Message
from gateway.mail.reply import MailError
from gateway.queue import rows
from gateway.queue.model import Queued
from gateway.queue.recovery import FILE_LOST
from gateway.queue.shard import Claim, Shard

UNREADABLE_PAUSE = 60.0  # seconds until a message whose rows could not be read is tried again
LONGEST_SLEEP = 300.0  # the alarm is set anew at least so often, as wall and monotonic time drift apart
UNRECORDED_MAX = 100  # settlements that wait for the disk: with more, nothing is given out that would be delivered twice


class Claims:
    """Claims of one shard."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._reading = False
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at = 0.0
        self.unrecorded = 0

    async def claim(self, limit: int) -> Sequence[Job]:
        """See `ports.Work`."""
        shard = self._shard
        while True:
            self._end_leases()
            self._read_on()
            if not self._stopped and (numbers := shard.ready.take(limit, shard.time.now())):
                if jobs := await self._claim(numbers):
                    return jobs
                continue
            shard.wake.clear()
            self._set_alarm()
            await shard.wake.wait()

    async def release(self, job: Job) -> None:
        """See `ports.Work`."""
        claim = self._shard.claims.get(job.id)
        if claim is not None:
            claim.open.clear()
            if not claim.pending:
                self._shard.end_claim(claim)

    async def load(self, job: Job) -> Message:
        """See `ports.Work`. A message whose content is lost is held."""
        claim = self._shard.claims.get(job.id)
        if claim is None:
            raise MailError(reply.CONTENT_LOST, "the job is not claimed")
        return await self.content(claim.item)

    async def content(self, item: Queued) -> Message:
        """The octets of a claimed message, from memory if they are there. Raises MailError."""
        if item.message is not None:
            return item.message
        shard = self._shard
        path = shard.spool.path(item.id)
        message = await shard.store.run(lambda connection: rows.content(connection, item.n, path, item.size), writes=False)
        if message is None:
            raise MailError(reply.CONTENT_LOST, "the message is not in the queue")
        if isinstance(message.body, FileBody):
            complete = await asyncio.get_running_loop().run_in_executor(shard.pool, shard.spool.complete, message.body)
            if not complete:
                await self._hold(item)
                raise MailError(reply.CONTENT_LOST, f"{path.name}: {FILE_LOST}")
        return message

    async def _hold(self, item: Queued) -> None:
        def held(_: None) -> None:
            item.held, item.reason = True, FILE_LOST
            shard.trouble(f"held: {FILE_LOST}", item.id)
            shard.emit(Held, id=item.id, reason=FILE_LOST)

        shard = self._shard
        await shard.store.run(lambda connection: rows.hold(connection, [item.n], FILE_LOST), then=held)

    async def open(self) -> None:
        """Read the near end of the schedule."""
        self._reading = True
        await self._extend(self._shard.ready.horizon, self._shard.ready.room)

    async def close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            await asyncio.gather(self._alarm, return_exceptions=True)

    @property
    def _stopped(self) -> bool:
        return self.unrecorded >= UNRECORDED_MAX

    # --- claiming

    async def _claim(self, numbers: list[int]) -> list[Job]:
        """Jobs of messages that were taken from the schedule; what has no job goes back to it."""
        shard = self._shard
        shard.busy.update(numbers)
        items = {n: item for n in numbers if (item := shard.cache.get(n)) is not None}
        if len(items) < len(numbers):
            try:
                items |= {item.n: item for item in await self._read([n for n in numbers if n not in items])}
            except BaseException:  # cancelled: nobody works on them
                now = shard.time.now()
                for n in numbers:
                    shard.put_off(n, now)
                raise
        now = shard.time.now()
        return [job for n in numbers if n in items and (job := self._job(items[n], now)) is not None]

    def _job(self, item: Queued, now: float) -> Job | None:
        shard = self._shard
        due = [each for each in item.addressees if each.open and each.due <= now]
        if item.held or not due:
            shard.give_back(item.n, None if item.held else item.due())
            return None
        expires = shard.clock.monotonic() + shard.options.lease
        shard.lapsed.pop(item.id, None)
        shard.claims[item.id] = Claim(item, {each.index for each in due}, expires)
        return item.job(due)

    async def _read(self, numbers: list[int]) -> list[Queued]:
        """From the database; what cannot be read waits, what is not there is forgotten."""
        shard = self._shard
        try:
            items = await shard.store.run(partial(rows.read, numbers=numbers), writes=False)
        except MailError as err:
            if len(numbers) > 1:  # one damaged row must not cost the others
                return [item for n in numbers for item in await self._read([n])]
            shard.trouble(f"message {numbers[0]} cannot be read: {err.detail}")
            shard.put_off(numbers[0], shard.time.now() + UNREADABLE_PAUSE)
            return []
        for n in set(numbers) - {item.n for item in items}:
            shard.busy.discard(n)
        return items

    # --- waiting

    def _read_on(self) -> None:
        """Have the next part of the schedule read, if this one is nearly used up."""
        shard = self._shard
        if not self._reading and shard.ready.low:
            self._reading = True
            shard.own(self._extend(shard.ready.horizon, shard.ready.room))

    async def _extend(self, horizon: rows.Place, room: int) -> None:
        def extend(places: list[rows.Place]) -> None:
            # The horizon may have come nearer while we read; then these places do not follow it, and the next reading will.
            if shard.ready.horizon == horizon:
                shard.ready.extend(places, shard.busy)

        shard = self._shard
        try:
            await shard.store.run(lambda connection: rows.ready(connection, horizon, room), writes=False, then=extend)
        except MailError as err:
            shard.trouble(f"the schedule cannot be read: {err.detail}")
            await shard.clock.sleep(UNREADABLE_PAUSE)
        finally:
            self._reading = False
            shard.wake.set()

    def _end_leases(self) -> None:
        """The oldest leases first: `settle` moves a renewed one to the end."""
        shard = self._shard
        now = shard.clock.monotonic()
        while shard.claims:
            claim = next(iter(shard.claims.values()))
            if claim.expires > now:
                return
            if claim.pending:  # it is the disk that holds it up, and it must not hold up those behind it
                shard.renew(claim)
                continue
            shard.trouble("a claim was neither settled nor released in time; the message is tried again", claim.item.id)
            shard.lapsed[claim.item.id] = (claim.item.n, claim.open)
            shard.end_claim(claim)

    def _set_alarm(self) -> None:
        """Wake whoever waits when the next message is due or the oldest lease ends."""
        shard = self._shard
        now = shard.clock.monotonic()
        at = now + LONGEST_SLEEP
        due = None if self._reading or self._stopped else shard.ready.next_due()
        if due is not None:
            at = min(at, now + max(0.0, due - shard.time.now()))
        if shard.claims:
            at = min(at, max(now, next(iter(shard.claims.values())).expires))
        if self._alarm is not None and not self._alarm.done():
            if self._alarm_at <= at:
                return
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = asyncio.get_running_loop().create_task(self._ring(at - now))

    async def _ring(self, seconds: float) -> None:
        await self._shard.clock.sleep(seconds)
        self._shard.wake.set()
