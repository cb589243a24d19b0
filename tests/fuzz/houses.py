# SPDX-License-Identifier: Apache-2.0
"""Sessions that are spoilt by chance, against each kind of listener, one for each seed; and what must be so afterwards.

    .venv/bin/python -m tests.fuzz.houses SEED        holds one again and prints what was said

Half of the clients close their side when they have said all, as one does; the others also vanish or never listen.
"""

import asyncio
import contextlib
import random
import re
import ssl
import sys
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway.edge.incoming import Incoming
from gateway.edge.options import LimitsOptions, ListenerOptions, SubmissionOptions
from gateway.infra.tls import server_context
from gateway.mail import reply
from gateway.mail.envelope import BodyType, Transaction
from gateway.mail.events import Connected, Disconnected
from gateway.mail.reply import MailError
from gateway.mail.verdict import ACCEPT, Action, Phase, Verdict
from tests.fuzz import mutants
from tests.support import certificates, memwire
from tests.support.clock import FakeClock
from tests.support.edges import until
from tests.support.fakes import FakePolicy, Stored
from tests.support.memhouse import House, users
from tests.support.memwire import Peer

_ID = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{16}\b")
_STARTTLS = str(reply.START_TLS)
_INTERNAL = str(reply.INTERNAL)
_HOURS = {"command_timeout": "9h", "data_timeout": "9h", "transaction_timeout": "9h", "proxy_timeout": "9h"}
STORE_FROM = 300  # octets: content goes to a file far earlier than in truth, so that it is tried
STEPS = 3000  # of the loop, for all that a client has said


@dataclass(frozen=True, slots=True)
class Kind:
    """A listener, and which dialogues are held with it more often than others."""

    listener: dict[str, Any]
    limits: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    liked: tuple[str, ...] = ()


_BALANCED = {"proxy_protocol": ["127.0.0.0/8"]}
_SUBMISSION = {"role": "submission"}
KINDS = {
    "mx": Kind({"tls": "starttls"}, {"message_size": 20000, "line_length": 2000}),
    "binary": Kind({}, more={"binary": True}, liked=("bdat", "binarymime", "smuggled", "data")),
    "narrow": Kind(
        {},
        {"message_size": 400, "line_length": 90, "header_fields": 3, "recipients": 2, "errors": 4, "unknown_commands": 2}
        | {"commands": 15, "messages_per_connection": 2},
    ),
    "starttls": Kind(_SUBMISSION | {"tls": "starttls"}, liked=("auth", "submission", "requiretls", "starttls")),
    "implicit": Kind(_SUBMISSION | {"tls": "implicit"}, liked=("auth", "submission")),
    "balanced": Kind(_BALANCED, liked=("xclient", "not-smtp")),
    "balanced-tls": Kind(_BALANCED | {"tls": "implicit"}),
    "xclient": Kind({"xclient": ["127.0.0.0/8"], "tls": "starttls"}, liked=("xclient",)),
}

SECURED = ("starttls", "implicit", "balanced-tls")  # where a session begins with TLS


@dataclass(frozen=True, slots=True)
class Trust:
    """Certificates for both sides of TLS."""

    server: ssl.SSLContext
    client: ssl.SSLContext

    @classmethod
    def made(cls, folder: Path) -> "Trust":
        pair = certificates.make(folder, "mx.example.test")
        return cls(server_context(pair.certificate, pair.key), ssl.create_default_context(cafile=str(pair.authority)))


def _judge(tx: Transaction) -> Verdict:
    """Some recipients are not wanted, some not now."""
    address = str(tx.candidate.address) if tx.candidate else ""
    if address.startswith("no-"):
        return Verdict(Action.REJECT, reply.NO_SUCH_USER, rule="test.says")
    return Verdict(Action.DEFER, reply.SPF_TEMPERROR, rule="test.says") if address.startswith("later") else ACCEPT


@dataclass(slots=True)
class Outcome:
    """What came of a session, without what chance and time put in: to be the same however it was cut."""

    replies: list[str] | None  # None where it depends on time
    stored: list[tuple[str, ...]]
    said: bytes


