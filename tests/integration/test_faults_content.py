# SPDX-License-Identifier: Apache-2.0
"""Hostile content against a live daemon, by DATA and in chunks: bombs, endless lines, octets of every kind, lost order."""

from collections.abc import Iterator

import psutil
import pytest

from tests.support.daemon import Daemon
from tests.support.world import Wire, World

pytestmark = pytest.mark.timeout(120)  # what is not linear in these sizes takes far longer

WAYS = pytest.mark.parametrize("way", ["DATA", "BDAT"])
HEAD = b"From: a@origin.example\r\nTo: box@dest.example\r\nMIME-Version: 1.0\r\nSubject: %b\r\n"
ENVELOPE = (b"EHLO client.example", b"MAIL FROM:<a@origin.example>", b"RCPT TO:<box@dest.example>")
ROOM = 32 << 20  # octets that the daemon may grow by for some large messages: what it may hold of each, and slack


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as instance:
        yield instance


@pytest.fixture(scope="module")
def daemon(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("content"), world.tables()) as instance:
        yield instance
        assert instance.stop() == 0
        assert not [row for row in instance.log() if row["event"] == "trouble"]


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Wire]:
    with Wire(daemon.smtp_port) as wire:
        yield wire


def send(client: Wire, way: str, *pieces: bytes) -> bytes:
    """A whole transaction; each piece is a chunk, if there are chunks. The final reply."""
    for line in ENVELOPE:
        assert client.ask(line).startswith(b"250"), line
    if way == "DATA":
        assert client.ask(b"DATA").startswith(b"354")
        at_start = True
        for piece in pieces:
            stuffed = piece.replace(b"\r\n.", b"\r\n..")
            client.send(b"." + stuffed if at_start and piece.startswith(b".") else stuffed)
            at_start = piece.endswith(b"\r\n")
        client.send(b".\r\n" if at_start else b"\r\n.\r\n")
        return client.reply()
    for piece in pieces:
        client.send(b"BDAT %d\r\n" % len(piece))
        client.send(piece)
        if not (answer := client.reply()).startswith(b"250"):
            return answer
    return client.ask(b"BDAT 0 LAST")


def passes(world: World, client: Wire, way: str, name: str, rest: bytes) -> None:
    """The message is taken and arrives octet for octet."""
    subject = f"{name}-{way}"
    content = HEAD.replace(b"%b", subject.encode()) + rest
    answer = send(client, way, content)
    assert answer.startswith(b"250 2.0.0 Ok: queued as "), answer
    assert world.arrived(subject).content.endswith(content)


# --- fault 7


AFTER = {
    b"RCPT TO:<box@dest.example>": b"503",
    b"DATA": b"503",
    b"BDAT 0 LAST": b"503",
    b"MAIL FROM:<a@origin.example>": b"250",
}


@WAYS
@pytest.mark.parametrize("end", [b"refused\n\r\n", b"taken\r\n"])
def test_fault_7_the_end_of_content_is_the_end_of_the_transaction(client: Wire, way: str, end: bytes) -> None:
    answer = send(client, way, HEAD.replace(b"%b", b"desync") + b"\r\n" + end)
    assert answer[:3] == (b"554" if b"refused" in end else b"250")
    for line, code in AFTER.items():
        assert client.ask(line)[:3] == code


@pytest.mark.parametrize("line", [b"RSET", b"EHLO again.example", b"HELO again.example"])
@pytest.mark.parametrize("chunk", [b"BDAT 4\r\nX: y", b""])
def test_fault_7_a_reset_in_the_middle_forgets_everything(client: Wire, line: bytes, chunk: bytes) -> None:
    for each in ENVELOPE:
        client.ask(each)
    if chunk:
        client.send(chunk)
        assert client.reply() == b"250 2.0.0 4 octets received"
    assert client.ask(b"VRFY box")[:3] == b"252"
    assert client.ask(line)[:3] == b"250"
    for after, code in AFTER.items():
        assert client.ask(after)[:3] == code


# --- fault 9


@WAYS
def test_fault_9_an_endless_line_is_refused_at_its_end_in_bounded_memory(daemon: Daemon, client: Wire, way: str) -> None:
    assert daemon.process
    process = psutil.Process(daemon.process.pid)
    before, piece = process.memory_info().rss, b"x" * (1 << 20)
    head = HEAD.replace(b"%b", b"endless") + b"\r\n"
    for line in (head, b"", b"X-Endless: "):
        assert send(client, way, line, *[piece] * 40, b"\r\n")[:3] in (b"500", b"552")
    assert process.memory_info().rss - before < ROOM
    assert client.ask(b"NOOP").startswith(b"250")


def test_fault_9_chunks_that_are_refused_are_read_in_bounded_memory(daemon: Daemon, client: Wire) -> None:
    assert daemon.process
    process = psutil.Process(daemon.process.pid)
    before = process.memory_info().rss
    client.ask(b"EHLO client.example")
    client.send(b"BDAT %d LAST\r\n" % (100 << 20))
    piece = (b"MAIL FROM:<evil@origin.example>\r\n" * 32768)[: 1 << 20]
    for _ in range(100):
        client.send(piece)
    assert client.reply().startswith(b"503 5.5.1")
    assert process.memory_info().rss - before < ROOM
    assert client.ask(b"QUIT").startswith(b"221")


# --- fault 11


