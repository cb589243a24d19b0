# SPDX-License-Identifier: Apache-2.0
"""Sessions that try our patience: slow clients, clients that flood or do not read. Memory and time stay bounded."""

import asyncio
from pathlib import Path

import pytest

from gateway.edge.connection import COMMANDS_HIGH, CONTENT_HIGH, ROW
from gateway.edge.options import LimitsOptions
from gateway.edge.session import SmtpSession
from gateway.edge.spool import SpoolFile
from gateway.mail import reply
from gateway.mail.envelope import Transaction
from gateway.mail.events import Disconnected, Rejected
from gateway.mail.verdict import ACCEPT, Action, Phase, Verdict
from tests.support.edges import CONTENT, GREET, LOOPS, MAIL, in_data, next_reply, reset, run, running, until
from tests.support.fakes import FakePolicy


@pytest.mark.parametrize("loop", LOOPS)
def test_content_waits_in_the_socket_while_the_disk_is_slow(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 MB against a disk that takes nothing: what the process holds stays bounded, and nothing is lost."""

    async def main() -> None:
        sessions: list[SmtpSession] = []
        writing, may_write = asyncio.Event(), asyncio.Event()
        real = SmtpSession.admit
        monkeypatch.setattr(SmtpSession, "admit", lambda self: sessions.append(self) or real(self))
        write = SpoolFile.write

        async def slow(self: SpoolFile, data: bytes) -> None:
            writing.set()
            await may_write.wait()
            await write(self, data)

        monkeypatch.setattr(SpoolFile, "write", slow)
        async with running(tmp_path) as place:
            reader, writer = await in_data(place)
            writer.transport.set_write_buffer_limits(0)
            (session,) = sessions
            sender = asyncio.create_task(send(writer))
            await writing.wait()
            await until(lambda: session._link.read_paused)
            content = session._content
            assert content is not None
            for _ in range(50):
                await asyncio.sleep(0)
                assert content.held < CONTENT_HIGH + (1 << 19)
            may_write.set()
            await sender
            assert (await next_reply(reader)).startswith(b"250 ")
            assert place.intake.stored[0].message.body_size == 50 * 1_000_000 + 2
            writer.close()

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(b"Subject: x\r\n\r\n")
        for _ in range(50):
            writer.write(b"0123456789abcdefgh\r\n" * 50_000)
            await writer.drain()
        writer.write(b".\r\n")

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_pipelined_commands_wait_in_the_socket_while_the_policy_thinks(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        sessions: list[SmtpSession] = []
        real = SmtpSession.admit
        monkeypatch.setattr(SmtpSession, "admit", lambda self: sessions.append(self) or real(self))
        policy = FakePolicy()
        policy.gate, policy.gated = asyncio.Event(), frozenset({Phase.MAIL})
        async with running(tmp_path, policy=policy, limits=LimitsOptions(commands=0)) as place:
            reader, writer = await place.connect()
            writer.write(GREET + b"MAIL FROM:<a@b.example>\r\n" + b"RSET\r\n" * 200_000 + b"QUIT\r\n")
            await policy.entered.wait()
            (session,) = sessions
            await until(lambda: session._link.read_paused)
            assert len(session._lines) < COMMANDS_HIGH + (1 << 19)
            policy.gate.set()
            heard = await reader.read()
            assert heard.count(b"250 2.0.0 Ok\r\n") == 200_000
            assert heard.endswith(b"221 2.0.0 Bye\r\n")
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_reads_no_replies_is_cut_off(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        limits = LimitsOptions(commands=0, command_timeout=0.2)
        async with running(tmp_path, limits=limits) as place:
            _, writer = await place.connect()
            writer.transport.pause_reading()
            sender = asyncio.create_task(flood(writer))
            await until(lambda: place.events.of(Disconnected))
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            writer.close()

    async def flood(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"HELP\r\n" * 10_000)
            await writer.drain()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("said", "limits", "last", "reason"),
    [
        (b"", {"command_timeout": 0.1}, b"421 4.4.2", "idle"),
        (GREET + b"NOOP", {"command_timeout": 0.1}, b"421 4.4.2", "idle"),
        (GREET + b"MAIL FROM:<>\r\n", {"transaction_timeout": 0.1}, b"421 4.4.2", "idle"),
        (GREET + MAIL, {"data_timeout": 0.1}, b"421 4.4.2", "idle"),
        (GREET + MAIL + b"Subject: x", {"data_timeout": 0.1}, b"421 4.4.2", "idle"),
        (GREET + MAIL + b"Subject: x", {"transaction_timeout": 0.1}, b"421 4.4.2", "slow"),
    ],
)
def test_a_client_that_says_nothing_is_told_and_left(
    said: bytes, limits: dict[str, float], last: bytes, reason: str, loop: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with running(tmp_path, limits=LimitsOptions.model_validate(limits)) as place:
            heard = await place.talk(said)
            assert heard.splitlines()[-1].startswith(last)
            await until(lambda: place.events.of(Disconnected))
            assert place.events.of(Disconnected)[0].reason == reason

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("before", [b"", GREET, GREET + b"MAIL FROM:<a@b.example>\r\n"], ids=["first", "idle", "in-mail"])
def test_a_trickle_of_a_command_wins_no_time(before: bytes, loop: str, tmp_path: Path) -> None:
    """Slowloris: the time is for the whole line, not for each octet of it."""

    async def main() -> None:
        async with running(tmp_path, limits=LimitsOptions(command_timeout=0.2)) as place:
            reader, writer = await place.connect()
            writer.write(before)
            heard = asyncio.create_task(reader.read())
            while not heard.done():
                writer.write(b"x")
                await asyncio.sleep(0.01)
            assert (await heard).splitlines()[-1].startswith(b"421 4.4.2 ")
            await until(lambda: place.edge.sessions == 0)
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_clients_that_hold_us_up_at_every_stage_hold_up_nobody_else(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, limits=LimitsOptions(connections_per_client=0)) as place:
            writers = []
            for said in (b"", b"EH", GREET, GREET + b"MAIL FROM:<", GREET + MAIL, GREET + MAIL + b"Subject: s") * 10:
                _, writer = await place.connect()
                writer.write(said)
                writers.append(writer)
            assert b"queued as" in await place.talk(GREET, MAIL, CONTENT, b"QUIT\r\n")
            assert place.edge.sessions >= len(writers)
            assert not [event for event in place.events.of(Disconnected) if event.reason != "quit"]
            for writer in writers:
                writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_thousands_of_commands_at_once_leave_others_their_turn(loop: str, tmp_path: Path) -> None:
    """Even commands that end a group, and so are answered one by one: after some a look is taken at other sessions."""

    async def main() -> None:
        async with running(tmp_path, limits=LimitsOptions(commands=0)) as place:
            reader, writer = await place.connect()
            await next_reply(reader)
            (session,) = place.edge._desk.sessions
            turns = 0

            def turn() -> None:
                nonlocal turns
                turns += 1
                if session.counts.commands < 5000:
                    asyncio.get_running_loop().call_soon(turn)

            session.data_received(b"NOOP\r\n" * 5000)
            turn()
            await until(lambda: session.counts.commands == 5000)
            assert turns >= 5000 // ROW
            writer.close()

    run(loop, main())


def test_a_trickle_of_content_is_no_progress(tmp_path: Path) -> None:
    """Slowloris: an octet now and then keeps no session alive."""

    async def main() -> None:
        async with running(tmp_path, limits=LimitsOptions(data_timeout=0.15)) as place:
            reader, writer = await in_data(place)
            answer = asyncio.create_task(reader.readline())
            while not answer.done():
                writer.write(b"x")
                await asyncio.sleep(0.01)
            assert (await answer).startswith(b"421 4.4.2 ")
            writer.close()

    run("asyncio", main())


def test_content_that_comes_in_time_may_take_longer_than_one_timeout(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, limits=LimitsOptions(data_timeout=0.3)) as place:
            reader, writer = await in_data(place)
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() - began < 0.8:
                writer.write(b"x" * 500 + b"\r\n")
                await asyncio.sleep(0.01)
            writer.write(b".\r\n")
            assert (await next_reply(reader)).startswith(b"250 ")
            writer.close()

    run("asyncio", main())


def test_a_policy_that_thinks_long_is_not_the_clients_fault(tmp_path: Path) -> None:
    async def main() -> None:
        policy = FakePolicy()
        policy.gate, policy.gated = asyncio.Event(), frozenset({Phase.DATA})
        limits = LimitsOptions(command_timeout=0.4, data_timeout=0.4, transaction_timeout=0.5)
        async with running(tmp_path, policy=policy, limits=limits) as place:
            reader, writer = await in_data(place)
            writer.write(CONTENT)
            await policy.entered.wait()
            await asyncio.sleep(0.8)  # longer than any of the client's deadlines
            policy.gate.set()
            assert (await next_reply(reader)).startswith(b"250 ")
            writer.close()

    run("asyncio", main())


def test_a_client_that_left_does_not_keep_the_policy_busy(tmp_path: Path) -> None:
    async def main() -> None:
        policy = FakePolicy()
        policy.gate, policy.gated = asyncio.Event(), frozenset({Phase.MAIL})
        async with running(tmp_path, policy=policy) as place:
            _, writer = await place.connect()
            writer.write(GREET + MAIL)
            await policy.entered.wait()
            reset(writer)
            await until(lambda: place.edge.sessions == 0)

    run("asyncio", main())


@pytest.mark.parametrize("loop", LOOPS)
def test_the_last_reply_is_heard_though_the_client_goes_on_sending(loop: str, tmp_path: Path) -> None:
    """A close with unread input resets the connection, and the reason would be lost with it."""

    async def main() -> None:
        async with running(tmp_path, limits=LimitsOptions(errors=1)) as place:
            reader, writer = await place.connect()
            writer.write(b"X\r\nX\r\n")
            assert (await next_reply(reader)).startswith(b"220")
            assert (await next_reply(reader)).startswith(b"500")
            for _ in range(20):
                writer.write(b"MORE\r\n" * 100)
                await asyncio.sleep(0.002)
            assert (await next_reply(reader)).startswith(b"421 4.7.0")
            assert await reader.read() == b""
            writer.close()

    run(loop, main())


async def hear_out(reader: asyncio.StreamReader, said: bytes, writer: asyncio.StreamWriter) -> list[bytes]:
    """Say much, and listen meanwhile until the server closes: the first words of all replies."""
    writer.write(said)
    heard = await reader.read()
    writer.close()
    return [line[:9] for line in heard.splitlines()]


@pytest.mark.parametrize("recipients", [0, 1, 1000, 1500])
def test_recipients_that_are_deferred_for_ever_end_the_connection(recipients: int, tmp_path: Path) -> None:
    """Deferrals are no errors, but each is an event: a client must not make hundreds of thousands of them."""

    async def main() -> None:
        policy = FakePolicy({Phase.RCPT: Verdict(Action.DEFER, reply.SPF_TEMPERROR)})
        async with running(tmp_path, policy=policy, limits=LimitsOptions(recipients=recipients)) as place:
            most = max(1000, recipients)
            reader, writer = await place.connect()
            said = GREET + b"MAIL FROM:<a@b.example>\r\n" + b"RCPT TO:<c@dest.example>\r\n" * (most + 500)
            heard = await hear_out(reader, said, writer)
            assert heard.count(b"451 4.7.2") == most
            assert heard[-1] == b"421 4.7.0"
            await until(lambda: place.events.of(Disconnected))
            assert place.events.of(Disconnected)[0].reason == "recipients"
            assert len(place.events.of(Rejected)) == most + 1

    run("asyncio", main())


def test_refused_recipients_are_bounded_over_transactions_and_without_a_limit_of_errors(tmp_path: Path) -> None:
    """RSET and a new MAIL must not begin a new count."""

    async def main() -> None:
        policy = FakePolicy({Phase.RCPT: Verdict(Action.REJECT, reply.NO_SUCH_USER)})
        async with running(tmp_path, policy=policy, limits=LimitsOptions(errors=0)) as place:
            reader, writer = await place.connect()
            transaction = b"MAIL FROM:<a@b.example>\r\n" + b"RCPT TO:<c@dest.example>\r\n" * 100 + b"RSET\r\n"
            heard = await hear_out(reader, GREET + transaction * 15, writer)
            assert heard.count(b"550 5.1.1") == 1000
            assert heard[-1] == b"421 4.7.0"

    run("asyncio", main())


def test_a_mailing_whose_recipients_are_deferred_but_one_is_taken(tmp_path: Path) -> None:
    """999 that are greylisted, one that is not, and 2000 beyond the limit of recipients: an honest client gets its 250."""

    async def main() -> None:
        def greylist(tx: Transaction) -> Verdict:
            assert tx.candidate is not None
            return ACCEPT if tx.candidate.address.local == "c" else Verdict(Action.DEFER, reply.FILTER_FAULT)

        async with running(tmp_path, policy=FakePolicy({Phase.RCPT: greylist})) as place:
            reader, writer = await place.connect()
            deferred, taken = b"RCPT TO:<d@dest.example>\r\n", b"RCPT TO:<c@dest.example>\r\n"
            said = GREET + b"MAIL FROM:<a@b.example>\r\n" + deferred * 999 + taken * 3000 + b"DATA\r\n" + CONTENT + b"QUIT\r\n"
            heard = await hear_out(reader, said, writer)
            assert (heard.count(b"451 4.3.0"), heard.count(b"452 4.5.3")) == (999, 2000)
            assert heard[-2:] == [b"250 2.0.0", b"221 2.0.0"]
            assert len(place.intake.stored[0].tx.recipients) == 1000

    run("asyncio", main())
