# SPDX-License-Identifier: Apache-2.0
"""The start of a session: PROXY header, admission, implicit TLS; what is missing, lost or half-open at each step."""

import asyncio
import contextlib
import struct
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.edge.proxy import SIGNATURE
from gateway.mail.events import Connected, Disconnected, Trouble
from tests.support.edges import CONTENT, GREET, LOOPS, MAIL, Place, Sides, next_reply, reset, run, running, until
from tests.support.rawtls import RawTls

V1 = b"PROXY TCP4 192.0.2.7 192.0.2.2 4000 25\r\n"
V2 = SIGNATURE + b"\x21\x11\0\x0c" + ip_address("192.0.2.7").packed + bytes(4) + struct.pack("!HH", 4000, 25)
TRUSTED = {"trusted": [ip_network("192.0.2.0/24")]}


def behind(**more: object) -> ListenerOptions:
    """A listener whose clients on this machine are balancers."""
    return ListenerOptions.model_validate({"address": "127.0.0.1:0", "proxy_protocol": ["127.0.0.1/32"], **more})


def v1(address: str) -> bytes:
    family = b"TCP6" if ":" in address else b"TCP4"
    return b"PROXY %b %b %b 4000 25\r\n" % (family, address.encode(), address.encode())


async def all_gone(place: Place) -> Disconnected:
    """Wait until nothing is open or counted; the end of the one session that there was."""
    await until(lambda: place.edge.sessions == 0 and place.events.of(Disconnected))
    doors = place.edge._desk.admission
    assert (doors._total, doors._clients) == (0, {})
    assert not place.events.of(Trouble)
    (ended,) = place.events.of(Disconnected)
    return ended


async def hear_out(reader: asyncio.StreamReader) -> bytes:
    heard = b""
    with contextlib.suppress(ConnectionError):
        while more := await reader.read(1 << 16):
            heard += more
    return heard


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_the_client_is_the_one_of_the_header(header: bytes, loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=behind(), more=TRUSTED) as place:
            assert b"queued as" in await place.talk(header, GREET, MAIL, CONTENT, b"QUIT\r\n")
            ended = await all_gone(place)
            (connected,), (stored,) = place.events.of(Connected), place.intake.stored
            for client in (connected.client, ended.client, stored.tx.client):
                assert (str(client.ip), client.port, client.trusted) == ("192.0.2.7", 4000, True)
            assert b"[192.0.2.7]" in stored.message.trace
            assert b"127.0.0.1" not in stored.message.trace

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
def test_a_header_may_come_octet_by_octet(header: bytes, loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=behind()) as place:
            reader, writer = await place.connect()
            for octet in header:
                writer.write(bytes([octet]))
                await asyncio.sleep(0)
            assert (await next_reply(reader)).startswith(b"220 ")
            assert str(place.events.of(Connected)[0].client.ip) == "192.0.2.7"
            writer.close()

    run(loop, main())


def test_a_balancer_does_not_pass_its_trust_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=behind(), more={"trusted": [ip_network("127.0.0.0/8")]}) as place:
            await place.talk(V1, b"QUIT\r\n")
            assert not (await all_gone(place)).client.trusted

    run("asyncio", main())


