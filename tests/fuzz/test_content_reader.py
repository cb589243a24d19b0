# SPDX-License-Identifier: Apache-2.0
"""Invariants of the content reader: what was stuffed comes back, and the cuts do not matter."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from gateway.edge.content import ContentLimits, ContentReader

WIDE = ContentLimits(size=0, line=0, header=1 << 20)
NARROW = ContentLimits(size=60, line=17, header=23)

# Octets that matter stand much more often than chance would have them.
telling = st.lists(
    st.sampled_from([b"\r\n", b".", b"\r", b"\n", b"\r\n.", b"\r\n.\r\n", b"\r\n\r\n", b"a", b"xyz", b"\x00"]), max_size=60
).map(b"".join)
octets = st.one_of(telling, st.binary(max_size=200))
clean_lines = st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"")), max_size=20)
cuts = st.lists(st.integers(1, 12), min_size=1, max_size=30)


def chunks(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at, turn = 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        yield data[at : at + size]
        at, turn = at + size, turn + 1


def read(limits: ContentLimits, pieces: Iterator[bytes]) -> tuple[object, ...]:
    """What a reader makes of the pieces: ended, fault, size, header, body, rest."""
    reader, rest = ContentReader(limits), b""
    for piece in pieces:
        if reader.ended:
            rest += piece
            continue
        behind = reader.feed(piece)
        if behind is not None:
            rest = behind
    if not reader.ended:
        return (False,)
    return (True, reader.fault, reader.size, reader.header if not reader.fault else b"", reader.take(), rest)


def stuff(content: bytes) -> bytes:
    """RFC 5321 §4.5.2, by lines: another way than the reader's."""
    lines = content.split(b"\r\n")
    return b"\r\n".join(b"." + line if line.startswith(b".") else line for line in lines)


@given(clean_lines, st.binary(max_size=40), cuts)
def test_any_content_that_was_stuffed_comes_back_equal(lines: list[bytes], behind: bytes, sizes: list[int]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    ended, fault, size, header, body, rest = read(WIDE, chunks(stuff(content) + b".\r\n" + behind, sizes))
    assert ended
    assert fault is None
    assert header + body == content  # type: ignore[operator]
    assert size == len(content)
    assert rest == behind


@given(octets, cuts)
def test_the_result_does_not_depend_on_the_cuts(data: bytes, sizes: list[int]) -> None:
    for limits in (WIDE, NARROW):
        assert read(limits, chunks(data, sizes)) == read(limits, iter([data]))
        assert read(limits, chunks(data, [1])) == read(limits, iter([data]))


@given(octets)
def test_content_without_fault_has_no_bare_line_end(data: bytes) -> None:
    reader = ContentReader(WIDE)
    if reader.feed(data) is not None and reader.fault is None:
        content = reader.header + reader.take()
        assert b"\n" not in content.replace(b"\r\n", b"")
        assert b"\r" not in content.replace(b"\r\n", b"")
        assert content.endswith(b"\r\n") or not content


@given(octets)
def test_the_end_is_where_the_first_crlf_dot_crlf_is(data: bytes) -> None:
    reader = ContentReader(WIDE)
    behind = reader.feed(data)
    _, end, rest = (b"\r\n" + data).partition(b"\r\n.\r\n")
    assert behind == (rest if end else None)
