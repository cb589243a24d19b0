# SPDX-License-Identifier: Apache-2.0
"""Who is told, and with which envelope."""

from dataclasses import replace

import pytest

from gateway.delivery.bounce import DsnBouncer
from gateway.mail import message
from gateway.mail.envelope import BodyType
from gateway.mail.job import Delivered, Due, Failed, Job, make_queue_id
from gateway.mail.message import Message
from gateway.mail.reply import from_remote
from gateway.ports import Submission
from tests.support.fakework import CONTENT, job

RELAYED = Delivered(reply=from_remote(250, "2.0.0 taken"), remote=True, hop="mx.dest.example[192.0.2.1]:25")
FAILED = Failed(reply=from_remote(550, "5.1.1 No such user"), remote=True, hop="mx.dest.example[192.0.2.1]:25")
NOW = 1_700_003_600.0


def bounce(one: Job, content: bytes = CONTENT, told: list[tuple[Due, Failed | Delivered]] | None = None) -> Submission | None:
    bouncer = DsnBouncer("mx.example.test", returned_message=50_000)
    told = [(due, FAILED) for due in one.recipients] if told is None else told
    return bouncer.compose(one, Message.parse(content), told, NOW)


def test_the_sender_is_told_by_the_null_sender() -> None:
    notice = bounce(job("bob@dest.example"))
    assert notice is not None
    assert not notice.envelope.sender
    assert [str(recipient.address) for recipient in notice.envelope.recipients] == ["ann@client.example"]
    assert notice.envelope.body is BodyType.SEVEN_BIT
    assert not notice.envelope.smtputf8
    assert notice.id != job("bob@dest.example").id
    assert f"Message-ID: <{notice.id}@mx.example.test>".encode() in notice.message.header


def test_ids_of_notices_made_at_one_moment_differ() -> None:
    ids = {made.id for _ in range(100) if (made := bounce(job("bob@dest.example")))}
    assert len(ids) == 100


def test_no_notice_about_a_notice() -> None:
    """RFC 5321 §6.1: the null sender gets nothing."""
    assert bounce(job("bob@dest.example", sender="")) is None


@pytest.mark.parametrize("value", ["auto-replied", "auto-generated", "Auto-Generated; owner-email=x", "x-unknown"])
def test_no_notice_to_automatic_mail(value: str) -> None:
    assert bounce(job("bob@dest.example"), f"Auto-Submitted: {value}\r\n".encode() + CONTENT) is None


@pytest.mark.parametrize("value", ["no", "No", "no; comment=x", " no"])
def test_mail_that_says_it_is_not_automatic_is_answered(value: str) -> None:
    assert bounce(job("bob@dest.example"), f"Auto-Submitted: {value}\r\n".encode() + CONTENT) is not None


def test_our_own_notice_would_not_be_answered() -> None:
    first = bounce(job("bob@dest.example"))
    assert first is not None
    assert bounce(job("ann@client.example", sender="postmaster@other.example"), first.message.read()) is None


def test_without_news_there_is_nothing_to_tell() -> None:
    assert bounce(job("bob@dest.example"), told=[]) is None


def test_an_internationalised_sender_is_told_with_smtputf8() -> None:
    notice = bounce(job("bob@dest.example", sender="отправитель@client.example", smtputf8=True))
    assert notice is not None
    assert notice.envelope.smtputf8
    assert notice.envelope.body is BodyType.EIGHT_BIT


def test_a_sender_whose_domain_alone_is_internationalised_is_told_in_ascii() -> None:
    notice = bounce(job("bob@dest.example", sender="ann@bücher.example", smtputf8=True))
    assert notice is not None
    assert str(notice.envelope.recipients[0].address) == "ann@xn--bcher-kva.example"
    assert not notice.envelope.smtputf8
    assert notice.message.read().isascii()


def test_boundaries_cannot_be_guessed() -> None:
    made = [bounce(job("bob@dest.example")) for _ in range(2)]
    boundaries = {one.message.header.partition(b'boundary="')[2][:34] for one in made if one}
    assert len(boundaries) == 2


def test_the_failure_is_dated_and_the_id_is_of_now() -> None:
    notice = bounce(job("bob@dest.example"))
    assert notice is not None
    assert notice.id[:10] == make_queue_id(int(NOW * 1e6), 0)[:10]


