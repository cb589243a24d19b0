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


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["add", "take", "retry", "settle"])), max_size=200))
def test_with_little_memory_nothing_is_lost_doubled_or_out_of_order(acts: list[tuple[int, str]]) -> None:
    """Invariant: a bounded `Ready` beside a complete table gives what the table alone would give."""
    ready, table, busy = Ready(limit=8), dict[int, float](), set[int]()

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
            assert taken == [n for _, n in free[:1]]
            busy.update(taken)
        elif act == "retry":
            for n in sorted(set(table) - busy)[:1]:
                table[n] = due
                ready.push(due, n)
        else:
            for n in sorted(busy)[:1]:
                busy.discard(n)
                table[n] = due
                ready.push(due, n)
        assert len(ready) <= 8 + ready.room
    rest = sorted((when, n) for n, when in table.items() if n not in busy)
    got: list[int] = []
    while taken := take(3, 100):
        busy.update(taken)
        got += taken
    assert got == [n for _, n in rest]
