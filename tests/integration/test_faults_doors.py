# SPDX-License-Identifier: Apache-2.0
"""At the wrong door: other protocols, broken and hostile TLS, crafted ids. Faults 3, 4, 15, 28 and 29, on a live daemon."""

import contextlib
import json
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support import certificates
from tests.support.attack import LETTER
from tests.support.daemon import Daemon, free_ports
from tests.support.hop import Hop
from tests.support.world import Wire, World, until

EVIL = b"MAIL FROM:<evil@origin.example>\r\nRCPT TO:<box@dest.example>\r\nDATA\r\nSubject: evil\r\n\r\nx\r\n.\r\n"
TABLES = """
tls = "starttls"
[[listener]]
address = "127.0.0.1:{implicit}"
tls = "implicit"
[tls]
certificate = "{certificate}"
key = "{key}"
[limits]
handshake_timeout = "1s"
connections_per_client = 0
[filters.spf]
mode = "off"
"""


@dataclass
class House:
    daemon: Daemon
    implicit: int
    context: ssl.SSLContext


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
    folder = tmp_path_factory.mktemp("doors")
    made = certificates.make(folder, "mx.gateway.test")
    context = ssl.create_default_context(cafile=str(made.authority))
    context.check_hostname = False
    (implicit,) = free_ports(1)
    route = f'[[route]]\ndomains = ["x.mx.example"]\nto = "smtp://127.0.0.1:{hop.port}"'
    tables = TABLES.format(implicit=implicit, certificate=made.certificate, key=made.key)
    with Daemon(folder, tables + world.tables("", route=route)) as daemon:
        yield House(daemon, implicit, context)
        assert daemon.stop() == 0
        assert not [row for row in daemon.log() if row["event"] == "trouble" and row["area"] == "edge"]


def letter(subject: str) -> bytes:
    return LETTER.replace(b"Subject: innocent", b"Subject: " + subject.encode())


def secured(house: House, stack: contextlib.ExitStack, port: int = 0) -> Wire:
    """A client under TLS from the start, before its EHLO."""
    wire = stack.enter_context(Wire(port or house.implicit, banner=False))
    wire.socket = house.context.wrap_socket(wire.socket)
    stack.callback(wire.socket.close)
    assert wire.reply().startswith(b"220 ")
    return wire


# --- fault 3 and 4


@pytest.mark.parametrize(
    "injected",
    [
        b"MAIL FROM:<evil@origin.example>\r\n",
        b"EHLO evil.example\r\n" + EVIL,
        b"RSET\r\n" * 200,
    ],
)
def test_fault_3_what_stands_behind_starttls_was_never_said(world: World, house: House, injected: bytes) -> None:
    with Wire(house.daemon.smtp_port) as client:
        assert client.ask(b"EHLO client.example").startswith(b"250")
        client.send(b"STARTTLS\r\n" + injected)
        assert client.reply() == b"220 2.0.0 Ready to start TLS"
        with house.context.wrap_socket(client.socket) as client.socket:
            assert client.ask(b"MAIL FROM:<a@origin.example>").startswith(b"503 5.5.1"), "EHLO comes first again"
            assert client.message(letter("behind starttls")).startswith(b"250 2.0.0 Ok: queued as")
    world.arrived("behind starttls")
    assert not any("evil" in copy.sender for copy in world.sink.messages)


def test_fault_4_what_a_next_hop_says_behind_starttls_is_not_believed(house: House, hop: Hop) -> None:
    """And what was refused to it is sent in clear, in another session, as opportunistic TLS has it."""
    hop.says = {b"EHLO": b"250-x\r\n250 STARTTLS\r\n", b"STARTTLS": b"220 go\r\n250-evil.example\r\n250 SIZE 1\r\n"}
    with Wire(house.daemon.smtp_port) as client:
        assert client.message(letter("injected"), "box@x.mx.example").startswith(b"250")
    until("it is delivered", lambda: hop.messages)
    first, second = hop.heard[:2]
    assert [line.split(b" ")[0] for line in first[:2]] == [b"EHLO", b"STARTTLS"]
    assert not any(line.startswith((b"MAIL", b"RCPT", b"DATA")) for line in first)
    assert any(line == b"MAIL FROM:<a@origin.example>" for line in second), "neither TLS nor SIZE was believed"
    hop.says, hop.heard, hop.messages = {}, [], []


