# SPDX-License-Identifier: Apache-2.0
"""The rules of content that comes in chunks: those of DATA without dots, and BODY=BINARYMIME. Without a socket."""

import tracemalloc

import pytest

from gateway.edge.content import ChunkReader, ContentLimits, Fault, Waste

WIDE = ContentLimits(size=0, line=0, header=1 << 20)


def read(*chunks: bytes, limits: ContentLimits = WIDE, binary: bool = False) -> ChunkReader:
    """A reader that was given these chunks, the last of them with LAST."""
    reader = ChunkReader(limits, binary=binary)
    for number, chunk in enumerate(chunks, 1):
        reader.begin(len(chunk), last=number == len(chunks))
        if chunk:
            assert not reader.ended
            assert reader.feed(chunk) == b""
        assert reader.ended
    return reader


def content(reader: ChunkReader) -> bytes:
    return reader.header + reader.take()


def test_a_chunk_ends_where_its_size_says() -> None:
    reader = ChunkReader(WIDE)
    reader.begin(10, last=False)
    assert reader.wanted == 10
    assert reader.feed(b"A: 1\r\n") is None
    assert reader.wanted == 4
    assert reader.feed(b"\r\nxyBDAT 0 LAST\r\n") == b"BDAT 0 LAST\r\n"
    reader.begin(0, last=True)
    assert reader.ended
    assert content(reader) == b"A: 1\r\n\r\nxy"


@pytest.mark.parametrize(
    "chunks",
    [
        (b"A: 1\r\n\r\nbody\r\n",),
        (b"A: 1\r\n\r\nbody\r", b"\n"),
        (b"A: 1\r", b"\n\r\nbody\r\n"),
        (b"A: 1\r\n", b"\r\n", b"body\r\n", b""),
        (b"", b"A: 1\r\n\r", b"", b"\nbody\r\n"),
        tuple(bytes([octet]) for octet in b"A: 1\r\n\r\nbody\r\n"),
    ],
    ids=repr,
)
def test_the_borders_of_chunks_mean_nothing(chunks: tuple[bytes, ...]) -> None:
    reader = read(*chunks)
    assert reader.fault is None
    assert reader.header == b"A: 1\r\n"
    assert reader.take() == b"\r\nbody\r\n"
    assert reader.size == 14


@pytest.mark.parametrize(
    "body", [b".\r\n", b"..\r\n", b".", b"\r\n.\r\n", b"x\r\n.\r\nQUIT\r\n", b".x\r\n..y\r\n", b"\x00\xff\x80"]
)
def test_dots_mean_nothing(body: bytes) -> None:
    assert content(read(b"\r\n" + body)) == b"\r\n" + body
    assert content(read(b"\r\n", body[:1], body[1:])) == b"\r\n" + body


@pytest.mark.parametrize("chunks", [(b"",), (b"", b"", b""), (b"\r\n",), (b"\r", b"\n")], ids=repr)
def test_there_need_be_no_content(chunks: tuple[bytes, ...]) -> None:
    reader = read(*chunks)
    assert (reader.header, reader.take(), reader.fault) == (b"", b"".join(chunks), None)


@pytest.mark.parametrize(
    "chunks",
    [
        (b"a\nb\r\n",),
        (b"a\rb\r\n",),
        (b"a\r",),
        (b"a\r", b"b\r\n"),
        (b"a", b"\n"),
        (b"a\r\n", b"\nb"),
        (b"a\r", b"\r\n"),
        (b"a\r", b"", b""),
        (b"a: b\r\n\r\nx\n.\nMAIL FROM:<evil@x.example>\r\n",),
    ],
    ids=repr,
)
def test_a_bare_cr_or_lf_is_a_fault_and_keeps_nothing(chunks: tuple[bytes, ...]) -> None:
    reader = read(*chunks)
    assert reader.fault is Fault.BARE_LINE_END
    assert reader.take() == b""


def test_a_cr_at_the_border_is_no_fault_yet() -> None:
    reader = ChunkReader(WIDE)
    reader.begin(2, last=False)
    reader.feed(b"a\r")
    assert reader.fault is None
    reader.begin(1, last=False)
    reader.feed(b"\n")
    assert reader.fault is None


def test_the_last_line_may_lack_its_end_but_not_in_a_header() -> None:
    assert content(read(b"A: 1\r\n\r\nbody")) == b"A: 1\r\n\r\nbody"
    assert content(read(b"A: 1")) == b"A: 1\r\n"
    assert content(read(b"A: 1\r\nB: 2")) == b"A: 1\r\nB: 2\r\n"


