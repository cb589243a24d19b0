# SPDX-License-Identifier: Apache-2.0
"""Durations and sizes: what people write, what they must not, and back again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mail.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0s", 0),
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("5d", 432_000),
        ("1w", 604_800),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("1h30m", 5400),
        ("1d2h3m4s5ms", 93784.005),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-1s", "1 s", "1S", "1y", "1h 30m", "1s\n", "1.s", ".5s", "1e3s", "٣s", "1s1", "9" * 13 + "s"]
)
def test_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration: write"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("0", 0),
        ("1", 1),
        ("10B", 10),
        ("64KiB", 65536),
        ("25MiB", 26_214_400),
        ("1GiB", 1 << 30),
        ("2TiB", 2 << 40),
        ("5 MB", 5_000_000),
        ("1KB", 1000),
    ],
)
def test_size(text: str, octets: int) -> None:
    assert parse_size(text) == octets


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5MiB", "1k", "1 kib", "1Mib", "1  MiB", "1MiB ", "0x10", "9" * 16, "٣"])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size: write"):
        parse_size(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (90, "90s"), (3600, "1h"), (604_800, "1w"), (0.25, "250ms"), (1.5, "1.5s")]
)
def test_duration_is_written_in_its_largest_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("octets", "text"), [(0, "0B"), (1000, "1000B"), (1536, "1536B"), (1 << 20, "1MiB"), (5 << 30, "5GiB")]
)
def test_size_is_written_in_its_largest_unit(octets: int, text: str) -> None:
    assert format_size(octets) == text


@given(st.integers(0, 10**11))
def test_a_duration_reads_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(0, 10**15 - 1))
def test_a_size_reads_back(octets: int) -> None:
    assert parse_size(format_size(octets)) == octets
