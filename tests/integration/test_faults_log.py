# SPDX-License-Identifier: Apache-2.0
"""Whoever can put octets into the log tries to write a line of his own. Faults 5, 6 and 27.

Every way in: EHLO, addresses, names at AUTH, XCLIENT, PROXY, replies of next hops, subjects and ids at the admin address. The
log of the daemon must stay what it is: printable ASCII, one JSON object a line, one record an event; and the fields that we
write into messages stay ours.
"""

import contextlib
import json
import re
import ssl
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.infra.records import RECORDS
from tests.support import certificates, logins
from tests.support.daemon import Daemon, free_ports
from tests.support.hop import Hop
from tests.support.world import Wire, World, until

FORGED = '{"time":"2026-11-22T08:00:00.000Z","level":"info","event":"forged","id":"0000000000000000","disposition":true}'
EVIL = {
    "line-feed": f"x\n{FORGED}\n",
    "crlf": f"x\r\n{FORGED}\r\n",
    "quote": f'x"}}\n{FORGED}',
    "quote-alone": 'x","event":"forged","y":"',
    "backslash": "x\\",
    "escape": "x\x1b[2J\x1b]0;owned\x07",
    "c1": "x\x9b2J",
    "next-line": "x\x85forged",
    "line-separator": f"x\u2028{FORGED}\u2029",
    "right-to-left": "x\u202e\u2066gpj.exe",
    "nul": "x\0forged",
    "del": "x\x7f\x08\x08",
    "no-character": "x\ufffe\uffff\U0010ffff",
    "letters": "xüж中🙂",
    "long": "x" * 5000,
}
TABLES = """
xclient = ["127.0.0.0/8"]
[[listener]]
address = "127.0.0.1:{submission}"
role = "submission"
tls = "implicit"
xclient = ["127.0.0.3/32"]
[[listener]]
address = "127.0.0.1:{balanced}"
proxy_protocol = ["127.0.0.0/8"]
[tls]
certificate = "{certificate}"
key = "{key}"
[submission]
users = "{users}"
failure_delay = "1ms"
lockout_failures = 0
[log]
level = "debug"
[limits]
errors = 0
connections_per_client = 0
[filters.spf]
mode = "off"
"""
HEAD = (
    b"From: a@origin.example\r\nTo: box@dest.example\r\n"
    b"Date: Sun, 22 Nov 2026 08:00:00 +0000\r\nMessage-ID: <l@origin.example>\r\n"
)


KNOWN = {name for _, name, _ in RECORDS.values()}


@dataclass
class House:
    daemon: Daemon
    submission: int
    balanced: int
    context: ssl.SSLContext
    read: int = 0  # octets of the log
    log: list[dict[str, Any]] = field(default_factory=list)

    def rows(self, event: str) -> list[dict[str, Any]]:
        """The records of that event so far; whatever the log has by now is looked at."""
        with self.daemon.log_path.open("rb") as log:
            log.seek(self.read)
            fresh = log.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self.read += len(whole)
        self.log += map(row_of, whole.split(b"\n")[:-1])
        return [row for row in self.log if row["event"] == event]


def row_of(line: bytes) -> dict[str, Any]:
    """A line of the log as what it must be."""
    assert all(32 <= octet < 127 for octet in line), line
    row: dict[str, Any] = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert row["event"] in KNOWN, line
    # the HTTP library complains of requests that are none
    assert row["event"] != "trouble" or row["area"] == "aiohttp.server", line
    return row


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as instance:
        yield instance


@pytest.fixture(scope="module")
def hop() -> Iterator[Hop]:
    with Hop({}) as instance:
        yield instance


