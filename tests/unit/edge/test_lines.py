# SPDX-License-Identifier: Apache-2.0
"""Command lines, without a socket."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.lines import ENDLESS, LINE_MAX, CommandReader, LineFault


def lines(*pieces: bytes) -> list[bytes | LineFault]:
    """What comes out; reading stops at what ends a session."""
    reader, found = CommandReader(), list[bytes | LineFault]()
    for piece in pieces:
        reader.feed(piece)
        while (line := reader.next()) is not None:
            found.append(line)
            if line in (LineFault.ENDLESS, LineFault.TLS):
                return found
    return found


def test_lines_end_in_crlf() -> None:
    assert lines(b"NOOP\r\nRSET\r\n\r\nQUIT") == [b"NOOP", b"RSET", b""]


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"NOOP\nRSET", LineFault.BARE),
        (b"NOOP\rRSET", LineFault.BARE),
        (b"NOOP\r", LineFault.BARE),
        (b"\n", LineFault.BARE),
        (b"NO\x00OP", LineFault.CONTROL),
        (b"NO\tOP", LineFault.CONTROL),
        (b"NO\x1bOP", LineFault.CONTROL),
        (b"NO\x7fOP", LineFault.CONTROL),
        (b"x" * (LINE_MAX - 1), LineFault.TOO_LONG),
    ],
)
def test_a_faulty_line_gives_one_fault_and_the_next_line_is_read(raw: bytes, fault: LineFault) -> None:
    assert lines(raw + b"\r\nNOOP\r\n") == [fault, b"NOOP"]


def test_the_longest_line_passes() -> None:
    line = b"x" * (LINE_MAX - 2)
    assert lines(line + b"\r\n") == [line]


def test_utf8_passes() -> None:
    assert lines("RCPT TO:<bücher@x>\r\n".encode()) == ["RCPT TO:<bücher@x>".encode()]


def test_an_endless_line_is_given_up() -> None:
    assert lines(b"x" * (ENDLESS + 1)) == [LineFault.ENDLESS]
    assert lines(b"x" * (ENDLESS - 2) + b"\r\n") == [LineFault.TOO_LONG]


def test_a_tls_record_is_no_command() -> None:
    assert lines(b"\x16\x03\x01") == [LineFault.TLS]
    assert lines(b"NOOP\r\n\x16") == [b"NOOP", LineFault.TLS]


def test_a_line_that_seems_complete_with_a_bare_lf_is_known() -> None:
    reader = CommandReader()
    reader.feed(b"NOOP\n")
    assert reader.next() is None
    assert reader.ends_bare
    reader.feed(b"\r")
    assert not reader.ends_bare


def test_take_gives_what_was_not_read() -> None:
    reader = CommandReader()
    reader.feed(b"DATA\r\nSubject: x\r\n")
    assert reader.next() == b"DATA"
    assert reader.take() == b"Subject: x\r\n"
    assert len(reader) == 0


@given(
    st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"NOOP", b"x" * 1000, b"x" * 30000, b"\x00", b"\x16"]), max_size=12),
    st.integers(1, 999),
)
def test_the_lines_do_not_depend_on_the_cuts(parts: list[bytes], size: int) -> None:
    raw = b"".join(parts)
    cut = [raw[at : at + size] for at in range(0, len(raw), size)]
    assert lines(*cut) == lines(raw)


@pytest.mark.parametrize("piece", [b"x" * 4096, b"\n" * 4096, b"\r" * 4096, b"\x00" * 4096])
def test_fifty_megabytes_without_line_end_keep_the_buffer_small(piece: bytes) -> None:
    """Even if the session went on reading after the fault."""
    reader = CommandReader()
    tracemalloc.start()
    try:
        for _ in range(ENDLESS // 4096):
            reader.feed(piece)
            assert reader.next() is None
            assert len(reader) <= LINE_MAX + 1
        reader.feed(piece)
        assert reader.next() is LineFault.ENDLESS
        assert tracemalloc.get_traced_memory()[1] < 1 << 18
    finally:
        tracemalloc.stop()
