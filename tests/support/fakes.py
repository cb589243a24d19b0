# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the ports: a policy that obeys, an intake that remembers, a sink that collects."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from gateway.mail.envelope import Transaction
from gateway.mail.events import Event
from gateway.mail.job import QueueId
from gateway.mail.message import FileBody, Message
from gateway.mail.verdict import ACCEPT, Phase, Verdict

E = TypeVar("E", bound=Event)
Decision = Verdict | BaseException | Callable[[Transaction], Verdict]


class Events:
    """An EventSink that keeps everything; `of` gives the events of one class, in their order."""

    def __init__(self) -> None:
        self.all: list[Event] = []

    def emit(self, event: Event) -> None:
        self.all.append(event)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.all if isinstance(event, kind)]

    def __iter__(self) -> Iterator[Event]:
        return iter(self.all)


class FakePolicy:
    """Answers each phase with what `decisions` has for it: a verdict, a function of the transaction, or a fault to raise.

    With `gate` set, a phase in `gated` waits there; `asked` counts questions by phase.
    """

    def __init__(self, decisions: dict[Phase, Decision] | None = None) -> None:
        self.decisions: dict[Phase, Decision] = decisions or {}
        self.asked: list[tuple[Phase, Transaction]] = []
        self.gate: asyncio.Event | None = None
        self.gated: frozenset[Phase] = frozenset()
        self.entered = asyncio.Event()  # someone waits at the gate

    async def decide(self, phase: Phase, tx: Transaction) -> Verdict:
        self.asked.append((phase, tx))
        if self.gate is not None and phase in self.gated:
            self.entered.set()
            await self.gate.wait()
        decision = self.decisions.get(phase, ACCEPT)
        if isinstance(decision, BaseException):
            raise decision
        return decision if isinstance(decision, Verdict) else decision(tx)


@dataclass(frozen=True, slots=True)
class Stored:
    """What an intake was given; `content` are all octets, read at once."""

    tx: Transaction
    verdict: Verdict
    message: Message
    content: bytes
    on_disk: bool


@dataclass(slots=True)
class FakeIntake:
    """An Intake in memory. `fault` is raised instead of storing; with `gate`, accept waits there first."""

    fault: BaseException | None = None
    full: bool = False
    gate: asyncio.Event | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    stored: list[Stored] = field(default_factory=list)

    async def accept(self, tx: Transaction, verdict: Verdict) -> QueueId:
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        message = tx.message
        assert message is not None
        on_disk = isinstance(message.body, FileBody)
        self.stored.append(Stored(tx, verdict, message, message.read(), on_disk))
        if isinstance(message.body, FileBody):  # taken over
            message.body.path.unlink()
        return tx.id

    def pressure(self) -> bool:
        return self.full
