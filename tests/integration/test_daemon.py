# SPDX-License-Identifier: Apache-2.0
"""The daemon from outside: retry, bounces, refusals, counters, log, signals, reload, the lock on its data."""

import asyncio
import email
import email.policy
import json
import signal
import smtplib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.auth.dkim_sign import SigningKey, sign
from gateway.mail.message import Message
from tests.support.daemon import Daemon
from tests.support.dnsserver import DnsServer
from tests.support.sink import Sink

GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
WORKERS = [1, 2]


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    async with Sink() as server:
        yield server


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with DnsServer() as server:
        server.add("spoofed.example", "TXT", "v=spf1 ip4:192.0.2.1 -all")
        yield server


def tables(sink: Sink, dns: DnsServer, *, retry: str = '"1s"', expire: str = "5d", networks: str = "") -> str:
    return f'''
[relay]
domains = ["dest.example"]
networks = [{networks}]
[[route]]
domains = ["dest.example", "origin.example"]
to = "smtp://127.0.0.1:{sink.port}"
[dns]
nameservers = ["{dns.address}"]
[queue]
retry = [{retry}]
expire = "{expire}"
'''


def message(subject: str, text: str = "hello") -> bytes:
    return (
        f"From: a@origin.example\r\nTo: box@dest.example\r\nSubject: {subject}\r\nMessage-ID: <{subject}@origin.example>\r\n"
        f"Date: Sun, 22 Nov 2026 08:00:00 +0000\r\n\r\n{text}\r\n"
    ).encode()


def submit(daemon: Daemon, recipients: list[str], content: bytes, sender: str = "a@origin.example") -> str:
    """Send one message; the queue id from the 250."""
    with smtplib.SMTP("127.0.0.1", daemon.smtp_port, local_hostname="client.example", timeout=30) as client:
        client.ehlo()
        assert client.mail(sender)[0] == 250
        for recipient in recipients:
            assert client.rcpt(recipient)[0] == 250
        code, text = client.data(content)
        assert code == 250, text
        return text.decode().rsplit(" ", 1)[1]


def ask(daemon: Daemon, sender: str, recipient: str, content: bytes | None = None) -> tuple[int, bytes]:
    """The reply to RCPT, or to the content if there is one."""
    with smtplib.SMTP("127.0.0.1", daemon.smtp_port, local_hostname="client.example", timeout=30) as client:
        client.ehlo()
        assert client.mail(sender)[0] == 250
        reply = client.rcpt(recipient)
        return client.data(content) if content is not None else reply


def in_data(daemon: Daemon) -> smtplib.SMTP:
    """A client that has been told to send its content."""
    client = smtplib.SMTP("127.0.0.1", daemon.smtp_port, local_hostname="client.example", timeout=30)
    client.ehlo()
    client.mail("a@origin.example")
    client.rcpt("box@dest.example")
    assert client.docmd("DATA")[0] == 354
    return client


async def started(tmp_path: Path, text: str, workers: int = 1) -> Daemon:
    daemon = Daemon(tmp_path, text, workers=workers)
    await asyncio.to_thread(daemon.start)
    return daemon


@pytest.fixture
async def daemon(tmp_path: Path, sink: Sink, dns: DnsServer) -> AsyncIterator[Daemon]:
    instance = await started(tmp_path, tables(sink, dns))
    yield instance
    instance.close()


async def test_a_next_hop_that_is_down_gets_the_mail_when_it_comes_back(daemon: Daemon, sink: Sink) -> None:
    await sink.stop()
    queue_id = await asyncio.to_thread(submit, daemon, ["box@dest.example"], message("later"))
    await daemon.until("two attempts failed", lambda: daemon.metric("gateway_recipients_deferred_total") >= 2)
    listed = await asyncio.to_thread(daemon.queue)
    assert [row["id"] for row in listed] == [queue_id]
    assert listed[0]["recipients"][0]["state"] == "deferred"
    assert listed[0]["recipients"][0]["attempts"] >= 2
    await sink.start()
    await sink.wait(1)
    await daemon.until("the queue is empty", lambda: not daemon.queue())


