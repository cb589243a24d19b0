# SPDX-License-Identifier: Apache-2.0
"""A queue that is a list: what the deliverer's tests claim from and settle to."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.mail.address import NULL_SENDER, Address, parse_mailbox
from gateway.mail.job import Due, Job, Outcome, QueueId, make_queue_id
from gateway.mail.message import Message

CONTENT = b"From: a@client.example\r\nSubject: test\r\n\r\nHello\r\n"


def job(
    *recipients: str, sender: str = "ann@client.example", number: int = 1, content: bytes = CONTENT, smtputf8: bool = False
) -> Job:
    """A job with these recipients."""
    return Job(
        id=make_queue_id(number, number),
        sender=parse_mailbox(sender.encode()) if sender else NULL_SENDER,
        recipients=tuple(Due(index, _address(text)) for index, text in enumerate(recipients)),
        created=1_700_000_000.0,
        size=len(content),
        eight_bit=not content.isascii(),
        smtputf8=smtputf8,
    )


def _address(text: str) -> Address:
    return parse_mailbox(text.encode()) if "@" in text else Address(text, "")


@dataclass(slots=True, eq=False)
class FakeWork:
    """`put` jobs; `settled` and `released` tell what became of them. Nothing is ever due twice."""

    messages: dict[QueueId, Message] = field(default_factory=dict)
    outcomes: dict[tuple[QueueId, int], Outcome] = field(default_factory=dict)
    order: list[tuple[QueueId, int]] = field(default_factory=list)  # as they were settled
    released: list[QueueId] = field(default_factory=list)
    claimed: int = 0
    claim_fault: Exception | None = None
    load_fault: Exception | None = None
    settle_faults: list[Exception] = field(default_factory=list)
    on_settle: Callable[[], None] | None = None
    _waiting: list[Job] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def put(self, *jobs: Job, content: bytes = CONTENT, message: Message | None = None) -> None:
        """Jobs that are due now."""
        async with self._changed:
            for one in jobs:
                self.messages[one.id] = message or Message.parse(content)
                self._waiting.append(one)
            self._changed.notify_all()

    async def claim(self, limit: int) -> Sequence[Job]:
        if self.claim_fault:
            fault, self.claim_fault = self.claim_fault, None
            raise fault
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._waiting))
            taken, self._waiting = self._waiting[:limit], self._waiting[limit:]
            self.claimed += len(taken)
            return taken

    async def load(self, one: Job) -> Message:
        if self.load_fault:
            raise self.load_fault
        return self.messages[one.id]

    async def settle(self, one: Job, outcomes: Sequence[tuple[Due, Outcome]]) -> None:
        if self.settle_faults:
            raise self.settle_faults.pop(0)
        async with self._changed:
            for due, outcome in outcomes:
                assert (one.id, due.index) not in self.outcomes, "settled twice"
                self.outcomes[one.id, due.index] = outcome
                self.order.append((one.id, due.index))
            self._changed.notify_all()

    async def release(self, one: Job) -> None:
        async with self._changed:
            self.released.append(one.id)
            self._changed.notify_all()

    async def until(self, condition: Callable[[], bool], timeout: float = 20.0) -> None:
        """Wait until that is so; it is asked after each settlement and release."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(condition)

    async def wait(self, outcomes: int) -> None:
        """Until that many recipients are settled."""
        await self.until(lambda: len(self.outcomes) >= outcomes)
