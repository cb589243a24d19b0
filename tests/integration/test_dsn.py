# SPDX-License-Identifier: Apache-2.0
"""DSN through a live daemon: from MAIL and RCPT over the queue to the next hop, and back as a notice (RFC 3461)."""

import email
import email.policy
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.sink import DEFAULT_EXTENSIONS
from tests.support.world import Wire, World, until

CONTENT = (
    "From: a@origin.example\r\nTo: box@dest.example\r\nSubject: %s\r\nMessage-ID: <%s@origin.example>\r\n"
    "Date: Sun, 22 Nov 2026 08:00:00 +0000\r\n\r\nthe body\r\n"
)


@pytest.fixture
def world() -> Iterator[World]:
    with World() as instance:
        yield instance


def start(world: World, folder: Path, **tables: str) -> Daemon:
    box = f'[[route]]\ndomains = ["box.example"]\nto = "maildir:{folder}/box"'
    return Daemon(folder, world.tables(networks='"127.0.0.0/8"', route=box, **tables))


def send(daemon: Daemon, subject: str, *recipients: str, mail: str = "") -> None:
    """One message; `recipients` are what stands behind RCPT TO:, `mail` the parameters of MAIL."""
    with Wire(daemon.smtp_port) as client:
        assert b"250-DSN" in client.ask(b"EHLO client.example")
        assert client.ask(f"MAIL FROM:<a@origin.example> {mail}".encode()).startswith(b"250")
        for recipient in recipients:
            assert client.ask(f"RCPT TO:{recipient}".encode()).startswith(b"250")
        assert client.ask(b"DATA").startswith(b"354")
        assert client.ask(f"{CONTENT % (subject, subject)}.".encode()).startswith(b"250")


def notice(world: World, subject: str) -> EmailMessage:
    """The notice about that message, when it has come."""
    wanted = f"In-Reply-To: <{subject}@origin.example>".encode()
    received = world.received(lambda copy: wanted in copy.content)
    assert (received.sender, received.recipients) == ("", ("a@origin.example",))
    parsed = email.message_from_bytes(received.content, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def groups(message: EmailMessage) -> list[Any]:
    """The fields of the status part, group by group."""
    part: Any = list(message.iter_parts())[1]
    return list(part.get_payload())


def test_a_sender_who_asked_hears_how_far_his_mail_came(world: World, tmp_path: Path) -> None:
    """One notice for a refusal, a host without DSN and a mailbox of ours would be three settlements: each has its own."""
    with start(world, tmp_path) as daemon:
        send(
            daemon,
            "relayed",
            "<box@dest.example> NOTIFY=SUCCESS ORCPT=rfc822;Old+2Bname@x.example",
            mail="RET=FULL ENVID=Id+2B1",
        )
        told = notice(world, "relayed")
        general, about = groups(told)
        assert general["Original-Envelope-Id"] == "Id+1"
        assert about["Original-Recipient"] == "rfc822; Old+name@x.example"
        assert about["Final-Recipient"] == "rfc822; box@dest.example"
        assert (about["Action"], about["Status"]) == ("relayed", "2.0.0")
        assert list(told.iter_parts())[2].get_content_type() == "text/rfc822-headers"
        assert b"NOTIFY" not in world.arrived("relayed").rcpt_lines[0]

        send(daemon, "mailbox", "<x@box.example> NOTIFY=SUCCESS")
        assert groups(notice(world, "mailbox"))[1]["Action"] == "delivered"
        assert daemon.stop() == 0


def test_a_host_that_knows_dsn_is_left_to_tell(world: World, tmp_path: Path) -> None:
    world.sink.extensions = (*DEFAULT_EXTENSIONS, "DSN")
    with start(world, tmp_path) as daemon:
        send(daemon, "passed-on", "<box@dest.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x@y", mail="RET=HDRS ENVID=q")
        received = world.arrived("passed-on")
        assert received.mail_line.endswith(b" RET=HDRS ENVID=q")
        assert received.rcpt_lines == (b"RCPT TO:<box@dest.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;x@y",)
        until("it is done", lambda: [row for row in daemon.log() if row["event"] == "finished"])
        assert daemon.stop() == 0
    assert len(world.sink.messages) == 1


def test_a_failure_is_told_to_who_wants_to_know(world: World, tmp_path: Path) -> None:
    with start(world, tmp_path) as daemon:
        send(daemon, "silent", "<a+550-at-rcpt@dest.example> NOTIFY=NEVER", "<b+550-at-rcpt@dest.example> NOTIFY=SUCCESS,DELAY")
        until("it is done", lambda: [row for row in daemon.log() if row["event"] == "finished"])
        refused = [row for row in daemon.log() if row["event"] == "bounced"]
        assert [(row["notice"], row["why_not"]) for row in refused] == [(None, "not wanted")] * 2

        send(
            daemon,
            "told",
            "<c+550-at-rcpt@dest.example> NOTIFY=FAILURE",
            "<d+550-at-rcpt@dest.example> NOTIFY=NEVER",
            mail="RET=HDRS",
        )
        told = notice(world, "told")
        assert [about["Final-Recipient"] for about in groups(told)[1:]] == ["rfc822; c+550-at-rcpt@dest.example"]
        assert "the body" not in str(told)
        assert daemon.stop() == 0
    assert len(world.sink.messages) == 1


def test_what_was_asked_for_outlives_a_crash(world: World, tmp_path: Path) -> None:
    world.sink.extensions = (*DEFAULT_EXTENSIONS, "DSN")
    world.call(world.sink.fail_next, 1000, 451, "rcpt")
    with start(world, tmp_path) as daemon:
        send(daemon, "crash", "<box@dest.example> NOTIFY=FAILURE ORCPT=rfc822;x+2B@y", mail="ENVID=kept")
        until("a try", lambda: [row for row in daemon.log() if row["event"] == "attempted"])
        daemon.kill()
        world.call(world.sink._scripts.clear)
        daemon.start()
        received = world.arrived("crash")
        assert received.mail_line.endswith(b" ENVID=kept")
        assert received.rcpt_lines == (b"RCPT TO:<box@dest.example> NOTIFY=FAILURE ORCPT=rfc822;x+2B@y",)
