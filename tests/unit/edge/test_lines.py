# SPDX-License-Identifier: Apache-2.0
"""Command lines, without a socket."""

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.edge.lines import ENDLESS, LINE_MAX, CommandReader, LineFault
from gateway.edge.proxy import SIGNATURE


def lines(*pieces: bytes) -> list[bytes | LineFault]:
    """What comes out; reading stops at what ends a session."""
    reader, found = CommandReader(), list[bytes | LineFault]()
    for piece in pieces:
        reader.feed(piece)
        while (line := reader.next()) is not None:
            found.append(line)
            if line in (LineFault.ENDLESS, LineFault.TLS, LineFault.PROXY):
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
        (b"BDAT 5\nRSET", LineFault.CHUNK),
        (b"BDAT 5 LAST\r", LineFault.CHUNK),
        (b"bdat 5\tLAST", LineFault.CHUNK),
        (b"BDAT " + b"0" * LINE_MAX, LineFault.CHUNK),
    ],
)
def test_a_faulty_line_gives_one_fault_and_the_next_line_is_read(raw: bytes, fault: LineFault) -> None:
    assert lines(raw + b"\r\nNOOP\r\n") == [fault, b"NOOP"]
    assert lines(*(bytes([octet]) for octet in raw + b"\r\nNOOP\r\n")) == [fault, b"NOOP"]


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


def test_a_binary_proxy_header_is_known_at_the_beginning_and_nowhere_else() -> None:
    assert lines(SIGNATURE + b"\x21\x11\0\x0c") == [LineFault.PROXY]
    assert lines(*(SIGNATURE[at : at + 1] for at in range(len(SIGNATURE)))) == [LineFault.PROXY]
    assert lines(b"NOOP\r\n" + SIGNATURE + b"\r\n") == [b"NOOP", b"", b"", LineFault.CONTROL, LineFault.BARE]


def test_empty_lines_at_the_beginning_are_lines_as_soon_as_they_cannot_become_a_header() -> None:
    assert lines(b"\r\n", b"NOOP\r\n") == [b"", b"NOOP"]
    reader = CommandReader()
    reader.feed(b"\r\n\r\n")
    assert reader.next() is None
    assert reader.odd
    assert reader.give_up() is None, "nothing more came: now they are lines"
    assert [reader.next(), reader.next(), reader.next()] == [b"", b"", None]


def test_a_line_that_seems_complete_with_a_bare_lf_is_known() -> None:
    reader = CommandReader()
    reader.feed(b"NOOP\n")
    assert reader.next() is None
    assert reader.odd
    reader.feed(b"\r")
    assert not reader.odd


def test_a_chunk_that_cannot_be_read_is_known_by_its_verb_whatever_became_of_the_rest() -> None:
    """RFC 3030 §2: octets follow it. A session that goes on would take them for commands."""
    for raw in (b"BDAT 5\n", b"bdat " + b"0" * LINE_MAX + b"\n"):
        reader = CommandReader()
        reader.feed(b"NOOP\r\n" + raw)
        assert reader.next() == b"NOOP"
        assert reader.next() is None
        assert reader.give_up() is LineFault.CHUNK
    assert lines(b"BDAT " + b"0" * LINE_MAX, b"\r\nBDATA " + b"0" * LINE_MAX, b"\r\n\x00\r\n")[-1] is LineFault.CONTROL
    assert lines(b"x BDAT\x00\r\n") == [LineFault.CONTROL]


def test_take_gives_what_is_asked_for() -> None:
    reader = CommandReader()
    reader.feed(b"BDAT 5\r\nx\r\nyzQUIT\r\n")
    assert reader.next() == b"BDAT 5"
    assert reader.take(5) == b"x\r\nyz"
    assert reader.next() == b"QUIT"
    assert reader.take(5) == b""


def test_take_gives_what_was_not_read() -> None:
    reader = CommandReader()
    reader.feed(b"DATA\r\nSubject: x\r\n")
    assert reader.next() == b"DATA"
    assert reader.take() == b"Subject: x\r\n"
    assert len(reader) == 0


@given(
    st.lists(
        st.sampled_from([b"\r\n", SIGNATURE, b"\r", b"\n", b"NOOP", b"x" * 1000, b"x" * 30000, b"\x00", b"\x16"]), max_size=12
    ),
    st.integers(1, 999),
)
@settings(deadline=None)
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
