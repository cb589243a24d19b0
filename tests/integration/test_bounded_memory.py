# SPDX-License-Identifier: Apache-2.0
"""Whatever clients send, however slowly, and whether they listen or not: the daemon stays small and serves the next one.

Faults 8, 9, 10, 11, 13 and 14. The daemon is a real process whose limits on commands and errors are off, so that nothing
but the bounds of its buffers stands between a client and its memory. Each attack is under way before, while and after an
innocent client brings its message. The base is taken once, after all kinds of work were done, so what one attack left behind
counts against the next one.
"""

import contextlib
import select
import socket
import ssl
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator

import pytest

from tests.support import certificates, logins
from tests.support.attack import LETTER, Attack, Memory
from tests.support.daemon import Daemon, free_ports
from tests.support.world import Wire, World, until

ROOM = 32 << 20  # octets that the daemon may grow by
MUCH = 50 << 20  # octets that an attack has at least
PIECE = b"x" * (256 << 10)
SLOW = 200  # clients
DEAF = 40  # clients that read no replies

pytestmark = pytest.mark.timeout(180)


class House(Daemon):
    """A daemon with doors of all kinds, and the memory of its process."""

    memory: Memory
    starttls: int
    submission: int
    balanced: int
    context: ssl.SSLContext

    def shrinks(self) -> None:
        """What an attack has left is gone, as far as sessions go."""
        until("all clients are gone", lambda: self.metric("gateway_connections") == 0, 60)


