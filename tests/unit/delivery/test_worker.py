# SPDX-License-Identifier: Apache-2.0
"""The deliverer with transports that are nothing but outcomes: faults of the queue, of transports, of routing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from gateway.delivery import shaping, worker
from gateway.delivery.options import DeliveryOptions, RouteOptions
from gateway.delivery.route import Router
from gateway.delivery.worker import Deliverer
from gateway.infra.clock import SystemClock
from gateway.mail import reply
from gateway.mail.events import Trouble
from gateway.mail.job import Deferred, Delivered, Job, NextHop, Outcome
from gateway.mail.message import Message
from gateway.mail.reply import MailError
from tests.support.fakes import Events
from tests.support.fakework import FakeWork, job

OK = Delivered(reply=reply.DELIVERED_LOCALLY)


class Scripted:
    """A transport that does what it is told; `closed` counts calls of close()."""

    def __init__(self, do: Callable[[Job], Sequence[Outcome]] | None = None) -> None:
        self.do = do or (lambda job: [OK] * len(job.recipients))
        self.seen: list[tuple[Job, NextHop]] = []
        self.gate: asyncio.Event | None = None
        self.entered = asyncio.Semaphore(0)
        self.closed = 0
        self.running = 0
        self.most = 0

    async def deliver(self, job: Job, message: Message, hop: NextHop) -> Sequence[Outcome]:
        self.seen.append((job, hop))
        self.running += 1
        self.entered.release()
        self.most = max(self.most, self.running)
        try:
            if self.gate:
                await self.gate.wait()
            return self.do(job)
        finally:
            self.running -= 1

    async def attempts(self, number: int) -> None:
        """Until that many have begun."""
        for _ in range(number):
            await self.entered.acquire()

    async def close(self) -> None:
        self.closed += 1


class Setup:
    def __init__(self, transport: Scripted, **options: object) -> None:
        self.work, self.events, self.transport = FakeWork(), Events(), transport
        routes = [RouteOptions(domains=["*"], to="mx:")]
        self.deliverer = Deliverer(
            self.work,
            Router(routes),
            {"mx": transport},
            DeliveryOptions.model_validate(options),
            clock=SystemClock(),
            events=self.events,
        )

    @property
    def troubles(self) -> list[str]:
        return [event.detail for event in self.events.of(Trouble)]


@asynccontextmanager
async def running(transport: Scripted, **options: object) -> AsyncIterator[Setup]:
    setup = Setup(transport, **options)
    task = asyncio.create_task(setup.deliverer.run())
    try:
        yield setup
    finally:
        await setup.deliverer.stop(0)
        await task


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "FAULT_PAUSE", 0.0)


async def test_a_crash_in_a_transport_defers_and_the_lane_goes_on() -> None:
    def crash(one: Job) -> Sequence[Outcome]:
        if one.id == job("a@b.example", number=1).id:
            raise RuntimeError("bug")
        return [OK]

    async with running(Scripted(crash)) as setup:
        await setup.work.put(job("a@b.example", number=1), job("a@b.example", number=2))
        await setup.work.wait(2)
        first, second = (setup.work.outcomes[key] for key in sorted(setup.work.outcomes))
        assert isinstance(first, Deferred)
        assert first.reply is reply.INTERNAL
        assert second is OK
        assert "RuntimeError: bug" in setup.troubles[0]


async def test_content_that_cannot_be_loaded_defers() -> None:
    async with running(Scripted()) as setup:
        setup.work.load_fault = MailError(reply.QUEUE_WRITE, "EIO")
        await setup.work.put(job("a@b.example"))
        await setup.work.wait(1)
        (outcome,) = setup.work.outcomes.values()
        assert outcome.reply is reply.QUEUE_WRITE
        assert not setup.transport.seen
        assert "EIO" in setup.troubles[0]


async def test_a_wrong_number_of_outcomes_is_not_believed() -> None:
    async with running(Scripted(lambda _: [OK])) as setup:
        await setup.work.put(job("a@b.example", "c@b.example"))
        await setup.work.wait(2)
        assert {outcome.reply for outcome in setup.work.outcomes.values()} == {reply.INTERNAL}


async def test_a_hop_without_transport_defers() -> None:
    async with running(Scripted()) as setup:
        await setup.deliverer.reload(Router([]), {})
        await setup.work.put(job("a@b.example"))
        await setup.work.wait(1)
        assert "no transport for mx:b.example" in setup.troubles[0]


async def test_a_fault_of_claim_is_told_and_claimed_again() -> None:
    async with running(Scripted()) as setup:
        setup.work.claim_fault = OSError("disk")
        await setup.work.put(job("a@b.example", number=1))
        await setup.work.put(job("a@b.example", number=2))
        await setup.work.wait(2)
        assert not setup.work.released


async def test_a_settlement_that_fails_is_repeated_and_nothing_is_delivered_twice() -> None:
    async with running(Scripted()) as setup:
        setup.work.settle_faults = [OSError("ENOSPC")] * 3
        await setup.work.put(job("a@b.example"))
        await setup.work.wait(1)
        assert len(setup.transport.seen) == 1
        assert len([detail for detail in setup.troubles if "ENOSPC" in detail]) == 3


async def test_one_job_to_many_hops_is_split_and_settled_share_by_share() -> None:
    async with running(Scripted()) as setup:
        await setup.work.put(job("a@x.example", "b@y.example", "c@x.example"))
        await setup.work.wait(3)
        seen = {str(hop): [str(due.address) for due in one.recipients] for one, hop in setup.transport.seen}
        assert seen == {"mx:x.example": ["a@x.example", "c@x.example"], "mx:y.example": ["b@y.example"]}


async def test_lanes_start_few_and_grow_to_the_limit() -> None:
    transport = Scripted()
    transport.gate = asyncio.Event()
    async with running(transport, concurrency=8) as setup:
        await setup.work.put(*(job("a@b.example", number=number) for number in range(1, 100)))
        await transport.attempts(shaping.START)
        assert transport.running == shaping.START
        transport.gate.set()
        await setup.work.wait(99)
        assert transport.most <= 8


async def test_lanes_of_all_sites_together_are_limited() -> None:
    transport = Scripted()
    transport.gate = asyncio.Event()
    async with running(transport, connections=3) as setup:
        await setup.work.put(*(job(f"a@b{number}.example", number=number) for number in range(1, 20)))
        await transport.attempts(3)
        transport.gate.set()
        await setup.work.wait(19)
        assert transport.most == 3


async def test_a_busy_site_makes_room_for_one_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One lane for all: a site with much mail must not keep it until its queue is empty."""
    monkeypatch.setattr(worker, "TURN", 5)
    async with running(Scripted(), connections=1) as setup:
        await setup.work.put(*(job("a@big.example", number=number) for number in range(1, 200)))
        await setup.work.put(job("a@small.example", number=500))
        await setup.work.wait(200)
        order = [str(hop) for _, hop in setup.transport.seen]
        assert order.index("mx:small.example") < 150