def test_fault_4_mail_that_needs_tls_is_not_sent_to_a_hop_that_hides_it(house: House, hop: Hop) -> None:
    with contextlib.ExitStack() as stack:
        client = secured(house, stack)
        assert b"REQUIRETLS" in client.ask(b"EHLO client.example")
        assert client.ask(b"MAIL FROM:<> REQUIRETLS").startswith(b"250")
        assert client.ask(b"RCPT TO:<box@x.mx.example>").startswith(b"250")
        assert client.ask(b"DATA").startswith(b"354")
        client.send(letter("secret") + b".\r\n")
        queue_id = client.reply().decode().rsplit(" ", 1)[1]
    rows = until("an attempt", lambda: [r for r in house.daemon.log() if r["event"] == "attempted" and r["id"] == queue_id])
    assert rows[0]["result"] in ("failed", "deferred")
    assert not hop.messages
    assert not any(line.startswith((b"MAIL", b"DATA")) for lines in hop.heard for line in lines)


# --- fault 15


def test_fault_15_handshakes_that_stall_end_and_hold_up_nobody(house: House) -> None:
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(Wire(house.implicit, banner=False)) for _ in range(5)]
        half = [stack.enter_context(Wire(house.implicit, banner=False)) for _ in range(5)]
        for wire in half:
            wire.send(b"\x16\x03\x01\x02\0\x01")
        behind = [stack.enter_context(Wire(house.daemon.smtp_port)) for _ in range(5)]
        for wire in behind:
            wire.ask(b"EHLO client.example")
            assert wire.ask(b"STARTTLS").startswith(b"220")
        client = secured(house, stack)
        assert client.message(letter("beside stalls")).startswith(b"250")
        for wire in (*silent, *half, *behind):
            assert not wire.rest().replace(b"\x15\x03\x01\x00\x02", b"")[2:], "nothing but an alert"


def break_off(under_tls: socket.socket, end: str) -> None:
    """Leave, in one of the ways there are."""
    if end == "close-notify":
        with contextlib.suppress(OSError, ValueError):
            under_tls.unwrap()  # type: ignore[attr-defined]
        return
    with socket.socket(fileno=under_tls.detach()) as raw:
        if end == "garbage":  # what looks like a record, and cannot be decrypted
            raw.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        elif end == "reset":
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("end", ["close-notify", "fin", "reset", "garbage"])
@pytest.mark.parametrize("stage", ["DATA", "BDAT"])
def test_fault_15_content_that_breaks_off_under_tls_is_no_message(world: World, house: House, stage: str, end: str) -> None:
    before = house.daemon.metric("gateway_messages_accepted_total")
    with contextlib.ExitStack() as stack:
        client = secured(house, stack)
        for line in (b"EHLO client.example", b"MAIL FROM:<a@origin.example>", b"RCPT TO:<box@dest.example>"):
            assert client.ask(line).startswith(b"250")
        if stage == "DATA":
            assert client.ask(b"DATA").startswith(b"354")
            client.send(letter("broken off")[:-3])
        else:
            client.send(b"BDAT 90000 LAST\r\n" + letter("broken off"))
        break_off(client.socket, end)
    until("nobody is left", lambda: house.daemon.metric("gateway_connections") == 0)
    with Wire(house.daemon.smtp_port) as client:
        assert client.message(letter(f"after {stage} {end}")).startswith(b"250")
    world.arrived(f"after {stage} {end}")
    assert house.daemon.metric("gateway_messages_accepted_total") == before + 1
    assert not any(b"broken off" in copy.content for copy in world.sink.messages)


# --- fault 28


IDS = [
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "....//....//etc/passwd",
    "0000000000000000%00.sqlite",
    "0000000000000000/../../0.sqlite",
    "' OR '1'='1",
    "0000000000000000; DROP TABLE messages",
    "*",
    "%",
    "ILOU000000000000",  # letters that no id has
    "0" * 15,
    "0" * 17,
    "0" * 100_000,
    "\u0660" * 16,  # digits, but of another script
]


