# SPDX-License-Identifier: Apache-2.0
"""Hostile octets in what an envelope is made of, against a live daemon: none of them gets upstream, into a log or a header.

Faults 5 and 6 (control characters and line ends, plain and as xtext), 22 (UTF-8 that nobody agreed on), 23 (IDN).
"""

import json
from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon
from tests.support.sink import DEFAULT_EXTENSIONS
from tests.support.world import Wire, World, until

EVIL = "evil-octets"
HEAD = (
    "From: a@origin.example\r\nTo: box@dest.example\r\n"
    "Date: Sun, 22 Nov 2026 08:00:00 +0000\r\nMessage-ID: <e@origin.example>\r\n"
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as instance:
        instance.sink.extensions = (*DEFAULT_EXTENSIONS, "DSN")
        yield instance


@pytest.fixture(scope="module")
def daemon(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    tables = world.tables("[limits]\nerrors = 0\ncommands = 0\n", networks='"127.0.0.0/8"')
    with Daemon(tmp_path_factory.mktemp("envelope"), tables) as instance:
        yield instance
        assert instance.stop() == 0


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Wire]:
    with Wire(daemon.smtp_port) as wire:
        yield wire


CONTROLS = [b"\0", b"\x01", b"\t", b"\x08", b"\x1b[2J", b"\x7f"]
ENDS = [b"\r", b"\n", b"\n\r", b"\r\r", b"\n.\n"]
XTEXT = [b"+0D+0A", b"+0A", b"+00", b"+1B", b"+7F", b"+0d+0a"]
PLACES = {
    "EHLO": b"EHLO evil-octets%b.example",
    "HELO": b"HELO evil-octets%b.example",
    "MAIL": b"MAIL FROM:<evil-octets%bx@origin.example>",
    "MAIL-domain": b"MAIL FROM:<a@evil-octets%bx.example>",
    "MAIL-quoted": b'MAIL FROM:<"evil-octets%bx"@origin.example>',
    "MAIL-behind": b"MAIL FROM:<evil-octets@origin.example>%b",
    "MAIL-route": b"MAIL FROM:<@evil-octets%b.example:a@origin.example>",
    "ENVID": b"MAIL FROM:<a@origin.example> ENVID=evil-octets%bx",
    "RET": b"MAIL FROM:<a@origin.example> RET=HDRS%b",
    "SIZE": b"MAIL FROM:<a@origin.example> SIZE=1%b",
    "unknown": b"MAIL FROM:<a@origin.example> evil-octets%b=1",
    "RCPT": b"RCPT TO:<evil-octets%bx@dest.example>",
    "RCPT-quoted": b'RCPT TO:<"evil-octets%bx"@dest.example>',
    "NOTIFY": b"RCPT TO:<box@dest.example> NOTIFY=NEVER%b",
    "ORCPT": b"RCPT TO:<box@dest.example> ORCPT=rfc822;evil-octets%bx",
    "ORCPT-utf-8": b"RCPT TO:<box@dest.example> ORCPT=utf-8;evil-octets%bx",
}


def begin(client: Wire, place: str) -> None:
    if place in ("EHLO", "HELO"):
        return
    assert client.ask(b"EHLO client.example").startswith(b"250")
    if PLACES[place].startswith(b"RCPT"):
        assert client.ask(b"MAIL FROM:<a@origin.example>").startswith(b"250")


@pytest.mark.parametrize("place", PLACES)
def test_fault_5_no_control_character_is_taken_anywhere(client: Wire, place: str) -> None:
    begin(client, place)
    for octets in CONTROLS:
        assert client.ask(PLACES[place].replace(b"%b", octets)).startswith(b"501"), octets
    for octets in ENDS:
        answer = client.ask(PLACES[place].replace(b"%b", octets))
        assert answer.startswith(b"500 5.5.2"), octets
    assert client.ask(b"NOOP").startswith(b"250")  # one line, one reply: nothing was taken for a second command


@pytest.mark.parametrize("place", ["ENVID", "ORCPT", "ORCPT-utf-8"])
def test_fault_5_no_control_character_is_taken_as_xtext_either(client: Wire, place: str) -> None:
    begin(client, place)
    for octets in (*XTEXT, b"\\x{A}", b"\\x{85}"):
        if place != "ORCPT-utf-8" and octets.startswith(b"\\"):
            continue  # harmless characters there
        assert client.ask(PLACES[place].replace(b"%b", octets)).startswith(b"501 5.5.4"), octets


def test_fault_5_none_of_it_got_anywhere(world: World, daemon: Daemon) -> None:
    """After the tests above, and after a message by the same daemon: upstream, in headers, and in the log."""
    with Wire(daemon.smtp_port) as client:
        subject = "after-hostile-octets"
        answer = client.message(f"{HEAD}Subject: {subject}\r\n\r\nx\r\n".encode())
        assert answer.startswith(b"250 2.0.0")
    received = world.arrived(subject)
    header = received.content.partition(b"\r\n\r\n")[0]
    names = [line.partition(b":")[0] for line in header.split(b"\r\n") if line[:1] not in (b" ", b"\t")]
    assert names.count(b"Received") == 1
    assert EVIL.encode() not in header
    assert not any(EVIL.encode() in line for _, line in world.sink.commands)
    for line in daemon.log_path.read_bytes().split(b"\n")[:-1]:
        assert all(octet >= 32 and octet != 127 for octet in line)
        assert isinstance(json.loads(line), dict)


def test_fault_6_helo_cannot_write_a_header(world: World, client: Wire) -> None:
    """Fault 6: what is allowed in a name has no blank, bracket or semicolon, so our Received field says what we mean."""
    for name in (b"a (evil [192.0.2.9])", b"a;evil", b"a\xc3\xa9", b"<a>", b'"a b"', b"a,b", b"[1.2.3.4] by evil", b"[a]"):
        assert client.ask(b"EHLO " + name).startswith(b"501"), name
    answer = client.message(f"{HEAD}Subject: helo-forms\r\n\r\nx\r\n".encode(), helo="[192.0.2.1]")
    assert answer.startswith(b"250")
    assert b"Received: from [192.0.2.1] (unknown [127.0.0.1])\r\n\tby mx.gateway.test" in world.arrived("helo-forms").content


def test_what_a_sender_asked_for_is_written_to_the_log_and_the_next_hop_as_it_was(world: World, daemon: Daemon) -> None:
    with Wire(daemon.smtp_port) as client:
        client.ask(b"EHLO client.example")
        assert client.ask(b"MAIL FROM:<a@origin.example> RET=hdrs ENVID=Log+20me+22+7B").startswith(b"250")
        assert client.ask(b"RCPT TO:<box@dest.example> notify=Failure ORCPT=RFC822;Box+2B1@Dest.example").startswith(b"250")
        assert client.ask(b"DATA").startswith(b"354")
        assert client.ask(f"{HEAD}Subject: as-it-was\r\n\r\nx\r\n.".encode()).startswith(b"250")
    row = until(
        "the record", lambda: next((row for row in daemon.log() if row["event"] == "accepted" and "envid" in row), None)
    )
    assert (row["ret"], row["envid"]) == ("hdrs", "Log+20me+22+7B")
    assert row["dsn"] == [{"recipient": "box@dest.example", "notify": "Failure", "orcpt": "RFC822;Box+2B1@Dest.example"}]
    received = world.arrived("as-it-was")
    assert received.mail_line.endswith(b" RET=hdrs ENVID=Log+20me+22+7B")
    assert received.rcpt_lines == (b"RCPT TO:<box@dest.example> NOTIFY=Failure ORCPT=RFC822;Box+2B1@Dest.example",)


# --- UTF-8 and IDN


BROKEN = [
    b"\xff",
    b"\xc3",
    b"\xc3\x28",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\x80",
]


@pytest.mark.parametrize("octets", BROKEN, ids=lambda octets: octets.hex())
def test_fault_22_broken_utf_8_is_refused_wherever_it_stands(client: Wire, octets: bytes) -> None:
    """Fault 22: with SMTPUTF8 and without, and never by a fault of ours."""
    client.ask(b"EHLO client.example")
    for line in (b"MAIL FROM:<a%b@origin.example>", b"MAIL FROM:<a@b%b.example>", b"MAIL FROM:<a@b.example> ENVID=%b"):
        for behind in (b"", b" SMTPUTF8"):
            assert client.ask(line.replace(b"%b", octets) + behind).startswith(b"501")
    client.ask(b"MAIL FROM:<a@origin.example> SMTPUTF8")
    for line in (b"RCPT TO:<a%b@dest.example>", b"RCPT TO:<a@b%b.example>", b"RCPT TO:<a@dest.example> ORCPT=utf-8;%b"):
        assert client.ask(line.replace(b"%b", octets)).startswith(b"501")
    assert client.ask(b"VRFY " + octets).startswith(b"501")
    assert client.ask(b"EHLO " + octets).startswith(b"501")
    assert client.ask(b"HELP " + octets).startswith(b"214")


def test_fault_22_an_address_in_utf_8_wants_smtputf8(client: Wire) -> None:
    client.ask(b"EHLO client.example")
    for sender in ("bücher@origin.example", "a@bücher.example", '"ü"@origin.example'):
        assert client.ask(f"MAIL FROM:<{sender}>".encode()).startswith(b"553 5.6.7")
    assert client.ask(b"MAIL FROM:<a@origin.example>").startswith(b"250")
    for recipient in ("bücher@dest.example", "a@bücher.example"):
        assert client.ask(f"RCPT TO:<{recipient}>".encode()).startswith(b"553 5.6.7")


@pytest.mark.parametrize("domain", ["xn---", "xn--", "xn--a", "xn--\u00fc", "a.xn--zzzzzz", "xn--80ak6aa92e-"])
def test_fault_23_a_label_that_idna_does_not_know_is_501(client: Wire, domain: str) -> None:
    """Fault 23."""
    client.ask(b"EHLO client.example")
    assert client.ask(f"MAIL FROM:<a@{domain}> SMTPUTF8".encode()).startswith(b"501 5.1.7")
    assert client.ask(b"MAIL FROM:<> SMTPUTF8").startswith(b"250")
    assert client.ask(f"RCPT TO:<a@{domain}>".encode()).startswith(b"501 5.1.3")


def test_fault_23_a_look_alike_is_passed_on_as_what_it_is(world: World, client: Wire) -> None:
    """Fault 23: it is not taken for what it looks like, and not rewritten either."""
    sender = "a@pаypal.example"  # a Cyrillic letter
    client.ask(b"EHLO client.example")
    assert client.ask(f"MAIL FROM:<{sender}> SMTPUTF8".encode()).startswith(b"250")
    assert client.ask(b"RCPT TO:<box@dest.example>").startswith(b"250")
    assert client.ask(b"DATA").startswith(b"354")
    assert client.ask(f"{HEAD}Subject: look-alike\r\n\r\nx\r\n.".encode()).startswith(b"250")
    received = world.arrived("look-alike")
    assert received.sender == sender
    assert b" SMTPUTF8" in received.mail_line
