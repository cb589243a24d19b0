# SPDX-License-Identifier: Apache-2.0
"""Messages that were in somebody's hands when something failed: they wait again, at once, and not for a restart.

The schedule in memory is short in all of these, so that its horizon lies in the past: the backlog of a busy day.
"""

import asyncio
import threading
from functools import partial

import pytest

from gateway.mail import reply
from gateway.mail.job import Deferred, Delivered, Failed, QueueId
from gateway.mail.listing import Selector
from gateway.mail.reply import MailError
from gateway.mail.verdict import ACCEPT
from gateway.queue import rows
from gateway.queue.disk import Connection, DatabaseError
from gateway.queue.model import Queued
from gateway.queue.ready import NEVER, Ready
from tests.unit.queue.build import transaction, until
from tests.unit.queue.conftest import Rig

COUNT = 30
DELIVERED = Delivered(reply=reply.OK)


async def backlog(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[QueueId]:
    """More messages than fit into the memory of the schedule, all due."""
    monkeypatch.setattr("gateway.queue.shard.Ready", partial(Ready, limit=10))
    await rig.open()
    ids = [await rig.queue.accept(transaction(), ACCEPT) for _ in range(COUNT)]
    await rig.reopen()
    await rig.clock.advance(1)
    assert rig.queue._shard.ready.horizon[0] < rig.clock.now()
    return ids


async def drained(rig: Rig, count: int) -> list[QueueId]:
    """Deliver until so many are done; the clock runs on while nothing is due."""
    done: list[QueueId] = []

    async def deliver() -> None:
        while len(done) < count:
            for job in await rig.queue.claim(4):
                await rig.queue.settle(job, [(due, DELIVERED) for due in job.recipients])
                done.append(job.id)

    delivering = asyncio.ensure_future(deliver())
    try:
        async with asyncio.timeout(10):
            while not delivering.done():
                await asyncio.sleep(0.001)
                if rig.clock.sleepers:
                    await rig.clock.advance(61)
    finally:
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
    return done


class Unreadable:
    """`rows.read` fails so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.left = times
        self._read = rows.read
        monkeypatch.setattr(rows, "read", self)

    def __call__(self, connection: Connection, numbers: list[int]) -> list[Queued]:
        self.left -= 1
        if self.left >= 0:
            raise DatabaseError("disk I/O error")
        return self._read(connection, numbers)


async def test_messages_that_could_not_be_read_come_after_a_pause(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await backlog(rig, monkeypatch)
    faults = Unreadable(monkeypatch, 12)
    assert sorted(await drained(rig, COUNT)) == sorted(ids)
    assert faults.left < 0
    assert any("cannot be read" in trouble for trouble in rig.events.troubles)


async def test_a_cancelled_claim_gives_back_what_stands_before_the_horizon(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await backlog(rig, monkeypatch)
    for _ in range(3):
        claiming = asyncio.ensure_future(rig.queue.claim(4))
        await asyncio.sleep(0)
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)
    assert sorted(await drained(rig, COUNT)) == sorted(ids)


async def test_an_outcome_after_the_lease_that_finds_no_row_to_read_leaves_the_message_waiting(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await backlog(rig, monkeypatch)
    jobs = await rig.queue.claim(4)
    await rig.clock.advance(3601)
    rig.queue._claims._end_leases()
    faults = Unreadable(monkeypatch, 2 * len(jobs))  # each operation, and its second try by itself
    for job in jobs:
        with pytest.raises(MailError):
            await rig.queue.settle(job, [(due, DELIVERED) for due in job.recipients])
    assert faults.left == 0
    assert sorted(await drained(rig, COUNT)) == sorted(ids)


@pytest.mark.parametrize("command", ["delete", "bounce"])
async def test_what_an_operator_could_not_take_in_hand_goes_on(rig: Rig, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    ids = await backlog(rig, monkeypatch)
    Unreadable(monkeypatch, 2)  # the operation, and its second try by itself
    with pytest.raises(MailError):
        await rig.queue.operate(command, Selector(), dry_run=False)
    assert rig.queue._shard.busy == set()
    assert sorted(await drained(rig, COUNT)) == sorted(ids)


async def test_a_message_that_is_released_while_it_is_delivered_waits_as_its_row_says(rig: Rig) -> None:
    """Its other recipient is due at once; in memory it would wait for half an hour, perhaps behind the horizon."""
    await rig.open()
    await rig.queue.accept(transaction("a@dest.example", "b@dest.example"), ACCEPT)
    (job,) = await rig.queue.claim(1)
    await rig.queue.settle(job, [(job.recipients[1], Deferred(reply=reply.INTERNAL))])
    await rig.queue.operate("hold", Selector(), dry_run=False)
    await rig.queue.operate("release", Selector(), dry_run=False)
    await rig.queue.settle(job, [(job.recipients[0], DELIVERED)])
    (again,) = await asyncio.wait_for(rig.queue.claim(1), 5)
    assert [due.index for due in again.recipients] == [1]


@pytest.mark.parametrize("cancelled", [False, True], ids=["", "cancelled"])
async def test_a_deletion_that_fails_lets_the_messages_go_on_even_if_nobody_waits_for_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    await rig.open()
    ids = [await rig.queue.accept(transaction(), ACCEPT) for _ in range(3)]
    begun, go_on, remove = threading.Event(), threading.Event(), rows.remove

    def held_up(connection: Connection, n: int) -> None:
        begun.set()
        go_on.wait(10)
        remove(connection, n)

    monkeypatch.setattr(rows, "remove", held_up)
    rig.disk.fail(0, on="commit")
    deleting = asyncio.ensure_future(rig.queue.operate("delete", Selector(), dry_run=False))
    await until(begun.is_set)
    if cancelled:
        deleting.cancel()
        await asyncio.gather(deleting, return_exceptions=True)
    go_on.set()
    with pytest.raises(asyncio.CancelledError if cancelled else MailError):
        await deleting
    async with asyncio.timeout(5):
        await until(lambda: not rig.queue._shard.busy)
        assert [job.id for job in await rig.queue.claim(10)] == ids


async def test_a_notice_whose_commit_was_made_but_failed_is_sent_once(rig: Rig) -> None:
    """A reading of the schedule finds its row before the settlement knows that it is there."""
    await rig.open()
    await rig.queue.accept(transaction(), ACCEPT)
    (job,) = await rig.queue.claim(1)
    rig.queue._shard.ready.horizon = (rig.clock.now() - 1, 0)
    rig.disk.fail(0, on="commit", late=True)
    settling = asyncio.ensure_future(rig.queue.settle(job, [(job.recipients[0], Failed(reply=reply.BOUNCED_BY_OPERATOR))]))
    await until(lambda: rig.events.troubles)
    claiming = asyncio.ensure_future(rig.queue.claim(1))
    await until(lambda: rig.queue._shard.ready.horizon is NEVER)
    await asyncio.sleep(0)  # the claim has seen it, and what it had to read is read
    await rig.queue._shard.store.run(lambda _: None, writes=False)
    await asyncio.sleep(0)
    assert not claiming.done()
    await until(lambda: rig.clock.sleepers)
    await rig.clock.advance(2)
    await asyncio.wait_for(settling, 5)
    (notice,) = await asyncio.wait_for(claiming, 5)
    assert not notice.sender
    await rig.queue.settle(notice, [(notice.recipients[0], DELIVERED)])
    assert not await rig.queue.find(Selector(), 10)
    assert rig.queue._shard.busy == set()
