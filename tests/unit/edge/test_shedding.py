# SPDX-License-Identifier: Apache-2.0
"""Shedding: what is refused under which pressure, when it ends, and what is told of it."""

import asyncio
import ssl
from pathlib import Path

import pytest

from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.edge.shedding import Marks, Shedding
from gateway.infra.tls import server_context
from gateway.mail.events import Disconnected, Lifecycle, Rejected
from tests.support import certificates
from tests.support.clock import FakeClock
from tests.support.edges import CONTENT, GREET, LOOPS, MAIL, in_data, next_reply, run, running, until
from tests.support.fakes import Events, FakeIntake
from tests.support.rawtls import RawTls

MIB = 1 << 20


class Hands(FakeClock):
    """A clock that nobody sleeps by."""

    def turn(self) -> None:
        self._monotonic += 1.0


class Rig:
    """A Shedding whose memory and clock are ours."""

    def __init__(self, memory: int = 0, queued: int = 0) -> None:
        self.marks, self.clock, self.events, self.intake = Marks(memory, queued), Hands(), Events(), FakeIntake()
        self.resident, self.looks = 0, 0
        self.shedding = Shedding(lambda: self.marks, self.intake, self.clock, self.events, resident=self._look)

    def _look(self) -> int:
        self.looks += 1
        return self.resident

    def use(self, octets: int) -> None:
        self.resident = octets
        self.clock.turn()

    def told(self) -> list[tuple[str, str]]:
        return [(event.what, event.detail) for event in self.events.of(Lifecycle)]


def test_memory_refuses_connections_and_mail_until_a_tenth_is_free_again() -> None:
    rig = Rig(memory=100 * MIB)
    answers = []
    for used in (99, 100, 95, 90, 89, 95, 100):
        rig.use(used * MIB)
        answers.append((rig.shedding.refuses_connection(), rig.shedding.refuses_mail()))
    no, yes = (False, ""), (True, "memory")
    assert answers == [no, yes, yes, yes, no, no, yes]
    assert rig.told() == [
        ("shedding", "memory: 100MiB of 100MiB in use"),
        ("relieved", "memory: 89MiB of 100MiB in use"),
        ("shedding", "memory: 100MiB of 100MiB in use"),
    ]
    assert rig.shedding.refused == {("memory", "connection"): 4, ("memory", "mail"): 4}


def test_memory_is_looked_at_once_a_second_and_not_at_all_without_a_limit() -> None:
    rig = Rig(memory=MIB)
    rig.use(0)
    for _ in range(1000):
        rig.shedding.refuses_connection()
    assert rig.looks == 1
    rig.use(0)
    rig.shedding.refuses_connection()
    assert rig.looks == 2
    free = Rig()
    free.use(1 << 50)
    assert not free.shedding.refuses_connection()
    assert free.looks == 0


def test_the_hard_mark_is_a_quarter_beyond() -> None:
    rig = Rig(memory=100 * MIB)
    for used, desperate in ((100, False), (124, False), (125, True), (110, False)):
        rig.use(used * MIB)
        rig.shedding.feel(0)
        assert rig.shedding.desperate is desperate


def test_the_queue_refuses_mail_and_no_connections() -> None:
    rig = Rig(queued=10)
    answers = []
    for queued in (9, 10, 9, 8):
        rig.shedding.feel(queued)
        assert not rig.shedding.refuses_connection()
        answers.append(rig.shedding.refuses_mail())
    assert answers == ["", "queue", "queue", ""]
    assert [what for what, _ in rig.told()] == ["shedding", "relieved"]


def test_the_disk_refuses_mail_as_long_as_the_queue_says_so() -> None:
    rig = Rig()
    rig.intake.full = True
    assert rig.shedding.refuses_mail() == "disk"
    assert rig.shedding.states() == {"memory": False, "queue": False, "disk": True}
    assert rig.shedding.reasons() == ["no space for new mail"]
    rig.intake.full = False
    assert rig.shedding.refuses_mail() == ""
    assert not rig.shedding.reasons()


