# SPDX-License-Identifier: Apache-2.0
"""Claims of the real queue: bounded memory, lost leases, cancelled callers, damaged rows, large messages."""

import asyncio
import sqlite3

import pytest

from gateway.mail import reply
from gateway.mail.events import Accepted, Attempted, Finished, Held
from gateway.mail.job import Deferred, Delivered, Failed, QueueId
from gateway.mail.listing import Selector
from gateway.mail.message import FileBody, Message
from gateway.mail.verdict import ACCEPT, Action, Verdict
from gateway.queue.ready import Ready
from tests.unit.queue.build import HEADER, SENDER, TRACE, content, transaction, until
from tests.unit.queue.conftest import Rig

DELIVERED = Delivered(reply=reply.OK)
DEFERRED = Deferred(reply=reply.INTERNAL)
BIG = b"\r\n" + b"x" * (300 << 10)


async def put(rig: Rig, *recipients: str, body: bytes = b"hello\r\n") -> QueueId:
    return await rig.queue.accept(transaction(*recipients, message=content(body)), ACCEPT)


async def test_a_long_queue_is_worked_through_in_order_with_little_memory(rig: Rig) -> None:
    await rig.open()
    rig.queue._shard.ready = Ready(limit=10)  # far fewer than there are messages
    ids = [await put(rig) for _ in range(60)]
    claimed: list[QueueId] = []
    while len(claimed) < 60:
        jobs = await asyncio.wait_for(rig.queue.claim(7), 5)
        claimed += [job.id for job in jobs]
        assert len(rig.queue._shard.ready) <= 10
        for job in jobs:
            await rig.queue.settle(job, [(job.recipients[0], DEFERRED)])
    assert claimed == ids
    await rig.clock.advance(70)
    again = set()
    while len(again) < 60:
        again |= {job.id for job in await asyncio.wait_for(rig.queue.claim(60), 5)}
    assert again == set(ids)


async def test_contents_beyond_the_memory_are_read_from_the_disk(rig: Rig) -> None:
    rig.options = rig.options.model_copy(update={"memory": 20_000})
    await rig.open()
    bodies = {await put(rig, body=bytes([65 + n]) * 5000): bytes([65 + n]) * 5000 for n in range(10)}
    jobs = await rig.queue.claim(10)
    assert [job.id for job in jobs] == list(bodies)
    for job in jobs:
        assert (await rig.queue.load(job)).read().endswith(bodies[job.id])
        await rig.queue.settle(job, [(job.recipients[0], DELIVERED)])
    cache = rig.queue._shard.cache
    assert cache._octets == 0
    assert len(rig.events.of(Finished)) == 10


async def test_a_new_message_needs_no_read_for_its_first_try(rig: Rig) -> None:
    """The fast path: accept, claim, load and settle are two operations of the store."""
    await rig.open()
    before = rig.queue.work()["operations"]
    await put(rig)
    (job,) = await rig.queue.claim(1)
    await rig.queue.load(job)
    await rig.queue.settle(job, [(job.recipients[0], DELIVERED)])
    assert rig.queue.work()["operations"] - before == 2


async def test_concurrent_accepts_share_commits(rig: Rig) -> None:
    await rig.open()
    before = rig.queue.work()["commits"]
    await asyncio.gather(*[put(rig) for _ in range(50)])
    assert 1 <= rig.queue.work()["commits"] - before <= 2


async def test_an_accept_that_is_cancelled_during_its_commit_is_delivered(rig: Rig) -> None:
    """The edge decides what to tell the client; the queue keeps what it has stored."""
    await rig.open()
    accepting = asyncio.ensure_future(put(rig))
    await asyncio.sleep(0)
    accepting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await accepting
    (job,) = await asyncio.wait_for(rig.queue.claim(1), 5)
    assert job.id == rig.events.of(Accepted)[0].id


async def test_an_accept_that_is_cancelled_before_its_commit_leaves_no_file(rig: Rig) -> None:
    await rig.open()
    accepting = asyncio.ensure_future(put(rig, body=BIG))
    await asyncio.sleep(0)
    accepting.cancel()
    await asyncio.gather(accepting, return_exceptions=True)
    await rig.reopen()
    assert list(rig.queue.spool_directory.iterdir()) == []
    assert await rig.queue.find(Selector(), 1) == []


async def test_a_claim_that_is_cancelled_while_it_reads_takes_nothing_away(rig: Rig) -> None:
    await rig.open()
    queue_id = await put(rig)
    await rig.reopen()
    claiming = asyncio.ensure_future(rig.queue.claim(1))
    await asyncio.sleep(0)
    claiming.cancel()
    await asyncio.gather(claiming, return_exceptions=True)
    (job,) = await asyncio.wait_for(rig.queue.claim(1), 5)
    assert job.id == queue_id


