# SPDX-License-Identifier: Apache-2.0
"""TLS that stalls, breaks, asks for a renegotiation or ends in the middle: no partial message, no session that stays."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.edge import connection
from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.mail.events import Disconnected, Trouble
from tests.support.edges import CONTENT, GREET, LOOPS, MAIL, Place, Sides, next_reply, run, running, until
from tests.support.fakes import FakeIntake
from tests.support.rawtls import RawTls

STARTTLS = ListenerOptions(address="127.0.0.1:0", tls="starttls")
IMPLICIT = ListenerOptions(address="127.0.0.1:0", tls="implicit")


async def secured(place: Place, sides: Sides, *said: bytes) -> RawTls:
    """A client of an implicit listener that has heard the replies to what it said."""
    reader, writer = await place.connect()
    client = RawTls(reader, writer, sides.client)
    await client.handshake()
    assert (await client.line()).startswith(b"220 ")
    for each in said:
        client.say(each)
        for _ in range(each.count(b"\r\n")):
            assert (await client.line())[:1] in b"23"
    return client


@asynccontextmanager
async def implicit(tmp_path: Path, sides: Sides, **limits: float) -> AsyncIterator[Place]:
    chosen = LimitsOptions.model_validate(limits)
    async with running(tmp_path, listener=IMPLICIT, tls=sides.server, limits=chosen) as place:
        yield place
        await until(lambda: place.edge.sessions == 0)
        assert not place.edge._desk.admission._clients
        assert not place.events.of(Trouble)


ENDINGS = ["close_notify", "fin", "close_notify-fin", "reset", "broken-record", "plaintext"]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("size", [100, 600_000])
@pytest.mark.parametrize("ending", ENDINGS)
def test_content_that_breaks_off_is_no_message(ending: str, size: int, loop: str, tmp_path: Path, sides: Sides) -> None:
    """However the connection ends before the final dot: whoever cuts it must not be able to cut a message."""

    async def main() -> None:
        async with implicit(tmp_path, sides) as place:
            client = await secured(place, sides, GREET, MAIL)
            for _ in range(0, size, 10_000):
                client.say(b"0123456789abcdefgh\r\n" * min(500, size // 20))
            client.say(b"a line that ends\r\n.")
            if ending.startswith("close_notify"):
                client.writer.write(client.close_notify())
            if ending.endswith("fin"):
                client.writer.write_eof()
            elif ending == "reset":
                await client.writer.drain()
                client.vanish()
            elif ending == "broken-record":
                record = bytearray(client.record(b"\r\n"))
                record[-1] ^= 1
                client.writer.write(bytes(record))
            elif ending == "plaintext":
                client.writer.write(b"\r\n.\r\n")
            with contextlib.suppress(OSError):
                heard, _ = await client.to_the_end()
                assert heard == b""
            await until(lambda: place.edge.sessions == 0 and not list(tmp_path.glob("*.tmp")))
            (ended,) = place.events.of(Disconnected)
            assert ended.reason == ("tls" if ending in ("broken-record", "plaintext") else "lost")
            assert not place.intake.stored
            client.writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("ending", ["close_notify", "fin"])
def test_a_half_close_behind_the_final_dot_does_not_lose_the_reply(
    ending: str, loop: str, tmp_path: Path, sides: Sides
) -> None:
    async def main() -> None:
        async with implicit(tmp_path, sides) as place:
            client = await secured(place, sides, GREET, MAIL)
            client.say(CONTENT)
            if ending == "fin":
                client.writer.write_eof()
            else:
                client.writer.write(client.close_notify())
            if ending == "fin":
                heard, orderly = await client.to_the_end()
                assert heard.startswith(b"250 2.0.0 Ok: queued as ")
                assert orderly
            await until(lambda: place.intake.stored)
            client.writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_our_end_is_told_by_close_notify(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with implicit(tmp_path, sides, errors=1) as place:
            for said, last in ((b"QUIT\r\n", b"221 "), (b"X\r\nX\r\n", b"421 ")):
                client = await secured(place, sides)
                client.say(said)
                heard, orderly = await client.to_the_end()
                assert heard.splitlines()[-1].startswith(last)
                assert orderly
                client.writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_who_does_not_answer_our_close_notify_is_cut_off(
    loop: str, tmp_path: Path, sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER", 0.1)

    async def main() -> None:
        async with implicit(tmp_path, sides, command_timeout=0.1) as place:
            client = await secured(place, sides, GREET)  # and is idle, and never closes
            await until(lambda: place.edge.sessions == 0)
            assert place.events.of(Disconnected)[0].reason == "idle"
            client.writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("listener", [STARTTLS, IMPLICIT], ids=["starttls", "implicit"])
def test_octets_one_by_one_win_no_time_for_a_handshake(
    listener: ListenerOptions, loop: str, tmp_path: Path, sides: Sides
) -> None:
    async def main() -> None:
        limits = LimitsOptions(handshake_timeout=0.3)
        async with running(tmp_path, listener=listener, tls=sides.server, limits=limits) as place:
            reader, writer = await place.connect()
            if listener is STARTTLS:
                writer.write(GREET + b"STARTTLS\r\n")
                for _ in range(3):
                    await next_reply(reader)
            client = RawTls(reader, writer, sides.client)
            for octet in client.hello()[:-1]:
                if place.events.of(Disconnected):
                    break
                writer.write(bytes([octet]))
                await asyncio.sleep(0.005)
            await until(lambda: place.events.of(Disconnected))
            assert place.events.of(Disconnected)[0].reason == "tls"
            assert (place.edge.sessions, place.edge._desk.admission._clients) == (0, {})
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_handshake_that_stalls_holds_up_nobody(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=IMPLICIT, tls=sides.server) as place:
            stuck = [await place.connect() for _ in range(20)]
            for _, writer in stuck:
                writer.write(b"\x16\x03\x01\x02\0\x01")
            client = await secured(place, sides, GREET, MAIL)
            client.say(CONTENT + b"QUIT\r\n")
            assert b"queued as" in (await client.to_the_end())[0]
            for writer in (client.writer, *(writer for _, writer in stuck)):
                writer.close()

    run(loop, main())


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("loop", LOOPS)
def test_a_renegotiation_is_the_end(loop: str, tmp_path: Path, sides: Sides) -> None:
    """TLS 1.2: each costs us far more than the client, and it may ask as often as it likes."""

    async def main() -> None:
        async with running(tmp_path, listener=STARTTLS, tls=sides.server) as place:
            command = ["openssl", "s_client", "-connect", f"127.0.0.1:{place.port}", "-starttls", "smtp", "-tls1_2", "-crlf"]
            client = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=-2)
            assert client.stdin
            assert client.stdout
            while b"Verify return code" not in await client.stdout.readline():
                pass
            client.stdin.write(b"NOOP\n")
            while not (await client.stdout.readline()).startswith(b"250 2.0.0"):
                pass
            client.stdin.write(b"R\n")  # "R" at the beginning of a line asks for it
            await until(lambda: place.events.of(Disconnected))
            (ended,) = place.events.of(Disconnected)
            assert ended.reason == "tls"
            assert ended.client.tls
            assert ended.client.tls.version == "TLSv1.2"
            client.stdin.close()
            await client.communicate()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_commit_goes_on_when_tls_breaks_under_it(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        intake = FakeIntake(gate=asyncio.Event())
        async with running(tmp_path, listener=IMPLICIT, tls=sides.server, intake=intake) as place:
            client = await secured(place, sides, GREET, MAIL)
            client.say(CONTENT)
            await intake.entered.wait()
            client.writer.write(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            with contextlib.suppress(OSError):
                await client.to_the_end()
            assert intake.gate
            intake.gate.set()
            await until(lambda: intake.stored and place.edge.sessions == 0)
            client.writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_under_tls_that_reads_no_replies_is_cut_off(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with implicit(tmp_path, sides, commands=0, command_timeout=0.3) as place:
            client = await secured(place, sides, GREET)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            (session,) = place.edge._desk.sessions
            while not place.events.of(Disconnected):
                client.say(b"HELP\r\n" * 2000)
                with contextlib.suppress(ConnectionError, asyncio.TimeoutError):
                    await asyncio.wait_for(client.writer.drain(), 0.05)
                assert len(session._lines) < connection.COMMANDS_HIGH + (1 << 19)
            client.writer.transport.abort()

    run(loop, main())
