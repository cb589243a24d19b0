# SPDX-License-Identifier: Apache-2.0
"""TLS: injection before the handshake, handshakes that fail or never end, implicit TLS, and the counts behind it."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.mail.events import Connected, Disconnected
from tests.support.edges import CONTENT, GREET, LOOPS, MAIL, Place, Sides, next_reply, reset, run, running, until

STARTTLS = ListenerOptions(address="127.0.0.1:0", tls="starttls")
IMPLICIT = ListenerOptions(address="127.0.0.1:0", tls="implicit")


async def upgrade(place: Place, sides: Sides, behind: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Greet, say STARTTLS with `behind` in the same segment, and do the handshake."""
    reader, writer = await place.connect()
    writer.write(GREET + b"STARTTLS\r\n" + behind)
    for code in (b"220", b"250", b"220 2.0.0"):
        assert (await next_reply(reader)).startswith(code)
    await writer.start_tls(sides.client, server_hostname="mx.example.test")
    return reader, writer


@pytest.mark.parametrize("loop", LOOPS)
def test_what_was_pipelined_behind_starttls_was_never_said(loop: str, tmp_path: Path, sides: Sides) -> None:
    """CVE-2011-0411: plaintext of an attacker must not become the first commands of the protected session."""

    async def main() -> None:
        async with running(tmp_path, listener=STARTTLS, tls=sides.server) as place:
            reader, writer = await upgrade(place, sides, b"EHLO evil.example\r\nMAIL FROM:<evil@b.example>\r\nRCPT TO:")
            writer.write(b"MAIL FROM:<a@b.example>\r\n")
            assert (await next_reply(reader)).startswith(b"503 5.5.1 ")
            writer.write(GREET + MAIL + CONTENT + b"QUIT\r\n")
            for code in (b"250 ", b"250 ", b"250 ", b"354 ", b"250 ", b"221 "):
                assert (await next_reply(reader)).startswith(code)
            (stored,) = place.intake.stored
            assert str(stored.tx.sender) == "a@b.example"
            assert [str(each.address) for each in stored.tx.recipients] == ["c@dest.example"]
            tls = stored.tx.client.tls
            assert tls is not None
            assert tls.version == "TLSv1.3"
            assert tls.bits >= 128
            assert b"with ESMTPS id" in stored.message.trace
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_after_tls_nothing_of_before_is_left_and_it_is_not_offered_again(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=STARTTLS, tls=sides.server) as place:
            reader, writer = await place.connect()
            writer.write(GREET + b"MAIL FROM:<a@b.example>\r\nSTARTTLS\r\n")
            for _ in range(4):
                await next_reply(reader)
            await writer.start_tls(sides.client, server_hostname="mx.example.test")
            writer.write(b"RCPT TO:<c@dest.example>\r\n")
            assert (await next_reply(reader)).startswith(b"503 ")
            writer.write(GREET)
            offers = b""
            while not offers.endswith(b"ENHANCEDSTATUSCODES\r\n"):
                offers += await reader.readline()
            assert b"STARTTLS" not in offers
            writer.close()
            await until(lambda: place.edge.sessions == 0)

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_plaintext_in_place_of_a_handshake_ends_the_connection(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=STARTTLS, tls=sides.server) as place:
            reader, writer = await place.connect()
            writer.write(GREET + b"STARTTLS\r\n")
            for _ in range(3):
                await next_reply(reader)
            writer.write(b"MAIL FROM:<a@b.example>\r\n" * 10)
            heard = b""
            with contextlib.suppress(ConnectionError):
                heard = await reader.read()
            assert b"250" not in heard
            await until(lambda: place.events.of(Disconnected))
            assert place.events.of(Disconnected)[0].reason == "tls"
            assert place.edge.sessions == 0
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("ending", ["stall", "reset", "half-close"])
def test_a_handshake_that_never_ends_ends(ending: str, loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        limits = LimitsOptions(handshake_timeout=0.2 if ending == "stall" else 30.0)
        async with running(tmp_path, listener=STARTTLS, tls=sides.server, limits=limits) as place:
            reader, writer = await place.connect()
            writer.write(GREET + b"STARTTLS\r\n")
            for _ in range(3):
                await next_reply(reader)
            writer.write(b"\x16\x03\x01\x02\x00")  # the beginning of a ClientHello
            if ending == "reset":
                reset(writer)
            elif ending == "half-close":
                writer.write_eof()
            await until(lambda: place.events.of(Disconnected))
            (ended,) = place.events.of(Disconnected)
            assert ended.reason == "tls"
            assert place.edge.sessions == 0
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_large_message_comes_through_tls(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=STARTTLS, tls=sides.server) as place:
            reader, writer = await upgrade(place, sides)
            body = b"\r\n" + b"0123456789abcdefgh\r\n" * 250_000
            writer.write(GREET + MAIL + b"Subject: x\r\n" + body + b".\r\nQUIT\r\n")
            assert b"queued as" in await reader.read()
            assert place.intake.stored[0].content.endswith(b"\r\nSubject: x\r\n" + body)
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_close_notify_behind_the_final_dot_does_not_lose_the_message(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=STARTTLS, tls=sides.server) as place:
            _, writer = await upgrade(place, sides)
            writer.write(GREET + MAIL + CONTENT)
            writer.close()
            await until(lambda: place.edge.sessions == 0)
            assert len(place.intake.stored) == 1

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_close_notify_in_the_middle_of_data_makes_no_message(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=STARTTLS, tls=sides.server) as place:
            _, writer = await upgrade(place, sides)
            writer.write(GREET + MAIL + CONTENT[:-3])
            writer.close()
            await until(lambda: place.edge.sessions == 0)
            assert not place.intake.stored

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_implicit_tls(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=IMPLICIT, tls=sides.server) as place:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", place.port, ssl=sides.client, server_hostname="mx.example.test"
            )
            assert (await next_reply(reader)).startswith(b"220 ")
            writer.write(GREET + b"STARTTLS\r\n" + MAIL + CONTENT + b"QUIT\r\n")
            heard = await reader.read()
            assert b"STARTTLS" not in heard
            assert b"503 5.5.1 " in heard
            assert b"queued as" in heard
            assert place.intake.stored[0].tx.client.tls is not None
            writer.close()
            await until(lambda: place.edge.sessions == 0)

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_handshakes_that_do_not_end_are_counted_and_end(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        limits = LimitsOptions(connections_per_client=2, handshake_timeout=1.0)
        async with running(tmp_path, listener=IMPLICIT, tls=sides.server, limits=limits) as place:
            silent = [await place.connect() for _ in range(2)]
            refused_reader, refused_writer = await place.connect()
            assert await refused_reader.read() == b"", "a third handshake has begun"
            refused_writer.close()
            for reader, writer in silent:  # the handshake's time is up
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                writer.close()
            assert not place.events.of(Connected)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", place.port, ssl=sides.client, server_hostname="mx.example.test"
            )
            assert (await next_reply(reader)).startswith(b"220 ")
            writer.close()
            await until(lambda: place.edge.sessions == 0)

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_drain_does_not_wait_for_handshakes(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=IMPLICIT, tls=sides.server) as place:
            reader, writer = await place.connect()
            await asyncio.sleep(0.05)
            await asyncio.wait_for(place.edge.drain(30), 5)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(loop, main())
