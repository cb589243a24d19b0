# SPDX-License-Identifier: Apache-2.0
"""The Message-ID as the log shows it, whatever a sender wrote."""

import pytest

from gateway.mail.message import Message
from gateway.queue.intake import message_id


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"Message-ID: <a@b>\r\n", "<a@b>"),
        (b"From: x\r\nMESSAGE-id :<a@b>  \r\nTo: y\r\n", "<a@b>"),
        (b"Message-ID:\r\n <folded@b>\r\n", "<folded@b>"),
        (b"Message-ID-Old: no\r\nMessage-ID: <a@b>\r\n", "<a@b>"),
        (b"X-Message-ID: <no@b>\r\nSubject: Message-ID: <no@b>\r\n", ""),
        (b"Message-ID: <a\x1b[2J\xff@b>\r\n", "<a?[2J\ufffd@b>"),
        (b"Message-ID: " + b"x" * 5000 + b"\r\n", "x" * 250),
        (b"", ""),
    ],
)
def test_message_id(header: bytes, text: str) -> None:
    assert message_id(Message(b"", header, b"")) == text
