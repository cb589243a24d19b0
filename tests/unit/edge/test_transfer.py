# SPDX-License-Identifier: Apache-2.0
"""BDAT over a real socket: files, deadlines, what is told, and octets that must never become commands."""

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from gateway.edge import listener
from gateway.edge.options import LimitsOptions
from gateway.mail import reply
from gateway.mail.events import Disconnected, Rejected
from gateway.mail.reply import MailError
from gateway.mail.verdict import Action, Phase, Verdict
from tests.support.edges import CONTENT, GREET, LOOPS, MAIL, Place, in_data, next_reply, reset, run, running, until
from tests.support.fakes import FakeIntake, FakePolicy

ENVELOPE = MAIL.removesuffix(b"DATA\r\n")
LARGE = b"Subject: x\r\n\r\n" + b"0123456789abcd\r\n" * 60_000
OK = b"250 2.0.0 Ok"


def chunk(octets: bytes, *, last: bool = False) -> bytes:
    return b"BDAT %d%s\r\n%s" % (len(octets), b" LAST" if last else b"", octets)


async def in_chunks(place: Place, *first: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A session whose first chunks were taken."""
    reader, writer = await place.connect()
    writer.write(GREET + ENVELOPE + b"".join(chunk(each) for each in first))
    for _ in range(4 + len(first)):
        assert (await next_reply(reader))[:1] == b"2"
    return reader, writer


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("sizes", [(len(LARGE),), (300_000, 1, 70_000), (65_536,)], ids=["one", "some", "many"])
def test_a_large_message_in_chunks_is_stored_octet_for_octet(sizes: tuple[int, ...], loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as place:
            said, at, turn = GREET + ENVELOPE, 0, 0
            while at < len(LARGE):
                said += chunk(LARGE[at : at + sizes[turn % len(sizes)]])
                at, turn = at + sizes[turn % len(sizes)], turn + 1
            heard = await place.talk(said, b"BDAT 0 LAST\r\nQUIT\r\n")
            assert heard.count(b" octets received\r\n") == turn
            (stored,) = place.intake.stored
            assert stored.on_disk
            assert stored.content.endswith(LARGE)
            assert not list(tmp_path.glob("*.tmp"))

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_thousands_of_tiny_chunks_in_one_packet(loop: str, tmp_path: Path) -> None:
    """What stands in the buffer behind a chunk must not be moved for each of them."""

    async def main() -> None:
        chance = random.Random(1)
        content = b"Subject: x\r\n\r\n" + b"".join(b"%d\r\n" % chance.getrandbits(60) for _ in range(2000))
        async with running(tmp_path) as place:
            said = b"".join(chunk(content[at : at + 3]) for at in range(0, len(content), 3))
            heard = await place.talk(
                GREET, ENVELOPE, said, b"BDAT 0 LAST\r\n", ENVELOPE, chunk(b"\r\n", last=True), b"QUIT\r\n"
            )
            assert heard.count(b" octets received\r\n") == (len(content) + 2) // 3
            assert [each.message.header + each.message.body for each in place.intake.stored] == [content, b"\r\n"]  # type: ignore[operator]

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("ending", ["RSET", "EHLO client.example", "QUIT", "half-close", "reset", "drain"])
def test_chunks_that_break_off_leave_no_file(ending: str, loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as place:
            _, writer = await in_chunks(place, LARGE)
            assert list(tmp_path.glob("*.tmp"))
            if ending == "reset":
                reset(writer)
            elif ending == "half-close":
                writer.write_eof()
            elif ending == "drain":
                await place.edge.drain(0)
            else:
                writer.write(ending.encode() + b"\r\n")
            await until(lambda: not list(tmp_path.glob("*.tmp")))
            assert not place.intake.stored
            writer.close()

    run(loop, main())


def test_a_refused_chunk_is_answered_when_all_of_it_has_come(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, limits=LimitsOptions(message_size=1000)) as place:
            reader, writer = await in_chunks(place, b"\r\n")
            writer.write(b"BDAT 1000\r\n" + b"x" * 999)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.readline(), 0.1)
            writer.write(b"\nQUIT\r\n")
            assert (await reader.read()).splitlines() == [
                b"552 5.3.4 Message exceeds the maximum size",
                b"221 2.0.0 Bye",
            ]
            writer.close()

    run("asyncio", main())


def test_a_refused_chunk_is_told_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as place:
            await place.talk(GREET, ENVELOPE, chunk(b"\r\na\nb"), chunk(b"c"), chunk(b"d", last=True), b"QUIT\r\n")
            (told,) = place.events.of(Rejected)
            assert (told.verdict.rule, told.final, told.size) == ("content.bare_line_end", True, 5)
            assert told.reply is reply.BARE_LINE_END

    run("asyncio", main())


@pytest.mark.parametrize("decision", [RuntimeError("boom"), Verdict(Action.REJECT, reply.SPAM, rule="test.no")])
def test_a_message_in_chunks_is_judged_like_any_other(decision: RuntimeError | Verdict, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, policy=FakePolicy({Phase.DATA: decision})) as place:
            heard = await place.talk(GREET, ENVELOPE, chunk(LARGE), b"BDAT 0 LAST\r\nRCPT TO:<c@dest.example>\r\nQUIT\r\n")
            final, after, bye = heard.splitlines()[-3:]
            assert final[:3] == (b"554" if isinstance(decision, Verdict) else b"451")
            assert after[:3] == b"503"
            assert bye[:3] == b"221"
            (told,) = place.events.of(Rejected)
            assert told.final
            await until(lambda: not list(tmp_path.glob("*.tmp")))

    run("asyncio", main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_disk_that_refuses_is_told_at_the_end_of_the_chunk(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        spool = tmp_path / "spool"
        spool.mkdir()
        async with running(spool) as place:
            spool.rmdir()
            said = chunk(LARGE) + chunk(LARGE) + chunk(b"QUIT\r\n", last=True)
            heard = await place.talk(GREET, ENVELOPE, said, ENVELOPE, chunk(b"small", last=True), b"QUIT\r\n")
            codes = [line[:3] for line in heard.splitlines() if line[3:4] == b" "]
            assert codes == [b"220", b"250", b"250", b"250", b"451", b"503", b"503", b"250", b"250", b"250", b"221"]
            assert [each.message.header for each in place.intake.stored] == [b"small\r\n"]

    run(loop, main())


@pytest.mark.parametrize("said", [b"", chunk(b"QUIT\r\n")], ids=["taken", "refused"])
def test_a_chunk_that_does_not_come_is_not_waited_for(said: bytes, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, limits=LimitsOptions(data_timeout=0.2)) as place:
            envelope = b"" if said else ENVELOPE
            assert (await place.talk(GREET, envelope, said, b"BDAT 1000\r\nx")).endswith(b"421 4.4.2 Idle for too long\r\n")
            await until(lambda: place.events.of(Disconnected))
            assert place.events.of(Disconnected)[0].reason == "idle"

    run("asyncio", main())


@pytest.mark.parametrize("opening", [ENVELOPE, b""], ids=["taken", "refused"])
def test_chunks_that_never_end_are_cut_off(opening: bytes, tmp_path: Path) -> None:
    """Fast enough for data_timeout, and yet for ever: the transaction has an end."""

    async def main() -> None:
        limits = LimitsOptions(data_timeout=0.2, transaction_timeout=0.5, message_size=0)
        async with running(tmp_path, limits=limits) as place:
            reader, writer = await place.connect()
            writer.write(GREET + opening + b"BDAT 99999999999\r\n")
            answer = asyncio.create_task(reader.read())
            with contextlib.suppress(ConnectionError):
                while not answer.done():
                    writer.write(b"x" * 500 + b"\r\n")
                    await asyncio.sleep(0.005)
            assert (await answer).endswith(b"421 4.4.2 The transaction takes too long\r\n")
            writer.close()
            await until(lambda: not list(tmp_path.glob("*.tmp")))

    run("asyncio", main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_half_close_behind_the_last_chunk_does_not_stop_the_commit(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        intake = FakeIntake(gate=asyncio.Event())
        async with running(tmp_path, intake=intake) as place:
            reader, writer = await in_chunks(place, b"\r\nbody")
            writer.write(b"BDAT 0 LAST\r\n")
            writer.write_eof()
            await intake.entered.wait()
            assert intake.gate is not None
            intake.gate.set()
            assert (await next_reply(reader)).startswith(OK)
            assert await reader.read() == b""
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("fault", [None, MailError(reply.QUEUE_WRITE, "no")], ids=["stored", "refused"])
def test_a_large_message_whose_session_is_gone_is_stored_or_its_file_removed(
    fault: MailError | None, loop: str, tmp_path: Path
) -> None:
    async def main() -> None:
        intake = FakeIntake(gate=asyncio.Event(), fault=fault)
        async with running(tmp_path, intake=intake) as place:
            _, writer = await in_data(place)
            writer.write(LARGE + b".\r\n")
            await intake.entered.wait()
            (session,) = place.edge._desk.sessions
            reset(writer)
            await until(lambda: session._link.lost)
            assert list(tmp_path.glob("*.tmp")), "the session's end took the file away from under the queue"
            assert intake.gate is not None
            intake.gate.set()
            await until(lambda: place.edge.sessions == 0)
            assert len(intake.stored) == (fault is None)
            assert not list(tmp_path.glob("*.tmp"))
            assert [told.reply for told in place.events.of(Rejected)] == ([] if fault is None else [reply.QUEUE_WRITE])

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_drain_does_not_wait_for_ever_for_a_queue_that_hangs(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        monkeypatch.setattr(listener, "STORING", 0.1)
        intake = FakeIntake(gate=asyncio.Event())
        async with running(tmp_path, intake=intake) as place:
            _, writer = await in_data(place)
            writer.write(CONTENT)
            await intake.entered.wait()
            await place.edge.drain(0.01)
            assert place.edge.sessions == 0
            assert not intake.stored
            writer.close()

    run(loop, main())
