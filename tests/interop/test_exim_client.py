# SPDX-License-Identifier: Apache-2.0
"""Exim as the client: chunks (BDAT) where they are offered, pipelining, GnuTLS; and nothing in its log but success."""

import re
from collections.abc import Iterator

import pytest

from tests.interop.gateway import PASSWORD, USER, Site, dots, letter
from tests.support.exim import Exim

pytestmark = [pytest.mark.needs("exim4"), pytest.mark.timeout(180)]

MIB = 1 << 20
WAYS = {"clear": "", "tls12": "TLS1.2:", "tls13": "TLS1.3:", "implicit": "TLS1.3:"}
BODIES = {"plain": b"plain\r\n", "30k": dots(30 << 10), "1m": dots(MIB)}
EXPECTED = re.compile(r" (<=|=>|->|\*\*) | Completed$")  # arrived, delivered, refused, done with


@pytest.fixture
def client(running: Site) -> Iterator[Exim]:
    with Exim(running.ports, running.certificate.authority, login=(USER, PASSWORD)) as instance:
        yield instance


def deliver(client: Exim, content: bytes, sender: str, *recipients: str) -> list[str]:
    """Send; the log's lines of delivery, one a recipient."""
    return delivered(client.send(content, sender, *recipients), len(recipients))


def delivered(log: list[str], count: int) -> list[str]:
    """The lines of delivery of a message for `count` recipients. Nothing but arrival, delivery and the end may be logged."""
    assert re.search(r" <= \S+ ", log[0]), log
    assert log[-1].endswith(" Completed"), log
    lines = log[1:-1]
    assert len(lines) == count, log
    for line in lines:
        assert re.search(r' [=-]> \S+ .* C="250[- ]2\.0\.0 Ok: queued as [0-9A-Z]{16}"', line), log
    return lines


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("way", WAYS)
def test_messages_pass(site: Site, client: Exim, way: str, body: str) -> None:
    marker = f"exim-{way}-{body}"
    content = letter(marker, BODIES[body])
    line = deliver(client, content, "ann@dest.example", f"box@{way}.dest.example")[0]
    site.arrived(content, marker)
    offers = site.offers(way if way in site.ports else "starttls")
    assert (" K " in line) is ("CHUNKING" in offers), line
    assert (" L " in line) is ("PIPELINING" in offers), line
    assert "PRDR" not in offers
    if WAYS[way]:
        assert f" X={WAYS[way]}" in line, line
        assert " CV=yes " in line, line
    else:
        assert " X=" not in line, line


def test_many_recipients_in_one_transaction(site: Site, client: Exim) -> None:
    content = letter("exim-many")
    recipients = [f"box{number}@tls13.dest.example" for number in range(40)]
    lines = deliver(client, content, "ann@dest.example", *recipients)
    assert len({re.search(r"queued as (\S+)\"", line)[1] for line in lines}) == 1  # type: ignore[index]
    assert sorted(site.arrived(content, "exim-many").recipients) == sorted(recipients)


def test_addresses_in_utf8(site: Site, client: Exim) -> None:
    content = letter("exim-utf8", "Grüße, 日本語\r\n".encode(), to="jürgen@tls13.dest.example")
    delivered(client.session(content, "<rené@dest.example> BODY=8BITMIME SMTPUTF8", "<jürgen@tls13.dest.example>"), 1)
    copy = site.arrived(content, "exim-utf8")
    assert (copy.sender, copy.recipients) == ("rené@dest.example", ("jürgen@tls13.dest.example",))
    assert {b"BODY=8BITMIME", b"SMTPUTF8"} <= set(copy.mail_line.split())


def test_delivery_status_wishes(site: Site, client: Exim) -> None:
    """RFC 3461: passed on if we take them; if not, Exim itself tells the sender that its knowledge ends here."""
    content = letter("exim-dsn")
    of_mail, of_rcpt = ["RET=HDRS", "ENVID=envelope+3D1"], ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;box@tls13.dest.example"]
    log = client.session(content, " ".join(["<ann@dest.example>", *of_mail]), " ".join(["<box@tls13.dest.example>", *of_rcpt]))
    assert not [line for line in log if not EXPECTED.search(line)], log
    copy = site.arrived(content, "exim-dsn")
    if "DSN" not in site.offers("starttls"):
        notice = site.world.received(lambda copy: copy.sender == "" and b"exim-dsn@origin.example" in copy.content)
        assert b"relayed" in notice.content
        return
    assert set(of_mail) <= set(copy.mail_line.decode().split())
    assert set(of_rcpt) <= set(copy.rcpt_lines[0].decode().split())


def test_a_large_message(site: Site, client: Exim) -> None:
    content = letter("exim-large", dots(8 * MIB))
    deliver(client, content, "ann@dest.example", "box@tls13.dest.example")
    site.arrived(content, "exim-large")


def test_the_only_recipient_is_refused(site: Site, client: Exim) -> None:
    """With pipelining it has sent all of its content when it reads that; nothing of it may be taken for commands."""
    site.refusals = 1
    log = client.send(letter("exim-only", dots(30 << 10)), "ann@dest.example", "box@elsewhere.example")
    refused = site.wait_records("rejected", 1)[0]["reply"]
    assert [line for line in log if "** box@elsewhere.example" in line and refused in line], log
    assert not [line for line in log if not EXPECTED.search(line)], log
    bounce = site.world.received(lambda copy: copy.sender == "" and b"exim-only@origin.example" in copy.content)
    assert refused.encode() in re.sub(rb"\s+", b" ", bounce.content)


def test_a_refused_recipient_is_told_in_our_words(site: Site, client: Exim) -> None:
    """With pipelining Exim has said DATA, or sent its first chunk, before it reads that some were refused."""
    site.refusals = 1
    content = letter("exim-refused")
    log = client.send(content, "ann@dest.example", "box@tls13.dest.example", "box@elsewhere.example")
    refused = site.wait_records("rejected", 1)[0]["reply"]
    assert any(re.search(r' => box@tls13\.dest\.example .* C="250', line) for line in log), log
    assert [line for line in log if "** box@elsewhere.example" in line and refused in line], log
    bounce = site.world.received(lambda copy: copy.sender == "" and b"exim-refused@origin.example" in copy.content)
    assert refused.encode() in re.sub(rb"\s+", b" ", bounce.content)
    site.arrived(content, "exim-refused")
    assert not [line for line in log if not EXPECTED.search(line)], log