def test_a_limit_that_a_reload_takes_away_ends_it() -> None:
    rig = Rig(memory=MIB, queued=1)
    rig.use(MIB)
    rig.shedding.feel(5)
    assert len(rig.shedding.reasons()) == 2
    rig.marks = Marks()
    rig.clock.turn()
    rig.shedding.feel(5)
    assert not rig.shedding.reasons()


@pytest.mark.parametrize("loop", LOOPS)
def test_sessions_feel_the_pressure_and_a_transaction_may_end(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        more = {"marks": Marks(queued=1, memory=1 << 60)}
        async with running(tmp_path, more=more) as place:
            reader, writer = await in_data(place)
            place.edge.feel(1)
            heard = await place.talk(GREET, b"MAIL FROM:<>\r\nQUIT\r\n")
            assert heard.splitlines()[-2:] == [b"452 4.3.1 Insufficient storage, try again later", b"221 2.0.0 Bye"]
            assert place.events.of(Rejected)[0].verdict.rule == "shedding.queue"
            writer.write(CONTENT)
            assert (await next_reply(reader)).startswith(b"250 2.0.0 ")
            place.edge.feel(0)
            assert b"\r\n250 2.0.0 Ok: queued" in await place.talk(GREET + MAIL + CONTENT, eof=True)
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_beyond_the_hard_mark_who_is_idle_must_go_and_nobody_comes(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with running(tmp_path, more={"marks": Marks(memory=1)}, limits=LimitsOptions()) as place:
            shedding = place.edge.shedding
            monkeypatch.setattr(shedding, "_resident", lambda: 0)
            reader, writer = await in_data(place)
            idle, idle_writer = await place.connect()
            assert (await next_reply(idle)).startswith(b"220 ")
            monkeypatch.setattr(shedding, "_resident", lambda: 2)
            monkeypatch.setattr(shedding, "_until", 0.0)
            place.edge.feel(0)
            assert await idle.read() == b"421 4.3.2 Too busy, try again later\r\n"
            idle_writer.close()
            assert await place.talk() == b"421 4.3.2 Too busy, try again later\r\n"
            writer.write(CONTENT + b"NOOP\r\n")
            assert (await next_reply(reader)).startswith(b"250 2.0.0 Ok: queued")
            await until(lambda: len(place.events.of(Disconnected)) == 2)
            assert {event.reason for event in place.events.of(Disconnected)} == {"shed"}
            assert shedding.refused == {("memory", "connection"): 1, ("memory", "session"): 1}
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("balanced", [False, True])
def test_who_must_go_before_tls_hears_nothing_in_clear_and_goes(*, balanced: bool, loop: str, tmp_path: Path) -> None:
    """A 421 in the middle of a handshake cannot be said; a session that tried to stayed for ever, and so did its place."""
    made = certificates.make(tmp_path, "mx.example.test")
    networks = ["127.0.0.0/8"] if balanced else []
    listener = ListenerOptions.model_validate({"address": "127.0.0.1:0", "tls": "implicit", "proxy_protocol": networks})

    async def main() -> None:
        async with running(tmp_path, listener=listener, tls=server_context(made.certificate, made.key)) as place:
            reader, writer = await place.connect()
            if not balanced:
                writer.write(RawTls(reader, writer, ssl.create_default_context()).hello()[:20])
            await until(lambda: any(each._waiter and (balanced or each.received) for each in place.edge._desk.sessions))
            for session in list(place.edge._desk.sessions):
                session.send_away()
            assert await asyncio.wait_for(reader.read(), 30) == b""
            writer.close()
            await until(lambda: place.edge.sessions == 0)
            assert [event.reason for event in place.events.of(Disconnected)] == ["shed"]
            assert not place.edge._desk.admission._clients

    run(loop, main())
