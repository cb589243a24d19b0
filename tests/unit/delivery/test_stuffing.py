# SPDX-License-Identifier: Apache-2.0
"""Dots and line ends: what a next hop un-stuffs is what we were given, and nothing in it can end DATA early."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.stuffing import Stuffer, stuff
from gateway.mail.reply import MailError

LINES = st.lists(st.text("ab.\t\x00é ", max_size=6).map(str.encode) | st.sampled_from([b".", b"..", b""]), max_size=12)
HOSTILE = st.lists(st.sampled_from([b"\r\n", b".", b"..", b"a", b"\r\n.\r\n", b".\r\n", b"\n", b"\r", b"\x00"]), max_size=12)


def unstuff(wire: bytes) -> bytes:
    """What a server does (RFC 5321 §4.5.2): up to the first lone dot, one dot off each line that begins with one."""
    content: list[bytes] = []
    for line in wire.split(b"\r\n"):
        if line == b".":
            return b"".join(each + b"\r\n" for each in content)
        content.append(line.removeprefix(b"."))
    raise AssertionError("no end of data")


def in_chunks(content: bytes, cuts: list[int]) -> bytes:
    stuffer, wire, start = Stuffer(), b"", 0
    for cut in [*sorted(cuts), len(content)]:
        wire += stuffer.feed(content[start:cut])
        start = max(start, cut)
    return wire + stuffer.finish()


@given(LINES)
def test_content_survives_octet_for_octet(lines: list[bytes]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    wire = stuff(content)
    assert unstuff(wire) == content
    assert wire.endswith(b".\r\n")
    assert b"\r\n.\r\n" not in wire[:-3] or wire.index(b"\r\n.\r\n") == len(wire) - 5


@given(LINES, st.lists(st.integers(0, 60), max_size=8))
def test_chunks_make_no_difference(lines: list[bytes], cuts: list[int]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    assert in_chunks(content, [min(cut, len(content)) for cut in cuts]) == stuff(content)


@given(HOSTILE, st.lists(st.integers(0, 40), max_size=6))
def test_whole_and_chunked_agree_on_hostile_content(parts: list[bytes], cuts: list[int]) -> None:
    content = b"".join(parts)
    clean = content.count(b"\n") == content.count(b"\r\n") == content.count(b"\r")
    if clean:
        assert in_chunks(content, [min(cut, len(content)) for cut in cuts]) == stuff(content)
        assert unstuff(stuff(content)).removesuffix(b"\r\n") == content.removesuffix(b"\r\n")
        return
    with pytest.raises(MailError):
        stuff(content)
    with pytest.raises(MailError):
        in_chunks(content, [min(cut, len(content)) for cut in cuts])


@pytest.mark.parametrize(
    "content", [b"a\nb\r\n", b"a\rb\r\n", b"a\r\n.\n", b"a\r\n.\r", b"\n.\n", b"a\n.\r\nMAIL FROM:<x@y.example>\r\n"]
)
def test_smuggling_through_us_ends_here(content: bytes) -> None:
    """A bare CR or LF next to a dot is the end of data to some servers."""
    with pytest.raises(MailError) as caught:
        stuff(content)
    assert caught.value.reply.code == 554


def test_a_last_line_without_its_end_gets_one() -> None:
    assert stuff(b"a") == b"a\r\n.\r\n"
    assert in_chunks(b"a", [0, 1]) == b"a\r\n.\r\n"


def test_nothing_is_a_lone_dot() -> None:
    assert stuff(b"") == b".\r\n"
    assert Stuffer().finish() == b".\r\n"


def test_a_dot_alone_at_the_start_is_doubled() -> None:
    assert stuff(b".\r\n") == b"..\r\n.\r\n"
