# SPDX-License-Identifier: Apache-2.0
"""Sessions are kept and used again, and a kept one that is dead costs nobody an attempt."""

import pytest

from gateway.mail.job import Delivered
from tests.support.delivering import Rig, delivering
from tests.support.fakework import job
from tests.support.sink import Sink


async def one(rig: Rig, number: int, recipient: str = "bob@dest.example") -> None:
    """One more job, until it is settled."""
    await rig.work.put(job(recipient, number=number))
    await rig.work.wait(number)


async def test_one_session_carries_many_messages() -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        for number in range(1, 11):
            await one(rig, number)
        assert sink.connections == 1
        assert rig.tally()["delivered"] == 10
        assert [line for _, line in sink.commands].count(b"EHLO mx.example.test") == 1


async def test_a_session_is_replaced_after_so_many_messages() -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}, messages_per_connection=3) as rig:
        for number in range(1, 8):
            await one(rig, number)
        assert sink.connections == 3
        assert [message.connection for message in sink.messages] == [1, 1, 1, 2, 2, 2, 3]
        assert (1, b"QUIT") in sink.commands


async def test_an_idle_session_is_closed_with_quit() -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}, idle="50ms") as rig:
        await one(rig, 1)
        await sink.until(lambda: (1, b"QUIT") in sink.commands and sink.open_connections == 0)


async def test_sessions_are_closed_with_quit_when_we_stop() -> None:
    async with Sink() as sink:
        async with delivering({"*": f"smtp://{sink.address}"}) as rig:
            await one(rig, 1)
        await sink.until(lambda: (1, b"QUIT") in sink.commands)


async def test_a_kept_session_that_was_closed_meanwhile_is_not_used() -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await one(rig, 1)
        sink.drop_all()
        await one(rig, 2)
        assert rig.tally() == {"delivered": 2, "deferred": 0, "bounced": 0}
        assert sink.connections == 2


@pytest.mark.parametrize("behaviour", ["421-at-mail", "drop-at-mail"])
@pytest.mark.parametrize("pipelining", [True, False], ids=["group", "single"])
async def test_a_kept_session_that_dies_at_mail_is_replaced_at_once(behaviour: str, pipelining: bool) -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        if not pipelining:
            sink.extensions = ()
        await one(rig, 1)
        sink.do_next(1, behaviour)
        await one(rig, 2)
        assert rig.tally() == {"delivered": 2, "deferred": 0, "bounced": 0}
        assert sink.connections == 2


async def test_a_host_that_always_says_421_to_mail_is_not_asked_for_ever() -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await one(rig, 1)
        sink.behaviours = {"421-at-mail"}
        await one(rig, 2)
        assert rig.tally() == {"delivered": 1, "deferred": 1, "bounced": 0}
        assert sink.connections == 2


async def test_after_a_refusal_the_session_is_reset_and_used_again() -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await one(rig, 1, "a+550-at-rcpt@dest.example")
        await one(rig, 2, "b+451-at-data@dest.example")
        await one(rig, 3)
        await one(rig, 4, "c+554-after-data@dest.example")
        await one(rig, 5)
        assert sink.connections == 1
        lines = [line for _, line in sink.commands]
        assert lines.count(b"RSET") == 2  # after the two transactions that did not come to their dot
        assert [type(rig.work.outcomes[key]) for key in sorted(rig.work.outcomes)][2::2] == [Delivered, Delivered]


@pytest.mark.parametrize("behaviour", ["421-at-rset", "550-at-rset", "drop-at-rset", "garbage-at-rset"])
async def test_a_reset_that_fails_costs_nobody_an_attempt(behaviour: str) -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await one(rig, 1, "a+550-at-rcpt@dest.example")
        sink.do_next(1, behaviour)
        await one(rig, 2)
        assert rig.tally() == {"delivered": 1, "deferred": 0, "bounced": 1}
        assert sink.connections == 2


async def test_a_session_with_a_reply_too_much_is_not_used_again() -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}) as rig:
        await one(rig, 1, "a+extra-at-dot@dest.example")
        await one(rig, 2)
        assert rig.tally()["delivered"] == 2
        assert sink.connections == 2


async def test_no_more_connections_than_allowed_at_one_time() -> None:
    async with Sink() as sink, delivering({"*": f"smtp://{sink.address}"}, concurrency=4) as rig:
        sink.behaviours = {"hang-in-data"}
        await rig.work.put(*(job("bob@dest.example", number=number) for number in range(20)))
        await sink.wait_hung(4)
        assert sink.open_connections == 4
        sink.behaviours = set()
        sink.resume()
        await rig.work.wait(20)
        assert sink.connections == 4


async def test_the_cap_over_all_destinations_closes_idle_sessions() -> None:
    async with Sink() as first, Sink() as second:
        routes = {"a.example": f"smtp://{first.address}", "b.example": f"smtp://{second.address}"}
        async with delivering(routes, connections=1) as rig:
            await one(rig, 1, "x@a.example")
            await one(rig, 2, "x@b.example")
            await first.until(lambda: first.open_connections == 0)
            assert second.open_connections == 1


async def test_a_host_that_takes_few_connections_gets_all_mail_over_those() -> None:
    """The 421 that others get must not defer their messages while two connections work well."""
    async with Sink(connections_max=2) as sink, delivering({"*": f"smtp://{sink.address}"}, concurrency=8) as rig:
        sink.behaviours = {"hang-in-mail"}
        await rig.work.put(*(job("bob@dest.example", number=number) for number in range(1, 60)))
        await sink.wait_hung(2)
        sink.behaviours = set()
        sink.resume()
        await rig.work.wait(59)
        assert rig.tally()["deferred"] <= 2  # a share may be unlucky often while the limit is being found out
        assert rig.tally()["bounced"] == 0
