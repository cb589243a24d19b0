# SPDX-License-Identifier: Apache-2.0
"""The Edge as a whole: reload, drain, kinds of sockets."""

import asyncio
import contextlib
import gc
import importlib
import weakref
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.edge import base
from gateway.edge.listener import Edge, EdgeSettings, bind
from gateway.edge.options import LimitsOptions, ListenerOptions
from gateway.edge.session import SmtpSession
from gateway.infra.clock import SystemClock
from gateway.mail import reply
from gateway.mail.events import Disconnected
from gateway.mail.verdict import Action, Phase, Verdict
from tests.support.edges import CONTENT, GREET, LOOPS, MAIL, in_data, next_reply, run, running, until
from tests.support.fakes import Events, FakeIntake, FakePolicy


@pytest.mark.parametrize("loop", LOOPS)
def test_a_drain_tells_idle_sessions_and_lets_transactions_finish(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as place:
            idle_reader, idle_writer = await place.connect()
            await next_reply(idle_reader)
            reader, writer = await in_data(place)
            drain = asyncio.create_task(place.edge.drain(30))
            assert (await next_reply(idle_reader)).startswith(b"421 4.3.2 ")
            idle_writer.close()
            with pytest.raises(OSError):  # nobody listens any more
                await place.connect()
            writer.write(CONTENT)
            assert (await next_reply(reader)).startswith(b"250 2.0.0 ")
            assert (await next_reply(reader)).startswith(b"421 4.3.2 ")
            assert await reader.read() == b""
            writer.close()
            await drain
            assert len(place.intake.stored) == 1
            assert place.edge.sessions == 0
            assert {event.reason for event in place.events.of(Disconnected)} == {"shutdown"}

    run(loop, main())


def test_a_session_that_has_ended_is_freed_without_the_collector(tmp_path: Path) -> None:
    """The collector runs seldom in the daemon; garbage that waits for it would be some megabytes at any time."""

    async def main() -> None:
        async with running(tmp_path) as place:
            reader, writer = await place.connect()
            await next_reply(reader)
            session = weakref.ref(*place.edge._desk.sessions)
            gc.disable()
            try:
                writer.write(b"QUIT\r\n")
                await reader.read()
                writer.close()
                await until(lambda: session() is None)
            finally:
                gc.enable()

    run("uvloop", main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_drain_cuts_what_does_not_finish_in_time(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as place:
            reader, writer = await in_data(place)
            await place.edge.drain(0.05)
            assert place.edge.sessions == 0
            assert not place.intake.stored
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_drain_waits_for_a_commit_whose_session_it_cut(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        intake = FakeIntake(gate=asyncio.Event())
        async with running(tmp_path, intake=intake) as place:
            reader, writer = await in_data(place)
            writer.write(CONTENT)
            await intake.entered.wait()
            drain = asyncio.create_task(place.edge.drain(0.01))
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            assert not drain.done()
            assert intake.gate is not None
            intake.gate.set()
            await drain
            assert place.edge.sessions == 0
            assert len(intake.stored) == 1
            writer.close()

    run(loop, main())


def test_a_drain_ends_a_tarpit_and_a_greeting_delay(tmp_path: Path) -> None:
    async def main() -> None:
        for listener in (
            ListenerOptions(address="127.0.0.1:25", tarpit=600.0),
            ListenerOptions(address="127.0.0.1:25", greeting_delay=600.0),
        ):
            async with running(tmp_path, listener=listener) as place:
                reader, writer = await place.connect()
                if listener.tarpit:
                    writer.write(b"X\r\n")
                await until(lambda place=place: place.edge.sessions == 1)
                await asyncio.sleep(0.05)  # until it sits in there
                drain = asyncio.create_task(place.edge.drain(30))
                assert b"421 4.3.2 " in await reader.read()
                writer.close()
                await drain

    run("asyncio", main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_reload_changes_the_next_transaction_not_the_running_one(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as place:
            reader, writer = await in_data(place)
            strict = FakePolicy({Phase.MAIL: Verdict(Action.REJECT, reply.POLICY)})
            place.edge.reload(replace(place.settings, limits=LimitsOptions(message_size=5)), strict)
            writer.write(CONTENT + b"MAIL FROM:<>\r\nQUIT\r\n")
            assert (await next_reply(reader)).startswith(b"250 2.0.0 ")
            assert (await next_reply(reader)).startswith(b"550 5.7.1 ")
            assert [phase for phase, _ in place.policy.asked][-1] is Phase.DATA
            writer.close()

    run(loop, main())


def test_a_reload_changes_the_limit_of_connections_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as place:
            reader, writer = await place.connect()
            await next_reply(reader)
            limits = LimitsOptions(connections_per_client=1)
            place.edge.reload(replace(place.settings, limits=limits), place.policy)
            assert (await place.talk()).startswith(b"421 4.7.0 ")
            trusted = replace(place.settings, limits=limits, trusted=[ip_network("127.0.0.0/8")])
            place.edge.reload(trusted, place.policy)
            assert (await place.talk(b"QUIT\r\n")).startswith(b"220 ")
            writer.close()

    run("asyncio", main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_unix_socket_serves_a_client_on_this_machine(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        path, intake = tmp_path / "smtp", FakeIntake()
        settings = EdgeSettings(
            hostname="mx.example.test", limits=LimitsOptions(), trusted=[ip_network("127.0.0.1")], spool_directory=tmp_path
        )
        edge = Edge(settings, FakePolicy(), intake, SystemClock(), Events())
        await edge.serve(bind(f"unix:{path}"), ListenerOptions(address=f"unix:{path}"))
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(GREET + MAIL + CONTENT + b"QUIT\r\n")
        assert b"queued as" in await reader.read()
        writer.close()
        assert str(intake.stored[0].tx.client.ip) == "127.0.0.1"
        assert intake.stored[0].tx.client.trusted
        await edge.drain(1)

    run(loop, main())


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_tls_without_certificate_is_refused_at_the_start(tls: str, tmp_path: Path) -> None:
    async def main() -> None:
        settings = EdgeSettings(hostname="mx.example.test", limits=LimitsOptions(), spool_directory=tmp_path)
        edge = Edge(settings, FakePolicy(), FakeIntake(), SystemClock(), Events())
        with bind("127.0.0.1:0") as sock, pytest.raises(ValueError, match="needs a certificate"):
            await edge.serve(sock, ListenerOptions.model_validate({"address": "127.0.0.1:0", "tls": tls}))
        await edge.drain(0)

    run("asyncio", main())


def test_the_base_is_looked_at_when_we_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """An aiosmtpd that renames what we override must not go unnoticed."""
    assert issubclass(SmtpSession, base.SMTP)
    monkeypatch.delattr(base.SMTP, "_handle_client")
    with pytest.raises(ImportError, match="_handle_client"):
        importlib.reload(base)