@pytest.fixture
def _no_splitting(monkeypatch: pytest.MonkeyPatch) -> None:
    def split(_: bytes) -> None:
        raise AssertionError("the header is split into its fields")

    monkeypatch.setattr(message, "parse_fields", split)


@pytest.mark.usefixtures("_no_splitting")
def test_a_header_of_very_many_fields_is_not_split_and_comes_back_in_part() -> None:
    """A bounce is made on the loop: a megabyte of fields must not stop everybody else for a second."""
    content = b"Message-ID: <m@x.example>\r\n" + b"a:\r\n" * 250_000 + b"Subject: late\r\n" + CONTENT
    notice = bounce(job("bob@dest.example"), content)
    assert notice is not None
    assert b"\r\nIn-Reply-To: <m@x.example>\r\n" in notice.message.header
    assert 60_000 < notice.message.size < 70_000


@pytest.mark.usefixtures("_no_splitting")
def test_automatic_mail_is_known_behind_very_many_fields() -> None:
    content = b"a:\r\n" * 200_000 + b"auto-SUBMITTED :\r\n auto-\r\n\treplied\r\n" + CONTENT
    assert bounce(job("bob@dest.example"), content) is None


def test_a_word_in_another_field_does_not_make_mail_automatic() -> None:
    content = b"X: a\r\n Auto-Submitted: auto-replied\r\nX-Auto-Submitted: auto-replied\r\n" + CONTENT
    assert bounce(job("bob@dest.example"), content) is not None


def test_mail_that_says_it_very_often_is_not_answered() -> None:
    assert bounce(job("bob@dest.example"), b"Auto-Submitted: no\r\n" * 10_000 + CONTENT) is None


def test_a_reload_changes_the_name_and_what_is_returned() -> None:
    bouncer = DsnBouncer("old.example.test", returned_message=50_000)
    one = job("bob@dest.example")
    bouncer.reload("new.example.test", 0)
    notice = bouncer.compose(one, Message.parse(CONTENT), [(due, FAILED) for due in one.recipients], NOW)
    assert notice is not None
    wire = notice.message.read()
    assert b"MAILER-DAEMON@new.example.test" in wire
    assert b"old.example.test" not in wire
    assert b"Hello\r\n" not in wire


# --- what the sender asked for


@pytest.mark.parametrize(("ret", "whole"), [("", True), ("FULL", True), ("full", True), ("HDRS", False), ("hdrs", False)])
def test_the_sender_says_how_much_comes_back(ret: str, whole: bool) -> None:
    """RFC 3461 §4.3."""
    notice = bounce(replace(job("bob@dest.example"), ret=ret))
    assert notice is not None
    assert (b"\r\nHello\r\n" in notice.message.read()) is whole


def test_good_news_alone_returns_the_header() -> None:
    """RFC 3461 §4.3: RET is about failures."""
    one = replace(job("bob@dest.example", "eve@dest.example"), ret="FULL")
    bob, eve = one.recipients
    good, mixed = bounce(one, told=[(bob, RELAYED)]), bounce(one, told=[(bob, RELAYED), (eve, FAILED)])
    assert good is not None
    assert mixed is not None
    assert b"Action: relayed" in good.message.read()
    assert b"\r\nHello\r\n" not in good.message.read()
    assert b"\r\nHello\r\n" in mixed.message.read()


def test_ids_of_the_sender_come_back() -> None:
    one = replace(job("bob@dest.example"), envid="Q+2B1")
    notice = bounce(replace(one, recipients=(replace(one.recipients[0], orcpt="rfc822;Bob+2Bx@x.example"),)))
    assert notice is not None
    assert b"\r\nOriginal-Envelope-Id: Q+1\r\n" in notice.message.read()
    assert b"\r\nOriginal-Recipient: rfc822; Bob+x@x.example\r\n" in notice.message.read()
    assert not notice.envelope.envid  # ours has none
    assert not notice.envelope.ret  # RFC 3461 §6.1


def test_a_notice_about_mail_under_requiretls_is_under_it_and_returns_the_header_only() -> None:
    """RFC 8689 §5: RET=FULL is disregarded."""
    notice = bounce(replace(job("bob@dest.example"), ret="FULL", require_tls=True))
    assert notice is not None
    assert notice.envelope.require_tls
    assert b"\r\nHello\r\n" not in notice.message.read()
    other = bounce(job("bob@dest.example"))
    assert other is not None
    assert not other.envelope.require_tls