async def test_a_permanent_refusal_of_one_of_three_bounces_that_one(daemon: Daemon, sink: Sink) -> None:
    names = ["one@dest.example", "two+550-at-rcpt@dest.example", "three@dest.example"]
    queue_id = await asyncio.to_thread(submit, daemon, names, message("partly"))
    await sink.wait(2)
    first, bounce = sink.messages
    assert first.recipients == ("one@dest.example", "three@dest.example")
    assert bounce.sender == ""
    assert bounce.recipients == ("a@origin.example",)
    report = email.message_from_bytes(bounce.content, policy=email.policy.SMTP)
    assert report.get_content_type() == "multipart/report"
    text, status, returned = report.iter_parts()
    assert queue_id in text.get_content()
    assert "two+550-at-rcpt@dest.example" in text.get_content()
    fields = status.get_payload()[1]
    assert fields["Action"] == "failed"
    assert fields["Final-Recipient"] == "rfc822; two+550-at-rcpt@dest.example"
    assert fields["Status"].startswith("5.")
    assert "<partly@origin.example>" in returned.as_string()
    assert daemon.metric("gateway_recipients_delivered_total") == 3
    assert daemon.metric("gateway_recipients_bounced_total") == 1


async def test_a_temporary_refusal_of_one_of_two_retries_that_one_only(daemon: Daemon, sink: Sink) -> None:
    sink.fail_next(1, 450, "rcpt")
    await asyncio.to_thread(submit, daemon, ["one@dest.example", "two@dest.example"], message("again"))
    await sink.wait(2)
    assert sorted(tuple(received.recipients) for received in sink.messages) == [("one@dest.example",), ("two@dest.example",)]
    assert daemon.metric("gateway_recipients_deferred_total") == 1


async def test_mail_that_expires_is_returned(tmp_path: Path, sink: Sink, dns: DnsServer) -> None:
    daemon = await started(tmp_path, tables(sink, dns, expire="2s"))
    try:
        await asyncio.to_thread(submit, daemon, ["x+451-at-rcpt@dest.example"], message("old"))
        await sink.wait(1)
        assert sink.messages[0].sender == ""
        assert b"Status: 4.4.7" in sink.messages[0].content
    finally:
        daemon.close()


async def test_a_bounce_that_cannot_be_delivered_makes_no_other_bounce(daemon: Daemon, sink: Sink) -> None:
    sender = "gone+550-at-rcpt@origin.example"
    await asyncio.to_thread(submit, daemon, ["x+550-at-rcpt@dest.example"], message("double"), sender)
    await daemon.until("both are settled", lambda: daemon.metric("gateway_recipients_bounced_total") == 2)
    await daemon.until("the queue is empty", lambda: not daemon.queue())
    assert not sink.messages


@pytest.mark.parametrize("networks", ["", '"127.0.0.0/8"'], ids=["untrusted", "trusted"])
async def test_a_spoofed_sender_is_refused_and_explained(tmp_path: Path, sink: Sink, dns: DnsServer, networks: str) -> None:
    daemon = await started(tmp_path, tables(sink, dns, networks=networks))
    try:
        code, text = await asyncio.to_thread(ask, daemon, "ceo@spoofed.example", "box@dest.example")
        assert code == 550
        assert text.startswith(b"5.7.23 ")
        await daemon.until("the log has it", lambda: [row for row in daemon.log() if row["event"] == "rejected"])
        record = next(row for row in daemon.log() if row["event"] == "rejected")
        told = await asyncio.to_thread(daemon.command, "explain", record["id"])
        assert told.returncode == 0, told.stderr
        assert "spf" in told.stdout
        assert "v=spf1 ip4:192.0.2.1 -all" in told.stdout
        as_json = await asyncio.to_thread(daemon.command, "explain", record["id"], "--json")
        assert json.loads(as_json.stdout)
    finally:
        daemon.close()


async def test_gtube_is_refused_in_the_session(daemon: Daemon) -> None:
    code, text = await asyncio.to_thread(ask, daemon, "a@origin.example", "box@dest.example", message("spam", GTUBE))
    assert (code, text[:6]) == (554, b"5.7.1 ")
    assert daemon.metric("gateway_messages_rejected_total") == 1


