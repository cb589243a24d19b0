# SPDX-License-Identifier: Apache-2.0
"""Trace fields: one Received, one Authentication-Results, nothing forged, nothing injected."""

import threading
from dataclasses import replace
from ipaddress import ip_address
from itertools import permutations
from pathlib import Path

import pytest

from gateway.auth.authres import claims
from gateway.edge import transfer
from gateway.edge.trace import LARGE_HEADER, received, stamp, without_forgeries
from gateway.mail.address import Address
from gateway.mail.envelope import Client, Recipient, Tls, Transaction
from gateway.mail.job import QueueId
from gateway.mail.message import Message, parse_fields
from gateway.mail.verdict import AuthResult
from tests.support.edges import CONTENT, GREET, MAIL, run, running

NOW = 1_700_000_000.9
CLIENT = Client(
    session="s", ip=ip_address("192.0.2.1"), port=5, listener="l", role="mx", connected=0.0, helo="client.example", esmtp=True
)
TLS = Tls(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", bits=256)


def transaction(client: Client = CLIENT, *recipients: str, smtputf8: bool = False) -> Transaction:
    tx = Transaction(client=client, id=QueueId("0123456789ABCDEF"), started=NOW, sender=Address("a", "b.example"))
    tx.recipients = [Recipient(Address(*each.rsplit("@", 1))) for each in recipients]
    tx.smtputf8 = smtputf8
    tx.message = Message.parse(b"Subject: x\r\n\r\nbody\r\n")
    return tx


def unfolded(field: bytes) -> str:
    (only,) = parse_fields(field)
    return " ".join(only.unfolded.decode().split())


def test_received_says_from_by_with_id_for_and_when() -> None:
    assert unfolded(received(transaction(CLIENT, "c@dest.example"), "mx.example.test", NOW)) == (
        "from client.example (unknown [192.0.2.1]) by mx.example.test with ESMTP id 0123456789ABCDEF "
        "for <c@dest.example>; Tue, 14 Nov 2023 22:13:20 +0000"
    )


def test_two_recipients_do_not_hear_of_each_other() -> None:
    """RFC 5321 §7.2: a blind copy must stay blind."""
    field = received(transaction(CLIENT, "c@dest.example", "d@dest.example"), "mx.example.test", NOW)
    assert b"dest.example" not in field


@pytest.mark.parametrize(
    ("client", "smtputf8", "protocol"),
    [
        (CLIENT, False, "ESMTP"),
        (replace(CLIENT, tls=TLS), False, "ESMTPS"),
        (replace(CLIENT, esmtp=False), False, "SMTP"),
        (CLIENT, True, "UTF8SMTP"),
        (replace(CLIENT, tls=TLS), True, "UTF8SMTPS"),
    ],
)
def test_the_protocol_is_named_as_registered(client: Client, smtputf8: bool, protocol: str) -> None:
    assert f"with {protocol} id" in unfolded(received(transaction(client, smtputf8=smtputf8), "mx.example.test", NOW))


def test_ipv6_is_marked() -> None:
    assert "[IPv6:2001:db8::1]" in unfolded(received(transaction(replace(CLIENT, ip=ip_address("2001:db8::1"))), "mx", NOW))


def test_tls_is_told() -> None:
    assert "(TLSv1.3 TLS_AES_256_GCM_SHA384 256 bits)" in unfolded(received(transaction(replace(CLIENT, tls=TLS)), "mx", NOW))


def test_results_stand_above_received_and_the_rest_is_untouched() -> None:
    tx = transaction(CLIENT, "c@dest.example")
    tx.auth.append(AuthResult("spf", "pass", properties=(("smtp.mailfrom", "a@b.example"),)))
    message = stamp(tx, "mx.example.test", NOW)
    names = [field.name for field in parse_fields(message.trace)]
    assert names == [b"Authentication-Results", b"Received"]
    assert b"spf=pass" in message.trace
    assert (message.header, message.body) == (b"Subject: x\r\n", b"\r\nbody\r\n")


def test_without_results_there_is_no_results_field() -> None:
    assert b"Authentication-Results" not in stamp(transaction(), "mx.example.test", NOW).trace


def test_forged_results_in_our_name_go_others_stay() -> None:
    """RFC 8601 §5: a sender must not be able to say in our name that its mail is genuine."""
    tx = transaction()
    other = b"Authentication-Results: other.example; spf=fail\r\n"
    tx.message = Message.parse(
        b"AUTHENTICATION-results : mx.example.test; spf=pass\r\nA: 1\r\n"
        + other
        + b"Authentication-Results:\r\n mx.example.test; dkim=pass\r\nSubject: x\r\n\r\nbody\r\n"
    )
    assert stamp(tx, "mx.example.test", NOW).header == b"A: 1\r\n" + other + b"Subject: x\r\n"


def test_no_line_is_longer_than_a_line_may_be() -> None:
    client = replace(CLIENT, helo="x." * 120 + "example", tls=TLS)
    field = received(transaction(client, "l" * 64 + "@" + "d." * 90 + "example"), "mx.example.test", NOW)
    assert max(map(len, field.split(b"\r\n"))) <= 998


def test_stamping_nothing_is_a_mistake() -> None:
    tx = transaction()
    tx.message = None
    with pytest.raises(ValueError, match="no message"):
        stamp(tx, "mx.example.test", NOW)


PIECES = (
    b"Authentication-Results: mx.example.test; spf=pass\r\n",
    b"authentication-results\t :\r\n\t(x) mx.example.test;\r\n dkim=pass\r\n",
    b"AUTHENTICATION-RESULTS:\r\n",
    b"Authentication-Results: other.example; spf=pass\r\n",
    b"Authentication-Results mx.example.test\r\n",
    b"X-Authentication-Results: mx.example.test; spf=pass\r\n",
    b" Authentication-Results: mx.example.test; folded\r\n",
    b"A: \xc4\x80\r\n",
)


@pytest.mark.parametrize("order", list(permutations(range(len(PIECES)), 3)))
def test_searching_for_forgeries_finds_what_splitting_would(order: tuple[int, ...]) -> None:
    header = b"".join(PIECES[at] for at in order)
    message = Message(b"", header, b"\r\n")
    kept = [
        field.raw
        for field in message.fields
        if not (field.name.lower() == b"authentication-results" and claims(field.value, "mx.example.test"))
    ]
    assert without_forgeries(message, "mx.example.test").header == b"".join(kept)


def test_a_header_bomb_is_not_taken_apart_for_forgeries(monkeypatch: pytest.MonkeyPatch) -> None:
    """250,000 fields took most of a second, in which no other session got on."""
    monkeypatch.setattr(Message, "fields", property(lambda self: pytest.fail("the header was split")))
    forged = b"Authentication-Results: mx.example.test; spf=pass\r\n"
    message = Message(b"", b"a:\r\n" * 125_000 + forged + b"a:\r\n" * 125_000, b"\r\n")
    assert without_forgeries(message, "mx.example.test").header == b"a:\r\n" * 250_000


@pytest.mark.parametrize(("octets", "in_thread"), [(1000, False), (LARGE_HEADER, True)])
def test_only_a_large_header_is_stamped_in_a_thread(
    octets: int, in_thread: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        threads = []
        monkeypatch.setattr(transfer, "stamp", lambda *told: threads.append(threading.current_thread()) or stamp(*told))
        async with running(tmp_path) as place:
            header = b"A: 345678\r\n" * (octets // 11 + 1)
            assert b"queued as" in await place.talk(GREET, MAIL, header + CONTENT, b"QUIT\r\n")
            assert place.intake.stored[0].message.trace.startswith(b"Received: ")
            assert [thread is not threading.current_thread() for thread in threads] == [in_thread]

    run("asyncio", main())
