# SPDX-License-Identifier: Apache-2.0
"""The rules of message content, without a socket."""

import tracemalloc

import pytest

from gateway.edge.content import ContentLimits, DataReader, Fault
from gateway.mail.message import parse_fields

WIDE = ContentLimits(size=0, line=0, header=1 << 20)


def read(raw: bytes, limits: ContentLimits = WIDE) -> DataReader:
    reader = DataReader(limits)
    assert reader.feed(raw) == b"", "the end is not where it should be"
    assert reader.ended
    return reader


def test_header_and_body_are_split_behind_the_last_field() -> None:
    reader = read(b"A: 1\r\nB: 2\r\n\r\nbody\r\n.\r\n")
    assert reader.header == b"A: 1\r\nB: 2\r\n"
    assert reader.take() == b"\r\nbody\r\n"


@pytest.mark.parametrize(
    ("raw", "header", "body"),
    [
        (b".\r\n", b"", b""),
        (b"\r\n.\r\n", b"", b"\r\n"),
        (b"\r\nbody\r\n.\r\n", b"", b"\r\nbody\r\n"),
        (b"A: 1\r\n.\r\n", b"A: 1\r\n", b""),
        (b"A: 1\r\n\r\n.\r\n", b"A: 1\r\n", b"\r\n"),
        (b"\r\n\r\n.\r\n", b"", b"\r\n\r\n"),
    ],
)
def test_content_without_header_or_without_body(raw: bytes, header: bytes, body: bytes) -> None:
    reader = read(raw)
    assert (reader.header, reader.take(), reader.fault) == (header, body, None)


@pytest.mark.parametrize(
    ("stuffed", "plain"),
    [
        (b"..\r\n", b".\r\n"),
        (b"...\r\n", b"..\r\n"),
        (b".x\r\n", b"x\r\n"),  # RFC 5321 §4.5.2: the first dot goes, whatever follows
        (b"x\r\n..\r\ny\r\n", b"x\r\n.\r\ny\r\n"),
        (b"x..\r\n", b"x..\r\n"),
        (b"\r\n..\r\n..\r\n", b"\r\n.\r\n.\r\n"),
    ],
)
def test_the_first_dot_of_a_line_goes(stuffed: bytes, plain: bytes) -> None:
    reader = read(stuffed + b".\r\n")
    assert reader.header + reader.take() == plain


@pytest.mark.parametrize(
    "raw",
    [b"a\nb", b"a\rb", b"\na", b"a\r", b"\r\r\n", b"\n\r\n", b"a\n\r", b".\n", b".\r", b"\n.\n", b"\r.\r", b"\x00\n.\n\x00"],
)
def test_a_bare_cr_or_lf_is_a_fault_and_keeps_nothing(raw: bytes) -> None:
    reader = read(b"x\r\n" + raw + b"\r\n.\r\n")
    assert reader.fault is Fault.BARE_LINE_END
    assert reader.take() == b""


