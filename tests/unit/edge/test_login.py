# SPDX-License-Identifier: Apache-2.0
"""AUTH on real connections: what is told, what is not, who waits, what stays bounded."""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from gateway.edge.options import LimitsOptions, ListenerOptions, SubmissionOptions
from gateway.infra import passwords
from gateway.infra.records import record
from gateway.infra.tls import server_context
from gateway.infra.users import Users
from gateway.mail import reply
from gateway.mail.events import AuthAttempted, Disconnected, Rejected
from tests.support import certificates
from tests.support.edges import LOOPS, Place, next_reply, reset, run, running, until
from tests.support.fakes import Events
from tests.support.logins import made, plain, write

GREET = b"EHLO client.example\r\n"
SESAME = plain("ann", "sesame")
OPTIONS: dict[str, Any] = {"failure_delay": "1ms"}


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    made_ = certificates.make(tmp_path_factory.mktemp("tls"), "mx.example.test")
    client = ssl.create_default_context(cafile=str(made_.authority))
    client.check_hostname = False
    return server_context(made_.certificate, made_.key), client


class Submission:
    """A listener with implicit TLS, and clients of it."""

    def __init__(self, place: Place, context: ssl.SSLContext, users: Users) -> None:
        self.place = place
        self.users = users
        self._context = context

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.place.port, ssl=self._context)
        writer.write(GREET)
        assert (await next_reply(reader)).startswith(b"220")
        assert (await next_reply(reader)).startswith(b"250")
        return reader, writer

    async def say(self, *commands: bytes) -> list[bytes]:
        """The codes of the replies to these, in a session of their own; what is not answered any more is left out."""
        reader, writer = await self.connect()
        writer.write(b"".join(commands))
        codes = [(await next_reply(reader))[:3] for _ in commands]
        writer.close()
        return [code for code in codes if code]

    def told(self) -> list[AuthAttempted]:
        return self.place.events.of(AuthAttempted)


@asynccontextmanager
async def submission(
    folder: Path, trust: tuple[ssl.SSLContext, ssl.SSLContext], *users: str, limits: Any = None, **options: Any
) -> AsyncIterator[Submission]:
    events = Events()
    them = made(folder / "users", *(users or ("ann sesame ann@b.example",)), events=events)
    more = {"users": them, "submission": SubmissionOptions.model_validate({**OPTIONS, **options})}
    listener = ListenerOptions(address="127.0.0.1:0", role="submission", tls="implicit")
    limits = LimitsOptions.model_validate(limits or {})
    async with running(folder, listener=listener, limits=limits, tls=trust[0], more=more) as place:
        yield Submission(place, trust[1], them)
    them.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_login_is_told_with_the_user_and_without_the_password(loop: str, tmp_path: Path, trust: Any) -> None:
    async def main() -> None:
        async with submission(tmp_path, trust) as it:
            assert await it.say(SESAME) == [b"235"]
            (event,) = it.told()
            entry = record(event)
            assert {key: entry[key] for key in ("event", "user", "mechanism", "result", "tls", "old_hash")} == {
                "event": "auth", "user": "ann", "mechanism": "PLAIN", "result": "ok", "tls": "TLSv1.3", "old_hash": True,
            }  # fmt: skip
            assert "sesame" not in repr(it.place.events.all)

    run(loop, main())


@pytest.mark.parametrize("name", ["ann\r\n{}", "\x1b[2J", "x" * 5000, "ann\u2028bob"])
def test_a_name_that_fails_cannot_forge_a_line_of_the_log(name: str, tmp_path: Path, trust: Any) -> None:
    async def main() -> None:
        async with submission(tmp_path, trust) as it:
            assert await it.say(plain(name, "guess")) == [b"535"]
            (event,) = it.told()
            assert event.result == "failed"
            assert event.name.isprintable()
            assert len(event.name) <= 64
            assert "guess" not in repr(it.place.events.all)

    run("asyncio", main())


