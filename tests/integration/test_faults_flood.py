# SPDX-License-Identifier: Apache-2.0
"""Too much of everything against a live daemon: commands, connections, logins. Faults 10, 16 and 30."""

import contextlib
import socket
import ssl
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support import certificates, logins
from tests.support.attack import LETTER
from tests.support.daemon import Daemon, free_ports
from tests.support.world import Wire, World, until

SHARE = 4  # connections of one client
ALL = 40  # and of all

TABLES = """
[[listener]]
address = "127.0.0.1:{submission}"
role = "submission"
tls = "starttls"
[[listener]]
address = "127.0.0.1:{balanced}"
proxy_protocol = ["127.0.0.0/8"]
{six}
[tls]
certificate = "{certificate}"
key = "{key}"
[submission]
users = "{users}"
failure_delay = "1ms"
lockout_failures = 8
[limits]
connections_per_client = {share}
connections = {all}
[filters.spf]
mode = "off"
"""


@dataclass
class House:
    """A daemon and its doors."""

    daemon: Daemon
    submission: int
    balanced: int
    six: int  # 0 where this machine has no IPv6
    context: ssl.SSLContext

    def empty(self) -> None:
        until("nobody is left", lambda: self.daemon.metric("gateway_connections") == 0)


def free_port_of_v6() -> int:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return int(probe.getsockname()[1])
    return 0


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as instance:
        yield instance


