# SPDX-License-Identifier: Apache-2.0
"""A slow or dead destination holds its own lanes, and nothing else."""

import pytest

from gateway.delivery import shaping, worker
from gateway.mail.job import Deferred
from tests.support.delivering import delivering
from tests.support.fakework import job
from tests.support.sink import Sink


async def test_a_hanging_site_does_not_stop_others() -> None:
    async with Sink(behaviours={"hang-in-rcpt"}) as slow, Sink() as good:
        routes = {"slow.example": f"smtp://{slow.address}", "good.example": f"smtp://{good.address}"}
        async with delivering(routes) as rig:
            await rig.work.put(*(job("bob@slow.example", number=number) for number in range(1, 40)))
            await slow.wait_hung(shaping.START)
            await rig.work.put(*(job("bob@good.example", number=number) for number in range(100, 150)))
            await rig.work.wait(50)
            assert rig.tally() == {"delivered": 50, "deferred": 0, "bounced": 0}
            assert slow.connections == shaping.START  # nothing is known about it, so it gets few lanes


async def test_a_hanging_site_gives_up_its_place_when_the_backlog_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty jobs for a dead site fill the backlog; the others behind them in the queue are delivered all the same."""
    monkeypatch.setattr(shaping, "STUCK", 0.05)
    monkeypatch.setattr(worker, "RELIEF", 0.02)
    async with Sink(behaviours={"hang-in-greeting"}) as slow, Sink() as good:
        routes = {"slow.example": f"smtp://{slow.address}", "good.example": f"smtp://{good.address}"}
        async with delivering(routes, backlog=20) as rig:
            await rig.work.put(*(job("bob@slow.example", number=number) for number in range(1, 60)))
            await rig.work.put(*(job("bob@good.example", number=number) for number in range(100, 110)))
            await good.wait(10)
            uncounted = [outcome for outcome in rig.work.outcomes.values() if isinstance(outcome, Deferred)]
            assert uncounted
            assert not any(outcome.counted for outcome in uncounted)


async def test_more_dead_sites_than_connections_do_not_stop_the_good_one() -> None:
    async with Sink() as good, Sink() as dead:
        await dead.stop()
        routes = {f"d{number}.example": f"smtp://{dead.address}" for number in range(1, 30)} | {
            "good.example": f"smtp://{good.address}"
        }
        async with delivering(routes, connections=3) as rig:
            await rig.work.put(*(job(f"bob@d{number % 29 + 1}.example", number=number) for number in range(1, 100)))
            await rig.work.put(job("bob@good.example", number=200))
            await rig.work.wait(100)
            assert rig.tally() == {"delivered": 1, "deferred": 99, "bounced": 0}


async def test_one_attempt_is_made_for_all_that_wait_for_a_dead_host() -> None:
    """Each of a hundred messages has its counted attempt, but the host is not asked a hundred times."""
    async with Sink(behaviours={"drop-at-connect"}) as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await rig.work.put(*(job("bob@dest.example", number=number) for number in range(1, 101)))
        await rig.work.wait(100)
        assert rig.tally() == {"delivered": 0, "deferred": 100, "bounced": 0}
        assert sink.connections <= shaping.START * (shaping.AGAIN_MAX + 1)
        outcomes = list(rig.work.outcomes.values())
        assert all(isinstance(outcome, Deferred) and outcome.counted for outcome in outcomes)
        assert {outcome.reply.enhanced for outcome in outcomes} == {"4.4.1"}


async def test_a_host_that_comes_back_gets_its_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "REST", 0.0)
    async with Sink() as sink:
        await sink.stop()
        async with delivering({"*": f"smtp://{sink.address}"}) as rig:
            await rig.work.put(job("bob@dest.example", number=1))
            await rig.work.wait(1)
            await sink.start()
            await rig.work.put(*(job("bob@dest.example", number=number) for number in range(2, 30)))
            await rig.work.wait(29)
            assert rig.tally() == {"delivered": 28, "deferred": 1, "bounced": 0}


async def test_what_comes_while_a_dead_host_rests_is_not_tried_and_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "REST", 3600.0)
    async with Sink() as sink:
        await sink.stop()
        async with delivering({"*": f"smtp://{sink.address}"}) as rig:
            await rig.work.put(job("bob@dest.example", number=1))
            await rig.work.wait(1)
            await rig.work.put(job("bob@dest.example", number=2))
            await rig.work.wait(2)
            first, second = (rig.work.outcomes[key] for key in sorted(rig.work.outcomes))
            assert isinstance(first, Deferred)
            assert isinstance(second, Deferred)
            assert (first.counted, second.counted) == (True, False)
            assert "refused" in second.reply.text


async def test_recipients_of_one_job_take_their_own_ways() -> None:
    async with Sink() as first, Sink(behaviours={"hang-in-data"}) as second:
        routes = {"a.example": f"smtp://{first.address}", "b.example": f"smtp://{second.address}", "c.example": "discard:"}
        async with delivering(routes) as rig:
            await rig.work.put(job("x@a.example", "y@b.example", "z@a.example", "w@c.example"))
            await rig.work.wait(3)  # settled as soon as they are known, without the one that hangs
            assert first.messages[0].recipients == ("x@a.example", "z@a.example")
            assert not second.messages
            second.resume()
            await rig.work.wait(4)
            assert rig.tally() == {"delivered": 4, "deferred": 0, "bounced": 0}