class Street:
    """A house of each kind on one loop. `folder` is for spools and users."""

    def __init__(self, loop: asyncio.AbstractEventLoop, folder: Path, trust: Trust) -> None:
        self.trust = trust
        self.sessions: weakref.WeakSet[Any] = weakref.WeakSet()
        self.unhandled: list[dict[str, Any]] = []
        self._loop, self._folder = loop, folder
        self._houses: dict[str, House] = {}
        loop.set_exception_handler(lambda _, context: self.unhandled.append(context))

    def house(self, name: str) -> House:
        if name not in self._houses:
            kind = KINDS[name]
            spool = self._folder / name
            spool.mkdir(exist_ok=True)
            self._houses[name] = House(
                self._loop,
                spool,
                limits=LimitsOptions.model_validate(_HOURS | {"handshake_timeout": "9h"} | kind.limits),
                listener=ListenerOptions.model_validate({"address": "127.0.0.1:0"} | kind.listener),
                policy=FakePolicy({Phase.RCPT: _judge}),
                clock=FakeClock(),  # what is stored has the same dates then
                tls_context=self.trust.server,
                users=users(spool / "users", "ann sesame ann@b.example @ann.example"),
                submission=SubmissionOptions.model_validate({"failure_delay": "0s", "lockout_failures": 0}),
                **kind.more,
            )
        return self._houses[name]

    async def hold_by_socket(self, seed: int) -> tuple[list[str], list[str]] | None:
        """The replies in memory and those over TCP; None for a seed that wants TLS, or to vanish."""
        outcome, session = await self.hold(seed), _Session(self, seed)
        if outcome.replies is None or session.name in SECURED:
            return None
        heard = await session.by_socket()
        return outcome.replies, heard[: len(outcome.replies)] if _STARTTLS in heard else heard

    async def hold(self, seed: int) -> Outcome:
        """One session and all that must be so at its end. Raises AssertionError naming the seed."""
        try:
            return await _Session(self, seed).hold()
        except AssertionError as err:
            raise AssertionError(f"seed {seed} (python -m tests.fuzz.houses {seed}): {err}") from err


