# SPDX-License-Identifier: Apache-2.0
"""One run of one filter: whatever it does, a verdict comes out and no mail passes unjudged in silence (RULES of faults 44)."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from gateway.filters.breaker import Breaker
from gateway.filters.deadline import Late, within
from gateway.filters.runner import RESTING
from gateway.mail import reply
from gateway.mail.envelope import Transaction
from gateway.mail.verdict import ACCEPT, Action, Phase, Symbol, Verdict
from tests.unit.filters.kit import Puppet, bench, enforced, hang, says, shadowed, transaction


async def cancelled_inside(phase: Phase, tx: Transaction) -> Verdict:
    """A future that somebody else has cancelled, such as one shared by several lookups."""
    future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.cancel)
    return await future


async def nonsense(phase: Phase, tx: Transaction) -> Any:
    return None


async def deep(phase: Phase, tx: Transaction) -> Verdict:
    return await deep(phase, tx)


FAULTS = {
    "crash": (Puppet(ZeroDivisionError("one\r\ntwo")), "ZeroDivisionError: one??two at kit.py:"),
    "hang": (Puppet(hang), "no verdict within 0.01 s"),
    "own timeout": (Puppet(TimeoutError("socket")), "TimeoutError: socket"),
    "cancelled inside": (Puppet(cancelled_inside), "CancelledError"),
    "nonsense": (Puppet(nonsense), "BadVerdict: returned NoneType, not a verdict"),
    "recursion": (Puppet(deep), "RecursionError"),
    "refusal without reply": (Puppet(Verdict(Action.REJECT)), "BadVerdict: reject without a negative reply"),
    "refusal with 250": (Puppet(Verdict(Action.DEFER, reply.OK)), "BadVerdict: defer without a negative reply"),
    "not a number": (Puppet(says(Action.ACCEPT, Symbol("X", float("nan")))), "BadVerdict: a score that is not a number"),
    "endless": (Puppet(says(Action.ACCEPT, Symbol("X", float("-inf")))), "BadVerdict: a score that is not a number"),
}


@pytest.mark.parametrize(("puppet", "fault"), FAULTS.values(), ids=FAULTS.keys())
async def test_fault_defers_the_mail(puppet: Puppet, fault: str):
    made, tx = bench(enforced(puppet, timeout=0.01)), transaction()
    verdict = await made.decide(tx)
    assert (verdict.action, verdict.reply, verdict.rule) == (Action.DEFER, reply.FILTER_FAULT, "puppet.fault")
    assert fault in tx.findings[0].fault
    assert [(trouble.area, trouble.id, trouble.session) for trouble in made.events.troubles] == [("filter.puppet", tx.id, "s1")]
    assert "\n" not in made.events.troubles[0].detail


@pytest.mark.parametrize("puppet", [puppet for puppet, _ in FAULTS.values()], ids=FAULTS.keys())
async def test_fault_that_may_be_skipped_leaves_a_mark_and_the_next_filter_runs(puppet: Puppet):
    later, tx = Puppet(name="later"), transaction()
    made = bench(enforced(puppet, timeout=0.01, on_error="skip"), later)
    verdict = await made.decide(tx)
    assert (verdict.action, verdict.symbols) == (Action.ACCEPT, (Symbol("PUPPET_SKIPPED"),))
    assert later.runs == 1
    assert tx.findings[0].fault
    assert len(made.events.troubles) == 1


async def test_fault_in_shadow_mode_is_told_and_changes_nothing():
    made, tx = bench(shadowed(Puppet(ValueError()))), transaction()
    assert await made.decide(tx) is ACCEPT
    assert tx.findings[0].fault
    assert len(made.events.troubles) == 1


async def test_cancellation_from_outside_is_not_a_fault():
    started = asyncio.Event()

    async def wait(phase: Phase, tx: Transaction) -> Verdict:
        started.set()
        return await hang(phase, tx)

    made = bench(Puppet(wait))
    task = asyncio.create_task(made.decide())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made.events.all == []


async def test_deadline_lets_the_filter_give_back_what_it_holds():
    closed = asyncio.Event()

    async def tidy(phase: Phase, tx: Transaction) -> Verdict:
        try:
            return await hang(phase, tx)
        finally:
            closed.set()

    await bench(enforced(Puppet(tidy), timeout=0.01)).decide()
    assert closed.is_set()


# --- the circuit breaker


async def test_filter_that_fails_ten_times_is_left_alone_and_told_once():
    puppet = Puppet(ValueError("down"))
    made = bench(puppet)
    for _ in range(10):
        await made.decide()
    assert puppet.runs == 10
    assert "10 faults in a row, now at rest for 30s" in made.events.troubles[-1].detail
    tx = transaction()
    for _ in range(20):
        verdict = await made.decide(tx)
        assert (verdict.action, verdict.reply) == (Action.DEFER, reply.FILTER_FAULT)
    assert puppet.runs == len(made.events.troubles) == 10
    assert tx.findings[0].fault == RESTING


async def test_success_in_between_starts_the_count_again():
    puppet = Puppet()
    made = bench(puppet, breaker_faults=3)
    for does in [ValueError(), ValueError(), ACCEPT] * 5:
        puppet.does = does
        await made.decide()
    assert puppet.runs == 15


async def test_one_probe_after_the_rest_and_its_success_closes():
    puppet = Puppet(ValueError("down"))
    made = bench(puppet, breaker_faults=1)
    await made.decide()
    await made.clock.advance(30)
    go, probing = asyncio.Event(), asyncio.Event()

    async def slowly(phase: Phase, tx: Transaction) -> Verdict:
        probing.set()
        await go.wait()
        return ACCEPT

    puppet.does = slowly
    probe = asyncio.create_task(made.decide())
    await probing.wait()
    assert (await made.decide()).action is Action.DEFER  # nobody else runs meanwhile
    go.set()
    assert await probe is ACCEPT
    assert await made.decide() is ACCEPT
    assert puppet.runs == 3


async def test_failed_probe_lengthens_the_rest():
    puppet = Puppet(ValueError("down"))
    made = bench(puppet, breaker_faults=1)
    await made.decide()
    await made.clock.advance(30)
    await made.decide()
    await made.clock.advance(29)
    await made.decide()
    assert puppet.runs == 2
    await made.clock.advance(1)
    await made.decide()
    assert puppet.runs == 3
    assert sum("at rest" in trouble.detail for trouble in made.events.troubles) == 1


async def test_cancelled_probe_does_not_leave_the_filter_at_rest_for_ever():
    puppet = Puppet(ValueError("down"))
    made = bench(puppet, breaker_faults=1)
    await made.decide()
    await made.clock.advance(30)
    started = asyncio.Event()

    async def wait(phase: Phase, tx: Transaction) -> Verdict:
        started.set()
        return await hang(phase, tx)

    puppet.does = wait
    probe = asyncio.create_task(made.decide())
    await started.wait()
    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)
    puppet.does = ACCEPT
    assert await made.decide() is ACCEPT


async def test_breaker_of_one_filter_leaves_others_alone():
    sick, well = Puppet(ValueError(), name="sick"), Puppet(name="well")
    made = bench(enforced(sick, on_error="skip"), well, breaker_faults=1)
    for _ in range(5):
        await made.decide()
    assert (sick.runs, well.runs) == (1, 5)


async def test_time_used_up_by_others_does_not_count_against_a_filter():
    puppet = Puppet(hang)
    made = bench(enforced(puppet, timeout=5.0), breaker_faults=1, deadline="10ms")
    await made.decide()
    await made.decide()
    assert puppet.runs == 2


def test_breaker_opens_once():
    breaker = Breaker(2, 30.0)
    assert [breaker.failed(0.0), breaker.failed(1.0), breaker.failed(2.0)] == [False, True, False]
    assert not breaker.admits(31.9)
    assert breaker.admits(32.0)
    assert not breaker.admits(33.0)  # the probe is out
    breaker.succeeded()
    assert breaker.admits(33.0)


# --- the deadline


async def run_within(seconds: float, work: Coroutine[Any, Any, Any]) -> Any:
    """As the runner does it."""
    try:
        waits_for = work.send(None)
    except StopIteration as done:
        return done.value
    return await within(seconds, work, waits_for)


async def test_within_gives_results_exceptions_and_values_sent_through():
    async def at_once() -> int:
        return 1

    async def after_waits() -> int:
        for _ in range(3):
            await asyncio.sleep(0)
        got = await asyncio.get_running_loop().run_in_executor(None, lambda: 7)
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
        return got

    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("x")

    async def catches_inner_timeout() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "caught"
        return "missed"

    assert await run_within(1e6, at_once()) == 1
    assert await run_within(1e6, after_waits()) == 7
    assert await run_within(1e6, catches_inner_timeout()) == "caught"
    with pytest.raises(KeyError):
        await run_within(1e6, fails())


async def test_within_is_late_only_for_its_own_deadline():
    async def own() -> None:
        await asyncio.sleep(0)
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine") as caught:
        await run_within(1e6, own())
    assert not isinstance(caught.value, Late)
    with pytest.raises(Late):
        await run_within(0.01, asyncio.Event().wait())


async def test_within_lets_the_work_answer_to_its_cancellation():
    async def stubborn() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise
        return ""

    with pytest.raises(Late):
        await run_within(0.01, stubborn())
