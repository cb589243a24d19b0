# SPDX-License-Identifier: Apache-2.0
"""Real clients → gateway → a real Postfix over STARTTLS, found by MX lookup in a real DNS server; octets equal."""

import asyncio
import re
import smtplib
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support import certificates
from tests.support.daemon import Daemon, free_ports
from tests.support.dnsserver import DnsServer
from tests.support.postfix import Postfix
from tests.support.shapes import Shape, below_trace, large, shapes

pytestmark = [pytest.mark.needs("root", "postfix"), pytest.mark.timeout(300)]

MESSAGES = 200


@pytest.fixture
def postfix(tmp_path: Path) -> Iterator[Postfix]:
    """Takes mail for dest.example, over TLS only."""
    port = free_ports(1)[0]
    instance = Postfix(port, "smtpd_tls_security_level = encrypt\nsmtpd_tls_loglevel = 1\n", domains="dest.example")
    made = certificates.make(instance.root / "etc", "mail.postfix.test")
    with (instance.root / "etc/main.cf").open("a") as main:
        main.write(f"smtpd_tls_cert_file = {made.certificate}\nsmtpd_tls_key_file = {made.key}\n")
    with instance:
        yield instance


@pytest.fixture
async def dns() -> AsyncIterator[DnsServer]:
    async with DnsServer() as server:
        server.add("dest.example", "MX", "10 mail.postfix.test")
        server.add("mail.postfix.test", "A", "127.0.0.1")
        yield server


@pytest.fixture
async def daemon(tmp_path: Path, postfix: Postfix, dns: DnsServer) -> AsyncIterator[Daemon]:
    tables = f'''
[relay]
domains = ["dest.example"]
networks = ["127.0.0.0/8"]
[dns]
nameservers = ["{dns.address}"]
[delivery]
port = {postfix.port}
forbidden_networks = []
'''
    instance = Daemon(tmp_path, tables)
    await asyncio.to_thread(instance.start)
    yield instance
    instance.close()


def send(port: int, shape: Shape) -> None:
    """One message by smtplib, its octets untouched."""
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.example") as client:
        client.ehlo()
        if shape.smtputf8:
            client.command_encoding = "utf-8"  # what smtplib's own sendmail does for SMTPUTF8
        options = (" BODY=8BITMIME" if shape.eight_bit else "") + (" SMTPUTF8" if shape.smtputf8 else "")
        for command in (f"MAIL FROM:<{shape.sender}>{options}", f"RCPT TO:<{shape.recipient}>"):
            code, text = client.docmd(command)
            assert code == 250, (shape, text)
        assert client.docmd("DATA")[0] == 354
        client.send(shape.content.replace(b"\r\n.", b"\r\n..") + b".\r\n")
        code, text = client.getreply()
        assert re.fullmatch(rb"2\.0\.0 Ok: queued as [0-9A-Z]{16}", text), (shape.marker, code, text)


async def test_messages_of_all_shapes_arrive_with_equal_octets(daemon: Daemon, postfix: Postfix) -> None:
    sent = [*shapes(MESSAGES), large()]

    def send_all() -> None:
        for shape in sent:
            send(daemon.smtp_port, shape)

    await asyncio.to_thread(send_all)
    stored = await asyncio.to_thread(postfix.wait_received, len(sent))
    received = [copy.replace(b"\n", b"\r\n") for copy in stored]
    by_marker = {re.search(rb"\r\nSubject: (shape-\S+)\r\n", copy)[1].decode(): copy for copy in received}  # type: ignore[index]
    assert len(by_marker) == len(sent)
    for shape in sent:
        assert below_trace(by_marker[shape.marker], shape.marker) == shape.content, shape.marker
    log = postfix.log()
    assert "TLSv1.3" in log
    assert "warning" not in log, log
    assert daemon.metric("gateway_messages_accepted_total") == len(sent)
    assert daemon.metric("gateway_recipients_delivered_total") == len(sent)


@pytest.mark.needs("smtp-source")
async def test_smtp_source_sends_through(daemon: Daemon, postfix: Postfix) -> None:
    command = ["smtp-source", "-s", "5", "-m", "50", "-l", "4096", "-f", "a@origin.example", "-t", "box@dest.example"]
    done = await asyncio.to_thread(
        subprocess.run, [*command, f"127.0.0.1:{daemon.smtp_port}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    await asyncio.to_thread(postfix.wait_received, 50)


@pytest.mark.needs("swaks")
async def test_swaks_sends_through(daemon: Daemon, postfix: Postfix) -> None:
    command = ["swaks", "--server", f"127.0.0.1:{daemon.smtp_port}", "--from", "a@origin.example", "--to", "box@dest.example"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "queued as" in done.stdout
    assert "<** " not in done.stdout  # how swaks marks a reply that it did not expect
    await asyncio.to_thread(postfix.wait_received, 1)