@pytest.mark.parametrize(("name", "password"), [("ann", "sesam"), ("nobody", "sesame"), ("a b", "sesame")])
def test_a_wrong_name_looks_like_a_wrong_password(name: str, password: str, tmp_path: Path, trust: Any) -> None:
    async def main() -> None:
        async with submission(tmp_path, trust) as it:
            reader, writer = await it.connect()
            writer.write(plain(name, password))
            assert await reader.readline() == b"535 5.7.8 Authentication credentials invalid\r\n"
            writer.close()

    run("asyncio", main())


def test_a_failure_is_answered_late_and_nobody_else_waits(tmp_path: Path, trust: Any) -> None:
    """One client fails with a delay of half a minute; another logs in meanwhile."""

    async def main() -> None:
        async with submission(tmp_path, trust, failure_delay="30s") as it:
            reader, writer = await it.connect()
            writer.write(plain("ann", "wrong"))
            answer = asyncio.create_task(reader.readline())
            await until(it.told)
            assert await it.say(SESAME) == [b"235"]
            assert not answer.done()
            await it.place.edge.drain(0)  # which does not wait for it either
            await answer
            writer.close()

    run("asyncio", main())


def test_each_failure_waits_twice_as_long(tmp_path: Path, trust: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []

    async def nap(self: object, seconds: float) -> None:
        naps.append(seconds)

    async def main() -> None:
        async with submission(tmp_path, trust, failure_delay="2s") as it:
            monkeypatch.setattr("gateway.edge.session.SmtpSession.nap", nap)
            wrong = plain("ann", "wrong")
            assert await it.say(wrong, wrong, wrong, wrong) == [b"535", b"535", b"535", b"421"]
            assert naps == [2, 4, 8]

    run("asyncio", main())


def test_tries_side_by_side_are_not_free(tmp_path: Path, trust: Any) -> None:
    """Thirty connections at once: what is counted only when it has failed would let all of them guess."""

    async def main() -> None:
        async with submission(tmp_path, trust, lockout_failures=5) as it:
            clients = [await it.connect() for _ in range(30)]
            for _, writer in clients:
                writer.write(plain("ann", "wrong"))
            codes = [(await next_reply(reader))[:3] for reader, _ in clients]
            assert codes.count(b"535") == 5
            assert codes.count(b"454") == 25
            assert await it.say(SESAME) == [b"454"]
            assert await it.say(plain("ANN", "sesame")) == [b"454"], "another spelling is no other name"
            for _, writer in clients:
                writer.close()

    run("asyncio", main())


def test_who_hangs_up_before_the_answer_is_counted(tmp_path: Path, trust: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    judging, may_end = threading.Semaphore(0), threading.Event()

    def slow(stored: str, password: str) -> bool:
        judging.release()
        return may_end.wait(30) and password == "sesame"

    monkeypatch.setattr(passwords, "matches", slow)

    async def main() -> None:
        async with submission(tmp_path, trust, lockout_failures=2) as it:
            for _ in range(2):
                _, writer = await it.connect()
                writer.write(plain("ann", "wrong"))
                await asyncio.to_thread(judging.acquire, timeout=30)
                reset(writer)
            await until(lambda: len(it.place.events.of(Disconnected)) == 2)
            may_end.set()
            assert await it.say(SESAME) == [b"454"]

    run("asyncio", main())


def test_a_thousand_failures_are_bounded(tmp_path: Path, trust: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand guesses at a thousand names: fifty are judged, the session of each guesser ends after three."""
    judged: list[str] = []
    matches = passwords.matches

    def counted(stored: str, password: str) -> bool:
        judged.append(password)
        return matches(stored, password)

    monkeypatch.setattr(passwords, "matches", counted)

    async def main() -> None:
        async with submission(tmp_path, trust, failure_delay="0s") as it:
            said = 0
            while said < 1000:
                guesses = [plain(f"user{said + at}", "guess") for at in range(10)]
                codes = await it.say(*guesses)
                assert len(codes) == 4
                assert codes[-1] == b"421"
                said += len(codes)
            assert len(judged) == 50
            assert await it.say(SESAME) == [b"454"]
            assert len(it.told()) == 751
            assert {event.result for event in it.told()} == {"failed", "locked"}

    run("uvloop", main())


def test_our_own_trouble_locks_nobody_out(tmp_path: Path, trust: Any) -> None:
    async def main() -> None:
        async with submission(tmp_path, trust, lockout_failures=2) as it:
            (tmp_path / "users").unlink()
            assert await it.say(SESAME, SESAME, SESAME, SESAME) == [b"454"] * 4
            assert {event.result for event in it.told()} == {"unavailable"}
            write(tmp_path / "users", "ann sesame ann@b.example")
            it.users.reload(tmp_path / "users")
            assert await it.say(SESAME) == [b"235"]

    run("asyncio", main())


def test_what_is_taken_from_a_user_is_not_his_in_a_session_that_goes_on(tmp_path: Path, trust: Any) -> None:
    async def main() -> None:
        async with submission(tmp_path, trust, "ann sesame ann@b.example", "bob rosebud bob@b.example") as it:
            reader, writer = await it.connect()
            writer.write(SESAME + b"MAIL FROM:<ann@b.example>\r\nRSET\r\n")
            assert [(await next_reply(reader))[:3] for _ in range(3)] == [b"235", b"250", b"250"]
            write(tmp_path / "users", "bob rosebud bob@b.example")
            it.users.reload(tmp_path / "users")
            assert await it.say(plain("bob", "rosebud")) == [b"235"]
            writer.write(b"MAIL FROM:<ann@b.example>\r\n")
            assert (await next_reply(reader)).startswith(b"553")
            writer.close()

    run("asyncio", main())


def test_a_user_who_was_removed_cannot_go_on_though_nobody_else_logs_in(tmp_path: Path, trust: Any) -> None:
    async def main() -> None:
        async with submission(tmp_path, trust) as it:
            reader, writer = await it.connect()
            writer.write(SESAME + b"MAIL FROM:<ann@b.example>\r\nRSET\r\n")
            assert [(await next_reply(reader))[:3] for _ in range(3)] == [b"235", b"250", b"250"]
            write(tmp_path / "users", "bob rosebud bob@b.example")
            it.users.reload(tmp_path / "users")  # as a second that passes
            writer.write(b"MAIL FROM:<ann@b.example>\r\n")
            assert (await next_reply(reader)).startswith(b"553")
            writer.close()

    run("asyncio", main())


@pytest.mark.parametrize("check_from", [False, True])
def test_a_file_of_users_that_is_gone_after_a_reload_is_no_fault_of_the_sender(
    *, check_from: bool, tmp_path: Path, trust: Any
) -> None:
    async def main() -> None:
        async with submission(tmp_path, trust, check_from=check_from) as it:
            reader, writer = await it.connect()
            said = b"MAIL FROM:<ann@b.example>\r\nRCPT TO:<c@dest.example>\r\nDATA\r\n"
            writer.write(SESAME + (said if check_from else b""))
            for code in (b"235", b"250", b"250", b"354") if check_from else (b"235",):
                assert (await next_reply(reader)).startswith(code)
            it.users.reload(tmp_path / "elsewhere")
            writer.write(b"From: ann@b.example\r\n\r\n.\r\n" if check_from else said[:27])
            assert (await next_reply(reader)).startswith(b"451 4.3.0 ")
            (refused,) = it.place.events.of(Rejected)
            assert refused.verdict.rule == "submission.users"
            writer.close()

    run("asyncio", main())


def test_refusals_are_recorded_with_their_rule(tmp_path: Path, trust: Any) -> None:
    async def main() -> None:
        async with submission(tmp_path, trust) as it:
            mail = b"MAIL FROM:<bob@b.example>\r\n"
            assert await it.say(mail, SESAME, mail) == [b"530", b"235", b"553"]
            rules = [(event.verdict.rule, event.reply.code, event.client.user) for event in it.place.events.of(Rejected)]
            assert rules == [("submission.login", 530, ""), ("submission.sender", 553, "ann")]

    run("asyncio", main())


def test_before_tls_mail_is_refused_for_want_of_starttls(tmp_path: Path, trust: Any) -> None:
    """RFC 3207 §4; who is told to log in first would only hear 538 then."""

    async def main() -> None:
        listener = ListenerOptions(address="127.0.0.1:0", role="submission", tls="starttls")
        async with running(tmp_path, listener=listener, tls=trust[0]) as place:
            reader, writer = await place.connect()
            writer.write(b"EHLO client.example\r\nMAIL FROM:<ann@b.example>\r\n")
            assert (await next_reply(reader)).startswith(b"220 ")
            assert (await next_reply(reader)).startswith(b"250 ")
            assert await next_reply(reader) == reply.STARTTLS_REQUIRED.wire()
            assert [event.verdict.rule for event in place.events.of(Rejected)] == ["submission.tls"]
            writer.close()

    run("asyncio", main())


def test_a_trusted_network_has_to_log_in_too(tmp_path: Path, trust: Any) -> None:
    """RFC 6409 §4.3; what relay.networks may do, they may do at the other listener."""

    async def main() -> None:
        async with submission(tmp_path, trust) as it:
            place = it.place
            place.edge.reload(replace(place.settings, trusted=[ip_network("127.0.0.0/8")]), place.policy)
            assert await it.say(b"MAIL FROM:<ann@b.example>\r\n") == [b"530"]

    run("asyncio", main())


def test_an_exchange_that_stalls_is_ended(tmp_path: Path, trust: Any) -> None:
    async def main() -> None:
        async with submission(tmp_path, trust, limits={"command_timeout": "50ms"}) as it:
            reader, writer = await it.connect()
            writer.write(b"AUTH PLAIN\r\n")
            assert (await reader.readline()) == b"334 \r\n"
            assert (await reader.readline()).startswith(b"421")
            writer.close()

    run("asyncio", main())


def test_received_and_the_added_fields_of_a_message_by_a_user(tmp_path: Path, trust: Any) -> None:
    async def main() -> None:
        async with submission(tmp_path, trust) as it:
            mail = b"MAIL FROM:<ann@b.example>\r\nRCPT TO:<c@dest.example>\r\nDATA\r\n"
            reader, writer = await it.connect()
            writer.write(SESAME + mail + b"Subject: x\r\n\r\nbody\r\n.\r\nQUIT\r\n")
            while not (await reader.readline()).startswith(b"221"):
                pass
            writer.close()
            (stored,) = it.place.intake.stored
            assert b" with ESMTPSA id " in stored.message.trace.replace(b"\r\n\t", b" ")
            lines = stored.message.header.split(b"\r\n")
            assert lines[0].startswith(b"Date: ")
            assert lines[1] == f"Message-ID: <{stored.tx.id}@mx.example.test>".encode()
            assert lines[2:] == [b"Subject: x", b""]

    run("asyncio", main())


def test_a_session_that_ended_for_its_failures_says_so(tmp_path: Path, trust: Any) -> None:
    async def main() -> None:
        async with submission(tmp_path, trust) as it:
            wrong = plain("ann", "wrong")
            await it.say(*[wrong] * 4)
            await until(lambda: it.place.events.of(Disconnected))
            assert it.place.events.of(Disconnected)[0].reason == "auth"

    run("asyncio", main())


def test_an_edge_without_users_offers_no_login(tmp_path: Path, trust: Any) -> None:
    async def main() -> None:
        listener = ListenerOptions(address="127.0.0.1:0", role="submission", tls="implicit")
        async with running(tmp_path, listener=listener, tls=trust[0]) as place:
            it = Submission(place, trust[1], made(tmp_path / "users"))
            assert await it.say(SESAME, b"MAIL FROM:<ann@b.example>\r\n") == [b"502", b"530"]

    run("asyncio", main())
