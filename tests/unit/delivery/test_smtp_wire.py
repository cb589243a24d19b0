# SPDX-License-Identifier: Apache-2.0
"""Replies off the wire: any chunking gives the same answers, and what is no reply ends the session."""

import asyncio
import re
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery import smtp_wire
from gateway.delivery.smtp_wire import LINES_MAX, REPLY_MAX, Answer, SessionFault, Wire
from gateway.mail import reply


class Transport(asyncio.Transport):
    """Takes everything, and knows whether it was aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


def make(owed: int = 1) -> tuple[Wire, Transport]:
    """A connected wire to which `owed` replies are owed."""
    wire, transport = Wire(asyncio.get_running_loop()), Transport()
    wire.connection_made(transport)
    wire.owe(owed - 1)
    return wire, transport


async def answers(wire: Wire, number: int) -> list[Answer]:
    return [await wire.answer("test", 1.0) for _ in range(number)]


REPLIES = b"220 ready\r\n250-mx\r\n250-SIZE 1\r\n250 PIPELINING\r\n354\r\n550 5.1.1 caf\xc3\xa9\r\n"
ANSWERS = [Answer(220, "ready"), Answer(250, "mx\nSIZE 1\nPIPELINING"), Answer(354, ""), Answer(550, "5.1.1 café")]


@given(st.lists(st.integers(0, len(REPLIES)), max_size=12))
def test_any_chunking_gives_the_same_answers(cuts: list[int]) -> None:
    async def check() -> None:
        wire, _ = make(4)
        start = 0
        for cut in [*sorted(cuts), len(REPLIES)]:
            wire.data_received(REPLIES[start:cut])
            start = cut
        assert await answers(wire, 4) == ANSWERS
        assert wire.idle_and_good

    asyncio.run(check())


async def test_bare_lf_is_read_as_the_end_of_a_line() -> None:
    wire, _ = make()
    wire.data_received(b"220-a\n220 b\n")
    assert await answers(wire, 1) == [Answer(220, "a\nb")]


@pytest.mark.parametrize(
    "junk",
    [
        b"hello\r\n",
        b"22 x\r\n",
        b"2200 x\r\n",
        b"199 x\r\n",
        b"600 x\r\n",
        b"\r\n",
        b"220_x\r\n",
        b"\xff\xff\xff\r\n",
        b"-20 x\r\n",
    ],
)
async def test_what_is_no_reply_ends_the_session(junk: bytes) -> None:
    wire, transport = make()
    wire.data_received(junk)
    with pytest.raises(SessionFault) as caught:
        await wire.answer("greeting", 1.0)
    assert caught.value.reply is reply.PROTOCOL_ERROR
    assert transport.aborted


@pytest.mark.parametrize("endless", [b"x" * 1000, b"220-more\r\n" * 100])
async def test_an_endless_reply_is_cut_off(endless: bytes) -> None:
    wire, transport = make()
    fed = 0
    while not transport.aborted:
        wire.data_received(endless if fed or endless.startswith(b"2") else b"220-" + endless)
        fed += len(endless)
        assert fed < REPLY_MAX + 4096
    with pytest.raises(SessionFault, match="longer than"):
        await wire.answer("greeting", 1.0)


async def test_a_reply_that_nobody_asked_for_ends_the_session_but_not_the_answer_before_it() -> None:
    wire, transport = make()
    wire.data_received(b"250 yes\r\n550 no\r\n")
    assert await answers(wire, 1) == [Answer(250, "yes")]
    assert transport.aborted
    assert not wire.idle_and_good
    with pytest.raises(SessionFault):
        wire.send(b"MAIL FROM:<>\r\n", 1)


async def test_silence_ends_with_the_deadline() -> None:
    wire, transport = make()
    with pytest.raises(SessionFault, match="after rcpt") as caught:
        await wire.answer("rcpt", 0.01)
    assert caught.value.reply is reply.HOST_TIMEOUT
    assert transport.aborted


async def test_a_shorter_wait_after_a_longer_one_has_its_own_deadline() -> None:
    wire, _ = make(2)
    asyncio.get_running_loop().call_soon(wire.data_received, b"250 Ok\r\n")
    await wire.answer("dot", 600)
    with pytest.raises(SessionFault, match=re.escape("nothing for 0.01 s after mail")):
        await wire.answer("mail", 0.01)


async def test_a_longer_wait_outlasts_the_timer_of_a_shorter_one() -> None:
    wire, _ = make(2)
    loop = asyncio.get_running_loop()
    loop.call_soon(wire.data_received, b"250 Ok\r\n")
    await wire.answer("mail", 0.01)
    loop.call_later(0.05, wire.data_received, b"250 Done\r\n")  # long after that timer has rung
    assert (await wire.answer("dot", 600)).text == "Done"


async def test_a_lost_connection_is_not_kept_in_memory_by_its_timer() -> None:
    wire, _ = make(2)
    asyncio.get_running_loop().call_soon(wire.data_received, b"250 Ok\r\n")
    await wire.answer("dot", 600)
    assert wire._timer is not None
    wire.connection_lost(None)
    assert wire._timer.cancelled()


async def test_a_loss_wakes_who_waits() -> None:
    wire, _ = make()
    waiting = asyncio.create_task(wire.answer("mail", 60.0))
    await asyncio.sleep(0)
    wire.connection_lost(ConnectionResetError("reset by peer"))
    with pytest.raises(SessionFault, match="reset by peer"):
        await waiting


async def test_a_closed_write_side_of_the_host_is_a_loss() -> None:
    wire, _ = make()
    wire.eof_received()
    with pytest.raises(SessionFault, match="closed by the other side"):
        await wire.answer("mail", 60.0)


async def test_a_full_write_buffer_is_waited_for_and_a_reply_ends_the_wait() -> None:
    wire, _ = make()
    wire.pause_writing()
    waiting = asyncio.create_task(wire.flushed(60.0))
    await asyncio.sleep(0)
    wire.resume_writing()
    assert await waiting
    wire.pause_writing()
    waiting = asyncio.create_task(wire.flushed(60.0))
    await asyncio.sleep(0)
    wire.data_received(b"552 enough\r\n")
    assert not await waiting


async def test_a_write_buffer_that_never_empties_is_a_timeout() -> None:
    wire, _ = make()
    wire.pause_writing()
    with pytest.raises(SessionFault, match="after content"):
        await wire.flushed(0.01)


async def test_flooding_does_not_fill_memory() -> None:
    wire, transport = make()
    wire.data_received(b"250 x\r\n" * 100_000)
    assert transport.aborted
    assert len(cast("list[Answer]", wire._answers)) == 1


async def test_a_reply_octet_by_octet_is_not_read_again_from_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else 32 KiB of short lines cost a minute of CPU."""

    class Counting:
        looked_at = 0

        def fullmatch(self, line: bytes) -> "re.Match[bytes] | None":
            self.looked_at += 1
            return plain.fullmatch(line)

    plain, counting = smtp_wire._LINE, Counting()
    monkeypatch.setattr(smtp_wire, "_LINE", counting)
    wire, _ = make()
    for octet in b"250-\r\n" * 400 + b"250 end\r\n":
        wire.data_received(bytes([octet]))
    assert await answers(wire, 1) == [Answer(250, "\n" * 400 + "end")]
    assert counting.looked_at == 401
    assert wire.idle_and_good