BOMBS = {
    "a-hundred-thousand-fields": b"".join(b"X-%d: y\r\n" % number for number in range(100_000)),
    "a-header-of-a-megabyte": b"X-Long: " + (b"y" * 60_000 + b"\r\n ") * 18 + b"z\r\n",
    "a-million-folds": b"X-Folds:" + b"\r\n x" * 1_000_000 + b"\r\n",
    "a-million-empty-names": b":\r\n" * 1_000_000,
}
BELOW = {
    "fields-up-to-the-limit": b"".join(b"X-%d: y\r\n" % number for number in range(9_990)),
    "folds-up-to-the-limit": b"X-Folds:" + b"\r\n x" * 250_000 + b"\r\n",
    "blanks-up-to-the-limit": b"X-Blanks: " + (b" \t" * 30_000 + b"\r\n ") * 16 + b"z\r\n",
    "colons-up-to-the-limit": b"X: " + b":" * 60_000 + b"\r\n",
}


@WAYS
@pytest.mark.parametrize("name", sorted(BOMBS))
def test_fault_11_a_header_bomb_is_refused_and_the_session_lives(client: Wire, way: str, name: str) -> None:
    answer = send(client, way, HEAD.replace(b"%b", name.encode()) + BOMBS[name] + b"\r\nbody\r\n")
    assert answer.startswith(b"552 5.3.4 "), answer
    assert client.ask(b"NOOP").startswith(b"250")


@WAYS
@pytest.mark.parametrize("name", sorted(BELOW))
def test_fault_11_what_stays_below_the_limits_passes(world: World, client: Wire, way: str, name: str) -> None:
    passes(world, client, way, name, BELOW[name] + b"\r\nbody\r\n")


# --- fault 12


def nested(depth: int) -> bytes:
    """Multiparts within each other, none of them closed."""
    return b"".join(
        b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (level, level) for level in range(depth)
    )


MIME = {
    "a-thousand-levels": nested(1000),
    "a-thousand-messages-in-messages": b"Content-Type: message/rfc822\r\n\r\n" * 1000,
    "fifty-thousand-parts": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 50_000 + b"--b--\r\n",
    "no-boundary": b"Content-Type: multipart/mixed\r\n\r\n--\r\n\r\nx\r\n----\r\n",
    "empty-boundary": b'Content-Type: multipart/mixed; boundary=""\r\n\r\n--\r\n\r\nx\r\n----\r\n',
    "a-boundary-in-itself": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" * 2 + b"--b\r\n" * 1000,
    "a-boundary-of-64k": b"Content-Type: multipart/mixed; boundary=" + b"b" * 60_000 + b"\r\n\r\n--" + b"b" * 60_000 + b"\r\n",
    "parameters-without-end": b"Content-Type: text/plain" + b";\r\n a*0*=utf-8''%41" * 20_000 + b"\r\n\r\nx\r\n",
    "references-to-itself": b'Content-Type: message/external-body; access-type="x"; id="<1@x>"\r\nContent-ID: <1@x>\r\n\r\n'
    b"Content-ID: <1@x>\r\n\r\n",
    "base64-of-nothing": b"Content-Transfer-Encoding: base64\r\nContent-Type: application/zip\r\n\r\n" + b"=\r\n" * 10_000,
}


@WAYS
@pytest.mark.parametrize("name", sorted(MIME))
def test_fault_12_a_mime_bomb_is_no_concern_of_ours(world: World, client: Wire, way: str, name: str) -> None:
    passes(world, client, way, name, MIME[name])


# --- fault 22


OCTETS = {
    "nul": b"X-Nul: \x00\r\n\r\n\x00\x00\r\n\x00",
    "eight-bit": b"X-Raw: \x80\xff\r\n\r\n" + bytes(range(128, 256)),
    "invalid-utf-8": b"X-Bad: \xc3\x28 \xff\xfe\r\n\r\n\xc0\xaf \xed\xa0\x80 \xf5\x80\x80\x80 \xc3",
    "controls": b"X-Control: \x1b[31m\x07\x08\r\n\r\n" + bytes(set(range(32)) - {10, 13}) + b"\x7f",
    "other-line-ends": b"X-Ends: \x0b\x0c\x1c\xc2\x85\r\n\r\n\xe2\x80\xa8\x85\x0b\x0c",
}


@WAYS
@pytest.mark.parametrize("name", sorted(OCTETS))
def test_fault_22_octets_of_every_kind_pass(world: World, client: Wire, way: str, name: str) -> None:
    passes(world, client, way, name, OCTETS[name] + b"\r\n")


# --- rule 42


def test_rule_42_data_and_chunks_are_never_mixed(world: World, client: Wire) -> None:
    for line in ENVELOPE:
        client.ask(line)
    content = HEAD.replace(b"%b", b"unmixed") + b"\r\nbody\r\n"
    client.send(b"BDAT %d\r\n%s" % (len(content), content))
    assert client.reply().startswith(b"250 2.0.0 ")
    assert client.ask(b"DATA").startswith(b"503 5.5.1")
    assert client.ask(b"BDAT 0 LAST").startswith(b"250 2.0.0 Ok: queued as ")
    assert world.arrived("unmixed").content.endswith(content)
    assert client.ask(b"MAIL FROM:<a@origin.example> BODY=BINARYMIME").startswith(b"501 "), "it was not offered"
