# SPDX-License-Identifier: Apache-2.0
"""The notice, read back by somebody else's parser (the standard library's), and attacked through everything in it."""

import email
import email.policy
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.mail import reply
from gateway.mail.address import Address, parse_mailbox
from gateway.mail.dsn import DELIVERED, HEADER_MAX, LINE_MAX, RELAYED, Notice, Report, compose
from gateway.mail.job import make_queue_id
from gateway.mail.message import FileBody, Message
from gateway.mail.notify import NotifyError
from gateway.mail.reply import Reply, from_remote

ID, NOTICE_ID = make_queue_id(1, 1), make_queue_id(2, 2)
ORIGINAL = Message.parse(
    b"From: Ann <ann@client.example>\r\nTo: bob@dest.example\r\nSubject: Hello\r\nMessage-ID: <1@client.example>\r\n"
    b"\r\nHi Bob\r\n"
).with_trace(b"Received: from client.example\r\n by mx.example.test\r\n")
REFUSED = Report(
    address=parse_mailbox(b"bob@dest.example"),
    reply=from_remote(550, "5.1.1 No such user"),
    remote=True,
    hop="mx1.dest.example[192.0.2.1]:25",
)


def notice(*reports: Report, sender: str = "ann@client.example", whole: int = 0, envid: str = "") -> Notice:
    return Notice(
        hostname="mx.example.test",
        id=ID,
        notice_id=NOTICE_ID,
        sender=parse_mailbox(sender.encode()),
        arrived=1_700_000_000.0,
        now=1_700_003_600.0,
        reports=reports or (REFUSED,),
        boundary="=_0123456789abcdef",
        whole=whole,
        envid=envid,
    )


def octets(*reports: Report, original: Message = ORIGINAL, **arguments: Any) -> bytes:
    return compose(notice(*reports, **arguments), original).read()


