# SPDX-License-Identifier: Apache-2.0
"""Messages octet for octet: nothing is lost, added or moved by splitting or reading."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mail.message import Field, FileBody, Message, find_values, header_end, parse_fields

PIECES = [b"\r\n", b"\r\n\r\n", b" ", b"\t", b":", b"From", b"X: y", b"\r", b"\n", b"\xe9\x00", b"a"]
contents = st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join)


def slow_fields(header: bytes) -> list[bytes]:
    """RFC 5322 §2.2.3, line by line."""
    fields: list[bytes] = []
    for line in header.split(b"\r\n"):
        if fields and line[:1] in (b" ", b"\t"):
            fields[-1] += b"\r\n" + line
        else:
            fields.append(line)
    ended = [field + b"\r\n" for field in fields[:-1]]
    if fields[-1].partition(b"\r\n")[2] or fields[-1]:
        ended.append(fields[-1])
    return ended


# --- octets


@given(contents, contents)
def test_no_octet_is_lost(content: bytes, trace: bytes) -> None:
    message = Message.parse(content)
    assert message.trace + message.header + message.body == content  # type: ignore[operator]
    assert message.read() == content
    assert message.size == len(content)
    assert message.body_size == len(message.body)  # type: ignore[arg-type]
    assert b"".join(field.raw for field in message.fields) == message.header
    more = message.with_trace(b"A: b\r\n").with_trace(trace)
    assert more.read() == trace + b"A: b\r\n" + content
    assert more.fields == message.fields


@given(contents)
def test_fields_are_cut_where_the_rfc_says(header: bytes) -> None:
    fields = list(parse_fields(header))
    assert [field.raw for field in fields] == slow_fields(header)
    for field in fields:
        first = field.raw.partition(b"\r\n")[0]
        assert field.name == (first.partition(b":")[0].rstrip(b" \t") if b":" in first else b"")


# --- where the header ends


@pytest.mark.parametrize(
    ("content", "header", "body"),
    [
        (b"", b"", b""),
        (b"\r\n", b"", b"\r\n"),
        (b"\r\nbody\r\n", b"", b"\r\nbody\r\n"),
        (b"A: b", b"A: b", b""),
        (b"A: b\r\n", b"A: b\r\n", b""),
        (b"A: b\r\n\r\n", b"A: b\r\n", b"\r\n"),
        (b"A: b\r\n\r\nbody\r\n\r\nmore", b"A: b\r\n", b"\r\nbody\r\n\r\nmore"),
        (b"A: b\r\n \r\nC: d\r\n\r\n", b"A: b\r\n \r\nC: d\r\n", b"\r\n"),
        (b"A: b\n\nbody\r\n", b"A: b\n\nbody\r\n", b""),
    ],
)
def test_split(content: bytes, header: bytes, body: bytes) -> None:
    message = Message.parse(content)
    assert (message.header, message.body) == (header, body)
    assert header_end(bytearray(content)) == len(header)


# --- fields


def test_values_are_unfolded_and_found_in_any_case() -> None:
    message = Message.parse(b"Subject: a\r\n  b \r\nSUBJECT:\tc\r\nsubject :d\r\nX-Subject: e\r\n\r\nSubject: in the body\r\n")
    assert message.values(b"suBject") == [b"a  b", b"c", b"d"]
    assert message.values(b"from") == []


@pytest.mark.parametrize(
    ("raw", "name", "value", "unfolded"),
    [
        (b"A: b\r\n", b"A", b" b", b"b"),
        (b"A:b", b"A", b"b", b"b"),
        (b"A \t: b\r\n", b"A", b" b", b"b"),
        (b"A:\r\n b\r\n\tc\r\n", b"A", b"\r\n b\r\n\tc", b"b\tc"),
        (b"A:\r\n", b"A", b"", b""),
        (b"no colon\r\n : here\r\n", b"", b" here", b"here"),
        (b"no colon\r\n", b"", b"", b""),
        (b": no name\r\n", b"", b" no name", b"no name"),
        (b" A: starts with a blank\r\n", b" A", b" starts with a blank", b"starts with a blank"),
        (b"A: b: c\r\n", b"A", b" b: c", b"b: c"),
        (b"\xe9: \xff\r\n", b"\xe9", b" \xff", b"\xff"),
    ],
)
def test_field(raw: bytes, name: bytes, value: bytes, unfolded: bytes) -> None:
    [field] = parse_fields(raw)
    assert field == Field(name, raw)
    assert (field.value, field.unfolded) == (value, unfolded)


def test_millions_of_folds_end_in_time() -> None:
    [field] = parse_fields(b"A: b\r\n" + b" \r\n" * 2_000_000)
    assert len(field.raw) == 6 + 6_000_000


# --- bodies in files


@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_body_in_a_file_reads_like_one_in_memory(tmp_path: Path, size: int) -> None:
    content = b"A: b\r\n\r\n" + bytes(range(256)) * 3
    whole = Message.parse(content)
    path = tmp_path / "content"
    path.write_bytes(b"before" + content + b"behind")
    message = Message(b"T: t\r\n", whole.header, FileBody(path, 6 + len(whole.header), whole.body_size))
    assert message.read() == b"T: t\r\n" + content
    assert b"".join(message.chunks(size)) == message.read()
    assert max(map(len, message.body_chunks(size))) == size
    assert message.size == 6 + len(content)
    assert message.is_8bit


def test_a_file_that_is_too_short_is_an_error(tmp_path: Path) -> None:
    """Otherwise half a message would be delivered."""
    path = tmp_path / "content"
    path.write_bytes(b"\r\nabc")
    with pytest.raises(OSError, match="2 octets are missing"):
        Message(b"", b"", FileBody(path, 0, 7)).read()


def test_8_bit_is_seen_in_every_part() -> None:
    assert not Message(b"T: t\r\n", b"A: b\r\n", b"\r\nc").is_8bit
    for parts in ((b"T: \xe9\r\n", b"", b""), (b"", b"A: \xe9\r\n", b""), (b"", b"", b"\r\n\xe9")):
        assert Message(*parts).is_8bit


@given(st.lists(st.sampled_from([*PIECES, b"X", b"x :", b"\r\nx: "]), max_size=30).map(b"".join), st.integers(1, 3))
def test_values_that_are_searched_for_are_those_of_the_fields(header: bytes, most: int) -> None:
    assert find_values(header, b"X", most) == Message(b"", header, b"").values(b"x")[:most]


def test_no_other_field_is_taken_for_the_one_searched_for() -> None:
    header = b"X-Subject: a\r\nSubject-X: b\r\nsubject c\r\nX: y\r\n Subject: d\r\nSUBJECT\t: e\r\n\t f \r\nSubject: g\r\n"
    assert find_values(header, b"Subject", 5) == [b"e\t f", b"g"]
