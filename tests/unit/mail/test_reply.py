# SPDX-License-Identifier: Apache-2.0
"""Replies on the wire, replies of other servers, and the table of ours."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mail import reply
from gateway.mail.reply import LINE_MAX, MailError, Reply, clean, from_remote

TABLE = {name: value for name, value in vars(reply).items() if isinstance(value, Reply)}


# --- the wire format


def test_one_line() -> None:
    assert Reply(550, "No", (7, 1)).wire() == b"550 5.7.1 No\r\n"
    assert Reply(354, "Go on").wire() == b"354 Go on\r\n"


def test_the_codes_stand_on_every_line() -> None:
    """RFC 2034 §4; the last line has a blank behind the code, the others a hyphen (RFC 5321 §4.2)."""
    assert (
        Reply(421, "one\ntwo\n\nfour", (3, 2)).wire() == b"421-4.3.2 one\r\n421-4.3.2 two\r\n421-4.3.2 \r\n421 4.3.2 four\r\n"
    )
    assert Reply(250, "mx\nSIZE 1\nHELP").wire() == b"250-mx\r\n250-SIZE 1\r\n250 HELP\r\n"


def test_the_class_of_the_enhanced_code_follows_the_code() -> None:
    assert [Reply(code, "", (1, 5)).enhanced for code in (250, 451, 550)] == ["2.1.5", "4.1.5", "5.1.5"]
    assert Reply(250, "").enhanced == ""


def test_no_line_is_longer_than_512_octets() -> None:
    """RFC 5321 §4.5.3.1.5. A character is not cut in two."""
    wire = Reply(550, "é" * 400 + "\n" + "x" * 900 + "\nshort", (7, 1)).wire()
    lines = wire.split(b"\r\n")
    assert [len(line) + 2 for line in lines[:3]] == [LINE_MAX, LINE_MAX, len("550 5.7.1 short") + 2]
    assert lines[0].decode("utf-8") == "550-5.7.1 " + "é" * 250


@given(st.text())
def test_a_changed_text_stays_one_line(text: str) -> None:
    """What a client said may be quoted: it must not add a line or reach a terminal as a control."""
    wire = reply.POLICY.but(text).wire()
    assert wire.startswith(b"550 5.7.1 ")
    assert wire.endswith(b"\r\n")
    assert len(wire) <= LINE_MAX
    assert wire[:-2].decode("utf-8").isprintable()


def test_clean_replaces_controls_and_cuts() -> None:
    assert clean("a\r\nb\x1b[1m\x00\u202ec\u2028") == "a??b?[1m??c?"
    assert clean("x" * 1000) == "x" * 900
    assert clean("x\n" * 9, 3) == "x?x"
    assert clean("é ü") == "é ü"


def test_what_kind_of_reply() -> None:
    kinds = [
        (each.positive, each.temporary, each.permanent)
        for each in (Reply(250, ""), Reply(354, ""), Reply(451, ""), Reply(550, ""))
    ]
    assert kinds == [(True, False, False), (True, False, False), (False, True, False), (False, False, True)]


def test_as_text() -> None:
    assert str(Reply(550, "one\ntwo", (1, 1))) == "550 5.1.1 one two"
    assert str(Reply(250, "")) == "250"


def test_an_error_has_two_faces() -> None:
    error = MailError(reply.QUEUE_WRITE, "fsync /spool/1: EIO")
    assert error.reply is reply.QUEUE_WRITE
    assert error.detail not in error.reply.text
    assert str(error) == "451 4.3.0 Cannot store the message now (fsync /spool/1: EIO)"
    assert str(MailError(reply.SPAM)) == "554 5.7.1 Message refused as spam"


# --- replies of other servers


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (550, "5.1.1 No such user", Reply(550, "No such user", (1, 1))),
        (550, "No such user", Reply(550, "No such user")),
        (250, "2.0.0", Reply(250, "", (0, 0))),
        (250, "", Reply(250, "")),
        (550, "5.1.1 one\n5.1.1 two", Reply(550, "one\ntwo", (1, 1))),
        (550, "5.1.1\n5.1.1 two", Reply(550, "\ntwo", (1, 1))),
        (550, "5.1.1 one\ntwo", Reply(550, "one\ntwo", (1, 1))),
        (550, "5.1.1 one\n5.1.10 two", Reply(550, "one\n5.1.10 two", (1, 1))),
        (550, "5.1.1 one\n5.7.1 two", Reply(550, "one\n5.7.1 two", (1, 1))),
        (550, "5.7.999   spaced", Reply(550, "spaced", (7, 999))),
        # RFC 5321 §4.3.2: the code decides; an enhanced code of another class is only text
        (450, "5.1.1 No such user", Reply(450, "5.1.1 No such user")),
        (550, "4.2.1 Try later", Reply(550, "4.2.1 Try later")),
        (354, "2.0.0 Go on", Reply(354, "2.0.0 Go on")),
        # not quite enhanced codes
        (550, "5.1.1.1 x", Reply(550, "5.1.1.1 x")),
        (550, "5.1.1234 x", Reply(550, "5.1.1234 x")),
        (550, "5.1.1: x", Reply(550, "5.1.1: x")),
        (550, "5.1 x", Reply(550, "5.1 x")),
        (550, "#5.1.1 x", Reply(550, "#5.1.1 x")),
        (550, "5.٣.1 x", Reply(550, "5.٣.1 x")),
        # nothing that reaches a terminal or a second line
        (550, "5.1.1 a\x1b[2Jb\x00c", Reply(550, "a?[2Jb?c", (1, 1))),
        (550, "a\r\nb\x0bc\u2028d", Reply(550, "a\nb\nc\nd")),
    ],
)
def test_from_remote(code: int, text: str, expected: Reply) -> None:
    assert from_remote(code, text) == expected


def test_a_remote_reply_without_end_is_cut() -> None:
    found = from_remote(550, "x" * 5000 + "\n" + "y\n" * 5000)
    assert found.text.count("\n") == 19
    assert len(found.text) == 900 + 19 * 2


@given(st.sampled_from([250, 354, 421, 450, 550, 599]), st.text(alphabet=st.sampled_from("245.01 \r\n\tx\x00é")))
def test_any_remote_reply_can_be_shown(code: int, text: str) -> None:
    found = from_remote(code, text)
    assert found.code == code
    assert all(line.isprintable() for line in found.text.split("\n"))
    assert found.wire().decode("utf-8")
    if found.status:
        assert found.enhanced.startswith(str(code)[0])


# --- the table


@pytest.mark.parametrize("name", sorted(TABLE))
def test_each_row_is_well_formed(name: str) -> None:
    row = TABLE[name]
    assert re.fullmatch(r"[2345][0-5][0-9]", str(row.code))
    assert row.text.isascii()
    assert row.text.isprintable()
    assert not row.text.startswith(" ")
    if row.code // 100 == 3 or name in {"BANNER", "GREETING"}:
        assert row.status is None  # RFC 2034 §4: not in the banner, HELO, EHLO and 3yz
    else:
        assert row.status is not None
        assert 0 <= row.status[0] <= 7  # RFC 3463 §3: the subjects there are
        assert len(row.wire()) <= LINE_MAX


def test_our_own_trouble_is_temporary() -> None:
    for row in (
        reply.INTERNAL,
        reply.QUEUE_WRITE,
        reply.NO_SPACE,
        reply.FILTER_FAULT,
        reply.DKIM_TEMPERROR,
        reply.SPF_TEMPERROR,
    ):
        assert row.temporary
