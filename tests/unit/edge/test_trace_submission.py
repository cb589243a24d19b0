# SPDX-License-Identifier: Apache-2.0
"""What a submission server may add, and says about its client; and that nobody else adds anything."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from gateway.edge.trace import received, stamp
from gateway.mail.address import Address
from gateway.mail.envelope import Client, Tls, Transaction
from gateway.mail.job import QueueId
from gateway.mail.message import Message

NOW = 1_700_000_000.9
DATE = b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
ID = b"Message-ID: <0123456789ABCDEF@mx.example.test>\r\n"
TLS = Tls(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", bits=256)
CLIENT = Client(
    session="s", ip=ip_address("192.0.2.1"), port=5, listener="l", role="submission", connected=0.0,
    helo="c.example", esmtp=True, tls=TLS, user="ann",
)  # fmt: skip


def stamped(content: bytes, **changes: Any) -> Message:
    tx = Transaction(
        client=replace(CLIENT, **changes), id=QueueId("0123456789ABCDEF"), started=NOW, sender=Address("a", "b.example")
    )
    tx.message = Message.parse(content)
    return stamp(tx, "mx.example.test", NOW)


@pytest.mark.parametrize(
    ("content", "added"),
    [
        (b"Subject: x\r\n\r\nDate: no\r\nMessage-ID: no\r\n", DATE + ID),
        (b"Date: x\r\n\r\nbody\r\n", ID),
        (b"Subject: x\r\nDATE : x\r\n\r\n", ID),
        (b"message-id:\r\n <a@b>\r\n\r\n", DATE),
        (b"Message-Id: <a@b>\r\ndate: x\r\n", b""),
        (b"Subject: x\r\n Date: folded\r\n\tMessage-ID: folded\r\n\r\n", DATE + ID),
        (b"X-Date: x\r\nDates: x\r\nResent-Message-ID: x\r\n\r\n", DATE + ID),
        (b"\r\nbody\r\n", DATE + ID),
        (b"", DATE + ID),
        (b" begins with a blank\r\n\r\nbody\r\n", b""),
        (b"\tbegins with a blank\r\n\r\nbody\r\n", b""),
    ],
)
def test_what_is_missing_is_added_above_and_nothing_below_changes(content: bytes, added: bytes) -> None:
    """RFC 6409 §8.2 and §8.3."""
    message = stamped(content)
    assert message.read() == message.trace + added + content
    assert message.trace.startswith(b"Received: ")
    assert message.header.startswith(added)


@pytest.mark.parametrize("content", [b"Subject: x\r\n\r\nbody\r\n", b"\r\n", b""])
def test_a_relay_adds_nothing(content: bytes) -> None:
    """RFC 5321 §6.4: whoever the client is."""
    message = stamped(content, role="mx")
    assert message.read() == message.trace + content


@pytest.mark.parametrize(
    ("changes", "smtputf8", "protocol"),
    [
        ({}, False, "ESMTPSA"),
        ({"tls": None}, False, "ESMTPA"),
        ({}, True, "UTF8SMTPSA"),
        ({"tls": None}, True, "UTF8SMTPA"),
        ({"user": ""}, False, "ESMTPS"),
    ],
)
def test_the_protocol_of_a_user_is_named_as_registered(changes: dict[str, Any], smtputf8: bool, protocol: str) -> None:
    """RFC 3848, RFC 6531 §4.3."""
    tx = Transaction(client=replace(CLIENT, **changes), id=QueueId("0123456789ABCDEF"), started=NOW, smtputf8=smtputf8)
    field = received(tx, "mx.example.test", NOW)
    assert f" with {protocol} id ".encode() in field
    assert b"ann" not in field, "who he is, is nobody's business"