async def test_an_outcome_that_comes_after_the_lease_is_recorded(rig: Rig) -> None:
    await rig.open()
    await put(rig, "a@dest.example", "b@dest.example")
    (job,) = await rig.queue.claim(1)
    await rig.clock.advance(3601)
    rig.queue._claims._end_leases()  # as the next `claim` does before it gives out what waits
    assert len(rig.events.troubles) == 1
    await rig.queue.settle(job, [(due, DELIVERED) for due in job.recipients])
    await rig.queue.settle(job, [(due, DELIVERED) for due in job.recipients])
    assert len(rig.events.of(Attempted)) == 2
    assert [event.id for event in rig.events.of(Finished)] == [job.id]
    other = await put(rig)
    assert [job.id for job in await rig.queue.claim(10)] == [other]


async def test_a_part_that_is_settled_renews_the_lease(rig: Rig) -> None:
    await rig.open()
    await put(rig, "a@dest.example", "b@dest.example")
    (job,) = await rig.queue.claim(1)
    await rig.clock.advance(3000)
    await rig.queue.settle(job, [(job.recipients[0], DELIVERED)])
    await rig.clock.advance(3000)
    await put(rig)
    await rig.queue.claim(5)
    assert rig.events.troubles == []


async def test_a_row_that_cannot_be_read_costs_its_message_only(rig: Rig) -> None:
    await rig.open()
    ids = [await put(rig) for _ in range(3)]
    await rig.queue.close()
    with sqlite3.connect(rig.path) as connection:
        connection.execute("UPDATE recipients SET state = 77 WHERE n = 2")
    connection.close()
    await rig.open()
    jobs = await rig.queue.claim(3)
    assert [job.id for job in jobs] == [ids[0], ids[2]]
    assert any("message 2 cannot be read" in trouble for trouble in rig.events.troubles)


async def test_a_thousand_recipients_are_one_message(rig: Rig) -> None:
    await rig.open()
    await put(rig, *[f"user{n}@dest{n % 7}.example" for n in range(1000)])
    (job,) = await rig.queue.claim(1)
    assert len(job.recipients) == 1000
    outcomes = [(due, DEFERRED if due.index % 2 else DELIVERED) for due in job.recipients]
    for start in range(0, 1000, 100):  # as the next hops answer
        await rig.queue.settle(job, outcomes[start : start + 100])
    assert await rig.queue.counts() == {"queued": 0, "deferred": 500, "held": 0}
    await rig.clock.advance(70)
    seen = 0
    while seen < 500:  # jitter has spread them
        (job,) = await asyncio.wait_for(rig.queue.claim(1), 5)
        seen += len(job.recipients)
        await rig.queue.settle(job, [(due, DELIVERED) for due in job.recipients])
    (finished,) = rig.events.of(Finished)
    assert [fate.attempts for fate in finished.fates[:4]] == [1, 2, 1, 2]


async def test_a_large_body_has_a_file_as_long_as_it_is_queued(rig: Rig) -> None:
    await rig.open()
    queue_id = await put(rig, body=BIG)
    file = rig.queue.spool_directory / queue_id
    assert file.stat().st_size == len(BIG) + 2
    (job,) = await rig.queue.claim(1)
    message = await rig.queue.load(job)
    assert isinstance(message.body, FileBody)
    assert message.body.path == file
    await rig.queue.settle(job, [(job.recipients[0], DELIVERED)])
    await until(lambda: not file.exists())


async def test_a_large_bounce_has_a_file_too(rig: Rig) -> None:
    await rig.open()
    rig.bouncer.body = BIG
    await put(rig)
    (job,) = await rig.queue.claim(1)
    await rig.queue.settle(job, [(job.recipients[0], Failed(reply=reply.POLICY))])
    await rig.reopen()
    (notice,) = await rig.queue.claim(1)
    assert (await rig.queue.load(notice)).read().endswith(BIG)


async def test_a_large_bounce_waits_for_a_disk_that_is_full(rig: Rig) -> None:
    await rig.open()
    rig.bouncer.body = BIG
    await put(rig)
    (job,) = await rig.queue.claim(1)
    rig.disk.fail(0, on="write", full=True)
    settling = asyncio.ensure_future(rig.queue.settle(job, [(job.recipients[0], Failed(reply=reply.POLICY))]))
    await until(lambda: rig.clock.sleepers)
    assert not settling.done()
    await rig.clock.advance(60)
    await asyncio.wait_for(settling, 5)
    assert [str(view.recipients[0].address) for view in await rig.queue.find(Selector(), 5)] == [str(SENDER)]


