# SPDX-License-Identifier: Apache-2.0
"""Sessions over a real socket: what is told as events, faults of ours, lost connections."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.mail import reply
from gateway.mail.envelope import Transaction
from gateway.mail.events import Connected, Disconnected, Rejected, Trouble
from gateway.mail.reply import MailError
from gateway.mail.verdict import ACCEPT, Action, AuthResult, Finding, Phase, Verdict
from tests.support.edges import CONTENT, GREET, LOOPS, MAIL, in_data, next_reply, reset, run, running, until
from tests.support.fakes import FakeIntake, FakePolicy

REFUSE = Verdict(Action.REJECT, reply.SPAM, rule="test.no")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_session_is_told_from_beginning_to_end(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as place:
            await place.talk(GREET, MAIL, CONTENT, b"QUIT\r\n")
            await until(lambda: place.events.of(Disconnected))
            (connected,), (ended,) = place.events.of(Connected), place.events.of(Disconnected)
            assert connected.client.session == ended.client.session
            assert (ended.reason, ended.messages, ended.commands) == ("quit", 1, 5)
            assert ended.client.helo == "client.example"
            assert place.edge.sessions == 0
            (stored,) = place.intake.stored
            assert stored.tx.client.esmtp
            assert stored.message.trace.startswith(b"Received: from client.example")
            assert stored.tx.id.encode() in stored.message.trace

    run(loop, main())


def test_refusals_are_told_with_what_led_to_them(tmp_path: Path) -> None:
    async def main() -> None:
        finding = Finding("test", Phase.CONNECT, "enforce", ACCEPT, 0.0)

        def at_connect(tx: Transaction) -> Verdict:
            tx.findings.append(finding)
            return ACCEPT

        def at_rcpt(tx: Transaction) -> Verdict:
            assert tx.candidate is not None
            return REFUSE if "nobody" in str(tx.candidate.address) else ACCEPT

        policy = FakePolicy({Phase.CONNECT: at_connect, Phase.RCPT: at_rcpt, Phase.DATA: REFUSE})
        async with running(tmp_path, policy=policy) as place:
            await place.talk(GREET, MAIL.replace(b"DATA", b"RCPT TO:<nobody@dest.example>\r\nDATA"), CONTENT, b"QUIT\r\n")
            at_rcpt_told, at_data_told = place.events.of(Rejected)
            assert (at_rcpt_told.phase, str(at_rcpt_told.recipient), at_rcpt_told.final) == (
                Phase.RCPT,
                "nobody@dest.example",
                False,
            )
            assert (at_data_told.phase, at_data_told.recipient, at_data_told.final) == (Phase.DATA, None, True)
            assert at_data_told.id == at_rcpt_told.id
            assert at_data_told.verdict is REFUSE
            assert at_data_told.findings == (finding,), "what CONNECT found belongs to each message"
            assert [str(each.address) for each in at_data_told.envelope.recipients] == ["c@dest.example"]
            assert at_data_told.size == len(CONTENT) - 3

    run("asyncio", main())


def test_what_earlier_phases_found_is_there_for_each_message_but_not_shared(tmp_path: Path) -> None:
    async def main() -> None:
        def at_helo(tx: Transaction) -> Verdict:
            tx.auth.append(AuthResult("iprev", "pass"))
            return ACCEPT

        def at_mail(tx: Transaction) -> Verdict:
            tx.auth.append(AuthResult("spf", "pass"))
            return ACCEPT

        async with running(tmp_path, policy=FakePolicy({Phase.HELO: at_helo, Phase.MAIL: at_mail})) as place:
            await place.talk(GREET, GREET, MAIL, CONTENT, MAIL, CONTENT, b"QUIT\r\n")
            for each in place.intake.stored:
                assert [result.method for result in each.tx.auth] == ["iprev", "spf"]
                assert each.message.trace.startswith(b"Authentication-Results: mx.example.test")
            first, second = place.intake.stored
            assert first.tx.id != second.tx.id

    run("asyncio", main())


@pytest.mark.parametrize(
    ("limits", "content", "rule"),
    [
        (LimitsOptions(message_size=10), CONTENT, "content.too_big"),
        (LimitsOptions(), b"bare\n\r\n.\r\n", "content.bare_line_end"),
        (LimitsOptions(line_length=5), CONTENT, "content.line_too_long"),
        (LimitsOptions(header_fields=3), b"a:\r\n" * 4 + CONTENT, "content.header_too_big"),
    ],
)
def test_a_message_refused_for_its_form_is_told_too(limits: LimitsOptions, content: bytes, rule: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, limits=limits) as place:
            await place.talk(GREET, MAIL, content, b"QUIT\r\n")
            (told,) = place.events.of(Rejected)
            assert (told.verdict.rule, told.final, told.size) == (rule, True, len(content) - 3)
            assert told.reply.permanent

    run("asyncio", main())


@pytest.mark.parametrize("fault", [RuntimeError("boom"), ConnectionResetError("a filter's own"), TimeoutError("too slow")])
def test_a_fault_of_the_policy_is_trouble_told_once_and_not_to_the_client(fault: Exception, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, policy=FakePolicy({Phase.DATA: fault})) as place:
            heard = await place.talk(GREET, MAIL, CONTENT, b"QUIT\r\n")
            assert b"\r\n451 4.3.0 " in heard
            assert str(fault).encode() not in heard
            (trouble,) = place.events.of(Trouble)
            assert str(fault) in trouble.detail
            (told,) = place.events.of(Rejected)
            assert told.final
            assert trouble.id == told.id

    run("asyncio", main())


def test_the_reply_of_the_queue_is_said_and_its_detail_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        intake = FakeIntake(fault=MailError(reply.QUEUE_WRITE, "fsync /secret/path"))
        async with running(tmp_path, intake=intake) as place:
            heard = await place.talk(GREET, MAIL, CONTENT, b"QUIT\r\n")
            assert b"\r\n451 4.3.0 Cannot store" in heard
            assert b"secret" not in heard
            (told,) = place.events.of(Rejected)
            assert (told.final, told.detail) == (True, "fsync /secret/path")

    run("asyncio", main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_half_close_behind_the_final_dot_does_not_stop_the_commit(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        intake = FakeIntake(gate=asyncio.Event())
        async with running(tmp_path, intake=intake) as place:
            reader, writer = await in_data(place)
            writer.write(CONTENT)
            writer.write_eof()
            await intake.entered.wait()
            assert intake.gate is not None
            intake.gate.set()
            assert (await next_reply(reader)).startswith(b"250 2.0.0 Ok: queued as ")
            assert await reader.read() == b""
            assert len(intake.stored) == 1
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_lost_during_the_commit_does_not_stop_it(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        intake = FakeIntake(gate=asyncio.Event())
        async with running(tmp_path, intake=intake) as place:
            _, writer = await in_data(place)
            writer.write(CONTENT)
            await intake.entered.wait()
            (session,) = place.edge._desk.sessions
            reset(writer)
            await until(lambda: session._link.lost)
            assert not intake.stored
            assert intake.gate is not None
            intake.gate.set()
            await until(lambda: place.edge.sessions == 0)
            assert len(intake.stored) == 1
            (ended,) = place.events.of(Disconnected)
            assert (ended.reason, ended.messages) == ("lost", 1)

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("ending", ["half-close", "reset"])
def test_a_large_message_that_breaks_off_leaves_nothing(ending: str, loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as place:
            _, writer = await in_data(place)
            writer.write(b"Subject: x\r\n\r\n" + b"0123456789abcd\r\n" * 60_000)
            await until(lambda: list(tmp_path.glob("*.tmp")))
            if ending == "reset":
                reset(writer)
            else:
                writer.write_eof()
            await until(lambda: place.edge.sessions == 0 and not list(tmp_path.glob("*.tmp")))
            assert not place.intake.stored
            assert place.events.of(Disconnected)[0].reason == "lost"
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_large_message_is_stored_octet_for_octet(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as place:
            body = b"\r\n" + b"".join(b"%d line\r\n" % number for number in range(200_000))
            heard = await place.talk(GREET, MAIL, b"Subject: x\r\n" + body + b".\r\n", b"QUIT\r\n")
            assert b"queued as" in heard
            (stored,) = place.intake.stored
            assert stored.on_disk
            assert stored.content == stored.message.trace + b"Subject: x\r\n" + body

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_large_message_that_the_queue_refuses_leaves_no_file(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, intake=FakeIntake(fault=MailError(reply.QUEUE_WRITE))) as place:
            await place.talk(GREET, MAIL, b"x\r\n\r\n" + b"0123456789abcd\r\n" * 60_000 + b".\r\n", b"QUIT\r\n")
            assert not list(tmp_path.glob("*.tmp"))

    run(loop, main())


def test_too_many_connections_of_one_client_are_told_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, limits=LimitsOptions(connections_per_client=2)) as place:
            held = [await place.connect() for _ in range(2)]
            for reader, _ in held:
                assert (await reader.readline()).startswith(b"220 ")
            assert (await place.talk()).startswith(b"421 4.7.0 ")
            await until(lambda: place.events.of(Disconnected))
            assert place.events.of(Disconnected)[0].reason == "refused"
            assert len(place.events.of(Connected)) == 2
            held[0][1].close()
            await until(lambda: place.edge.sessions == 1)
            assert (await place.talk(b"QUIT\r\n")).startswith(b"220 ")
            held[1][1].close()

    run("asyncio", main())


def test_replies_to_a_group_leave_together(tmp_path: Path) -> None:
    """RFC 2920 §3.2: one segment for MAIL, RCPT and RCPT, not three."""

    async def main() -> None:
        writes: list[bytes] = []
        real = asyncio.selector_events._SelectorSocketTransport.write  # type: ignore[attr-defined]

        def counting(self: object, data: bytes) -> None:
            if data.startswith(b"250 2.1.0"):
                writes.append(bytes(data))
            real(self, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio.selector_events._SelectorSocketTransport, "write", counting)  # type: ignore[attr-defined]
            async with running(tmp_path) as place:
                await place.talk(GREET, b"MAIL FROM:<>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\n", eof=True)
        assert writes == [b"250 2.1.0 Sender ok\r\n" + b"250 2.1.5 Recipient ok\r\n" * 2]

    run("asyncio", main())


def test_mail_of_another_listener_is_known_by_its_address(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, listener=ListenerOptions(address="[::]:25")) as place:
            await place.talk(GREET, MAIL, CONTENT, b"QUIT\r\n")
            client = place.intake.stored[0].tx.client
            assert (client.listener, client.role, client.trusted, str(client.ip)) == ("[::]:25", "mx", False, "127.0.0.1")
            assert replace(client, helo="") != client

    run("asyncio", main())
