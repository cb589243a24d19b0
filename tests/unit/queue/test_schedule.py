# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of retries, and the queue's own time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.queue.options import QueueOptions
from gateway.queue.schedule import JITTER, longest_wait, next_due, soon
from gateway.queue.steady import SteadyTime
from tests.support.clock import FakeClock

DEFAULT = QueueOptions()
DAY = 86400.0
times = st.floats(0, 4e9)


@given(now=times, created=times, attempts=st.integers(0, 10_000), random=st.floats(0, 1))
def test_the_next_try_is_later_than_now_within_bounds_and_never_after_expiry(
    now: float, created: float, attempts: int, random: float
) -> None:
    due = next_due(now, attempts, created, DEFAULT, random)
    age = max(0.0, now - created)
    assert (due is None) == (min(created, now) + DEFAULT.expire <= now)
    if due is not None:
        assert now < due <= now + longest_wait(DEFAULT)
        assert due <= now - age + DEFAULT.expire + 1e-3
        assert due >= min(now + 60 * (1 - JITTER), now - age + DEFAULT.expire) - 1e-3
        later = next_due(now, attempts + 1, created, DEFAULT, random)
        assert later is not None
        assert later >= due  # with the same luck, more tries never mean a shorter wait
        postponed = soon(now, created, DEFAULT, random)
        assert postponed is not None
        assert now < postponed <= now + 66


def test_the_last_wait_repeats() -> None:
    options = QueueOptions(retry=["1s", "10s"])
    assert [next_due(0, attempts, 0, options, 0.5) for attempts in (1, 2, 3, 99)] == [1, 10, 10, 10]


def test_jitter_is_a_tenth_either_way() -> None:
    assert [next_due(0, 1, 0, DEFAULT, luck) for luck in (0, 0.5, 1)] == pytest.approx([54, 60, 66])


@pytest.mark.parametrize("bad", [{"retry": []}, {"expire": "0s"}, {"retry": ["soon"]}, {"retries": ["1m"]}])
def test_options_that_make_no_sense_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        QueueOptions.model_validate(bad)


async def test_steady_time_follows_a_slewed_clock_and_not_a_set_one() -> None:
    clock, jumps = FakeClock(1000.0), list[float]()
    steady = SteadyTime(clock, jumps.append)
    await clock.advance(10)
    clock.jump(3)  # slewed
    assert steady.now() == 1013
    clock.jump(DAY)
    assert steady.now() == 1013
    await clock.advance(5)
    assert steady.now() == 1018
    clock.jump(-2 * DAY)
    assert steady.now() == 1018
    assert jumps == [DAY]
    clock.jump(DAY)  # the mistake is mended
    assert steady.now() == clock.now() == 1018
    clock.jump(-DAY)
    assert steady.now() == 1018
    assert jumps == [DAY, -DAY]