TABLES = """
[[listener]]
address = "127.0.0.1:{starttls}"
tls = "starttls"
[[listener]]
address = "127.0.0.1:{submission}"
role = "submission"
tls = "implicit"
[[listener]]
address = "127.0.0.1:{balanced}"
proxy_protocol = ["127.0.0.0/8"]
[tls]
certificate = "{certificate}"
key = "{key}"
[submission]
users = "{users}"
[limits]
commands = 0
errors = 0
unknown_commands = 0
connections_per_client = 0
proxy_timeout = "2m"
handshake_timeout = "2m"
[filters.spf]
mode = "off"
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as instance:
        instance.sink.count_only = True
        yield instance


@pytest.fixture(scope="module")
def babbler() -> "Babbler":
    return Babbler()


@pytest.fixture(scope="module")
def house(world: World, babbler: "Babbler", tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("bounded")
    made = certificates.make(folder, "mx.gateway.test")
    logins.write(folder / "users", "ann sesame ann@dest.example")
    starttls, submission, balanced = free_ports(3)
    ports = {"starttls": starttls, "submission": submission, "balanced": balanced}
    tables = TABLES.format(**ports, certificate=made.certificate, key=made.key, users=folder / "users")
    route = f'[[route]]\ndomains = ["x.mx.example"]\nto = "smtp://127.0.0.1:{babbler.port}"'
    instance = House(folder, world.tables(tables, route=route))
    instance.starttls, instance.submission, instance.balanced = starttls, submission, balanced
    instance.context = ssl.create_default_context(cafile=str(made.authority))
    instance.context.check_hostname = False
    with instance:
        warm(instance)
        assert instance.process
        instance.memory = Memory(instance.process.pid)
        yield instance
        assert not [row for row in instance.log() if row["event"] == "trouble"]


@pytest.fixture(autouse=True)
def bound(house: House, record_property: Callable[[str, object], None]) -> Iterator[None]:
    """The bound itself: around each test of this file."""
    house.memory.mark()
    yield
    grown = house.memory.growth()
    record_property("grown", grown)
    print(f"the daemon has grown by {grown / (1 << 20):.1f} MiB")
    assert grown < ROOM
    house.shrinks()


def warm(house: House) -> None:
    """All kinds of work once: sessions, a large message, chunks, TLS, a login, refusals, the pages."""
    body = b"y" * 998 + b"\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(SLOW):
            stack.enter_context(Wire(house.smtp_port)).ask(b"EHLO client.example")
    for _ in range(20):
        with Wire(house.smtp_port) as client:
            assert client.message(LETTER).startswith(b"250")
    with Wire(house.smtp_port) as client:
        assert client.message(LETTER + body * 4000).startswith(b"250")
        client.send(b"MAIL FROM:<a@origin.example>\r\nRCPT TO:<box@dest.example>\r\nBDAT %d LAST\r\n%s" % (len(LETTER), LETTER))
        assert [client.reply()[:3] for _ in range(3)] == [b"250"] * 3
    for _ in range(8):
        client = tls(house, house.submission)
        assert client.ask(b"EHLO client.example").startswith(b"250")
        assert client.ask(logins.plain("ann", "sesame").strip()).startswith(b"235")
        client.socket.close()
    house.shrinks()


def tls(house: House, port: int) -> Wire:
    """A client under TLS, greeted."""
    wire = Wire(port, banner=False)
    wire.socket = house.context.wrap_socket(wire.socket)
    wire.banner = wire.reply()
    return wire


def report(took: float, record_property: Callable[[str, object], None]) -> None:
    record_property("innocent_seconds", took)
    print(f"an innocent client was served in {took * 1000:.0f} ms")


# --- 50 MB in one line


def test_fault_8_fifty_megabytes_of_command(house: House, record_property: Callable[[str, object], None]) -> None:
    """It is told so and listened to no more; who goes on all the same is read for a moment, and that is not kept."""

    def flood(attack: Attack) -> None:
        sent = 0
        while sent < MUCH or not attack.enough.is_set():
            with Wire(house.smtp_port) as client, contextlib.suppress(ConnectionError):
                client.send(PIECE)
                assert client.rest() in (b"500 5.5.2 Line too long\r\n", b"")
                while sent < MUCH or not attack.enough.is_set():
                    client.send(PIECE)
                    sent += len(PIECE)
                    attack.step()

    with Attack(flood) as attack:
        report(attack.serves(house), record_property)


def test_fault_9_fifty_megabytes_without_a_line_end_in_data(
    house: House, record_property: Callable[[str, object], None]
) -> None:
    def flood(attack: Attack) -> None:
        with Wire(house.smtp_port) as client:
            client.envelope()
            client.send(LETTER)
            sent = 0
            while sent < MUCH or not attack.enough.is_set():
                client.send(PIECE)
                sent += len(PIECE)
                attack.step()
            client.send(b"\r\n.\r\n")
            assert client.reply()[:9] in (b"500 5.6.0", b"552 5.3.4")

    with Attack(flood) as attack:
        report(attack.serves(house), record_property)


@pytest.mark.parametrize("chunk", [MUCH, 1 << 20])
def test_fault_9_fifty_megabytes_without_a_line_end_in_chunks(
    house: House, chunk: int, record_property: Callable[[str, object], None]
) -> None:
    def flood(attack: Attack) -> None:
        sent = 0
        with Wire(house.smtp_port) as client:
            client.ask(b"EHLO client.example")
            while sent < MUCH or not attack.enough.is_set():
                client.ask(b"MAIL FROM:<a@origin.example>")
                client.ask(b"RCPT TO:<box@dest.example>")
                for _ in range(MUCH // chunk):
                    client.send(b"BDAT %d\r\n" % chunk)
                    for _ in range(chunk // len(PIECE)):
                        client.send(PIECE)
                        sent += len(PIECE)
                        attack.step()
                    assert client.reply()[:3] in (b"500", b"552", b"503")
                client.send(b"RSET\r\n")
                assert client.reply()[:3] == b"250"

    with Attack(flood) as attack:
        report(attack.serves(house), record_property)


class Babbler:
    """A next hop whose greeting is one line that does not end. `said` are the octets that were taken from it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]

    def babble(self, attack: Attack) -> None:
        """Until enough was said, or nobody listens any more; then to the next who comes."""
        self.listener.settimeout(5)
        while not attack.enough.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self.listener.accept()
                with connection:
                    connection.settimeout(5)
                    connection.send(b"220 ")
                    attack.step()
                    for _ in range(MUCH // len(PIECE)):
                        connection.sendall(PIECE)
                        attack.step()


@pytest.mark.slow
def test_fault_8_fifty_megabytes_of_a_reply(
    house: House, babbler: Babbler, record_property: Callable[[str, object], None]
) -> None:
    with babbler.listener, Attack(babbler.babble) as attack:
        with Wire(house.smtp_port) as client:
            queue_id = client.message(LETTER, "box@x.mx.example").decode().rsplit(" ", 1)[1]
        report(attack.serves(house), record_property)
        until("an attempt", lambda: [r for r in house.log() if r["event"] == "attempted" and r["id"] == queue_id])
    assert house.queue()[0]["recipients"][0]["state"] == "deferred"
    house.command("queue", "delete", queue_id)


# --- 100,000 of something


def test_fault_11_a_hundred_thousand_header_lines(house: House, record_property: Callable[[str, object], None]) -> None:
    def flood(attack: Attack) -> None:
        whole = 0
        while not whole or not attack.enough.is_set():
            with Wire(house.smtp_port) as client:
                client.envelope()
                for thousand in range(100):
                    client.send(b"".join(b"X-Bomb-%d-%d: x\r\n" % (thousand, n) for n in range(1000)))
                    attack.step()
                client.send(b"\r\nx\r\n.\r\n")
                assert client.reply().startswith(b"552 5.3.4 ")
            whole += 1

    with Attack(flood) as attack:
        report(attack.serves(house), record_property)


@pytest.mark.slow
def test_fault_10_a_hundred_thousand_recipients(house: House, record_property: Callable[[str, object], None]) -> None:
    """1,000 are taken; ten times as many more are told 452, and who still goes on is cut off."""

    def flood(attack: Attack) -> None:
        asked = 0
        while asked < 100_000 or not attack.enough.is_set():
            heard = ask_for_recipients(house, attack)
            assert heard[:1000] == [b"250"] * 1000
            assert heard[1000:11000] == [b"452"] * 10000
            assert heard[11000:] == [b"421"]
            asked += len(heard)

    with Attack(flood) as attack:
        report(attack.serves(house), record_property)


def ask_for_recipients(house: House, attack: Attack) -> list[bytes]:
    """As many as one connection may ask for; the codes of the replies."""
    heard = b""
    with Wire(house.smtp_port) as client:
        client.ask(b"EHLO client.example")
        client.ask(b"MAIL FROM:<a@origin.example>")
        for hundred in range(1000):
            with contextlib.suppress(ConnectionError):
                client.send(b"".join(b"RCPT TO:<r%d-%d@dest.example>\r\n" % (hundred, n) for n in range(100)))
            attack.step()
            seen = heard.count(b"\n")
            while heard.count(b"\n") < seen + 100:
                octets = b""
                with contextlib.suppress(ConnectionError):
                    octets = client.socket.recv(65536)
                if not octets:
                    return [line[:3] for line in heard.splitlines()]
                heard += octets
    raise AssertionError("it was never cut off")


# --- what grows when it is unpacked


@pytest.mark.slow
def test_fault_13_what_unpacks_to_a_gigabyte_stays_packed(house: House) -> None:
    """Nobody here looks into archives; whoever begins to has to look at this."""
    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1024)) + packer.flush()
    fields = b"MIME-Version: 1.0\r\nContent-Type: application/gzip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    body = b"\r\n".join(b64encode(packed[at : at + 57]) for at in range(0, len(packed), 57))
    with Wire(house.smtp_port) as client:
        assert client.message(LETTER.replace(b"\r\n\r\nx", b"\r\n" + fields + body)).startswith(b"250")


