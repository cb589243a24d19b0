# SPDX-License-Identifier: Apache-2.0
"""Postfix's smtp(8) as the client: it delivers through us and logs nothing that it does not like."""

import re

import pytest

from tests.interop.gateway import Site, dots, letter
from tests.support.postfixclient import PostfixClient

pytestmark = [pytest.mark.needs("root", "postfix"), pytest.mark.timeout(180)]

MIB = 1 << 20
WAYS = {"clear": "", "tls12": "TLSv1.2", "tls13": "TLSv1.3", "implicit": "TLSv1.3"}
BODIES = {"plain": b"plain\r\n", "empty": b"", "dots": dots(30 << 10)}


@pytest.fixture
def client(postfix_client: PostfixClient) -> PostfixClient:
    return postfix_client


def deliver(
    site: Site, client: PostfixClient, content: bytes, marker: str, *recipients: str, **options: tuple[str, ...]
) -> str:
    """One message to its end; the log about it, which has no complaint and no reply but yes."""
    client.sendmail(content, "ann@dest.example", *recipients, **options)
    log = client.wait_gone(marker)
    assert not client.complaints()
    for status, answer in client.outcomes(log):
        assert status == "sent", log
        assert re.fullmatch(r"250 2\.0\.0 Ok: queued as [0-9A-Z]{16}", answer), answer
    assert len(client.outcomes(log)) == len(recipients)
    assert all(line[0] in "23" for line in client.heard(log)), log
    assert "lost connection" not in log
    assert "timed out" not in log
    return log


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("way", WAYS)
def test_messages_pass(site: Site, client: PostfixClient, way: str, body: str) -> None:
    marker = f"postfix-{way}-{body}"
    content = letter(marker, BODIES[body])
    log = deliver(site, client, content, marker, f"box@{way}.dest.example")
    site.arrived(content, marker)
    assert ("BODY=8BITMIME" in log) is (not content.isascii())
    tls = re.findall(r"(\w+) TLS connection established to \S+: (\S+) with cipher", log)
    assert tls == ([("Verified", WAYS[way])] if WAYS[way] else []), log
    if "PIPELINING" in site.offers("clear"):
        assert "Using ESMTP PIPELINING" in log
        said = client.said(log)
        assert said[-3].startswith("DATA"), said


def test_many_recipients_in_one_transaction(site: Site, client: PostfixClient) -> None:
    content = letter("postfix-many")
    recipients = [f"box{number}@tls13.dest.example" for number in range(40)]
    log = deliver(site, client, content, "postfix-many", *recipients)
    assert sum(line.startswith("MAIL ") for line in client.said(log)) == 1
    assert sorted(site.arrived(content, "postfix-many").recipients) == sorted(recipients)


def test_addresses_in_utf8(site: Site, client: PostfixClient) -> None:
    recipient = "jürgen@tls13.dest.example"
    content = letter("postfix-utf8", "Grüße, 日本語\r\n".encode(), to=recipient)
    client.sendmail(content, "rené@dest.example", recipient)
    log = client.wait_gone("postfix-utf8")
    assert [status for status, _ in client.outcomes(log)] == ["sent"], log
    assert any(line.startswith("MAIL FROM:<rené@dest.example>") and "SMTPUTF8" in line for line in client.said(log)), log
    assert not client.complaints()
    copy = site.arrived(content, "postfix-utf8")
    assert (copy.sender, copy.recipients) == ("rené@dest.example", (recipient,))


@pytest.mark.parametrize("way", ["clear", "tls13"])
def test_a_large_message(site: Site, client: PostfixClient, way: str) -> None:
    marker = f"postfix-large-{way}"
    content = letter(marker, dots(8 * MIB))
    deliver(site, client, content, marker, f"box@{way}.dest.example")
    site.arrived(content, marker)


def test_the_only_recipient_is_refused(site: Site, client: PostfixClient) -> None:
    """With pipelining it has said DATA by then, and has to be told that there is nobody to send content for."""
    site.refusals = 1
    client.sendmail(letter("postfix-only"), "ann@dest.example", "box@elsewhere.example")
    log = client.wait_gone("postfix-only")
    refused = site.wait_records("rejected", 1)[0]["reply"]
    assert client.outcomes(log)[0][0] == "bounced"
    assert f"said: {refused} (in reply to RCPT TO command)" in client.outcomes(log)[0][1], log
    assert not client.complaints()


def test_a_refused_recipient_is_told_in_our_words(site: Site, client: PostfixClient) -> None:
    """The other one gets the message; Postfix's bounce quotes our reply and passes through us too."""
    site.refusals = 1
    content = letter("postfix-refused")
    client.sendmail(content, "ann@dest.example", "box@dest.example", "box@elsewhere.example")
    log = client.wait_gone("postfix-refused")
    refused = site.wait_records("rejected", 1)[0]["reply"]
    assert refused.startswith("550 5.7.1 "), refused
    outcomes = dict(client.outcomes(log))
    assert set(outcomes) == {"sent", "bounced"}
    assert f"said: {refused} (in reply to RCPT TO command)" in outcomes["bounced"]
    bounce = site.world.received(lambda copy: copy.sender == "" and b"postfix-refused@origin.example" in copy.content)
    words = re.sub(rb"\s+", b" ", bounce.content)
    assert bounce.recipients == ("ann@dest.example",)
    assert f"Diagnostic-Code: smtp; {refused}".encode() in words
    site.arrived(content, "postfix-refused")
    assert not client.complaints()


def test_delivery_status_wishes(site: Site, client: PostfixClient) -> None:
    """RFC 3461: passed on if we take them; if not, Postfix itself tells the sender that its knowledge ends here."""
    content = letter("postfix-dsn")
    wishes = ("-N", "success,failure", "-V", "envelope=1", "-R", "hdrs")
    log = deliver(site, client, content, "postfix-dsn", "box@tls13.dest.example", options=wishes)
    copy = site.arrived(content, "postfix-dsn")
    if "DSN" not in site.offers("starttls"):
        notice = site.world.received(lambda copy: copy.sender == "" and b"postfix-dsn@origin.example" in copy.content)
        assert b"Action: relayed" in notice.content
        return
    mail, rcpt = (next(line for line in client.said(log) if line.startswith(verb)) for verb in ("MAIL ", "RCPT "))
    of_mail, of_rcpt = {"ENVID=envelope+3D1", "RET=HDRS"}, {"NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;box@tls13.dest.example"}
    assert of_mail <= set(mail.split())
    assert of_rcpt <= set(rcpt.split())
    assert of_mail <= set(copy.mail_line.decode().split())
    assert of_rcpt <= set(copy.rcpt_lines[0].decode().split())
