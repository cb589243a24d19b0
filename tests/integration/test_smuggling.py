# SPDX-License-Identifier: Apache-2.0
"""SMTP smuggling, in and through: a real daemon between a hostile client and a next hop.

Whatever a client writes for an end of data, at most one message comes of one DATA or one train of chunks, and what only
our own handling could turn into an end of data arrives octet for octet. No next hop ever sees a bare CR or LF.
"""

import itertools
import re
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.support.daemon import Daemon, free_ports
from tests.support.ends import ENDS, has_bare, unstuffed
from tests.support.postfix import Postfix
from tests.support.world import Wire, World, until

GREETING = b"EHLO client.example\r\nMAIL FROM:<a@origin.example>\r\nRCPT TO:<box@dest.example>\r\n"
SMUGGLED = b"MAIL FROM:<evil@origin.example>\r\nRCPT TO:<victim@dest.example>\r\nDATA\r\nSubject: evil\r\n\r\nevil"
TRACE = re.compile(rb"(?:(?:Received|Authentication-Results):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)+")
FILTERS = '[filters.headers]\nmode = "off"'  # messages without a header are told apart by their octets
numbers = itertools.count()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as instance:
        yield instance


@pytest.fixture(scope="module")
def daemon(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("smuggling"), world.tables(FILTERS)) as instance:
        yield instance
        until("all is delivered", lambda: not instance.queue())
        check_next_hop(world)
        assert instance.metric("gateway_messages_accepted_total") == len(world.sink.messages)
        assert instance.stop() == 0
        assert not [row for row in instance.log() if row["event"] == "trouble"]


def check_next_hop(world: World) -> None:
    for copy in world.sink.messages:
        assert not has_bare(copy.content)
        assert (copy.sender, copy.recipients) == ("a@origin.example", ("box@dest.example",)), "a message was smuggled"


def head() -> tuple[str, bytes]:
    """A subject of its own, and the header that has it."""
    subject = f"first-{next(numbers)}"
    return subject, f"From: a@origin.example\r\nTo: box@dest.example\r\nSubject: {subject}\r\n".encode()


