# SPDX-License-Identifier: Apache-2.0
"""Stopping: nothing new is begun, nothing claimed is lost, and what may have been delivered is said to be in doubt."""

import asyncio

from gateway.mail.job import Deferred
from tests.support.delivering import delivering
from tests.support.fakework import job
from tests.support.sink import Sink


async def test_a_running_attempt_may_end_within_the_limit() -> None:
    async with Sink(behaviours={"hang-in-dot"}) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job("bob@dest.example"))
        await sink.wait_hung()
        stopping = asyncio.create_task(rig.deliverer.stop(60))
        await asyncio.sleep(0)
        sink.resume()
        await stopping
        assert rig.tally() == {"delivered": 1, "deferred": 0, "bounced": 0}
        assert not rig.work.released


async def test_before_the_dot_an_attempt_is_given_back() -> None:
    for stage in ("greeting", "ehlo", "mail", "rcpt", "data"):
        async with Sink(behaviours={f"hang-in-{stage}"}) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
            await rig.work.put(job("bob@dest.example"))
            await sink.wait_hung()
            await rig.deliverer.stop(0)
            assert not rig.work.outcomes
            assert len(rig.work.released) == 1
            assert rig.deliverer.in_flight == 0


async def test_behind_the_dot_it_is_settled_as_ambiguous() -> None:
    async with Sink(behaviours={"hang-in-dot"}) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(job("bob@dest.example"))
        await sink.wait_hung()
        await rig.deliverer.stop(0)
        outcome = rig.outcome()
        assert isinstance(outcome, Deferred)
        assert outcome.ambiguous
        assert not rig.work.released


async def test_what_was_delivered_before_the_stop_is_recorded() -> None:
    """The first transaction of a job is done, the second hangs."""
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}, recipients_per_transaction=1) as rig:
        await rig.work.put(job("a@dest.example", "b+hang-in-data@dest.example"))
        await sink.wait_hung()
        await rig.deliverer.stop(0)
        first, second = (rig.work.outcomes[key] for key in sorted(rig.work.outcomes))
        assert first.reply.code == 250
        assert isinstance(second, Deferred)
        assert not second.counted


async def test_what_waits_is_given_back() -> None:
    async with Sink(behaviours={"hang-in-data"}) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(*(job("bob@dest.example", number=number) for number in range(1, 31)))
        await sink.wait_hung(5)
        await rig.deliverer.stop(0)
        assert sorted(rig.work.released) == sorted(rig.work.messages)
        assert not sink.messages


async def test_a_job_with_two_hops_is_settled_where_it_is_done_and_released_once() -> None:
    async with Sink() as good, Sink(behaviours={"hang-in-mail"}) as slow:
        routes = {"a.example": f"smtp://{good.address}", "b.example": f"smtp://{slow.address}"}
        async with delivering(routes) as rig:
            await rig.work.put(job("x@a.example", "y@b.example"))
            await slow.wait_hung()
            await rig.work.wait(1)
            await rig.deliverer.stop(0)
            assert rig.tally() == {"delivered": 1, "deferred": 0, "bounced": 0}
            assert len(rig.work.released) == 1


async def test_stop_without_work_is_quick_and_may_be_called_twice() -> None:
    async with delivering({"*": "discard:"}) as rig:
        await asyncio.gather(rig.deliverer.stop(60), rig.deliverer.stop(60))
        assert rig.deliverer.in_flight == 0
        await rig.task


async def test_a_cancelled_run_gives_everything_back() -> None:
    async with Sink(behaviours={"hang-in-data"}) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(*(job("bob@dest.example", number=number) for number in range(1, 11)))
        await sink.wait_hung(5)
        rig.task.cancel()
        await asyncio.wait([rig.task])
        assert len(rig.work.released) == 10


async def test_no_task_is_left() -> None:
    before = asyncio.all_tasks()
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(*(job("bob@dest.example", number=number) for number in range(1, 11)))
        await rig.work.wait(10)
    assert asyncio.all_tasks() == before
