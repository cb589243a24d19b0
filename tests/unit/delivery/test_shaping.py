# SPDX-License-Identifier: Apache-2.0
"""Lanes, rests and shared fates, as arithmetic."""

from dataclasses import replace

import pytest

from gateway.delivery import shaping
from gateway.delivery.shaping import Shaping, Share, Site, Ticket
from gateway.mail import reply
from gateway.mail.job import Deferred, Delivered, Failed, NextHop, Outcome
from gateway.mail.reply import Reply
from tests.support.clock import FakeClock
from tests.support.fakework import job

HOP = NextHop(kind="mx", target="dest.example")
DOWN = Deferred(reply=reply.HOST_UNREACHABLE.but("Connection refused"), hop="mx.dest.example[192.0.2.1]:25")
FULL = Deferred(reply=Reply(421, "too many connections", (7, 0)), remote=True)
OK = Delivered(reply=reply.OK, remote=True)


def share(number: int = 1, again: int = 0) -> Share:
    one = job("a@dest.example", number=number)
    return Share(one, HOP, Ticket(one, 1), 1000.0, again)


def site_with(active: int, clock: FakeClock, limit: int = 5) -> tuple[Shaping, Site]:
    shapes = Shaping(20, clock)
    site = shapes.site(HOP)
    site.active, site.limit = active, limit
    return shapes, site


def test_a_new_site_starts_with_few_lanes_and_wins_one_with_each_success() -> None:
    clock = FakeClock()
    shapes, site = site_with(5, clock)
    assert site.limit == shaping.START
    for _ in range(100):
        shapes.report(site, share(), 1000.0, [OK])
    assert site.limit == 20


def test_a_small_concurrency_holds_from_the_start() -> None:
    assert Shaping(2, FakeClock()).site(HOP).limit == 2


@pytest.mark.parametrize(
    "outcome",
    [
        Failed(reply=Reply(550, "no"), remote=True),
        Deferred(reply=Reply(451, "later"), remote=True),
        Delivered(reply=reply.DELIVERED_LOCALLY),
    ],
)
def test_a_host_that_answers_is_not_down_whatever_it_says(outcome: Outcome) -> None:
    shapes, site = site_with(1, FakeClock())
    assert shapes.report(site, share(), 1000.0, [outcome]).fate is None
    assert shapes.resting(site) is None


async def test_the_last_lane_that_finds_it_down_decides_for_all_that_wait() -> None:
    clock = FakeClock()
    shapes, site = site_with(2, clock)
    first = shapes.report(site, share(), 1000.0, [DOWN])
    assert (first.again, first.fate) == (True, None)  # another lane is still at it
    site.active = 1
    last = shapes.report(site, share(), 1000.0, [DOWN])
    assert last.fate is not None
    assert last.fate.reply == DOWN.reply
    assert last.fate.counted
    assert site.limit == 1


async def test_a_rest_is_short_and_ends() -> None:
    clock = FakeClock()
    shapes, site = site_with(1, clock)
    shapes.report(site, share(), 1000.0, [DOWN])
    resting = shapes.resting(site)
    assert resting is not None
    assert not resting.counted
    assert "Connection refused" in resting.reply.text
    await clock.advance(shaping.REST)
    assert shapes.resting(site) is None


async def test_a_success_ends_a_rest() -> None:
    shapes, site = site_with(1, FakeClock())
    shapes.report(site, share(), 1000.0, [DOWN])
    shapes.report(site, share(), 1000.0, [OK])
    assert shapes.resting(site) is None


async def test_a_site_that_worked_meanwhile_is_not_down() -> None:
    clock = FakeClock()
    shapes, site = site_with(1, clock)
    started = clock.monotonic()
    await clock.advance(1)
    shapes.report(site, share(), started, [OK])
    advice = shapes.report(site, share(), started, [DOWN])
    assert advice.fate is None
    assert shapes.resting(site) is None


@pytest.mark.parametrize("outcome", [DOWN, FULL])
async def test_a_share_that_got_no_session_goes_back_while_others_work_there(outcome: Outcome) -> None:
    clock = FakeClock()
    shapes, site = site_with(4, clock, limit=4)
    shapes.report(site, share(), 1000.0, [OK])
    advice = shapes.report(site, share(), 1000.0, [outcome])
    assert advice.again
    assert (site.limit, site.cap) == (3, 3)
    for _ in range(10):
        site.active = 3
        shapes.report(site, share(), 1000.0, [OK])
    assert site.limit == 3  # for a while no more are tried than worked
    await clock.advance(shaping.CAUTION + 1)
    shapes.report(site, share(), 1000.0, [OK])
    assert site.limit == 4


def test_a_share_does_not_go_back_for_ever() -> None:
    shapes, site = site_with(4, FakeClock())
    assert not shapes.report(site, share(again=shaping.AGAIN_MAX), 1000.0, [FULL]).again


async def test_a_site_is_stuck_when_nothing_moved_while_something_waits() -> None:
    clock = FakeClock()
    shapes, site = site_with(0, clock)
    shapes.add(share(), site)
    assert not shapes.stuck()
    await clock.advance(shaping.STUCK + 0.1)
    assert shapes.stuck() == [site]
    shapes.report(site, share(), 1000.0, [OK])
    assert not shapes.stuck()


async def test_a_site_that_was_quiet_for_long_is_not_stuck_at_its_first_share() -> None:
    clock = FakeClock()
    shapes, site = site_with(0, clock)
    await clock.advance(3600)
    shapes.add(share(), site)
    assert not shapes.stuck()


async def test_a_share_is_overdue_after_its_longest_wait() -> None:
    clock = FakeClock()
    shapes, site = site_with(0, clock)
    shapes.add(share(), site)
    await clock.advance(shaping.WAIT_MAX)
    assert not shapes.overdue()
    await clock.advance(1)
    assert shapes.overdue() == [site]


def test_quiet_sites_are_forgotten_when_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "SITES_MAX", 10)
    shapes = Shaping(20, FakeClock())
    busy = shapes.site(HOP)
    busy.active = 1
    for number in range(100):
        shapes.site(NextHop(kind="mx", target=f"d{number}.example"))
    assert len(list(shapes)) <= 11
    assert shapes.site(HOP) is busy


@pytest.mark.parametrize(
    "other", [OK, Failed(reply=Reply(550, "no"), remote=True), Deferred(reply=Reply(452, "full"), remote=True)]
)
@pytest.mark.parametrize("turn", [1, -1], ids=["first", "last"])
def test_an_outcome_that_a_host_gave_is_never_thrown_away_because_it_went_down_for_the_rest(other: Outcome, turn: int) -> None:
    """Put back unsettled, the share would be sent again to those who have it."""
    shapes, site = site_with(2, FakeClock())
    advice = shapes.report(site, share(), 1000.0, [DOWN, other][::turn])
    assert (advice.again, advice.fate) == (False, None)
    assert shapes.resting(site) is None


def test_an_attempt_that_may_have_delivered_is_settled() -> None:
    shapes, site = site_with(2, FakeClock())
    assert not shapes.report(site, share(), 1000.0, [replace(DOWN, ambiguous=True)]).again
