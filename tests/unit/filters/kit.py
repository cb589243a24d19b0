# SPDX-License-Identifier: Apache-2.0
"""Building blocks for tests of filters: transactions, a sink of events, and filters that do what they are told."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

from gateway.filters.base import OnError
from gateway.filters.chain import BoundFilter, Chain
from gateway.filters.options import FiltersOptions
from gateway.mail import reply
from gateway.mail.address import NULL_SENDER, Address, parse_mailbox
from gateway.mail.envelope import Client, Recipient, Transaction
from gateway.mail.events import Event, Trouble
from gateway.mail.job import QueueId
from gateway.mail.message import Message
from gateway.mail.reply import Reply
from gateway.mail.verdict import ACCEPT, Action, Finding, Phase, Symbol, Verdict
from tests.support.clock import FakeClock

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 +0000, as FakeClock
HEADER = (
    b"From: Ann <ann@a.example>\r\nTo: bob@dest.example\r\nSubject: Lunch\r\n"
    b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nMessage-ID: <1@a.example>\r\n"
)
CONTENT = HEADER + b"\r\nHello\r\n"


def client(*, trusted: bool = False, ip: str = "192.0.2.1", helo: str = "mx.a.example") -> Client:
    return Client(
        session="s1", ip=ip_address(ip), port=1, listener="t", role="mx", connected=NOW, helo=helo, esmtp=True, trusted=trusted
    )


def transaction(
    content: bytes | None = CONTENT,
    *,
    sender: str = "ann@a.example",
    recipients: tuple[str, ...] = ("bob@dest.example",),
    trusted: bool = False,
    ip: str = "192.0.2.1",
    helo: str = "mx.a.example",
) -> Transaction:
    return Transaction(
        client=client(trusted=trusted, ip=ip, helo=helo),
        id=QueueId("0123456789ABCDEF"),
        started=NOW,
        sender=parse_mailbox(sender.encode()) if sender else NULL_SENDER,
        recipients=[Recipient(parse_mailbox(text.encode())) for text in recipients],
        message=Message.parse(content) if content is not None else None,
    )


def asking(tx: Transaction, address: Address | str) -> Transaction:
    """The transaction as it is at RCPT for one more recipient."""
    tx.candidate = Recipient(parse_mailbox(address.encode()) if isinstance(address, str) else address)
    return tx


@dataclass
class Events:
    """An EventSink that keeps everything."""

    all: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.all.append(event)

    @property
    def troubles(self) -> list[Trouble]:
        return [event for event in self.all if isinstance(event, Trouble)]


class Puppet:
    """A filter whose verdict is given, or a coroutine function, or an exception; it counts its runs."""

    def __init__(
        self,
        verdict: Verdict | Exception | Callable[[Phase, Transaction], Awaitable[Verdict]] = ACCEPT,
        *,
        name: str = "puppet",
        phases: tuple[Phase, ...] = (Phase.DATA,),
    ) -> None:
        self.name = name
        self.phases = frozenset(phases)
        self.does = verdict
        self.runs = 0

    async def check(self, phase: Phase, tx: Transaction) -> Verdict:
        self.runs += 1
        if isinstance(self.does, Exception):
            raise self.does
        return self.does if isinstance(self.does, Verdict) else await self.does(phase, tx)


@dataclass
class Bench:
    """A chain of puppets with its clock and events at hand."""

    chain: Chain
    clock: FakeClock
    events: Events
    observed: list[Finding]

    async def decide(self, tx: Transaction | None = None, phase: Phase = Phase.DATA) -> Verdict:
        return await self.chain.decide(phase, tx if tx is not None else transaction())


def bench(*puppets: Puppet | BoundFilter, **options: object) -> Bench:
    clock, events, observed = FakeClock(), Events(), list[Finding]()
    bound = [puppet if isinstance(puppet, BoundFilter) else enforced(puppet) for puppet in puppets]
    chain = Chain(bound, FiltersOptions.model_validate(options), clock, events, observer=observed.append)
    return Bench(chain, clock, events, observed)


def enforced(puppet: Puppet, *, timeout: float = 30.0, on_error: OnError = "defer", always: bool = False) -> BoundFilter:
    return BoundFilter(puppet, "enforce", timeout, on_error, always)


def shadowed(puppet: Puppet, *, timeout: float = 30.0, on_error: OnError = "defer") -> BoundFilter:
    return BoundFilter(puppet, "shadow", timeout, on_error)


def says(action: Action, *symbols: Symbol, rule: str = "test.rule", why: Reply | None = None) -> Verdict:
    """A verdict with a reply that fits its action."""
    fitting = {Action.REJECT: reply.POLICY, Action.DEFER: reply.INTERNAL}
    return Verdict(action, why or fitting.get(action), symbols, rule)


async def hang(phase: Phase, tx: Transaction) -> Verdict:
    await asyncio.Event().wait()
    raise AssertionError("nobody wakes this")