# --- clients in no hurry


def slow_ones(house: House, stack: contextlib.ExitStack) -> list[Wire]:
    """Clients at every stage at which one can be slow; what each sends next is one octet of something that never ends."""

    def at(port: int, *lines: bytes, banner: bool = True) -> Wire:
        wire = stack.enter_context(Wire(port, banner=banner))
        for line in lines:
            assert wire.ask(line)[:1] in (b"2", b"3"), line
        return wire

    hello, mail, rcpt = b"EHLO client.example", b"MAIL FROM:<a@origin.example>", b"RCPT TO:<box@dest.example>"
    clients = []
    for kind in range(SLOW):
        match kind % 7:
            case 0:
                wire = at(house.smtp_port, hello)
                wire.send(b"MAIL FROM:<")
            case 1:
                wire = at(house.smtp_port, hello, mail, rcpt, b"DATA")
            case 2:
                wire = at(house.smtp_port, hello, mail, rcpt)
                wire.send(b"BDAT 100000 LAST\r\nX: ")
            case 3:
                wire = at(house.starttls, hello, b"STARTTLS")
                wire.send(b"\x16\x03\x01\x40\x00")  # a record of 16 KiB
            case 4:
                wire = at(house.balanced, banner=False)
                wire.send(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x10\x00")  # a header of 4 KiB
            case 5:
                wire = stack.enter_context(tls(house, house.submission))
                assert wire.ask(hello).startswith(b"250")
                assert wire.ask(b"AUTH LOGIN").startswith(b"334")
            case _:
                wire = at(house.smtp_port)
        clients.append(wire)
    return clients


def test_fault_14_two_hundred_slow_clients(house: House, record_property: Callable[[str, object], None]) -> None:
    """Every second one sends an octet from time to time, the others nothing more. None of them gets in anybody's way."""
    with contextlib.ExitStack() as stack:
        clients = slow_ones(house, stack)

        def flood(attack: Attack) -> None:
            rounds = 0
            while rounds < 30 or not attack.enough.is_set():
                for wire in clients[::2]:
                    wire.send(b"x")
                rounds += 1
                attack.step()
            assert all(not select.select([wire.socket], [], [], 0)[0] for wire in clients), "none was answered or closed"

        with Attack(flood) as attack:
            report(attack.serves(house), record_property)
        waiting = len(range(4, SLOW, 7))  # for a PROXY header: not let in yet, and not counted here
        assert house.metric("gateway_connections") == SLOW - waiting


@pytest.mark.slow
def test_fault_14_clients_that_never_read_their_replies(house: House, record_property: Callable[[str, object], None]) -> None:
    """Each is read until its replies do not get away any more, and then it is left to itself."""
    stuck = 0

    def flood(attack: Attack) -> None:
        nonlocal stuck
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(deaf(house)) for _ in range(DEAF)]
            while stuck < len(clients) or not attack.enough.is_set():
                stuck = sum(not shout(each) for each in clients)
                attack.step()

    with Attack(flood) as attack:
        report(attack.serves(house), record_property)
    assert stuck == DEAF


def deaf(house: House) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", house.smtp_port))
    sock.setblocking(False)
    return sock


def shout(sock: socket.socket) -> bool:
    """Commands with long replies, as many as go; False if none goes."""
    if not select.select([], [sock], [], 0.01)[1]:
        return False
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(b"HELP\r\nEHLO client.example\r\n" * 100)
    return True


# --- all at once


def test_fault_10_ten_thousand_pipelined_commands_in_one_go(
    house: House, record_property: Callable[[str, object], None]
) -> None:
    said = (b"NOOP\r\nRSET\r\nVRFY box\r\nHELO client.example\r\n" + b"AUTH PLAIN " + b64encode(b"x" * 60) + b"\r\n") * 2000

    def flood(attack: Attack) -> None:
        whole = 0
        with Wire(house.smtp_port) as client:
            while not whole or not attack.enough.is_set():
                client.send(said)
                heard = b""
                while heard.count(b"\n") < 10_000:
                    heard += client.socket.recv(1 << 20)
                    attack.step()
                assert [line[:3] for line in heard.splitlines()] == [b"250", b"250", b"252", b"250", b"502"] * 2000
                whole += 1

    with Attack(flood) as attack:
        report(attack.serves(house), record_property)