async def test_a_discarded_large_message_leaves_no_file(rig: Rig) -> None:
    await rig.open()
    tx = transaction()
    path = rig.queue.spool_directory / f"{tx.id}.tmp"
    path.write_bytes(BIG)
    tx.message = Message(TRACE, HEADER, FileBody(path, 0, len(BIG)))
    await rig.queue.accept(tx, Verdict(Action.DISCARD))
    await until(lambda: not path.exists())


async def test_a_doubled_id_is_refused_and_the_first_stays(rig: Rig) -> None:
    await rig.open()
    first = transaction(message=content(b"first"))
    await rig.queue.accept(first, ACCEPT)
    with pytest.raises(reply.MailError) as failure:
        await rig.queue.accept(transaction(message=content(b"second"), id=first.id), ACCEPT)
    assert failure.value.reply == reply.QUEUE_WRITE
    assert (await rig.queue.content(first.id) or b"").endswith(b"first")


async def test_ids_of_another_form_reach_no_file(rig: Rig) -> None:
    await rig.open()
    (rig.directory / "secret").write_text("x")
    assert await rig.queue.content(QueueId("../secret")) is None


async def test_operators_may_change_more_messages_than_fit_in_one_part(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.queue.admin.PART", 3)
    await rig.open()
    ids = [await put(rig) for _ in range(10)]
    for command in ("hold", "release", "retry", "bounce"):
        assert await rig.queue.operate(command, Selector(), dry_run=False) == ids
    notices = [view.id for view in await rig.queue.find(Selector(), 100)]
    assert len(notices) == 10
    assert await rig.queue.operate("delete", Selector(), dry_run=False) == notices
    with pytest.raises(ValueError, match="explode"):
        await rig.queue.operate("explode", Selector(), dry_run=False)


async def test_options_can_change_while_we_run(rig: Rig) -> None:
    await rig.open()
    rig.queue.reload(rig.options.model_copy(update={"retry": [1000.0]}))
    await put(rig)
    (job,) = await rig.queue.claim(1)
    await rig.queue.settle(job, [(job.recipients[0], DEFERRED)])
    (attempted,) = rig.events.of(Attempted)
    assert attempted.due == pytest.approx(rig.clock.now() + 1000, abs=101)


async def test_a_jump_of_the_clock_is_told_once(rig: Rig) -> None:
    await rig.open()
    rig.clock.jump(86400)
    await put(rig)
    await put(rig)
    assert len(rig.events.troubles) == 1
    assert "+86400" in rig.events.troubles[0]


async def test_a_bounce_of_an_operator_that_cannot_be_written_holds_the_message(rig: Rig) -> None:
    await rig.open()
    queue_id = await put(rig)
    rig.bouncer.broken = True
    await rig.queue.operate("bounce", Selector(), dry_run=False)
    assert [event.id for event in rig.events.of(Held)] == [queue_id]
    await rig.reopen()
    assert [view.state for view in await rig.queue.find(Selector(), 1)] == ["held"]


async def test_a_settlement_that_waits_for_the_disk_longer_than_a_lease_holds_up_no_other_claim(rig: Rig) -> None:
    """Nor is the loop kept busy by an alarm that rings for ever."""
    await rig.open()
    await rig.queue.accept(transaction(), ACCEPT)
    (waits,) = await rig.queue.claim(1)
    rig.disk.fail(0, on="commit", for_ever=True)
    settling = asyncio.ensure_future(rig.queue.settle(waits, [(waits.recipients[0], DELIVERED)]))
    await until(lambda: rig.events.troubles)
    rig.disk.heal()
    forgotten = await rig.queue.accept(transaction(), ACCEPT)
    assert [job.id for job in await rig.queue.claim(1)] == [forgotten]
    rig.disk.fail(0, on="commit", for_ever=True)
    claiming = asyncio.ensure_future(rig.queue.claim(1))
    for _ in range(62):
        await rig.clock.advance(60)
        await asyncio.sleep(0.001)
    assert [job.id for job in await asyncio.wait_for(claiming, 5)] == [forgotten]
    claiming = asyncio.ensure_future(rig.queue.claim(1))
    for _ in range(10):
        await asyncio.sleep(0)
    assert rig.queue._claims._alarm_at > rig.clock.monotonic()
    claiming.cancel()
    rig.disk.heal()
    while not settling.done():  # a try that was under way may still fail and wait once more
        await rig.clock.advance(61)
        await asyncio.sleep(0.001)
    await settling