@pytest.fixture(scope="module")
def house(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("flood")
    made = certificates.make(folder, "mx.gateway.test")
    context = ssl.create_default_context(cafile=str(made.authority))
    context.check_hostname = False
    logins.write(folder / "users", "ann sesame ann@dest.example", "bob secret bob@dest.example")
    submission, balanced = free_ports(2)
    six = free_port_of_v6()
    tables = TABLES.format(
        submission=submission,
        balanced=balanced,
        six=f'[[listener]]\naddress = "[::1]:{six}"' if six else "",
        certificate=made.certificate,
        key=made.key,
        users=folder / "users",
        share=SHARE,
        all=ALL,
    )
    with Daemon(folder, world.tables(tables)) as daemon:
        yield House(daemon, submission, balanced, six, context)
        assert daemon.stop() == 0
        assert not [row for row in daemon.log() if row["event"] == "trouble"]


@pytest.fixture(autouse=True)
def nobody_left(house: House) -> Iterator[None]:
    """Each test begins with no client."""
    yield
    house.empty()


def codes(heard: bytes) -> list[bytes]:
    return [line[:3] for line in heard.splitlines() if line[3:4] == b" "]


# --- fault 10


FLOODS: dict[str, tuple[bytes, list[bytes]]] = {
    "noop": (b"NOOP\r\n" * 10_000, [b"250"] * 199),  # EHLO was the first of 200
    "rset": (b"RSET\r\n" * 10_000, [b"250"] * 199),
    "help": (b"HELP\r\n" * 10_000, [b"214"] * 199),
    "vrfy": (b"VRFY box\r\n" * 10_000, [b"252"] * 199),
    "ehlo": (b"EHLO again.example\r\n" * 10_000, [b"250"] * 199),
    "mail-and-rset": (b"MAIL FROM:<a@origin.example>\r\nRSET\r\n" * 5000, [b"250"] * 199),
    "mail-in-mail": (b"MAIL FROM:<a@origin.example>\r\n" * 10_000, [b"250"] + [b"503"] * 20),
    "unknown": (b"XYZZY\r\n" * 10_000, [b"500"] * 10),
    "errors": (b"MAIL FROM:oops\r\n" * 10_000, [b"501"] * 20),
    "relaying": (
        b"MAIL FROM:<a@origin.example>\r\n" + b"RCPT TO:<x@other.example>\r\n" * 10_000,
        [b"250"] + [b"550"] * 20,
    ),
    "empty-chunks": (
        b"MAIL FROM:<a@origin.example>\r\nRCPT TO:<box@dest.example>\r\n" + b"BDAT 0\r\n" * 10_000,
        [b"250"] * 200,  # of these 198 chunks: EHLO and MAIL count as well, RCPT does not
    ),
    "empty-lines": (b"\r\n" * 10_000, [b"500"] * 10),
    "auth": (b"AUTH PLAIN AAAA\r\n" * 10_000, [b"502"] * 20),
    "starttls": (b"STARTTLS\r\n" * 10_000, [b"502"] * 20),
    "xclient": (b"XCLIENT ADDR=192.0.2.1\r\n" * 10_000, [b"550"] * 20),
}


@pytest.mark.parametrize("name", FLOODS)
def test_fault_10_a_flood_of_commands_ends_at_its_limit(house: House, name: str) -> None:
    """All in one go, at one door, while another client is served."""
    said, wanted = FLOODS[name]
    with Wire(house.daemon.smtp_port) as client, contextlib.suppress(ConnectionError):
        client.ask(b"EHLO client.example")
        with Wire(house.daemon.smtp_port) as innocent:
            with contextlib.suppress(ConnectionError):  # it need not be read to its end
                client.send(said)
            assert innocent.message(LETTER).startswith(b"250")
        heard = codes(client.rest())
        assert heard == [*wanted, b"421"]


def test_fault_10_a_thousand_recipients_are_taken_and_no_more(house: House) -> None:
    with Wire(house.daemon.smtp_port) as client:
        assert client.ask(b"EHLO client.example").startswith(b"250")
        client.send(b"MAIL FROM:<a@origin.example>\r\n" + b"RCPT TO:<box@dest.example>\r\n" * 1100 + b"QUIT\r\n")
        assert codes(client.rest()) == [b"250"] * 1001 + [b"452"] * 100 + [b"221"]


# --- fault 16


def let_in(wires: list[Wire]) -> int:
    """How many are greeted; the others are told so politely, and that is the end."""
    banners = [wire.banner for wire in wires]
    assert {banner[:9] for banner in banners} <= {b"220 mx.ga", b"421 4.7.0"}, banners
    for wire in wires:
        if wire.banner.startswith(b"421"):
            assert wire.rest() == b""
    return sum(banner.startswith(b"220") for banner in banners)


def test_fault_16_a_client_has_its_share_and_others_have_theirs(house: House) -> None:
    with contextlib.ExitStack() as stack:
        for source in ("127.0.0.1", "127.0.0.2"):
            wires = [stack.enter_context(Wire(house.daemon.smtp_port, source=source)) for _ in range(3 * SHARE)]
            assert let_in(wires) == SHARE
        wires[0].socket.close()
        until("its place is free", lambda: let_in([stack.enter_context(Wire(house.daemon.smtp_port, source="127.0.0.2"))]))


def test_fault_16_there_are_only_so_many_in_all(house: House) -> None:
    with contextlib.ExitStack() as stack:
        sources = [f"127.0.1.{number}" for number in range(1, 2 * ALL)]
        assert let_in([stack.enter_context(Wire(house.daemon.smtp_port, source=each)) for each in sources]) == ALL
    house.empty()
    with Wire(house.daemon.smtp_port) as client:
        assert client.message(LETTER).startswith(b"250")


def claimed(house: House, stack: contextlib.ExitStack, address: str) -> Wire:
    """A client of that address, as a balancer tells of it."""
    wire = stack.enter_context(Wire(house.balanced, banner=False))
    wire.send(f"PROXY TCP6 {address} 2001:db8::25 4000 25\r\n".encode())
    wire.banner = wire.reply()
    return wire


def test_fault_16_an_ipv6_client_is_its_64(house: House) -> None:
    """Each subscriber has 2^64 addresses: they share one share. The next /64 has its own."""
    with contextlib.ExitStack() as stack:
        many = [f"2001:db8:0:1::{number:x}:{number:x}" for number in range(1, 3 * SHARE)]
        assert let_in([claimed(house, stack, each) for each in many]) == SHARE
        assert let_in([claimed(house, stack, "2001:db8:0:1:ffff:ffff:ffff:ffff")]) == 0
        assert let_in([claimed(house, stack, f"2001:db8:0:{net}::1") for net in (2, 3)]) == 2
        assert let_in([claimed(house, stack, "::ffff:192.0.2.1")]) == 1, "an IPv4 client in IPv6 clothes is none"


def test_fault_16_a_real_ipv6_client_has_its_share(house: House) -> None:
    if not house.six:
        pytest.skip("this machine has no ::1")
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(house.six, host="::1")) for _ in range(3 * SHARE)]
        assert let_in(wires) == SHARE
        assert let_in([stack.enter_context(Wire(house.daemon.smtp_port))]) == 1


