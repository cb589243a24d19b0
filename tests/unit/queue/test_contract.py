# SPDX-License-Identifier: Apache-2.0
"""What every queue must do, whatever it is made of: the real one, and the twin that other tests use."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.mail import reply
from gateway.mail.address import NULL_SENDER
from gateway.mail.events import Accepted, Attempted, Bounced, Finished, Held, Operated
from gateway.mail.job import Deferred, Delivered, Failed, Job, Outcome, QueueId
from gateway.mail.listing import Selector
from gateway.mail.message import Message
from gateway.mail.reply import MailError
from gateway.mail.verdict import ACCEPT, Action, Symbol, Verdict
from gateway.queue.manager import QueueManager
from gateway.queue.options import QueueOptions
from tests.support.clock import FakeClock
from tests.support.memqueue import MemoryQueue
from tests.unit.queue.build import CLIENT, SENDER, Events, SmallBouncer, content, transaction

DELIVERED = Delivered(reply=reply.from_remote(250, "2.0.0 taken"), hop="mx1", remote=True)
DEFERRED = Deferred(reply=reply.from_remote(451, "4.7.1 greylisted"), hop="mx1", remote=True)
RESTING = Deferred(reply=reply.HOST_RESTING, counted=False)
FAILED = Failed(reply=reply.from_remote(550, "5.1.1 who?"), hop="mx1", remote=True)
HOLD = Verdict(Action.HOLD, rule="spam.hold", symbols=(Symbol("SPAM", 9.0),))
DAY = 86400.0


class World:
    def __init__(self, queue: QueueManager | MemoryQueue, clock: FakeClock, events: Events, bouncer: SmallBouncer) -> None:
        self.queue = queue
        self.clock = clock
        self.events = events
        self.bouncer = bouncer

    async def put(self, *recipients: str, message: Message | None = None, verdict: Verdict = ACCEPT) -> QueueId:
        return await self.queue.accept(transaction(*recipients, message=message), verdict)

    async def claim(self) -> Job:
        (job,) = await asyncio.wait_for(self.queue.claim(1), 5)
        return job

    async def settle(self, job: Job, *outcomes: Outcome) -> None:
        await self.queue.settle(job, list(zip(job.recipients, outcomes, strict=True)))

    async def nothing_is_due(self) -> None:
        """`claim` has looked, found nothing and gone to sleep."""
        claiming = asyncio.ensure_future(self.queue.claim(10))
        await self.queue.counts()  # a turn of the real queue's threads
        await asyncio.sleep(0)
        assert not claiming.done()
        claiming.cancel()
        await asyncio.gather(claiming, return_exceptions=True)


@pytest.fixture(params=["sqlite", "memory"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    clock, events, bouncer = FakeClock(), Events(), SmallBouncer()
    options = QueueOptions(min_free=0)
    queue: QueueManager | MemoryQueue
    if request.param == "sqlite":
        queue = QueueManager(tmp_path, 0, options, clock=clock, events=events, bouncer=bouncer)
    else:
        queue = MemoryQueue(options, clock=clock, events=events, bouncer=bouncer)
    await queue.open()
    yield World(queue, clock, events, bouncer)
    await queue.close()


# --- taking


async def test_what_was_accepted_is_claimed_with_the_same_octets(world: World) -> None:
    message = content(b"8-bit \xe4\r\n" * 100)
    tx = transaction("one@dest.example", '"odd@one"@dest.example', message=message, smtputf8=True)
    assert await world.queue.accept(tx, ACCEPT) == tx.id
    job = await world.claim()
    assert (job.id, job.sender, job.size, job.created) == (tx.id, SENDER, message.size, world.clock.now())
    assert (job.eight_bit, job.smtputf8) == (True, True)
    assert [(due.index, str(due.address), due.attempts) for due in job.recipients] == [
        (0, "one@dest.example", 0),
        (1, '"odd@one"@dest.example', 0),
    ]
    loaded = await world.queue.load(job)
    assert (loaded.trace, loaded.header, loaded.read()) == (message.trace, message.header, message.read())
    assert await world.queue.content(tx.id) == message.read()


async def test_accepted_is_told_once_with_its_facts(world: World) -> None:
    queue_id = await world.put("one@dest.example")
    (accepted,) = world.events.of(Accepted)
    assert (accepted.id, accepted.client, accepted.message_id) == (queue_id, CLIENT, "<one@source.example>")


async def test_a_held_message_is_kept_until_an_operator_releases_it(world: World) -> None:
    queue_id = await world.put(verdict=HOLD)
    assert [(held.id, held.reason) for held in world.events.of(Held)] == [(queue_id, "spam.hold")]
    await world.nothing_is_due()
    assert await world.queue.counts() == {"queued": 0, "deferred": 0, "held": 1}
    assert await world.queue.operate("release", Selector(), dry_run=False) == [queue_id]
    assert (await world.claim()).id == queue_id


async def test_a_discarded_message_leaves_events_and_nothing_else(world: World) -> None:
    queue_id = await world.put("a@dest.example", "b@dest.example", verdict=Verdict(Action.DISCARD, rule="virus"))
    assert await world.queue.find(Selector(), 10) == []
    (finished,) = world.events.of(Finished)
    assert (finished.id, finished.rule, [fate.result for fate in finished.fates]) == (queue_id, "virus", ["discarded"] * 2)
    assert len(world.events.of(Accepted)) == 1


# --- claiming


async def test_claim_waits_for_mail(world: World) -> None:
    claiming = asyncio.ensure_future(world.queue.claim(5))
    await asyncio.sleep(0)
    queue_id = await world.put()
    assert [job.id for job in await asyncio.wait_for(claiming, 5)] == [queue_id]


async def test_a_message_is_claimed_once_and_the_oldest_first(world: World) -> None:
    ids = [await world.put() for _ in range(5)]
    claimed = [job.id for job in await world.queue.claim(3)] + [job.id for job in await world.queue.claim(3)]
    assert claimed == ids
    await world.nothing_is_due()


async def test_a_cancelled_claim_takes_nothing_away(world: World) -> None:
    claiming = asyncio.ensure_future(world.queue.claim(1))
    await asyncio.sleep(0)
    claiming.cancel()
    queue_id = await world.put()
    assert (await world.claim()).id == queue_id


async def test_a_released_job_is_due_at_once_and_unchanged(world: World) -> None:
    await world.put("a@dest.example", "b@dest.example")
    job = await world.claim()
    await world.queue.release(job)
    assert await world.claim() == job


async def test_load_of_a_job_that_is_not_claimed_fails_with_a_temporary_reply(world: World) -> None:
    await world.put()
    job = await world.claim()
    await world.queue.release(job)
    with pytest.raises(MailError) as failure:
        await world.queue.load(job)
    assert failure.value.reply == reply.CONTENT_LOST


async def test_a_claim_that_is_forgotten_ends_with_its_lease(world: World) -> None:
    queue_id = await world.put()
    await world.claim()
    claiming = asyncio.ensure_future(world.queue.claim(1))
    for _ in range(10):  # until it sleeps
        await asyncio.sleep(0)
    await world.clock.advance(3601)
    assert [job.id for job in await asyncio.wait_for(claiming, 5)] == [queue_id]
    assert len(world.events.troubles) == 1


# --- settling


async def test_a_delivered_message_is_finished_and_gone(world: World) -> None:
    queue_id = await world.put(
        "a@dest.example", "b@dest.example", verdict=Verdict(rule="x", symbols=(Symbol("A"), Symbol("B")))
    )
    await world.settle(await world.claim(), DELIVERED, DELIVERED)
    (finished,) = world.events.of(Finished)
    assert (finished.id, finished.rule, finished.symbols) == (queue_id, "x", ("A", "B"))
    assert [(fate.address, fate.result, fate.attempts, fate.hop) for fate in finished.fates] == [
        ("a@dest.example", "delivered", 1, "mx1"),
        ("b@dest.example", "delivered", 1, "mx1"),
    ]
    assert await world.queue.find(Selector(), 10) == []
    assert await world.queue.content(queue_id) is None
    assert await world.queue.counts() == {"queued": 0, "deferred": 0, "held": 0}


async def test_state_is_kept_for_each_recipient(world: World) -> None:
    """RFC 5321 §4.5.4.1: only what was deferred is tried again."""
    await world.put("a@dest.example", "b@dest.example", "c@dest.example")
    await world.settle(await world.claim(), DELIVERED, DEFERRED, RESTING)
    (view,) = await world.queue.find(Selector(), 10)
    assert [(each.state, each.attempts) for each in view.recipients] == [("delivered", 1), ("deferred", 1), ("deferred", 0)]
    assert view.recipients[1].last_reply == "451 4.7.1 greylisted"
    assert [event.due for event in world.events.of(Attempted)] == [None, *[each.due for each in view.recipients[1:]]]
    await world.nothing_is_due()
    await world.clock.advance(70)
    job = await world.claim()
    assert [(due.index, due.attempts) for due in job.recipients] == [(1, 1), (2, 0)]
    await world.settle(job, DELIVERED, DELIVERED)
    assert [fate.attempts for fate in world.events.of(Finished)[0].fates] == [1, 2, 1]


async def test_a_job_may_be_settled_in_parts_and_twice(world: World) -> None:
    queue_id = await world.put("a@dest.example", "b@dest.example")
    job = await world.claim()
    first, second = job.recipients
    await asyncio.gather(world.queue.settle(job, [(second, DELIVERED)]), world.queue.settle(job, [(first, DEFERRED)]))
    await world.queue.settle(job, [(first, DELIVERED), (second, DELIVERED)])
    assert len(world.events.of(Attempted)) == 2
    await world.clock.advance(70)
    job = await world.claim()
    assert [due.index for due in job.recipients] == [0]
    await world.settle(job, DELIVERED)
    assert [event.id for event in world.events.of(Finished)] == [queue_id]


async def test_the_wait_grows_and_its_end_is_a_bounce_that_names_the_last_reply(world: World) -> None:
    await world.put()
    waits = []
    while True:
        job = await world.claim()
        if not job.sender:
            break
        await world.settle(job, DEFERRED)
        due = world.events.of(Attempted)[-1].due
        waits.append(0 if due is None else due - world.clock.now())
        await world.clock.advance(waits[-1])
    assert [round(wait / 60) for wait in waits[:3]] == [pytest.approx(minutes, rel=0.11) for minutes in (1, 5, 15)]
    assert sum(waits) == pytest.approx(5 * DAY)
    (bounced,) = world.events.of(Bounced)
    assert bounced.reply.enhanced == "4.4.7"
    assert bounced.reply.text.endswith("451 4.7.1 greylisted")
    assert world.events.of(Finished)[0].fates[0].result == "bounced"


async def test_a_host_that_rests_does_not_keep_a_message_for_ever(world: World) -> None:
    await world.put()
    await world.settle(await world.claim(), RESTING)
    await world.clock.advance(5 * DAY)
    await world.settle(await world.claim(), RESTING)
    assert [bounced.reply.enhanced for bounced in world.events.of(Bounced)] == ["4.4.7"]


async def test_a_failure_is_told_to_the_sender_by_a_message_of_the_queue(world: World) -> None:
    """RFC 5321 §4.2.5. The null sender of the notice is never told anything (§4.5.5)."""
    queue_id = await world.put("a@dest.example", "b@dest.example")
    job = await world.claim()
    await world.settle(job, FAILED, DELIVERED)
    notice = await world.claim()
    assert (notice.sender, [str(due.address) for due in notice.recipients]) == (NULL_SENDER, [str(SENDER)])
    assert (await world.queue.load(notice)).header == b"Subject: bounce\r\n"
    accepted = world.events.of(Accepted)[-1]
    assert (accepted.id, accepted.client) == (notice.id, None)
    await world.settle(notice, FAILED)
    assert [(event.id, event.notice, event.why_not) for event in world.events.of(Bounced)] == [
        (queue_id, notice.id, ""),
        (notice.id, None, "null sender"),
    ]
    assert [event.id for event in world.events.of(Finished)] == [queue_id, notice.id]
    assert [[fate.result for fate in event.fates] for event in world.events.of(Finished)] == [
        ["bounced", "delivered"],
        ["bounced"],
    ]


async def test_a_failure_that_cannot_be_told_holds_the_message(world: World) -> None:
    queue_id = await world.put()
    world.bouncer.broken = True
    await world.settle(await world.claim(), FAILED)
    assert [event.id for event in world.events.of(Held)] == [queue_id]
    assert "no ink" in world.events.troubles[0]
    assert await world.queue.counts() == {"queued": 0, "deferred": 0, "held": 1}
    world.bouncer.broken = False
    assert await world.queue.operate("bounce", Selector(), dry_run=False) == [queue_id]
    assert (await world.claim()).sender == NULL_SENDER


# --- clocks


async def test_a_clock_that_jumps_a_day_forward_expires_nothing(world: World) -> None:
    await world.put()
    await world.settle(await world.claim(), DEFERRED)
    world.clock.jump(30 * DAY)
    await world.nothing_is_due()
    await world.clock.advance(70)
    await world.settle(await world.claim(), DEFERRED)
    assert world.events.of(Bounced) == []


async def test_a_clock_that_jumps_a_day_back_delays_nothing(world: World) -> None:
    await world.put()
    await world.settle(await world.claim(), DEFERRED)
    world.clock.jump(-DAY)
    await world.clock.advance(70)
    assert [due.attempts for due in (await world.claim()).recipients] == [1]


# --- operators


async def test_selectors_match_what_they_say(world: World) -> None:
    first = await world.put("a@one.example", "b@two.example")
    await world.clock.advance(100)
    second = await world.put("c@TWO.example")
    held = await world.put("a@three.example", verdict=HOLD)
    await world.settle(await world.claim(), DELIVERED, DEFERRED)

    async def found(selector: Selector) -> list[QueueId]:
        return [view.id for view in await world.queue.find(selector, 10)]

    assert await found(Selector()) == [first, second, held]
    assert await found(Selector(ids=(second, held))) == [second, held]
    assert await found(Selector(domain="two.example")) == [first, second]
    assert await found(Selector(domain="one.example")) == []  # delivered already
    assert await found(Selector(recipient="C@two.example")) == [second]
    assert await found(Selector(recipient="c@two.example", domain="one.example")) == []
    assert await found(Selector(sender=str(SENDER))) == [first, second, held]
    assert await found(Selector(sender="other@source.example")) == []
    assert await found(Selector(older=50)) == [first]
    assert await found(Selector(state="held")) == [held]
    assert await found(Selector(state="queued")) == [second]
    assert await found(Selector(state="deferred")) == [first]
    assert await found(Selector(reason="GREYlisted")) == [first]
    assert await found(Selector(reason="spam.hold")) == [held]
    assert await found(Selector(sender="' OR 1=1 --")) == []
    assert len(await world.queue.find(Selector(), 2)) == 2


async def test_a_dry_run_changes_nothing(world: World) -> None:
    queue_id = await world.put()
    for command in ("hold", "retry", "bounce", "delete"):
        assert await world.queue.operate(command, Selector(), dry_run=True) == [queue_id]
    assert world.events.of(Operated) == []
    assert (await world.claim()).id == queue_id


async def test_retry_makes_a_deferred_message_due(world: World) -> None:
    queue_id = await world.put()
    await world.settle(await world.claim(), DEFERRED)
    assert await world.queue.operate("retry", Selector(state="deferred"), dry_run=False) == [queue_id]
    assert [due.attempts for due in (await world.claim()).recipients] == [1]


async def test_delete_tells_nobody_but_the_log(world: World) -> None:
    queue_id = await world.put("a@dest.example", "b@dest.example")
    await world.settle(await world.claim(), DELIVERED, DEFERRED)
    assert await world.queue.operate("delete", Selector(ids=(queue_id,)), dry_run=False) == [queue_id]
    assert [fate.result for fate in world.events.of(Finished)[0].fates] == ["delivered", "deleted"]
    assert [(event.id, event.command) for event in world.events.of(Operated)] == [(queue_id, "delete")]
    assert await world.queue.find(Selector(), 10) == []
    await world.nothing_is_due()


async def test_bounce_returns_what_is_open(world: World) -> None:
    await world.put("a@dest.example", "b@dest.example")
    await world.settle(await world.claim(), DELIVERED, DEFERRED)
    await world.queue.operate("bounce", Selector(), dry_run=False)
    ((_, failures),) = world.bouncer.composed
    assert [(str(due.address), failed.reply) for due, failed in failures] == [("b@dest.example", reply.BOUNCED_BY_OPERATOR)]
    assert (await world.claim()).sender == NULL_SENDER


async def test_a_message_that_is_being_delivered_is_held_afterwards(world: World) -> None:
    queue_id = await world.put()
    job = await world.claim()
    for command in ("retry", "bounce", "delete"):
        assert await world.queue.operate(command, Selector(), dry_run=False) == []
    assert await world.queue.operate("hold", Selector(), dry_run=False) == [queue_id]
    await world.settle(job, DEFERRED)
    await world.clock.advance(DAY)
    await world.nothing_is_due()
    (view,) = await world.queue.find(Selector(), 1)
    assert (view.state, view.reason, view.recipients[0].due) == ("held", "held by the operator", None)
    assert await world.queue.operate("hold", Selector(), dry_run=False) == []
    assert await world.queue.operate("release", Selector(), dry_run=False) == [queue_id]
    assert [due.attempts for due in (await world.claim()).recipients] == [1]


async def test_counts_are_of_open_recipients(world: World) -> None:
    await world.put("a@dest.example", "b@dest.example", "c@dest.example")
    await world.put("d@dest.example", "e@dest.example", verdict=HOLD)
    await world.settle(await world.claim(), DELIVERED, DEFERRED, DEFERRED)
    await world.put("f@dest.example")
    assert await world.queue.counts() == {"queued": 1, "deferred": 2, "held": 2}
