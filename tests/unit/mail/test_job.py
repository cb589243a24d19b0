# SPDX-License-Identifier: Apache-2.0
"""Queue ids: they sort by time, look like nothing else, and let nothing else in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mail.job import NextHop, make_queue_id, parse_queue_id

numbers = st.integers(0, (1 << 55) - 1)
bits = st.integers(0, (1 << 25) - 1)


@given(numbers, bits, numbers, bits)
def test_ids_sort_as_their_times_do_and_differ_as_their_parts_do(one: int, luck: int, two: int, other: int) -> None:
    first, second = make_queue_id(one, luck), make_queue_id(two, other)
    assert (first < second) == ((one, luck) < (two, other))
    assert parse_queue_id(first) == first
    assert len(first) == 16


def test_parts_that_are_too_large_are_cut_and_not_spilled() -> None:
    assert make_queue_id(1 << 55, 1 << 25) == make_queue_id(0, 0) == "0" * 16


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 15,
        "0" * 17,
        "../../etc/passwd",
        "0000000000000000\n",
        "000000000000000i",
        "000000000000000U",
        "00000000\x0000000000",
        "٠" * 16,
    ],
)
def test_what_is_no_id_is_none(text: str) -> None:
    assert parse_queue_id(text) is None


def test_a_hop_reads_as_its_route() -> None:
    assert str(NextHop(kind="smtp", target="127.0.0.1:2626")) == "smtp:127.0.0.1:2626"