async def test_no_more_jobs_are_claimed_than_the_backlog_holds() -> None:
    transport = Scripted()
    transport.gate = asyncio.Event()
    async with running(transport, backlog=10) as setup:
        await setup.work.put(*(job("a@b.example", number=number) for number in range(1, 50)))
        await transport.attempts(shaping.START)
        assert setup.deliverer.in_flight == 10
        assert setup.work.claimed == 10
        transport.gate.set()
        await setup.work.wait(49)


async def test_an_attempt_that_takes_too_long_as_a_whole_is_ended() -> None:
    transport = Scripted()
    transport.gate = asyncio.Event()
    async with running(transport, attempt_timeout="50ms") as setup:
        await setup.work.put(job("a@b.example"))
        await setup.work.wait(1)
        (outcome,) = setup.work.outcomes.values()
        assert outcome.reply is reply.HOST_TIMEOUT


async def test_a_share_that_waits_too_long_goes_back_before_the_queue_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "WAIT_MAX", 0.05)
    monkeypatch.setattr(worker, "SWEEP", 0.01)
    transport = Scripted()
    transport.gate = asyncio.Event()
    async with running(transport) as setup:
        await setup.work.put(*(job("a@b.example", number=number) for number in range(1, 11)))
        await setup.work.wait(10 - shaping.START)
        assert all(isinstance(outcome, Deferred) and not outcome.counted for outcome in setup.work.outcomes.values())


async def test_reload_changes_routes_and_closes_the_old_transports() -> None:
    old, new = Scripted(), Scripted()
    async with running(old) as setup:
        await setup.work.put(job("a@b.example", number=1))
        await setup.work.wait(1)
        router = Router([RouteOptions(domains=["*"], to="mx:other.example")])
        await setup.deliverer.reload(router, {"mx": new}, DeliveryOptions(concurrency=1))
        await setup.work.put(job("a@b.example", number=2))
        await setup.work.wait(2)
        assert old.closed == 1
        assert [str(hop) for _, hop in new.seen] == ["mx:other.example"]
        assert setup.deliverer._shaping.site(NextHop(kind="mx", target="third.example")).limit == 1
    assert new.closed == 1


async def test_jobs_that_come_just_as_we_stop_are_given_back() -> None:
    class Late(FakeWork):
        """Answers a claim although it was cancelled."""

        async def claim(self, limit: int) -> Sequence[Job]:
            claiming.set()
            try:
                return await FakeWork.claim(self, limit)
            except asyncio.CancelledError:
                return [job("a@b.example")]

    claiming = asyncio.Event()
    setup = Setup(Scripted())
    late = Late()
    setup.deliverer._work = late
    task = asyncio.create_task(setup.deliverer.run())
    await claiming.wait()
    await asyncio.sleep(0)
    await setup.deliverer.stop(0)
    await task
    assert late.released == [job("a@b.example").id]


@pytest.mark.parametrize("where", ["claim", "release"])
async def test_a_fault_of_the_queue_just_as_we_stop_does_not_keep_us_from_stopping(where: str) -> None:
    class Broken(FakeWork):
        """Answers the cancellation of a claim with a fault, then or when the job is given back."""

        async def claim(self, limit: int) -> Sequence[Job]:
            claiming.set()
            try:
                return await FakeWork.claim(self, limit)
            except asyncio.CancelledError:
                if tried:
                    raise
                if where == "claim":
                    tried.append("claim")
                    raise OSError("disk") from None
                return [job("a@b.example", number=1), job("a@b.example", number=2)]

        async def release(self, one: Job) -> None:
            tried.append(one.id)
            raise OSError("disk")

    claiming, tried = asyncio.Event(), list[str]()  # what was tried and failed
    setup = Setup(Scripted())
    setup.deliverer._work = Broken()
    task = asyncio.create_task(setup.deliverer.run())
    await claiming.wait()
    await asyncio.sleep(0)
    stopping = asyncio.create_task(setup.deliverer.stop(0))
    done, _ = await asyncio.wait({stopping, task}, timeout=20)
    setup.deliverer._stopped.set()  # else a failure of this test would hang what tidies up behind it
    assert done == {stopping, task}
    assert all("OSError: disk" in detail for detail in setup.troubles)
    assert len(setup.troubles) == len(tried) == (1 if where == "claim" else 2)  # each job is given back for itself