# --- fault 30


def secured(house: House, stack: contextlib.ExitStack) -> Wire:
    """At the door for users, under TLS, after EHLO."""
    wire = stack.enter_context(Wire(house.submission))
    wire.ask(b"EHLO client.example")
    assert wire.ask(b"STARTTLS").startswith(b"220")
    wire.socket = house.context.wrap_socket(wire.socket)
    stack.callback(wire.socket.close)
    assert b"AUTH PLAIN LOGIN" in wire.ask(b"EHLO client.example")
    return wire


def attempt(name: str, password: str) -> bytes:
    return logins.plain(name, password).strip()


def test_fault_30_no_password_is_taken_in_clear_or_at_another_door(house: House) -> None:
    with Wire(house.submission) as client:
        assert b"AUTH" not in client.ask(b"EHLO client.example")
        assert client.ask(attempt("ann", "sesame")).startswith(b"538 5.7.11 ")
        assert client.ask(b"AUTH LOGIN").startswith(b"538 5.7.11 ")
        assert client.ask(b"MAIL FROM:<ann@dest.example>").startswith(b"530 5.7.0 ")
    with Wire(house.daemon.smtp_port) as client:
        assert b"AUTH" not in client.ask(b"EHLO client.example")
        assert client.ask(attempt("ann", "sesame")).startswith(b"502 5.5.1 ")


def test_fault_30_oversized_responses_are_refused_and_endless_ones_are_the_end(house: House) -> None:
    with contextlib.ExitStack() as stack:
        client = secured(house, stack)
        assert client.ask(b"AUTH PLAIN " + b"A" * 20_000).startswith(b"500 5.5.2 ")
        assert client.ask(b"AUTH LOGIN").startswith(b"334 ")
        assert client.ask(b"A" * 12_289).startswith(b"500 5.5.6 ")
        assert client.ask(b"AUTH LOGIN").startswith(b"334 ")
        assert client.ask(b"!" * 500).startswith(b"501 5.5.2 ")
        assert client.ask(b"AUTH PLAIN " + b64encode(b"\0ann\0" + b"p" * 9000)).startswith((b"501", b"535"))
        assert client.ask(b"AUTH LOGIN").startswith(b"334 ")
        with contextlib.suppress(OSError):
            client.send(b"A" * (1 << 20))
        with contextlib.suppress(OSError):
            assert client.rest() == b"500 5.5.2 Line too long\r\n"


def test_fault_30_guessing_ends_the_session_and_then_locks_the_name(house: House) -> None:
    """Three a session, eight a name; the right password does not help then. Another name is not held up."""
    heard = []
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            client = secured(house, stack)
            for guess in range(3):
                heard.append(client.ask(attempt("bob", f"guess {guess}"))[:9])
            assert client.ask(attempt("bob", "secret")).startswith(b"421 4.7.0 ")
            assert client.rest() == b""
    assert heard == [b"535 5.7.8"] * 8 + [b"454 4.7.0"]
    with contextlib.ExitStack() as stack:
        assert secured(house, stack).ask(attempt("ann", "sesame")).startswith(b"235 ")
    told = [row for row in house.daemon.log() if row["event"] == "auth" and row["user"] == "bob"]
    assert {row["result"] for row in told} <= {"failed", "locked"}
    assert "guess" not in house.daemon.log_path.read_text()
