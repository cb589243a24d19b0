# SPDX-License-Identifier: Apache-2.0
"""Plaintext behind STARTTLS, in every shape: nothing of it is read once TLS stands (RFC 3207 §4.2, CVE-2011-0411)."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.mail.events import Disconnected
from tests.support.edges import CONTENT, GREET, LOOPS, MAIL, Place, Sides, next_reply, run, running, until
from tests.support.rawtls import RawTls

STARTTLS = ListenerOptions(address="127.0.0.1:0", tls="starttls")
EVIL = b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<evil@dest.example>\r\nDATA\r\n"
SHAPES = {
    "command": b"NOOP\r\n",
    "ehlo": b"EHLO evil.example\r\n",
    "mail": b"MAIL FROM:<evil@b.example>\r\n",
    "second-starttls": b"STARTTLS\r\n",
    "starttls-and-ehlo": b"STARTTLS\r\nEHLO evil.example\r\n",
    "transaction": b"EHLO evil.example\r\n" + EVIL + CONTENT,
    "broken-off-in-data": b"EHLO evil.example\r\n" + EVIL + b"Subject: evil\r\n",
    "half-a-line": b"MAIL FROM:<evil@b.example> SIZE=",
    "half-a-line-end": b"\r",
    "bare-lf": b"EHLO evil.example\nMAIL FROM:<evil@b.example>\n",
    "many": b"RSET\r\n" * 9000,
    "quit": b"QUIT\r\n",
    "record": b"\x16\x03\x01\x00\x05hello",
    "proxy": b"PROXY TCP4 192.0.2.7 192.0.2.2 4000 25\r\n",
}


def nothing_evil(place: Place) -> None:
    for _, tx in place.policy.asked:
        assert "evil" not in tx.client.helo
        assert "evil" not in str(tx.sender)
    for stored in place.intake.stored:
        assert b"evil" not in stored.content


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_stands_behind_starttls_in_its_packet_was_never_said(shape: str, loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=STARTTLS, tls=sides.server) as place:
            reader, writer = await place.connect()
            writer.write(GREET)
            for _ in range(2):
                await next_reply(reader)
            (session,) = place.edge._desk.sessions
            session.data_received(b"STARTTLS\r\n" + SHAPES[shape])  # a packet is what the loop hands over at once
            assert await reader.readline() == b"220 2.0.0 Ready to start TLS\r\n"
            client = RawTls(reader, writer, sides.client)
            await client.handshake()
            client.say(b"MAIL FROM:<a@b.example>\r\n")
            assert (await client.line()).startswith(b"503 5.5.1 "), "the session begins anew, with the client's own words"
            client.say(GREET + MAIL + CONTENT + b"QUIT\r\n")
            heard, _ = await client.to_the_end()
            codes = [line[:3] for line in heard.splitlines() if line[3:4] == b" "]
            assert codes == [b"250", b"250", b"250", b"354", b"250", b"221"]
            assert len(place.intake.stored) == 1
            nothing_evil(place)
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("shape", ["ehlo", "transaction", "second-starttls", "record"])
def test_octet_by_octet_it_is_dropped_or_the_end(shape: str, loop: str, tmp_path: Path, sides: Sides) -> None:
    """Octets that come after our 220 belong to the handshake, and are none."""

    async def main() -> None:
        async with running(tmp_path, listener=STARTTLS, tls=sides.server) as place:
            reader, writer = await place.connect()
            for octet in GREET + b"STARTTLS\r\n" + SHAPES[shape]:
                if writer.is_closing():
                    break
                writer.write(bytes([octet]))
                await asyncio.sleep(0)
            heard = b""
            with contextlib.suppress(ConnectionError):  # what was unread when the connection ended may have reset it
                heard = await reader.read()
            assert heard.partition(b"Ready to start TLS\r\n")[2][:1] in (b"", b"\x15"), "at most an alert"
            await until(lambda: place.events.of(Disconnected))
            assert place.events.of(Disconnected)[0].reason == "tls"
            nothing_evil(place)
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_hello_that_comes_with_starttls_is_dropped_too(loop: str, tmp_path: Path, sides: Sides) -> None:
    """It was sent before we agreed to it, by whomever; the client that sent it waits in vain."""

    async def main() -> None:
        limits = LimitsOptions(handshake_timeout=0.2)
        async with running(tmp_path, listener=STARTTLS, tls=sides.server, limits=limits) as place:
            reader, writer = await place.connect()
            client = RawTls(reader, writer, sides.client)
            writer.write(GREET)
            for _ in range(2):
                await next_reply(reader)
            (session,) = place.edge._desk.sessions
            session.data_received(b"STARTTLS\r\n" + client.hello())
            assert await reader.read() == b"220 2.0.0 Ready to start TLS\r\n"
            await until(lambda: place.events.of(Disconnected))
            assert place.events.of(Disconnected)[0].reason == "tls"
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_the_first_words_under_tls_may_come_with_the_handshake(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=STARTTLS, tls=sides.server) as place:
            reader, writer = await place.connect()
            writer.write(GREET + b"STARTTLS\r\n")
            for _ in range(3):
                await next_reply(reader)
            client = RawTls(reader, writer, sides.client)
            last = await client.handshake(send_last=False)
            writer.write(last + client.record(GREET + MAIL + CONTENT + b"QUIT\r\n"))
            heard, orderly = await client.to_the_end()
            assert b"queued as" in heard
            assert orderly
            writer.close()

    run(loop, main())