@pytest.mark.parametrize(
    ("header", "own"),
    [
        (b"PROXY UNKNOWN\r\n", False),
        (SIGNATURE + b"\x20\0\0\0", True),
        (SIGNATURE + b"\x21\0\0\0", False),
        (SIGNATURE + b"\x21\x31\0\xd8" + bytes(216), False),
    ],
    ids=["unknown", "local", "unspecified", "unix"],
)
def test_a_balancer_that_names_nobody_is_the_client_and_trusted_for_itself_only(
    header: bytes, own: bool, tmp_path: Path
) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=behind(), more={"trusted": [ip_network("127.0.0.0/8")]}) as place:
            assert (await place.talk(header, b"QUIT\r\n")).startswith(b"220 ")
            client = (await all_gone(place)).client
            assert (str(client.ip), client.trusted) == ("127.0.0.1", own)

    run("asyncio", main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
@pytest.mark.parametrize(
    "said",
    [GREET, b"\r\n", b"PROXY TCP4 x\r\n", V2[:12] + b"\x31" + V2[13:], b"\x16\x03\x01\x02\0", b"PROXY " + b"x" * 200],
    ids=["ehlo", "empty", "bad-v1", "bad-v2", "tls", "endless"],
)
def test_no_header_is_the_end_without_a_word(said: bytes, tls: str, loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=behind(tls=tls), tls=sides.server) as place:
            reader, writer = await place.connect()
            writer.write(said if said != b"\r\n" else said + GREET)
            assert await hear_out(reader) == b""
            assert (await all_gone(place)).reason == "proxy"
            assert not place.events.of(Connected)
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("said", [b"", V1[:-1], V2[:-1]], ids=["nothing", "v1", "v2"])
def test_a_header_that_never_ends_is_not_waited_for(said: bytes, loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=behind(), limits=LimitsOptions(proxy_timeout=0.2)) as place:
            reader, writer = await place.connect()
            writer.write(said)
            assert await hear_out(reader) == b""
            assert (await all_gone(place)).reason == "proxy"
            writer.close()

    run(loop, main())


def test_octets_one_by_one_win_no_time_for_a_header(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=behind(), limits=LimitsOptions(proxy_timeout=0.2)) as place:
            reader, writer = await place.connect()
            writer.write(SIGNATURE + b"\x21\x11\x0f\xff")
            heard = asyncio.create_task(hear_out(reader))
            while not heard.done():
                writer.write(b"x")
                await asyncio.sleep(0.01)
            assert await heard == b""
            writer.close()

    run("asyncio", main())


@pytest.mark.parametrize("loop", LOOPS)
def test_who_is_no_balancer_is_served_and_its_header_is_alien(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        listener = ListenerOptions.model_validate({"address": "127.0.0.1:0", "proxy_protocol": ["10.0.0.0/8"]})
        async with running(tmp_path, listener=listener, more=TRUSTED) as place:
            assert b"queued as" in await place.talk(GREET, MAIL, CONTENT, b"QUIT\r\n")
            for header in (V1, V2):
                heard = await place.talk(header, GREET)
                assert heard.splitlines()[1:] == [b"554 5.5.0 This is an SMTP server"]
            assert {str(event.client.ip) for event in place.events.of(Connected)} == {"127.0.0.1"}

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_clients_behind_a_balancer_have_each_their_own_share(loop: str, tmp_path: Path) -> None:
    """Floods: 421 for an address or a /64; a balancer brings more than one client may."""

    async def main() -> None:
        limits = LimitsOptions(connections_per_client=2, connections=7)
        async with running(tmp_path, listener=behind(), limits=limits) as place:
            writers = []

            async def first_word(header: bytes) -> bytes:
                reader, writer = await place.connect()
                writers.append(writer)
                writer.write(header)
                return (await next_reply(reader))[:9]

            for header in (v1("192.0.2.7"), v1("192.0.2.7"), v1("2001:db8::1"), v1("2001:db8::ffff:2")):
                assert (await first_word(header)).startswith(b"220 ")
            assert await first_word(v1("192.0.2.7")) == b"421 4.7.0"
            assert await first_word(v1("2001:db8::3")) == b"421 4.7.0"
            assert (await first_word(v1("2001:db8:0:1::3"))).startswith(b"220 ")
            await until(lambda: place.edge.sessions == 5)
            waiting = [await place.connect() for _ in range(2)]  # for their headers; that makes seven
            await until(lambda: place.edge.sessions == 7)
            assert await first_word(b"") == b"421 4.7.0", "one more than there may be"
            for writer in (*writers, *(writer for _, writer in waiting)):
                writer.close()
            await until(lambda: place.edge.sessions == 0)
            assert (place.edge._desk.admission._total, place.edge._desk.admission._clients) == (0, {})

    run(loop, main())


def test_who_comes_with_the_header_in_one_packet_is_early_only_where_we_wait(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=behind()) as place:
            assert (await place.talk(V1 + GREET + b"QUIT\r\n")).endswith(b"221 2.0.0 Bye\r\n")
        async with running(tmp_path, listener=behind(greeting_delay="600s")) as place:
            assert (await place.talk(V1 + GREET)).startswith(b"554 5.5.0 ")
            assert str((await all_gone(place)).client.ip) == "192.0.2.7"

    run("asyncio", main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("together", [False, True])
def test_a_header_comes_before_implicit_tls(together: bool, loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=behind(tls="implicit"), tls=sides.server) as place:
            reader, writer = await place.connect()
            client = RawTls(reader, writer, sides.client)
            if together:
                writer.write(V2 + client.hello())
            else:
                writer.write(V2)
                await writer.drain()
            await client.handshake(hello=not together)
            assert (await client.line()).startswith(b"220 ")
            client.say(GREET + MAIL + CONTENT + b"QUIT\r\n")
            heard, orderly = await client.to_the_end()
            assert b"queued as" in heard
            assert orderly
            told = place.events.of(Connected)[0].client
            assert (str(told.ip), told.tls and told.tls.version) == ("192.0.2.7", "TLSv1.3")
            writer.close()
            await all_gone(place)

    run(loop, main())


STEPS = {
    "header": (behind(), V1[:9]),
    "implicit": (ListenerOptions(address="127.0.0.1:0", tls="implicit"), b"\x16\x03\x01\x02\0"),
    "header-then-implicit": (behind(tls="implicit"), V1 + b"\x16\x03\x01\x02\0"),
    "silence": (ListenerOptions.model_validate({"address": "127.0.0.1:0", "greeting_delay": "600s"}), b""),
    "header-then-silence": (behind(greeting_delay="600s"), V1),
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("ending", ["reset", "half-close"])
def test_who_is_lost_at_a_step_is_counted_out(ending: str, step: str, loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        listener, said = STEPS[step]
        async with running(tmp_path, listener=listener, tls=sides.server) as place:
            reader, writer = await place.connect()
            writer.write(said)
            await until(lambda: place.edge.sessions == 1 and next(iter(place.edge._desk.sessions)).received == len(said))
            if ending == "reset":
                reset(writer)
            else:
                writer.write_eof()
                assert await hear_out(reader) == b""
            ended = await all_gone(place)
            assert ended.reason == ("tls" if "implicit" in step else "lost")
            assert len(place.events.of(Connected)) == step.endswith("silence")
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("step", STEPS)
def test_a_drain_waits_for_no_step(step: str, loop: str, tmp_path: Path, sides: Sides) -> None:
    """421 where the client can read it; under half a handshake nothing can be said."""

    async def main() -> None:
        listener, said = STEPS[step]
        async with running(tmp_path, listener=listener, tls=sides.server) as place:
            reader, writer = await place.connect()
            writer.write(said)
            await until(lambda: place.edge.sessions == 1 and next(iter(place.edge._desk.sessions)).received == len(said))
            drain = asyncio.create_task(place.edge.drain(600))
            heard = await hear_out(reader)
            writer.close()
            await drain
            assert heard[:10] == (b"" if "implicit" in step else b"421 4.3.2 ")
            assert (await all_gone(place)).reason == "shutdown"

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_drain_waits_for_no_starttls_but_for_a_transaction_under_it(loop: str, tmp_path: Path, sides: Sides) -> None:
    async def main() -> None:
        listener = ListenerOptions(address="127.0.0.1:0", tls="starttls")
        async with running(tmp_path, listener=listener, tls=sides.server) as place:
            talks = []
            for shake in (False, True):
                reader, writer = await place.connect()
                writer.write(GREET + b"STARTTLS\r\n")
                for _ in range(3):
                    await next_reply(reader)
                talks.append(RawTls(reader, writer, sides.client))
                if shake:
                    await talks[-1].handshake()
            stuck, busy = talks
            busy.say(GREET + MAIL)
            for code in (b"250", b"250", b"250", b"354"):
                assert (await busy.line()).startswith(code)
            drain = asyncio.create_task(place.edge.drain(600))
            assert await hear_out(stuck.reader) == b""
            busy.say(CONTENT)
            heard, orderly = await busy.to_the_end()
            assert [line[:9] for line in heard.splitlines()] == [b"250 2.0.0", b"421 4.3.2"]
            assert orderly
            for talk in talks:
                talk.writer.close()
            await drain
            assert len(place.intake.stored) == 1

    run(loop, main())
