# SPDX-License-Identifier: Apache-2.0
"""Client and server that lose step, and relaying by it: long pipelines against a live daemon with two workers. Faults 7 and 24.

Each script is said in one go and octet by octet. The replies must be the same, one a command, and what arrives behind the
daemon must be for the domain in `relay.domains` and of the transactions that were accepted, whatever stood around them.
"""

import itertools
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon
from tests.support.world import Wire, World, until

MAIL, RCPT = b"MAIL FROM:<a@origin.example>\r\n", b"RCPT TO:<box@dest.example>\r\n"
THEM = b"RCPT TO:<victim@other.example>\r\n"
HELLO = b"EHLO client.example\r\n"
numbers = itertools.count()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as instance:
        yield instance


@pytest.fixture(scope="module")
def daemon(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    route = f'[[route]]\ndomains = ["*"]\nto = "smtp://{world.sink.address}"'  # whatever is taken would get through
    tables = world.tables('[limits]\nerrors = 0\n[filters.spf]\nmode = "off"', route=route)
    with Daemon(tmp_path_factory.mktemp("desync"), tables, workers=2) as instance:
        yield instance
        accepted = instance.metric("gateway_messages_accepted_total")
        until("all is delivered", lambda: instance.metric("gateway_recipients_delivered_total") == accepted)
        for copy in world.sink.messages:
            assert copy.recipients == ("box@dest.example",), "mail was relayed, or recipients were mixed up"
            assert b"evil" not in copy.content
        assert accepted == len(world.sink.messages)
        assert instance.stop() == 0
        assert not [row for row in instance.log() if row["event"] == "trouble"]


def letter(subject: str, end: bytes = b"x\r\n") -> bytes:
    head = f"From: a@origin.example\r\nTo: box@dest.example\r\nSubject: {subject}\r\n"
    return head.encode() + b"Date: Sun, 22 Nov 2026 08:00:00 +0000\r\nMessage-ID: <d@origin.example>\r\n\r\n" + end


EVIL = letter("evil")
BAD = letter("evil", b"bare\nline feed\r\n")


def chunk(octets: bytes, mark: bytes = b"") -> bytes:
    return b"BDAT %d%b\r\n%b" % (len(octets), mark, octets)


# What is said behind EHLO → the code of each reply. %SUBJECT is the one message that gets through, if the script has it.
GOOD = letter("%SUBJECT")
SCRIPTS: dict[str, tuple[bytes, str]] = {
    "only-them": (MAIL + THEM + b"DATA\r\n" + MAIL + RCPT + b"RSET\r\n", "250 550 554 503 250 250"),
    "them-then-us": (MAIL + THEM + RCPT + b"DATA\r\n" + GOOD + b".\r\n", "250 550 250 354 250"),
    "us-then-them": (MAIL + RCPT + THEM + b"DATA\r\n" + GOOD + b".\r\n", "250 250 550 354 250"),
    "them-in-chunks": (MAIL + THEM + chunk(EVIL, b" LAST") + MAIL + RCPT + chunk(GOOD, b" LAST"), "250 550 554 250 250 250"),
    "both-in-chunks": (MAIL + RCPT + THEM + chunk(GOOD[:9]) + chunk(GOOD[9:], b" LAST"), "250 250 550 250 250"),
    "rset-between": (MAIL + RCPT + b"RSET\r\n" + RCPT + b"DATA\r\n" + MAIL + THEM, "250 250 250 503 503 250 550"),
    "helo-between": (MAIL + RCPT + b"HELO other.example\r\n" + RCPT + b"DATA\r\n", "250 250 250 503 503"),
    "vrfy-between": (MAIL + b"VRFY victim\r\n" + RCPT + b"VRFY box\r\nDATA\r\n" + GOOD + b".\r\n", "250 252 250 252 354 250"),
    "bad-ehlo-between": (MAIL + RCPT + b"EHLO \r\nDATA\r\n" + GOOD + b".\r\n", "250 250 501 354 250"),
    "mail-in-mail": (MAIL + RCPT + b"MAIL FROM:<evil@origin.example>\r\nDATA\r\n" + GOOD + b".\r\n", "250 250 503 354 250"),
    "refused-at-the-end": (
        MAIL + RCPT + b"DATA\r\n" + BAD + b".\r\n" + RCPT + b"DATA\r\n" + MAIL + RCPT + b"DATA\r\n" + GOOD + b".\r\n",
        "250 250 354 554 503 503 250 250 354 250",
    ),
    "taken-at-the-end": (
        MAIL + RCPT + b"DATA\r\n" + GOOD + b".\r\n" + RCPT + b"DATA\r\n" + THEM + b"RSET\r\n",
        "250 250 354 250 503 503 503 250",
    ),
    "refused-chunk": (
        MAIL + RCPT + chunk(BAD) + chunk(EVIL) + RCPT + chunk(EVIL, b" LAST") + MAIL + RCPT + chunk(GOOD, b" LAST"),
        "250 250 554 503 503 503 250 250 250",
    ),
    "commands-in-a-refused-chunk": (
        MAIL
        + THEM
        + chunk(b"RSET\r\n" + MAIL + RCPT + b"DATA\r\n" + EVIL + b".\r\n")
        + b"RSET\r\n"
        + MAIL
        + RCPT
        + chunk(GOOD, b" LAST"),
        "250 550 554 250 250 250 250",
    ),
    "commands-in-content": (
        MAIL + RCPT + b"DATA\r\n" + GOOD + b"RSET\r\n" + MAIL.replace(b"a@", b"b@") + THEM + b"DATA\r\n..\r\nQUIT\r\n.\r\n",
        "250 250 354 250",
    ),
    "data-in-chunks": (MAIL + RCPT + chunk(EVIL) + b"DATA\r\nRSET\r\n", "250 250 250 503 250"),
    "chunks-left": (MAIL + RCPT + chunk(EVIL) + b"RSET\r\n" + chunk(EVIL, b" LAST") + MAIL, "250 250 250 250 503 250"),
    "mail-in-chunks": (MAIL + RCPT + chunk(EVIL) + MAIL + THEM + b"RSET\r\n", "250 250 250 503 503 250"),
    "xclient-and-auth": (
        b"XCLIENT ADDR=127.0.0.1 LOGIN=root\r\nAUTH PLAIN AHJvb3QAcm9vdA==\r\n" + MAIL + THEM + b"DATA\r\nRSET\r\n",
        "550 502 250 550 554 250",
    ),
    "our-senders": (b"MAIL FROM:<root@dest.example>\r\n" + THEM + b"RSET\r\nMAIL FROM:<>\r\n" + THEM, "250 550 250 250 550"),
}  # fmt: skip


def say(daemon: Daemon, said: bytes, *, octets: bool) -> list[str]:
    """The codes of the replies behind that to EHLO, up to that to QUIT."""
    with Wire(daemon.smtp_port) as client:
        assert client.ask(HELLO.strip()).startswith(b"250")
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(said)) if octets else (0,):
            client.send(said[at : at + 1] if octets else said)
        *heard, bye = [line[:3].decode() for line in client.rest().split(b"\r\n")[:-1]]
    assert bye == "221"
    return heard