async def test_a_signed_message_carries_its_result_and_a_forged_one_is_taken_out(
    daemon: Daemon, sink: Sink, dns: DnsServer
) -> None:
    key = SigningKey.generate("signed.example", "s1")
    dns.add(key.record_name, "TXT", key.record.decode())
    forged = b"Authentication-Results: mx.gateway.test; dkim=pass header.d=bank.example\r\n"
    others = b"Authentication-Results: elsewhere.example; dkim=fail\r\n"
    content = forged + others + sign(message("signed"), key) + message("signed")
    await asyncio.to_thread(submit, daemon, ["box@dest.example"], content)
    await sink.wait(1)
    received = sink.messages[0].content
    results = [field.unfolded for field in Message.parse(received).fields if field.name == b"Authentication-Results"]
    assert len(results) == 2
    assert results[0].startswith(b"mx.gateway.test;")
    assert b"dkim=pass header.d=signed.example" in results[0]
    assert results[1] == b"elsewhere.example; dkim=fail"
    assert received.endswith(content.removeprefix(forged))


async def test_a_stranger_cannot_relay(daemon: Daemon) -> None:
    code, text = await asyncio.to_thread(ask, daemon, "a@origin.example", "box@elsewhere.example")
    assert (code, text[:21]) == (550, b"5.7.1 Relaying denied")


@pytest.mark.parametrize("workers", WORKERS)
async def test_counters_log_and_ids_agree_with_client_and_sink(
    tmp_path: Path, sink: Sink, dns: DnsServer, workers: int
) -> None:
    daemon = await started(tmp_path, tables(sink, dns), workers)
    try:
        ids = [await asyncio.to_thread(submit, daemon, ["box@dest.example"], message(f"n{n}")) for n in range(20)]
        await sink.wait(20)
        await daemon.until("all are settled", lambda: daemon.metric("gateway_recipients_delivered_total") == 20)
        assert daemon.metric("gateway_messages_accepted_total") == 20
        assert daemon.metric("gateway_recipients_deferred_total") == 0
        received = b"".join(copy.content for copy in sink.messages).decode()
        await daemon.until("the log is written", lambda: sum(row["event"] == "finished" for row in daemon.log()) == 20)
        logged = {row.get("id") for row in daemon.log()}
        for queue_id in ids:
            assert f"id {queue_id}" in received
            assert queue_id in logged
        told = await asyncio.to_thread(daemon.command, "explain", ids[0])
        assert told.returncode == 0, told.stderr
        assert ids[0] in told.stdout
        assert await asyncio.to_thread(daemon.stop) == 0
        assert all("time" in row and "event" in row for row in daemon.log())
    finally:
        daemon.close()


async def test_explain_and_queue_work_while_no_daemon_runs(daemon: Daemon, sink: Sink) -> None:
    await sink.stop()
    queue_id = await asyncio.to_thread(submit, daemon, ["box@dest.example"], message("kept"))
    assert await asyncio.to_thread(daemon.stop) == 0
    assert [row["id"] for row in await asyncio.to_thread(daemon.queue)] == [queue_id]
    assert (await asyncio.to_thread(daemon.command, "explain", queue_id)).returncode == 0
    assert (await asyncio.to_thread(daemon.command, "queue", "delete", queue_id)).returncode == 0
    assert await asyncio.to_thread(daemon.queue) == []
    assert (await asyncio.to_thread(daemon.command, "queue", "show", queue_id)).returncode == 1


@pytest.mark.parametrize("workers", WORKERS)
async def test_queue_commands_on_a_running_daemon(tmp_path: Path, sink: Sink, dns: DnsServer, workers: int) -> None:
    daemon = await started(tmp_path, tables(sink, dns, retry='"1h"'), workers)
    try:
        sink.behaviours = {"451-at-rcpt"}
        queue_id = await asyncio.to_thread(submit, daemon, ["box@dest.example"], message("held"))
        await daemon.until("it is deferred", lambda: daemon.queue()[0]["state"] == "deferred")
        assert (await asyncio.to_thread(daemon.command, "queue", "hold", queue_id)).returncode == 0
        assert (await asyncio.to_thread(daemon.queue))[0]["state"] == "held"
        sink.behaviours = set()
        assert (await asyncio.to_thread(daemon.command, "queue", "release", queue_id)).returncode == 0
        await sink.wait(1)
        sink.behaviours = {"451-at-rcpt"}
        await asyncio.to_thread(submit, daemon, ["box@dest.example"], message("again"))
        await daemon.until("it is deferred", lambda: [row["state"] for row in daemon.queue()] == ["deferred"])
        sink.behaviours = set()
        assert (await asyncio.to_thread(daemon.command, "queue", "retry", "--domain", "dest.example")).returncode == 0
        await sink.wait(2)
    finally:
        daemon.close()