class _Session:
    def __init__(self, street: Street, seed: int) -> None:
        self.chance = random.Random(seed)
        self.cuts = random.Random(f"{seed} {type(street._loop).__name__}")  # another way on each kind of loop
        self.street = street
        self.name = self.chance.choice(tuple(KINDS))
        self.house = street.house(self.name)
        self.header = self._header() if "proxy_protocol" in KINDS[self.name].listener else b""
        self.said = mutants.made(self.chance, *KINDS[self.name].liked)
        self.bad_hands = self.chance.random() < 0.1  # it speaks no TLS where it should
        self.ending = self.chance.choice(("close",) * 8 + ("vanish", "deaf"))
        fault = self.chance.random()
        self.house.intake.full = fault < 0.02
        self.house.intake.fault = MailError(reply.QUEUE_WRITE, "full") if fault > 0.97 else None

    async def by_socket(self) -> list[str]:
        """Say it all to a real socket; the replies."""
        server, port = await self.house.serve()
        async with server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            heard = b""
            with contextlib.suppress(ConnectionError):  # who is hung up on while he talks is reset
                for piece in memwire.cut(self.header + self.said, mutants.sizes(self.cuts, len(self.said))):
                    writer.write(piece)
                    await writer.drain()
                writer.write_eof()
            with contextlib.suppress(ConnectionError):
                while piece := await reader.read(1 << 16):
                    heard += piece
            writer.close()
            await until(lambda: not self.house.busy)
        assert not self.house.troubles(), self.house.troubles()
        self.house.forget()
        return [_ID.sub("ID", text) for text in memwire.replies(heard)]

    async def hold(self) -> Outcome:
        peer = self.house.call()
        for _ in range(2):  # it is accepted, and the session begins
            await asyncio.sleep(0)
        self.street.sessions.add(peer.pipe._session)
        if self.ending == "deaf":
            peer.pipe.listen(False)
        tls = await self._arrive(peer)
        pieces = memwire.cut(self.said, mutants.sizes(self.cuts, len(self.said)))
        peer.say(*pieces)
        await self._end(peer, len(pieces), tls=tls)
        return self._look(peer)

    def _header(self) -> bytes:
        header = bytearray(self.chance.choice(mutants.HEADERS))
        if self.chance.random() < 0.2:
            header[self.chance.randrange(len(header))] ^= 1 << self.chance.randrange(8)
        return bytes(header)

    async def _arrive(self, peer: Peer) -> bool:
        """What stands before the session proper: a balancer's header, a handshake. True if there is TLS then."""
        if self.header:
            peer.say(*memwire.cut(self.header, mutants.sizes(self.cuts, len(self.header))))
        if self.bad_hands or self.ending == "deaf":
            return False
        if self.name in ("implicit", "balanced-tls"):
            return await peer.secure(self.street.trust.client)
        if self.name == "starttls":
            assert await peer.until(peer.hear), "no banner"
            peer.say(b"EHLO x\r\n", b"STARTTLS\r\n")
            assert await peer.until(lambda: peer.hear() == 3), "no leave for a handshake"
            assert await peer.secure(self.street.trust.client), "no handshake"
            return True
        return False

    async def _end(self, peer: Peer, pieces: int, *, tls: bool) -> None:
        if self.ending == "vanish":
            for _ in range(self.chance.randrange(pieces + 20)):
                await asyncio.sleep(0)
            peer.pipe.reset()
        elif self.ending == "deaf":
            await peer.until(lambda: peer.pipe.waiting == 0 or peer.pipe.lost, STEPS)
            peer.pipe.reset()
        else:
            if tls and self.chance.random() < 0.5:
                peer.say_goodbye()
            peer.half_close()
        gone = await peer.until(lambda: peer.pipe.gone and not self.house.busy, STEPS)
        assert gone, f"{self.name}: the session hangs; it has said {bytes(peer.pipe.heard[-200:])!r}"

    def _look(self, peer: Peer) -> Outcome:
        house = self.house
        peer.hear()
        replies = [_ID.sub("ID", text) for text in peer.replies]
        stored = house.intake.stored
        assert not house.troubles(), f"{self.name}: {house.troubles()}"
        assert not any(_INTERNAL in text for text in replies), f"{self.name}: a fault of ours: {replies}"
        assert not house.leftovers(), f"{self.name}: left behind: {house.leftovers()}"
        assert not self.street.unhandled, f"{self.name}: {self.street.unhandled}"
        assert len(house.events.of(Disconnected)) == 1, f"{self.name}: {house.events.of(Disconnected)}"
        assert len(house.events.of(Connected)) <= 1, f"{self.name}: connected twice"
        for message in stored:
            _check(message, house)
        told = sum(": queued as" in text for text in peer.replies)
        assert told <= len(stored) if self.ending != "close" else told == len(stored), f"{told} told, {len(stored)} stored"
        kept = [_facts(message) for message in stored]
        house.forget()
        return Outcome(self._comparable(replies), kept, self.header + self.said)

    def _comparable(self, replies: list[str]) -> list[str] | None:
        """What is pipelined behind STARTTLS is dropped or breaks TLS, and it depends on the cuts which of them."""
        if self.ending != "close" or self.bad_hands:
            return None
        first = 3 if self.name == "starttls" else 0
        upgrade = next((at for at, text in enumerate(replies) if at >= first and text == _STARTTLS), None)
        return replies if upgrade is None else replies[: upgrade + 1]


def _check(message: Stored, house: House) -> None:
    tx = message.tx
    assert tx.recipients, "taken for nobody"
    assert message.content.count(b"\r\nReceived: from") + message.content.startswith(b"Received: from") >= 1, "no trace"
    assert tx.client.role == "mx" or tx.client.user, "a submission by nobody"
    most = house.desk.setup.settings.limits.recipients
    assert not most or len(tx.recipients) <= most, "too many recipients"
    body = b"" if tx.body is BodyType.BINARY else message.content
    rest = (message.message.header + body).replace(b"\r\n", b"")
    assert b"\r" not in rest, "a bare CR was taken"
    assert b"\n" not in rest, "a bare LF was taken"
    for text in (tx.client.helo, tx.envid, *(str(each.address) for each in tx.recipients), str(tx.sender)):
        assert text.isprintable(), f"{text!r} came through"


def _facts(message: Stored) -> tuple[str, ...]:
    tx = message.tx
    return (str(tx.sender), *(repr(each) for each in tx.recipients), _ID.sub("ID", message.content.decode("latin-1")))


def replay(seed: int, write: Callable[[str], object] = print) -> None:
    """Hold one session and tell of it."""
    Incoming.STORE_FROM = STORE_FROM
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner() as runner:
        street = Street(runner.get_loop(), Path(folder), Trust.made(Path(folder)))
        session = _Session(street, seed)
        write(f"{session.name}, {session.ending}\n{session.header + session.said!r}")
        outcome = runner.run(street.hold(seed))
        write("\n".join(outcome.replies or []))


if __name__ == "__main__":
    replay(int(sys.argv[1]))