@pytest.mark.parametrize(
    "raw", [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\r", b"\r\n\x00.\r\n", b"\r\n.\x00\r\n", b"\r\n.\r\r\n"]
)
def test_what_looks_like_the_end_is_not(raw: bytes) -> None:
    assert DataReader(WIDE).feed(b"x" + raw) is None


def test_what_stands_behind_the_end_is_the_next_command() -> None:
    assert DataReader(WIDE).feed(b"x\r\n.\r\nQUIT\r\n") == b"QUIT\r\n"


def test_nul_and_eight_bit_pass() -> None:
    reader = read(b"\x00\xff: \x80\r\n\r\n\x00\r\n.\r\n")
    assert reader.header + reader.take() == b"\x00\xff: \x80\r\n\r\n\x00\r\n"
    assert reader.fault is None


def test_the_size_limit_counts_content_not_stuffing() -> None:
    limits = ContentLimits(size=8, line=0, header=1024)
    assert read(b"..2345\r\n.\r\n", limits).size == 7
    assert read(b"..23456\r\n.\r\n", limits).fault is None
    assert read(b"..234567\r\n.\r\n", limits).fault is Fault.TOO_BIG


def test_the_line_limit_counts_the_crlf() -> None:
    limits = ContentLimits(size=0, line=10, header=1024)
    for good in (b"12345678\r\n", b"1\r\n12345678\r\n\r\n12345678\r\n", b"..2345678\r\n"):
        assert read(good + b".\r\n", limits).fault is None
    for bad in (b"123456789\r\n", b"1\r\n123456789\r\n1\r\n", b"12345678\r\n..23456789\r\n"):
        assert read(bad + b".\r\n", limits).fault is Fault.LINE_TOO_LONG


def test_the_header_limit_is_exact() -> None:
    limits = ContentLimits(size=0, line=0, header=12)
    assert read(b"A: 345678\r\n\r\nlong body, longer than that\r\n.\r\n", limits).fault is None
    assert read(b"A: 34567890\r\n\r\nbody\r\n.\r\n", limits).fault is Fault.HEADER_TOO_BIG
    assert read(b"A: 34567890\r\n.\r\n", limits).fault is Fault.HEADER_TOO_BIG
    assert read(b"A: 3456789\r\n.\r\n", limits).fault is None


def test_of_several_faults_the_gravest_is_told() -> None:
    raw = b"a long line, too long\r\nbare\n\r\n.\r\n"
    assert read(raw, ContentLimits(size=5, line=10, header=12)).fault is Fault.TOO_BIG
    assert read(raw, ContentLimits(size=0, line=10, header=12)).fault is Fault.HEADER_TOO_BIG
    assert read(raw, ContentLimits(size=0, line=10, header=99)).fault is Fault.BARE_LINE_END


@pytest.mark.parametrize("piece", [b"x" * 65536, b"X-A: 5678\r\n" * 6000, b"\r\n" * 32768, b"\r" * 65536, b"..\r\n" * 16384])
def test_an_endless_message_needs_no_endless_memory(piece: bytes) -> None:
    """50 MB without end, whatever they look like: neither the buffers nor the allocator grow beyond the limits."""
    reader = DataReader(ContentLimits(size=1 << 20, line=65536, header=65536))
    tracemalloc.start()
    try:
        for _ in range(50_000_000 // len(piece)):
            assert reader.feed(piece) is None
            assert reader.held < (1 << 20) + 2 * 65536
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert reader.size >= 25_000_000
    assert reader.feed(b"\r\n.\r\n") == b""
    assert reader.fault is not None


def test_a_body_that_is_taken_away_is_not_kept() -> None:
    reader = DataReader(ContentLimits(size=0, line=0, header=1024))
    assert reader.feed(b"A: 1\r\n\r\n") is None
    taken = 0
    for _ in range(100):
        reader.feed(b"0123456789abcde\r\n" * 1000)
        taken += len(reader.take())
        assert reader.held < 100
    reader.feed(b".\r\n")
    assert taken + len(reader.take()) == 100 * 17000 + 2


def test_dropping_keeps_the_count_but_not_the_octets() -> None:
    reader = DataReader(WIDE)
    reader.feed(b"A: 1\r\n\r\nbody")
    reader.drop()
    assert reader.feed(b"more\r\n.\r\n") == b""
    assert reader.take() == b""
    assert reader.size == len(b"A: 1\r\n\r\nbodymore\r\n")
    assert reader.fault is None


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        (b"a\r\n", 1),
        (b"a: b\r\n" * 5, 5),
        (b"a: b\r\n c\r\n\td\r\ne: f\r\n", 2),
        (b" a\r\n b\r\n", 1),
        (b"x\r\n" * 7, 7),
    ],
)
@pytest.mark.parametrize("end", [b"\r\nbody\r\n.\r\n", b".\r\n"])
def test_a_header_of_too_many_fields_is_refused(header: bytes, fields: int, end: bytes) -> None:
    """A header bomb: what comes after us takes the header apart, field by field."""

    def fault(most: int) -> Fault | None:
        return read(header + end, ContentLimits(size=0, line=0, header=1024, fields=most)).fault

    assert len(list(parse_fields(header))) == fields
    assert fault(fields) is None
    assert fault(fields - 1) is (Fault.HEADER_TOO_BIG if fields > 1 else None), "0 is no limit"
