# SPDX-License-Identifier: Apache-2.0
"""Invariants of the content readers: what was sent comes out, neither the cuts of the network nor the borders of chunks
matter, and all of it is what a few plain lines over the whole content say (`expected`).

The seeded fuzzer makes `--fuzz-examples` messages; each failure names its seed.
"""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.content import ChunkReader, ContentLimits, ContentReader, DataReader, Fault, count_fields

WIDE = ContentLimits(size=0, line=0, header=1 << 20)
NARROW = ContentLimits(size=60, line=17, header=23, fields=3)
LIMITS = (WIDE, NARROW, ContentLimits(size=0, line=9, header=30), ContentLimits(size=0, line=0, header=12))

# Octets that matter stand much more often than chance would have them.
TOKENS = [b"\r\n", b".", b"\r", b"\n", b"\r\n.", b"\r\n.\r\n", b"\r\n\r\n", b"a", b"xyz", b"\x00", b"a: b\r\n", b" ", b"\xff"]
telling = st.lists(st.sampled_from(TOKENS), max_size=60).map(b"".join)
octets = st.one_of(telling, st.binary(max_size=200))
clean_lines = st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"")), max_size=20)
cuts = st.lists(st.integers(1, 12), min_size=1, max_size=30)
Result = tuple[Fault | None, int, bytes]  # fault, size, content if there is no fault


# --- the rules once more, on the whole content at once


def expected(content: bytes, limits: ContentLimits, *, binary: bool = False) -> Result:
    """What a reader must make of a content."""
    at = content.find(b"\r\n\r\n")
    end = 0 if content.startswith(b"\r\n") else len(content) if at < 0 else at + 2
    header, body = content[:end], content[end:]
    lines = header if binary else content
    if header and not header.endswith(b"\r\n"):
        header += b"\r\n"
    if limits.size and len(content) > limits.size:
        fault = Fault.TOO_BIG
    elif len(header) > limits.header or (limits.fields and count_fields(header) > limits.fields):
        fault = Fault.HEADER_TOO_BIG
    elif any(octet in lines.replace(b"\r\n", b"") for octet in b"\r\n"):
        fault = Fault.BARE_LINE_END
    elif limits.line and any(len(line) + 2 > limits.line for line in lines.split(b"\r\n") if line):
        fault = Fault.LINE_TOO_LONG
    else:
        return None, len(content), header + body
    return fault, len(content), b""


def behind_data(raw: bytes) -> tuple[bytes, bytes] | None:
    """The content behind DATA and what follows its end; None if it does not end."""
    before, end, rest = (b"\r\n" + raw).partition(b"\r\n.\r\n")
    if not end:
        return None
    lines = (before + b"\r\n")[2:].split(b"\r\n")
    return b"\r\n".join(line.removeprefix(b".") for line in lines), rest


# --- the readers, fed in pieces


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at, turn = 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        yield data[at : at + size]
        at, turn = at + size, turn + 1


def result(reader: ContentReader) -> Result:
    return reader.fault, reader.size, b"" if reader.fault else reader.header + reader.take()


def read_data(raw: bytes, limits: ContentLimits, sizes: list[int]) -> tuple[Result, bytes] | None:
    """What a reader makes of octets behind DATA, and what it leaves."""
    reader, rest = DataReader(limits), b""
    for piece in pieces(raw, sizes):
        if reader.ended:
            rest += piece
        elif (behind := reader.feed(piece)) is not None:
            rest = behind
    return (result(reader), rest) if reader.ended else None


def read_chunks(
    content: bytes, limits: ContentLimits, borders: list[int], sizes: list[int], *, binary: bool = False
) -> tuple[Result, int]:
    """What a reader makes of a content in chunks, each of which comes in pieces; and the most that it kept."""
    reader, chunks, kept = ChunkReader(limits, binary=binary), [*pieces(content, borders), b""], 0
    for number, chunk in enumerate(chunks, 1):
        reader.begin(len(chunk), last=number == len(chunks))
        for piece in pieces(chunk, sizes):
            assert not reader.ended
            assert reader.feed(piece) in (None, b"")
            kept = max(kept, reader.held)
        assert reader.ended
        assert not reader.wanted
    return result(reader), kept