@pytest.fixture(scope="module")
def house(world: World, hop: Hop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("log")
    made = certificates.make(folder, "mx.gateway.test")
    context = ssl.create_default_context(cafile=str(made.authority))
    context.check_hostname = False
    logins.write(folder / "users", "ann sesame ann@dest.example")
    submission, balanced = free_ports(2)
    paths = {"certificate": made.certificate, "key": made.key, "users": folder / "users"}
    route = f'[[route]]\ndomains = ["x.mx.example"]\nto = "smtp://127.0.0.1:{hop.port}"'
    tables = TABLES.format(submission=submission, balanced=balanced, **paths)
    relay = world.tables("[delivery]\nmessages_per_connection = 1", route=route)
    with Daemon(folder, tables + relay) as daemon:
        yield (instance := House(daemon, submission, balanced, context))
        assert daemon.stop() == 0
        assert instance.rows("lifecycle")


@pytest.fixture(autouse=True)
def whole_log(house: House) -> Iterator[None]:
    """After each test: the log is whole."""
    yield
    house.rows("")


def tls(house: House, stack: contextlib.ExitStack) -> Wire:
    wire = stack.enter_context(Wire(house.submission, banner=False))
    wire.socket = house.context.wrap_socket(wire.socket)
    stack.callback(wire.socket.close)
    wire.reply()
    assert wire.ask(b"EHLO client.example").startswith(b"250")
    return wire


def xtext(text: str) -> bytes:
    """RFC 3461 §4, as a proxy writes what it was told."""
    return b"".join(b"%c" % octet if 33 <= octet < 127 and octet not in b"+=" else b"+%02X" % octet for octet in text.encode())


@pytest.mark.parametrize("name", EVIL)
def test_fault_27_no_name_at_ehlo_forges_a_line(house: House, name: str) -> None:
    with Wire(house.daemon.smtp_port) as client:
        before = len(house.rows("rejected"))
        for verb in (b"EHLO ", b"HELO "):
            client.send(verb + EVIL[name].replace("\r\n", "\r").encode() + b"\r\n")  # CRLF would end the command
            assert client.reply()[:3] in (b"501", b"500")
        assert len(house.rows("rejected")) == before


@pytest.mark.parametrize("name", EVIL)
def test_fault_27_no_address_forges_a_line(house: House, name: str) -> None:
    """In a quoted local part nearly everything printable may stand, with SMTPUTF8 beyond ASCII too; the rest is 501."""
    text = EVIL[name].replace("\\", "\\\\").replace('"', '\\"')
    with Wire(house.daemon.smtp_port) as client:
        client.ask(b"EHLO client.example")
        client.send(f'MAIL FROM:<"{text}"@origin.example> SMTPUTF8\r\n'.encode())
        first = client.reply()
        assert first[:3] in (b"250", b"501", b"500"), first
        client.socket.close()
    with Wire(house.daemon.smtp_port) as client:
        client.ask(b"EHLO client.example")
        assert client.ask(b"MAIL FROM:<> SMTPUTF8").startswith(b"250")
        client.send(f'RCPT TO:<"{text}"@other.example>\r\n'.encode())
        answer = client.reply()
        assert answer[:3] in (b"550", b"501", b"500"), answer
    if answer.startswith(b"550"):
        until("its record", lambda: house.rows("rejected"))
        assert house.rows("rejected")[-1]["recipient"].endswith("@other.example")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("name", EVIL)
def test_fault_27_no_name_at_auth_forges_a_line(house: House, name: str, mechanism: str) -> None:
    with contextlib.ExitStack() as stack:
        client = tls(house, stack)
        before = len(house.rows("auth"))
        text = EVIL[name].replace("\0", "") if mechanism == "PLAIN" else EVIL[name]
        if mechanism == "PLAIN":
            answer = client.ask(b"AUTH PLAIN " + b64encode(f"\0{text}\0guess".encode()))
        else:
            client.ask(b"AUTH LOGIN " + b64encode(text.encode()))
            answer = client.ask(b64encode(b"guess"))
        assert answer[:3] in (b"535", b"501", b"500"), answer
        assert len(until("its record", lambda: house.rows("auth")[before:])) == 1
        row = house.rows("auth")[-1]
        assert str(row["user"]).isprintable()
        assert len(row["user"]) <= 64


@pytest.mark.parametrize("attribute", ["NAME", "HELO", "LOGIN", "ADDR", "PORT", "PROTO", "DESTADDR"])
@pytest.mark.parametrize("name", EVIL)
def test_fault_27_nothing_that_a_proxy_says_forges_a_line(house: House, name: str, attribute: str) -> None:
    with Wire(house.daemon.smtp_port) as client:
        client.ask(b"EHLO proxy.example")
        answer = client.ask(b"XCLIENT ADDR=192.0.2.7 " * (attribute != "ADDR") + attribute.encode() + b"=" + xtext(EVIL[name]))
        # only what is no more than an odd name of a user may pass, and is dropped at a door that knows no users
        assert answer[:3] in (b"501", b"500") or attribute == "LOGIN", answer
        answer = client.ask(b"XCLIENT ADDR=192.0.2.7 NAME=good.example " + attribute.encode() + b"=" + EVIL[name].encode())
        while answer and not answer.startswith(b"250"):  # whatever it was, it was refused; the session lives or is closed
            assert answer[:1] in (b"5", b"2"), answer
            answer = client.ask(b"NOOP")


@pytest.mark.parametrize("name", EVIL)
def test_fault_27_no_proxy_header_forges_a_line(house: House, name: str) -> None:
    before = len(house.rows("disconnected"))
    text = EVIL[name].encode()
    headers = [b"PROXY TCP4 " + text + b" 192.0.2.1 1 25\r\n", b"PROXY UNKNOWN " + text[:90] + b"\r\n", text + b"\r\n"]
    for header in headers:
        with Wire(house.balanced, banner=False) as client, contextlib.suppress(OSError):
            client.send(header)
            if not header.startswith(b"PROXY UNKNOWN"):
                assert client.rest() == b""
    until("an end for each", lambda: len(house.rows("disconnected")) >= before + len(headers))


@pytest.mark.parametrize("stage", ["RCPT", *(pytest.param(each, marks=pytest.mark.slow) for each in ("DATA", ".", "MAIL", ""))])
def test_fault_27_no_reply_of_a_next_hop_forges_a_line(house: House, hop: Hop, stage: str) -> None:
    """What it says comes into records of attempts and of the end, on one line each."""
    waiting: list[str] = []
    for name, text in EVIL.items():
        hop.says[stage.encode()] = b"550-5.1.1 " + text.encode() + b"\r\n550-more\r\n550 " + text.encode() + b"\r\n"
        with Wire(house.daemon.smtp_port) as client:
            answer = client.message(HEAD + f"Subject: {name}\r\n\r\nx\r\n".encode(), "box@x.mx.example", sender="")
        queue_id = answer.decode().rsplit(" ", 1)[1]
        rows = until("an attempt", lambda: [row for row in house.rows("attempted") if row["id"] == queue_id])  # noqa: B023
        assert rows[0]["result"] in ("failed", "deferred")
        assert rows[0]["reply"].isprintable(), name
        waiting += [queue_id] * (rows[0]["result"] == "deferred")
    del hop.says[stage.encode()]
    if waiting:
        house.daemon.command("queue", "delete", *waiting)


def test_fault_27_nothing_asked_at_the_admin_address_forges_a_line(house: House) -> None:
    for name, text in EVIL.items():
        with Wire(house.daemon.admin_port, banner=False) as client:
            client.send(b"GET /" + text.encode() + b" HTTP/1.1\r\nHost: " + text.encode() + b"\r\nX: y\r\n\r\n")
            assert client.socket.recv(4096)[:9] in (b"HTTP/1.1 ", b"HTTP/1.0 ", b""), name
    assert house.daemon.get("/healthz") == b"ok\n"


def test_fault_6_nobody_writes_into_the_fields_that_we_add(world: World, house: House) -> None:
    """EHLO, the name that a proxy gives, the name of a user: all that is said of a client stands in one Received field."""
    for number, line in enumerate(
        [
            b"XCLIENT ADDR=192.0.2.7 NAME=good.example+0D+0AX-Evil:+20yes",
            b"XCLIENT ADDR=192.0.2.7 NAME=good.example+29+20by+20evil.example",
            b"XCLIENT ADDR=192.0.2.7 NAME=good.example LOGIN=ann+0D+0AX-Evil:+20yes",
            b"XCLIENT ADDR=192.0.2.7 HELO=good.example+0AX-Evil:+20yes",
        ]
    ):
        with Wire(house.daemon.smtp_port) as client:
            client.ask(b"EHLO proxy.example")
            client.ask(line)
            subject = f"fields-{number}"
            assert client.message(HEAD + f"Subject: {subject}\r\n\r\nx\r\n".encode()).startswith(b"250")
        header = world.arrived(subject).content.partition(b"\r\n\r\n")[0]
        assert b"evil" not in header.lower()
        assert re.findall(rb"^[A-Z][\w-]*:", header, re.M)[-5:] == [b"From:", b"To:", b"Date:", b"Message-ID:", b"Subject:"]
        assert len(re.findall(rb"^Received:", header, re.M)) == 1


def test_fault_5_nothing_of_all_this_went_upstream(world: World) -> None:
    """Runs last: every command line that a next hop has heard is clean."""
    assert world.sink.commands
    for _, line in world.sink.commands:
        assert line.strip(b"\r\n").decode("utf-8").isprintable()
        assert b"forged" not in line