@pytest.mark.parametrize("workers", WORKERS)
async def test_a_second_daemon_on_the_same_data_is_refused(tmp_path: Path, sink: Sink, dns: DnsServer, workers: int) -> None:
    daemon = await started(tmp_path, tables(sink, dns), workers)
    try:
        (tmp_path / "second").mkdir()
        second = Daemon(tmp_path / "second", tables(sink, dns))
        text = second.config_path.read_text().replace(str(second.data_dir), str(daemon.data_dir))
        second.config_path.write_text(text)
        second.start(wait=False)
        assert second.process
        assert await asyncio.to_thread(second.process.wait, 30) == 2
        assert "data_dir" in second.log_path.read_text()
    finally:
        daemon.close()


@pytest.mark.parametrize("workers", WORKERS)
async def test_a_bad_reload_keeps_the_old_configuration_and_says_why(
    tmp_path: Path, sink: Sink, dns: DnsServer, workers: int
) -> None:
    daemon = await started(tmp_path, tables(sink, dns), workers)
    try:
        assert daemon.process
        good = daemon.config_path.read_text()
        daemon.config_path.write_text(good + '\n[queeu]\nretry = ["1s"]\n')
        daemon.process.send_signal(signal.SIGHUP)
        await daemon.until("it says so", lambda: "did you mean 'queue'" in daemon.log_path.read_text())
        await asyncio.to_thread(submit, daemon, ["box@dest.example"], message("still"))
        await sink.wait(1)
        daemon.config_path.write_text(good.replace('domains = ["dest.example"]\nnet', 'domains = ["other.example"]\nnet'))
        daemon.process.send_signal(signal.SIGHUP)
        reloads = max(1, workers)
        await daemon.until(
            "the new one is in force", lambda: sum(row.get("what") == "reloaded" for row in daemon.log()) >= reloads
        )
        assert (await asyncio.to_thread(ask, daemon, "a@origin.example", "box@dest.example"))[0] == 550
    finally:
        daemon.close()


@pytest.mark.parametrize("workers", WORKERS)
async def test_sigterm_lets_a_running_transaction_finish(tmp_path: Path, sink: Sink, dns: DnsServer, workers: int) -> None:
    daemon = await started(tmp_path, tables(sink, dns), workers)
    try:
        assert daemon.process
        idle = await asyncio.to_thread(smtplib.SMTP, "127.0.0.1", daemon.smtp_port, timeout=30)
        client = await asyncio.to_thread(in_data, daemon)
        daemon.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(idle.getreply) == (421, b"4.3.2 Service shutting down, try again later")
        client.send(message("last") + b".\r\n")
        assert (await asyncio.to_thread(client.getreply))[0] == 250
        assert await asyncio.to_thread(daemon.process.wait, 60) == 0
    finally:
        daemon.close()


async def test_a_worker_that_is_killed_is_replaced(tmp_path: Path, sink: Sink, dns: DnsServer) -> None:
    daemon = await started(tmp_path, tables(sink, dns), 2)
    try:
        status = json.loads(daemon.get("/api/v1/status"))
        victim = status["workers"][1]["pid"]
        import os

        os.kill(victim, signal.SIGKILL)

        def replaced() -> bool:
            worker = json.loads(daemon.get("/api/v1/status"))["workers"][1]
            return worker["ready"] and worker["pid"] != victim

        await daemon.until("a new one is ready", replaced)
        await asyncio.to_thread(submit, daemon, ["box@dest.example"], message("after"))
        await sink.wait(1)
    finally:
        daemon.close()


async def test_mail_of_workers_that_are_no_more_is_delivered(tmp_path: Path, sink: Sink, dns: DnsServer) -> None:
    daemon = await started(tmp_path, tables(sink, dns), 2)
    try:
        sink.behaviours = {"451-at-rcpt"}
        for number in range(30):
            await asyncio.to_thread(submit, daemon, ["box@dest.example"], message(f"n{number}"))
        assert await asyncio.to_thread(daemon.stop) == 0
        assert (daemon.data_dir / "queue/1.sqlite").exists()
        sink.behaviours = set()
        daemon.workers = 1
        daemon.write_config()
        await asyncio.to_thread(daemon.start)
        await sink.wait(30, timeout=60)
    finally:
        daemon.close()
