# SPDX-License-Identifier: Apache-2.0
"""Counts that several processes keep together: exact in sum, cleared for the dead, with no lock."""

import os
import random
import subprocess
import sys

import pytest

from gateway.infra.tally import CELLS, Tally, make_memory

KEYS = [number.to_bytes(4, "big") for number in range(50)]


@pytest.fixture
def memory():
    descriptor = make_memory(3)
    yield descriptor
    os.close(descriptor)


def test_all_rows_together_are_the_total(memory: int):
    rows = [Tally(memory, 3, row) for row in range(3)]
    for row in rows:
        for key in KEYS:
            row.enter(key)
    assert {row.total for row in rows} == {150}
    assert {row.elsewhere(key) for row in rows for key in KEYS} == {2}
    for key in KEYS:
        rows[1].leave(key)
    assert (rows[0].total, rows[0].elsewhere(KEYS[0]), rows[1].elsewhere(KEYS[0])) == (100, 1, 2)
    rows[2].clear(0)
    assert (rows[2].total, rows[2].elsewhere(KEYS[0]), rows[1].elsewhere(KEYS[0])) == (50, 0, 1)


def test_a_count_is_never_too_low_and_seldom_too_high(memory: int):
    one, other = Tally(memory, 3, 0), Tally(memory, 3, 1)
    chosen = random.Random(1)
    true: dict[bytes, int] = {}
    for _ in range(20_000):
        key = chosen.randbytes(4)
        true[key] = true.get(key, 0) + 1
        one.enter(key)
    over = sum(other.elsewhere(key) - number for key, number in true.items())
    assert all(other.elsewhere(key) >= number for key, number in true.items())
    assert over < 0.3 * len(true)
    for key, number in true.items():
        for _ in range(number):
            one.leave(key)
    assert other.total == 0
    assert not any(other._words[base] for base in range(other._bases[0], other._bases[0] + CELLS))


def test_the_hash_is_another_one_in_each_daemon(memory: int):
    """So that nobody can look for addresses that share the cells of somebody else."""
    second = make_memory(3)
    cells = {Tally(each, 3, 0)._cells(b"key") for each in (memory, second)}
    os.close(second)
    assert len(cells) == 2


def test_another_process_counts_along_and_nothing_is_lost_when_both_hurry(memory: int):
    code = (
        "import sys; from gateway.infra.tally import Tally; tally = Tally(int(sys.argv[1]), 3, 1);"
        "[(tally.enter(b'k'), tally.enter(b'l'), tally.leave(b'l')) for _ in range(20000)]"
    )
    ours = Tally(memory, 3, 0)
    with subprocess.Popen([sys.executable, "-c", code, str(memory)], pass_fds=[memory]) as process:
        for _ in range(20_000):
            ours.enter(b"k")
            ours.enter(b"l")
            ours.leave(b"l")
    assert process.returncode == 0
    assert ours.total == 40_000
    assert ours.elsewhere(b"k") == 20_000
    assert ours.elsewhere(b"l") == 0


def test_the_memory_lives_without_the_descriptor():
    descriptor = make_memory(1)
    tally = Tally(descriptor, 1, 0)
    os.close(descriptor)
    tally.enter(b"k")
    assert tally.total == 1
    tally.close()
