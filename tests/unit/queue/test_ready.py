# SPDX-License-Identifier: Apache-2.0
"""The near end of the schedule: bounded, complete, in order."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.queue.ready import NEVER, Ready
from gateway.queue.rows import START, Place


def test_nothing_is_known_before_the_first_reading() -> None:
    ready = Ready()
    assert ready.horizon is START
    assert not ready.push(1.0, 1)  # it is in the database, and the reading will find it
    ready.extend([(1.0, 1)], set())
    assert ready.horizon is NEVER
    assert ready.take(10, 1.0) == [1]
    assert ready.next_due() is None


def test_a_later_due_replaces_an_earlier_one() -> None:
    ready = Ready()
    ready.extend([], set())
    ready.push(1.0, 1)
    ready.push(5.0, 1)
    ready.push(2.0, 2)
    ready.discard(2)
    assert ready.take(10, 4.0) == []
    assert ready.next_due() == 5.0
    assert ready.take(10, 5.0) == [1]


def test_what_is_in_work_is_not_read_again() -> None:
    ready = Ready()
    ready.extend([(1.0, 1), (2.0, 2)], {1})
    assert ready.take(10, 9.0) == [2]


def test_what_is_kept_is_there_wherever_the_horizon_is() -> None:
    """A message that could not be read waits a minute; its row stands before the horizon, where nobody reads again."""
    ready = Ready(limit=10)
    ready.extend([(900.0 + n, n) for n in range(5)], set())
    assert ready.take(1, 1000.0) == [0]
    ready.keep(1060.0, 0)
    assert ready.take(10, 1000.0) == [1, 2, 3, 4]
    assert ready.low
    assert ready.next_due() == 904.0  # the horizon: what stands there does not wait for what is kept
    ready.extend([(905.0, 6), (906.0, 0)], set())  # it is not doubled
    assert ready.take(10, 1000.0) == [6]
    assert ready.next_due() == 1060.0
    assert ready.take(10, 1060.0) == [0]
    assert len(ready) == 0


def test_what_is_kept_waits_no_more_if_an_operator_says_so() -> None:
    ready = Ready(limit=10)
    ready.extend([(900.0 + n, n) for n in range(5)], set())
    taken = ready.take(2, 1000.0)
    for n in taken:
        ready.keep(1060.0, n)
    ready.discard(0)
    assert not ready.push(1000.0, 1)  # its row stands behind the horizon now, and the reading finds it
    assert ready.take(10, 2000.0) == [2, 3, 4]


def test_what_is_kept_is_not_forgotten_for_lack_of_memory() -> None:
    ready = Ready(limit=8)
    ready.extend([], set())
    ready.keep(50.0, 99)
    for n in range(20):
        ready.push(float(n), n)
    assert len(ready) <= 9
    assert 99 in ready.take(20, 50.0)


def test_too_many_kept_are_read_again_from_the_start() -> None:
    ready = Ready(limit=8)
    ready.extend([], set())
    for n in range(9):
        ready.keep(50.0, n)
    assert (len(ready), ready.horizon, ready.low) == (0, START, True)


ACTS = ["add", "take", "retry", "settle", "keep"]


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(ACTS)), max_size=200))
def test_with_little_memory_nothing_is_lost_doubled_or_out_of_order(acts: list[tuple[int, str]]) -> None:
    """Invariant: a bounded `Ready` beside a complete table gives what the table alone would give.

    Only of those that wait for another moment than the table says it is not said when they come, just that they do.
    """
    ready, table, busy, kept = Ready(limit=8), dict[int, float](), set[int](), set[int]()

    def take(limit: int, now: float) -> list[int]:
        while ready.low:
            places: list[Place] = sorted((due, n) for n, due in table.items() if (due, n) >= ready.horizon)
            ready.extend(places[: ready.room], busy)
        return ready.take(limit, now)

    for number, (due, act) in enumerate(acts):
        if act == "add":
            table[number] = due
            ready.push(due, number)
        elif act == "take":
            free = sorted((when, n) for n, when in table.items() if n not in busy and when <= due)
            taken = take(1, due)
            assert kept or taken == [n for _, n in free[:1]]
            assert not busy & set(taken)
            busy.update(taken)
            kept.difference_update(taken)
        elif act == "retry":
            for n in sorted(set(table) - busy)[:1]:
                table[n] = due
                ready.push(due, n)
                kept.discard(n)
        elif act == "keep":
            for n in sorted(busy)[:1]:
                busy.discard(n)
                ready.keep(due, n)
                kept.add(n)
        else:
            for n in sorted(busy)[:1]:
                busy.discard(n)
                table[n] = due
                ready.push(due, n)
        assert len(ready) <= 8 + ready.room + 8
    rest = sorted((when, n) for n, when in table.items() if n not in busy)
    got: list[int] = []
    while taken := take(3, 100):
        busy.update(taken)
        got += taken
    assert sorted(got) == sorted(n for _, n in rest)
    assert kept or got == [n for _, n in rest]
