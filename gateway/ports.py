# SPDX-License-Identifier: Apache-2.0
"""Every protocol between stages: the architecture on one page.

    edge --Policy--> filters          edge --Intake--> queue          delivery --Work--> queue
    delivery --Transport--> the world    queue --Bouncer--> delivery     ops, cli --QueueAdmin--> queue
    everyone --EventSink--> log, metrics, trace      everyone --Resolver, Clock--> infra

Promises: no stage knows more of another one than stands here. Implementations are chosen in `app.py` only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Generic, Protocol, TypeVar

from gateway.mail.envelope import Envelope, Transaction
from gateway.mail.events import Event
from gateway.mail.job import Delivered, Due, Failed, Job, NextHop, Outcome, QueueId
from gateway.mail.listing import MessageView, Selector
from gateway.mail.message import Message
from gateway.mail.verdict import ACCEPT, Phase, Verdict

T = TypeVar("T", covariant=True)


# --- floors


class Clock(Protocol):
    """Time, so that tests can own it."""

    def now(self) -> float:
        """Unix time in seconds: ages, schedules, stamps. It may jump."""

    def monotonic(self) -> float:
        """Seconds that never go back: durations and deadlines."""

    async def sleep(self, seconds: float) -> None: ...


class EventSink(Protocol):
    """Where events go. `emit` is quick, never blocks and never raises."""

    def emit(self, event: Event) -> None: ...


class LookupFailed(Exception):
    """A DNS question got no answer: timeout, SERVFAIL, broken server. Never "no such name"."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """`records` is empty for "no such name" and "no such data"; `nxdomain` tells them apart."""

    records: tuple[T, ...] = ()
    authentic: bool = False  # the AD bit of a trusted validating resolver
    ttl: int = 0
    nxdomain: bool = False


@dataclass(frozen=True, slots=True, order=True)
class MX:
    """One MX record; `host` is in lower case without a final dot, and empty for the null MX."""

    preference: int
    host: str


class Resolver(Protocol):
    """DNS. Each method raises LookupFailed if there is no answer. Names are A-labels without a final dot."""

    async def mx(self, domain: str) -> Answer[MX]: ...

    async def txt(self, name: str) -> Answer[bytes]:
        """TXT records, the strings of each joined."""

    async def a(self, name: str) -> Answer[IPv4Address]: ...

    async def aaaa(self, name: str) -> Answer[IPv6Address]: ...

    async def ptr(self, ip: IPv4Address | IPv6Address) -> Answer[str]: ...


# --- edge to filters and queue


class Filter(Protocol):
    """One judge. `check` may raise or hang: the chain bounds it and applies `on_error`."""

    name: str
    phases: frozenset[Phase]

    async def check(self, phase: Phase, tx: Transaction) -> Verdict: ...


class Policy(Protocol):
    """All that the edge sees of filters: the one verdict for a phase. Never raises; findings are added to `tx`."""

    async def decide(self, phase: Phase, tx: Transaction) -> Verdict: ...


class Intake(Protocol):
    """The promise: `accept` returns only when the message is durable, and raises MailError 4yz otherwise.

    `tx.message` holds all trace fields by then. A file that its body lives in is taken over on success only.
    """

    async def accept(self, tx: Transaction, verdict: Verdict) -> QueueId: ...

    def pressure(self) -> bool:
        """True while no new mail can be taken (disk nearly full): the edge answers MAIL with 452 4.3.1."""


# --- queue to delivery and back


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A message that enters the queue from inside: a bounce."""

    id: QueueId
    envelope: Envelope
    message: Message
    verdict: Verdict = ACCEPT


class Work(Protocol):
    """What delivery needs of the queue. A claimed job belongs to the caller until `settle` or `release`."""

    async def claim(self, limit: int) -> Sequence[Job]:
        """Up to `limit` jobs whose recipients are due, oldest due first. Waits until there is at least one."""

    async def load(self, job: Job) -> Message:
        """The octets to send. Raises MailError 4yz if they cannot be read."""

    async def settle(self, job: Job, outcomes: Sequence[tuple[Due, Outcome]]) -> None:
        """Record what became of these recipients, durably, before it returns; bounces enter in the same commit.

        May be called several times for one job; the job is done when each of its recipients is settled.
        """

    async def release(self, job: Job) -> None:
        """Give back what is not settled, unchanged and due at once (the daemon stops)."""


class Bouncer(Protocol):
    """Writes the notice about recipients whose sender is to be told: those that failed, and deliveries he asked about."""

    def compose(
        self, job: Job, message: Message, told: Sequence[tuple[Due, Failed | Delivered]], now: float
    ) -> Submission | None:
        """The notice, or None if nobody may be told (null sender, automatic mail)."""


class Transport(Protocol):
    """One way to hand over a message. Returns one outcome a recipient, in the order of `job.recipients`; never raises."""

    async def deliver(self, job: Job, message: Message, hop: NextHop) -> Sequence[Outcome]: ...


# --- people


class QueueAdmin(Protocol):
    """The operator's view of one shard."""

    async def find(self, selector: Selector, limit: int) -> Sequence[MessageView]: ...

    async def content(self, queue_id: QueueId) -> bytes | None:
        """The octets of a queued message; None if it is not here."""

    async def operate(self, command: str, selector: Selector, *, dry_run: bool) -> Sequence[QueueId]:
        """`command` is "hold", "release", "retry", "bounce" or "delete". The ids it applies (would apply) to."""

    async def counts(self) -> Mapping[str, int]:
        """Recipients by state, for metrics: "queued", "deferred", "held"."""


class TraceStore(Protocol):
    """What is remembered about each message for `gateway explain`."""

    async def find(self, queue_id: QueueId) -> Mapping[str, Any] | None: ...


@dataclass(slots=True)
class Fanout:
    """An EventSink that passes each event on to several."""

    sinks: list[EventSink] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        for sink in self.sinks:
            sink.emit(event)
