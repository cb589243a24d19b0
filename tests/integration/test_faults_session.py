# SPDX-License-Identifier: Apache-2.0
"""Hostile clients against a live daemon: what is refused, what passes octet for octet, and that the session survives."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon
from tests.support.world import Wire, World, until


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as instance:
        yield instance


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.slow), 2], ids=["one-worker", "two-workers"])
def daemon(world: World, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("session"), world.tables(), workers=request.param) as instance:
        yield instance
        assert instance.stop() == 0
        assert not [row for row in instance.log() if row["event"] == "trouble"]


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Wire]:
    with Wire(daemon.smtp_port) as wire:
        yield wire


HEAD = (
    b"From: a@origin.example\r\nTo: box@dest.example\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\n"
    b"Message-ID: <odd@origin.example>\r\nSubject: %b\r\n"
)
ODD = {
    "header-only": HEAD,
    "header-and-empty-line": HEAD + b"\r\n",
    "line-without-colon": HEAD + b"no colon here\r\nX-After: 1\r\n\r\nbody\r\n",
    "blank-before-colon": HEAD + b"X-Odd : x\r\n\r\nbody\r\n",
    "nul": HEAD + b"\r\nbo\0dy\r\n",
    "nul-in-header": HEAD + b"X-Nul: a\0b\r\n\r\nbody\r\n",
    "line-of-64k": HEAD + b"\r\n" + b"x" * 65534 + b"\r\nshort\r\n",
    "8-bit-header": HEAD + b"X-Raw: \xff\xfe\x80\r\n\r\nbody \xe4\r\n",
    "utf8-header": HEAD + "X-Name: Grüße\r\n\r\nbody\r\n".encode(),
    "blanks-at-ends": HEAD + b"\r\nbody \t \r\n \r\n\r\n\r\n",
    "fold-of-blanks": HEAD + b"X-Fold: a\r\n \r\n\tb\r\n\r\nbody\r\n",
    "99-received": b"".join(b"Received: by r%d.example; Sun, 22 Nov 2026 08:00:00 +0000\r\n" % n for n in range(99))
    + HEAD
    + b"\r\n",
}


def stuffed(content: bytes) -> bytes:
    return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]


def behind_our_stamp(content: bytes) -> bytes:
    """What follows our Received and Authentication-Results."""
    lines = content.split(b"\r\n")
    names: list[bytes] = []
    at = 0
    while at < len(lines):
        if lines[at][:1] not in (b" ", b"\t"):
            names.append(lines[at].partition(b":")[0])
            if len(names) > 2 or names[-1] not in (b"Received", b"Authentication-Results") or len(set(names)) < len(names):
                break
        at += 1
    return b"\r\n".join(lines[at:])


@pytest.mark.parametrize("name", sorted(ODD))
def test_an_odd_message_passes_octet_for_octet(world: World, daemon: Daemon, client: Wire, name: str) -> None:
    subject = f"{name}-{daemon.workers}"
    content = ODD[name].replace(b"%b", subject.encode())
    answer = client.message(stuffed(content))
    assert answer.startswith(b"250 2.0.0 Ok: queued as "), answer
    assert behind_our_stamp(world.arrived(subject).content) == content


@pytest.mark.parametrize("size", [(256 << 10) + n for n in (-1, 0, 1)])
def test_a_message_at_the_border_of_the_spool_passes(world: World, daemon: Daemon, client: Wire, size: int) -> None:
    subject = f"border-{size}-{daemon.workers}"
    head = HEAD.replace(b"%b", subject.encode()) + b"\r\n"
    for whole in (size, size + len(head)):
        body = b".x" + b"y" * 996 + b"\r\n"
        left = whole - len(head)
        content = head.replace(b"border-", b"all-" if whole > size else b"border-")
        content += (body * (left // len(body) + 1))[: left - 2] + b"\r\n"
        content = content.replace(b"\r\r\n", b"z\r\n")
        assert client.message(stuffed(content)).startswith(b"250 ")
        client.ask(b"RSET")
        wanted = subject if whole == size else subject.replace("border-", "all-")
        assert behind_our_stamp(world.arrived(wanted).content) == content


def test_lone_dots_pass(world: World, daemon: Daemon, client: Wire) -> None:
    subject = f"dots-{daemon.workers}"
    content = HEAD.replace(b"%b", subject.encode()) + b"\r\n.\r\n..\r\n...\r\n.x\r\n\r\n.\r\n"
    assert client.message(stuffed(content)).startswith(b"250 ")
    assert behind_our_stamp(world.arrived(subject).content) == content


@pytest.mark.parametrize(
    "content",
    [
        b"\r\nx\n.\nMAIL FROM:<evil@origin.example>\r\n",
        b"\r\nx\n.\r\nMAIL FROM:<evil@origin.example>\r\n",
        b"\r\nx\r\n.\rMAIL FROM:<evil@origin.example>\r\n",
        b"\r\nx\r\n.\nMAIL FROM:<evil@origin.example>\r\n",
        b"\r\nx\r.\rMAIL FROM:<evil@origin.example>\r\n",
        b"\r\nx\r\r\n.\r\r\nMAIL FROM:<evil@origin.example>\r\n",
        b"X-Bare: a\nb\r\n\r\nbody\r\n",
        b"X-Bare: a\rb\r\n\r\nbody\r\n",
    ],
)
def test_a_smuggled_end_of_data_is_refused_and_one_reply_is_given(world: World, client: Wire, content: bytes) -> None:
    before = len(world.sink.messages)
    assert client.message(HEAD.replace(b"%b", b"smuggle") + content).startswith(b"554 5.6.0 ")
    assert client.ask(b"NOOP").startswith(b"250 2.0.0")
    assert not any(b"smuggle" in copy.content for copy in world.sink.messages[before:])


def test_nul_beside_the_dot_is_content(world: World, daemon: Daemon, client: Wire) -> None:
    subject = f"nuldot-{daemon.workers}"
    content = HEAD.replace(b"%b", subject.encode()) + b"\r\n.\0\r\n\0.\r\n"
    assert client.message(stuffed(content)).startswith(b"250 ")
    assert behind_our_stamp(world.arrived(subject).content) == content


REFUSED_CONTENT = {
    "long-line": (b"\r\n" + b"x" * 65535 + b"\r\n", b"500 5.6.0 "),
    "loop": (b"Received: by r.example; Sun, 22 Nov 2026 08:00:00 +0000\r\n" * 3000 + b"\r\n", b"554 5.4.6 "),
    "loop-101": (b"Received: by r.example; Sun, 22 Nov 2026 08:00:00 +0000\r\n" * 101 + b"\r\n", b"554 5.4.6 "),
    "endless-header": (b"X-Bomb: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 40000 + b"\r\n", b"552 5.3.4 "),
}


@pytest.mark.parametrize("name", sorted(REFUSED_CONTENT))
def test_bad_content_is_refused_after_its_end_and_the_session_lives(client: Wire, name: str) -> None:
    content, answer = REFUSED_CONTENT[name]
    assert client.message(HEAD.replace(b"%b", name.encode()) + content).startswith(answer)
    assert client.ask(b"RCPT TO:<box@dest.example>").startswith(b"503 5.5.1")
    assert client.ask(b"MAIL FROM:<a@origin.example>").startswith(b"250")


COMMANDS = {
    b"MAIL FROM:<a@origin.example\0>": b"501",
    b"MAIL FROM:<a\x1b[31m@origin.example>": b"501",
    b"MAIL FROM:<a@origin.example> SIZE=99999999999": b"552 5.3.4",
    b"MAIL FROM:<a@origin.example> SIZE=-1": b"501",
    b"MAIL FROM:<a@origin.example> SIZE=1 SIZE=1": b"501",
    b"MAIL FROM:<a@origin.example> BODY=BINARYMIME": b"5",
    b"MAIL FROM:<a@origin.example> XFOO=1": b"555",
    "MAIL FROM:<ä@origin.example>".encode(): b"553 5.6.7",
    b"MAIL FROM:<\xff@origin.example> SMTPUTF8": b"501",
    b"MAIL FROM:a@origin.example": b"501",
    b"MAIL FROM:<" + b"a" * 65 + b"@origin.example>": b"501",
    b"MAIL FROM:<a@" + b"a" * 64 + b".example>": b"501",
    b"MAIL FROM:<a@xn---.example>": b"501",
    b"RCPT TO:<a@dest.example>": b"503",
    b"DATA": b"503",
    b"VRFY box": b"252",
    b"EXPN list": b"502",
    b"TURN": b"502",
    b"BDAT 0 LAST": b"503 5.5.1",
    b"AUTH PLAIN AAAA": b"50",
    b"STARTTLS": b"502",
    b"XYZZY": b"500",
    b"": b"500",
    b"HELP": b"214",
    b"NOOP anything": b"250",
    b"RSET": b"250",
    b"EHLO": b"501",
    b"EHLO a b": b"501",
    b"EHLO \xff": b"501",
    b"HELO client.example": b"250",
    b"EHLO [IPv6:2001:db8::1]": b"250",
    b"EHLO _odd-name": b"250",
    b"NOOP " + b"x" * 3000: b"500",
}


@pytest.mark.parametrize("line", list(COMMANDS), ids=lambda line: repr(line[:50]))
def test_each_command_gets_its_one_reply(client: Wire, line: bytes) -> None:
    client.ask(b"EHLO client.example")
    answer = client.ask(line)
    assert answer.startswith(COMMANDS[line]), answer
    assert client.ask(b"NOOP").startswith(b"250 2.0.0")


RELAY = [
    b"<box%other.example@dest2.example>",
    b"<other.example!box@dest2.example>",
    b'<"box@other.example"@other.example>',
    b"<box@dest.example.>",
    b"<box@[127.0.0.1]>",
    b"<box@dest.example:25>",
    b"<@dest.example:box@other.example>",
    b"<box@other.example@dest.example>",
    b"<box@sub.dest.example>",
    b"<box@dest.example\t>",
    b"<box>",
    b"<>",
]


@pytest.mark.parametrize("path", RELAY, ids=repr)
def test_no_trick_of_address_makes_a_relay(client: Wire, path: bytes) -> None:
    client.ask(b"EHLO client.example")
    assert client.ask(b"MAIL FROM:<a@origin.example>").startswith(b"250")
    assert client.ask(b"RCPT TO:" + path)[:1] == b"5"
    assert client.ask(b"DATA")[:3] in (b"554", b"503")


@pytest.mark.parametrize("name", ["postmaster", "Postmaster", "POSTMASTER@dest.example"])
def test_postmaster_is_taken(client: Wire, name: str) -> None:
    client.ask(b"EHLO client.example")
    client.ask(b"MAIL FROM:<>")
    assert client.ask(f"RCPT TO:<{name}>".encode()).startswith(b"250 2.1.5")


@pytest.mark.parametrize(
    "opening",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 64,
    ],
)
def test_another_protocol_is_told_so_and_closed(client: Wire, opening: bytes) -> None:
    client.send(opening)
    assert client.rest().count(b"\r\n") <= 1


def test_an_endless_command_line_ends_the_session(client: Wire) -> None:
    with contextlib.suppress(ConnectionError):  # it need not be read to its end
        client.send(b"x" * (4 << 20))
    assert client.rest() in (b"500 5.5.2 Line too long\r\n", b"")


def test_too_many_errors_end_the_session(client: Wire) -> None:
    client.send(b"XYZZY\r\n" * 500)
    assert client.rest().split(b"\r\n")[-2].startswith(b"421 4.7.0")


def test_too_many_idle_commands_end_the_session(client: Wire) -> None:
    client.send(b"NOOP\r\n" * 500)
    assert client.rest().split(b"\r\n")[-2].startswith(b"421 4.7.0")


def test_control_characters_reach_neither_header_nor_log(world: World, daemon: Daemon, client: Wire) -> None:
    assert client.ask(b'EHLO a"}{,\\u000a').startswith((b"250", b"501"))
    hostile = '"x\\"}\\\\{"@origin.example'
    subject = f"hostile-{daemon.workers}"
    answer = client.message(HEAD.replace(b"%b", subject.encode()) + b"\r\n", sender=hostile, helo="[IPv6:2001:db8::1]")
    assert answer.startswith(b"250 ")
    world.arrived(subject)
    queue_id = answer.decode().rsplit(" ", 1)[1]
    until(
        "one disposition",
        lambda: sum(row.get("disposition") is True and row.get("id") == queue_id for row in daemon.log()) == 1,
    )
    assert json.dumps(daemon.log())


def test_pipelined_transactions_are_answered_in_order(world: World, daemon: Daemon, client: Wire) -> None:
    client.ask(b"EHLO client.example")
    one = b"MAIL FROM:<a@origin.example>\r\nRCPT TO:<no@other.example>\r\nRCPT TO:<box@dest.example>\r\nDATA\r\n"
    content = HEAD.replace(b"%b", f"piped-{daemon.workers}".encode()) + b"\r\nx\r\n.\r\n"
    client.send((one + content) * 5 + b"QUIT\r\n")
    codes = [line[:3] for line in client.rest().split(b"\r\n")[:-1]]
    assert codes == [b"250", b"550", b"250", b"354", b"250"] * 5 + [b"221"]
