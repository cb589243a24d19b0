# SPDX-License-Identifier: Apache-2.0
"""The back half as it runs: the real queue on disk, the deliverer, the bouncer, and a sink that is there or not."""

import asyncio
import email
import email.policy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gateway.delivery.bounce import DsnBouncer
from gateway.delivery.build import transports
from gateway.delivery.options import DeliveryOptions, RouteOptions
from gateway.delivery.route import Router
from gateway.delivery.worker import Deliverer
from gateway.infra.clock import SystemClock
from gateway.mail.events import Attempted, Bounced, Finished
from gateway.mail.verdict import ACCEPT
from gateway.queue.manager import QueueManager
from gateway.queue.options import QueueOptions
from tests.support.fakes import Events
from tests.support.resolver import MapResolver
from tests.support.sink import Sink
from tests.unit.queue.build import transaction, until


@asynccontextmanager
async def back_half(directory: Path, sink: Sink, **queue: Any) -> AsyncIterator[tuple[QueueManager, Events]]:
    clock, events = SystemClock(), Events()
    bouncer = DsnBouncer("mx.example.test", returned_message=50_000)
    options = QueueOptions.model_validate({"min_free": 0} | queue)
    manager = QueueManager(directory, 0, options, clock=clock, events=events, bouncer=bouncer)
    await manager.open()
    delivery = DeliveryOptions()
    made = transports(delivery, MapResolver(), hostname="mx.example.test", clock=clock, events=events)
    router = Router([RouteOptions(domains=["*"], to=f"smtp://{sink.address}")])
    deliverer = Deliverer(manager, router, made, delivery, clock=clock, events=events)
    task = asyncio.create_task(deliverer.run())
    try:
        yield manager, events
    finally:
        await deliverer.stop(0)
        await task
        await manager.close()


async def test_mail_is_delivered_and_gone(tmp_path: Path) -> None:
    async with Sink() as sink, back_half(tmp_path, sink) as (queue, events):
        await asyncio.gather(*(queue.accept(transaction("one@dest.example"), ACCEPT) for _ in range(50)))
        await sink.wait(50)
        await until(lambda: len(events.of(Finished)) == 50)
        assert not await queue.counts() or not any((await queue.counts()).values())


async def test_a_refused_recipient_makes_a_bounce_that_is_delivered(tmp_path: Path) -> None:
    async with Sink() as sink, back_half(tmp_path, sink) as (queue, events):
        queue_id = await queue.accept(transaction("one@dest.example", "two+550-at-rcpt@dest.example"), ACCEPT)
        await sink.wait(2)
        notice = next(message for message in sink.messages if not message.sender)
        assert notice.recipients == ("sender@source.example",)
        report = email.message_from_bytes(notice.content, policy=email.policy.default)
        assert report.get_content_type() == "multipart/report"
        assert queue_id in notice.content.decode()
        assert b"two+550-at-rcpt@dest.example" in notice.content
        await until(lambda: events.of(Bounced))
        await until(lambda: len(events.of(Finished)) == 2)


async def test_a_bounce_that_is_refused_ends_there(tmp_path: Path) -> None:
    """A double bounce is dropped: no notice about a notice."""
    async with Sink() as sink, back_half(tmp_path, sink) as (queue, events):
        sink.behaviours = {"550-at-rcpt"}
        await queue.accept(transaction("one@dest.example"), ACCEPT)
        await until(lambda: len(events.of(Finished)) == 2)
        assert [bounced.notice is None for bounced in events.of(Bounced)] == [False, True]
        assert not sink.messages


async def test_a_host_that_is_down_is_tried_on_schedule_and_gets_its_mail_when_it_is_back(tmp_path: Path) -> None:
    async with Sink() as sink:
        await sink.stop()
        async with back_half(tmp_path, sink, retry=["200ms"]) as (queue, events):
            await asyncio.gather(*(queue.accept(transaction("one@dest.example"), ACCEPT) for _ in range(30)))
            await until(lambda: len(events.of(Attempted)) >= 60)
            await sink.start()
            await sink.wait(30)
            await until(lambda: len(events.of(Finished)) == 30)
            assert sink.count == 30


async def test_what_a_stop_gives_back_is_delivered_by_the_next_start(tmp_path: Path) -> None:
    async with Sink(behaviours={"hang-in-data"}) as sink:
        async with back_half(tmp_path, sink) as (queue, _):
            await asyncio.gather(*(queue.accept(transaction("one@dest.example"), ACCEPT) for _ in range(20)))
            await sink.wait_hung(5)
        sink.behaviours = set()
        async with back_half(tmp_path, sink) as (_, events):
            await sink.wait(20)
            await until(lambda: len(events.of(Finished)) == 20)
            assert sink.count == 20