async def test_a_reply_has_so_many_lines_and_no_more() -> None:
    wire, transport = make(2)
    wire.data_received(b"250-\r\n" * (LINES_MAX - 1) + b"250 x\r\n")
    await answers(wire, 1)
    assert not transport.aborted
    wire.data_received(b"250-\r\n" * LINES_MAX + b"250 x\r\n")
    assert transport.aborted
    with pytest.raises(SessionFault, match="longer than"):
        await wire.answer("ehlo", 1.0)


async def test_a_reply_that_is_too_long_is_refused_though_it_comes_whole() -> None:
    wire, transport = make()
    wire.data_received(b"250-" + b"x" * REPLY_MAX + b"\r\n250 y\r\n")
    assert transport.aborted


async def test_a_line_from_before_tls_does_not_become_part_of_a_reply_after_it() -> None:
    """RFC 3207 §4.2; aiosmtplib empties the buffer between the reply to STARTTLS and the handshake."""
    wire, _ = make()
    wire.data_received(b"220 go ahead\r\n250-injected\r\n250-half")
    assert (await wire.read_response(1.0)).code == 220
    del wire._buffer[:]
    wire.owe(1)
    wire.data_received(b"250 ok\r\n")
    assert await answers(wire, 1) == [Answer(250, "ok")]
