# SPDX-License-Identifier: Apache-2.0
"""The operator's view of one shard, and the operator's hand in it.

A command concerns whole messages: all of their open recipients. While a message is being delivered, `hold` and `release`
take effect when that attempt is settled; `retry`, `bounce` and `delete` leave it alone (its id is not in the answer), since
what the next hop will say is not known yet.

Promises: durable when `operate` returns; one event for each message.
Fails with: MailError 451; what was done before is done, and told.
Not here: checking what an operator typed (`cli/`, `ops/`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from gateway.mail import reply
from gateway.mail.events import Operated
from gateway.mail.job import Failed, QueueId, parse_queue_id
from gateway.mail.listing import MessageView, Selector
from gateway.mail.reply import MailError
from gateway.queue import rows
from gateway.queue.disk import Connection, mail_error
from gateway.queue.flight import Request
from gateway.queue.model import Queued
from gateway.queue.reader import Reader
from gateway.queue.selection import PART, query
from gateway.queue.settle import Settling
from gateway.queue.settlement import finished
from gateway.queue.shard import Claim, Shard
from gateway.queue.sql import QUERIES
from gateway.queue.views import message_view

HELD_BY_OPERATOR = "held by the operator"
EVERYTHING = 1 << 62  # more than any number of a row
_COMMANDS = ("hold", "release", "retry", "bounce", "delete")

Chosen = list[tuple[int, QueueId]]


class Admin:
    """QueueAdmin of one shard."""

    def __init__(self, shard: Shard, reader: Reader, settling: Settling, number: int) -> None:
        self._shard = shard
        self._reader = reader
        self._settling = settling
        self._number = number

    async def find(self, selector: Selector, limit: int) -> Sequence[MessageView]:
        """Up to `limit` messages, oldest first."""
        now = self._shard.time.now()

        def find(connection: Connection) -> list[MessageView]:
            chosen = connection.execute(*query(selector, now, range(EVERYTHING), limit)).fetchall()
            items = rows.read(connection, [n for n, _ in chosen])
            return [message_view(item, self._number) for item in sorted(items, key=lambda item: item.n)]

        return await self._reader.run(find)

    async def content(self, queue_id: QueueId) -> bytes | None:
        """The octets of a queued message; None if it is not here."""
        if parse_queue_id(queue_id) is None:
            return None
        path = self._shard.spool.path(queue_id)

        def read(connection: Connection) -> bytes | None:
            n = rows.number(connection, queue_id)
            items = [] if n is None else rows.read(connection, [n])
            message = rows.content(connection, items[0].n, path, items[0].size) if items else None
            return None if message is None else message.read()

        try:
            return await self._reader.run(read)
        except OSError as err:
            raise mail_error(err, "content file") from err

    async def counts(self) -> Mapping[str, int]:
        """Open recipients: "queued" and "deferred" of messages that go on, and all of those that are "held"."""

        def count(connection: Connection) -> Mapping[str, int]:
            every, deferred = connection.execute(QUERIES["count_open"]).fetchone()
            held, held_deferred = connection.execute(QUERIES["count_held"]).fetchone()
            going = deferred - held_deferred
            return {"queued": every - held - going, "deferred": going, "held": held}

        return await self._reader.run(count)

    async def operate(self, command: str, selector: Selector, *, dry_run: bool) -> Sequence[QueueId]:
        """See `ports.QueueAdmin`. Raises ValueError for an unknown command."""
        if command not in _COMMANDS:
            raise ValueError(f"unknown command {command!r}")
        done: list[QueueId] = []
        span = range(self._shard.last + 1)  # a bounce that the command itself causes is not its business
        while chosen := await self._choose(selector, span):
            span = range(chosen[-1][0] + 1, span.stop)
            fitting = await self._fitting(command, chosen)
            if fitting and not dry_run:
                fitting = await self._apply(command, fitting)
                for _, queue_id in fitting:
                    self._shard.emit(Operated, id=queue_id, command=command)
            done.extend(queue_id for _, queue_id in fitting)
        return done

    async def _choose(self, selector: Selector, span: range) -> Chosen:
        """The next part of the selection."""
        statement, values = query(selector, self._shard.time.now(), span, PART)
        return await self._reader.run(lambda connection: connection.execute(statement, values).fetchall())

    async def _fitting(self, command: str, chosen: Chosen) -> Chosen:
        """Those that the command can do something about."""
        if command in ("retry", "bounce", "delete"):
            chosen = [(n, queue_id) for n, queue_id in chosen if n not in self._shard.busy]
        if command in ("bounce", "delete"):
            return chosen
        numbers = [n for n, _ in chosen]
        items = await self._reader.run(lambda connection: rows.read(connection, numbers))
        wanted = command == "release"
        fitting = {item.n for item in items if item.held is wanted}
        return [(n, queue_id) for n, queue_id in chosen if n in fitting]

    async def _apply(self, command: str, chosen: Chosen) -> Chosen:
        """Do it; those it was done to."""
        numbers = [n for n, _ in chosen]
        now = self._shard.time.now()
        store = self._shard.store
        match command:
            case "hold":
                await store.run(partial(rows.hold, numbers=numbers, reason=HELD_BY_OPERATOR), then=lambda _: self._held(chosen))
            case "release":
                await store.run(partial(rows.release, numbers=numbers, now=now), then=lambda _: self._go_on(chosen, now))
            case "retry":
                await store.run(partial(rows.retry, numbers=numbers, now=now), then=lambda _: self._go_on(chosen, now))
            case "bounce":
                return await self._bounce(numbers)
            case _:
                return await self._delete(numbers)
        return chosen

    def _held(self, chosen: Chosen) -> None:
        for n, queue_id in chosen:
            self._shard.ready.discard(n)
            if claim := self._shard.claims.get(queue_id):
                claim.item.held, claim.item.reason = True, HELD_BY_OPERATOR
            else:
                self._shard.cache.drop(n)

    def _go_on(self, chosen: Chosen, now: float) -> None:
        for n, queue_id in chosen:
            if claim := self._shard.claims.get(queue_id):
                claim.item.held, claim.item.reason = False, ""
                for each in claim.item.open():  # as their rows, or it would wait where no reading finds it
                    each.due = now
            elif n not in self._shard.busy:
                self._shard.give_back(n, now)

    async def _bounce(self, numbers: Sequence[int]) -> Chosen:
        """As if the next hop had refused every open recipient."""
        items = await self._take_in_hand(numbers)
        failed = Failed(reply=reply.BOUNCED_BY_OPERATOR)
        settled: list[asyncio.Future[None]] = []
        for item in items:
            addressees = item.open()
            claim = Claim(item, {each.index for each in addressees}, self._shard.clock.monotonic())
            self._shard.claims[item.id] = claim
            job = item.job(addressees)
            settled.append(self._settling.begin(claim, job, [(due, failed) for due in job.recipients]))
        await asyncio.gather(*settled)
        return _chosen(items)

    async def _delete(self, numbers: Sequence[int]) -> Chosen:
        """Away with them; nobody is told but the log."""
        items = await self._take_in_hand(numbers)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def remove(connection: Connection) -> None:
            for item in items:
                rows.remove(connection, item.n)

        def removed(_: None) -> None:
            for item in items:
                self._shard.forget(item)
                self._shard.events.emit(finished(item, self._shard.clock.now()))
            if not done.done():
                done.set_result(None)

        def not_removed(err: MailError) -> None:  # whoever asked may be gone: the messages must wait again all the same
            for item in items:
                self._shard.give_back(item.n, None if item.held else item.due())
            if not done.done():
                done.set_exception(err)

        self._shard.store.submit(Request(remove, removed, not_removed, insists=True))
        await done
        return _chosen(items)

    async def _take_in_hand(self, numbers: Sequence[int]) -> list[Queued]:
        """Messages that nobody works on, out of the schedule until they are given back or gone."""
        shard = self._shard
        free = [n for n in numbers if n not in shard.busy]
        for n in free:
            shard.busy.add(n)
            shard.ready.discard(n)
            shard.cache.drop(n)
        try:
            items = await shard.store.run(partial(rows.read, numbers=free), writes=False)
        except BaseException:  # cancelled or unreadable: nobody works on them
            for n in free:
                shard.put_off(n, shard.time.now())
            raise
        for n in set(free) - {item.n for item in items}:
            shard.busy.discard(n)
        return items


def _chosen(items: Sequence[Queued]) -> Chosen:
    return [(item.n, item.id) for item in items]