def parsed(*reports: Report, original: Message = ORIGINAL, **arguments: Any) -> EmailMessage:
    message = email.message_from_bytes(octets(*reports, original=original, **arguments), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def parts(message: EmailMessage) -> list[EmailMessage]:
    return cast("list[EmailMessage]", list(message.iter_parts()))


def status(message: EmailMessage) -> list[Any]:
    """The groups of fields of the status part."""
    return cast("list[Any]", parts(message)[1].get_payload())


def test_the_header_says_what_it_is() -> None:
    message = parsed()
    assert message.get_content_type() == "multipart/report"
    assert message["Content-Type"].params["report-type"] == "delivery-status"
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@mx.example.test>"
    assert message["To"].addresses[0].addr_spec == "ann@client.example"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["MIME-Version"] == "1.0"
    assert message["Message-ID"] == f"<{NOTICE_ID}@mx.example.test>"
    assert message["Date"].datetime.timestamp() == 1_700_003_600
    assert message["In-Reply-To"] == "<1@client.example>"
    assert message["References"] == "<1@client.example>"


def test_the_three_parts_are_in_their_order() -> None:
    kinds = [part.get_content_type() for part in parts(parsed())]
    assert kinds == ["text/plain", "message/delivery-status", "text/rfc822-headers"]


def test_the_text_names_recipient_reply_and_message() -> None:
    text = parts(parsed())[0].get_content()
    assert "<bob@dest.example>" in text
    assert "mx1.dest.example[192.0.2.1]:25 said: 550 5.1.1 No such user" in " ".join(text.split())
    assert ID in text
    assert "<1@client.example>" in text
    assert "Hello" in text


def test_the_status_has_every_required_field() -> None:
    """RFC 3464 §2.2 and §2.3."""
    general, about = status(parsed())
    assert general["Reporting-MTA"] == "dns; mx.example.test"
    assert general["X-Queue-Id"] == ID
    assert general["Arrival-Date"] == "Tue, 14 Nov 2023 22:13:20 +0000"
    assert about["Final-Recipient"] == "rfc822; bob@dest.example"
    assert about["Action"] == "failed"
    assert about["Status"] == "5.1.1"
    assert about["Remote-MTA"] == "dns; mx1.dest.example"
    assert about["Diagnostic-Code"] == "smtp; 550 5.1.1 No such user"
    assert about["Last-Attempt-Date"] == "Tue, 14 Nov 2023 23:13:20 +0000"


def test_each_recipient_has_its_own_group() -> None:
    second = Report(address=parse_mailbox(b"eve@dest.example"), reply=reply.NO_SUCH_DOMAIN)
    _, one, two = status(parsed(REFUSED, second))
    assert (one["Status"], two["Status"]) == ("5.1.1", "5.1.2")
    assert two["Remote-MTA"] is None
    assert two["Diagnostic-Code"].startswith("x-gateway;")  # no server said it


def test_a_refusal_without_enhanced_code_gets_the_general_one() -> None:
    report = Report(address=REFUSED.address, reply=from_remote(550, "go away"), remote=True, hop=REFUSED.hop)
    assert status(parsed(report))[1]["Status"] == "5.0.0"


def test_expired_mail_says_so() -> None:
    report = Report(address=REFUSED.address, reply=reply.EXPIRED, hop=REFUSED.hop)
    about = status(parsed(report))[1]
    assert (about["Status"], about["Action"]) == ("4.4.7", "failed")


def test_a_host_that_was_configured_as_an_address_is_a_literal() -> None:
    report = Report(address=REFUSED.address, reply=REFUSED.reply, remote=True, hop="127.0.0.1[127.0.0.1]:2626")
    assert status(parsed(report))[1]["Remote-MTA"] == "dns; [127.0.0.1]"


# --- the original


def test_a_small_message_comes_back_whole() -> None:
    returned = parts(parsed(whole=10_000))[2]
    assert returned.get_content_type() == "message/rfc822"
    inner = returned.get_content()
    assert inner["Subject"] == "Hello"
    assert inner.get_content().strip() == "Hi Bob"
    assert ORIGINAL.read() in octets(whole=10_000)


def test_a_larger_one_comes_back_as_its_header() -> None:
    text = parts(parsed(whole=50))[2].get_payload(decode=True)
    assert b"Subject: Hello\r\n" in text
    assert b"Hi Bob" not in text


def test_a_body_in_a_file_is_not_read() -> None:
    message = Message(b"", ORIGINAL.header, FileBody(Path("/does/not/exist"), 0, 5))
    assert parts(parsed(original=message, whole=10_000))[2].get_content_type() == "text/rfc822-headers"


@pytest.mark.parametrize("body", ["\r\nGrüße\r\n".encode(), b"\r\n" + b"x" * 2000 + b"\r\n", b"\r\n\x00\r\n"])
def test_what_is_not_plain_is_not_returned_raw(body: bytes) -> None:
    message = Message(b"", ORIGINAL.header, body)
    wire = octets(original=message, whole=10_000)
    assert wire.isascii()
    assert body not in wire


def test_an_8_bit_header_is_declared_and_survives() -> None:
    header = "From: a@b.example\r\nSubject: Grüße\r\n".encode()
    returned = parts(parsed(original=Message(b"", header, b"\r\n")))[2]
    assert returned["Content-Transfer-Encoding"] == "base64"
    assert returned.get_payload(decode=True) == header


def test_a_huge_header_is_cut_at_a_line() -> None:
    header = b"".join(b"X-Field-%d: %s\r\n" % (number, b"x" * 60) for number in range(20_000))
    returned = parts(parsed(original=Message(b"", header, b"\r\n")))[2].get_payload(decode=True)
    assert len(returned) <= HEADER_MAX
    assert returned.endswith(b"x\r\n")


def test_a_huge_header_is_cut_between_fields() -> None:
    field = b"X: " + b"x" * 60 + (b"\r\n " + b"y" * 60) * 300 + b"\r\n"
    returned = parts(parsed(original=Message(b"", field * 10, b"\r\n")))[2].get_payload(decode=True)
    assert returned == field * (HEADER_MAX // len(field))


def test_a_field_that_alone_is_too_long_is_cut_at_a_line() -> None:
    field = b"X:" + (b"\r\n " + b"y" * 60) * 2000 + b"\r\n"
    returned = parts(parsed(original=Message(b"", field, b"\r\n")))[2].get_payload(decode=True)
    assert HEADER_MAX - 70 < len(returned) <= HEADER_MAX
    assert returned.endswith(b"y\r\n")


def test_of_a_header_that_is_one_line_nothing_comes_back() -> None:
    returned = parts(parsed(original=Message(b"", b"X: " + b"x" * HEADER_MAX + b"\r\n", b"\r\n")))[2]
    assert returned.get_payload(decode=True) == b""


# --- internationalised


def test_a_local_part_in_utf8_makes_it_a_global_report() -> None:
    """RFC 6533."""
    report = Report(address=Address("пользователь", "dest.example"), reply=REFUSED.reply, remote=True, hop=REFUSED.hop)
    wire = octets(report)
    assert b"message/global-delivery-status" in wire
    assert "Final-Recipient: utf-8; пользователь@dest.example\r\n".encode() in wire
    assert b"report-type=global-delivery-status" in wire
    assert notice(report).eight_bit


def test_a_domain_in_utf8_is_written_as_a_labels() -> None:
    report = Report(address=Address("bob", "bücher.example"), reply=REFUSED.reply, remote=True, hop=REFUSED.hop)
    message = parsed(report)
    assert status(message)[1]["Final-Recipient"] == "rfc822; bob@xn--bcher-kva.example"
    assert not notice(report).eight_bit


def test_a_reply_in_utf8_does_not_make_the_status_8_bit() -> None:
    report = Report(address=REFUSED.address, reply=from_remote(550, "Пользователь неизвестен"), remote=True, hop=REFUSED.hop)
    assert octets(report).isascii()
    assert "неизвестен" in parts(parsed(report))[0].get_content()


# --- hostile


HOSTILE = st.text(st.characters(codec="utf-8") | st.sampled_from("\r\n\t \x00-=_<>"), max_size=300)


@given(HOSTILE, HOSTILE, st.sampled_from([421, 450, 550, 599]))
def test_no_reply_or_host_can_break_out(text: str, hop: str, code: int) -> None:
    report = Report(address=REFUSED.address, reply=from_remote(code, text), remote=True, hop=hop)
    message = parsed(report)
    assert len(parts(message)) == 3
    assert len(status(message)) == 2
    assert set(status(message)[1].keys()) <= {
        "Final-Recipient",
        "Action",
        "Status",
        "Remote-MTA",
        "Diagnostic-Code",
        "Last-Attempt-Date",
    }


@given(HOSTILE)
def test_a_reply_of_ours_with_raw_text_cannot_either(text: str) -> None:
    message = parsed(Report(address=REFUSED.address, reply=Reply(550, text)))
    assert len(status(message)) == 2


@given(st.binary(max_size=400))
def test_no_original_can_break_out(raw: bytes) -> None:
    message = parsed(original=Message(b"", raw, b"\r\n--=_0123456789abcde\r\n"), whole=10_000)
    assert len(parts(message)) == 3


@pytest.mark.parametrize(
    "field",
    [
        b"Message-ID: <a>\r\n\tevil@x.example>",
        b"Message-ID: <a b@x.example>",
        b"Message-ID: x",
        b"Message-ID: <\xff@x.example>",
        b"Message-ID: <>",
    ],
)
def test_an_odd_message_id_is_not_referred_to(field: bytes) -> None:
    message = parsed(original=Message(b"", field + b"\r\n", b"\r\n"))
    assert message["In-Reply-To"] is None


@given(st.lists(st.text("ab c", max_size=900), max_size=20))
def test_lines_are_as_long_as_lines_may_be(lines: list[str]) -> None:
    wire = octets(Report(address=REFUSED.address, reply=from_remote(550, "\n".join(lines)), remote=True, hop=REFUSED.hop))
    assert max(map(len, wire.split(b"\r\n"))) <= LINE_MAX
    assert wire.count(b"\n") == wire.count(b"\r\n") == wire.count(b"\r")


def test_a_thousand_recipients_are_not_slow() -> None:
    text = "word " * 400
    reports = [
        Report(address=parse_mailbox(b"u%d@dest.example" % number), reply=from_remote(550, text), remote=True, hop=REFUSED.hop)
        for number in range(1000)
    ]
    assert len(octets(*reports)) < 3 << 20


# --- what the sender asked for (RFC 3461 §6)


def test_the_ids_of_the_sender_come_back_decoded() -> None:
    """RFC 3464 §2.2.1 and §2.3.1."""
    report = replace(REFUSED, orcpt="rfc822;Bob+2Btag@Dest.example")
    general, about = status(parsed(report, envid="QQ+20314159+2B+3D"))
    assert general["Original-Envelope-Id"] == "QQ 314159+="
    assert about["Original-Recipient"] == "rfc822; Bob+tag@Dest.example"
    assert next(iter(general.keys())) == "Original-Envelope-Id"
    assert next(iter(about.keys())) == "Original-Recipient"


def test_without_ids_there_are_no_fields_for_them() -> None:
    """RFC 3464: they are never invented."""
    wire = octets()
    assert b"Original-Envelope-Id" not in wire
    assert b"Original-Recipient" not in wire


def test_long_ids_with_blanks_are_not_folded() -> None:
    envid = "a+20+20" * 14
    assert envid.replace("+20", " ").encode() in octets(envid=envid)
    long = replace(REFUSED, orcpt="rfc822;" + "ab+20" * 98)
    assert max(map(len, octets(long).split(b"\r\n"))) <= LINE_MAX


def test_an_original_recipient_in_utf_8_is_written_as_the_notice_can() -> None:
    """RFC 6533 §3: embedded in a 7-bit notice, itself in one that is not."""
    plain = octets(replace(REFUSED, orcpt="utf-8;b\\x{FC}cher@dest.example"))
    assert plain.isascii()
    assert b"Original-Recipient: utf-8; b\\x{FC}cher@dest.example\r\n" in plain
    wide = octets(replace(REFUSED, address=Address("пользователь", "dest.example"), orcpt="utf-8;b\\x{FC}cher@dest.example"))
    assert "Original-Recipient: utf-8; bücher@dest.example\r\n".encode() in wide


@pytest.mark.parametrize("orcpt", ["rfc822;a+0Ab", "rfc822;a\r\nBcc: x", "nothing"])
def test_an_original_recipient_that_is_none_makes_no_notice(orcpt: str) -> None:
    with pytest.raises(NotifyError):
        octets(replace(REFUSED, orcpt=orcpt))


def test_good_news_is_called_so() -> None:
    """RFC 3464 §2.3.3 and §2.3.4: the action, and a status of the class of success."""
    relayed = replace(REFUSED, action=RELAYED, reply=from_remote(250, "2.6.0 taken"))
    delivered = Report(address=parse_mailbox(b"eve@dest.example"), reply=reply.DELIVERED_LOCALLY, action=DELIVERED)
    message = parsed(relayed, delivered)
    _, one, two = status(message)
    assert (one["Action"], one["Status"], two["Action"], two["Status"]) == ("relayed", "2.6.0", "delivered", "2.0.0")
    assert "Undelivered" not in message["Subject"]
    text = " ".join(parts(message)[0].get_content().split())
    assert "could not be delivered" not in text
    assert "was passed on for this recipient, to a system that sends no notice of delivery: <bob@dest.example>" in text
    assert "was delivered to this recipient: <eve@dest.example>" in text


def test_one_notice_tells_good_and_bad() -> None:
    delivered = Report(address=parse_mailbox(b"eve@dest.example"), reply=reply.DELIVERED_LOCALLY, action=DELIVERED)
    message = parsed(delivered, REFUSED)
    assert message["Subject"] == "Undelivered mail returned to sender"
    assert [about["Action"] for about in status(message)[1:]] == ["delivered", "failed"]
    text = parts(message)[0].get_content()
    assert text.index("could not be delivered") < text.index("was delivered")