def test_the_limits_are_those_of_data() -> None:
    size = ContentLimits(size=8, line=0, header=1024)
    assert read(b"1234\r\n", b"\r\n", limits=size).fault is None
    assert read(b"1234\r\n", b"\r\n.", limits=size).fault is Fault.TOO_BIG
    line = ContentLimits(size=0, line=10, header=1024)
    assert read(b"1234", b"5678\r\n", limits=line).fault is None
    assert read(b"1234", b"56789\r\n", limits=line).fault is Fault.LINE_TOO_LONG
    assert read(b"\r\n1234", b"5678", limits=line).fault is None
    assert read(b"\r\n1234", b"56789", limits=line).fault is Fault.LINE_TOO_LONG, "the CRLF that it gets counts"
    header = ContentLimits(size=0, line=0, header=12, fields=2)
    assert read(b"A: 345678\r\n", b"\r\nlong body, longer", limits=header).fault is None
    assert read(b"A: 34567890\r\n\r\n", limits=header).fault is Fault.HEADER_TOO_BIG
    assert read(b"A: 3456789", limits=header).fault is None
    assert read(b"A: 34567890", limits=header).fault is Fault.HEADER_TOO_BIG
    assert read(b"a:\r\nb:\r\nc:\r\n\r\n", limits=ContentLimits(0, 0, 1024, 2)).fault is Fault.HEADER_TOO_BIG


def test_a_size_beyond_the_limit_is_refused_before_the_first_octet() -> None:
    reader = ChunkReader(ContentLimits(size=1000, line=0, header=1024))
    reader.begin(600, last=False)
    reader.feed(b"\r\n" + b"x" * 598)
    assert reader.pending == 600
    reader.begin(401, last=False)
    assert reader.fault is Fault.TOO_BIG
    assert reader.pending == 0
    assert reader.feed(b"x" * 500) == b"x" * 99, "it is read to its end all the same"
    assert reader.pending == 0


@pytest.mark.parametrize("body", [b"a\nb\rc\x00\xff", b"\r", b"\n", b"\r\r\n\n", b"x" * 5000, b"\r\n.\r\n\n.\n"])
def test_a_binary_body_is_any_octets(body: bytes) -> None:
    whole = b"A: 1\r\n\r\n" + body
    limits = ContentLimits(size=0, line=100, header=1024)
    reader = read(whole, limits=limits, binary=True)
    assert reader.fault is None
    assert content(reader) == whole
    assert content(read(*(bytes([octet]) for octet in whole), limits=limits, binary=True)) == whole
    assert read(whole, limits=limits).fault is not None


@pytest.mark.parametrize(
    "header", [b"A: 1\nB: 2\r\n\r\n", b"A: 1\n\nbody", b"A: \r1\r\n\r\n", b"A: 1\r", b"A: " + b"x" * 100 + b"\r\n\r\n"]
)
def test_the_header_of_a_binary_message_is_lines(header: bytes) -> None:
    limits = ContentLimits(size=0, line=100, header=1024)
    fault = read(header, limits=limits, binary=True).fault
    assert fault in (Fault.BARE_LINE_END, Fault.LINE_TOO_LONG)
    assert read(*(bytes([octet]) for octet in header), limits=limits, binary=True).fault is fault


def test_thousands_of_chunks_of_one_octet() -> None:
    whole = b"A: 1\r\n\r\n" + b"0123456789abcde\r\n" * 3000
    assert content(read(*(bytes([octet]) for octet in whole))) == whole


@pytest.mark.parametrize("piece", [b"x" * 65536, b"X-A: 5678\r\n" * 6000, b"\r\n" * 32768, b"\r" * 65536, b"\n" * 65536])
def test_an_endless_chunk_needs_no_endless_memory(piece: bytes) -> None:
    reader = ChunkReader(ContentLimits(size=0, line=65536, header=65536))
    reader.begin(1 << 30, last=True)
    tracemalloc.start()
    try:
        for _ in range(50_000_000 // len(piece)):
            assert reader.feed(piece) is None
            reader.take()
            assert reader.held < 3 * 65536
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_waste_is_counted_and_not_kept() -> None:
    waste = Waste(10)
    assert waste.wanted == 10
    assert waste.feed(b"\r\n.\r\n\n") is None
    assert (waste.held, waste.pending, waste.ended) == (0, 0, False)
    assert waste.feed(b"xyz\rQUIT\r\n") == b"QUIT\r\n"
    assert waste.ended
    assert waste.fault is None
    assert Waste(0).ended