# --- invariants


def stuff(content: bytes) -> bytes:
    """RFC 5321 §4.5.2, by lines: another way than the reader's."""
    lines = content.split(b"\r\n")
    return b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines)


@given(clean_lines, st.binary(max_size=40), cuts)
def test_any_content_that_was_stuffed_comes_back_equal(lines: list[bytes], behind: bytes, sizes: list[int]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    assert read_data(stuff(content) + b".\r\n" + behind, WIDE, sizes) == ((None, len(content), content), behind)


@given(octets, cuts)
def test_behind_data_the_result_is_that_of_the_plain_rules_however_it_is_cut(raw: bytes, sizes: list[int]) -> None:
    whole = behind_data(raw)
    for limits in LIMITS:
        wanted = (expected(whole[0], limits), whole[1]) if whole else None
        for cut in (sizes, [1], [len(raw) + 1]):
            assert read_data(raw, limits, cut) == wanted


@given(octets, cuts, cuts, st.booleans())
def test_in_chunks_the_result_is_that_of_the_plain_rules_however_it_is_cut(
    content: bytes, borders: list[int], sizes: list[int], binary: bool
) -> None:
    for limits in LIMITS:
        wanted = expected(content, limits, binary=binary)
        for border, cut in ((borders, sizes), ([len(content) + 1], [1]), ([1], [1]), ([len(content) + 1], [len(content) + 1])):
            assert read_chunks(content, limits, border, cut, binary=binary)[0] == wanted


@given(octets)
def test_content_without_fault_has_no_bare_line_end(data: bytes) -> None:
    for outcome in (read_data(data, WIDE, [7]), read_chunks(data, WIDE, [5], [3])):
        if outcome is not None and isinstance(outcome[0], tuple) and outcome[0][0] is None:
            rest = outcome[0][2].replace(b"\r\n", b"")
            assert b"\n" not in rest
            assert b"\r" not in rest


@given(clean_lines, cuts, cuts)
def test_chunks_and_data_agree(lines: list[bytes], borders: list[int], sizes: list[int]) -> None:
    """One message by either way, under any limits: the same verdict, the same octets."""
    content = b"".join(line + b"\r\n" for line in lines)
    for limits in LIMITS:
        by_data = read_data(stuff(content) + b".\r\n", limits, sizes)
        assert by_data is not None
        assert by_data[0] == read_chunks(content, limits, borders, sizes)[0]


# --- seeded, as many as are asked for


def made(chance: random.Random) -> bytes:
    parts = [chance.choice(TOKENS) if chance.random() < 0.9 else chance.randbytes(chance.randrange(40)) for _ in range(40)]
    return b"".join(parts[: chance.randrange(41)])


def any_sizes(chance: random.Random) -> list[int]:
    return [chance.choice((1, 1, 2, 3, 7, 50)) for _ in range(chance.randrange(1, 9))]


def test_random_octets_make_no_difference_and_no_crash(request: pytest.FixtureRequest) -> None:
    refused = 0
    for seed in range(request.config.getoption("--fuzz-examples")):
        chance = random.Random(seed)
        content, sizes, borders = made(chance), any_sizes(chance), any_sizes(chance)
        limits, binary = chance.choice(LIMITS), chance.random() < 0.3
        wanted = expected(content, limits, binary=binary)
        got, kept = read_chunks(content, limits, borders, sizes, binary=binary)
        assert got == wanted, f"seed {seed}: in chunks"
        assert kept <= len(content) + 2, f"seed {seed}: more is kept than came"
        raw = content + chance.choice((b"", b"\r\n.\r\n", b".\r\nQUIT\r\n"))
        whole = behind_data(raw)
        assert read_data(raw, limits, sizes) == ((expected(whole[0], limits), whole[1]) if whole else None), f"seed {seed}"
        refused += wanted[0] is not None
    assert refused, "the octets are not telling enough"
