# SPDX-License-Identifier: Apache-2.0
"""Whom the queue has told: what a sender asked for with NOTIFY (RFC 3461 §4.1), in the real queue and in its twin."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.mail.envelope import Recipient
from gateway.mail.events import Bounced, Finished, Held
from gateway.mail.job import Deferred, Delivered, Failed, Job, Outcome
from gateway.mail.listing import Selector
from gateway.mail.reply import from_remote
from gateway.mail.verdict import ACCEPT
from gateway.queue.manager import QueueManager
from gateway.queue.options import QueueOptions
from tests.support.clock import FakeClock
from tests.support.memqueue import MemoryQueue
from tests.unit.queue.build import Events, SmallBouncer, transaction

RELAYED = Delivered(reply=from_remote(250, "2.0.0 taken"), hop="mx1", remote=True)
TOLD_THERE = Delivered(reply=from_remote(250, "2.0.0 taken"), hop="mx1", remote=True, action="")
FAILED = Failed(reply=from_remote(550, "5.1.1 who?"), hop="mx1", remote=True)
LATER = Deferred(reply=from_remote(451, "4.7.1 later"), hop="mx1", remote=True)


class World:
    def __init__(self, queue: QueueManager | MemoryQueue, clock: FakeClock, events: Events, bouncer: SmallBouncer) -> None:
        self.queue, self.clock, self.events, self.bouncer = queue, clock, events, bouncer

    async def outcome(self, *pairs: tuple[str, Outcome], sender: bool = True) -> Job:
        """One message, a recipient for each (NOTIFY, outcome), settled at once."""
        tx = transaction()
        address = tx.recipients[0].address
        tx.recipients = [Recipient(address, tuple(notify.split(",")) if notify else ()) for notify, _ in pairs]
        await self.queue.accept(tx, ACCEPT)
        (job,) = await asyncio.wait_for(self.queue.claim(1), 5)
        await self.queue.settle(job, [(due, outcome) for due, (_, outcome) in zip(job.recipients, pairs, strict=True)])
        return job

    def told(self) -> list[list[tuple[int, Outcome]]]:
        """Of each notice: which recipients it is about, and what it says."""
        return [[(due.index, outcome) for due, outcome in told] for _, told in self.bouncer.composed]


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


@pytest.mark.parametrize("notify", ["NEVER", "never", "SUCCESS", "DELAY", "SUCCESS,DELAY"])
async def test_a_failure_that_the_sender_does_not_want_to_hear_of_is_not_told(world: World, notify: str) -> None:
    await world.outcome((notify, FAILED))
    assert world.told() == []
    (bounced,) = world.events.of(Bounced)
    assert (bounced.notice, bounced.why_not) == (None, "not wanted")
    (finished,) = world.events.of(Finished)
    assert finished.fates[0].result == "bounced"
    assert not any((await world.queue.counts()).values())


@pytest.mark.parametrize("notify", ["", "FAILURE", "failure,Success"])
async def test_a_failure_is_told_otherwise(world: World, notify: str) -> None:
    await world.outcome((notify, FAILED))
    assert world.told() == [[(0, FAILED)]]
    (bounced,) = world.events.of(Bounced)
    assert bounced.notice is not None


async def test_good_news_is_told_to_who_asked(world: World) -> None:
    await world.outcome(("SUCCESS", RELAYED))
    assert world.told() == [[(0, RELAYED)]]
    (job,) = await asyncio.wait_for(world.queue.claim(1), 5)
    assert not job.sender  # the notice
    assert not world.events.of(Bounced)


@pytest.mark.parametrize(
    ("notify", "outcome"),
    [("", RELAYED), ("FAILURE,DELAY", RELAYED), ("NEVER", RELAYED), ("SUCCESS", TOLD_THERE), ("SUCCESS", LATER)],
)
async def test_good_news_is_not_told_otherwise(world: World, notify: str, outcome: Outcome) -> None:
    """RFC 3461 §5.2.2: nor where the next hop has taken the duty over."""
    await world.outcome((notify, outcome))
    assert world.told() == []


async def test_one_notice_for_all_recipients_of_a_settlement(world: World) -> None:
    pairs = [
        ("SUCCESS", RELAYED),
        ("", FAILED),
        ("NEVER", FAILED),
        ("", RELAYED),
        ("SUCCESS", TOLD_THERE),
        ("SUCCESS,FAILURE", FAILED),
    ]
    await world.outcome(*pairs)
    assert world.told() == [[(0, RELAYED), (1, FAILED), (5, FAILED)]]
    assert [(bounced.notice is not None, bounced.why_not) for bounced in world.events.of(Bounced)] == [
        (True, ""),
        (False, "not wanted"),
        (True, ""),
    ]


async def test_an_expired_message_is_not_told_of_either(world: World) -> None:
    tx = transaction()
    tx.recipients = [Recipient(tx.recipients[0].address, ("NEVER",))]
    await world.queue.accept(tx, ACCEPT)
    await world.clock.advance(6 * 86400)
    (job,) = await asyncio.wait_for(world.queue.claim(1), 5)
    await world.queue.settle(job, [(job.recipients[0], LATER)])
    assert world.told() == []
    assert [fate.result for fate in world.events.of(Finished)[0].fates] == ["bounced"]


async def test_good_news_that_cannot_be_written_does_not_keep_the_message(world: World) -> None:
    """It was delivered: to hold it would be to deliver it again some day."""
    world.bouncer.broken = True
    await world.outcome(("SUCCESS", RELAYED), ("NEVER", FAILED))
    assert not world.events.of(Held)
    assert len(world.events.of(Finished)) == 1
    assert await world.queue.find(Selector(), 10) == []
    assert any("no ink" in trouble for trouble in world.events.troubles)


async def test_nor_does_it_stop_a_recipient_that_is_tried_again(world: World) -> None:
    world.bouncer.broken = True
    await world.outcome(("SUCCESS", RELAYED), ("", LATER))
    (view,) = await world.queue.find(Selector(), 10)
    assert view.state == "deferred"


async def test_bad_news_that_cannot_be_written_keeps_only_its_recipient(world: World) -> None:
    world.bouncer.broken = True
    await world.outcome(("SUCCESS", RELAYED), ("NEVER", FAILED), ("", FAILED))
    (view,) = await world.queue.find(Selector(), 10)
    assert view.state == "held"
    assert [each.state for each in view.recipients] == ["delivered", "failed", "deferred"]
