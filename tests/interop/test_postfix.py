# SPDX-License-Identifier: Apache-2.0
"""Clients → gateway → a real Postfix over STARTTLS, found by MX lookup in a real DNS server; octets equal."""

import re
import smtplib
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support import certificates
from tests.support.daemon import Daemon, free_ports
from tests.support.postfix import Postfix
from tests.support.shapes import Shape, below_trace, large, shapes
from tests.support.world import World

pytestmark = [pytest.mark.needs("root", "postfix"), pytest.mark.timeout(300)]

MESSAGES = 200


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    """Takes mail for dest.example, over TLS only."""
    port = free_ports(1)[0]
    instance = Postfix(port, "smtpd_tls_security_level = encrypt\nsmtpd_tls_loglevel = 1\n", domains="dest.example")
    made = certificates.make(instance.root / "etc", "mail.postfix.test")
    with (instance.root / "etc/main.cf").open("a") as main:
        main.write(f"smtpd_tls_cert_file = {made.certificate}\nsmtpd_tls_key_file = {made.key}\n")
    with instance:
        yield instance


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, postfix: Postfix) -> Iterator[Daemon]:
    with World() as world:
        world.call(world.dns.add, "dest.example", "MX", "10 mail.postfix.test")
        world.call(world.dns.add, "mail.postfix.test", "A", "127.0.0.1")
        tables = f'''
[relay]
domains = ["dest.example"]
networks = ["127.0.0.0/8"]
[dns]
nameservers = ["{world.dns.address}"]
[delivery]
port = {postfix.port}
forbidden_networks = []
'''
        with Daemon(tmp_path_factory.mktemp("relay"), tables) as instance:
            yield instance
            assert instance.stop() == 0
            assert not [row for row in instance.log() if row["event"] == "trouble"]


@pytest.fixture
def before(postfix: Postfix) -> Iterator[int]:
    """How many messages were there before the test; after it Postfix has no complaint."""
    yield len(postfix.received())
    assert not postfix.complaints()


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


def test_messages_of_all_shapes_arrive_with_equal_octets(daemon: Daemon, postfix: Postfix, before: int) -> None:
    sent = [*shapes(MESSAGES), large()]
    counters = ("gateway_messages_accepted_total", "gateway_recipients_delivered_total")
    wanted = [daemon.metric(name) + len(sent) for name in counters]
    for shape in sent:
        send(daemon.smtp_port, shape)
    stored = postfix.wait_received(before + len(sent))
    received = [copy.replace(b"\n", b"\r\n") for copy in stored]
    found = [(re.search(rb"\r\nSubject: (shape-\S+)\r\n", copy), copy) for copy in received]
    by_marker = {subject[1].decode(): copy for subject, copy in found if subject}
    assert len(by_marker) == len(sent)
    for shape in sent:
        assert below_trace(by_marker[shape.marker], shape.marker) == shape.content, shape.marker
    assert "TLSv1.3" in postfix.log()
    deadline = time.monotonic() + 30
    while (counted := [daemon.metric(name) for name in counters]) != wanted:  # an outcome is counted once it is durable
        assert time.monotonic() < deadline, (counted, wanted)
        time.sleep(0.02)


@pytest.mark.needs("smtp-source")
def test_smtp_source_sends_through(daemon: Daemon, postfix: Postfix, before: int) -> None:
    command = ["smtp-source", "-s", "5", "-m", "50", "-l", "4096", "-f", "a@origin.example", "-t", "box@dest.example"]
    done = subprocess.run([*command, f"127.0.0.1:{daemon.smtp_port}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    postfix.wait_received(before + 50)


@pytest.mark.slow
@pytest.mark.needs("smtp-source")
@pytest.mark.parametrize("keep", [[], ["-d"]], ids=["a-connection-each", "kept-connections"])
def test_smtp_source_sends_through_many_sessions(daemon: Daemon, postfix: Postfix, before: int, keep: list[str]) -> None:
    command = ["smtp-source", "-s", "40", "-m", "2000", "-l", "4096", "-r", "3", *keep]
    command += ["-f", "a@origin.example", "-t", "box@dest.example", f"127.0.0.1:{daemon.smtp_port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    postfix.wait_received(before + 6000, patience=240)