@pytest.mark.parametrize("cut", ["one-go", "octets"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_fault_7_step_is_kept_whatever_is_refused_on_the_way(world: World, daemon: Daemon, name: str, cut: str) -> None:
    said, wanted = SCRIPTS[name]
    subject = f"step{next(numbers):04d}"  # as long as the mark, so that the sizes of chunks hold
    heard = say(daemon, said.replace(b"%SUBJECT", subject.encode()) + b"QUIT\r\n", octets=cut == "octets")
    assert heard == wanted.split()
    if b"%SUBJECT" in said:
        world.arrived(subject)


def test_fault_24_nothing_is_relayed_by_many_at_once(world: World, daemon: Daemon) -> None:
    """Forty sessions over both workers, each with pipelines of mixed transactions; one worker's step is not another's."""
    good: list[str] = []
    bad: list[str] = []

    def session(number: int) -> None:
        subjects = [f"mixed-{number}-{n}" for n in range(5)]
        said = b"".join(
            MAIL + THEM + RCPT + THEM + b"DATA\r\n" + letter(subject) + b".\r\n" + MAIL + THEM + b"RSET\r\n"
            for subject in subjects
        )
        heard = say(daemon, said + b"QUIT\r\n", octets=False)
        (good if heard == ["250", "550", "250", "550", "354", "250", "250", "550", "250"] * 5 else bad).extend(subjects)

    threads = [threading.Thread(target=session, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not bad
    for subject in good:
        world.arrived(subject)
    assert len(good) == 200


def test_fault_7_a_session_that_is_cut_in_the_middle_leaves_nothing(world: World, daemon: Daemon) -> None:
    """The pipeline ends anywhere: what was complete by then is delivered, and nothing else."""
    subject = f"cut-{next(numbers)}"
    first = HELLO + MAIL + RCPT + b"DATA\r\n" + letter(subject) + b".\r\n"
    pieces = [first.replace(subject.encode(), b"evil")[:at] for at in range(1, len(first) - 1, 37)]
    pieces.append(first.replace(subject.encode(), b"evil")[:-1])
    for said in pieces:
        with Wire(daemon.smtp_port) as client:
            client.send(said)
            client.socket.shutdown(socket.SHUT_WR)
            assert b"queued as" not in client.rest()
    with Wire(daemon.smtp_port) as client:
        client.send(first + MAIL + RCPT + chunk(EVIL, b" LAST")[:-1])
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest().count(b"queued as") == 1
    world.arrived(subject)