def say(port: int, *pieces: bytes) -> bytes:
    """Send each piece as a packet of its own; all that is answered until the end."""
    with Wire(port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            client.send(piece)
        return client.rest()


def final(heard: bytes) -> bytes:
    """The reply before the last one, which answers QUIT."""
    *_, answer, bye = heard.splitlines()
    assert bye == b"221 2.0.0 Bye"
    return answer


def below_trace(content: bytes) -> bytes:
    found = TRACE.match(content)
    assert found, content[:200]
    return content[found.end() :]


def octets(data: bytes) -> list[bytes]:
    return [bytes([octet]) for octet in data]


# --- in


@pytest.mark.parametrize("cut", ["one-packet", "octet-by-octet"])
@pytest.mark.parametrize("end", ENDS, ids=repr)
def test_fault_1_a_false_end_of_data_begins_no_second_message(world: World, daemon: Daemon, end: bytes, cut: str) -> None:
    subject, first = head()
    middle = [end] if cut == "one-packet" else octets(end)
    pieces = [GREETING + b"DATA\r\n" + first + b"\r\nbody", *middle, SMUGGLED, b"\r\n.\r\nQUIT\r\n"]
    heard = say(daemon.smtp_port, *([b"".join(pieces)] if cut == "one-packet" else pieces))
    assert heard.count(b"\r\n354 ") == 1, "a second DATA was obeyed"
    content = first + b"\r\nbody" + end + SMUGGLED + b"\r\n"
    if has_bare(content):
        assert final(heard).startswith(b"554 5.6.0 ")
        return
    assert final(heard).startswith(b"250 2.0.0 Ok: queued as ")
    assert below_trace(world.arrived(subject).content) == unstuffed(content)


@pytest.mark.parametrize("cut", ["one-chunk", "border-within"])
@pytest.mark.parametrize("end", [*ENDS, b"\r\n.\r\n"], ids=repr)
def test_fault_1_no_end_of_data_means_anything_in_chunks(world: World, daemon: Daemon, end: bytes, cut: str) -> None:
    subject, first = head()
    content = first + b"\r\nbody" + end + SMUGGLED + b"\r\n"
    at = len(first) + 6 + len(end) // 2 if cut == "border-within" else 0
    said = GREETING + (b"BDAT %d\r\n%s" % (at, content[:at]) if at else b"")
    said += b"BDAT %d LAST\r\n%sQUIT\r\n" % (len(content) - at, content[at:])
    heard = say(daemon.smtp_port, said)
    assert b"\r\n354 " not in heard
    if has_bare(content):
        refusals = [line[:4] for line in heard.splitlines() if line[:1] == b"5"]
        assert refusals in ([b"554 "], [b"554 ", b"503 "])
        return
    assert final(heard).startswith(b"250 2.0.0 Ok: queued as ")
    assert below_trace(world.arrived(subject).content) == content


def test_fault_1_a_size_that_is_too_small_makes_no_second_message(world: World, daemon: Daemon) -> None:
    """The client's own mistake: what it says behind the chunk are commands, but never content of the first message."""
    subject, first = head()
    heard = say(daemon.smtp_port, GREETING + b"BDAT %d LAST\r\n%s" % (len(first), first), b"\r\nbody\r\nQUIT\r\n")
    assert heard.count(b"queued as") == 1
    assert heard.count(b"\r\n500 ") == 2
    assert below_trace(world.arrived(subject).content) == first


# --- through


def by_data(content: bytes) -> list[bytes]:
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
    return [b"DATA\r\n" + stuffed + b".\r\nQUIT\r\n"]


def by_one_chunk(content: bytes) -> list[bytes]:
    return [b"BDAT %d LAST\r\n%sQUIT\r\n" % (len(content), content)]


def by_octets(content: bytes) -> list[bytes]:
    return [b"BDAT 1\r\n" + octet for octet in octets(content)] + [b"BDAT 0 LAST\r\nQUIT\r\n"]


THROUGH = {
    "dots-in-body": b"%b\r\n.\r\n..\r\n...\r\n.x\r\n\r\n.\r\n",
    "dot-begins-body": b"%b\r\n.",
    "dot-is-all-behind-the-header": b"%b.\r\n",
    "header-only": b"%b",
    "header-and-empty-line": b"%b\r\n",
    "dots-in-header": b"%b.\r\n..X: y\r\n\r\n",
    "dot-begins-the-message": b".\r\n%b\r\nbody\r\n",
    "ends-with-a-lone-dot": b"%b\r\nbody\r\n.",
    "ends-with-an-end-of-data": b"%b\r\nbody\r\n.\r\n",
    "commands-behind-an-end-of-data": b"%b\r\nbody\r\n.\r\nMAIL FROM:<evil@origin.example>\r\nRCPT TO:<box@dest.example>\r\n",
    "no-line-end": b"%b\r\nbody",
    "empty-lines-at-the-end": b"%b\r\nbody\r\n\r\n\r\n\r\n",
    "nul-beside-dots": b"%b\r\n\x00.\r\n.\x00\r\n",
    "fault-22-any-octets": b"%b\r\n" + bytes(set(range(256)) - {10, 13}) + b"\xc3\x28\xff\xfe\xed\xa0\x80\r\n",
    "long-line": b"%b\r\n" + b"." * 60_000 + b"\r\n.\r\n",
    "large": b"%b\r\n" + (b".0123456789\r\n..\r\n") * 40_000,
}


@pytest.mark.parametrize(
    ("name", "way"),
    [
        (name, way)
        for name in sorted(THROUGH)
        for way in (by_data, by_one_chunk, by_octets)
        if (name, way) != ("large", by_octets)
    ],
)
def test_fault_2_what_could_become_an_end_of_data_passes_octet_for_octet(
    world: World, daemon: Daemon, name: str, way: Callable[[bytes], list[bytes]]
) -> None:
    subject, first = head()
    content = THROUGH[name].replace(b"%b", first)
    if way is by_data and not content.endswith(b"\r\n"):
        content += b"\r\n"
    heard = say(daemon.smtp_port, GREETING, b"".join(way(content)))
    assert final(heard).startswith(b"250 2.0.0 Ok: queued as "), heard
    arrived = below_trace(world.arrived(subject).content)
    assert arrived == (content if content.endswith(b"\r\n") else content + b"\r\n")


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n\r", b"\r\n.\r", b"\r\n.\n"], ids=repr)
def test_fault_2_content_whose_end_would_make_one_with_ours_is_refused(daemon: Daemon, end: bytes) -> None:
    _, first = head()
    content = first + b"\r\nbody" + end
    assert final(say(daemon.smtp_port, GREETING, *by_one_chunk(content))).startswith(b"554 5.6.0 ")
    assert say(daemon.smtp_port, GREETING, b"".join(by_octets(content))).count(b"\r\n554 5.6.0 ") == 1


# --- a next hop that reads line ends as it likes


@pytest.fixture
def postfix() -> Iterator[Postfix]:
    with Postfix(free_ports(1)[0], domains="dest.example") as instance:
        yield instance


@pytest.mark.needs("root", "postfix")
def test_nothing_is_smuggled_through_to_a_real_postfix(
    world: World, postfix: Postfix, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tables = world.tables(FILTERS).replace(str(world.sink.port), str(postfix.port))
    with Daemon(tmp_path_factory.mktemp("postfix"), tables) as daemon:
        for end in [*ENDS, b"\r\n.\r\n"]:
            _, first = head()
            content = first + b"\r\nbody" + end + SMUGGLED + b"\r\n"
            for way in (by_data, by_one_chunk):
                say(daemon.smtp_port, GREETING, *way(content))
        until("all is delivered", lambda: not daemon.queue())
        copies = postfix.received()
        assert len(copies) == daemon.metric("gateway_messages_accepted_total") > 0
    assert all(b"To: box@dest.example\n" in copy for copy in copies)
    assert "from=<evil@" not in postfix.log()
    assert "victim@" not in postfix.log()
