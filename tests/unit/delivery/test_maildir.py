# SPDX-License-Identifier: Apache-2.0
"""Final delivery into a directory: whole or not at all."""

import asyncio
import mailbox
import os
import stat
import threading
from pathlib import Path

import pytest

from gateway.delivery.discard import DiscardTransport
from gateway.delivery.maildir import MaildirTransport
from gateway.mail import reply
from gateway.mail.events import Trouble
from gateway.mail.job import Deferred, Delivered, NextHop
from gateway.mail.message import FileBody, Message
from tests.support.clock import FakeClock
from tests.support.fakes import Events
from tests.support.fakework import CONTENT, job

MESSAGE = Message.parse(CONTENT).with_trace(b"Received: from us\r\n")


def make() -> tuple[MaildirTransport, Events]:
    events = Events()
    return MaildirTransport("mx.example", clock=FakeClock(), events=events), events


def hop(directory: Path) -> NextHop:
    return NextHop(kind="maildir", target=str(directory))


def files(directory: Path) -> list[Path]:
    return sorted((directory / "new").iterdir())


async def test_each_recipient_gets_a_file_with_all_octets(tmp_path: Path) -> None:
    transport, _ = make()
    outcomes = await transport.deliver(job("a@x.example", "b@x.example"), MESSAGE, hop(tmp_path / "box"))
    assert [type(outcome) for outcome in outcomes] == [Delivered, Delivered]
    first, second = files(tmp_path / "box")
    want = b"Return-Path: <ann@client.example>\r\nDelivered-To: a@x.example\r\nReceived: from us\r\n" + CONTENT
    assert first.read_bytes() == want
    assert b"Delivered-To: b@x.example\r\n" in second.read_bytes()
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert not list((tmp_path / "box" / "tmp").iterdir())


async def test_a_mail_reader_finds_it(tmp_path: Path) -> None:
    transport, _ = make()
    await transport.deliver(job("a@x.example"), MESSAGE, hop(tmp_path / "box"))
    (read,) = mailbox.Maildir(tmp_path / "box")
    assert read["Subject"] == "test"


async def test_the_null_sender_is_written_as_such(tmp_path: Path) -> None:
    transport, _ = make()
    await transport.deliver(job("a@x.example", sender=""), MESSAGE, hop(tmp_path))
    assert files(tmp_path)[0].read_bytes().startswith(b"Return-Path: <>\r\n")


async def test_a_body_in_a_file_is_copied(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"##\r\nlarge\r\n" * 10)
    transport, _ = make()
    message = Message(b"", b"A: b\r\n", FileBody(body, 2, body.stat().st_size - 2))
    await transport.deliver(job("a@x.example"), message, hop(tmp_path / "box"))
    assert files(tmp_path / "box")[0].read_bytes().endswith(b"A: b\r\n" + body.read_bytes()[2:])


async def test_names_are_not_used_twice_at_the_same_moment(tmp_path: Path) -> None:
    transport, _ = make()
    await asyncio.gather(*(transport.deliver(job("a@x.example"), MESSAGE, hop(tmp_path)) for _ in range(20)))
    assert len(files(tmp_path)) == 20


@pytest.mark.parametrize("call", ["fsync", "open", "mkdir", "rename"])
async def test_a_disk_fault_defers_and_leaves_nothing_in_new(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/secret/path")

    transport, events = make()
    monkeypatch.setattr(*((os, call) if call in {"fsync", "open"} else (Path, call)), fail)
    outcomes = await transport.deliver(job("a@x.example"), MESSAGE, hop(tmp_path / "box"))
    monkeypatch.undo()
    assert [type(outcome) for outcome in outcomes] == [Deferred]
    assert outcomes[0].reply is reply.MAILDIR_FAULT
    assert "secret" not in str(outcomes[0].reply)
    assert "No space" in events.of(Trouble)[0].detail
    assert not [path for path in (tmp_path / "box").rglob("*") if path.is_file()]


async def test_a_body_that_is_cut_short_is_not_delivered(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"\r\nshort")
    transport, _ = make()
    message = Message(b"", b"A: b\r\n", FileBody(body, 0, 1000))
    outcomes = await transport.deliver(job("a@x.example"), message, hop(tmp_path / "box"))
    assert isinstance(outcomes[0], Deferred)
    assert not files(tmp_path / "box")


async def test_what_was_written_is_reported_although_the_attempt_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    sync = os.fsync

    def slow(descriptor: int) -> None:
        begun.set()
        go.wait(20)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    transport, _ = make()
    task = asyncio.create_task(transport.deliver(job("a@x.example"), MESSAGE, hop(tmp_path)))
    await asyncio.to_thread(begun.wait, 20)
    task.cancel()
    await asyncio.sleep(0)
    go.set()
    assert [type(outcome) for outcome in await task] == [Delivered]
    assert len(files(tmp_path)) == 1


async def test_discard_delivers_to_nowhere() -> None:
    outcomes = await DiscardTransport().deliver(job("a@x.example", "b@x.example"), MESSAGE, NextHop(kind="discard", target=""))
    assert [outcome.reply for outcome in outcomes] == [reply.DISCARDED] * 2
