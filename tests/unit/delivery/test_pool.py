# SPDX-License-Identifier: Apache-2.0
"""Kept sessions: which one is given out, which are closed."""

from typing import Any, cast

from gateway.delivery.options import DeliveryOptions
from gateway.delivery.pool import Pool
from gateway.delivery.smtp_session import Session
from tests.support.clock import FakeClock


class Stub:
    """What the pool needs of a session."""

    def __init__(self, used: int = 1) -> None:
        self.used, self.usable, self.quits = used, True, 0

    def quit(self) -> None:
        self.quits += 1


def make(clock: FakeClock | None = None, **options: Any) -> Pool:
    return Pool(DeliveryOptions.model_validate(options), clock or FakeClock())


def put(pool: Pool, hop: str, stub: Stub) -> Stub:
    pool.take(hop)
    pool.give(hop, cast(Session, stub))
    return stub


async def test_the_newest_is_given_out_first() -> None:
    pool = make()
    pool.take("a")
    pool.take("a")
    old, new = Stub(), Stub()
    pool.give("a", cast(Session, old))
    pool.give("a", cast(Session, new))
    assert pool.take("a") is cast(Session, new)
    assert pool.take("a") is cast(Session, old)
    assert pool.take("a") is None
    pool.close()


async def test_a_session_belongs_to_its_hop() -> None:
    pool = make()
    put(pool, "a", Stub())
    assert pool.take("b") is None
    pool.close()


async def test_a_dead_one_is_not_given_out() -> None:
    pool = make()
    stub = put(pool, "a", Stub())
    stub.usable = False
    assert pool.take("a") is None
    assert len(pool) == 0
    pool.close()


async def test_a_used_up_or_dead_one_is_not_kept() -> None:
    pool = make(messages_per_connection=5)
    worn = put(pool, "a", Stub(used=5))
    dead = Stub()
    dead.usable = False
    put(pool, "a", dead)
    assert (len(pool), worn.quits, dead.quits) == (0, 1, 1)


async def test_idle_ones_are_closed_in_their_turn() -> None:
    clock = FakeClock()
    pool = make(clock, idle="10s")
    pool.take("a"), pool.take("b")
    first, second = Stub(), Stub()
    pool.give("a", cast(Session, first))
    await clock.advance(6)
    pool.give("b", cast(Session, second))
    await clock.advance(5)
    pool.expire()
    assert (first.quits, second.quits) == (1, 0)
    await clock.advance(5)
    pool.expire()
    assert second.quits == 1
    pool.close()


async def test_the_oldest_idle_one_makes_room() -> None:
    pool = make(connections=2)
    pool.take("a"), pool.take("b")
    first, second = Stub(), Stub()
    pool.give("a", cast(Session, first))
    pool.give("b", cast(Session, second))
    assert pool.take("c") is None
    assert (first.quits, second.quits) == (1, 0)
    assert pool.take("d") is None
    assert second.quits == 1


async def test_closing_takes_the_idle_now_and_the_busy_later() -> None:
    pool = make()
    idle = put(pool, "a", Stub())
    pool.take("b")
    pool.close()
    assert idle.quits == 1
    busy = Stub()
    pool.give("b", cast(Session, busy))
    assert busy.quits == 1
    assert len(pool) == 0