@pytest.fixture(scope="module")
def kept(house: House) -> str:
    """A message that nothing in these tests may touch."""
    with Wire(house.daemon.smtp_port) as client:
        queue_id = client.message(letter("kept"), "box+450-at-rcpt@dest.example").decode().rsplit(" ", 1)[1]
    until("it waits", lambda: [row for row in house.daemon.log() if row["event"] == "attempted" and row["id"] == queue_id])
    return queue_id


@pytest.mark.parametrize("crafted", IDS, ids=lambda text: repr(text[:24]))
def test_fault_28_a_crafted_id_reaches_no_file_over_http(house: House, kept: str, crafted: str) -> None:
    """At the admin address nothing of the queue is to be had; at the control socket only what has the form of an id."""
    said = crafted.encode().replace(b" ", b"%20")
    pages = [b"/" + said, b"/api/v1/queue/" + said, b"/api/v1/trace/" + said, b"/api/v1/queue/" + said + b"/content"]
    for page in pages:
        with Wire(house.daemon.admin_port, banner=False) as client:
            client.send(b"GET " + page + b" HTTP/1.0\r\n\r\n")
            assert client.rest().split(b" ")[1] in (b"400", b"404"), page
    sockets = sorted((house.daemon.data_dir / "run").glob("worker-*.sock"))
    assert sockets
    for path in sockets:
        for page in pages[1:]:
            with socket.socket(socket.AF_UNIX) as control:
                control.settimeout(30)
                control.connect(str(path))
                control.sendall(b"GET " + page + b" HTTP/1.0\r\n\r\n")
                heard = b""
                while data := control.recv(65536):
                    heard += data
            assert heard.split(b" ")[1] in (b"400", b"404"), page
            assert b"root:" not in heard
            assert b"SQLite format" not in heard


COMMANDS = [["explain"], ["queue", "show"], ["queue", "delete"]]


@pytest.mark.slow  # a process for each
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_fault_28_a_crafted_id_is_refused_by_every_command(house: House, kept: str, command: list[str]) -> None:
    for crafted in IDS[::4]:
        done = house.daemon.command(*command, "--", crafted)
        assert done.returncode in (1, 2), (crafted, done.stdout)
        assert not done.stdout
        assert "root:" not in done.stderr
        assert "Traceback" not in done.stderr
    assert [row["id"] for row in house.daemon.queue() if row["id"] == kept]


@pytest.mark.slow  # the same
def test_fault_28_a_crafted_id_is_refused_by_the_commands(house: House, kept: str) -> None:
    done = house.daemon.command("queue", "delete", "--", *[each for each in IDS if len(each) < 1000])
    assert done.returncode == 2
    assert not done.stdout
    assert [row["id"] for row in house.daemon.queue()] == [kept]
    assert json.loads(house.daemon.command("queue", "delete", "--json", kept).stdout)


# --- fault 29


SMUGGLED = b"EHLO evil.example\r\n" + EVIL + b"QUIT\r\n"
ALIENS = {
    "http-get": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "http-post": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n",
    "http-put": b"PUT /x HTTP/1.1\r\n\r\n",
    "http-connect": b"CONNECT 127.0.0.1:25 HTTP/1.1\r\n\r\n",
    "http-options": b"OPTIONS * HTTP/1.1\r\n\r\n",
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "proxy-v1": b"PROXY TCP4 192.0.2.7 192.0.2.2 4000 25\r\n",
    "proxy-v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc0\x00\x02\x02\x0f\xa0\x00\x19",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 64,
    "tls-short": b"\x16\x03\x01\x00\x02\x01\x00",
    "tls-13": b"\x16\x03\x03\x00\x05\x01\x00\x00\x01\x03",
}


@pytest.mark.parametrize("name", ALIENS)
@pytest.mark.parametrize("cut", ["at-once", "octets"])
def test_fault_29_another_protocol_is_closed_and_nothing_behind_it_is_obeyed(
    world: World, house: House, name: str, cut: str
) -> None:
    """A browser or a balancer can be made to carry commands to us (ALPACA and kin): no line behind the first is read."""
    with Wire(house.daemon.smtp_port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        said = ALIENS[name] + SMUGGLED
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(said), 1) if cut == "octets" else (0,):
                client.send(said[at : at + 1] if cut == "octets" else said)
        heard = client.rest()
    assert heard in (b"554 5.5.0 This is an SMTP server\r\n", b""), heard
    assert not any("evil" in copy.sender for copy in world.sink.messages)
